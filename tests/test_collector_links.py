"""Laws of how `espnet.collector`'s ticks overlap and share connections, and how collectors share a fleet."""

import asyncio
import resource
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from board_wire import Wire, answer, board_id, no_leak, status_body
from collecting import (
    HANG,
    HANG_TIMEOUT_S,
    PATIENCE_S,
    collecting,
    host,
    names,
    polled,
    register,
    run,
    until,
)

from espnet.clock import ManualClock
from espnet.collector import FORGET_LINK_S, MAX_IN_FLIGHT, Tick
from espnet.model import Device
from espnet.store import BATCH, Store


@pytest.fixture(autouse=True, scope="module")
def _no_leak() -> Iterator[None]:
    with no_leak(more=1):  # the shared Redis may have begun meanwhile
        yield


def test_ticks_overlap(wire: Wire, store: Store) -> None:
    """A slow board does not hold up the next heartbeat, and is not asked again meanwhile."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(store, clock, timeout_s=HANG_TIMEOUT_S) as collector:
            slow = asyncio.create_task(collector.tick(clock.now()))
            await until(lambda: polled(store, clock) == {"1"})
            clock.advance(10)
            assert await collector.tick(clock.now()) == Tick(ok=1)
            assert not slow.done()
            assert await slow == Tick(ok=1, failed=1)

    register(store, wire, clock, 2)
    wire.scripts[host(0)] = [HANG]
    run(main())
    assert len(wire.requests[host(0)]) == 1


def test_more_boards_than_sockets_wait_their_turn(wire: Wire, store: Store) -> None:
    """Never more in flight than allowed; places are free again board by board, not batch by batch."""
    clock = ManualClock()
    extra = BATCH

    async def main() -> None:
        async with collecting(store, clock, timeout_s=PATIENCE_S) as collector:
            first = asyncio.create_task(collector.tick(clock.now()))
            await until(lambda: wire.busy == MAX_IN_FLIGHT)
            assert await collector.tick(clock.now()) == Tick()
            is_let_go.set()
            await until(lambda: len(polled(store, clock)) == MAX_IN_FLIGHT - 4)
            second = await collector.tick(clock.now())
            assert second == Tick(ok=extra)
            assert not first.done()
            for number in hanging:
                wire.hang_up(host(number))
            assert await first == Tick(ok=MAX_IN_FLIGHT - 4, failed=4)

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"needs 4096 open files, may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    try:
        devices = register(store, wire, clock, MAX_IN_FLIGHT + extra)
        # One in each batch hangs; devices that are due at the same time come in the order of their ids.
        order = sorted(range(len(devices)), key=lambda number: devices[number].id)
        hanging = [order[start] for start in range(0, MAX_IN_FLIGHT, BATCH)]
        for number in hanging:
            wire.scripts[host(number)] = [HANG]
        is_let_go = wire.hold_back()
        run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert wire.most_busy == MAX_IN_FLIGHT
    assert set(wire.most_at_once.values()) == {1}


def test_a_changed_address_is_asked_at_once_and_the_old_one_let_go(
    wire: Wire, store: Store
) -> None:
    """A board that moved is polled where it is now; nothing stays open to where it was."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(store, clock) as collector:
            await collector.tick(clock.now())
            assert wire.open[host(0)] == 1
            store.change("0", moved, now=clock.now())
            clock.advance(10)
            assert await collector.tick(clock.now()) == Tick(ok=1)
            await until(lambda: not wire.open[host(0)])
            assert wire.open[host(7)] == 1

    def moved(device: Device) -> Device:
        return msgspec.structs.replace(device, address=wire.address(host(7)))

    register(store, wire, clock, 1)
    wire.scripts[host(7)] = [answer(status_body(board_id(host(0))))]
    run(main())


