"""The board's own beacons: the real firmware speaks, and is found, registered, set up and restarted."""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from air import LOOPBACK, Air

from espnet.simulator import Board, Fleet

from .world import World, wait_for

#: So many times faster passes a board's time, so that it speaks every few seconds.
SPEED = 20


@pytest.fixture
def speaking(world: World) -> Iterator[list[Board]]:
    """Three boards that speak where the world listens; the first and the third have a name."""
    port = Air().port
    world.environ["ESPNET_BEACONS"] = f"{LOOPBACK}:{port}"
    with Fleet(3, seed=21, compiled=True, beacon_port=port, speed=SPEED, heap="188K") as fleet:
        for board, name in zip(fleet, ("porch", "", "porch"), strict=True):
            if name:
                settings = {
                    "hostname": name,
                    "wifi": [{"ssid": "home", "password": "correct horse"}],
                }
                (board.flash / "settings.json").write_text(json.dumps(settings))
                board.reset()
        yield list(fleet)


def test_boards_are_found_registered_and_polled(world: World, speaking: list[Board]) -> None:
    """With one command from nothing; one that is moved away in the registry is followed by its own beacon."""
    told = world.json("discover", "--seconds", "8", "--register", "--tag", "site=farm")
    assert {row["id"] for row in told} == {board.id for board in speaking}
    assert {row["address"] for row in told} == {board.address for board in speaking}
    assert [row["problem"] for row in told] == [None] * 3
    names = {row["id"]: row["registered_as"] for row in told}
    assert sorted(names.values())[1:] == sorted(
        ["porch", f"porch-{max(speaking[0].id, speaking[2].id)[-6:]}"]
    )
    run = world.start()
    with world.store() as store:
        for name in names.values():
            wait_for(f"{name} online", lambda name=name: world.state(store, name) == "online")
        board = speaking[0]
        store.change(
            names[board.id],
            lambda old: msgspec.structs.replace(old, address="127.0.0.9:9"),
            now=0,
        )
        moved = run.wait_for_event("device.moved")
        assert (moved["id"], moved["address"], moved["proved"]) == (board.id, board.address, True)
        wait_for("online", lambda: world.state(store, names[board.id]) == "online")
    assert run.stop() == 0


def test_a_claimed_board_is_set_up_and_restarted(
    world: World, speaking: list[Board], tmp_path: Path
) -> None:
    """What is shown can be set again; a password is kept; the settings hold after the restart that was asked
    for; only who has the password may do it."""
    board = speaking[0]
    world.espcli("register", board.address, "porch")
    shown = world.json("device", "porch", "settings", "show")
    assert shown["wifi"] == [{"ssid": "home", "password": True}]
    (tmp_path / "porch.json").write_text(json.dumps(shown))
    world.espcli("device", "porch", "settings", "set", str(tmp_path / "porch.json"))
    before = board.boots
    said = world.espcli(
        "device", "porch", "settings", "edit", "hostname=veranda", "pins.4.pull=up", "--restart"
    )
    assert "it restarts with them now" in said
    wait_for("it restarts", lambda: board.boots > before)
    board.wait_ready()
    now = world.json("device", "porch", "settings")
    assert (now["hostname"], now["pins"]) == ("veranda", {"4": {"pull": "up"}})
    kept = json.loads((board.flash / "settings.json").read_text())
    assert kept["wifi"] == [{"ssid": "home", "password": "correct horse"}]
    told = world.json("device", "porch", "crash")
    assert told["crash"] is None
    assert told["reset_cause"]
    before = board.boots
    world.espcli("device", "porch", "restart")
    wait_for("it restarts again", lambda: board.boots > before)
    board.wait_ready()
    world.espcli("unregister", "porch", "--forget")
    world.espcli("register", board.address, "porch", "--open")
    for words in (["restart"], ["settings", "edit", "hostname=mine"], ["settings"]):
        assert "claimed" in world.espcli("device", "porch", *words, code=1)
