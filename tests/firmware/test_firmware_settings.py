"""The board's settings: whatever the files hold the board boots and serves, by the best there are."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from espnet import settings as host
from espnet.simulator import Fleet
from espnet.simulator.fleet import Board

from .digest_client import Person, claim_by_hand
from .firmware_client import WRITABLE, ask, connect, until
from .networking import GARDEN, HOME, SECRETS, joined, on_flash, pass_time, put, tells_no_secret
from .requesting import answer_on

FULL: dict[str, Any] = {
    "hostname": "porch",
    "names": ["porch.example.org", "p"],
    "wifi": [HOME, {"ssid": "Änne's", "password": ""}],
    "address": "dhcp",
    "country": "AT",
    "zone": "Europe/Vienna",
    "watchdog_s": 60,
    "ap": {"password": "for the phone"},
    "ntp": "pool.ntp.org",
    "pins": {"4": {"safe": "high"}, "5": {"pull": "up"}, "18": {"safe": "low", "pull": "down"}},
}
WRONG: list[tuple[str, Any]] = [
    ("hostname", ""), ("hostname", "-a"), ("hostname", "a b"), ("hostname", "x" * 33), ("hostname", 7),
    ("names", "a"), ("names", ["A"]), ("names", ["a..b"]), ("names", ["a"] * 9), ("names", [7]),
    ("wifi", {}), ("wifi", [HOME] * 9), ("wifi", ["home"]), ("wifi", [{"ssid": ""}]),
    ("wifi", [{"ssid": "x" * 33}]), ("wifi", [{"ssid": "a", "password": "short"}]),
    ("wifi", [{"ssid": "a", "password": "x" * 64}]), ("wifi", [{"ssid": "a", "password": 7}]),
    ("wifi", [{"ssid": "unknown", "password": True}]),
    ("address", "static"), ("address", {"ip": "1.2.3.4"}), ("address", 7),
    ("address", {"ip": "1.2.3.999", "mask": "255.0.0.0", "gateway": "1.2.3.1", "dns": "1.2.3.1"}),
    ("country", "at"), ("country", "AUT"), ("zone", "x" * 41), ("zone", "a b"), ("zone", None),
    ("watchdog_s", 9), ("watchdog_s", 601), ("watchdog_s", "60"), ("watchdog_s", 60.5),
    ("watchdog_s", True), ("ap", {}), ("ap", {"password": ""}), ("ap", {"password": "short"}),
    ("ap", None), ("ntp", "a b"), ("ntp", 7), ("pins", []), ("pins", {"x": {}}), ("pins", {"4": 1}),
    ("pins", {"4": {"safe": "up"}}), ("pins", {"4": {"pull": 1}}), ("pins", {"6": {"safe": "low"}}),
    ("pins", {"20": {}}), ("pins", {"34": {"safe": "low"}}), ("pins", {"36": {"pull": "up"}}),
    ("pins", {"1": {"pull": "up"}}), ("pins", {"400": {}}),
]  # fmt: skip


def shown(board: Board) -> Any:
    answer = ask(board, "GET", "/settings")
    assert answer.status == 200, answer
    return answer.json


def booted(board: Board, **files: Any) -> Board:
    """The board, booted with these files: ``new``, ``good``."""
    board.power(False)
    for name, content in files.items():
        put(board, content, "settings.json" if name == "new" else "settings.good.json")
    board.power(True)
    return board


def notices(board: Board) -> str:
    return " ".join(ask(board, "GET", "/details").json["notices"])


def test_what_is_set_is_so(make_board) -> None:
    """Pins, names and host name are what the settings say, and passwords are not shown."""
    board = booted(make_board(), new=FULL)
    assert (board.pin(4).mode, board.pin(4).level) == ("out", 1)
    assert (board.pin(5).mode, board.pin(5).pull) == ("in", "up")
    assert (board.pin(18).mode, board.pin(18).level) == ("out", 0)
    assert board.pin(19).mode == "unset"
    assert board.describe()["watchdog_ms"] == 60000
    joined(board, "home")
    assert (board.network["hostname"], board.network["country"]) == ("porch", "AT")
    expected = json.loads(json.dumps(FULL))
    expected["wifi"] = [
        {"ssid": "home", "password": True},
        {"ssid": "Änne's", "password": False},
    ]
    expected["ap"] = {"password": True}
    assert shown(board) == expected
    assert ask(board, "GET", "/", Host="porch.example.org").status == 200
    assert ask(board, "GET", "/", Host="other.example.org").status == 403
    tells_no_secret(board)


def test_a_lease_ends_at_the_pins_own_safe_level(make_board) -> None:
    """A lease whose call names no safe level ends at that of the settings; one that names it, there."""
    board = booted(make_board(), new=FULL)
    gpio = {"value": 1, "lease_s": 1}
    assert ask(board, "POST", "/gpio", {"pin": [4, 5], **gpio}).status == 200
    assert ask(board, "POST", "/gpio", {"pin": 18, "safe": "high", **gpio}).status == 200
    found = ask(board, "GET", "/").json["leases"]
    assert {pin: lease["safe"] for pin, lease in found.items()} == {
        "4": "high", "5": "low", "18": "high"
    }  # fmt: skip
    until(lambda: ask(board, "GET", "/").json["leases"] == {})
    assert [board.pin(pin).level for pin in (4, 5, 18)] == [1, 0, 1]


def test_new_settings_hold_from_the_next_restart(make_board) -> None:
    """What is posted is in use after a restart, and not before; passwords that are `true` stay."""
    board = booted(make_board(), new=FULL)
    until(lambda: ask(board, "GET", "/details").json["wifi"]["ssid"] == "home")
    new = {"hostname": "shed", "wifi": [{"ssid": "home", "password": True}, GARDEN]}
    assert ask(board, "POST", "/settings", new).json == {"id": board.id, "status": "OK"}
    assert shown(board)["hostname"] == "porch"
    again = dict(new, wifi=[{"ssid": "garden", "password": True}, HOME])
    assert ask(board, "POST", "/settings", again).status == 200
    assert on_flash(board, "settings.json") == {"hostname": "shed", "wifi": [GARDEN, HOME]}
    board.reset()
    assert shown(board)["hostname"] == "shed"
    joined(board, "garden")
    tells_no_secret(board)


@pytest.fixture(scope="module")
def strict_board() -> Iterator[Board]:
    with Fleet(1) as fleet:
        yield fleet[0]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: repr(value)[:40])
def test_wrong_settings_are_refused(strict_board: Board, field: str, value: Any) -> None:
    """A field that is not right is a 422 that names it and no value of it, and flash is as before."""
    before = sorted(path.name for path in strict_board.flash.iterdir())
    answer = ask(strict_board, "POST", "/settings", {**FULL, field: value})
    assert answer.status == 422, answer
    assert answer.json["field"].startswith(field)
    assert sorted(path.name for path in strict_board.flash.iterdir()) == before
    for secret in SECRETS:
        assert secret not in answer.body.decode()


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"[]", 400), (b"{", 400), (b"7", 400), (b'{"a": "%s"}' % (b"x" * 2100), 413)],
)
def test_what_is_no_object_is_refused(strict_board: Board, body: bytes, status: int) -> None:
    """The body must be one JSON object of 2048 bytes at most."""
    answer = ask(strict_board, "POST", "/settings", body, Content_Type="application/json")
    assert answer.status == status


def test_the_board_takes_what_the_host_lets_pass(make_board) -> None:
    """Settings that EspNet's own check accepts are settings for the board; unknown keys do no harm."""
    board = make_board()
    static = {"ip": "10.1.2.3", "mask": "255.255.255.0", "gateway": "10.1.2.1", "dns": "9.9.9.9"}
    for fields in (
        {},
        FULL,
        {"hostname": "a" * 32, "names": ["a-b." + "c" * 63 + ".d"], "zone": "Etc/GMT+5", "ntp": ""},
        {"wifi": [{"ssid": "ü" * 16, "password": "p" * 63}], "address": static, "watchdog_s": 600},
        {"pins": {"34": {"pull": "none"}, "33": {"safe": "hold", "pull": "down"}, "0": {}}},
        {"wifi": [{"ssid": f"network {n}", "password": "12345678"} for n in range(8)]},
    ):
        raw = host.encode(host.of(fields))
        answer = ask(board, "POST", "/settings", raw, Content_Type="application/json")
        assert answer.status == 200, (fields, answer)
        assert on_flash(board, "settings.json") == json.loads(raw)
    assert ask(board, "POST", "/settings", {"later": {"secret": "battery staple"}}).status == 200
    board.reset()
    assert shown(board) == {}


