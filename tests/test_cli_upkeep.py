"""`espcli device NAME crash`, `settings` and `restart`: what a board is asked, and what a person is told.

The board is played at the wire: it keeps settings as docs/board.md says.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from board_wire import Say, Wire, answer, status_body
from claiming import Cli, everything

from espnet.model import Device, Reading
from espnet.store import Store

ID = "a0b1c2d3e4f5"
SECRET, NEW = "correct horse battery", "staple of horses"
SETTINGS: dict[str, Any] = {
    "hostname": "porch",
    "wifi": [{"ssid": "home", "password": SECRET}, {"ssid": "open", "password": ""}],
    "zone": "Europe/Vienna",
    "pins": {"4": {"safe": "high", "pull": "up"}},
}
TRACE = 'Traceback (most recent call last):\n  File "calls.py", line 7, in gpio\nOSError: \x1b[31m5'


class Played:
    """A board with settings, a crash, and a switch for being old."""

    def __init__(self) -> None:
        self.settings = json.loads(json.dumps(SETTINGS))
        self.details: dict[str, Any] = {"id": ID, "name": "porch", "rssi": -60, "pins": {}}
        self.details |= {"notices": [], "crash": None}
        self.status: dict[str, Any] = {
            "reset_cause": "watchdog",
            "uptime_s": 7200,
            "version": "0.2.0",
        }
        self.asked: list[tuple[str, str]] = []
        self.is_old = False
        self.refusal: bytes | None = None

    def __call__(self, host: str, request: bytes) -> Say:
        method, path, _ = request.decode().split(" ", 2)
        body = request.partition(b"\r\n\r\n")[2]
        self.asked.append((method, path))
        if path == "/":
            return answer(status_body(ID, **self.status))
        if self.is_old:
            return answer(b'{"error": "no such path", "field": null}', status="404 Not Found")
        if path == "/details":
            return answer(json.dumps(self.details).encode())
        if (method, path) == ("GET", "/settings"):
            return answer(json.dumps({"id": ID, **self.masked()}).encode())
        if (method, path) == ("POST", "/settings"):
            assert b"content-type: application/json" in request.lower()
            if self.refusal:
                return answer(self.refusal, status="422 Unprocessable")
            self.take(json.loads(body))
        return answer(json.dumps({"id": ID, "status": "OK"}).encode())

    def masked(self) -> dict[str, Any]:
        told = json.loads(json.dumps(self.settings))
        for holder in (*told.get("wifi", ()), *([told["ap"]] if "ap" in told else ())):
            holder["password"] = bool(holder["password"])
        return dict(told)

    def take(self, new: dict[str, Any]) -> None:
        """True keeps the password of the same network."""
        known = {network["ssid"]: network["password"] for network in self.settings["wifi"]}
        for network in new.get("wifi", ()):
            if network["password"] is True:
                network["password"] = known[network["ssid"]]
        self.settings = new

    @property
    def changes(self) -> list[tuple[str, str]]:
        return [asked for asked in self.asked if asked[0] == "POST"]


@pytest.fixture
def board() -> Played:
    return Played()


@pytest.fixture
def wire(board: Played) -> Iterator[Wire]:
    with Wire() as wire:
        wire.default = board
        yield wire


@pytest.fixture
def espcli(
    settings: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    store: Store,
    wire: Wire,
) -> Cli:
    reading = Reading(
        at=0, poll_s=0, interval_s=10, collector="", status=msgspec.Raw(status_body(ID))
    )
    store.add(Device(id=ID, name="porch", address=wire.address()), reading, first_due=0)
    return Cli(capsys, monkeypatch)


# --- crash ------------------------------------------------------------------------------------------


def test_a_crash_is_shown_with_its_circumstances(espcli: Cli, board: Played) -> None:
    """Cause, boots, uptime, build, the traceback line by line without control characters, and the notices."""
    board.status |= {"boots": 17, "build": "0123456789ab", "trial": True, "safe_mode": True}
    board.details["crash"] = {"text": TRACE, "ago_s": 120, "build": "ba9876543210"}
    board.details["notices"] = ["The board no longer did its work."]
    board.details["undone"] = {"build": "f" * 12, "version": "0.3.0", "why": "it did not answer"}
    said = espcli("device", "porch", "crash")
    for words in (
        "watchdog, 2 h ago; 17 boots so far",
        "0.2.0, build 0123456789ab (on trial)",
        "on: no pins, no sensors",
        "The board no longer did its work.",
        "0.3.0, build ffffffffffff: it did not answer",
        "2 min ago, in build ba9876543210",
        '  File "calls.py", line 7, in gpio\n',
        "OSError: \\x1b[31m5",
    ):
        assert words in said
    told = json.loads(espcli("device", "porch", "crash", "--json"))
    assert told["crash"] == board.details["crash"]
    assert told["undone"] == board.details["undone"]
    assert (told["reset_cause"], told["boots"], told["safe_mode"]) == ("watchdog", 17, True)
    assert not board.changes


def test_no_crash_is_no_crash(espcli: Cli, board: Played) -> None:
    """Nor is one before the last reset older than anybody knows."""
    assert "last crash" in (said := espcli("device", "porch", "crash"))
    assert "none" in said
    board.details["crash"] = {"text": TRACE, "ago_s": None}
    assert "before its last reset" in espcli("device", "porch", "crash")


def test_a_board_of_2021_has_no_crash_to_tell(espcli: Cli, board: Played) -> None:
    """What it knows is told all the same."""
    board.is_old, board.status = True, {}
    said = espcli("device", "porch", "crash")
    assert "nobody knows why" in said
    assert "its firmware keeps none" in said


@pytest.mark.parametrize(
    "details",
    [
        b"[]",
        b"{}",
        b'{"id": "another"}',
        b'{"id": "a0b1c2d3e4f5", "crash": "text"}',
        b'{"id": "a0b1c2d3e4f5", "crash": {"ago_s": 5}}',
        b'{"id": "a0b1c2d3e4f5", "notices": "all"}',
        b"\xff",
    ],
)
def test_what_makes_no_sense_is_said(
    details: bytes, espcli: Cli, wire: Wire, board: Played
) -> None:
    """One sentence, and the board that said it."""
    wire.default = lambda host, request: (
        answer(details) if b"/details" in request else board(host, request)
    )
    assert wire.address() in espcli("device", "porch", "crash", code=1)


# --- restart ----------------------------------------------------------------------------------------


def test_a_board_restarts_when_it_is_told_to(espcli: Cli, board: Played) -> None:
    """Once, and nothing else is asked of it."""
    assert espcli("device", "porch", "restart") == "porch restarts.\n"
    assert board.asked == [("POST", "/restart")]


@pytest.mark.parametrize(
    "words",
    [["restart"], ["settings"], ["settings", "edit", "zone=UTC"], ["settings", "set"]],
    ids=" ".join,
)
def test_an_old_board_is_said_to_be_too_old(words: list[str], espcli: Cli, board: Played) -> None:
    """And which call it does not know."""
    board.is_old = True
    said = espcli("device", "porch", *words, code=1, stdin="{}")
    assert "firmware of porch is too old" in said


# --- settings: what is shown --------------------------------------------------------------------------


def test_settings_are_shown_without_secrets(espcli: Cli, board: Played) -> None:
    """Also those of a board that forgets to hide them."""
    for _ in range(2):
        told = json.loads(espcli("device", "porch", "settings", "show", "--json"))
        assert told == {
            **SETTINGS,
            "wifi": [{"ssid": "home", "password": True}, {"ssid": "open", "password": False}],
        }
        for words in ([], ["show"]):
            said = espcli("device", "porch", "settings", *words)
            assert "hostname: porch" in said
            assert SECRET not in said
        board.masked = lambda: board.settings  # type: ignore[method-assign]
    assert not board.changes


def test_what_is_shown_can_be_set_again(espcli: Cli, board: Played, tmp_path: Path) -> None:
    """The passwords are still there afterwards."""
    shown = espcli("device", "porch", "settings", "show", "--json")
    (tmp_path / "porch.json").write_text(shown)
    espcli("device", "porch", "settings", "set", str(tmp_path / "porch.json"))
    assert board.settings == SETTINGS
    espcli("device", "porch", "settings", "set", stdin=shown)
    assert board.settings == SETTINGS


# --- settings: what is changed ------------------------------------------------------------------------

HOME, OPEN = SETTINGS["wifi"]
STATIC = {"ip": "10.0.0.9", "mask": "255.0.0.0", "gateway": "10.0.0.1", "dns": "10.0.0.1"}
GARDEN = {"ssid": "garden", "password": NEW}


@pytest.mark.parametrize(
    ("changes", "typed", "now"),
    [
        (["hostname=shed"], "", {"hostname": "shed"}),
        (["hostname=shed", "country=AT"], "", {"hostname": "shed", "country": "AT"}),
        (["watchdog_s=60"], "", {"watchdog_s": 60}),
        (["names=porch.lan,porch.example.org"], "", {"names": ["porch.lan", "porch.example.org"]}),
        (["ntp=off"], "", {"ntp": ""}),
        (["ntp=10.0.0.1"], "", {"ntp": "10.0.0.1"}),
        (["address=dhcp"], "", {"address": "dhcp"}),
        (["address=10.0.0.9,255.0.0.0,10.0.0.1,10.0.0.1"], "", {"address": STATIC}),
        (["zone="], "", {"zone": None}),
        (["country="], "", {}),
        (["wifi=open,home"], "", {"wifi": [OPEN, HOME]}),
        (["wifi=home"], "", {"wifi": [HOME]}),
        (["wifi="], "", {"wifi": None}),
        (["wifi=garden,home"], f"{NEW}\n", {"wifi": [GARDEN, HOME]}),
        (["wifi=garden"], "\n", {"wifi": [{"ssid": "garden", "password": ""}]}),
        (["wifi=home", "--ask"], f"{NEW}\n", {"wifi": [{"ssid": "home", "password": NEW}]}),
        (["ap=on"], f"{NEW}\n", {"ap": {"password": NEW}}),
        (["ap=off"], "", {}),
        (
            ["wifi=garden,home", "ap=on"],
            f"{NEW}\n{SECRET}\r\n",
            {"wifi": [GARDEN, HOME], "ap": {"password": SECRET}},
        ),
        (["pins.4.safe=low"], "", {"pins": {"4": {"safe": "low", "pull": "up"}}}),
        (["pins.4.pull="], "", {"pins": {"4": {"safe": "high"}}}),
        (["pins.4="], "", {"pins": {}}),
        (["pins.5="], "", {}),
        (["pins.5.safe="], "", {}),
        (["pins="], "", {"pins": None}),
        (["pins.5.safe=hold"], "", {"pins": {**SETTINGS["pins"], "5": {"safe": "hold"}}}),
    ],
)
def test_what_is_edited_changes_and_the_rest_stays(
    changes: list[str], typed: str, now: dict[str, Any], espcli: Cli, board: Played
) -> None:
    """Passwords of known networks are kept, those of new ones come from standard input, line by line."""
    said = espcli("device", "porch", "settings", "edit", *changes, stdin=typed)
    wanted = {key: value for key, value in (SETTINGS | now).items() if value is not None}
    assert board.settings == wanted
    assert "hold from its next restart on" in said
    assert board.changes == [("POST", "/settings")]
    for secret in (SECRET, NEW):
        assert secret not in said


def test_a_restart_comes_when_it_is_asked_for(espcli: Cli, board: Played) -> None:
    """After the settings were taken, and not when they were refused."""
    for words in (["edit", "zone=UTC"], ["set"]):
        board.asked.clear()
        said = espcli("device", "porch", "settings", *words, "--restart", stdin='{"zone": "UTC"}')
        assert "it restarts with them now" in said
        assert board.changes == [("POST", "/settings"), ("POST", "/restart")]
    board.asked.clear()
    board.refusal = b'{"error": "no room", "field": "wifi"}'
    said = espcli("device", "porch", "settings", "edit", "zone=UTC", "--restart", code=1)
    assert "no room (field wifi)" in said
    assert board.changes == [("POST", "/settings")]


def test_people_see_which_networks_the_board_will_join(espcli: Cli) -> None:
    """What they read was not proved: a network that is not theirs must not come in unseen."""
    said = espcli("device", "porch", "settings", "edit", "zone=UTC")
    assert "with the Wi-Fi home, open (open without a password)" in said
    assert "without any Wi-Fi" in espcli("device", "porch", "settings", "edit", "wifi=")


def test_programs_are_told_without_secrets(espcli: Cli) -> None:
    """What was written, of passwords only that they are there."""
    words = ("device", "porch", "settings", "edit", "wifi=garden", "--json")
    told = json.loads(espcli(*words, stdin=NEW + "\n"))
    assert told["settings"]["wifi"] == [{"ssid": "garden", "password": True}]
    assert (told["name"], told["restarted"]) == ("porch", False)


def test_a_terminal_is_asked_without_an_echo(
    espcli: Cli, board: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By getpass, network by network, by its name."""
    import getpass
    import io

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    asked: list[str] = []
    monkeypatch.setattr(getpass, "getpass", lambda prompt: asked.append(prompt) or NEW)
    espcli("device", "porch", "settings", "edit", "wifi=home,garden", stdin=Terminal())
    assert asked == ["Password of the Wi-Fi 'garden' (empty: it is open): "]
    assert board.settings["wifi"] == [HOME, GARDEN]


