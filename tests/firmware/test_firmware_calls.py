"""What the board's calls do, and what they refuse."""

import gzip
import json
import random
import socket
import threading
import time

import pytest

from espnet.simulator.fleet import Board

from .firmware_client import FIRMWARE, READABLE, WRITABLE, ask, levels, until


def test_status_has_every_field(board: Board) -> None:
    """GET / is valid JSON with all fields of the contract, each of its type."""
    answer = ask(board, "GET", "/")
    status = answer.json
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert status["id"] == board.id
    assert status["f"] == 113
    assert status["gpio"] == {str(pin): board.pin(pin).level for pin in READABLE}
    assert status["espnet_host"] == ""
    assert len(status["boot"]) == 16
    assert isinstance(status["uptime_s"], int)
    assert status["mem_free"] > 10_000
    assert status["version"]
    assert status["sensors"] == {}
    assert status["leases"] == {}
    assert status["reset_cause"] == "power_on"


def test_reading_leaves_pins_as_they_are(board: Board) -> None:
    """GET / shows levels from outside and reconfigures nothing."""
    before = {pin: board.pin(pin).mode for pin in READABLE}
    board.set(pins={34: 1})
    assert ask(board, "GET", "/").json["gpio"]["34"] == 1
    board.set(pins={34: None})
    assert {pin: board.pin(pin).mode for pin in READABLE} == before


def test_a_query_does_not_change_the_route(board: Board) -> None:
    """What follows a question mark is no part of the path."""
    assert ask(board, "GET", "/?a=b&c").status == 200
    assert ask(board, "GET", "/ui?x").status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"pin=4&value=1",
        b"value=1&pin=4&submit=OK",
        b"pin=%34&value=%31",
        b'{"pin": 4, "value": 1}',
        b'{"pin": "4", "value": "1"}',
        b'{"pin": [4], "value": 1, "unknown": null}',
        b' {"p\\u0069n":4,"value":1} \r\n',
    ],
)
def test_gpio_takes_forms_and_json(board: Board, body: bytes) -> None:
    """A form and a JSON object say the same, with the right Content-Type or with none."""
    kind = "application/x-www-form-urlencoded" if b"=" in body else "application/json; charset=x"
    for headers in ({"Content_Type": kind}, {"content_type": kind.upper()}, {}):
        ask(board, "POST", "/gpio", b"pin=4&value=0")
        answer = ask(board, "POST", "/gpio", body, **headers)
        assert answer.json == {"id": board.id, "status": "OK", "gpio": {"4": 1}}
        assert board.pin(4).level == 1
        assert board.pin(4).mode == "out"


def test_gpio_sets_several_pins(board: Board) -> None:
    """A list of pins gets one value; a pin that is named twice is one pin."""
    assert ask(board, "POST", "/gpio", b"pin=4,5,33,5&value=1").json["gpio"] == {
        "4": 1,
        "5": 1,
        "33": 1,
    }
    assert [pin for pin, level in levels(board).items() if level] == [4, 5, 33]


def test_toggle_flips_each_pin(board: Board) -> None:
    """With 2 each pin goes to the other level, once, even when it is named twice."""
    ask(board, "POST", "/gpio", b"pin=4&value=1")
    assert ask(board, "POST", "/gpio", b"pin=4,5,5&value=2").json["gpio"] == {"4": 0, "5": 1}
    assert ask(board, "POST", "/gpio", {"pin": [4, 5], "value": 2}).json["gpio"] == {
        "4": 1,
        "5": 0,
    }


