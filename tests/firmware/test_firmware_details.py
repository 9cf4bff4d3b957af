"""What the board tells people beside the status: modes, who set a pin, signal, notices."""

import json
from typing import Any

import pytest

from espnet.simulator.fleet import Board

from .digest_client import Person, claim_by_hand
from .firmware_client import READABLE, WRITABLE, ask, levels, until

GOOD_NAMES = [
    "x",
    "heater",
    'quoted "\\',
    "Änne’s phone – 2",
    "日本",
    "7",
    " a ",
    "ä" * 40,
    "x" * 40,
]
WRONG_NAMES: list[Any] = [
    "", " ", "\t", "x" * 41, "ä" * 41, "a\nb", "a\x00", "\x1b[2J", "a\x7f", "a\x85", "a\u200b",
    "\u202eb", "a\u2066", 7, 1.5, True, None, ["a"], [],
]  # fmt: skip


def details(board: Board) -> dict[str, Any]:
    answer = ask(board, "GET", "/details")
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json
    return found


def pin(board: Board, number: int) -> dict[str, Any]:
    found: dict[str, Any] = details(board)["pins"][str(number)]
    return found


def write(board: Board, **fields: Any) -> int:
    return ask(board, "POST", "/gpio", fields).status


def test_a_board_just_started(make_board) -> None:
    """Every readable pin has its mode, nobody has set one, and nothing needs to be said."""
    board = make_board()
    assert details(board) == {
        "id": board.id,
        "build": ask(board, "GET", "/").json["build"],
        "boots": 1,
        "safe_mode": False,
        "undone": None,
        "name": "",
        "rssi": None,
        "pins": {str(number): {"mode": "in"} for number in READABLE},
        "notices": [],
        "crash": None,
        "wifi": {"ssid": None, "address": "", "failed": {}, "ap": None},
    }


def test_who_set_a_pin(make_board) -> None:
    """A pin says who set it last and how long ago: a name, else a controller or somebody."""
    board = make_board()
    fence = 7
    assert write(board, pin=[4, 5], value=1, by="heater") == 200
    assert write(board, pin=12, value=1) == 200
    assert write(board, pin=13, value=1, fence=fence) == 200
    assert write(board, pin=14, value=0, fence=fence, by="jobs") == 200
    pins = details(board)["pins"]
    for number, by, governed in [
        (4, "heater", False), (5, "heater", False), (12, "somebody", False),
        (13, "a controller", True), (14, "jobs", True),
    ]:  # fmt: skip
        assert 0 <= pins[str(number)].pop("ago_s") <= 1
        assert pins[str(number)] == {"mode": "out", "by": by, "governed": governed}
    until(lambda: pin(board, 4)["ago_s"] >= 2)
    assert write(board, pin=13, value=2) == 200  # a person switches what a controller governs
    assert pin(board, 13) == {"mode": "out", "by": "somebody", "ago_s": 0, "governed": False}
    assert write(board, pin=13, value=1, fence=fence) == 200
    assert pin(board, 13)["governed"] is True
    assert "by" not in pin(board, 34)


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_names_come_back_as_they_were(board: Board, name: str) -> None:
    """What somebody calls himself is told as he wrote it, from JSON and from a form."""
    assert write(board, pin=4, value=0, by=name) == 200
    assert pin(board, 4)["by"] == name
    escaped = "".join(f"%{byte:02x}" for byte in name.encode())
    assert ask(board, "POST", "/gpio", f"pin=5&value=0&by={escaped}".encode()).status == 200
    assert pin(board, 5)["by"] == name


def test_names_that_are_none(board: Board) -> None:
    """A `by` that people could not read is a 422, and nothing has changed: levels, notes, fence."""
    write(board, pin=WRITABLE, value=0, by="before")
    before = details(board)["pins"]
    fence = ask(board, "GET", "/").json["fence"]
    for name in WRONG_NAMES:
        answer = ask(board, "POST", "/gpio", {"pin": 4, "value": 1, "by": name, "fence": fence + 1})
        assert (answer.status, answer.json["field"]) == (422, "by"), name
    assert ask(board, "POST", "/gpio", b"pin=4&value=1&by=").status == 422
    assert ask(board, "POST", "/gpio", b"pin=4&value=1&by=a%0ab").status == 422
    assert not any(levels(board).values())
    assert ask(board, "GET", "/").json["fence"] == fence
    after = details(board)["pins"]
    assert all(note.pop("ago_s", 0) <= 5 for note in [*before.values(), *after.values()])
    assert after == before


def test_refused_calls_leave_no_note(make_board) -> None:
    """Who asked in vain has set nothing."""
    board = make_board()
    fence = 7
    write(board, pin=WRITABLE, value=0, by="before", fence=fence)
    for body in (
        {"pin": [4, 34], "value": 1}, {"pin": [4, 99], "value": 1}, {"pin": 4, "value": 3},
        {"pin": 4, "value": 1, "fence": fence - 1}, {"pin": 4, "value": 0, "lease_s": 5},
    ):  # fmt: skip
        assert write(board, **body, by="me") >= 400
    assert (
        ask(board, "POST", "/adc", {"read_pin": 36, "power_pin": 4, "fence": fence - 1}).status
        == 409
    )
    assert {note.get("by") for note in details(board)["pins"].values()} == {"before", None}