# --- settings: what is refused ------------------------------------------------------------------------

WRONG_EDITS = [
    [],
    ["hostname"],
    ["=porch"],
    ["hostname=-porch"],
    ["hostname=po rch"],
    ["Hostname=porch"],
    ["host=porch"],
    ["watchdog_s=9"],
    ["watchdog_s=1e2"],
    ["watchdog_s=٣٠"],
    ["names=Porch"],
    ["names=,"],
    ["wifi=,home"],
    ["wifi=home,home"],
    ["wifi=" + "x" * 33],
    ["wifi.home.password=" + SECRET],
    ["wifi=a,b,c,d,e,f,g,h,i"],
    ["address=static"],
    ["address=10.0.0.9"],
    ["address=10.0.0.9,255.0.0.0,10.0.0.1,x"],
    ["address.ip=10.0.0.9"],
    ["country=Austria"],
    ["zone=Vienna"],
    ["ap=" + SECRET],
    ["ntp=time server"],
    ["pins=4"],
    ["pins.4=high"],
    ["pins.4.safe=on"],
    ["pins.4.level=1"],
    ["pins.4.safe.x=1"],
    ["pins.6.safe=low"],
    ["pins.four.safe=low"],
    ["__class__=1"],
    ["\x1b[31m=1"],
    ["zone=UTC", "--restart=yes"],
    ["zone=UTC", "--now"],
]


