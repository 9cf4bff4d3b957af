"""Laws of a collector that stood still: it cannot know who was at its boards meanwhile, and asks nobody.

It may have been stopped (SIGSTOP), swapped out, or waiting for Redis: what it sees is that time has passed.
"""

import asyncio
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from board_wire import Wire
from collecting import PATIENCE_S, collecting, polled, register, run, until

from espnet.board.link import Link
from espnet.clock import ManualClock
from espnet.collector import Collector, Tick
from espnet.collector.collector import COMMIT_MARGIN_S
from espnet.model import Timer
from espnet.store import Store

TTL_S = 3 * PATIENCE_S + COMMIT_MARGIN_S
#: An interval that is longer than that: who was asked is not due again when the locks are over.
INTERVAL_S = 2 * TTL_S


def pauses(redis: Store, name: str, clock: ManualClock, for_s: float) -> None:
    """Time passes when this call of the store has come back."""
    real: Callable[..., Any] = getattr(redis, name)

    def call(*args: Any, **more: Any) -> Any:
        found = real(*args, **more)
        clock.advance(for_s)
        return found

    setattr(redis, name, call)


@pytest.mark.parametrize("where", ["claim", "readings"])
def test_a_board_is_not_asked_when_its_lock_may_end_under_the_trip(
    wire: Wire,
    store: Store,
    where: str,
) -> None:
    """Between the locks and the first question too much time has passed: the devices are given back, due at
    once, and nothing is said of their boards."""
    clock = ManualClock()
    register(store, wire, clock, 3)
    # What is left of the locks' time is less than a trip may take.
    pauses(store, where, clock, COMMIT_MARGIN_S + 0.5)

    async def main() -> None:
        async with collecting(store, clock, timeout_s=PATIENCE_S) as collector:
            await collector.tick(clock.now())
            assert not wire.requests
            assert store.views()[0].fault is None
            delattr(store, where)
            assert await collector.tick(clock.now()) == Tick(ok=3)
            assert polled(store, clock) == {"0", "1", "2"}

    run(main())


@pytest.mark.parametrize("asked", [1, 2, 3])
@pytest.mark.parametrize("way", ["begin", "exchange"], ids=["kept", "new"])
def test_who_was_not_asked_before_it_stood_still_is_not_asked_after(
    wire: Wire,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    asked: int,
) -> None:
    """In the middle of a batch, on kept connections as on new ones; nothing is said of the others' boards."""
    clock, real, calls = ManualClock(), getattr(Link, way), itertools.count(1)

    def call(*args: Any, **more: Any) -> Any:
        found = real(*args, **more)
        if next(calls) == asked:
            clock.advance(TTL_S)
        return found

    async def main() -> None:
        async with collecting(store, clock, timeout_s=PATIENCE_S) as collector:
            if way == "begin":
                await collector.tick(clock.now())
                wire.requests.clear()
                clock.advance(INTERVAL_S)
            with monkeypatch.context() as patched:
                patched.setattr(Link, way, call)
                await collector.tick(clock.now())
            assert len(wire.requests) == asked
            assert all(view.fault is None for view in store.views())
            assert await collector.tick(clock.now()) == Tick(ok=4 - asked)
            assert [len(requests) for requests in wire.requests.values()] == [1] * 4

    register(store, wire, clock, 4, interval_s=INTERVAL_S)
    run(main())


def test_nothing_is_written_when_the_lock_may_have_ended_since_the_board_answered(
    wire: Wire,
    store: Store,
) -> None:
    """What was read counts, if the lock says so; what it would lead to is for the next poll to decide."""
    clock = ManualClock()
    (device,) = register(store, wire, clock, 1)
    lamp = Timer(name="lamp", pin=4, start="00:00", hours=24, zone="UTC")
    store.change_jobs(device.name, lambda _, __: (lamp,), now=clock.now())
    stalls = [TTL_S]

    async def main() -> None:
        collector = Collector(
            store,
            clock,
            holder="here",
            interval_s=10.0,
            timeout_s=PATIENCE_S,
            observe=lambda _: clock.advance(stalls.pop() if stalls else 0.0),
        )
        assert await collector.tick(clock.now()) == Tick(ok=1)
        assert [request[:4] for request in wire.requests["127.1.0.1"]] == [b"GET "]
        await collector.tick(clock.advance(10))
        assert b"POST" in [request[:4] for request in wire.requests["127.1.0.1"]]
        await collector.close()

    run(main())


def test_a_tick_that_is_cancelled_asks_no_board_afterwards(wire: Wire, store: Store) -> None:
    """Nobody would commit what it says, and its lock may be let go: also where Redis was still being asked
    what has to be known before."""
    clock = ManualClock()
    register(store, wire, clock, 3)
    asked, answers, readings = threading.Event(), threading.Event(), store.readings

    def slow(*args: Any) -> Any:
        asked.set()
        answers.wait(PATIENCE_S)
        return readings(*args)

    store.readings = slow  # type: ignore[method-assign]

    async def main() -> None:
        before = asyncio.all_tasks()
        async with collecting(store, clock) as collector:
            tick = asyncio.create_task(collector.tick(clock.now()))
            await until(asked.is_set)
            tick.cancel()
            with pytest.raises(asyncio.CancelledError):
                await tick
            answers.set()
            await collector.tick(clock.now())  # behind that question, in the same thread
            assert asyncio.all_tasks() <= before
            assert not wire.requests

    run(main())