BAD_GPIO = [
    (b"", 400, "pin"),
    (b"value=1", 400, "pin"),
    (b"pin=&value=1", 400, "pin"),
    (b"pin=4", 400, "value"),
    (b"pin=4&value=", 400, "value"),
    (b"pin=4&value=on", 400, "value"),
    (b"pin=4&value=3", 422, "value"),
    (b"pin=4&value=-1", 422, "value"),
    (b"pin=4&value=1.0", 400, "value"),
    (b"pin=4&value=01", 400, "value"),
    (b"pin=4&value=%2b1", 400, "value"),
    (b"pin=4&value=0x1", 400, "value"),
    (b"pin=4&value=99999999999999999999", 400, "value"),
    (b"pin=4,&value=1", 400, "pin"),
    (b"pin=4,+5&value=1", 400, "pin"),
    (b"pin=4+5&value=1", 400, "pin"),
    (b"pin=4_0&value=1", 400, "pin"),
    (b"pin=4&pin=5&value=1", 400, "pin"),
    (b"pin=4%&value=1", 400, None),
    (b"pin=4%ff&value=1", 400, None),
    (b"pin=4&value=1&" + b"a" * 40 + b"=1", 400, None),
    (b"pin=4&value=1&a=" + b"1" * 300, 400, None),
    (b"&".join(b"a%d=1" % n for n in range(20)), 400, None),
    (b"pin=4,20&value=1", 422, "pin"),
    (b"pin=4,40&value=1", 422, "pin"),
    (b"pin=4,-1&value=1", 422, "pin"),
    (b"pin=4,34&value=1", 403, "pin"),
    (b"pin=4,39&value=1", 403, "pin"),
    (b"pin=4,6&value=1", 403, "pin"),
    (b"pin=4,11&value=1", 403, "pin"),
    (b"pin=4,1&value=1", 403, "pin"),
    (b"pin=4,3&value=1", 403, "pin"),
    (b'{"pin": 4, "value": true}', 400, "value"),
    (b'{"pin": 4, "value": 1.0}', 400, "value"),
    (b'{"pin": 4, "value": 1e0}', 400, "value"),
    (b'{"pin": 4, "value": null}', 400, "value"),
    (b'{"pin": 4, "value": [1]}', 400, "value"),
    (b'{"pin": true, "value": 1}', 400, "pin"),
    (b'{"pin": 4.0, "value": 1}', 400, "pin"),
    (b'{"pin": [], "value": 1}', 400, "pin"),
    (b'{"pin": [4, "5,6"], "value": 1}', 400, "pin"),
    (b'{"pin": [4, [5]], "value": 1}', 400, None),
    (b'{"pin": {"a": 4}, "value": 1}', 400, None),
    (b'{"pin": 4, "value": 1', 400, None),
    (b'{"pin": 4, "value": 1}}', 400, None),
    (b'{"pin": 4, "value": 1,}', 400, None),
    (b'{"pin": 4 "value": 1}', 400, None),
    (b'{"pin" 4, "value": 1}', 400, None),
    (b'{"pin": 04, "value": 1}', 400, None),
    (b'{"pin": 4, "value": 1, "pin": 5}', 400, "pin"),
    (b'{"pin": 4, "value": 1, "a": "\\x"}', 400, None),
    (b'{"pin": 4, "value": 1, "a": "\n"}', 400, None),
    (b'{"pin": 4, "value": 1, "a": NaN}', 400, None),
    (b"{'pin': 4, 'value': 1}", 400, None),
    (b'[{"pin": 4, "value": 1}]', 400, None),
    (b'"pin=4&value=1"', 400, None),
]


@pytest.mark.parametrize(
    ("body", "status", "field"), BAD_GPIO, ids=[b[:40] for b, _, _ in BAD_GPIO]
)
def test_a_refused_write_changes_nothing(
    board: Board, body: bytes, status: int, field: str | None
) -> None:
    """What is not exactly right is refused with a sentence and the field, and no pin moves."""
    kind = (
        "application/json" if body[:1] in b'{["' and body else "application/x-www-form-urlencoded"
    )
    answer = ask(board, "POST", "/gpio", body, Content_Type=kind)
    assert answer.status == status
    assert set(answer.json) == {"error", "field"}
    assert answer.json["field"] == field
    assert len(answer.json["error"]) > 15
    assert not any(levels(board).values())


