"""`espcli discover`: what it shows of boards that speak, and what it registers."""

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import redis
from air import LOOPBACK, Air, beacon
from board_wire import Say, Wire, answer, status_body
from claiming import Cli, everything, flash

from espnet.board.listener import Listener
from espnet.cli.discover import MAX_ADDRESSES
from espnet.model import Device, Reading
from espnet.simulator import Board, Fleet
from espnet.store import Store

ID, OTHER = "a0b1c2d3e4f5", "b" * 12


@pytest.fixture
def air(monkeypatch: pytest.MonkeyPatch, settings: None) -> Iterator[Air]:
    """What is said is also said once in the moment that somebody begins to listen, by who listens: it is
    heard within the second that he listens, however late the other thread is."""
    really_open = Listener.open

    def open_and_hear(listener: Listener) -> None:
        really_open(listener)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
            mouth.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for datagram in tuple(air.said):
                mouth.sendto(datagram, (LOOPBACK, air.port))

    with Air() as air:
        monkeypatch.setenv("ESPNET_BEACONS", air.address)
        monkeypatch.setattr(Listener, "open", open_and_hear)
        yield air


@pytest.fixture
def espcli(air: Air, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(capsys, monkeypatch)


@pytest.fixture
def discover(
    espcli: Cli, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[dict[str, Any]]]:
    """What `espcli discover --json` tells a program, and that it ends with this code."""

    def run(*words: str, code: int = 0) -> list[dict[str, Any]]:
        from espnet.cli import main

        capsys.readouterr()
        assert main(["discover", "--seconds", "1", *words, "--json"]) == code
        told: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return told

    return run


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        wire.default = lambda host, request: answer(status_body(ID))
        yield wire


@pytest.fixture(scope="module")
def fleet() -> Iterator[list[Board]]:
    with Fleet(3, seed=5, compiled=True) as fleet:
        yield list(fleet)


@pytest.fixture
def boards(fleet: list[Board]) -> list[Board]:
    for board in fleet:
        board.clear()
        board.unclaim()
    return fleet


def register(store: Store, address: str, device_id: str, name: str) -> None:
    reading = Reading(
        at=0, poll_s=0, interval_s=10, collector="", status=msgspec.Raw(status_body(device_id))
    )
    store.add(Device(id=device_id, name=name, address=address), reading, first_due=0)


# --- what is shown ----------------------------------------------------------------------------------


def test_boards_that_speak_are_listed(air: Air, discover: Any, wire: Wire, store: Store) -> None:
    """Who and where they are, as whom they are registered, and who may control them; each once."""
    wire.default = lambda host, _: answer(
        status_body(ID if host == "127.0.0.2" else OTHER, claimed=True, private=False)
    )
    register(store, wire.address("127.0.0.3"), OTHER, "shed")
    air.said += [
        beacon(ID, wire.address("127.0.0.2")),
        beacon(OTHER, wire.address("127.0.0.3"), ""),
    ]
    assert discover() == [
        {
            "name": "porch",
            "id": ID,
            "address": wire.address("127.0.0.2"),
            "version": "0.2.0",
            "registered_as": None,
            "moved_from": None,
            "access": "claimed",
            "problem": None,
        },
        {
            "name": None,
            "id": OTHER,
            "address": wire.address("127.0.0.3"),
            "version": "0.2.0",
            "registered_as": "shed",
            "moved_from": None,
            "access": "open",
            "problem": None,
        },
    ]
    assert not wire.requests["127.0.0.3"], "what a registered one is, its polls say"


def test_a_board_that_moved_is_shown_with_its_old_address(
    air: Air, discover: Any, espcli: Cli, wire: Wire, store: Store, raw: redis.Redis
) -> None:
    """It is only said, so nothing is changed, and nothing is asked; not by --register either."""
    register(store, "127.0.0.9:81", ID, "shed")
    air.said.append(beacon(ID, wire.address()))
    before = everything(raw)
    for words in ([], ["--register"]):
        (row,) = discover(*words)
        assert (row["registered_as"], row["moved_from"]) == ("shed", "127.0.0.9:81")
    assert everything(raw) == before
    assert not wire.requests
    said = espcli("discover", "--seconds", "1")
    assert f"`espcli register {wire.address()} shed`" in said


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_name_of_the_same_address_is_no_move(
    host: str, air: Air, discover: Any, wire: Wire, store: Store
) -> None:
    """A device may be registered by a name that a name server knows."""
    register(store, f"{host}:{wire.port}", ID, "shed")
    air.said.append(beacon(ID, wire.address()))
    assert discover()[0]["moved_from"] is None


def test_a_name_that_nobody_knows_is_no_move(
    air: Air, discover: Any, wire: Wire, store: Store
) -> None:
    """Who is not found may be anywhere, also here."""
    register(store, f"no-such-host.invalid:{wire.port}", ID, "shed")
    air.said.append(beacon(ID, wire.address()))
    assert discover()[0]["moved_from"] is None


def test_silence_is_no_failure(espcli: Cli, discover: Any) -> None:
    """Programs get an empty list, people what to look at."""
    assert discover() == []
    assert discover("--register") == []
    assert "No board spoke within 1 s" in espcli("discover", "--seconds", "1")


def test_noise_is_not_listed(air: Air, discover: Any) -> None:
    """Nor are beacons that name somebody else's address, or everybody's."""
    air.said += [b"noise", b"{}", beacon("../x", "127.0.0.1"), beacon(ID, "8.8.8.8")]
    air.said += [
        beacon(ID, "224.0.0.1"),
        beacon(ID, "127.0.0.1:0"),
        beacon(ID, "127.0.0.1", espnet=2),
    ]
    assert discover() == []


def test_a_board_that_says_two_addresses_is_doubtful(
    air: Air, discover: Any, wire: Wire, raw: redis.Redis
) -> None:
    """One of them lies, or it moved a moment ago: it is shown, and not registered."""
    hosts = [f"127.0.0.{number}" for number in range(2, 4 + MAX_ADDRESSES)]
    air.said += [beacon(ID, wire.address(host)) for host in hosts]
    (row,) = discover("--register", code=1)
    assert "is said to be at" in row["problem"]
    assert row["problem"].count("127.0.0.") == MAX_ADDRESSES - 1
    assert row["registered_as"] is None
    assert not raw.hlen("espnet:devices")


def refuses(request: bytes) -> Say:
    return answer(b'{"error": "no"}', status="401 No")


@pytest.mark.parametrize(
    ("say", "access", "problem"),
    [
        (refuses, "private", None),
        (lambda _: answer(status_body(ID, claimed=True, private=True)), "private", None),
        (lambda _: answer(status_body(ID)), "open", None),
        (lambda _: answer(status_body("c" * 12)), None, "is another one"),
        (lambda _: answer(b"<html>"), None, "did not answer JSON"),
        (lambda _: Say(then="close"), None, "broke the connection off"),
    ],
)
def test_what_a_board_is_it_says_itself(
    say: Any, access: str | None, problem: str | None, air: Air, discover: Any, wire: Wire
) -> None:
    """Who may control it, or what is wrong at its address; it is asked once."""
    wire.default = lambda host, request: say(request)
    air.said.append(beacon(ID, wire.address()))
    (row,) = discover()
    assert row["access"] == access
    assert (problem in row["problem"]) if problem else row["problem"] is None
    assert len(wire.requests["127.0.0.1"]) == 1


# --- what is registered -----------------------------------------------------------------------------


def test_boards_are_registered_and_claimed(
    air: Air, discover: Any, espcli: Cli, store: Store, boards: list[Board]
) -> None:
    """Under their own names; where two have the same, or none, the end of the id says which it is. What was
    registered already is left alone, and a second time there is nothing left to do."""
    named = [("porch", boards[0]), ("porch", boards[1]), ("", boards[2])]
    air.said += [beacon(board.id, board.address, name) for name, board in named]
    rows = discover("--register", "--tag", "site=farm,room:attic")
    first, second = sorted(boards[:2], key=lambda board: board.id)
    names = {
        first.id: "porch",
        second.id: f"porch-{second.id[-6:]}",
        boards[2].id: f"espnet-{boards[2].id[-6:]}",
    }
    assert {row["id"]: row["registered_as"] for row in rows} == names
    assert {row["access"] for row in rows} == {"claimed"}
    for board in boards:
        device = store.device_of(board.id)
        assert device is not None
        assert (device.name, device.address) == (names[board.id], board.address)
        assert device.tags == ("site:farm", "room:attic")
        password = espcli.password(device.name)
        assert flash(board) is not None
        assert store.credential(board.id).passwords[0].reveal() == password
    before = store.devices()
    assert {row["registered_as"] for row in discover("--register")} == set(names.values())
    assert store.devices() == before


def test_one_that_fails_does_not_stop_the_others(
    air: Air, discover: Any, espcli: Cli, store: Store, wire: Wire, boards: list[Board]
) -> None:
    """Somebody else's board, one that is not there, one that is another: each says what is wrong, the good
    one is registered, and the command has failed."""
    foreign, good = boards[0], boards[1]
    espcli("register", foreign.address, "mine")
    espcli("unregister", "mine", "--forget")
    air.said += [
        beacon(foreign.id, foreign.address, "foreign"),
        beacon("0" * 12, "127.0.0.9:9", "ghost"),
        beacon(OTHER, wire.address(), "liar"),
        beacon(good.id, good.address, "good"),
    ]
    rows = {row["name"]: row for row in discover("--register", code=1)}
    assert "EspNet does not have its password" in rows["foreign"]["problem"]
    assert "refused the connection" in rows["ghost"]["problem"]
    assert "is another one" in rows["liar"]["problem"]
    assert rows["good"]["problem"] is None
    assert [device.name for device in store.devices()] == ["good"]


def test_a_liar_gets_no_password_of_a_registered_board(
    air: Air, discover: Any, store: Store, wire: Wire, boards: list[Board]
) -> None:
    """An id that is registered elsewhere is not registered anew: its owner is not even asked."""
    register(store, "127.0.0.9:9", ID, "shed")
    air.said.append(beacon(ID, wire.address(), "shed"))
    discover("--register")
    assert not wire.requests
    device = store.device_of(ID)
    assert device is not None
    assert device.address == "127.0.0.9:9"


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        *(
            [
                ["--seconds", text]
                for text in ("0", "-1", "0.5", "3601", "abc", "", "1e400", "nan", "٣")
            ]
        ),
        ["--seconds"],
        ["--seconds=1", "--seconds=2"],
        ["1"],
        ["porch", "now"],
        ["--register=yes"],
        ["--register", "now"],
        ["--tag", "room=attic"],
        ["--register", "--tag"],
        *(
            [
                ["--register", "--tag", text]
                for text in (",", "1a=b", "=b", "a b=c", "a=b,", "a" * 201)
            ]
        ),
        ["--tags", "room:attic"],
        ["--all"],
        ["--ask"],
        ["-x"],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused_before_anybody_listens(
    words: list[str], espcli: Cli, raw: redis.Redis
) -> None:
    """One sentence, exit code 2, and nothing done."""
    espcli("discover", *words, code=2)
    assert not everything(raw)


def test_where_nothing_can_be_heard_that_is_said(
    espcli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off, taken by who does not share, or not an address of this machine."""
    monkeypatch.setenv("ESPNET_BEACONS", "off")
    assert "ESPNET_BEACONS is off" in espcli("discover", "--seconds", "1", code=1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((LOOPBACK, 0))
        monkeypatch.setenv("ESPNET_BEACONS", f"{LOOPBACK}:{taken.getsockname()[1]}")
        assert "in use" in espcli("discover", "--seconds", "1", code=1)
    monkeypatch.setenv("ESPNET_BEACONS", "192.0.2.1:8469")
    assert "cannot be listened for at 192.0.2.1:8469" in espcli(
        "discover", "--seconds", "1", code=1
    )


def test_redis_comes_before_listening(espcli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a minute to be told that Redis is away."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    espcli("discover", code=3)
