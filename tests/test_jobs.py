"""`decide`, row by row: who wins, when, and why. Every memory goes through its JSON first, as at a
restart of the collector."""
# ruff: noqa: E501 (a row of the table is a line)

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import pytest

from espnet.jobs import decide, next_change, predict, remember
from espnet.model import (
    Decision,
    Input,
    Job,
    JobMemory,
    Memory,
    Observed,
    Override,
    PinMemory,
    Threshold,
    Timer,
)

VIENNA = "Europe/Vienna"
NEW_YORK = "America/New_York"
LORD_HOWE = "Australia/Lord_Howe"


def at(text: str, zone: str = VIENNA) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


#: A Thursday in winter, when nothing happens to clocks.
NOW = at("2026-01-15 08:00")
NAN, INF = math.nan, math.inf


def timer(name: str = "lamp", start: str = "07:00", hours: float = 2, **more: Any) -> Timer:
    return Timer(**{"pin": 4, "zone": VIENNA, **more, "name": name, "start": start, "hours": hours})


def heat(name: str = "heat", target: float = 20, stale: Any = "off", **more: Any) -> Threshold:
    window = {"pin": 4, "start": "00:00", "hours": 24, "zone": VIENNA, "input": "attic.f"}
    return Threshold(**{**window, **more, "name": name, "target": target, "stale": stale})


def override(level: Any, since: float = NOW - 60, until: float = NOW + 60, **more: Any) -> Override:
    return Override(**{"pin": 4, **more, "level": level, "since": since, "until": until})


def says(
    value: float | None, age_s: float | None = 5, interval_s: float | None = 10, **more: Any
) -> Input:
    return Input(value, None if age_s is None else NOW - age_s, interval_s, **more)


def pin(level: Any, age_s: float) -> Memory:
    return Memory({4: PinMemory(level, NOW - age_s)})


def want(on: bool, age_s: float = 3600, pin_age_s: float | None = None, level: Any = 0) -> Memory:
    pins = {} if pin_age_s is None else {4: PinMemory(level, NOW - pin_age_s)}
    return Memory(pins, {"heat": JobMemory(on, NOW - age_s)})


class Row(NamedTuple):
    """``expected``: level, rank and job of the winner, and a part of its reason."""

    law: str
    jobs: list[Job]
    expected: tuple[int, str, str, str] | None
    given: Input | None = None
    level: int | None = 0
    memory: Memory = Memory()
    now: float = NOW


ON_TIMER, OFF_TIMER = timer("day"), timer("night", "20:00")
COLD, WARM, MIDDLE = says(18.9), says(21.0), says(20.0)
LOST = says(None, problem="the sensor did not answer")
banded = heat(band=0.5)
cooler = heat(mode="cool", band=0.5)
slow = heat(min_on_s=300, min_off_s=180)
BELOW, ABOVE = "18.9 is below 20", "21 is above 20"


def leap(hours: float) -> float:
    return at("2028-02-28 23:30") + hours * 3600


def utc(text: str) -> float:
    return at(text, "UTC")