def test_other_media_types_are_refused(board: Board) -> None:
    """A body that is neither a form nor JSON is not guessed at."""
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/xml"):
        assert ask(board, "POST", "/gpio", b"pin=4&value=1", Content_Type=kind).status == 400
    assert not any(levels(board).values())


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nothing", 404, None),
        ("GET", "//", 404, None),
        ("POST", "/", 405, "GET"),
        ("GET", "/gpio", 405, "POST"),
        ("PUT", "/gpio", 405, "POST"),
        ("DELETE", "/ui", 405, "GET"),
        ("OPTIONS", "/gpio", 405, "POST"),
        ("HEAD", "/", 405, "GET"),
        ("get", "/", 405, "GET"),
    ],
)
def test_unknown_paths_and_methods(
    board: Board, method: str, path: str, status: int, allow: str | None
) -> None:
    """404 and 405 follow from the route table; a 405 says what is allowed, and HEAD has no body."""
    answer = ask(board, method, path)
    assert answer.status == status
    assert answer.headers.get("allow") == allow
    if method == "HEAD":
        assert not answer.body
    else:
        assert answer.json["error"]


def test_adc_samples_while_powered(board: Board) -> None:
    """/adc gives as many samples as asked for, 12 bits each, and the power is off afterwards."""
    board.set(adc={36: 2048})
    answer = ask(board, "POST", "/adc", b"read_pin=36&power_pin=13&samples=7").json
    assert answer["id"] == board.id
    assert answer["data"] == [2048] * 7
    assert answer["ticks"] >= 70_000
    assert (board.pin(13).mode, board.pin(13).level) == ("out", 0)


def test_adc_defaults(board: Board) -> None:
    """Without `samples` there are 20, as in 2021; an empty field of a form is none."""
    board.set(adc={39: 4095})
    assert ask(board, "POST", "/adc", {"read_pin": 39}).json["data"] == [4095] * 20
    body = b"read_pin=39&power_pin=&samples="
    assert len(ask(board, "POST", "/adc", body).json["data"]) == 20


def test_adc_lets_others_in(board: Board) -> None:
    """While many samples are taken other requests go on; the answer is whole and long."""
    board.set(adc={36: {"value": 1000, "noise": 100}})
    found: list[dict[str, list[int]]] = []

    def sample() -> None:
        found.append(ask(board, "POST", "/adc", b"read_pin=36&power_pin=4&samples=120").json)

    thread = threading.Thread(target=sample)
    thread.start()
    until(lambda: board.pin(4).level)
    asked = 0
    while thread.is_alive():
        assert ask(board, "GET", "/", timeout_s=2).json["gpio"]["4"] in (0, 1)
        asked += 1
    thread.join()
    assert asked > 20
    assert len(found[0]["data"]) == 120
    assert not board.pin(4).level


BAD_ADC = [
    ({"power_pin": 4}, 400, "read_pin"),
    ({"read_pin": "36,39"}, 400, "read_pin"),
    ({"read_pin": 4}, 422, "read_pin"),
    ({"read_pin": 40}, 422, "read_pin"),
    ({"read_pin": 36, "power_pin": 35}, 403, "power_pin"),
    ({"read_pin": 36, "power_pin": 20}, 422, "power_pin"),
    ({"read_pin": 33, "power_pin": 33}, 422, "power_pin"),
    ({"read_pin": 36, "samples": 0}, 422, "samples"),
    ({"read_pin": 36, "samples": 1001}, 422, "samples"),
    ({"read_pin": 36, "samples": "many"}, 400, "samples"),
    ({"read_pin": 36, "power_pin": True}, 400, "power_pin"),
]


@pytest.mark.parametrize(("body", "status", "field"), BAD_ADC)
def test_adc_refuses(board: Board, body: dict[str, object], status: int, field: str) -> None:
    """A bad measurement is refused before any power goes on."""
    answer = ask(board, "POST", "/adc", body)
    assert (answer.status, answer.json["field"]) == (status, field)
    assert not any(levels(board).values())


def test_a_failing_converter_leaves_no_power(board: Board) -> None:
    """When reading fails the answer is 503, says what failed, and the power is off."""
    board.fault("sensor", pin=36)
    answer = ask(board, "POST", "/adc", {"read_pin": 36, "power_pin": 4})
    assert answer.status == 503
    assert "36" in answer.json["error"]
    assert not board.pin(4).level
    assert ask(board, "GET", "/").status == 200


