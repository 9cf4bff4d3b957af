"""Laws of the history: what was read comes back, once, at every level, within its memory."""

import random
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import redis
from board_wire import status_body

from espnet import blocks
from espnet.blocks import LEVELS, mean, rows_of
from espnet.historian import Historian, device_id_of, values_of
from espnet.model import (
    Adc,
    Climate,
    Device,
    Fault,
    Reading,
    celsius_to_fahrenheit,
    decode_status,
    encode,
)
from espnet.samples import SampleBatch
from espnet.series import tags_of
from espnet.simulator.room import Room, RoomState, advance, shown
from espnet.store import HISTORY, Claim, Grant, Poll, Store
from espnet.store.history import Packing
from espnet.trip import Sight, seen

NOW = 1_750_000_000.0
MB = 2**20


def porch(number: int = 1, **more: Any) -> Device:
    named = {"name": f"porch{number}", "address": f"10.0.0.{number}"} | more
    return Device(id=f"id{number}", **named)


def register(store: Store, device: Device) -> Device:
    status = msgspec.Raw(status_body(device.id))
    reading = Reading(at=NOW, poll_s=0.01, interval_s=10.0, collector="here", status=status)
    return store.add(device, reading, first_due=NOW)


def batch(at: float, device: Device, **fields: float) -> SampleBatch:
    points = tuple((f"esp32.{name}", value, ()) for name, value in fields.items())
    return SampleBatch(at, tags_of(device), points)


@pytest.fixture
def queue(raw: redis.Redis) -> Callable[..., None]:
    """Puts batches on the stream, as a commit does."""

    def put(*batches: SampleBatch) -> None:
        pipe = raw.pipeline()
        for one in batches:
            pipe.xadd("espnet:samples", {"n": len(one.points), "batch": encode(one)})
        pipe.execute()

    return put


def keeper(store: Store, name: str = "here", budget: int = 64 * MB, **more: Any) -> Historian:
    return Historian(store, name, budget_bytes=budget, **more)


def rows(store: Store, device: Device) -> dict[float, dict[str, float]]:
    """All that is known at full rate."""
    return dict(rows_of(store.past(device.id).rows(0, 2 * NOW)))


def memory(raw: redis.Redis) -> int:
    """What the history takes in Redis, in bytes, by Redis's own count."""
    return sum(raw.memory_usage(key, samples=0) for key in raw.scan_iter("espnet:history*"))


# --- a simulated day ------------------------------------------------------------------------------


class Day:
    """24 hours of the simulator's room, with a thermostat, as the collector sees them: a poll in 10 s, 40
    minutes without an answer, a sensor that fails now and then, and 20 minutes in which nothing polls.

    ``truth`` is what was read, by the names and in the units of the history.
    """

    def __init__(self, device: Device, seed: int = 4) -> None:
        luck = random.Random(seed)
        self.batches: list[SampleBatch] = []
        self.truth: dict[float, dict[str, float]] = {}
        self.device = device
        claim = Claim(device, None, NOW, Grant(device.id, "t", 1))
        tags, at, failures = tags_of(device), NOW, 0
        room = Room(outside_c=4.0, start_c=21.0, heater_c_per_h=14.0, noise_c=0.03, seed=seed)
        state = RoomState(NOW, room.start_c)
        while at < NOW + 86_400:
            hour = (at - NOW) / 3_600
            state = advance(room, state, (), at)
            celsius, target = shown(room, state), 20 + 4 * (hour / 24 - 0.5)
            if abs(celsius - target) > 0.3:
                state = replace(state, heating=celsius < target)
            came = round(at + luck.uniform(0, 0.2), 6)
            if 17 <= hour < 17 + 1 / 3:
                at += 10
                continue
            if 5 <= hour < 5 + 2 / 3:
                failures += 1
                self.batches.append(SampleBatch(came, tags, (("esp32.up", 0, ()),)))
                self.truth[round(came, 3)] = {"up": 0.0}
                at += min(10.0 * 2**failures, 60)
                continue
            failures = 0
            temp, humidity = round(celsius, 1), round(45 + luck.gauss(0, 0.4), 1)
            pin, adc, board_f = (
                int(state.heating),
                round(8 * luck.gauss(2_000, 6)) / 8,
                128 + luck.choice((0, 0, 1)),
            )
            status = status_body(device.id, f=board_f, gpio={"4": pin, "36": 0})
            sight = Sight(came, status, decode_status(status))
            fields = {"up": 1.0, "f": float(board_f), "gpio.4": float(pin), "adc.36": adc}
            sight.adc = {36: adc}
            if luck.random() < 0.02:
                sight.climate_errors = {"air": "checksum"}
            else:
                sight.climates = {"air": Climate(temp, humidity)}
                fields |= {"dht22.air.temp": temp, "dht22.air.humidity": humidity}
            poll_s = abs(luck.gauss(0.05, 0.01))
            fields["poll_seconds"] = round(poll_s, 4)
            reading = sight.reading(poll_s=poll_s, interval_s=10.0, collector="here")
            poll = seen(claim, sight, reading, tags=tags)
            assert poll.batch is not None
            self.batches.append(poll.batch)
            self.truth[round(came, 3)] = fields
            at += 10