# fmt: off
ROWS = [
    # Every ordering: override > fail-safe > on > off.
    Row("an override beats a fail-safe", [heat(), override(1)], (1, "override", "override", "wants it on"), LOST),
    Row("an override off beats a timer", [ON_TIMER, override(0)], (0, "override", "override", "wants it off")),
    Row("an override off beats a fail-safe on", [heat(stale="on"), override(0)], (0, "override", "override", "")),
    Row("an override on beats off", [OFF_TIMER, override(1, why="guests")], (1, "override", "override", "on: guests")),
    Row("the newer override wins", [override(1, NOW - 20), override(0, NOW - 10)], (0, "override", "override", "")),
    Row("of two overrides of one second, off", [override(1), override(0)], (0, "override", "override", "")),
    Row("an override ends at its until", [OFF_TIMER, override(1, until=NOW)], (0, "off", "night", "is closed until 20:00")),
    Row("an OFF override that ended is nobody", [override(0, until=NOW - 1)], None),
    Row("an ON override that ended: off", [override(1, until=NOW - 1)], (0, "off", "override", "has ended")),
    Row("an ON override that ended long ago is nobody", [override(1, until=NOW - 3601)], None),
    Row("a fail-safe off beats on", [heat(), ON_TIMER], (0, "fail-safe", "heat", "did not answer; stale means off"), LOST),
    Row("a fail-safe on beats off", [heat(stale="on"), OFF_TIMER], (1, "fail-safe", "heat", "stale means on"), LOST),
    Row("two fail-safes that disagree: off", [heat("a", stale="on"), heat("b")], (0, "fail-safe", "b", ""), LOST),
    Row("on beats off", [OFF_TIMER, ON_TIMER], (1, "on", "day", "window 07:00–09:00 is open until 09:00")),
    Row("off where nobody wants on", [OFF_TIMER, heat()], (0, "off", "heat", ABOVE), WARM),
    Row("the one job that wants on wins over the rest", [heat("a"), OFF_TIMER, heat("b", 30)], (1, "on", "b", ""), WARM),
    # Two jobs on one pin; pins of nobody.
    Row("one of two jobs ended: follows the other", [timer("a", "05:00"), timer("b", "06:00", 3)], (1, "on", "b", "09:00")),
    Row("both ended: off", [timer("a", "05:00"), timer("b", "06:00", 1)], (0, "off", "a", "is closed until 05:00")),
    Row("a pin without jobs is left alone", [timer(pin=5)], None, level=1),
    Row("a disabled job is nobody", [timer(enabled=False), heat(enabled=False)], None, COLD),
    Row("a pin that the board does not report is still decided", [ON_TIMER], (1, "on", "day", ""), level=None),
    # Windows: edges, midnight, days, leap days, the sun, what cannot be.
    Row("a window is open at its first instant", [ON_TIMER], (1, "on", "day", ""), now=at("2026-01-15 07:00")),
    Row("and closed the moment before", [ON_TIMER], (0, "off", "day", ""), now=at("2026-01-15 06:59:59")),
    Row("and closed at its last", [ON_TIMER], (0, "off", "day", ""), now=at("2026-01-15 09:00")),
    Row("a window crosses midnight", [timer(start="22:00", hours=4)], (1, "on", "lamp", "until 02:00"), now=at("2026-01-15 01:59")),
    Row("and ends after it", [timer(start="22:00", hours=4)], (0, "off", "lamp", ""), now=at("2026-01-15 02:00")),
    Row("days count where a window starts", [timer(start="22:00", hours=4, days=(2,))], (1, "on", "lamp", ""), now=at("2026-01-15 01:00")),
    Row("not where it ends", [timer(start="22:00", hours=4, days=(3,))], (0, "off", "lamp", "on thu is closed"), now=at("2026-01-15 01:00")),
    Row("24 h are always", [timer(start="09:00", hours=24)], (1, "on", "lamp", "is always open")),
    Row("inverted: low inside", [timer(invert=True)], (0, "off", "lamp", "is open until 09:00"), level=1),
    Row("inverted: high outside", [timer(start="20:00", invert=True)], (1, "on", "lamp", "is closed until 20:00")),
    Row("29 February has windows", [timer(start="00:00", hours=1)], (1, "on", "lamp", ""), now=leap(1)),
    Row("a window runs from 28 into 29 February", [timer(start="23:00", days=(0,))], (1, "on", "lamp", "on mon"), now=leap(1)),
    Row("a window runs from 29 February into March", [timer(start="23:00", days=(1,))], (1, "on", "lamp", ""), now=leap(25)),
    Row("the sun: before sunset", [timer(start="sunset", lat=48.2, lon=16.4)], (0, "off", "lamp", "sunset for 2 h is closed")),
    Row("the sun: after sunset", [timer(start="sunset", lat=48.2, lon=16.4)], (1, "on", "lamp", ""), now=at("2026-01-15 17:00")),
    Row("the sun: polar night", [timer(start="sunrise", hours=24, lat=78.2, lon=15.6)], (0, "off", "lamp", "until 2026-02")),
    Row("a threshold is off outside its window", [heat(start="20:00", hours=1)], (0, "off", "heat", "is closed until"), COLD),
    Row("stale or not, and even if stale means on", [heat(start="20:00", hours=1, stale="on")], (0, "off", "heat", "is closed"), LOST),
    Row("an unknown zone is off, and raises nothing", [timer(zone="Mars/Base")], (0, "off", "lamp", "window is unknown: zone must")),
    Row("even inverted", [timer(start="noon", invert=True)], (0, "off", "lamp", "window is unknown: start must")),
    Row("a length that cannot be", [timer(hours=25, invert=True)], (0, "off", "lamp", "window is unknown: hours must")),
    Row("the sun of nowhere", [timer(start="sunset"), heat(start="sunset")], (0, "off", "heat", "lat and lon are needed"), COLD),
    # Clock changes, by the instants in UTC.
    Row("Vienna spring: not before the gap", [timer(start="02:30", hours=1)], (0, "off", "lamp", "until 03:00"), now=utc("2026-03-29 00:59:59")),
    Row("Vienna spring: at the first instant after it", [timer(start="02:30", hours=1)], (1, "on", "lamp", "until 04:00"), now=utc("2026-03-29 01:00")),
    Row("Vienna spring: three hours are three hours", [timer(start="01:00", hours=3)], (1, "on", "lamp", "until 05:00"), now=utc("2026-03-29 02:59:59")),
    Row("Vienna spring: and no more", [timer(start="01:00", hours=3)], (0, "off", "lamp", ""), now=utc("2026-03-29 03:00")),
    Row("Vienna autumn: the first of two hours", [timer(start="02:30", hours=0.5)], (1, "on", "lamp", ""), now=utc("2026-10-25 00:30")),
    Row("Vienna autumn: not the second", [timer(start="02:30", hours=0.5)], (0, "off", "lamp", ""), now=utc("2026-10-25 01:30")),
    Row("New York spring: after the gap", [timer(start="02:30", hours=1, zone=NEW_YORK)], (1, "on", "lamp", ""), now=utc("2026-03-08 07:00")),
    Row("New York spring: not before", [timer(start="02:30", hours=1, zone=NEW_YORK)], (0, "off", "lamp", ""), now=utc("2026-03-08 06:59:59")),
    Row("New York autumn: the first of two hours", [timer(start="01:30", hours=0.5, zone=NEW_YORK)], (1, "on", "lamp", ""), now=utc("2026-11-01 05:45")),
    Row("New York autumn: not the second", [timer(start="01:30", hours=0.5, zone=NEW_YORK)], (0, "off", "lamp", ""), now=utc("2026-11-01 06:45")),
    Row("Lord Howe spring: half an hour is skipped", [timer(start="02:15", hours=1, zone=LORD_HOWE)], (1, "on", "lamp", "until 03:30"), now=utc("2026-10-03 15:30")),
    Row("Lord Howe autumn: half an hour is doubled", [timer(start="01:45", hours=0.25, zone=LORD_HOWE)], (0, "off", "lamp", ""), now=utc("2026-04-04 15:20")),
    # The band's edges, both ways round.
    Row("heat: on at target - band", [banded], (1, "on", "heat", "19.5 is at or below 19.5"), says(19.5)),
    Row("heat: off at target + band", [banded], (0, "off", "heat", "20.5 is at or above 20.5"), says(20.5), 1, want(True)),
    Row("heat: between, keeps on", [banded], (1, "on", "heat", "20 is between 19.5 and 20.5: keeps on"), MIDDLE, 1, want(True)),
    Row("heat: between, a reset board is restored", [banded], (1, "on", "heat", "keeps on"), MIDDLE, 0, want(True)),
    Row("heat: between, keeps off", [banded], (0, "off", "heat", "keeps off"), MIDDLE, 0, want(False)),
    Row("heat: between, never wanted anything: off", [banded], (0, "off", "heat", "keeps off"), MIDDLE, 1),
    Row("no band: below is on", [heat()], (1, "on", "heat", BELOW), COLD),
    Row("no band: above is off", [heat()], (0, "off", "heat", ABOVE), WARM, 1, want(True)),
    Row("no band: equal keeps", [heat()], (1, "on", "heat", "20 is at the target: keeps on"), MIDDLE, 1, want(True)),
    Row("cool: on at target + band", [cooler], (1, "on", "heat", "20.5 is at or above 20.5"), says(20.5)),
    Row("cool: off at target - band", [cooler], (0, "off", "heat", "19.5 is at or below"), says(19.5), 1, want(True)),
    Row("cool: between keeps", [cooler], (1, "on", "heat", "keeps on"), MIDDLE, 1, want(True)),
    Row("0.3 - 0.1 is 0.2", [heat(target=0.3, band=0.1)], (1, "on", "heat", "0.2 is at or below 0.2"), says(0.2)),
    Row("0.1 + 0.2 is 0.3", [heat(target=0.1, band=0.2)], (0, "off", "heat", "0.3 is at or above 0.3"), says(0.3), 1, want(True)),
    Row("67.1 °F are 19.5 °C", [heat(band=0.5, unit="c")], (1, "on", "heat", "19.5 °C is at or below"), says(67.1, unit="f")),
    Row("59.18 °F are 15.1 °C and no more", [heat(target=15.1, unit="c")], (1, "on", "heat", "15.1 °C is at the target"), says(59.18, unit="f"), 1, want(True)),
    Row("20 °C are 68 °F", [heat(target=67, unit="f")], (0, "off", "heat", "68 °F is above 67"), says(20, unit="c")),
    Row("no unit asked for: compared as it comes", [heat()], (0, "off", "heat", "67.1 °F is above 20"), says(67.1, unit="f")),
    Row("an input without a unit: compared as it comes", [heat(unit="c")], (0, "off", "heat", "67.1 °C is above 20"), says(67.1)),
    # Every kind of stale.
    Row("never seen", [heat()], (0, "fail-safe", "heat", "input attic.f was never seen; stale means off"), None, 1),
    Row("no value", [heat()], (0, "fail-safe", "heat", "has no value: the sensor did not answer"), LOST, 1),
    Row("NaN", [heat()], (0, "fail-safe", "heat", "is nan, which is not a number"), says(NAN), 1),
    Row("infinite", [heat()], (0, "fail-safe", "heat", "is inf"), says(INF), 1),
    Row("infinitely cold", [heat()], (0, "fail-safe", "heat", "is -inf"), says(-INF), 1),
    Row("three intervals old is the last of it", [heat()], (1, "on", "heat", BELOW), says(18.9, 30)),
    Row("older than three intervals", [heat()], (0, "fail-safe", "heat", "is 41 s old, at most 30 s are allowed"), says(18.9, 41), 1),
    Row("older than max_age", [heat(max_age_s=8)], (0, "fail-safe", "heat", "is 8.5 s old, at most 8 s"), says(18.9, 8.5), 1),
    Row("max_age counts, not the interval", [heat(max_age_s=60)], (1, "on", "heat", BELOW), says(18.9, 41)),
    Row("a Redis key without age, no max_age: present", [heat()], (1, "on", "heat", BELOW), says(18.9, None, None)),
    Row("a Redis key with an age, no max_age: present", [heat()], (1, "on", "heat", BELOW), says(18.9, 9e5, None)),
    Row("a Redis key without age, with max_age: stale", [heat(max_age_s=60)], (0, "fail-safe", "heat", "has no age"), says(18.9, None, None), 1),
    Row("a device's input without age: stale", [heat()], (0, "fail-safe", "heat", "has no age"), says(18.9, None), 1),
    Row("of a clock a little ahead", [heat()], (1, "on", "heat", BELOW), says(18.9, -30)),
    Row("of a clock far ahead", [heat()], (0, "fail-safe", "heat", "is 90 s in the future"), says(18.9, -90), 1),
    Row("of no time at all", [heat()], (0, "fail-safe", "heat", "has no age"), says(18.9, NAN), 1),
    Row("stale means on", [heat(stale="on")], (1, "fail-safe", "heat", "stale means on"), LOST),
    Row("stale means hold: on", [heat(stale="hold")], (1, "on", "heat", "stale means hold"), LOST, 0, want(True)),
    Row("stale means hold: off", [heat(stale="hold")], (0, "off", "heat", "stale means hold"), LOST, 1, want(False)),
    Row("hold without a past: off", [heat(stale="hold")], (0, "off", "heat", ""), LOST, 1),
    Row("hold freezes nobody else", [heat(stale="hold"), ON_TIMER], (1, "on", "day", ""), LOST, 0, want(False)),
    # Least times of the pin, across absence, reset and restart.
    Row("min_off holds", [slow], (0, "fail-safe", "heat", "min_off: off for 20 s of 180 s; 18.9 is below 20"), COLD, 0, pin(0, 20)),
    Row("min_off ends on the second", [slow], (1, "on", "heat", BELOW), COLD, 0, pin(0, 180)),
    Row("min_off begins when a reset switched off", [slow], (0, "fail-safe", "heat", "off for 0 s"), COLD, 0, pin(1, 900)),
    Row("a pin first seen low may go on", [slow], (1, "on", "heat", BELOW), COLD),
    Row("min_off holds a timer on the same pin", [slow, ON_TIMER], (0, "fail-safe", "heat", "min_off: off for 20 s"), WARM, 0, pin(0, 20)),
    Row("min_off holds a fail-safe on", [heat(stale="on", min_off_s=180)], (0, "fail-safe", "heat", "min_off"), LOST, 0, pin(0, 20)),
    Row("min_off holds hold", [heat(stale="hold", min_off_s=180)], (0, "fail-safe", "heat", "min_off"), LOST, 0, want(True, pin_age_s=20)),
    Row("an override need not wait for min_off", [slow, override(1)], (1, "override", "override", ""), COLD, 0, pin(0, 20)),
    Row("min_on holds", [slow], (1, "on", "heat", "min_on: on for 20 s of 300 s; 21 is above 20"), WARM, 1, pin(1, 20)),
    Row("min_on ends on the second", [slow], (0, "off", "heat", ABOVE), WARM, 1, pin(1, 300)),
    Row("min_on holds where the window ends", [heat(start="07:00", hours=1, min_on_s=300)], (1, "on", "heat", "min_on"), COLD, 1, pin(1, 20)),
    Row("a fail-safe off does not wait for min_on", [slow], (0, "fail-safe", "heat", "stale means off"), LOST, 1, pin(1, 20)),
    Row("an override off does not wait for min_on", [slow, override(0)], (0, "override", "override", ""), COLD, 1, pin(1, 20)),
    Row("min_on goes on when its override ends", [slow, override(1, until=NOW)], (1, "on", "heat", "min_on: on for 20 s"), WARM, 1, pin(1, 20)),
    Row("the sensor is back: min_off still counts", [slow], (0, "fail-safe", "heat", "min_off: off for 20 s"), COLD, 0, want(False, 20, 20)),
    Row("the longest least time counts", [heat("a", min_off_s=60), heat("b", min_off_s=90)], (0, "fail-safe", "b", "of 90 s"), COLD, 0, pin(0, 20)),
    Row("an unreported pin is as last seen", [slow], (0, "fail-safe", "heat", "min_off: off for 20 s"), COLD, None, pin(0, 20)),
    Row("a clock set back starts the wait anew", [slow], (0, "fail-safe", "heat", "off for 0 s of 180 s"), COLD, 0, pin(0, -1e6)),
    # The lock: between changes of what the job wants.
    Row("lock keeps off", [heat(lock_s=60)], (0, "off", "heat", "lock: off for 20 s of 60 s; 18.9 is below 20"), COLD, 0, want(False, 20)),
    Row("lock keeps on", [heat(lock_s=60)], (1, "on", "heat", "lock: on for 20 s of 60 s; 21 is above 20"), WARM, 1, want(True, 20)),
    Row("lock ends on the second", [heat(lock_s=60)], (1, "on", "heat", BELOW), COLD, 0, want(False, 60)),
    Row("a first want is no change", [heat(lock_s=60)], (1, "on", "heat", BELOW), COLD),
    Row("lock lets a reset board be restored", [heat(lock_s=60)], (1, "on", "heat", BELOW), COLD, 0, want(True, 20)),
    Row("a fail-safe off does not wait for the lock", [heat(lock_s=60)], (0, "fail-safe", "heat", ""), LOST, 1, want(True, 20)),
    Row("a fail-safe on does", [heat(lock_s=60, stale="on")], (0, "off", "heat", "lock: off for 20 s"), LOST, 0, want(False, 20)),
    Row("the end of the window does not wait for the lock", [heat(start="07:00", hours=1, lock_s=60)], (0, "off", "heat", "closed"), COLD, 1, want(True, 20)),
    Row("a clock set back starts the lock anew", [heat(lock_s=60)], (0, "off", "heat", "lock: off for 0 s of 60 s"), COLD, 0, want(False, -1e6)),
]
# fmt: on


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.law)
def test_decide(row: Row) -> None:
    """The law is the row's own name; it holds in whatever order the jobs come."""
    memory = msgspec.json.decode(msgspec.json.encode(row.memory), type=Memory)
    inputs = {} if row.given is None else {"attic.f": row.given}
    observed = Observed({} if row.level is None else {4: row.level}, memory)
    decisions = decide(row.jobs, inputs, observed, row.now)
    assert repr(decisions) == repr(decide(row.jobs[::-1], inputs, observed, row.now))
    if row.expected is None:
        assert 4 not in decisions
        return
    level, rank, job, why = row.expected
    decision = decisions[4]
    winner = decision.winner
    assert (decision.level, winner.level, winner.rank, winner.job) == (level, level, rank, job)
    assert why in winner.why
    lasting = [job for job in row.jobs if getattr(job, "until", INF) > row.now]
    assert len(decision.losers) == max(len(lasting), 1) - 1
    assert decision.until is None or decision.until > row.now