def test_there_is_room_for_large_settings(make_board) -> None:
    """A board that is in no network, and so was reached at its own access point, checks settings of nearly
    2 KB while the page that sends them is open."""
    board = make_board(compiled=True)
    names = [f"{n}{'x' * 60}.example.org" for n in range(8)]
    put(board, {"names": names})
    board.reset()
    new = {
        "names": names,
        "wifi": [{"ssid": f"{n}" * 32, "password": ""} for n in range(1, 9)],
        "pins": {f"{pin}": {"safe": "high", "pull": "down"} for pin in WRITABLE},
    }
    text = json.dumps(new, separators=(",", ":"))
    assert 1700 < len(text) < 2048
    with connect(board) as page:
        for _ in range(30):
            for path in (b"/ui", b"/details", b"/settings"):
                assert b" 200 " in answer_on(page, b"GET %s HTTP/1.1\r\n\r\n" % path)
            assert ask(board, "POST", "/settings", text.encode()).status == 200


def test_only_who_may_control_changes_settings(make_board) -> None:
    """On a claimed board settings take the password; on a private one reading them does, too."""
    board = make_board()
    claim_by_hand(board, private=True)
    assert ask(board, "GET", "/settings").status == 401
    assert ask(board, "POST", "/settings", {"hostname": "x"}).status == 401
    assert on_flash(board, "settings.json") is None
    assert Person(board).ask("POST", "/settings", b'{"hostname": "x"}').status == 200