@pytest.fixture(scope="module")
def day() -> Day:
    device = porch(
        adc={36: Adc()}, report_pins=(4,), dht22={"air": 5}, tags=("room:attic", "id:other")
    )
    return Day(device)


def test_a_simulated_day_comes_back_as_it_was(
    store: Store, queue: Callable[..., None], raw: redis.Redis, day: Day
) -> None:
    """Every value at full rate, °C as the sensor said it; minimum, mean and maximum of each 5 minutes
    and each hour as anyone would compute them. The outage and the silence stay gaps."""
    register(store, day.device)
    here = keeper(store)
    for start in range(0, len(day.batches), 700):
        queue(*day.batches[start : start + 700])
        assert here.drain(day.batches[min(start + 699, len(day.batches) - 1)].at) == len(
            day.batches[start : start + 700]
        )
    assert rows(store, day.device) == day.truth
    past = store.past(day.device.id)
    assert len(past.levels[0]) > 30
    for width in (300, 3_600):
        level = next(level for level in LEVELS if level.width == width)
        # As if the finer levels had never been: this level's own blocks, and the tail.
        index = LEVELS.index(level)
        known = [blocks.unpack_buckets(block) for block in past.levels[index]]
        told = blocks.merged([*known, blocks.aggregated(past.tail, width)], width)
        groups: dict[tuple[str, int], list[float]] = {}
        for at, fields in day.truth.items():
            for name, value in fields.items():
                groups.setdefault((name, int(at // width) * width), []).append(value)
        found = {
            (name, start): cell
            for name, column in told.columns.items()
            for start, cell in zip(told.starts, column, strict=True)
            if cell
        }
        assert found.keys() == groups.keys()
        for key, values in groups.items():
            count, low, _, high = found[key]
            assert (count, low, high) == (len(values), min(values), max(values))
            assert mean(found[key]) == pytest.approx(sum(values) / len(values), rel=1e-12)
    silence = [at for at in day.truth if NOW + 17 * 3_600 + 1 <= at < NOW + 17 * 3_600 + 1_200]
    assert silence == []
    assert all(
        fields == {"up": 0.0}
        for at, fields in day.truth.items()
        if 0 < at - NOW - 5 * 3_600 < 2_400
    )
    # Everything of the stream is settled, and a reading takes a few bytes.
    assert raw.xpending("espnet:samples", HISTORY)["pending"] == 0
    (full, *_) = store.history_reach(NOW + 86_400)
    packed = len(day.truth) - len(past.tail.times)
    assert full.bytes / packed < 7


# --- names ----------------------------------------------------------------------------------------


def fields_of(*points: tuple[str, float, tuple[str, ...]]) -> dict[str, float]:
    names, values = values_of(SampleBatch(NOW, (), points))
    return dict(zip(names, values, strict=True))


def test_values_have_the_names_that_jobs_use() -> None:
    """f, up, gpio.4, adc.36, dht22.NAME.temp in °C; what nobody knows keeps its metric's name."""
    points = (
        ("esp32.up", 1, ()),
        ("esp32.poll_seconds", 0.123456789, ()),
        ("esp32.f", 53.333332, ()),
        ("esp32.gpio", 1, ("pin:4",)),
        ("esp32.adc", 1234.125, ("pin:36",)),
        ("esp32.dht22.temp", celsius_to_fahrenheit(21.7), ("sensor:a:ir",)),
        ("esp32.dht22.humidity", 40.1, ("sensor:a:ir",)),
        ("weather.wind", 1e-9, ("site:roof",)),
        ("esp32.new.thing", 2, ("of:x", "and")),
    )
    assert fields_of(*points) == {
        "up": 1, "poll_seconds": 0.1235, "f": 53.3333, "gpio.4": 1, "adc.36": 1234.125,
        "dht22.a:ir.temp": 21.7, "dht22.a:ir.humidity": 40.1, "weather.wind.roof": 1e-9,
        "new.x.and.thing": 2,
    }  # fmt: skip


def test_of_two_points_of_one_name_the_last_one_counts() -> None:
    """They have one place, that of the first: a row has a value for each name."""
    points = (("esp32.f", 1.5, ()), ("esp32.up", 1, ()), ("esp32.f", 2.5, ()))
    assert list(fields_of(*points).items()) == [("f", 2.5), ("up", 1)]


@pytest.mark.parametrize("tenths", range(-400, 801, 7))
def test_a_temperature_is_what_the_sensor_said(tenths: int) -> None:
    """°C that became °F on the stream are the same °C again."""
    sample = ("esp32.dht22.temp", Climate(tenths / 10, 40).temp_f, ("sensor:air",))
    assert fields_of(sample) == {"dht22.air.temp": tenths / 10}


def test_a_device_is_known_by_the_first_id() -> None:
    """A tag of the device's own that looks like an id is none."""
    assert device_id_of(SampleBatch(NOW, tags_of(porch(tags=("id:mine",))), ())) == "id1"
    assert device_id_of(SampleBatch(NOW, ("name:x",), ())) == ""


# --- exactly once ---------------------------------------------------------------------------------


def test_a_row_is_kept_once_however_often_it_is_read(
    store: Store, queue: Callable[..., None], redis_url: str
) -> None:
    """A historian that dies between reading and keeping loses nothing and doubles nothing."""
    device = register(store, porch())
    one, other = keeper(store, "one"), keeper(store, "other")
    queue(*(batch(NOW + n, device, f=n) for n in range(50)))
    store.join(HISTORY, 0)
    lost = store.take(HISTORY, "one", 20)  # and dies here
    assert other.drain(NOW) == 30
    assert one.drain(NOW) == 20
    assert other.drain(NOW) == one.drain(NOW) == 0
    late = [one._row(entry, 10**6) for entry in lost]
    assert store.append_history(late) == (0, [])
    assert rows(store, device) == {NOW + n: {"f": float(n)} for n in range(50)}


def test_what_another_one_left_is_taken_over(store: Store, queue: Callable[..., None]) -> None:
    """At an orderly stop a historian leaves nothing in its hands."""
    device = register(store, porch())
    queue(*(batch(NOW + n, device, f=n) for n in range(3)))
    store.join(HISTORY, 0)
    gone = keeper(store, "gone")
    assert len(store.take(HISTORY, "gone", 3)) == 3
    gone.close()
    assert keeper(store).drain(NOW) == 3


def test_late_rows_find_their_place(store: Store, queue: Callable[..., None]) -> None:
    """Rows that come after younger ones were packed stand where they belong, in each level."""
    device = register(store, porch())
    here = keeper(store)
    order = list(range(2_000))
    random.Random(1).shuffle(order)
    for start in range(0, 2_000, 250):
        queue(*(batch(NOW + 10 * n, device, f=n) for n in order[start : start + 250]))
        here.drain(NOW)
    assert rows(store, device) == {NOW + 10 * n: {"f": float(n)} for n in range(2_000)}
    past = store.past(device.id)
    hours = past.buckets(3_600, 0, 2 * NOW)
    cells = [cell for cell in hours.columns["f"] if cell]
    assert sum(cell[0] for cell in cells) == 2_000
    assert sum(cell[2] for cell in cells) == sum(range(2_000))
    coarse = past._replace(levels=((), (), past.levels[2]), lost=(2**32 - 1, 2**32 - 1, 0))
    assert coarse.buckets(3_600, 0, 2 * NOW) == hours


def test_values_that_come_and_go_are_kept_apart(store: Store, queue: Callable[..., None]) -> None:
    """A sensor that is there at one poll and not at the next costs its own value only."""
    device = register(store, porch())
    here = keeper(store)
    truth = {}
    for n in range(900):
        fields = (
            {"up": 1.0} | ({"x": n / 10} if n % 2 else {}) | ({"y": -float(n)} if n % 3 else {})
        )
        truth[NOW + n] = fields
        queue(batch(NOW + n, device, **fields))
        if n % 100 == 99:
            here.drain(NOW)
    assert rows(store, device) == truth


def test_entries_without_sense_are_settled(
    store: Store, queue: Callable[..., None], raw: redis.Redis
) -> None:
    """Nothing that is on the stream holds up what is behind it."""
    device = register(store, porch())
    queue(
        SampleBatch(NOW, (), (("esp32.up", 1.0, ()),)),
        SampleBatch(NOW, tags_of(device), ()),
        batch(-5.0, device, f=1),
        batch(1e30, device, f=1),
        batch(NOW, porch(9), f=1),
        batch(NOW, device, f=2),
    )
    assert keeper(store).drain(NOW) == 1
    assert rows(store, device) == {NOW: {"f": 2.0}}
    assert raw.xpending("espnet:samples", HISTORY)["pending"] == 0


# --- packing --------------------------------------------------------------------------------------


def packing(store: Store, device: Device) -> Packing:
    (tail,) = store.tails([device.id])
    made = blocks.sealed(tail.table(), tail.last_blocks)
    return Packing(device.id, tail.state, 10**6, tail.entries, made)


def test_of_two_that_pack_one_tail_one_is_heard(store: Store, queue: Callable[..., None]) -> None:
    """The second one finds that the tail is another, and changes nothing; rows that came meanwhile stay."""
    device = register(store, porch())
    here = keeper(store)
    queue(*(batch(NOW + n, device, f=n) for n in range(20)))
    here.drain(NOW)
    one, other = packing(store, device), packing(store, device)
    queue(*(batch(NOW + n, device, f=n) for n in range(20, 30)))
    here.drain(NOW)
    assert store.seal([one], NOW) == 1
    assert len(store.past(device.id).tail.times) == 10
    assert store.seal([other], NOW) == 0
    queue(*(batch(NOW + n, device, f=n) for n in range(30, 35)))
    here.drain(NOW)
    assert rows(store, device) == {NOW + n: {"f": float(n)} for n in range(35)}
    assert store.seal([packing(store, device)], NOW) == 1
    assert rows(store, device) == {NOW + n: {"f": float(n)} for n in range(35)}


def test_many_historians_keep_each_row_once(
    redis_url: str, store: Store, queue: Callable[..., None]
) -> None:
    """Several at once, packing the same few tails: nothing is missing and nothing is there twice."""
    devices = [register(store, porch(n)) for n in range(3)]
    queue(*(batch(NOW + n, device, f=n) for n in range(1_200) for device in devices))
    store.join(HISTORY, 0)
    kept = []

    def work(name: str) -> None:
        with closing(Store(redis_url)) as own:
            kept.append(keeper(own, name, entries=40).drain(NOW))

    threads = [threading.Thread(target=work, args=(f"c{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(kept) == 3_600
    for device in devices:
        assert rows(store, device) == {NOW + n: {"f": float(n)} for n in range(1_200)}
        past = store.past(device.id)
        cells = past.buckets(3_600, 0, 2 * NOW).columns["f"]
        assert sum(cell[0] for cell in cells if cell) == 1_200
        hours = [blocks.unpack_buckets(block) for block in past.levels[2]]
        packed = sum(cell[0] for part in hours for cell in part.columns["f"] if cell)
        assert packed == 1_200 - len(past.tail.times)


def test_a_tail_that_nobody_packed_is_packed_later(
    store: Store, queue: Callable[..., None]
) -> None:
    """A historian that dies after it kept a page and before it packed leaves the next one to do it."""
    device = register(store, porch())
    queue(*(batch(NOW + n, device, f=n) for n in range(400)))
    store.join(HISTORY, 0)
    dies = keeper(store, "dies")
    page = store.take(HISTORY, "dies", 400)
    kept, full = store.append_history([dies._row(entry, MB) for entry in page])
    assert (kept, full) == (400, [device.id])
    assert len(store.past(device.id).tail.times) == 400
    queue(batch(NOW + 400, device, f=400))
    assert keeper(store).drain(NOW) == 1
    past = store.past(device.id)
    assert (past.tail.times, len(past.levels[0])) == ([], 1)
    assert rows(store, device) == {NOW + n: {"f": float(n)} for n in range(401)}


# --- unregistering --------------------------------------------------------------------------------


def test_a_device_that_is_removed_leaves_nothing(
    store: Store, queue: Callable[..., None], raw: redis.Redis
) -> None:
    """Also when samples of it are on their way, and when its tail is being packed just then."""
    device = register(store, porch())
    here = keeper(store)
    queue(*(batch(NOW + n, device, f=n) for n in range(400)))
    here.drain(NOW)
    queue(*(batch(NOW + n, device, f=n) for n in range(400, 410)))
    under_way = packing(store, device)
    store.remove(device.name)
    assert store.seal([under_way], NOW) == 0
    assert here.drain(NOW) == 0
    assert list(raw.scan_iter("espnet:history*")) == []
    assert store.past(device.id).is_empty()
    register(store, device)
    queue(*(batch(NOW + 500 + n, device, f=n) for n in range(10)))
    here.drain(NOW)
    assert store.seal([under_way], NOW) == 0
    assert len(rows(store, device)) == 10


def test_a_board_that_comes_back_keeps_its_past(store: Store, queue: Callable[..., None]) -> None:
    """Registered again under its name it is the same board; one that takes its place begins anew."""
    device = register(store, porch())
    queue(batch(NOW, device, f=1))
    keeper(store).drain(NOW)
    register(store, device)
    assert len(rows(store, device)) == 1
    status = msgspec.Raw(status_body("id2"))
    reading = Reading(at=NOW, poll_s=0.01, interval_s=10.0, collector="here", status=status)
    store.add(porch(2, name=device.name), reading, first_due=NOW, replace=True)
    assert store.past(device.id).is_empty()


# --- memory ---------------------------------------------------------------------------------------


def fill(store: Store, raw: redis.Redis, devices: list[Device], polls: int, budget: int) -> float:
    """So many polls of each, an hour's at a time; returns when the last one was."""
    here = keeper(store, budget=budget, entries=1_024)
    luck, at = random.Random(3), NOW
    for start in range(0, polls, 90):
        pipe = raw.pipeline()
        for n in range(start, min(polls, start + 90)):
            at = NOW + 10 * n
            for device in devices:
                values = {
                    "f": 100 + n % 7,
                    "up": 1,
                    "adc": luck.randrange(4_096),
                    "poll_seconds": luck.random() / 9,
                }
                one = batch(at, device, **values)
                pipe.xadd("espnet:samples", {"n": 4, "batch": encode(one)})
        pipe.execute()
        here.drain(at)
        raw.xtrim("espnet:samples", maxlen=0)
    return at


@pytest.mark.parametrize("share", [60_000, 12_000, 6_000, 3_000])
def test_the_memory_is_kept(store: Store, raw: redis.Redis, share: int) -> None:
    """By Redis's own count all of the history is within the budget; what is left is whole, the newest
    is always there, and the fleet's reach says what is not."""
    devices = [register(store, porch(n)) for n in range(10)]
    now = fill(store, raw, devices, 3_000, 10 * share)
    assert memory(raw) <= 10 * share
    for device in devices:
        past = store.past(device.id)
        assert past.rows(0, 2 * NOW).times[-1] == now
        for level in LEVELS[1:]:
            since = past.lost[LEVELS.index(level)]
            known = past.buckets(3_600, since - since % 3_600 + 3_600, now + 1)
            counts = [
                cell[0]
                for start, cell in zip(known.starts, known.columns.get("f", []), strict=True)
                if cell and start >= NOW
            ]
            assert all(count == 360 for count in counts[:-1])
    reach = store.history_reach(now)
    assert reach[0].short == (10 if share < 60_000 else 0)
    if share < 30_000:
        assert memory(raw) > 5 * share
    if share == 12_000:
        assert reach[0].least_s is not None
        assert 0 < reach[0].least_s < 30_000
        assert reach[2].least_s is None


@pytest.mark.parametrize(("share", "fields"), [(2_000, 4), (2_000, 35), (500, 4), (500, 40)])
def test_the_least_share_is_kept_by_many(
    store: Store, raw: redis.Redis, share: int, fields: int
) -> None:
    """However little it is and however many they are, nobody's tail grows: each is packed when it is full.
    From `LEAST_SHARE` on that is within the memory; below, a device takes 800 B and four rows at most."""
    devices = [register(store, porch(n)) for n in range(300)]
    here = keeper(store, budget=share * len(devices))
    values = {f"value.{n}": n for n in range(fields)}
    longest = 0
    for at in range(12):
        pipe = raw.pipeline()
        for device in devices:
            one = batch(NOW + 10 * at, device, **{n: v + at for n, v in values.items()})
            pipe.xadd("espnet:samples", {"n": fields, "batch": encode(one)})
        pipe.execute()
        here.drain(NOW + 10 * at)
        raw.xtrim("espnet:samples", maxlen=0)
        assert memory(raw) <= len(devices) * max(share, 800 + 4 * (19 + 8 * fields))
        longest = max(longest, *(raw.llen(f"espnet:history:{d.id}:tail") for d in devices))
    assert 2 < longest < 8


def test_who_was_away_keeps_its_blocks(store: Store, raw: redis.Redis) -> None:
    """Rows of a long time at once make a tail longer than a full one; that is no reason to let go of more."""
    device = register(store, porch())
    now = fill(store, raw, [device], 1_000, 12_000)
    before = sum(store.history_states(0, 10)[1][device.id].bytes)
    rest = [batch(now + 10 * n, device, f=n % 7, up=1, adc=n, poll_seconds=0.1) for n in range(90)]
    for one in rest:
        raw.xadd("espnet:samples", {"n": 4, "batch": encode(one)})
    keeper(store, budget=12_000).drain(now + 900)
    assert sum(store.history_states(0, 10)[1][device.id].bytes) > 0.8 * before


def test_the_oldest_full_rate_goes_first(store: Store, raw: redis.Redis) -> None:
    """With too little memory full rate becomes shorter, and what is coarser stays whole."""
    device = register(store, porch())
    fill(store, raw, [device], 3_000, 14_000)
    past = store.past(device.id)
    assert past.lost[0] > NOW
    assert past.lost[1:] == (0, 0)
    assert min(blocks.header(block).start for block in past.levels[0]) >= past.lost[0] - 10


def test_a_smaller_share_reaches_those_who_say_nothing(store: Store, raw: redis.Redis) -> None:
    """A device that is offline gives back what it has too much when the fleet grows."""
    silent = register(store, porch())
    fill(store, raw, [silent], 3_000, 100_000)
    before = memory(raw)
    for n in range(2, 12):
        register(store, porch(n))
    keeper(store, budget=100_000).drain(NOW + 30_000)
    assert memory(raw) < min(before, 20_000)


def test_what_is_too_old_goes(store: Store, raw: redis.Redis) -> None:
    """Full rate after a day, 5 minutes after 30 days, hours after a year, also of those offline."""
    device = register(store, porch())
    now = fill(store, raw, [device], 1_000, 64 * MB)
    here = keeper(store)
    for days, left in ((0.9, 3), (2, 2), (31, 2), (40, 1), (500, 0)):
        here.drain(now + days * 86_400)
        assert sum(map(bool, store.past(device.id).levels)) == left, days


def test_no_device_no_division(store: Store, queue: Callable[..., None]) -> None:
    """An empty fleet and an empty stream are nothing to worry about."""
    assert keeper(store).drain(NOW) == 0
    assert [(level.bytes, level.oldest, level.least_s) for level in store.history_reach(NOW)] == [
        (0, 0, None)
    ] * 3


def test_a_step_is_bounded(store: Store, queue: Callable[..., None]) -> None:
    """It stops between two pages when asked."""
    device = register(store, porch())
    queue(*(batch(NOW + n, device, f=n) for n in range(100)))
    asked = iter([False, False, True])
    here = keeper(store, entries=10, stop=lambda: next(asked, True))
    assert here.drain(NOW) == 20
    assert here.drain(NOW) == 0


def test_a_failed_poll_is_a_row(store: Store) -> None:
    """A poll without an answer tells that the device was down, and nothing else."""
    device = register(store, porch())
    (claim,) = store.claim(NOW, 1, "here", ttl_s=60)
    fault = Fault(kind="timeout", what="was silent", failures=1, since=NOW, at=NOW)
    down = SampleBatch(NOW, tags_of(device), (("esp32.up", 0, ()),))
    store.commit([Poll(claim.grant, NOW + 10, fault=fault, batch=down)])
    keeper(store).drain(NOW)
    assert rows(store, device) == {NOW: {"up": 0.0}}