def test_laws_are_sixty_and_more() -> None:
    """Each row is a law of its own."""
    assert len({row.law for row in ROWS}) == len(ROWS) >= 60


# --- until ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jobs", "given", "memory", "until"),
    [
        pytest.param([ON_TIMER], None, Memory(), at("2026-01-15 09:00"), id="the window's edge"),
        pytest.param([override(1), timer(pin=5)], None, Memory(), NOW + 60, id="override's end"),
        pytest.param([timer(hours=24)], None, Memory(), None, id="never"),
        pytest.param([heat()], COLD, Memory(), math.nextafter(NOW + 25, INF), id="staleness"),
        pytest.param([heat()], LOST, Memory(), None, id="not by itself"),
        pytest.param([heat()], says(1, -90), Memory(), NOW + 60, id="a clock ahead"),
        pytest.param([slow], says(18.9, 0, 100), pin(0, 20), NOW + 160, id="min_off's end"),
        pytest.param(
            [heat(lock_s=60)], says(18.9, 0, 100), want(False, 20), NOW + 40, id="lock's end"
        ),
    ],
)
def test_until(jobs: list[Job], given: Input | None, memory: Memory, until: float | None) -> None:
    """The first moment at which a decision may change by itself is exact."""
    inputs = {} if given is None else {"attic.f": given}
    assert decide(jobs, inputs, Observed({4: 0}, memory), NOW)[4].until == until


