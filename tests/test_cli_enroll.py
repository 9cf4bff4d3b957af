"""`espcli register_all`: many boards from a list."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from claiming import Cli

from espnet.board import calls, client
from espnet.cli import claiming
from espnet.cli.session import Session
from espnet.clock import ManualClock
from espnet.credential import new_password
from espnet.errors import BoardError
from espnet.simulator.light import LightFleet
from espnet.store import Store

#: Where nobody listens.
NOBODY = "127.0.0.1:1"


@pytest.fixture
def fleet() -> Iterator[LightFleet]:
    with LightFleet(4, seed=8) as fleet:
        yield fleet


@pytest.fixture
def espcli(
    settings: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Cli:
    return Cli(capsys, monkeypatch)


@pytest.fixture
def enroll(
    espcli: Cli, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., list[dict[str, Any]]]:
    """What `register_all --json` tells of a list with these lines, and that it ends with this code."""

    def run(*lines: str, code: int = 0, words: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        from espnet.cli import main

        file = tmp_path / "boards.txt"
        file.write_text("\n".join(lines))
        capsys.readouterr()
        assert main(["register_all", str(file), *words, "--json"]) == code
        told: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return told

    return run


def test_every_board_of_a_list_is_registered_and_claimed(
    enroll: Any, fleet: LightFleet, store: Store
) -> None:
    """By address, with a name or without one, or as `simulate --json` prints them; with the tags given."""
    one, two, three, four = fleet
    rows = enroll(
        "# the farm",
        one.address,
        "",
        f"  {two.address}  porch ",
        json.dumps({"id": three.id, "address": three.address, "control": "x"}),
        json.dumps({"address": four.address, "name": "attic"}),
        words=("--tag", "site=farm"),
    )
    names = [f"espnet-{one.id[-6:]}", "porch", f"espnet-{three.id[-6:]}", "attic"]
    assert [row["registered_as"] for row in rows] == names
    assert [row["id"] for row in rows] == [board.id for board in fleet]
    assert {row["access"] for row in rows} == {"claimed"}
    assert {(view.device.name, view.device.tags) for view in store.views()} == {
        (name, ("site:farm",)) for name in names
    }
    assert all(view.device.credential for view in store.views())


def test_what_is_in_already_is_left_alone(enroll: Any, fleet: LightFleet, store: Store) -> None:
    """Repeating the command changes nothing; a board that moved is taken where it is."""
    lines = [board.address for board in fleet]
    before = enroll(*lines)
    known = {view.device.id: view.device for view in store.views()}
    for board in fleet:
        board.forget_requests()
    assert [row["registered_as"] for row in enroll(*lines)] == [
        row["registered_as"] for row in before
    ]
    assert {view.device.id: view.device for view in store.views()} == known
    assert {entry.path for board in fleet for entry in board.requests} == {"/"}
    moved = fleet[0].address.replace("127.0.0.1", "localhost")
    (row,) = enroll(moved)
    assert row["registered_as"] == before[0]["registered_as"]
    assert store.device(row["registered_as"]).address == moved


def test_a_board_that_cannot_be_registered_costs_nobody_else(
    enroll: Any, fleet: LightFleet, store: Store
) -> None:
    """Its row says why, the others are in, and the exit code is 1; repeated, those that are left come in."""
    fleet[1].fault("not_json", count=1)
    lines = [fleet[0].address, NOBODY, fleet[1].address, f"{fleet[2].address} porch"]
    rows = enroll(*lines, code=1)
    assert [bool(row["problem"]) for row in rows] == [False, True, True, False]
    rows = enroll(*lines, code=1)
    assert [bool(row["problem"]) for row in rows] == [False, True, False, False]
    assert len(store.views()) == 3


def test_a_fresh_board_is_asked_five_times(enroll: Any, fleet: LightFleet) -> None:
    """Who it is, the same under its lock, the claim, and the proof, for which it is challenged; whether
    one board is registered or several."""
    enroll(*(board.address for board in fleet))
    for board in fleet:
        asked = [request.path.partition("?")[0] for request in board.requests]
        assert asked == ["/", "/", "/claim", "/", "/"]
        assert [request.status for request in board.requests] == [200, 200, 200, 401, 200]
        assert board.most_connections == 1


def test_a_board_that_was_left_open_stays_open_where_it_moved(
    enroll: Any, espcli: Cli, fleet: LightFleet, store: Store
) -> None:
    """It is asked once, and what it said then is its reading."""
    espcli("register", fleet[0].address, "porch", "--open")
    fleet[0].forget_requests()
    before = store.view("porch")
    (row,) = enroll(fleet[0].address.replace("127.0.0.1", "localhost"))
    assert (row["registered_as"], row["access"]) == ("porch", "open")
    assert [request.path for request in fleet[0].requests] == ["/"]
    after = store.view("porch")
    assert not after.device.credential
    assert after.device.address.startswith("localhost:")
    assert before.reading is not None
    assert after.reading is not None
    assert after.reading.at > before.reading.at


def test_what_was_seen_long_ago_is_not_taken_for_true(
    espcli: Cli, fleet: LightFleet, store: Store
) -> None:
    """A long list takes minutes: an open board that somebody else claimed meanwhile is not said to be open,
    and is not stored."""
    board = fleet[0]
    espcli("register", board.address, "porch", "--open")
    session = Session(clock := ManualClock())
    moved = board.address.replace("127.0.0.1", "localhost")
    seen = claiming.look(session, moved)
    client.send(moved, calls.claim(new_password().ha1(board.id), False), 5.0)
    clock.advance(session.config.interval_s + 1)
    more: Any = {"replace": False, "leave_open": False, "board_id": board.id, "seen": seen}
    with pytest.raises(BoardError, match="is claimed, and EspNet does not have its password"):
        claiming.register(session, moved, "porch", (), claiming.How(), **more)
    session.store.close()
    assert store.device("porch").address == board.address


def test_a_taken_name_is_another_board_s(enroll: Any, fleet: LightFleet) -> None:
    """A name that another board has is refused for that line."""
    enroll(f"{fleet[0].address} porch")
    (row,) = enroll(f"{fleet[1].address} porch", code=1)
    assert "porch" in row["problem"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "lists no board"),
        ("# none\n\n", "lists no board"),
        ("{address}\n{address}\n", "line 1, too"),
        ("{address} a\n10.0.0.1 a\n", "Line 2"),
        ("{address} a b\n", "Line 1"),
        ("http://10.0.0.1\n", "Line 1"),
        ("{address}\n10.0.0.1 -x\n", "Line 2"),
        ('{{"address": 5}}\n', "Line 1"),
        ('{{"id": "a"}}\n', "Line 1"),
        ('{{"address"\n', "Line 1"),
    ],
)
def test_a_wrong_list_is_refused_before_anybody_is_called(
    text: str, why: str, espcli: Cli, fleet: LightFleet, store: Store, tmp_path: Path
) -> None:
    """The sentence names the line; no board is called, nothing is stored."""
    file = tmp_path / "boards.txt"
    file.write_text(text.format(address=fleet[0].address))
    assert why in espcli("register_all", str(file), code=2)
    assert fleet[0].requests == []
    assert store.views() == []


def test_a_file_that_is_not_there_is_said(espcli: Cli, tmp_path: Path) -> None:
    """With its name."""
    assert "none.txt cannot be read" in espcli("register_all", str(tmp_path / "none.txt"), code=1)


def test_people_see_what_became_of_each(espcli: Cli, fleet: LightFleet, tmp_path: Path) -> None:
    """A table, and how many are new."""
    file = tmp_path / "boards.txt"
    file.write_text("\n".join(board.address for board in fleet))
    said = espcli("register_all", str(file))
    assert "4 boards registered now" in said
    assert all(board.address in said for board in fleet)
