"""What the end-to-end tests share: a fleet, and worlds that end with their tests."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet import server
from espnet.simulator import Board, Fleet
from espnet.simulator.intake import Intake

from .governing import DHT
from .world import KEY, World, marked_processes


@pytest.fixture(scope="session")
def many_boards() -> Iterator[list[Board]]:
    """Seven boards with the goal heap, shared by the tests; ask for `boards` instead of this."""
    with Fleet(7, seed=11, compiled=True) as fleet:
        yield list(fleet)


@pytest.fixture
def boards(many_boards: list[Board]) -> Iterator[list[Board]]:
    """Healthy boards that nobody has claimed, whose request logs are empty."""
    for board in many_boards:
        board.clear()
        board.wait_ready()
        board.unclaim()
        board.forget_requests()
    yield many_boards
    for board in many_boards:
        board.clear()


@pytest.fixture
def fresh(boards: list[Board]) -> list[Board]:
    """Boards that were just reset: pins low, no lease, no fence, nothing plugged in."""
    for board in boards:
        board.set(room=None, dht={DHT: None})
        board.reset()
        board.forget_requests()
    return boards


@pytest.fixture
def world(redis_url: str, short_path: Path) -> Iterator[World]:
    """An empty Redis; intervals of 0.3 s, patience of 0.4 s with a board, no Datadog key."""
    world = World(
        short_path,
        redis_url,
        ESPNET_INTERVAL="0.3",
        ESPNET_TIMEOUT="0.4",
        ESPNET_UPLOAD_INTERVAL="0.3",
    )
    yield from until_its_end(world)


@pytest.fixture
def intake() -> Iterator[Intake]:
    """The stand-in for Datadog; its key is `KEY`."""
    with Intake(KEY) as intake:
        yield intake


@pytest.fixture
def embedded_world() -> Iterator[World]:
    """Without REDIS_URL: the embedded server, in a folder whose path is short enough for a socket."""
    if any(path.exists() for path in server.DEFAULT_SOCKETS):
        pytest.skip("a Redis listens where EspNet looks before it starts its own")
    folder = Path(tempfile.mkdtemp(prefix="espnet-", dir="/tmp"))
    world = World(
        folder,
        None,
        ESPNET_INTERVAL="0.5",
        ESPNET_TIMEOUT="0.4",
        ESPNET_UPLOAD_INTERVAL="0.3",
    )
    try:
        yield from until_its_end(world)
    finally:
        server.stop(folder / "data")
        shutil.rmtree(folder)


def until_its_end(world: World) -> Iterator[World]:
    try:
        yield world
    finally:
        world.end()
    for run in world.runs:
        run.require_good_log()
    left = [p for p in marked_processes(world.mark, world.folder) if "valkey" not in p]
    assert not left