# --- memory ---------------------------------------------------------------------------------------


def tick(
    jobs: list[Job], inputs: Mapping[str, Input], levels: dict[int, int], memory: Memory, now: float
) -> tuple[dict[int, Decision], Memory]:
    observed = Observed(levels, memory)
    decisions = decide(jobs, inputs, observed, now)
    return decisions, remember(jobs, decisions, observed, now)


def test_a_pin_is_remembered_since_it_changed() -> None:
    """At first nobody knows since when; then since each change, when it is seen."""
    jobs: list[Job] = [timer(), timer("b", pin=5)]
    memory = tick(jobs, {}, {4: 0, 5: 1, 6: 1}, Memory(), NOW)[1]
    assert memory.pins == {4: PinMemory(0, 0), 5: PinMemory(1, 0)}
    memory = tick(jobs, {}, {4: 1, 5: 1}, memory, NOW + 10)[1]
    assert memory.pins == {4: PinMemory(1, NOW + 10), 5: PinMemory(1, 0)}
    memory = tick(jobs, {}, {}, memory, NOW + 20)[1]
    assert memory.pins == {4: PinMemory(1, NOW + 10), 5: PinMemory(1, 0)}


def test_a_pin_seen_first_counts_as_unchanged_since_its_board_booted() -> None:
    """A reset switches a compressor off, and min_off counts from there; an old boot blocks nothing."""
    compressor = heat("fridge", min_off_s=180, mode="cool")
    for uptime_s, level in ((20, 0), (400, 1)):
        observed = Observed({4: 0}, Memory(), NOW - uptime_s)
        decision = decide([compressor], {"attic.f": WARM}, observed, NOW)[4]
        assert decision.level == level, decision.winner.why


