"""Laws of `espnet.collector`: real sockets, a real Redis, a clock that moves when told."""

import asyncio
import gc
import resource
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import structlog
import uvloop
from board_wire import Say, Wire, answer, board_id, eventually, open_sockets, status_body
from conftest import RedisProcess

from espnet.clock import ManualClock
from espnet.collector import FORGET_LINK_S, MAX_IN_FLIGHT, Collector, Tick
from espnet.model import Climate, Device, Reading
from espnet.store import BATCH, Store

TIMEOUT_S = 1.0
#: Long enough never to pass.
PATIENCE_S = 20.0
HANG = Say((), "hang")


@pytest.fixture(autouse=True, scope="module")
def _no_leak() -> Iterator[None]:
    """These tests leave as many sockets as they found, and no ResourceWarning to whoever collects."""
    gc.collect()
    before = open_sockets()
    yield
    gc.collect()
    eventually(lambda: open_sockets() <= before + 1)  # the shared Redis may have begun meanwhile


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire
        eventually(lambda: not any(wire.open.values()))


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = Store(redis_url)
    yield store
    store.close()


@pytest.fixture
def log() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


def run(main: Coroutine[None, None, None]) -> None:
    """Runs on the loop that `espcli run` uses; nobody shouts into its handler of forgotten errors."""
    complaints: list[Any] = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        runner.run(asyncio.wait_for(main, 60))
    assert complaints == []


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is another thread's
            await asyncio.sleep(0.002)


@asynccontextmanager
async def collecting(
    store: Store, clock: ManualClock, holder: str = "here", timeout_s: float = TIMEOUT_S
) -> AsyncIterator[Collector]:
    collector = Collector(
        store, clock, holder=holder, interval_s=10.0, timeout_s=timeout_s, luck=lambda: 0.0
    )
    try:
        yield collector
    finally:
        await collector.close()


def host(number: int) -> str:
    return f"127.1.{number // 250}.{number % 250 + 1}"


def register(store: Store, wire: Wire, clock: ManualClock, count: int, **more: Any) -> list[Device]:
    """``count`` boards that are all due now, named by their numbers."""
    return [
        store.add(
            Device(
                id=board_id(host(number)),
                name=str(number),
                address=wire.address(host(number)),
                registered_at=clock.now(),
                **more,
            ),
            Reading(
                at=0,
                poll_s=0,
                interval_s=10,
                collector="",
                status=msgspec.Raw(status_body(board_id(host(number)))),
            ),
            first_due=clock.now(),
        )
        for number in range(count)
    ]


def polled(store: Store, clock: ManualClock) -> set[str]:
    """The names of those with a reading of this very moment."""
    return {v.device.name for v in store.views() if v.reading and v.reading.at == clock.now()}


def names(log: list[Any]) -> list[str]:
    return [event["event"] for event in log]


# --- one tick -----------------------------------------------------------------------------------


def test_a_tick_polls_what_is_due_and_commits_it(wire: Wire, store: Store, log: list[Any]) -> None:
    """Reading, samples and the next date are stored when the tick ends, and nobody is polled twice."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(store, clock) as collector:
            assert await collector.tick(clock.now()) == Tick(ok=3)
            assert await collector.tick(clock.now()) == Tick()
            assert polled(store, clock) == {"0", "1", "2"}
            assert store.ledger().queue.collected == 9
            assert store.views()[0].reading.collector == "here"
            clock.advance(9.9)
            assert await collector.tick(clock.now()) == Tick()
            clock.advance(0.1)
            assert await collector.tick(clock.now()) == Tick(ok=3)

    register(store, wire, clock, 3)
    run(main())
    assert set(wire.connections.values()) == {1}
    assert set(map(len, wire.requests.values())) == {2}
    assert log == []


def test_in_the_steady_state_a_batch_costs_no_task_a_board(wire: Wire, store: Store) -> None:
    """However many boards are asked at once on their kept connections, the same few tasks wait for them."""
    clock = ManualClock()
    register(store, wire, clock, 60)

    async def main() -> None:
        async with collecting(store, clock, timeout_s=PATIENCE_S) as collector:
            assert await collector.tick(clock.now()) == Tick(ok=60)
            go = wire.hold_back()
            tick = asyncio.create_task(collector.tick(clock.advance(10)))
            await until(lambda: wire.busy == 60)
            assert len(asyncio.all_tasks()) < 10
            go.set()
            assert await tick == Tick(ok=60)

    run(main())
    assert set(wire.connections.values()) == {1}


def test_a_silent_board_among_kept_connections_costs_only_itself(
    wire: Wire, store: Store, log: list[Any]
) -> None:
    """Those asked in one round with it are committed at once; it fails when its time is over, not before."""
    clock = ManualClock()
    register(store, wire, clock, 5)
    wire.scripts[host(2)] = [answer(status_body(board_id(host(2)))), HANG]

    async def main() -> None:
        async with collecting(store, clock) as collector:
            assert await collector.tick(clock.now()) == Tick(ok=5)
            tick = asyncio.create_task(collector.tick(clock.advance(10)))
            await until(lambda: polled(store, clock) == {"0", "1", "3", "4"})
            assert not tick.done()
            assert await tick == Tick(ok=4, failed=1)

    run(main())
    assert [(e["name"], e["kind"]) for e in log if e["event"] == "board.lost"] == [("2", "timeout")]


def test_a_board_that_hangs_delays_nobody_else_s_commit(wire: Wire, store: Store) -> None:
    """The others are stored while one is still waited for; its time-out is its own."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(store, clock, timeout_s=1.0) as collector:
            tick = asyncio.create_task(collector.tick(clock.now()))
            await until(lambda: polled(store, clock) == {"1", "2", "3", "4"})
            assert not tick.done()
            assert await tick == Tick(ok=4, failed=1)
            fault = store.view("0").fault
            assert (fault.kind, fault.failures) == ("timeout", 1)

    register(store, wire, clock, 5)
    wire.scripts[host(0)] = [HANG]
    run(main())


