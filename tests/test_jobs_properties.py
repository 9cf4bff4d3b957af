"""Laws of `decide` and `predict` over whatever jobs, readings and times hypothesis comes up with."""

import math
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet import windows
from espnet.jobs import decide, predict, remember
from espnet.model import (
    Candidate,
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

#: Midnights (UTC) before weeks in which some clock changes, and one in which none does.
WEEKS = [
    datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    for day in ("2026-03-27", "2026-10-23", "2026-03-06", "2026-10-30", "2026-10-01", "2028-02-26")
]
ZONES = ("Europe/Vienna", "America/New_York", "Australia/Lord_Howe", "UTC")
#: Ticks of the simulated weeks. Everything that happens in an exact law happens on this grid.
TICK_S = 300
WEEK_S = 7 * 86_400
PINS = (4, 5)
INPUTS = ("porch.f", "redis:outside")
LAWS = settings(deadline=None, derandomize=True)

flags = st.booleans()
levels = st.sampled_from((0, 1))
values = st.one_of(
    st.sampled_from((18.0, 19.5, 20.0, 20.5, 22.0)),
    st.floats(15, 25),
    st.sampled_from((None, math.nan, math.inf, -math.inf)),
)
grid = st.integers(0, 12).map(lambda ticks: float(ticks * TICK_S))


@st.composite
def window(draw: st.DrawFn) -> dict[str, Any]:
    minutes = draw(st.integers(0, 287)) * 5
    return {
        "pin": draw(st.sampled_from(PINS)),
        "start": f"{minutes // 60:02}:{minutes % 60:02}",
        "hours": draw(st.one_of(st.integers(1, 288).map(lambda n: n / 12), st.just(24))),
        "zone": draw(st.sampled_from(ZONES)),
        "days": draw(st.sampled_from(((), (), (0, 1, 2, 3, 4), (5, 6), (6,)))),
        "enabled": draw(st.sampled_from((True, True, True, False))),
    }


@st.composite
def timers(draw: st.DrawFn, **more: Any) -> Timer:
    return Timer(**{**draw(window()), "name": "", "invert": draw(flags), **more})


@st.composite
def thresholds(draw: st.DrawFn, **more: Any) -> Threshold:
    fields = {
        **draw(window()),
        "name": "",
        "input": draw(st.sampled_from(INPUTS)),
        "target": 20.0,
        "stale": draw(st.sampled_from(("off", "on", "hold"))),
        "mode": draw(st.sampled_from(("heat", "cool"))),
        "band": draw(st.sampled_from((0.0, 0.5, 1.0))),
        "lock_s": draw(grid),
        "min_on_s": draw(grid),
        "min_off_s": draw(grid),
        "max_age_s": draw(st.one_of(st.none(), grid)),
        **more,
    }
    return Threshold(**fields)


@st.composite
def overrides(draw: st.DrawFn, week: float) -> Override:
    since = week + draw(st.integers(0, WEEK_S // TICK_S)) * TICK_S
    until = since + draw(st.integers(1, 100)) * TICK_S
    return Override(pin=draw(st.sampled_from(PINS)), level=draw(levels), since=since, until=until)


def fleets(week: float, *more: st.SearchStrategy[Job]) -> st.SearchStrategy[list[Job]]:
    """Up to four jobs of one device, each with a name of its own."""
    kinds: list[st.SearchStrategy[Job]] = [*more, timers(), thresholds(), overrides(week)]
    return st.lists(st.one_of(*kinds), min_size=1, max_size=4).map(
        lambda jobs: [
            job if isinstance(job, Override) else msgspec.structs.replace(job, name=f"job{number}")
            for number, job in enumerate(jobs)
        ]
    )


@st.composite
def seen(draw: st.DrawFn, now: float) -> Input:
    age = draw(st.one_of(st.none(), st.integers(-6, 12)))
    return Input(
        draw(values),
        None if age is None else now - age * TICK_S,
        draw(st.sampled_from((None, float(TICK_S), 2.0 * TICK_S))),
    )


def inputs_at(now: float) -> st.SearchStrategy[dict[str, Input]]:
    return st.dictionaries(st.sampled_from(INPUTS), seen(now), max_size=2)


@st.composite
def memories(draw: st.DrawFn, now: float) -> Memory:
    ages = st.one_of(grid, st.just(1e6))
    pins = {pin: PinMemory(draw(levels), now - draw(ages)) for pin in PINS if draw(flags)}
    jobs = {f"job{n}": JobMemory(draw(flags), now - draw(ages)) for n in range(4) if draw(flags)}
    return Memory(pins, jobs)


@st.composite
def moments(
    draw: st.DrawFn,
) -> tuple[list[Job], dict[str, Input], Observed, float]:
    """Whatever can be asked of `decide`."""
    week = draw(st.sampled_from(WEEKS))
    now = week + draw(
        st.one_of(st.integers(0, 2016).map(lambda n: n * TICK_S), st.floats(0, WEEK_S))
    )
    observed = Observed({pin: draw(levels) for pin in PINS if draw(flags)}, draw(memories(now)))
    return draw(fleets(week)), draw(inputs_at(now)), observed, now


def everybody(decision: Decision) -> tuple[Candidate, ...]:
    return (decision.winner, *decision.losers)


def overridden(jobs: Sequence[Job], pin: int, now: float) -> bool:
    return any(isinstance(j, Override) and j.pin == pin and now < j.until for j in jobs)


def believable(job: Threshold, given: Input | None, now: float) -> bool:
    """The contract's words once more, one condition after the other."""
    if given is None or given.value is None or not math.isfinite(given.value):
        return False
    limit = job.max_age_s
    if limit is None and given.interval_s is not None:
        limit = 3 * given.interval_s
    if limit is None:
        return True
    return given.at is not None and abs(now - given.at) <= limit


@given(moments())
@LAWS
def test_a_failsafe_off_is_never_on(
    moment: tuple[list[Job], dict[str, Input], Observed, float],
) -> None:
    """Where an open threshold that fails to off cannot believe its input, its pin is off, whatever
    other jobs, locks and least times say; only an override may differ."""
    jobs, inputs, observed, now = moment
    decisions = decide(jobs, inputs, observed, now)
    for job in jobs:
        if isinstance(job, Threshold) and job.enabled and job.stale == "off":
            blind = not believable(job, inputs.get(job.input), now)
            if blind and windows.span(job, now).open and not overridden(jobs, job.pin, now):
                assert decisions[job.pin].level == 0


@given(moments(), st.randoms(use_true_random=False))
@LAWS
def test_decide_is_a_function(
    moment: tuple[list[Job], dict[str, Input], Observed, float], shuffler: random.Random
) -> None:
    """The same in, the same out: with nothing remembered, in another order, and by every pin alone."""
    jobs, inputs, observed, now = moment
    first = decide(jobs, inputs, observed, now)
    windows._spans.clear()
    shuffled = list(jobs)
    shuffler.shuffle(shuffled)
    assert repr(sorted(decide(shuffled, inputs, observed, now).items())) == repr(
        sorted(first.items())
    )
    for pin in PINS:
        own = decide([job for job in jobs if job.pin == pin], inputs, observed, now)
        assert repr(own) == repr({pin: first[pin]} if pin in first else {})


@given(moments())
@LAWS
def test_the_order_of_ranks_holds(
    moment: tuple[list[Job], dict[str, Input], Observed, float],
) -> None:
    """Override > fail-safe > on > off; every enabled job is among the candidates; nobody else is."""
    jobs, inputs, observed, now = moment
    decisions = decide(jobs, inputs, observed, now)
    ranks = ("override", "fail-safe", "on", "off")
    for pin in PINS:
        alive = [
            job.until > now if isinstance(job, Override) else job.enabled
            for job in jobs
            if job.pin == pin
        ]
        assert (pin in decisions) == any(alive)
        if pin in decisions:
            order = [ranks.index(candidate.rank) for candidate in everybody(decisions[pin])]
            assert order == sorted(order)
            assert len(order) == sum(alive)
            assert decisions[pin].level == decisions[pin].winner.level


@given(moments(), st.lists(st.floats(0, 1), min_size=1, max_size=8), flags)
@LAWS
def test_until_is_honest(
    moment: tuple[list[Job], dict[str, Input], Observed, float], shares: list[float], written: bool
) -> None:
    """With nothing new, a decision stays what it is until its ``until``, carried out or refused."""
    jobs, inputs, observed, now = moment
    decisions = decide(jobs, inputs, observed, now)
    made = {pin: decision.level for pin, decision in decisions.items()} if written else {}
    memory = remember(jobs, decisions, observed, now, made)
    later = Observed({**observed.levels, **made}, memory)
    for pin, decision in decisions.items():
        until = now + WEEK_S if decision.until is None else decision.until
        assert until > now
        for share in (*shares, 1.0):
            then = min(now + share * (until - now), math.nextafter(until, 0))
            assert decide(jobs, inputs, later, then)[pin].level == decision.level


@given(st.data())
@settings(LAWS, max_examples=25)
def test_a_pin_never_switches_faster_than_it_may(data: st.DataObject) -> None:
    """Through readings, resets, hands on the board, failed writes and restarts of the collector: on
    lasts min_on unless a fail-safe or an override ends it, off lasts min_off unless an override does."""
    now = data.draw(st.sampled_from(WEEKS))
    least = data.draw(st.fixed_dictionaries({"min_on_s": grid, "min_off_s": grid}))
    keeper = thresholds(pin=4, enabled=True, **least).map(
        lambda job: msgspec.structs.replace(job, name="keeper")
    )
    jobs = [data.draw(keeper), *data.draw(fleets(now, thresholds(**least)))]
    level, memory = 0, Memory()
    changed_at: float | None = None  # as this test saw it; None while nobody did
    for _ in range(40):
        now += data.draw(st.sampled_from((10, 60, TICK_S, 3 * TICK_S)))
        inputs = data.draw(inputs_at(now))
        if data.draw(st.integers(0, 9)) == 0:  # a reset, or somebody's hand
            touched = data.draw(levels)
            if touched != level:
                # Before the first poll nobody can know of it.
                level, changed_at = touched, now if 4 in memory.pins else None
        observed = Observed({4: level}, memory)
        decisions = decide(jobs, inputs, observed, now)
        decision = decisions[4]
        heeded = data.draw(st.integers(0, 9)) > 0  # or the write failed
        made = {4: decision.level} if heeded else {}
        memory = remember(jobs, decisions, observed, now, made)
        memory = msgspec.json.decode(msgspec.json.encode(memory), type=Memory)
        if decision.level != level:
            rank = decision.winner.rank
            free = rank == "override" or (rank == "fail-safe" and decision.level == 0)
            if changed_at is not None and not free:
                assert now - changed_at >= least["min_off_s" if decision.level else "min_on_s"]
            if heeded:
                level, changed_at = decision.level, now


@pytest.mark.soak
@given(st.data())
@settings(LAWS, max_examples=300)
def test_a_pin_never_switches_faster_than_it_may_for_long(data: st.DataObject) -> None:
    """The same, with many more histories."""
    test_a_pin_never_switches_faster_than_it_may.hypothesis.inner_test(data)


def ticked(
    jobs: Sequence[Job],
    inputs: Mapping[str, Input],
    observed: Observed,
    start: float,
    readings: Sequence[tuple[float, Mapping[str, Input]]],
) -> list[dict[int, int]]:
    """The levels that a week of ticks makes, each of them read, decided, written and remembered."""
    current, coming, made = dict(inputs), list(readings), []
    for number in range(WEEK_S // TICK_S):
        now = start + number * TICK_S
        while coming and coming[0][0] <= now:
            current.update(coming.pop(0)[1])
        decisions = decide(jobs, current, observed, now)
        written = {pin: decision.level for pin, decision in decisions.items()}
        memory = remember(jobs, decisions, observed, now, written)
        observed = Observed({**observed.levels, **written}, memory)
        made.append(written)
    return made


def predicted(
    jobs: Sequence[Job],
    inputs: Mapping[str, Input],
    observed: Observed,
    start: float,
    readings: Sequence[tuple[float, Mapping[str, Input]]],
) -> list[dict[int, int]]:
    """What `predict` says of the same ticks: its last word before each of them."""
    words = list(predict(jobs, inputs, observed, start, start + WEEK_S, readings=readings))
    assert len(words) < 2 * WEEK_S // TICK_S, "it goes from boundary to boundary"
    made, place = [], 0
    for number in range(WEEK_S // TICK_S):
        while place + 1 < len(words) and words[place + 1][0] <= start + number * TICK_S:
            place += 1
        made.append({pin: decision.level for pin, decision in words[place][1].items()})
    return made


@given(st.data())
@settings(LAWS, max_examples=50)
def test_a_prediction_is_what_a_week_of_ticks_does(data: st.DataObject) -> None:
    """Windows, clock changes, recorded readings, ages, locks and least times: tick for tick equal."""
    start = data.draw(st.sampled_from(WEEKS))
    jobs = data.draw(fleets(start))
    observed = Observed({4: data.draw(levels), 5: data.draw(levels)}, data.draw(memories(start)))
    count = data.draw(st.integers(0, 30))
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    times = sorted(start + chance.randrange(WEEK_S // TICK_S) * TICK_S for _ in range(count))
    readings = [(now, {chance.choice(INPUTS): data.draw(seen(now))}) for now in times]
    inputs = data.draw(inputs_at(start))
    assert predicted(jobs, inputs, observed, start, readings) == ticked(
        jobs, inputs, observed, start, readings
    )


@given(
    st.sampled_from(WEEKS),
    st.lists(
        timers(
            name="odd",
            window_min=37.0,
            **{"lat": 48.2, "lon": 16.4},
        ),
        min_size=1,
        max_size=3,
    ),
    st.lists(
        st.sampled_from(("sunrise-00:17", "sunset+01:11", "05:05:05")), min_size=3, max_size=3
    ),
)
@settings(LAWS, max_examples=25)
def test_a_prediction_of_odd_times_is_what_ticks_do(
    start: float, jobs: list[Timer], starts: list[str]
) -> None:
    """Sun and random delay keep no grid; each tick still finds what the prediction said before it."""
    jobs = [msgspec.structs.replace(job, start=one) for job, one in zip(jobs, starts, strict=False)]
    observed = Observed({4: 0, 5: 0})
    assert predicted(jobs, {}, observed, start, []) == ticked(jobs, {}, observed, start, [])