def test_dht22_reads_afresh(board: Board) -> None:
    """Every call measures; a failure is 503 and never an old value."""
    board.set(dht={15: (-3.4, 99.9)})
    answer = ask(board, "POST", "/dht22", b"read_pin=15")
    assert answer.json == {"id": board.id, "temp": -3.4, "humidity": 99.9}
    board.set(dht={15: (21.5, 40)})
    assert ask(board, "POST", "/dht22", b"read_pin=15").json["temp"] == 21.5
    board.fault("sensor", pin=15)
    answer = ask(board, "POST", "/dht22", b"read_pin=15")
    assert (answer.status, answer.json["field"]) == (503, "read_pin")
    board.clear()
    assert ask(board, "POST", "/dht22", b"read_pin=15").json["temp"] == 21.5
    board.set(dht={15: None})


@pytest.mark.parametrize(
    ("pin", "status"), [("34", 403), ("1", 403), ("6", 403), ("24", 422), ("x", 400), ("", 400)]
)
def test_dht22_refuses(board: Board, pin: str, status: int) -> None:
    """The sensor's line is driven, so its pin must be writable."""
    answer = ask(board, "POST", "/dht22", f"read_pin={pin}".encode())
    assert (answer.status, answer.json["field"]) == (status, "read_pin")


def test_set_host_survives_a_reset(make_board) -> None:
    """The host is kept on flash; a bad address changes nothing."""
    board = make_board()
    assert ask(board, "POST", "/set_host", b"ip=10.1.2.3").json["status"] == "OK"
    for bad in ("", "10.1.2", "10.1.2.256", "10.1.2.03", "1.2.3.4.5", "::1", "host", "-1.2.3.4"):
        assert ask(board, "POST", "/set_host", {"ip": bad}).status == 422, bad
    assert ask(board, "POST", "/set_host", {"ip": 1}).status == 400
    assert ask(board, "POST", "/set_host", {}).json["field"] == "ip"
    first = ask(board, "GET", "/").json
    board.reset("watchdog")
    second = ask(board, "GET", "/").json
    assert first["espnet_host"] == second["espnet_host"] == "10.1.2.3"
    assert first["boot"] != second["boot"]
    assert second["reset_cause"] == "watchdog"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"espnet_host": 5}', "\0\0\0\0"])
def test_a_damaged_host_file_stops_nothing(make_board, text: str) -> None:
    """A file that is not what it should be reads as if it was not there."""
    board = make_board()
    (board.flash / "host.json").write_text(text)
    board.reset()
    assert ask(board, "GET", "/").json["espnet_host"] == ""


def test_levels_are_those_of_the_pads(make_board) -> None:
    """However a pin is set and whatever is connected to it: its level is what a voltmeter shows."""
    modes = """
from machine import Pin
Pin(4, Pin.OUT, value=1)
Pin(5, Pin.OUT, value=0)
Pin(12, Pin.OPEN_DRAIN, value=1)
Pin(13, Pin.OPEN_DRAIN, value=0)
Pin(14, Pin.IN, Pin.PULL_UP)
Pin(27, Pin.IN, Pin.PULL_DOWN)
Pin(32, Pin.IN, Pin.PULL_UP)
Pin(33, Pin.OUT, value=1)
"""
    board = make_board(before_main=modes)
    rng = random.Random(5)
    for _ in range(50):
        board.set(pins={str(pin): rng.choice((0, 1, None)) for pin in READABLE})
        shown = {str(pin): board.pin(pin).level for pin in READABLE}
        assert ask(board, "GET", "/").json["gpio"] == shown
        assert [shown[pin] for pin in ("4", "5", "13", "33")] == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            "[(7288, 0, 0, 0), (81536, 37788, 31744, 33004), (15072, 15036, 14848, 0)]",
            (52824, 31744),
        ),
        ("[(1, 2, 3, 4)] if kind == HEAP_DATA else 1 // 0", (2, 3)),
        (None, (None, None)),
    ],
)
def test_the_heap_of_the_idf(make_board, told: str | None, expected: tuple[int, int]) -> None:
    """All regions for data count; a chip that does not tell costs nothing but the figures."""
    ask_it = """
import esp32
HEAP_DATA = esp32.HEAP_DATA
REPLACE
import hardware
print("idf:", hardware.idf_heap())
"""
    replaced = f"esp32.idf_heap_info = lambda kind: {told}" if told else "del esp32.idf_heap_info"
    board = make_board(before_main=ask_it.replace("REPLACE", replaced))
    assert f"idf: {expected}" in board.console


