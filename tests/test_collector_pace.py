"""Laws of how `espnet.collector` spares a board that struggles: real sockets, a real Redis, a clock that
moves when told."""

import json
from typing import Any

import msgspec
import pytest
import redis
from board_wire import Wire, answer, board_id, status_body
from collecting import HANG, collecting, host, names, register, run, until
from conftest import RedisProcess

from espnet.clock import ManualClock
from espnet.collector import Collector, Tick, poll_now
from espnet.model import Device, Override, Threshold, View
from espnet.pace import BAD_POLLS, GOOD_POLLS
from espnet.samples import decode_batch
from espnet.store import Store

NOW = 1_750_000_000.0
WELL, SHORT = 50_000, 5_000
LAMP = Override(pin=4, level=1, since=NOW, until=NOW + 1e6)


class Board:
    """The board at `host(0)`: free heap as told, refusals as told, leases as today's firmware has them."""

    def __init__(self, wire: Wire) -> None:
        self.mem_free: int | None = WELL
        self.refusal = ""
        self.headers = ""
        self.takes_s, self.clock = 0.0, ManualClock()
        self.takes_writes = True
        self.level = 0
        self.lease_s: float | None = None
        self.leases: list[int] = []
        wire.default = self._answer

    def _answer(self, where: str, request: bytes) -> Any:
        if where != host(0):
            return answer(status_body(board_id(where)))
        self.clock.advance(self.takes_s)
        if self.refusal:
            body = json.dumps({"error": self.refusal.partition(" ")[2]}).encode()
            return answer(body, status=self.refusal, headers=self.headers)
        head, _, form = request.decode().partition("\r\n\r\n")
        if head.startswith("POST /gpio"):
            if not self.takes_writes:
                return answer(b'{"error": "no"}', status="500 No")
            fields = dict(pair.split("=") for pair in form.split("&"))
            self.level, self.lease_s = int(fields["value"]), float(fields.get("lease_s", 0))
            self.leases.append(int(self.lease_s))
            return answer(b"{}")
        fence = int(head.partition("fence=")[2].partition(" ")[0] or 1)
        lease = {"4": {"left_s": self.lease_s, "safe": "low"}} if self.lease_s else {}
        more = {} if self.mem_free is None else {"mem_free": self.mem_free}
        return answer(
            status_body(board_id(where), gpio={"4": self.level}, leases=lease, fence=fence, **more)
        )


@pytest.fixture
def board(wire: Wire) -> Board:
    return Board(wire)


async def poll(collector: Collector, store: Store, clock: ManualClock, count: int = 1) -> View:
    """So many polls of board 0, each at its date; what is known of it then."""
    for _ in range(count):
        date = store.due_of(board_id(host(0)))
        assert date is not None
        clock.advance(max(date - clock.now(), 0.0))
        assert sum(await collector.tick(clock.now())) >= 1
    return store.view("0")


def intervals(view: View) -> tuple[float, float, str]:
    """The interval in force, that which was asked for, and why they differ."""
    assert view.reading is not None
    assert view.asked_s is not None
    pace = view.pace
    return view.reading.interval_s, view.asked_s, pace.why if pace and pace.factor > 1 else ""


