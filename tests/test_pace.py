"""Laws of `espnet.pace`: what counts against a board, how much slower it is polled then, and for how long."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet import pace
from espnet.model import Job, Override, Pace, Threshold, Timer
from espnet.pace import (
    BAD_POLLS,
    GOOD_POLLS,
    LONGEST_S,
    MOST_GOOD_POLLS,
    Factor,
    Outcome,
    factor_of,
)

NOW = 1_750_000_000.0
QUICK, SLOW = 0.03, 3.0
INTERVALS = st.floats(0.1, 86_400)
LIMITS = st.sampled_from([1, 2, 4])

TIMER = Timer(name="t", pin=4, start="06:00", hours=2, zone="UTC")
OVERRIDE = Override(pin=4, level=1, since=NOW, until=NOW + 60)


def heater(source: str, max_age_s: float | None = None, **more: object) -> Threshold:
    job = Threshold(
        name="h", pin=5, start="00:00", hours=24, zone="UTC", input=source, target=20, stale="off",
        max_age_s=max_age_s,
    )  # fmt: skip
    return msgspec.structs.replace(job, **more)


def outcomes(at: float = NOW) -> st.SearchStrategy[Outcome]:
    return st.builds(
        Outcome,
        st.just(at),
        st.none() | st.floats(0, 60),
        st.none() | st.integers(-1, 200_000),
        st.none() | st.floats(0, 1e9),
        st.sampled_from(["", "", "has no place"]),
    )


PACES = st.none() | st.builds(
    Pace,
    LIMITS,
    st.just("why"),
    st.sampled_from([0.0, NOW - 500]),
    st.sampled_from([0.0, NOW - 500]),
    st.integers(0, BAD_POLLS),
    st.integers(0, MOST_GOOD_POLLS),
    st.sampled_from([0, 10, 40, MOST_GOOD_POLLS]),
)


def after(
    polls: list[Outcome], *, asked_s: float = 10.0, limit: Factor = 4, start: Pace | None = None
) -> Pace | None:
    now = start
    for poll in polls:
        now = pace.step(now, poll, asked_s, limit)
    return now


def good(count: int = 1) -> list[Outcome]:
    return [Outcome(NOW, QUICK, 50_000)] * count


def bad(count: int = 1) -> list[Outcome]:
    return [Outcome(NOW, QUICK, refusal="has no place")] * count


@pytest.mark.parametrize(
    ("outcome", "asked_s", "why"),
    [
        (Outcome(NOW, 0.03, 50_000), 10, ""),
        (Outcome(NOW, 0.03), 10, ""),  # 2021 firmware says nothing of its memory
        (Outcome(NOW, 0.3, 50_000), 1, ""),  # Wi-Fi that saves power
        (Outcome(NOW, 0.49, 50_000), 0.1, ""),
        (Outcome(NOW, 0.5, 50_000), 0.1, "answers take 0.5 s"),
        (Outcome(NOW, 0.9, 50_000), 10, ""),
        (Outcome(NOW, 1.0, 50_000), 10, "answers take 1.0 s"),
        (Outcome(NOW, 2.0), 10, "answers take 2.0 s"),  # nor came it within the time-out
        (Outcome(NOW, 5.0, 50_000), 60, ""),
        (Outcome(NOW, 0.03, 6_144), 10, ""),
        (Outcome(NOW, 0.03, 6_143), 10, "free heap 6.1 kB"),
        (Outcome(NOW, 0.03, 0), 10, "free heap 0.0 kB"),
        (
            Outcome(NOW, None, refusal="refused: no place, HTTP 503"),
            10,
            "refused: no place, HTTP 503",
        ),
        (Outcome(NOW), 10, ""),  # nothing is known
    ],
)
def test_what_counts_against_a_board(outcome: Outcome, asked_s: float, why: str) -> None:
    """Answers of half a second that take a tenth of its time, the heap below the floor, refusals: no more."""
    found = pace.step(None, outcome, asked_s, 4)
    assert (found.why if found else "") == why
    if outcome.answer_s is not None and not outcome.refusal:
        assert pace.is_well(outcome.answer_s, outcome.mem_free, pace.slow_s(asked_s)) == (not why)


def test_a_board_is_slowed_after_a_few_bad_polls_and_comes_back_after_many_good_ones() -> None:
    """The story of one board, poll by poll."""
    assert after(bad(BAD_POLLS - 1)).factor == 1
    slowed = after(bad(BAD_POLLS))
    assert (slowed.factor, slowed.why, slowed.since) == (2, "has no place", NOW)
    assert after(bad(BAD_POLLS - 1), start=slowed).factor == 2
    slowest = after(bad(BAD_POLLS), start=slowed)
    assert slowest.factor == 4
    assert after(bad(100), start=slowest).factor == 4
    assert after(good(GOOD_POLLS - 1), start=slowest).factor == 4
    assert after(good(GOOD_POLLS), start=slowest).factor == 2
    assert after(good(2 * GOOD_POLLS - 1), start=slowest).factor == 2
    assert after(good(2 * GOOD_POLLS), start=slowest).factor == 1
    assert after(good(3 * GOOD_POLLS), start=slowest) is None


def test_one_bad_poll_among_good_ones_is_nothing() -> None:
    """Nor is every second one: only when more polls are bad than good the board is slowed."""
    assert after((bad() + good()) * 50) is None
    assert after(bad(2) + good(2)) is None
    assert factor_of(after((bad(2) + good()) * 3)) == 2


def test_one_bad_poll_begins_the_way_back_anew() -> None:
    """Good polls count in a row."""
    slowed = after(bad(BAD_POLLS))
    assert after(good(GOOD_POLLS - 1) + bad() + good(GOOD_POLLS - 1), start=slowed).factor == 2


def test_what_is_neither_good_nor_bad_changes_nothing() -> None:
    """Between the two floors of the heap, and between two paces, a board stays as it is."""
    slowed = after(bad(BAD_POLLS))
    between = [Outcome(NOW, QUICK, 7_000), Outcome(NOW, 1.5, 50_000)] * 50
    assert after(between, start=slowed).factor == 2
    assert pace.step(None, Outcome(NOW, QUICK, 7_000), 10.0, 4) is None


def test_who_struggles_again_is_trusted_more_slowly() -> None:
    """A board that bears only the slower pace is asked faster ever more seldom, and never more than so."""
    now: Pace | None = None
    waits = []
    for _ in range(8):
        now = after(bad(BAD_POLLS), start=now)
        assert now.factor == 2
        wait = 0
        while now.factor == 2:
            now, wait = after(good(), start=now), wait + 1
        waits.append(wait)
    assert waits == [10, 20, 40, 80, 160, 160, 160, 160]


def test_a_restart_ends_it() -> None:
    """What was against the board before it was restarted is over; what came after is not."""
    slowed = after(bad(BAD_POLLS))
    later = Outcome(NOW + 100, QUICK, 50_000, uptime_s=90.0)
    assert pace.step(slowed, later, 10.0, 4).factor == 1
    assert pace.step(slowed, later._replace(uptime_s=110.0), 10.0, 4).factor == 2
    assert pace.step(slowed, later._replace(uptime_s=None), 10.0, 4).factor == 2
    assert pace.step(after(bad()), later, 10.0, 4) is None


def test_a_board_that_bears_the_slower_pace_stays_there() -> None:
    """An answer of 1.5 s is too much every 10 s, and not too much every 20 s: no way back, no way on."""
    slow = [Outcome(NOW, 1.5, 50_000)]
    assert after(slow * 500).factor == 2
    assert after([Outcome(NOW, 2.5, 50_000)] * 500).factor == 4


# --- for whatever happens -----------------------------------------------------------------------


@given(start=PACES, polls=st.lists(outcomes(), max_size=60), asked_s=INTERVALS, limit=LIMITS)
def test_whatever_happens_a_pace_is_within_its_limits(start, polls, asked_s, limit) -> None:
    """One of three factors, never above the limit; counters that end; what is said is a reason."""
    now = start
    for poll in polls:
        was, now = now, pace.step(now, poll, asked_s, limit)
        assert factor_of(now) in (1, 2, 4)
        assert factor_of(now) <= limit
        assert factor_of(now) <= 2 * factor_of(was)
        if now is not None:
            assert 0 <= now.bad <= BAD_POLLS
            assert 0 <= now.good <= max(now.patience, start.good if start else 0) + len(polls)
            assert now.patience <= MOST_GOOD_POLLS
            assert now.factor == 1 or now.why
            assert msgspec.json.decode(msgspec.json.encode(now), type=Pace) == now


@given(start=PACES, asked_s=INTERVALS, limit=LIMITS)
def test_every_board_recovers(start, asked_s, limit) -> None:
    """With nothing against it a board is polled as asked after a bounded number of polls, and forgotten."""
    assert (
        after(good(BAD_POLLS + 3 * MOST_GOOD_POLLS), start=start, asked_s=asked_s, limit=limit)
        is None
    )


@given(
    polls=st.lists(st.sampled_from([good(1), good(9), good(12), bad(1), bad(4)]), max_size=40),
    limit=LIMITS,
)
def test_a_pace_does_not_flutter(polls, limit) -> None:
    """Before each change to the slower there are three bad polls, before each to the faster ten good ones."""
    now: Pace | None = None
    goods = bads = 0
    for poll in [poll for some in polls for poll in some]:
        was, now = now, pace.step(now, poll, 10.0, limit)
        goods, bads = (0, bads + 1) if poll.refusal else (goods + 1, bads)
        if factor_of(now) > factor_of(was):
            assert poll.refusal
            assert bads >= BAD_POLLS
        elif factor_of(now) < factor_of(was):
            assert goods >= GOOD_POLLS
        if factor_of(now) != factor_of(was):
            goods = bads = 0


@given(
    polls=st.lists(outcomes(), max_size=60),
    worse=st.sets(st.integers(0, 59)),
    limit=LIMITS,
)
def test_what_is_worse_never_makes_a_board_faster(polls, worse, limit) -> None:
    """From the same pace, a poll that is against the board leaves it no faster than any other poll."""
    now: Pace | None = None
    for number, poll in enumerate(polls):
        against = poll._replace(refusal="has no place")
        as_it_was, as_worse = (pace.step(now, each, 10.0, limit) for each in (poll, against))
        assert factor_of(as_worse) >= factor_of(as_it_was)
        now = as_worse if number in worse else as_it_was


# --- the limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked_s", "jobs", "watchers", "limit"),
    [
        (10, (), (), 4),
        (15, (), (), 4),
        (16, (), (), 2),
        (30, (), (), 2),
        (31, (), (), 1),
        (86_400, (), (), 1),
        (10, (TIMER,), (), 2),
        (10, (OVERRIDE,), (), 2),
        (10, (msgspec.structs.replace(OVERRIDE, until=NOW),), (), 4),
        (10, (msgspec.structs.replace(TIMER, enabled=False),), (), 4),
        (10, (), (heater("porch.f"),), 2),
        (10, (heater("porch.f"),), (), 2),
        (10, (heater("porch.f", 40),), (), 2),
        (10, (heater("porch.f", 39),), (), 1),
        (10, (heater("porch.f", 39, enabled=False),), (), 4),
        (10, (heater("attic.f", 5),), (), 2),  # the age is another board's
        (10, (heater("redis:weather#temp", 5),), (), 2),
        (10, (), (heater("porch.f", 40), heater("porch.f")), 2),
        (10, (), (heater("porch.f", 40), heater("porch.f", 20)), 1),
    ],
)
def test_who_needs_the_readings_limits_how_much_slower_they_come(
    asked_s: float, jobs: tuple[Job, ...], watchers: tuple[Threshold, ...], limit: int
) -> None:
    """Jobs, those who look at it, maximum ages, and long intervals, each by its own rule."""
    assert pace.most("porch", asked_s, jobs, watchers, NOW) == limit


@given(
    asked_s=INTERVALS,
    ages=st.lists(st.none() | st.floats(1, 86_400), max_size=4),
    is_own=st.booleans(),
)
def test_no_limit_makes_an_input_too_old(asked_s, ages, is_own) -> None:
    """Where a board is slowed, it is polled at least once a minute and twice in every maximum age."""
    jobs = [heater("porch.f", age) for age in ages]
    limit = pace.most("porch", asked_s, jobs if is_own else (), () if is_own else jobs, NOW)
    if limit > 1:
        assert limit * asked_s <= LONGEST_S
        assert limit == 2 or not ages
        assert all(age is None or 2 * limit * asked_s <= age for age in ages)


def test_a_new_limit_holds_at_once() -> None:
    """A job that comes while a board is slowed makes it faster at the next poll, whatever that says."""
    slowest = after(bad(2 * BAD_POLLS))
    assert slowest.factor == 4
    for poll in (*bad(), *good(), Outcome(NOW)):
        assert pace.step(slowest, poll, 10.0, 2).factor == 2
        assert factor_of(pace.step(slowest, poll, 10.0, 1)) == 1