def test_settings_prove_good_by_a_request(make_board) -> None:
    """Settings under which a request came through their network are kept as the good ones."""
    board = booted(make_board(), new={"hostname": "new", "wifi": [HOME]})
    joined(board, "home")
    until(lambda: ask(board, "GET", "/").status == 200 and on_flash(board, "settings.good.json"))
    assert on_flash(board, "settings.good.json") == {"hostname": "new", "wifi": [HOME]}


def test_settings_that_nobody_came_under_are_put_aside(make_board) -> None:
    """After ten minutes in no network the board is back under the good settings, and says so."""
    board = make_board()
    board.set(wifi=[HOME])
    new = {"hostname": "new", "wifi": [{"ssid": "hoem", "password": HOME["password"]}]}
    booted(board, new=new, good={"hostname": "old", "wifi": [HOME]})
    boots = board.boots
    pass_time(board, 4, speed=200)  # no faster: what is left is for our own slowness
    assert (shown(board)["hostname"], board.boots) == ("new", boots)
    board.set(speed=200)
    until(lambda: board.boots > boots, 30)
    board.set(speed=1)
    board.wait_ready()
    assert shown(board)["hostname"] == "old"
    assert "put aside" in notices(board)
    assert on_flash(board, "settings.bad.json") == new
    joined(board, "home")
    assert board.boots == boots + 1


def test_a_board_without_good_settings_keeps_trying(make_board) -> None:
    """There is nothing to go back to: the board stays as it is, for as long as it takes."""
    board = make_board()
    board.set(wifi=[])
    booted(board, new={"hostname": "new", "wifi": [HOME]})
    boots = board.boots
    pass_time(board, 30)
    assert (shown(board)["hostname"], board.boots) == ("new", boots)
    board.set(wifi=[HOME], speed=30)
    joined(board, "home")


def mutated(rng: random.Random) -> bytes:
    """Settings as they are not meant to be: bytes lost, changed or doubled, or values of another kind."""
    raw = bytearray(json.dumps(FULL, ensure_ascii=rng.random() < 0.5).encode())
    kind = rng.randrange(5)
    if kind == 0:
        return bytes(raw[: rng.randrange(len(raw))])
    if kind == 1:
        for _ in range(rng.randrange(1, 8)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        return bytes(raw)
    if kind == 2:
        at = rng.randrange(len(raw))
        return bytes(raw[:at] + rng.randbytes(rng.randrange(1, 40)) + raw[at:])
    if kind == 3:
        values: list[Any] = [
            None,
            True,
            7,
            -1.5,
            1e300,
            "",
            "x" * 3000,
            [],
            [[[]]],
            {},
            {"a": {}},
            "ü",
        ]
        fields = {name: rng.choice(values) if rng.random() < 0.4 else FULL[name] for name in FULL}
        return json.dumps(fields).encode()
    return rng.choice(
        [b"", b"\xff" * 100, b"[" * 3000, b"null", b'"' * 50, b"{}" * 9, b"\0" * 5000]
    )


def test_sixty_kinds_of_bad_settings(make_board) -> None:
    """Whatever is in the files, the board boots and serves: by the good settings, or without any."""
    rng = random.Random(6)
    board = make_board()
    board.set(wifi=False)
    for number in range(60):
        bad = mutated(rng)
        good = {"hostname": "old"} if number % 2 else mutated(rng)
        booted(board, new=bad, good=good)
        assert ask(board, "GET", "/").json["id"] == board.id
        found = shown(board).get("hostname")
        said = notices(board)
        assert "settings.json is not in use" in said or found != "old", (bad, said)
        if number % 2 and "settings.json is not in use" in said:
            assert found == "old"
        for secret in SECRETS:
            assert secret not in said + board.console
    assert "Traceback" not in board.console
    assert board.phase == "ready"