def test_several_pins_change_all_or_none(make_board) -> None:
    """When the hardware refuses one of several pins, the others go back and the answer is 503."""
    broken = """
import hardware
drive = hardware.drive
def refuse(pin, level):
    if pin == 21:
        raise OSError(5)
    drive(pin, level)
hardware.drive = refuse
"""
    board = make_board(before_main=broken)
    ask(board, "POST", "/gpio", b"pin=5&value=1")
    before = levels(board)
    answer = ask(board, "POST", "/gpio", b"pin=4,5,21,22&value=2")
    assert answer.status == 503
    assert "21" in answer.json["error"]
    assert levels(board) == before


@pytest.mark.parametrize(
    ("chip", "celsius", "expected"),
    [("esp32", 45.0, 113), ("esp32c3", 21.0, 69.8), ("esp32", 3e2, None)],
)
def test_temperature(make_board, chip: str, celsius: float, expected: float | None) -> None:
    """Each chip's own sensor is used; what no chip can have is null, not a number."""
    board = make_board(chip=chip)
    board.set(board_c=celsius)
    assert ask(board, "GET", "/").json["f"] == expected


def test_a_bug_in_a_handler_costs_one_answer(make_board) -> None:
    """An exception in a handler is a 500 in JSON; no memory is a 503; the board goes on."""
    bugs = {
        "calls.py": [
            (
                '            (b"GET", b"/ui", PUBLIC, self.page),',
                '            (b"GET", b"/ui", PUBLIC, self.page),\n'
                '            (b"GET", b"/bug", PUBLIC, self.bug),\n'
                '            (b"GET", b"/big", PUBLIC, self.big),',
            ),
            (
                "    async def status(",
                "    async def bug(self, request):\n        return 1 // 0\n\n"
                "    async def big(self, request):\n        return bytearray(1000000)\n\n"
                "    async def status(",
            ),
        ]
    }
    board = make_board(replace=bugs)
    for _ in range(30):
        answer = ask(board, "GET", "/bug")
        assert answer.status == 500
        assert "ZeroDivisionError" in answer.json["error"]
        answer = ask(board, "GET", "/big")
        assert answer.status == 503
        assert "memory" in answer.json["error"]
    assert ask(board, "GET", "/").status == 200
    assert board.boots == 1


def test_the_page_is_whole_and_self_contained(board: Board) -> None:
    """GET /ui is the file of the firmware, compressed; it loads nothing from anywhere else."""
    page = gzip.decompress(ask(board, "GET", "/ui").body)
    assert page == (FIRMWARE / "ui.html").read_bytes()
    text = page.decode()
    assert "http://" not in text
    assert "https://" not in text
    assert " src=" not in text
    listed = text.partition("const WRITABLE = ")[2].partition(";")[0]
    assert json.loads(listed) == WRITABLE


def test_uptime_grows(board: Board) -> None:
    """The uptime counts seconds."""

    def look() -> tuple[float, int, float]:
        """What it is, and between which moments."""
        before_s = time.monotonic()
        return before_s, ask(board, "GET", "/").json["uptime_s"], time.monotonic()

    began_s, first, read_s = look()
    until(lambda: ask(board, "GET", "/").json["uptime_s"] > first)
    asked_s, second, ended_s = look()
    assert asked_s - read_s - 1 < second - first < ended_s - began_s + 1


def test_a_client_that_hangs_up_costs_nothing(board: Board) -> None:
    """A client may vanish at any moment: before, within or after its request."""
    for request in (b"", b"GET / HT", b"GET /ui HTTP/1.1\r\n\r\n", b"POST /gpio HTTP/1.1\r\n"):
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", board.port)) as client:
                client.sendall(request)
    assert ask(board, "GET", "/").status == 200
