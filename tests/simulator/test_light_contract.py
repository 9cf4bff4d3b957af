"""Light boards against boards that run the firmware on MicroPython: the same questions, the same answers.

Both are asked the same things in the same order. What must be equal: the status, the names and types of the
answer's fields, the refused field and its sentence, the headers that mean something, and what the pins do.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from firmware.digest_client import PASSWORD, Person, ha1_of
from firmware.firmware_client import Answer, ask, levels, raw, statuses

from espnet.simulator import Board, Fleet
from espnet.simulator.light import LightFleet, LightHandle

Both = tuple[Board, LightHandle]

FORM, JSON_KIND = "application/x-www-form-urlencoded", "application/json"


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    with Fleet(1, seed=3, compiled=True) as real, LightFleet(1, seed=3) as light:
        assert real[0].id == light[0].id
        for board in (real[0], light[0]):
            board.set(adc={36: 2048, 39: {"value": 9}}, dht={4: (21.5, 40)}, pins={18: 1, 34: 1})
        yield real[0], light[0]


def kinds(value: Any) -> Any:
    """What a JSON value is made of: names and types, whole numbers apart from others."""
    if isinstance(value, dict):
        return {name: kinds(item) for name, item in value.items()}
    if isinstance(value, list):
        return sorted({str(kinds(item)) for item in value})
    return type(value).__name__


def meaning(answer: Answer) -> dict[str, Any]:
    """What of an answer must be equal."""
    body = json.loads(answer.body) if answer.body else None
    headers = ("allow", "retry-after", "content-type", "connection")
    told: dict[str, Any] = {"status": answer.status, "kinds": kinds(body)}
    told |= {name: answer.headers.get(name) for name in headers}
    if isinstance(body, dict):
        same = (
            "error",
            "field",
            "id",
            "status",
            "gpio",
            "espnet_host",
            "fence",
            "temp",
            "humidity",
        )
        told |= {name: body.get(name) for name in same}
    return told


def state(board: Board | LightHandle) -> dict[str, Any]:
    """What a board is after a request, as it says itself and as a voltmeter sees it."""
    status = ask(board, "GET", "/").json
    names = (
        "gpio",
        "leases_expired",
        "fence",
        "claimed",
        "private",
        "espnet_host",
        "f",
        "idf_free",
    )
    told = {name: status[name] for name in names}
    told["leases"] = {pin: lease["safe"] for pin, lease in status["leases"].items()}
    return told | {"levels": levels(board), "fields": list(status)}


def form(path: str, body: str, **headers: str) -> tuple[Any, ...]:
    return "POST", path, body.encode(), {"Content_Type": FORM, **headers}


def as_json(path: str, body: Any, **headers: str) -> tuple[Any, ...]:
    data = body if isinstance(body, str) else json.dumps(body)
    return "POST", path, data.encode(), {"Content_Type": JSON_KIND, **headers}


def get(path: str, **headers: str) -> tuple[Any, ...]:
    return "GET", path, None, headers


ORIGIN = "http://evil.example"

#: In this order: what one does to a board the next ones meet.
REQUESTS: list[tuple[Any, ...]] = [
    get("/"),
    get("/?fence=3"),
    get("/?fence=2"),
    get("/?fence=0"),
    get("/?fence="),
    get("/?fence=x"),
    get("/?fence=1&fence=2"),
    get("/?fence=1000000000000000"[:-3]),
    get("/?fence=9000000000000000"),
    get("/?other=1"),
    get("/details"),
    get("/nowhere"),
    get("/gpio"),
    ("PUT", "/", None, {}),
    ("OPTIONS", "/gpio", None, {}),
    ("DELETE", "/update", None, {}),
    # Pins, in every form that they may have
    form("/gpio", "pin=4&value=1"),
    form("/gpio", "pin=4,5&value=0"),
    form("/gpio", "pin=4%2C5&value=2"),
    form("/gpio", "pin=4,4,4&value=2"),
    as_json("/gpio", {"pin": 2, "value": 1}),
    as_json("/gpio", {"pin": [12, 13, "14"], "value": "1"}),
    as_json("/gpio", {"pin": "12,13", "value": 0}),
    as_json("/gpio", {"pin": 18, "value": 2}),
    ("POST", "/gpio", b'{"pin": 14, "value": 0}', {}),
    ("POST", "/gpio", b'{"pin": 14, "value": 1}', {"Content_Type": FORM}),
    ("POST", "/gpio", b"pin=14&value=0", {}),
    form("/gpio", "pin=1&value=1"),
    form("/gpio", "pin=3&value=1"),
    form("/gpio", "pin=34&value=1"),
    form("/gpio", "pin=6&value=1"),
    form("/gpio", "pin=20&value=1"),
    form("/gpio", "pin=40&value=1"),
    form("/gpio", "pin=-1&value=1"),
    form("/gpio", "pin=4,99&value=1"),
    form("/gpio", "pin=4,34&value=1"),
    form("/gpio", "pin=&value=1"),
    form("/gpio", "pin=four&value=1"),
    form("/gpio", "pin=04&value=1"),
    form("/gpio", "pin=4.0&value=1"),
    form("/gpio", "value=1"),
    form("/gpio", "pin=4"),
    form("/gpio", "pin=4&value=3"),
    form("/gpio", "pin=4&value=on"),
    form("/gpio", "pin=4&pin=5&value=1"),
    form("/gpio", "pin=4&value=1&unknown=7"),
    form("/gpio", ""),
    as_json("/gpio", {"pin": True, "value": 1}),
    as_json("/gpio", {"pin": 4.0, "value": 1}),
    as_json("/gpio", {"pin": None, "value": 1}),
    as_json("/gpio", {"pin": [], "value": 1}),
    as_json("/gpio", {"pin": {"a": 1}, "value": 1}),
    as_json("/gpio", {"pin": [[4]], "value": 1}),
    as_json("/gpio", {"pin": 10**30, "value": 1}),
    as_json("/gpio", '{"pin" 4, "value": 1}'),
    as_json("/gpio", '{"pin": 4,, "value": 1}'),
    as_json("/gpio", '{"pin": 4, "value": 1} x'),
    as_json("/gpio", '{"pin": 4, "pin": 5, "value": 1}'),
    as_json("/gpio", '{"pin": "\\u0034", "value": 0}'),
    as_json("/gpio", '{"pin": "\\x34", "value": 0}'),
    as_json("/gpio", '{"pin": "4'),
    as_json("/gpio", "[4]"),
    as_json("/gpio", {f"n{n}": n for n in range(17)}),
    as_json("/gpio", {"n" * 33: 1}),
    as_json("/gpio", {"by": "x" * 257}),
    ("POST", "/gpio", b'{"by": "\xff"}', {"Content_Type": JSON_KIND}),
    ("POST", "/gpio", b"pin=4&value=1", {"Content_Type": "text/plain"}),
    ("POST", "/gpio", b"pin=4&value=1", {"Content_Type": "multipart/form-data"}),
    ("POST", "/gpio", b"pin=4&value=1", {"Content_Type": JSON_KIND}),
    ("POST", "/gpio", b"x" * 9000, {"Content_Type": FORM}),
    # Leases, fences, and who it was
    form("/gpio", "pin=25,26&value=1&lease_s=600"),
    form("/gpio", "pin=27&value=1&lease_s=600&safe=hold"),
    form("/gpio", "pin=32&value=1&lease_s=600&safe=high&fence=7&by=a+test"),
    form("/gpio", "pin=26&value=1"),
    form("/gpio", "pin=27&value=0"),
    form("/gpio", "pin=25&value=1&lease_s=0"),
    form("/gpio", "pin=25&value=1&lease_s=86401"),
    form("/gpio", "pin=25&value=1&lease_s=x"),
    form("/gpio", "pin=25&value=0&lease_s=5"),
    form("/gpio", "pin=25&value=2&lease_s=5"),
    form("/gpio", "pin=25&value=1&safe=low"),
    form("/gpio", "pin=25&value=1&lease_s=5&safe=off"),
    as_json("/gpio", {"pin": 25, "value": 1, "lease_s": 5, "safe": 1}),
    form("/gpio", "pin=25&value=0&fence=6"),
    form("/gpio", "pin=33&value=1&fence=7"),
    form("/gpio", "pin=33&value=1&fence=0"),
    form("/gpio", "pin=33&value=9&fence=1"),
    form("/gpio", "pin=33&value=0&fence=8"),
    form("/gpio", "pin=33&value=0&by="),
    form("/gpio", "pin=33&value=0&by=" + "x" * 41),
    form("/gpio", "pin=33&value=0&by=%00"),
    form("/gpio", "pin=33&value=0&by=%E2%80%AE"),
    form("/gpio", "pin=33&value=1&by=J%C3%BCrgen"),
    get("/?fence=8"),
    get("/details"),
    # Measurements
    form("/adc", "read_pin=36&samples=2"),
    as_json("/adc", {"read_pin": 39, "power_pin": 21, "samples": 1}),
    as_json("/adc", {"read_pin": 36, "power_pin": "", "samples": ""}),
    form("/adc", "read_pin=36&samples=0"),
    form("/adc", "read_pin=36&samples=1001"),
    form("/adc", "read_pin=4"),
    form("/adc", "read_pin=36,39"),
    form("/adc", "read_pin=36&power_pin=34"),
    form("/adc", "read_pin=33&power_pin=33"),
    form("/adc", "read_pin=36&power_pin=25"),
    form("/adc", "read_pin=32"),
    form("/adc", "read_pin=36&fence=1"),
    form("/adc", ""),
    form("/dht22", "read_pin=4"),
    form("/dht22", "read_pin=5"),
    form("/dht22", "read_pin=34"),
    form("/dht22", "read_pin=77"),
    form("/dht22", "read_pin=25"),
    form("/dht22", "read_pin=4&fence=2"),
    # The host, and who may call at all
    form("/set_host", "ip=192.168.1.5"),
    form("/set_host", "ip=192.168.1.256"),
    form("/set_host", "ip=1.2.3"),
    form("/set_host", ""),
    as_json("/set_host", {"ip": 5}),
    as_json("/set_host", {"ip": "10.0.0.1", "fence": 8}),
    form("/gpio", "pin=4&value=1", Origin=ORIGIN),
    form("/gpio", "pin=4&value=1", Sec_Fetch_Site="cross-site"),
    get("/?fence=9", User_Agent="Mozilla/5.0"),
    get("/", User_Agent="Mozilla/5.0"),
    get("/", Host="evil.example"),
    get("/", Host="porch.local"),
    get("/", Host="porch"),
    get("/", Authorization="Digest nonsense"),
    get("/", Connection="close"),
    get("/settings", Origin=ORIGIN),
    form("/restart", "fence=1"),
    as_json("/claim", {"ha1": "short"}),
    as_json("/claim", {"private": False}),
    as_json("/claim", {"ha1": "0" * 64, "private": 3}),
    as_json("/claim", {"ha1": "0" * 64, "fence": 1}),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: f"{r[0]} {r[1]} {str(r[2])[:40]}")
def test_a_light_board_answers_as_the_firmware_does(both: Both, request_: tuple[Any, ...]) -> None:
    """Asked the same, both say and do the same."""
    method, path, body, headers = request_
    real, light = [ask(board, method, path, body, **headers) for board in both]
    assert meaning(light) == meaning(real)
    assert state(both[1]) == state(both[0])


RAW = [
    b"GET / HTTP/1.1\r\n\r\nGET /nowhere HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    b"\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/2.0\r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET / HTTP/1.1\n\n\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: \xff\r\nOrigin: \xff\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"x" * 2000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nX",
    b"POST /gpio HTTP/1.1\r\nContent-Length: 5\r\n\r\nabc",
    b"POST /gpio HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /gpio HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
    b"POST /gpio HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /gpio HTTP/1.1\r\nContent-Length: 99999\r\n\r\n",
    b"POST /gpio HTTP/1.1\r\nContent-Length: 12\r\nConnection: close\r\n\r\npin=4&value=",
    b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
]


@pytest.mark.parametrize("data", RAW, ids=lambda data: repr(data[:40]))
def test_a_light_board_reads_http_as_the_firmware_does(both: Both, data: bytes) -> None:
    """Byte by byte: the same requests are taken, the same are refused, and with the same words."""
    real, light = [raw(board, data) for board in both]
    if data.startswith(b"HEAD"):
        assert light == real
        return
    assert statuses(light) == statuses(real)
    told = [json.loads(answers.split(b"\r\n\r\n")[-1]) for answers in (real, light)]
    assert kinds(told[1]) == kinds(told[0])
    assert told[1].get("error") == told[0].get("error")


def test_a_light_board_is_claimed_as_the_firmware_is(both: Both) -> None:
    """Claim, both kinds of digest, wrong passwords, and a reset that keeps the claim: all alike."""
    found = []
    for board in both:
        told: list[Any] = []
        answer = ask(board, "POST", "/claim", {"ha1": ha1_of(board.id), "private": True})
        told.append(meaning(answer))
        told += [meaning(ask(board, "GET", path)) for path in ("/", "/details", "/update")]
        told.append(meaning(ask(board, "POST", "/claim", {"ha1": "0" * 64})))
        for qop in ("auth", "auth-int"):
            person = Person(board, PASSWORD, qop=qop)
            for method, path, body in (
                ("GET", "/", None),
                ("GET", "/?fence=20", None),
                ("POST", "/gpio", b"pin=4&value=1"),
                ("POST", "/gpio", b"pin=99&value=1"),
                ("POST", "/adc", b"read_pin=36&samples=1"),
                ("GET", "/nowhere", None),
            ):
                answer = person.ask(method, path, body)
                told.append((meaning(answer), person.proves(answer)))
            answer = person.ask("GET", "/", nc=1)  # used up
            told.append((answer.status, "stale=true" in answer.headers["www-authenticate"]))
        stranger = Person(board, "wrong")
        told += [stranger.ask("GET", "/").status for _ in range(7)]
        board.reset()
        told.append(ask(board, "GET", "/").status)
        told.append(meaning(Person(board).ask("GET", "/")))
        board.unclaim()
        told.append(ask(board, "GET", "/").json["claimed"])
        found.append(told)
    assert found[1] == found[0]