def test_a_board_short_of_memory_is_asked_less_until_it_has_enough(
    wire: Wire, board: Board, store: Store, log: list[Any], raw: redis.Redis
) -> None:
    """Twice, then four times slower, and back; each step is said and sampled; dates and freshness follow."""
    clock = ManualClock(NOW)

    async def main() -> None:
        async with collecting(store, clock) as collector:
            assert intervals(await poll(collector, store, clock)) == (10, 10, "")
            board.mem_free = SHORT
            assert intervals(await poll(collector, store, clock, BAD_POLLS - 1)) == (10, 10, "")
            slowed = await poll(collector, store, clock)
            assert intervals(slowed) == (20, 10, "free heap 5.0 kB")
            assert store.due_of(board_id(host(0))) == clock.now() + 20
            assert slowed.state(clock.now() + 59) == "online"
            assert slowed.state(clock.now() + 61) == "offline"
            assert intervals(await poll(collector, store, clock, BAD_POLLS))[0] == 40
            assert intervals(await poll(collector, store, clock, 20))[0] == 40
            board.mem_free = WELL
            assert intervals(await poll(collector, store, clock, GOOD_POLLS))[0] == 20
            assert intervals(await poll(collector, store, clock, GOOD_POLLS)) == (10, 10, "")
            view = await poll(collector, store, clock, GOOD_POLLS)
            assert view.pace is None

    register(store, wire, clock, 1)
    run(main())
    told = [(e["event"], e["every_s"], e["asked_s"], e["reason"]) for e in log]
    assert told == [
        ("board.slowed", 20, 10, "free heap 5.0 kB"),
        ("board.slowed", 40, 10, "free heap 5.0 kB"),
        ("board.recovered", 10, 10, "it bears its polls"),
    ]
    assert set(wire.connections.values()) == {1}
    sampled = [
        value
        for _, fields in raw.xrange("espnet:samples")
        for metric, value, _ in decode_batch(fields[b"batch"]).points
        if metric == "esp32.slowdown"
    ]
    assert sampled == [2] * BAD_POLLS + [4] * (20 + GOOD_POLLS) + [2] * GOOD_POLLS + [1]


def test_a_board_that_answers_slowly_is_asked_less(wire: Wire, board: Board, store: Store) -> None:
    """An answer that takes a tenth of the interval is a load; once it is slowed, it takes less than that."""
    clock = board.clock = ManualClock(NOW)

    async def main() -> None:
        async with collecting(store, clock) as collector:
            board.takes_s = 0.9
            assert intervals(await poll(collector, store, clock, 9)) == (10, 10, "")
            board.takes_s = 1.2
            view = await poll(collector, store, clock, BAD_POLLS)
            assert intervals(view) == (20, 10, "answers take 1.2 s")
            assert intervals(await poll(collector, store, clock, 30))[0] == 20
            board.takes_s = 0.1
            assert intervals(await poll(collector, store, clock, GOOD_POLLS)) == (10, 10, "")

    register(store, wire, clock, 1)
    run(main())


def test_a_refusal_is_waited_for_as_long_as_it_says_and_a_minute_at_most(
    wire: Wire, board: Board, store: Store
) -> None:
    """`Retry-After` holds where it is longer than the back-off; a date, a word or a year does not."""
    clock = ManualClock(NOW)
    board.refusal = "503 too many connections at once"

    async def main() -> None:
        async with collecting(store, clock) as collector:
            for header, wait_s in {
                "Retry-After: 7\r\n": 7,
                "Retry-After: 99999999\r\n": 60,
                "Retry-After: 9999999999999999999\r\n": 8,
                "Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n": 16,
            }.items():
                board.headers = header
                view = await poll(collector, store, clock)
                assert view.fault is not None
                assert store.due_of(board_id(host(0))) == pytest.approx(clock.now() + wait_s)

    register(store, wire, clock, 1, interval_s=1.0)
    run(main())


@pytest.mark.parametrize("status", ["503 too many connections at once", "429 asked too often"])
def test_refusals_slow_a_board_down_for_the_time_after_them(
    wire: Wire, board: Board, store: Store, log: list[Any], status: str
) -> None:
    """While it refuses its back-off grows as before; when it answers again it is asked less for a while."""
    clock = ManualClock(NOW)
    board.refusal = status

    async def main() -> None:
        async with collecting(store, clock) as collector:
            refused = await poll(collector, store, clock, BAD_POLLS)
            assert refused.fault is not None
            assert refused.pace is not None
            assert refused.pace.factor == 2
            board.refusal = ""
            back = await poll(collector, store, clock)
            assert back.fault is None
            assert intervals(back)[:2] == (20, 10)
            assert intervals(await poll(collector, store, clock, GOOD_POLLS - 1)) == (10, 10, "")

    register(store, wire, clock, 1)
    run(main())
    assert names(log) == ["board.lost", "board.slowed", "board.back", "board.recovered"]


