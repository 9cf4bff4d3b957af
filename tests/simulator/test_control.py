"""The control socket: its verbs, its refusals, and what it survives."""

import base64
import json
import socket
import stat
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from espnet.simulator import Board, Control, Fleet, SimulatorError

from .probing import PROBE, Client


@pytest.fixture
def control(board: Board):
    with Control(board.control) as control:
        yield control


def raw(board: Board, data: bytes) -> list[dict]:
    """Sends bytes, ends the sending side, and returns every answer."""
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(5)
        wire.connect(board.control)
        wire.sendall(data)
        wire.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := wire.recv(65536):
            answer += chunk
    return [json.loads(line) for line in answer.splitlines()]


def test_only_the_owner_can_open_it(board: Board):
    """Mode 0600, in a folder of mode 0700."""
    path = Path(board.control)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(board.control.encode()) < 108


def test_it_sets_and_reads_wires(control: Control, board: Board, client: Client):
    """What one socket sets, the board reads and the other socket gets."""
    control.set(pins={"5": 1}, adc={"36": 99}, dht={"4": {"temp": 20.5, "humidity": 40}})
    assert client.exec("r = [machine.Pin(5).value(), machine.ADC(36).read()]") == [1, 99]
    pins = control.get("pins")
    assert pins["5"] == {
        "level": 1,
        "mode": "unset",
        "pull": None,
        "driver": "outside",
        "outside": 1,
        "adc": 0,
        "adc_noise": 0,
    }
    assert pins["36"]["adc"] == 99
    assert control.get("dht") == {"4": {"temp": 20.5, "humidity": 40.0}}
    control.set(pins={"5": None}, dht={"4": None}, adc={"36": 0})
    assert control.get("dht") == {}


def test_the_request_log_says_what_when_and_how_many_at_once(
    control: Control, board: Board, client: Client
):
    """Overlapping requests are counted, and the time is wall-clock time."""
    before = time.time()
    client.ask("/?x=1")
    with Client(board) as other:
        client.http.request("GET", "/slowly?200")
        deadline = time.monotonic() + 5
        while len(board.requests) < 2:
            assert time.monotonic() < deadline
        other.ask("/exec", "r = 1")
        client.http.getresponse().read()
    entries = control.get("requests")
    assert [(e["method"], e["path"], e["status"], e["overlap"]) for e in entries] == [
        ("GET", "/?x=1", 200, 0),
        ("GET", "/slowly?200", 200, 0),
        ("POST", "/exec", 200, 1),
    ]
    assert entries[1]["answered_s"] >= 0.19
    assert entries[2]["connections"] == 2
    assert before - 0.01 <= entries[0]["time"] <= time.time()
    assert (board.most_connections, board.most_requests) == (2, 2)
    answer = control.ask({"get": "requests", "since": 2})
    assert [e["number"] for e in answer["requests"]] == [2]
    assert answer["next"] == 3


def test_the_log_keeps_the_newest_and_counts_all(board: Board, client: Client):
    """The ring forgets the oldest; numbers never repeat."""
    for _ in range(1100):
        client.ask()
    assert [request.number for request in board.requests] == list(range(76, 1100))
    assert board.describe()["requests"] == 1100


def test_faults_power_and_resets_go_through_it(control: Control, board: Board):
    """The same verbs as the Python API, done when they are answered."""
    control.fault("http_500", count=2, path="/")
    assert control.get("faults") == [{"fault": "http_500", "count": 2, "path": "/"}]
    control.clear()
    assert control.get("faults") == []
    boots = control.get("board")["boots"]
    control.reset("watchdog")
    about = control.get("board")
    assert (about["phase"], about["reset_cause"], about["boots"]) == (
        "ready",
        "watchdog",
        boots + 1,
    )
    control.power(False)
    assert control.get("board")["phase"] == "off"
    control.power(True)
    assert control.get("board")["phase"] == "ready"