@pytest.mark.parametrize("words", WRONG_EDITS, ids=repr)
def test_a_wrong_change_changes_nothing(
    words: list[str], espcli: Cli, board: Played, raw: redis.Redis
) -> None:
    """One sentence, exit code 2, and the board is told nothing."""
    before = everything(raw)
    typed = f"{NEW}\n" * 9
    said = espcli("device", "porch", "settings", "edit", *words, code=2, stdin=typed)
    assert NEW not in said
    assert not board.changes
    assert board.settings == SETTINGS
    assert everything(raw) == before


@pytest.mark.parametrize(
    "typed", ["", "short\n", "x" * 64 + "\n", "\n", "a\x01b" * 4 + "\n"], ids=repr
)
def test_a_wrong_password_changes_nothing(typed: str, espcli: Cli, board: Played) -> None:
    """None at all, too short, too long, none for the access point, not printable; it is not repeated."""
    said = espcli("device", "porch", "settings", "edit", "ap=on", code=2, stdin=typed)
    assert not board.changes
    if typed.strip():
        assert typed.strip() not in said


WRONG_FILES = [
    "",
    "{",
    "[]",
    "null",
    '"text"',
    '{"wlan": []}',
    '{"hostname": 5}',
    '{"hostname": "-"}',
    '{"wifi": [{"ssid": "home", "password": "short"}]}',
    '{"wifi": [{"ssid": "home", "password": null}]}',
    '{"wifi": [{"password": "' + SECRET + '"}]}',
    '{"wifi": "home"}',
    '{"ap": {"password": ""}}',
    '{"watchdog_s": 5}',
    '{"zone": "Mars"}',
    '{"pins": {"40000": {}}}',
    '{"ntp": "' + "x" * 300 + '"}',
    " " * 70_000,
    "[" * 5_000,
    '{"hostname": "\\ud800"}',
]


