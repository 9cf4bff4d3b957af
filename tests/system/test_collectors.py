"""Several collectors on one Redis: they share the work, never a board, and survive each other."""

import math
import signal
import time
from collections import defaultdict

from espnet.simulator import Board
from espnet.store import Store

from .world import Run, World, gaps, polls, wait_for

INTERVAL_S, TIMEOUT_S = 0.5, 0.4
#: As the collector computes it: three times the time-out and its margin.
LOCK_TTL_S = 3 * TIMEOUT_S + 5


def _slots(board: Board, since: float, first_due: float) -> list[int]:
    """The places on its grid of intervals at which a board was polled; times are Unix seconds."""
    offset = time.time() - time.monotonic()
    return [
        math.floor((poll.at_s + offset - first_due) / INTERVAL_S)
        for poll in polls(board, since - offset)
    ]


def _freeze_with_lock(run: Run, store: Store, names: list[str]) -> list[str]:
    """Stops a collector (SIGSTOP) while it holds locks; returns the names of what it holds."""
    holder = run.holder

    def held() -> list[str]:
        states = {name: store.lock_state(store.device(name)) for name in names}
        return [name for name, state in states.items() if state and state.holder == holder]

    def freeze() -> list[str]:
        if not held():
            return []
        run.send(signal.SIGSTOP)
        found = held()
        if not found:  # it was just letting go
            run.send(signal.SIGCONT)
        return found

    return wait_for("a lock of the collector's", freeze, every_s=0.005)


def test_two_collectors_poll_every_board_once_an_interval_and_share_the_work(
    world: World, boards: list[Board]
) -> None:
    """No board is polled by both in one interval, no two requests overlap on one board, none is left
    out, and both collectors do a share."""
    world.environ["ESPNET_INTERVAL"] = str(INTERVAL_S)
    names = world.register(*boards)
    with world.client() as client:
        first_due: dict[bytes, float] = dict(client.zrange("espnet:due", 0, -1, withscores=True))
    # Different heartbeats: neither is the first to look for ever.
    runs = [world.start("10"), world.start("9")]
    holders = [run.holder for run in runs]
    for board in boards:
        board.forget_requests()
    began = time.time()
    seen: dict[str, set[str]] = defaultdict(set)
    with world.store() as store:

        def look() -> bool:
            for view in store.views():
                if view.reading:
                    seen[view.reading.collector].add(view.device.name)
            return time.time() - began > 10 * INTERVAL_S

        wait_for("ten intervals", look, every_s=0.05)
    ended_s = time.monotonic()
    for board in boards:
        slots = _slots(board, began, first_due[board.id.encode()])
        assert len(slots) >= 8
        assert len(slots) == len(set(slots)), slots
        assert board.most_requests == 1
        # Three intervals without a poll would be a slot that nobody took.
        assert max(gaps(board, ended_s - 9 * INTERVAL_S, ended_s)) < 3 * INTERVAL_S
    assert all(seen[holder] for holder in holders), seen
    assert set(names) == seen[holders[0]] | seen[holders[1]]
    assert [run.stop() for run in runs] == [0, 0]
    assert not any(run.events("poll.void", "polls.dropped") for run in runs)
    assert world.locks() == []
    world.require_balance()


def test_a_lost_collector_leaves_no_device_unpolled_longer_than_its_lock_and_an_interval(
    world: World, boards: list[Board]
) -> None:
    """A collector that is killed (``kill -9``) while it holds locks loses nothing: another one takes
    those boards over when the locks end, and the rest at once. The same for one that only stands still
    past its locks' end (SIGSTOP): when it goes on, its late commits change nothing."""
    world.environ["ESPNET_INTERVAL"] = str(INTERVAL_S)
    names = world.register(*boards)
    by_name = dict(zip(names, boards, strict=True))
    late, killed = world.start("10"), world.start("11")
    wait_for("its polls", lambda: all(polls(board) for board in boards))
    other = world.start("9")
    for board in boards:
        board.fault("hang")
    with world.store() as store:
        held = _freeze_with_lock(killed, store, names)
        killed.process.kill()
        killed_s = time.monotonic()
        stuck = _freeze_with_lock(late, store, names)
        frozen_s = time.monotonic()
        for board in boards:
            board.clear()

        def taken_over() -> bool:
            readings = [store.view(name).reading for name in names]
            return all(r and r.collector == other.holder and r.poll_s < TIMEOUT_S for r in readings)

        wait_for("the other one has all of them", taken_over, LOCK_TTL_S + 4 * INTERVAL_S + 2)
        now_s = time.monotonic()
        slack_s = 1.0  # heartbeats, back-off of what hung, and a busy machine
        for name, board in by_name.items():
            lost = name in held or name in stuck
            most = LOCK_TTL_S + INTERVAL_S if lost else 4 * INTERVAL_S
            since_s = killed_s if name in held else frozen_s
            assert max(gaps(board, since_s, now_s)) < most + slack_s, name
        wait_for(
            "healed", lambda: all(store.view(name).state(time.time()) == "online" for name in names)
        )

        queued = world.samples()
        late.send(signal.SIGCONT)

        def void() -> int:
            return sum(event["polls"] for event in late.events("poll.void"))

        wait_for("its polls are void", lambda: void() >= len(stuck))
        assert void() == len(stuck)
        # What it found out while nobody had given it leave is nowhere: no fault, no sample.
        assert [store.view(name).fault for name in names] == [None] * len(names)
        news = world.samples()[len(queued) :]
        assert not [batch for batch in news if ("esp32.up", 0, ()) in batch.points]
    assert [late.stop(), other.stop()] == [0, 0]
    assert world.locks() == []
    world.require_balance()
