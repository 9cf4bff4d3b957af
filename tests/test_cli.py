"""Laws of right words: the transcripts of the 2021 README against a board, and what came since."""

import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from fcntl import ioctl
from typing import Any

import pytest

from espnet.cli import main
from espnet.cli.render import Lines, show
from espnet.simulator import Board, Fleet
from espnet.simulator.intake import Intake
from espnet.store import Store

pytestmark = pytest.mark.usefixtures("settings")

KEY = "a-key-of-no-value"
Say = Callable[..., str]


@pytest.fixture(scope="module")
def boards() -> Iterator[Fleet]:
    with Fleet(2, seed=21, compiled=True) as fleet:
        yield fleet


@pytest.fixture
def board(boards: Fleet) -> Board:
    """A board as it comes out of the box, with a DHT22 on pin 4."""
    for board in boards:
        board.clear()
        board.unclaim()
    boards[0].set(dht={4: (21.5, 40)})
    return boards[0]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command that must succeed, or end with ``code``; returns what it printed."""

    def run(line: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(line.split()) == code, capsys.readouterr().err
        captured = capsys.readouterr()
        if code:
            assert not captured.out
            return captured.err
        return captured.out

    return run


@pytest.fixture
def porch(board: Board, say: Say) -> Board:
    say(f"register {board.address} porch")
    return board


def keys(text: str) -> list[str]:
    return [line.partition(":")[0] for line in text.splitlines()]


def test_the_2021_transcript_works_as_printed(
    board: Board, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """register, devices, device, requests, get_f, update, init_consumers, upload, xinfo."""
    assert say(f"register {board.address} porch") == (
        f"Registered porch: board {board.id} at {board.address}. It is claimed: control takes its "
        "password, which `espcli device porch credentials show` shows.\n"
    )
    head, row = say("devices").splitlines()
    assert head.split()[:2] == ["name", "state"]
    assert row.split()[:2] == ["porch", "online"]
    assert {"id", "gpio", "f", "address", "last_seen"} <= set(keys(say("device porch")))
    answer = dict(
        line.split(": ", 1) for line in say("device porch requests get_basic").splitlines()
    )
    assert answer["id"] == board.id
    assert json.loads(answer["gpio"])["2"] == 0
    assert float(answer["f"]) == float(say("device porch get_f"))
    board.set(board_c=31.0)
    before = say("device porch get_f")
    after = say("device porch update - get_f")
    assert before != after == say("device porch get_f")

    with Intake(KEY) as intake:
        monkeypatch.setenv("DATADOG_API_KEY", KEY)
        monkeypatch.setenv("DATADOG_HOST", intake.url)
        assert say("init_consumers") == "The sink datadog reads the samples now.\n"
        uploaded = "datadog: 3 samples were accepted, 0 are queued.\n"
        assert say("upload_queued_metrics") == uploaded
        assert intake.accepted == 3
    assert say("process_backlog") == uploaded.replace("3", "0")
    assert say("xpending") == ""
    info = json.loads(say("xinfo --json"))
    assert (info["length"], info["groups"][0]["name"]) == (0, "datadog")
    assert info["sinks"]["datadog"] == {
        "collected": 3, "accepted": 3, "expired": 0, "dead": 0, "dropped": 0, "queued": 0,
        "repeated": 0,
    }  # fmt: skip
    assert keys(say("xinfo")) == ["length", "first", "last", "queue", "sink datadog"]


def test_update_may_be_followed_by_any_word_with_or_without_the_hyphen(
    porch: Board, say: Say
) -> None:
    """The poll comes first, once; then the other word sees what it found."""
    say("device porch add_dht22 air 4")
    porch.forget_requests()
    assert say("device porch update get_dht22 air") == "temp: 21.5\nhumidity: 40\n"
    assert keys(say("device porch update"))[0] == "name"
    assert "air" in say("device porch update - list_dht22")
    assert "id:" in say("device porch update - requests get_basic")
    answered = [request.path for request in porch.requests if request.status != 401]
    # Before a person's call the board proves itself, by refusing an empty order.
    wanted = ["/", "/dht22"] * 4 + ["/gpio", "/"]
    assert [path.partition("?")[0] for path in answered] == wanted


def test_a_dht22_is_added_listed_read_and_removed(porch: Board, say: Say) -> None:
    """Its reading comes with the next poll; until then that is what is said."""
    assert "has no DHT22 named 'air'" in say("device porch get_dht22 air", 2)
    say("device porch add_dht22 air 4")
    assert "not read yet" in say("device porch list_dht22")
    assert "was not read yet" in say("device porch get_dht22 air", 1)
    say("device porch add_dht22 dead 5")
    say("device porch update")
    assert json.loads(say("device porch get_dht22 air --json")) == {"temp": 21.5, "humidity": 40.0}
    assert "The DHT22 dead of porch has no reading" in say("device porch get_dht22 dead", 1)
    rows = json.loads(say("device porch list_dht22 --json"))
    assert [row["sensor"] for row in rows] == ["air", "dead"]
    assert "first, or choose another name" in say("device porch add_dht22 air 13", 2)
    assert "has the DHT22 'air' already" in say("device porch add_dht22 other 4", 2)
    say("device porch remove_dht22 air")
    say("device porch remove_dht22 dead")
    assert say("device porch list_dht22") == ""


def test_requests_call_the_board_at_once(porch: Board, say: Say) -> None:
    """Each of the board's own calls, with its answer as it is."""
    porch.set(adc={36: 2048})
    assert '"2": 1' in say("device porch requests set_gpio 2,5 1")
    assert (porch.pin(2).level, porch.pin(5).level) == (1, 1)
    assert '"2": 0' in say("device porch requests flip_gpio 2,5")
    assert json.loads(say("device porch requests get_adc 36 13 3 --json"))["id"] == porch.id
    assert "temp: 21.5" in say("device porch requests get_dht22 4")
    say("device porch requests set_host 10.0.0.9")
    assert "espnet_host: 10.0.0.9" in say("device porch requests get_basic")
    assert "refused" in say("device porch requests set_gpio 34 1", 1)