@pytest.mark.parametrize("text", WRONG_FILES, ids=lambda text: repr(text[:40]))
def test_a_wrong_file_changes_nothing(
    text: str, espcli: Cli, board: Played, tmp_path: Path
) -> None:
    """One sentence, exit code 2; the board is told nothing, and no password is repeated."""
    (tmp_path / "wrong.json").write_text(text)
    for words, typed in (([str(tmp_path / "wrong.json")], ""), ([], text)):
        said = espcli("device", "porch", "settings", "set", *words, code=2, stdin=typed)
        assert SECRET not in said
        assert "short" not in said
    assert not board.asked


def test_a_file_that_cannot_be_read_changes_nothing(
    espcli: Cli, board: Played, tmp_path: Path
) -> None:
    """None there, a folder, not UTF-8, closed standard input, a name that cannot be one."""
    (tmp_path / "latin").write_bytes(b'{"hostname": "\xff"}')
    for file in ("nowhere.json", str(tmp_path), str(tmp_path / "latin")):
        espcli("device", "porch", "settings", "set", file, code=2)
    espcli("device", "porch", "settings", "set", code=2, stdin=None)
    assert not board.asked


@pytest.mark.parametrize(
    "words",
    [
        ["crash", "now"],
        ["crash", "--all"],
        ["restart", "now"],
        ["restart", "--anyway"],
        ["settings", "get"],
        ["settings", "show", "hostname"],
        ["settings", "set"],
        ["settings", "set", "a", "b"],
        ["settings", "set", ""],
        ["settings", "reset"],
        ["settings", "_post"],
        ["settings", "__class__"],
        ["crash", "text"],
        ["reboot"],
    ],
    ids=" ".join,
)
def test_words_that_make_no_sense_do_nothing(words: list[str], espcli: Cli, board: Played) -> None:
    """One sentence, exit code 2."""
    espcli("device", "porch", *words, code=2)
    assert not board.asked


@pytest.mark.parametrize(
    "words", [["crash"], ["restart"], ["settings"], ["settings", "edit", "zone=UTC"]]
)
def test_a_board_that_is_not_there_is_said(words: list[str], espcli: Cli, store: Store) -> None:
    """So is a device that nobody registered."""
    store.change("porch", lambda old: msgspec.structs.replace(old, address="127.0.0.1:1"), now=0)
    assert "127.0.0.1:1" in espcli("device", "porch", *words, code=1)
    assert "'shed'" in espcli("device", "shed", *words, code=1)
