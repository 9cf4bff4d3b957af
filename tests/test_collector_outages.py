"""Laws of `espnet.collector` while Redis is away or slow."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from board_wire import Wire, no_leak
from collecting import PATIENCE_S, collecting, names, polled, register, run, until
from conftest import RedisProcess

from espnet.clock import ManualClock
from espnet.collector import Collector, Tick
from espnet.store import Store


@pytest.fixture(autouse=True, scope="module")
def _no_leak() -> Iterator[None]:
    with no_leak(more=1):  # the shared Redis may have begun meanwhile
        yield


@pytest.fixture
def own_store(own_redis: RedisProcess) -> Iterator[Store]:
    store = Store(own_redis.url, timeout_s=PATIENCE_S)
    yield store
    store.close()


def test_a_redis_that_is_gone_at_the_claim_is_said_once(
    wire: Wire, own_store: Store, own_redis: RedisProcess, log: list[Any]
) -> None:
    """Ticks go on and end; one line when it goes, one when it is back, then everything as before."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(own_store, clock) as collector:
            assert await collector.tick(clock.now()) == Tick(ok=3)
            for _ in range(2):
                own_redis.stop()
                for _ in range(5):
                    clock.advance(1)
                    assert await collector.tick(clock.now()) == Tick()
                own_redis.start()
                clock.advance(10)
                assert await collector.tick(clock.now()) == Tick(ok=3)

    register(own_store, wire, clock, 3)
    run(main())
    assert names(log) == ["redis.lost", "redis.back"] * 2
    assert "does not answer" in log[0]["reason"]


async def answered_without_redis(
    collector: Collector, clock: ManualClock, wire: Wire, own_redis: RedisProcess, log: list[Any]
) -> asyncio.Task[Tick]:
    """A tick whose three boards have answered, and whose Redis has gone since it claimed them."""
    is_let_go = wire.hold_back()
    tick = asyncio.create_task(collector.tick(clock.now()))
    await until(lambda: wire.busy == 3)
    own_redis.stop()
    is_let_go.set()
    await until(lambda: "redis.lost" in names(log))
    return tick


def test_a_redis_that_is_gone_at_the_commit_gets_the_polls_later(
    wire: Wire, own_store: Store, own_redis: RedisProcess, log: list[Any]
) -> None:
    """What boards answered meanwhile is kept while the locks last, and counts once."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(own_store, clock, timeout_s=PATIENCE_S) as collector:
            tick = await answered_without_redis(collector, clock, wire, own_redis, log)
            assert await collector.tick(clock.now()) == Tick()
            own_redis.start()
            assert await tick == Tick(ok=3)
        assert polled(own_store, clock) == {"0", "1", "2"}
        queue = own_store.ledger().queue
        assert queue.collected == queue.queued == 9

    register(own_store, wire, clock, 3)
    run(main())
    assert names(log) == ["redis.lost", "redis.back"]


def test_polls_are_dropped_and_counted_when_their_locks_are_over(
    wire: Wire, own_store: Store, own_redis: RedisProcess, log: list[Any]
) -> None:
    """After the locks' time nobody may write any more: the loss is said with its size, and life goes on."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(own_store, clock, timeout_s=PATIENCE_S) as collector:
            tick = await answered_without_redis(collector, clock, wire, own_redis, log)
            clock.advance(collector.lock_ttl_s + 1)
            assert await tick == Tick(ok=3, void=3)
            own_redis.start()
            for device in devices:
                own_store._redis.delete(f"espnet:lock:{device.id}")  # their time was the clock's
            assert await collector.tick(clock.now()) == Tick(ok=3)

    devices = register(own_store, wire, clock, 3)
    run(main())
    assert names(log) == ["redis.lost", "polls.dropped", "redis.back"]
    assert (log[1]["polls"], log[1]["samples"]) == (3, 9)


def test_a_heartbeat_does_not_queue_behind_a_claim(
    wire: Wire, own_store: Store, own_redis: RedisProcess
) -> None:
    """While Redis is slow, further ticks return at once instead of piling up."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(own_store, clock) as collector:
            own_redis.pause()
            first = asyncio.create_task(collector.tick(clock.now()))
            await asyncio.sleep(0)
            for _ in range(100):
                assert await collector.tick(clock.now()) == Tick()
            assert not first.done()
            own_redis.resume()
            assert await first == Tick(ok=1)

    register(own_store, wire, clock, 1)
    run(main())