FAULTS = {
    "timeout": Say((answer().bytes[:30],), "hang"),
    "closed": Say((), "reset"),
    "http": answer(b"", status="500 Oops"),
    "not_json": answer(b'{"id": "b'),
    "not text": answer(b'{"id": "\xff", "f": 1, "gpio": {}}'),
    "nested": answer(b"[" * 60_000),
    "bad_answer": answer(b"{}"),
    "too_large": answer(b" " * 70_000),
    "wrong_id": answer(status_body("another")),
    "upgrade": Say((b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",), "hang"),
}


def test_whatever_a_board_does_costs_only_itself(wire: Wire, store: Store, log: list[Any]) -> None:
    """Each fault leaves its reason and no reading; the boards beside it are polled; all come back."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(store, clock) as collector:
            ok = len(FAULTS)
            assert await collector.tick(clock.now()) == Tick(ok=ok, failed=len(FAULTS))
            assert polled(store, clock) == {str(n) for n in range(ok, 2 * ok)}
            kinds = {v.fault.kind for v in store.views() if v.fault}
            assert kinds == set(FAULTS) - {"not text", "nested", "upgrade"}
            for view in store.views():
                assert view.reading.decoded().id == view.device.id
            wire.scripts.clear()
            clock.advance(10)
            assert await collector.tick(clock.now()) == Tick(ok=2 * ok)
            assert not [v for v in store.views() if v.fault]

    register(store, wire, clock, 2 * len(FAULTS))
    for number, say in enumerate(FAULTS.values()):
        wire.scripts[host(number)] = [say]
    run(main())
    assert names(log) == ["board.lost"] * len(FAULTS) + ["board.back"] * len(FAULTS)


def test_a_change_is_said_once(wire: Wire, store: Store, log: list[Any]) -> None:
    """Lost at the first failure and when the reason changes; back at the first success; else silence."""
    clock = ManualClock()
    script = [HANG, HANG, answer(b""), answer(b""), answer(status_body(board_id(host(0))))]

    async def main() -> None:
        async with collecting(store, clock, timeout_s=0.4) as collector:
            for _ in range(6):
                clock.advance(60)
                await collector.tick(clock.now())

    register(store, wire, clock, 1)
    wire.scripts[host(0)] = script
    run(main())
    assert [(e["event"], e.get("kind", e.get("failures"))) for e in log] == [
        ("board.lost", "timeout"),
        ("board.lost", "not_json"),
        ("board.back", 4),
    ]
    assert {e["name"] for e in log} == {"0"}


def test_a_failing_board_is_asked_less_and_less(wire: Wire, store: Store) -> None:
    """The back-off doubles; the first success ends it."""
    clock = ManualClock()
    asked = []

    async def main() -> None:
        async with collecting(store, clock) as collector:
            for second in range(0, 200, 5):
                tick = await collector.tick(clock.now())
                if tick != Tick():
                    asked.append(second)
                if second == 150:
                    wire.scripts.clear()
                clock.advance(5)

    register(store, wire, clock, 1)
    wire.scripts[host(0)] = [answer(b"")]
    run(main())
    assert asked == [0, 10, 30, 70, 120, 170, 180, 190]


# --- sensors ------------------------------------------------------------------------------------


def test_a_sensor_that_fails_costs_its_own_reading(wire: Wire, store: Store) -> None:
    """Whatever one DHT22 does, the board's status and the other sensors are read."""
    clock = ManualClock()
    status = answer(status_body(board_id(host(0))))
    says = {
        b"pin=1": answer(b'{"id": "x", "temp": 20.0, "humidity": 40.5}'),
        b"pin=2": answer(b'{"error": "no answer from the sensor"}', status="503 No"),
        b"pin=3": answer(b'{"temp": nan}'),
        b"pin=4": Say((), "reset"),
        b"pin=5": HANG,
        b"pin=6": answer(b'{"temp": 0, "humidity": 1}'),
    }
    wire.default = lambda _, request: next((s for p, s in says.items() if p in request), status)

    async def main() -> None:
        async with collecting(store, clock) as collector:
            assert await collector.tick(clock.now()) == Tick(ok=1)
        view = store.view("0")
        assert view.fault is None
        assert view.reading.dht22 == {"s1": Climate(20.0, 40.5), "s6": Climate(0, 1)}
        errors = view.reading.dht22_errors
        assert set(errors) == {"s2", "s3", "s4", "s5"}
        assert "no answer from the sensor" in errors["s2"]

    register(store, wire, clock, 1, dht22={f"s{pin}": pin for pin in range(1, 7)})
    run(main())


def test_sensors_have_what_is_left_of_the_trip(wire: Wire, store: Store) -> None:
    """A trip ends within twice the time-out, however many sensors hang, so its lock outlives it."""

    class Slow(ManualClock):
        """Each look at it takes a third of a second."""

        def monotonic(self) -> float:
            self.advance(1 / 3)
            return super().monotonic()

    clock = Slow()
    status = answer(status_body(board_id(host(0))))
    wire.default = lambda _, request: HANG if b"dht22" in request else status

    async def main() -> None:
        async with collecting(store, clock, timeout_s=0.5) as collector:
            assert await collector.tick(clock.now()) == Tick(ok=1)
        errors = store.view("0").reading.dht22_errors
        assert set(errors) == {f"s{pin}" for pin in range(20)}
        assert errors["s19"] == "not read: the board took too long before its turn"

    register(store, wire, clock, 1, dht22={f"s{pin}": pin for pin in range(20)})
    run(main())
    assert len(wire.requests[host(0)]) < 6


# --- ticks and links ----------------------------------------------------------------------------


def test_ticks_overlap(wire: Wire, store: Store) -> None:
    """A slow board does not hold up the next heartbeat, and is not asked again meanwhile."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(store, clock, timeout_s=1.0) as collector:
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


# --- Redis goes away ----------------------------------------------------------------------------


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


def test_a_redis_that_is_gone_at_the_commit_gets_the_polls_later(
    wire: Wire, own_store: Store, own_redis: RedisProcess, log: list[Any]
) -> None:
    """What boards answered meanwhile is kept while the locks last, and counts once."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(own_store, clock, timeout_s=PATIENCE_S) as collector:
            tick = asyncio.create_task(collector.tick(clock.now()))
            await until(lambda: wire.busy == 3)
            own_redis.stop()
            is_let_go.set()
            await until(lambda: "redis.lost" in names(log))
            assert await collector.tick(clock.now()) == Tick()
            own_redis.start()
            assert await tick == Tick(ok=3)
        assert polled(own_store, clock) == {"0", "1", "2"}
        queue = own_store.ledger().queue
        assert queue.collected == queue.queued == 9

    register(own_store, wire, clock, 3)
    is_let_go = wire.hold_back()
    run(main())
    assert names(log) == ["redis.lost", "redis.back"]


def test_polls_are_dropped_and_counted_when_their_locks_are_over(
    wire: Wire, own_store: Store, own_redis: RedisProcess, log: list[Any]
) -> None:
    """After the locks' time nobody may write any more: the loss is said with its size, and life goes on."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(own_store, clock, timeout_s=PATIENCE_S) as collector:
            tick = asyncio.create_task(collector.tick(clock.now()))
            await until(lambda: wire.busy == 3)
            own_redis.stop()
            is_let_go.set()
            await until(lambda: "redis.lost" in names(log))
            clock.advance(collector.lock_ttl_s + 1)
            assert await tick == Tick(ok=3, void=3)
            own_redis.start()
            for device in devices:
                own_store._redis.delete(f"espnet:lock:{device.id}")  # their time was the clock's
            assert await collector.tick(clock.now()) == Tick(ok=3)

    devices = register(own_store, wire, clock, 3)
    is_let_go = wire.hold_back()
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