def test_what_was_written_counts_from_then() -> None:
    """A confirmed write is a change at once, even back to the level that was remembered."""
    observed = Observed({4: 1}, Memory({4: PinMemory(0, NOW - 900)}))
    decisions = decide([OFF_TIMER], {}, observed, NOW)
    memory = remember([OFF_TIMER], decisions, observed, NOW, {4: 0})
    assert memory.pins == {4: PinMemory(0, NOW)}


def test_a_want_is_remembered_since_it_changed() -> None:
    """What the job goes by counts, not what a minimum time makes of it; stale off is a change."""
    memory = tick([slow], {"attic.f": COLD}, {4: 0}, pin(0, 20), NOW)[1]
    assert memory.jobs == {"heat": JobMemory(True, NOW)}
    memory = tick([slow], {"attic.f": says(18.8)}, {4: 0}, memory, NOW + 5)[1]
    assert memory.jobs == {"heat": JobMemory(True, NOW)}
    memory = tick([slow], {"attic.f": LOST}, {4: 0}, memory, NOW + 7)[1]
    assert memory.jobs == {"heat": JobMemory(False, NOW + 7)}


def test_what_no_job_needs_is_forgotten() -> None:
    """Pins outlive a disabled job, wants do not; neither outlives a removed one."""
    memory = Memory({4: PinMemory(1, 5), 9: PinMemory(1, 5)}, {"heat": JobMemory(True, 5)})
    off = heat(enabled=False)
    assert tick([off], {}, {4: 1, 9: 1}, memory, NOW)[1] == Memory({4: PinMemory(1, 5)})
    assert tick([], {}, {4: 1, 9: 1}, memory, NOW)[1] == Memory()


