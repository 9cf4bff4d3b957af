"""A running collector finds boards again that moved, and nobody leads it astray."""

import socket
from collections.abc import Iterator

import msgspec
import pytest
from air import LOOPBACK, Air, beacon

from espnet.simulator import Board
from espnet.store import Store

from .world import World, polls, wait_for


@pytest.fixture
def air(world: World) -> Iterator[Air]:
    with Air() as air:
        world.environ["ESPNET_BEACONS"] = air.address
        yield air


def move(store: Store, name: str, address: str) -> None:
    """Somebody else has the device's address now, or nobody."""
    store.change(name, lambda old: msgspec.structs.replace(old, address=address), now=0)


def test_boards_that_moved_are_polled_where_they_are(
    world: World, boards: list[Board], air: Air
) -> None:
    """Two changed places and one is nowhere: all are online again, claimed or not, each as itself; their
    device was moved once, and the log says from where to where."""
    porch, attic, shed = boards[:3]
    for board, name in ((porch, "porch"), (attic, "attic")):
        world.espcli("register", board.address, name)
    world.espcli("register", shed.address, "shed", "--open")
    with world.store() as store:
        move(store, "porch", attic.address)
        move(store, "attic", porch.address)
        move(store, "shed", "127.0.0.9:9")
        run = world.start()
        for name in ("porch", "attic", "shed"):
            wait_for(f"{name} lost", lambda name=name: store.view(name).fault)
        air.said += [beacon(board.id, board.address) for board in (porch, attic, shed)]
        for board, name in ((porch, "porch"), (attic, "attic"), (shed, "shed")):
            wait_for(f"{name} online", lambda name=name: world.state(store, name) == "online")
            assert store.device(name).address == board.address
        assert world.espcli("devices")
    moved = {event["name"]: event for event in run.events("device.moved")}
    assert len(run.events("device.moved")) == 3
    assert {
        name: (event["was"], event["address"], event["proved"]) for name, event in moved.items()
    } == {
        "porch": (attic.address, porch.address, True),
        "attic": (porch.address, attic.address, True),
        "shed": ("127.0.0.9:9", shed.address, False),
    }
    assert run.stop() == 0


def test_a_liar_leads_nobody_astray(world: World, boards: list[Board], air: Air) -> None:
    """Beacons say of a healthy device that it is where another board is, and of a lost one that it is where a
    board without its password is: the first is polled on as if nothing were, the second stays lost."""
    porch, lost, liar = boards[:3]
    world.espcli("register", porch.address, "porch")
    world.espcli("register", lost.address, "lost")
    with world.store() as store:
        move(store, "lost", "127.0.0.9:9")
        run = world.start()
        wait_for("porch online", lambda: world.state(store, "porch") == "online")
        air.said += [beacon(one.id, liar.address) for one in (porch, lost)]
        refused = run.wait_for_event("beacon.refused")
        assert (refused["name"], refused["address"]) == ("lost", liar.address)
        seen = len(polls(porch))
        wait_for("it is polled on", lambda: len(polls(porch)) > seen + 3)
        assert store.device("porch").address == porch.address
        assert store.device("lost").address == "127.0.0.9:9"
        assert store.view("porch").fault is None
    # The liar was asked for the lost one only, and once.
    asked = [request.path.partition("?")[0] for request in liar.requests if request.status != 401]
    assert asked == ["/"]
    assert not run.events("device.moved")
    assert run.stop() == 0


@pytest.mark.parametrize("address", ["taken", "192.0.2.1:8469"])
def test_where_nobody_can_listen_the_rest_goes_on(
    address: str, world: World, boards: list[Board]
) -> None:
    """It is said once, with what that means; polls are as ever."""
    world.register(boards[0], names="porch")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((LOOPBACK, 0))
        if address == "taken":
            address = f"{LOOPBACK}:{taken.getsockname()[1]}"
        run = world.start(ESPNET_BEACONS=address)
        told = run.wait_for_event("beacons.off")
        assert (told["address"], told["level"]) == (address, "warning")
        wait_for("it is polled", lambda: len(polls(boards[0])) > 3)
        assert len(run.events("beacons.off")) == 1
        assert run.stop() == 0