def test_a_board_that_is_away_is_not_slowed(wire: Wire, board: Board, store: Store) -> None:
    """Nobody knows whether it struggles: when it is back, it is asked as before. One that takes connections
    and says nothing is there, and struggles."""
    clock = ManualClock(NOW)

    async def main() -> None:
        async with collecting(store, clock, timeout_s=1.0) as collector:
            for _ in range(9):
                clock.advance(60)
                await collector.tick(clock.now())
            assert store.view("away").pace is None
            assert store.view("1").pace is None
            silent = store.view("0")
            assert silent.pace is not None
            assert (silent.pace.factor, silent.pace.why) == (2, "answers take 1.0 s")

    (device, _) = register(store, wire, clock, 2)
    wire.scripts[host(0)] = [HANG]
    away = Device(id="b9", name="away", address="127.0.0.1:1", registered_at=clock.now())
    reading = store.view(device.name).reading
    assert reading is not None
    store.add(
        away, msgspec.structs.replace(reading, status=msgspec.Raw(status_body("b9"))), first_due=NOW
    )
    run(main())


def test_what_is_known_of_a_board_goes_with_it(
    wire: Wire, board: Board, store: Store, log: list[Any]
) -> None:
    """To another collector and back, by hand, through a restart, and from one refusal to the next."""
    clock, other = ManualClock(NOW), Store(store.url)

    async def main() -> None:
        async with collecting(store, clock, "one") as one, collecting(other, clock, "two") as two:
            board.mem_free = SHORT
            await poll(one, store, clock)
            await poll(two, store, clock)
            assert intervals(await poll(one, store, clock))[0] == 20
            board.refusal = "503 no memory"
            await poll(two, store, clock)
            await poll(one, store, clock)
            assert (await poll(two, store, clock)).pace.factor == 4
            board.refusal, board.mem_free = "", WELL
            for collector in (one, two) * (GOOD_POLLS // 2):
                view = await poll(collector, store, clock)
            assert intervals(view)[0] == 20
        async with collecting(store, clock, "three") as three:
            assert intervals(await poll(three, store, clock, GOOD_POLLS))[0] == 10
        other.close()

    register(store, wire, clock, 1)
    run(main())
    assert names(log).count("board.slowed") == 2
    assert names(log).count("board.recovered") == 1


def test_a_poll_by_hand_keeps_to_the_pace(wire: Wire, board: Board, store: Store) -> None:
    """`update` counts as any other poll, and leaves the interval that is in force."""
    clock = ManualClock(NOW)
    (device,) = register(store, wire, clock, 1)
    board.mem_free = SHORT
    for _ in range(BAD_POLLS):
        view = poll_now(store, device, clock, holder="me", interval_s=10.0, timeout_s=20.0)
    assert intervals(view)[0] == 20
    assert store.due_of(device.id) == clock.now() + 20


def test_the_lease_of_a_board_that_is_slowed_is_long_enough_at_once(
    wire: Wire, board: Board, store: Store
) -> None:
    """It is written anew in the poll that slows and in the one that ends it; with a job: twice at most."""
    clock = ManualClock(NOW)

    async def main() -> None:
        async with collecting(store, clock) as collector:
            await poll(collector, store, clock, 3)
            assert board.leases == [trip_s := 21]
            board.mem_free = SHORT
            assert intervals(await poll(collector, store, clock, BAD_POLLS))[0] == 13.4
            assert board.leases == [trip_s, 41]
            assert intervals(await poll(collector, store, clock, 5 * BAD_POLLS))[0] == 13.4
            board.mem_free = WELL
            await poll(collector, store, clock, GOOD_POLLS)
            assert board.leases == [trip_s, 41, trip_s]

    register(store, wire, clock, 1, interval_s=6.7)
    store.change_jobs("0", lambda *_: (LAMP,), now=NOW)
    run(main())


def test_a_lease_outlasts_the_next_poll_though_the_board_takes_no_longer_one(
    wire: Wire, board: Board, store: Store
) -> None:
    """A board that struggles may refuse the very write: what it has lasts until it is asked again."""
    clock = ManualClock(NOW)

    async def main() -> None:
        async with collecting(store, clock) as collector:
            await poll(collector, store, clock, 2)
            board.takes_writes, board.mem_free = False, SHORT
            for _ in range(4 * BAD_POLLS):
                view = await poll(collector, store, clock)
                assert board.lease_s is not None
                assert intervals(view)[0] < board.lease_s
            board.takes_writes = True
            await poll(collector, store, clock)
            assert board.leases == [30, 60]

    register(store, wire, clock, 1)
    store.change_jobs("0", lambda *_: (LAMP,), now=NOW)
    run(main())


def test_who_looks_at_a_board_keeps_its_polls_frequent(
    wire: Wire, board: Board, store: Store
) -> None:
    """Another board's threshold: twice at most, at once; not at all where its maximum age is too short."""
    clock = ManualClock(NOW)
    heater = Threshold(
        name="h", pin=5, start="00:00", hours=24, zone="UTC", input="0.f", target=20, stale="off"
    )

    async def main() -> None:
        async with collecting(store, clock) as collector:
            board.mem_free = SHORT
            assert intervals(await poll(collector, store, clock, 3 * BAD_POLLS))[0] == 40
            store.change_jobs("1", lambda *_: (heater,), now=clock.now())
            clock.advance(1)
            assert intervals(await poll(collector, store, clock))[0] == 20
            strict = msgspec.structs.replace(heater, max_age_s=30.0)
            store.change_jobs("1", lambda *_: (strict,), now=clock.now())
            assert intervals(await poll(collector, store, clock, 5))[0] == 10

    register(store, wire, clock, 2)
    run(main())


def test_a_fleet_that_is_well_asks_redis_for_nothing_more(
    redis_server: RedisProcess, wire: Wire, board: Board, store: Store
) -> None:
    """How boards bore their polls is read once, when a collector first sees them; then a tick is a claim and
    a commit."""
    clock = ManualClock(NOW)

    async def main() -> None:
        async with collecting(store, clock) as collector:
            assert await collector.tick(clock.now()) == Tick(ok=50)
            before = store._redis.info("commandstats")["cmdstat_evalsha"]["calls"]
            for _ in range(10):
                clock.advance(10)
                assert await collector.tick(clock.now()) == Tick(ok=50)
            after = store._redis.info("commandstats")["cmdstat_evalsha"]["calls"]
            assert after - before == 20

    register(store, wire, clock, 50)
    run(main())


def test_collectors_that_come_and_go_have_one_connection_to_a_board(
    wire: Wire, store: Store
) -> None:
    """A board that changes hands has no connection left when the next collector comes; none is left out."""
    clock, other = ManualClock(NOW), Store(store.url)
    everybody = {host(number) for number in range(20)}

    def connected() -> dict[str, int]:
        return {where: count for where, count in wire.open.items() if count}

    async def beat(*collectors: Collector) -> None:
        """Ten seconds in which all of them claim every second, one after the other."""
        for _ in range(10):
            clock.advance(1)
            for collector in collectors:
                tick = await collector.tick(clock.now())
                assert not tick.failed
                assert not tick.void
                # What was closed is closed when the board's side has heard of it.
                await until(lambda: set(connected().values()) <= {1})

    async def main() -> None:
        async with collecting(store, clock, "one") as one:
            await beat(one, one)
            async with collecting(other, clock, "two") as two:
                for _ in range(4):
                    await beat(one, two)
                assert connected() == dict.fromkeys(everybody, 1)
            for _ in range(2):
                await beat(one)
            assert connected() == dict.fromkeys(everybody, 1)
        other.close()

    register(store, wire, clock, 20)
    run(main())
    # Each board was connected to once, and once more for each time that it changed hands.
    assert set(wire.connections.values()) <= {1, 3}
    assert sum(wire.connections.values()) == 20 + 2 * 10
    assert set(wire.most_at_once.values()) == {1}