def test_a_flapping_sensor_does_not_short_cycle() -> None:
    """Off at once when it goes; on again only after the least time off, through any restart."""
    memory, level, changes = Memory(), 0, []
    for second in range(0, 600, 10):
        given = LOST if second % 20 else says(18.9, -second)
        memory = msgspec.json.decode(msgspec.json.encode(memory), type=Memory)
        decisions, memory = tick([slow], {"attic.f": given}, {4: level}, memory, NOW + second)
        if decisions[4].level != level:
            level = decisions[4].level
            changes.append((second, level))
    assert changes == [(0, 1), (10, 0), (200, 1), (210, 0), (400, 1), (410, 0)]


# --- the future -----------------------------------------------------------------------------------


def test_a_plan_goes_from_edge_to_edge() -> None:
    """Yesterday's, today's and tomorrow's edges, the override's end and nothing else."""
    jobs: list[Job] = [ON_TIMER, override(0, until=at("2026-01-15 08:30"))]
    steps = predict(jobs, {}, Observed({4: 0}), NOW, at("2026-01-16 08:00"))
    assert [(now, made[4].level) for now, made in steps] == [
        (NOW, 0),
        (at("2026-01-15 08:30"), 1),
        (at("2026-01-15 09:00"), 0),
        (at("2026-01-16 07:00"), 1),
    ]