def test_flash_console_and_room_can_be_read(control: Control, board: Board, client: Client):
    """Files come as base64, with their sizes in the list."""
    client.exec("print('hello there')\nwith open('data.bin', 'wb') as f: f.write(b'\\x00\\xff')")
    assert control.get("flash")["data.bin"] == 2
    assert base64.b64decode(control.get("file", name="data.bin")) == b"\x00\xff"
    assert base64.b64decode(control.get("file", name="/data.bin")) == b"\x00\xff"
    assert "hello there" in control.get("console")
    assert control.get("room") is None
    control.set(room={"start_c": 21, "speed": 0})
    assert control.get("room")["celsius"] == 21
    control.set(room=None)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b"12",
        b'"get"',
        b"{}",
        b'{"get": "pins", "set": {}}',
        b'{"get": "moon"}',
        b'{"get": ["pins"]}',
        b'{"get": {}}',
        b'{"get": "pins", "since": 3}',
        b'{"get": "requests", "since": "x"}',
        b'{"get": "file"}',
        b'{"get": "file", "name": "../state"}',
        b'{"get": "file", "name": "/etc/passwd"}',
        b'{"get": "file", "name": "a\\u0000b"}',
        b'{"set": 4}',
        b'{"set": {"pins": {"4": []}}}',
        b'{"set": {"pins": {"4": {}}}}',
        b'{"set": {"adc": {"4": null}}}',
        b'{"set": {"room": {"seed": 1e400}}}',
        b'{"set": {"room": {"heater_pin": []}}}',
        b'{"set": {"self": 1}}',
        b'{"set": {}, "x": 1}',
        b'{"fault": "hang", "kind": "slow"}',
        b'{"fault": {}}',
        b'{"fault": null}',
        b'{"fault": "hang", "count": 1.5}',
        b'{"fault": "hang", "count": [1]}',
        b'{"fault": "hang", "path": 7}',
        b'{"fault": "missing_keys", "keys": [[]]}',
        b'{"fault": "sensor", "pin": {}}',
        b'{"clear": 7}',
        b'{"reset": "gently"}',
        b'{"reset": null}',
        b'{"power": true}',
        b"[" * 30000,
        b"\xff\xfe",
        b'{"set": {"board_c": NaN}}',
    ],
)
def test_bad_input_is_answered_with_a_sentence(board: Board, control: Control, line: bytes):
    """Nothing that comes in ends the server or its connection, or changes the board."""
    before = control.get("pins")
    answers = raw(board, line + b"\n" + b'{"get": "faults"}\n')
    assert [answer["ok"] for answer in answers] == [False, True]
    sentence = answers[0]["error"]
    assert sentence.endswith(".")
    assert len(sentence) > 20
    assert answers[1]["faults"] == []
    assert control.get("pins") == before


def test_a_line_without_end_is_refused(board: Board):
    """64 KiB is a line's limit; the connection ends and the next one works."""
    answers = raw(board, b"x" * 200_000)
    assert [answer["ok"] for answer in answers] == [False]
    assert raw(board, b'{"get": "faults"}\n')[0]["ok"]
    assert raw(board, b'{"get": "faults"}')[0]["ok"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.sampled_from(["get", "set", "fault", "clear", "count", "path", "pin", "keys", "name"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["pins", "adc", "dht", "room", "4"]), inner)
            ),
            max_leaves=5,
        ),
        max_size=3,
    )
)
def test_whatever_comes_in_one_line_goes_out(board: Board, request_: dict):
    """Every line of JSON has exactly one answer."""
    answers = raw(board, json.dumps(request_).encode() + b"\n")
    assert len(answers) == 1
    assert answers[0]["ok"] in (True, False)
    board.clear()


def test_a_client_says_what_is_wrong(tmp_path: Path, control: Control):
    """No socket and a refusal are both SimulatorErrors with a sentence."""
    with pytest.raises(SimulatorError, match="is the simulator running"):
        Control(tmp_path / "nothing")
    with pytest.raises(SimulatorError, match="no fault 'melt'"):
        control.fault("melt")


def test_a_simulator_that_ends_hangs_up():
    """Who still holds a control socket then reads its end, and is told so."""
    with Fleet(1, firmware=PROBE) as fleet:
        control = Control(fleet[0].control)
        assert control.get("faults") == []
    with control, pytest.raises(SimulatorError, match="closed the control socket"):
        control.get("faults")