def test_a_pin_that_fails_is_not_noted(make_board) -> None:
    """When the hardware refuses one pin, all keep the note that they had."""
    fail = (
        "    Pin(pin, Pin.OUT, value=level)",
        "    if pin == 13 and level:\n        raise OSError(5)\n    Pin(pin, Pin.OUT, value=level)",
    )
    board = make_board({"hardware.py": [fail]})
    assert write(board, pin=[12, 13], value=0, by="first") == 200
    assert write(board, pin=[12, 13], value=1, by="second") == 503
    assert {pin(board, 12)["by"], pin(board, 13)["by"]} == {"first"}


def test_the_end_of_a_lease(make_board) -> None:
    """A pin that its lease's end has set says so, and whether a controller governs it; `hold` sets none."""
    board = make_board()
    fence = 7
    assert write(board, pin=4, value=1, lease_s=1, by="me") == 200
    assert write(board, pin=5, value=1, lease_s=1, fence=fence) == 200
    assert write(board, pin=12, value=1, lease_s=1, safe="hold", by="holder") == 200
    assert write(board, pin=13, value=1, lease_s=1, safe="high", by="me") == 200
    until(lambda: ask(board, "GET", "/").json["leases_expired"] == 4)
    pins = details(board)["pins"]
    assert [pins[n]["by"] for n in ("4", "5", "12", "13")] == [
        *["end of lease"] * 2,
        "holder",
        "end of lease",
    ]
    assert [pins[n]["governed"] for n in ("4", "5", "12")] == [False, True, False]
    assert pins["4"]["ago_s"] <= 1


def test_a_measurement_is_who_set_the_pin(board: Board) -> None:
    """Pins that a measurement drives are where it left them, whoever set them before."""
    board.set(dht={15: (20, 50)})
    assert write(board, pin=[4, 5, 15], value=1, by="me") == 200
    assert ask(board, "POST", "/adc", {"read_pin": 36, "power_pin": 4, "samples": 1}).status == 200
    assert ask(board, "POST", "/dht22", {"read_pin": 15}).status == 200
    pins = details(board)["pins"]
    assert [pins[n]["by"] for n in ("4", "5", "15")] == ["a measurement", "me", "a measurement"]
    assert "by" not in pins["36"]


def test_modes_are_the_chips(make_board) -> None:
    """The mode is what the chip does: after a soft reset it still drives, and nobody has set it."""
    board = make_board()
    for number in (4, 33, 0):
        assert write(board, pin=number, value=1) == 200
    board.reset("soft")
    assert {n for n, p in details(board)["pins"].items() if p["mode"] == "out"} == {"0", "4", "33"}
    assert pin(board, 33) == {"mode": "out"}
    board.reset("hard")
    assert pin(board, 33) == {"mode": "in"}


def test_name_and_signal(make_board) -> None:
    """The hostname of the settings, and how strongly the network is heard while there is one."""
    board = make_board()
    wifi = [{"ssid": "home", "password": "open sesame"}]
    settings = {"hostname": "porch-2", "wifi": wifi}
    (board.flash / "settings.json").write_text(json.dumps(settings, ensure_ascii=False))
    board.set(rssi=-71, wifi=True)
    board.reset()
    until(lambda: details(board)["rssi"] is not None)
    found = ask(board, "GET", "/details")
    assert (found.json["name"], found.json["rssi"]) == ("porch-2", -71)
    assert b"sesame" not in found.body
    board.set(wifi=False)
    until(lambda: details(board)["rssi"] is None)
    for hostname in (7, None, ["x"]):
        (board.flash / "settings.json").write_text(json.dumps({"hostname": hostname}))
        board.reset()
        assert details(board)["name"] == ""


def test_a_watchdogs_reset_is_noticed(make_board) -> None:
    """After a reset by the watchdog people are told; after any other they are not."""
    board = make_board()
    for cause, notices in (("watchdog", 1), ("hard", 0)):
        board.reset(cause)
        found = details(board)["notices"]
        assert len(found) == notices
        assert all(sentence.endswith(".") for sentence in found)


def test_a_private_board_tells_nobody_else(make_board) -> None:
    """Details are reading: a private board wants the password for them, a claimed one does not."""
    board = make_board()
    for private in (False, True):
        claim_by_hand(board, private=private)
        assert ask(board, "GET", "/details").status == (401 if private else 200)
        assert Person(board).ask("GET", "/details").json["id"] == board.id


def test_the_longest_details(make_board) -> None:
    """Twenty long names, in the heap that tests impose and one by one: whole, in pieces, and flat."""
    board = make_board(compiled=True)
    for number in WRITABLE:
        assert write(board, pin=number, value=0, by=f"{number:02}" + '"' * 38) == 200
    crash = (
        "Traceback (most recent call last):\n"
        + '  File "a_module.py", line 1000, in a_function\n' * 8
    )
    crash += '"' * 100
    (board.flash / "crash.json").write_text(json.dumps(crash))
    first = details(board)
    assert first["crash"] == {"text": crash, "ago_s": None}
    assert first["pins"]["33"]["by"] == "33" + '"' * 38
    for _ in range(30):
        found = details(board)
        assert {n: p.get("by") for n, p in found["pins"].items()} == {
            n: p.get("by") for n, p in first["pins"].items()
        }
    assert "Memory" not in board.console
    assert board.boots == 1