def test_the_connection_of_a_device_that_is_no_longer_ours_is_closed(
    wire: Wire, store: Store
) -> None:
    """A board that another collector polls, or that was unregistered, gets its connection back."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(store, clock) as collector:
            await collector.tick(clock.now())
            store.remove("0")
            clock.advance(FORGET_LINK_S - 1)
            await collector.tick(clock.now())
            assert wire.open[host(0)] == 1
            clock.advance(2)
            await collector.tick(clock.now())
            await until(lambda: not wire.open[host(0)])
            assert wire.open[host(1)] == 1

    register(store, wire, clock, 2)
    run(main())


@pytest.mark.parametrize("is_same_record", [True, False])
def test_a_board_that_is_registered_anew_under_a_poll_has_one_request_in_flight(
    wire: Wire, store: Store, log: list[Any], is_same_record: bool
) -> None:
    """The old trip is let go and void, the new one counts, and nobody is told that the board was lost."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(store, clock, timeout_s=PATIENCE_S) as collector:
            old = asyncio.create_task(collector.tick(clock.now()))
            await until(lambda: wire.requests[host(0)])
            if not is_same_record:
                store.remove("0")
            register(store, wire, clock, 1)
            assert await collector.tick(clock.now()) == Tick(ok=1)
            assert (await old).void == 1
        assert polled(store, clock) == {"0"}
        assert store.view("0").fault is None

    register(store, wire, clock, 1, tags=() if is_same_record else ("a:b",))
    wire.scripts[host(0)] = [HANG, answer(status_body(board_id(host(0))))]
    run(main())
    assert names(log) == ["poll.void"]
    assert store.ledger().queue.collected == 3


# --- beginning and ending, alone and with others -------------------------------------------------


def test_a_stop_claims_nothing_more_and_lets_polls_end(wire: Wire, store: Store) -> None:
    """What is in flight is answered, committed and unlocked; what is due is left to others."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(store, clock, timeout_s=PATIENCE_S) as collector:
            tick = asyncio.create_task(collector.tick(clock.now()))
            await until(lambda: wire.requests[host(0)])
            collector.stop()
            clock.advance(5)
            assert await collector.tick(clock.now()) == Tick()
            wire.hang_up(host(0))
            assert await tick == Tick(failed=1)
        assert store.lock_state(first) is None
        assert len(store.claim(clock.now() + 20, 9, "other", ttl_s=9)) == 2

    first, second = register(store, wire, clock, 2)
    store.remove(second.name)
    store.add(second, store.view(first.name).reading, first_due=clock.now() + 5)
    wire.scripts[host(0)] = [HANG]
    run(main())
    assert not wire.requests[host(1)]


def test_who_has_stopped_is_at_work_no_more(wire: Wire, store: Store) -> None:
    """After an orderly stop nobody takes a collector for one that is at work; the others stay."""
    clock = ManualClock()
    register(store, wire, clock, 1)

    async def main() -> None:
        async with collecting(store, clock, "stays") as stays:
            async with collecting(store, clock, "goes") as goes:
                await goes.tick(clock.now())
                await stays.tick(clock.now())
                assert store.collectors(clock.now(), 60) == ["goes", "stays"]
            assert store.collectors(clock.now(), 60) == ["stays"]

    run(main())


def test_two_collectors_poll_every_board_once_an_interval(wire: Wire, store: Store) -> None:
    """Any number of collectors share a fleet by nothing but the store."""
    clock, other = ManualClock(), Store(store.url)

    async def main() -> None:
        async with collecting(store, clock, "a") as one, collecting(other, clock, "b") as two:
            for turn in range(1, 6):
                ticks = await asyncio.gather(*(c.tick(clock.now()) for c in (one, two, one, two)))
                assert sum(tick.ok for tick in ticks) == 60
                assert sum(tick.failed + tick.void for tick in ticks) == 0
                assert {len(requests) for requests in wire.requests.values()} == {turn}
                clock.advance(10)
            assert store.collectors(clock.now(), 60) == ["a", "b"]
        other.close()

    register(store, wire, clock, 60)
    run(main())
    assert set(wire.most_at_once.values()) == {1}


def test_a_device_that_gets_another_shard_in_the_middle_of_a_visit_has_its_connection_closed_then(
    wire: Wire, store: Store
) -> None:
    """Not under the request; before the next heartbeat is over it is gone, and the visit counts."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(store, clock, timeout_s=PATIENCE_S) as collector:
            go = wire.hold_back()
            visit = asyncio.create_task(collector.tick(clock.now()))
            await until(lambda: wire.busy == 2)
            tagged = {"tags": ("shard:barn",)}
            store.change("0", lambda old: msgspec.structs.replace(old, **tagged), now=clock.now())
            await collector.tick(clock.advance(1))
            assert wire.open[host(0)] == 1
            go.set()
            assert await visit == Tick(ok=2)
            await collector.tick(clock.advance(1))
            await until(lambda: not wire.open[host(0)])
            assert wire.open[host(1)] == 1

    register(store, wire, clock, 2)
    run(main())
    assert set(wire.connections.values()) == {1}
