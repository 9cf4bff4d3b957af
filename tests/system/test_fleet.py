"""A fleet of thirty boards under one collector."""

import time
from collections.abc import Iterator

import pytest

from espnet.simulator import Board, Fleet

from .world import World, gaps, polls, wait_for

SECONDS = 8


@pytest.fixture
def thirty() -> Iterator[list[Board]]:
    """Thirty boards with the goal heap."""
    with Fleet(30, seed=5, compiled=True) as fleet:
        yield list(fleet)


def test_thirty_boards_are_polled_evenly(world: World, thirty: list[Board]) -> None:
    """Every second each board is polled once, and the polls are spread over the second: not all in
    one heartbeat."""
    world.environ["ESPNET_INTERVAL"] = "1"
    world.register(*thirty)
    run = world.start("20")
    wait_for("all are polled", lambda: all(polls(board) for board in thirty))
    began_s = time.monotonic()
    wait_for("some time", lambda: time.monotonic() - began_s > SECONDS, SECONDS + 5)
    until_s = time.monotonic()
    assert run.stop() == 0
    assert not run.events("board.lost", "polls.dropped", "poll.void")
    times = [
        [poll.at_s for poll in polls(board, began_s) if poll.at_s <= until_s] for board in thirty
    ]
    for board, own in zip(thirty, times, strict=True):
        assert SECONDS - 1 <= len(own) <= SECONDS + 2
        assert max(gaps(board, began_s, until_s)) < 2
        assert board.most_requests == 1
    # Chance that a third of the second were empty: one in 60,000. One heartbeat is 50 ms.
    places = sorted(at_s % 1 for own in times for at_s in own)
    thirds = [sum(int(place * 3) == third for place in places) for third in range(3)]
    assert min(thirds) > 0, thirds
    fullest = max(sum(start <= place < start + 0.05 for place in places) for start in places)
    assert fullest < len(places) / 3
    # A board keeps its place in the second: of polls anywhere in it, half would be so near to each other,
    # and that seven tenths are, by chance, at all thirty boards, does not happen.
    for own in times:
        near = [sum(min((a - b) % 1, (b - a) % 1) < 0.25 for b in own) for a in own]
        assert max(near) >= 0.7 * len(own), own
    assert len(world.json("devices")) == 30
    assert {row["state"] for row in world.json("devices")} == {"online"}
    world.require_balance()
