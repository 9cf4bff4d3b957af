"""Laws of `espnet.collector`: what a tick polls, and what one board may cost the others.

Real sockets, a real Redis, a clock that moves when told; as in the other files about it.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from board_wire import Say, Wire, answer, board_id, no_leak, status_body
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
from espnet.collector import Tick
from espnet.model import Climate, Device
from espnet.store import Store


@pytest.fixture(autouse=True, scope="module")
def _no_leak() -> Iterator[None]:
    with no_leak(more=1):  # the shared Redis may have begun meanwhile
        yield


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


def test_a_poll_that_goes_on_while_the_next_date_comes_costs_that_date_nothing(
    wire: Wire, store: Store
) -> None:
    """With a heartbeat as quick as the interval a board is polled in each, also when its dates come just
    after the heartbeat, while it answers the poll for the date before."""
    clock, beats = ManualClock(), 6

    def says(host: str, _: bytes) -> Say:
        clock.advance(0.02)
        return answer(status_body(board_id(host)))

    async def main() -> None:
        async with collecting(store, clock) as collector:
            beat = clock.now() + 0.99
            for _ in range(beats):
                clock.advance(beat - clock.now())
                assert await collector.tick(clock.now()) == Tick(ok=2)
                assert clock.now() > beat + 0.01
                beat += 1

    register(store, wire, clock, 2, interval_s=1.0)
    wire.default = says
    run(main())
    assert set(map(len, wire.requests.values())) == {beats}


def _often(device: Device) -> Device:
    return msgspec.structs.replace(device, interval_s=0.3)


def test_an_interval_that_the_heartbeat_cannot_keep_is_said_once(
    wire: Wire, store: Store, log: list[Any]
) -> None:
    """By the first device that has one; an interval as long as the time between two heartbeats is kept."""
    clock = ManualClock()

    async def main() -> None:
        async with collecting(store, clock, beat_s=10.0) as collector:
            assert await collector.tick(clock.now()) == Tick(ok=2)
            assert log == []
            for name in ("0", "1"):
                store.change(name, _often, now=clock.now())
            for _ in range(2):
                clock.advance(10.0)
                assert await collector.tick(clock.now()) == Tick(ok=2)

    register(store, wire, clock, 2)
    run(main())
    (told,) = log
    assert (told["event"], told["asked_s"], told["beat_s"]) == ("heartbeat.slow", 0.3, 10.0)
    assert "`espcli run 4`" in told["effect"]


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
        async with collecting(store, clock, timeout_s=HANG_TIMEOUT_S) as collector:
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
        async with collecting(store, clock, timeout_s=HANG_TIMEOUT_S) as collector:
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
        async with collecting(store, clock, timeout_s=HANG_TIMEOUT_S) as collector:
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
        async with collecting(store, clock, timeout_s=2.0) as collector:
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
        async with collecting(store, clock, timeout_s=HANG_TIMEOUT_S) as collector:
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
        """Each look at it takes two seconds, a third of what a trip has, once the board was asked."""

        def monotonic(self) -> float:
            if wire.requests[host(0)]:
                self.advance(2.0)
            return super().monotonic()

    clock = Slow()
    status = answer(status_body(board_id(host(0))))
    wire.default = lambda _, request: HANG if b"dht22" in request else status

    async def main() -> None:
        async with collecting(store, clock, timeout_s=3.0) as collector:
            assert await collector.tick(clock.now()) == Tick(ok=1)
        errors = store.view("0").reading.dht22_errors
        assert set(errors) == {f"s{pin}" for pin in range(20)}
        assert errors["s19"] == "not read: the board took too long before its turn"

    register(store, wire, clock, 1, dht22={f"s{pin}": pin for pin in range(20)})
    run(main())
    assert len(wire.requests[host(0)]) < 6