def test_requests_pass_the_lock_and_update_waits_for_it(
    porch: Board, say: Say, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`lock` says who holds it."""
    assert say("device porch lock") == "locked: False\n"
    store = Store(redis_url)
    with store.hold(store.device("porch"), "somebody", ttl_s=60, wait_s=0):
        lock = json.loads(say("device porch lock --json"))
        assert (lock["locked"], lock["holder"]) == (True, "somebody")
        assert 50 < lock["left_s"] <= 60
        assert porch.id in say("device porch requests get_basic")
    store.close()


def test_settings_are_shown_by_the_device(porch: Board, say: Say) -> None:
    """interval, tags and report_pins, there and back."""
    say("device porch interval 2.5")
    say("device porch tags room:attic,floor:2,room:attic")
    say("device porch report_pins 4,2,4")
    device = json.loads(say("device porch --json"))
    assert device["interval_s"] == 2.5
    assert device["tags"] == ["room:attic", "floor:2"]
    assert device["report_pins"] == [2, 4]
    say("device porch interval default")
    say("device porch tags none")
    say("device porch report_pins none")
    device = json.loads(say("device porch --json"))
    assert (device["interval_s"], device["tags"], device["report_pins"]) == (10, [], [])


def test_a_device_is_renamed_asked_for_and_unregistered(porch: Board, say: Say) -> None:
    """Afterwards nothing is left of it."""
    assert say("is_online porch") == "True\n"
    say("rename porch True")
    assert json.loads(say("ids --json")) == [{"name": "True", "id": porch.id}]
    assert json.loads(say("is_online True --json")) is True
    say("unregister True")
    assert json.loads(say("devices --json")) == []


def test_registrations_that_contradict_each_other_say_what_to_do(
    boards: Fleet, porch: Board, say: Say
) -> None:
    """A second name for a board, a taken name, and --replace."""
    assert "already registered as 'porch'" in say(f"register {porch.address} attic", 1)
    assert "belongs to another board" in say(f"register {boards[1].address} porch", 1)
    say(f"register {boards[1].address} porch --replace")
    assert json.loads(say("ids --json")) == [{"name": "porch", "id": boards[1].id}]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("refuse", "refused the connection"),
        ("hang", "did not answer within 1 s"),
        ("http_500", "HTTP 500"),
        ("not_json", "did not answer JSON"),
        ("truncated", ""),
        ("missing_keys", "answered without sense"),
    ],
)
def test_a_board_that_fails_registers_nothing(
    fault: str, said: str, board: Board, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence with the board's address and what it did; the registry stays as it was."""
    # Long where a busy machine must not meet it.
    monkeypatch.setenv("ESPNET_TIMEOUT", "1" if fault == "hang" else "10")
    board.fault(fault)
    sentence = say(f"register {board.address} porch", 1)
    assert sentence.startswith(f"espcli: The board at {board.address} ")
    assert said in sentence
    assert sentence.count("\n") == 1
    assert json.loads(say("devices --json")) == []


def test_a_failed_update_is_an_error_that_the_device_shows(
    porch: Board, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word after it is not reached; the failure is stored."""
    porch.fault("http_500")
    assert "HTTP 500" in say("device porch update - get_f", 1)
    device = json.loads(say("device porch --json"))
    assert device["state"] == "late"
    assert device["problem"].endswith("HTTP 500")


def test_an_old_reading_is_not_shown_as_the_present(porch: Board, say: Say) -> None:
    """Three intervals after the last poll, the device's words say so and what to do."""
    say("device porch interval 0.1")
    say("device porch update")
    while say("is_online porch") == "True\n":  # 0.3 s; the reading's own time decides
        pass
    for words in ("get_f", "get_gpio"):
        assert "`espcli device porch update` asks it now" in say(f"device porch {words}", 1)
    assert json.loads(say("device porch --json"))["f"] is not None


def test_every_answer_is_one_json_document(porch: Board, say: Say) -> None:
    """`--json` stands anywhere, and stdout holds nothing else."""
    for line in (
        "devices", "ids", "is_online porch", "device porch", "device porch get_f", "redis",
        "device porch get_gpio", "device porch lock", "device porch list_dht22", "xinfo",
        "device porch interval 5", "device porch tags a:b", "device porch report_pins 2",
        "device porch add_dht22 air 4", "device porch remove_dht22 air", "xpending", "sinks",
        "dead_letters", "dead_letters drop", "dead_letters retry",
        "device porch requests get_basic", "rename porch porch", "device porch update",
    ):  # fmt: skip
        assert json.loads(say(f"{line} --json")) is not None
    for line in ("--json device porch get_f", "device --json porch get_f"):
        assert json.loads(say(line)) == json.loads(say("device porch get_f"))


def test_what_holds_no_data_says_what_to_do_next(
    board: Board, say: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, so that a pipe or a program gets nothing, or an empty list."""
    for line, hint in (
        ("devices", "`espcli register ADDRESS NAME`"),
        ("ids", "`espcli register ADDRESS NAME`"),
        ("xinfo", "`espcli run`"),
    ):
        assert main(line.split()) == 0
        captured = capsys.readouterr()
        assert hint in captured.err
        assert line == "xinfo" or captured.out == ""
    say(f"register {board.address} porch")
    capsys.readouterr()
    assert main(["device", "porch", "list_dht22"]) == 0
    assert "add_dht22 SENSOR PIN" in capsys.readouterr().err
    assert main(["devices"]) == 0
    assert "No collector is running" in capsys.readouterr().err
    assert "DATADOG_API_KEY" in say("upload_queued_metrics", 1)


def test_a_refused_upload_is_one_sentence_and_keeps_the_samples(
    porch: Board, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No log line beside it."""
    say("device porch update")
    with Intake(KEY) as intake:
        monkeypatch.setenv("DATADOG_API_KEY", "wrong-key")
        monkeypatch.setenv("DATADOG_HOST", intake.url)
        said = say("upload_queued_metrics", 1)
        assert said.startswith("espcli: datadog: 0 samples were accepted, 3 are kept: Datadog at")
    assert json.loads(say("xinfo --json"))["sinks"]["datadog"]["queued"] == 3


def test_a_board_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """What a board says reaches the terminal without control characters."""
    show(Lines({"id": "\x1b]0;mine\x07", "a\nb": ["\u202e"], "c": {"\x7f": 1}}), as_json=False)
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 3
    assert all(line.isprintable() for line in out.splitlines())


# --- terminals and pipes ------------------------------------------------------------------------


def on_terminal(columns: int, *words: str, code: int = 0, **environ: str) -> str:
    """What a command that ends with ``code`` shows on a terminal of that width."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "espnet.cli", *words],
        stdout=follower,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm-256color", **environ},
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            shown += os.read(leader, 4096)
        except OSError:  # Linux: nobody has the terminal open any more
            break
    os.close(leader)
    assert process.wait() == code
    return shown.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_table_fits_its_terminal(boards: Fleet, porch: Board, say: Say) -> None:
    """A narrow one does without the least important columns; no value is cut in two."""
    say(f"register {boards[1].address} 日本語🏠")
    wide = plain(on_terminal(200, "devices")).splitlines()
    assert wide[0].split()[-2:] == ["id", "problem"]
    assert porch.id in wide[1]
    narrow = plain(on_terminal(64, "devices")).splitlines()
    assert max(map(len, narrow)) <= 64
    assert narrow[0].split() == ["name", "state", "board", "°F", "seen", "address", "problem"]
    assert porch.address in narrow[1]
    # A wide character takes two columns: the second row's state begins two columns per character on.
    assert narrow[2].index("online") == narrow[1].index("online") - 4


def test_colours_are_for_terminals_that_want_them(porch: Board, say: Say) -> None:
    """None in a pipe, none with NO_COLOR."""
    assert "\x1b" not in say("devices")
    coloured = on_terminal(80, "devices", NO_COLOR="1")
    assert not any(f"\x1b[{code}" in coloured for code in (3, 4, 9))


def test_a_pipe_gets_the_table_whole(porch: Board, say: Say) -> None:
    """Every column, no trailing spaces, however narrow the terminal is."""
    head, row = say("devices").splitlines()
    assert head.endswith("problem")
    assert porch.id in row
    assert row == row.rstrip()


def run_with(stdout: Any, *words: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "espnet.cli", *words]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE)


def test_a_reader_that_went_away_is_no_failure(porch: Board) -> None:
    """`espcli devices | head -0` ends quietly."""
    reader, writer = os.pipe()
    os.close(reader)
    done = run_with(writer, "ids")
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_an_answer_that_cannot_be_written_is_a_failure(porch: Board) -> None:
    """A full disk is said once, in one sentence."""
    with open("/dev/full", "wb") as full:
        done = run_with(full, "ids")
    assert done.returncode == 1
    assert done.stderr.startswith(b"espcli: The answer cannot be written")
    assert done.stderr.count(b"\n") == 1