def test_a_plan_follows_recorded_readings() -> None:
    """Each reading is a step, and so is the moment when one has grown too old."""
    readings = [(NOW + s, {"attic.f": Input(v, NOW + s, 10)}) for s, v in ((20, 18.0), (50, 22.0))]
    steps = predict([heat()], {}, Observed({4: 0}), NOW, NOW + 100, readings=readings)
    assert [(round(now - NOW), made[4].level, made[4].winner.rank) for now, made in steps] == [
        (0, 0, "fail-safe"),
        (20, 1, "on"),
        (50, 0, "off"),
        (80, 0, "fail-safe"),
    ]


def test_the_next_change_supposes_that_sensors_go_on() -> None:
    """Steady: the heater's window ends; unsteady: its input grows old first. Never: absent."""
    job = heat(start="07:00", hours=2)
    observed, inputs = Observed({4: 1}, want(True)), {"attic.f": COLD}
    [(now, decision)] = next_change(
        [job, timer("b", hours=24, pin=5)], inputs, observed, NOW
    ).values()
    assert (now, decision.pin, decision.level) == (at("2026-01-15 09:00"), 4, 0)
    [(now, decision)] = next_change([job], inputs, observed, NOW, steady=False).values()
    assert (now, decision.winner.rank) == (math.nextafter(NOW + 25, INF), "fail-safe")
    assert next_change([timer(start="20:00")], {}, observed, NOW, within_s=3600) == {}
