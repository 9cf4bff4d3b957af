"""How fast a board may be polled: one that struggles is polled slower than asked. Pure: no I/O, no clock.

Three things show that a board struggles. It takes long to answer, so long that this is more than a tenth of
its time; it is short of memory; it refuses, because it has no memory, no place or has been asked too often.
A board that says nothing at all says nothing of this either: nobody knows whether it is there.

Invariants: the factor is 1, 2 or 4. It doubles after `BAD_POLLS` more polls against the board than for it.
It is halved after `GOOD_POLLS` in a row that the board would have borne at the faster pace, too; a board that
struggles again soon after is trusted more slowly each time. So it does not flutter. It is never above what
`most` allows. A board that bears its polls well has no `Pace`; to find that out takes a few comparisons.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from espnet import inputs
from espnet.model import Job, Pace, Threshold
from espnet.series import governs

#: The share of its time that a board may spend on answering us.
BUDGET = 0.1
#: An answer that comes sooner is no load, whatever the interval: Wi-Fi that saves power takes 0.3 s.
QUICK_S = 0.5
#: Free heap in bytes: below the first, today's firmware takes no new clients until it has the second
#: (esp32/memory.py).
LOW_BYTES, ENOUGH_BYTES = 6_144, 8_192
#: So many polls more against a board than for it slow it down.
BAD_POLLS = 3
#: So many in a row for it make it faster; after each relapse twice as many, up to the second.
GOOD_POLLS, MOST_GOOD_POLLS = 10, 160
#: No board is slowed beyond this interval, in seconds: asked so seldom, it does not suffer from us. It keeps
#: the connection open, too, which boards close after 65 s.
LONGEST_S = 60.0
#: A reading has to come so many times before whoever looks at it takes it for too old: one may fail.
AGE_POLLS = 2

Factor = Literal[1, 2, 4]
_SLOWER: dict[Factor, Factor] = {1: 2, 2: 4, 4: 4}
_FASTER: dict[Factor, Factor] = {1: 1, 2: 1, 4: 2}
_WELL = Pace()


class Outcome(NamedTuple):
    """What a poll says of the load on a board, at ``at`` (Unix seconds).

    ``answer_s`` is how long the board took for its status, sensors not counted, or how long that was waited
    for in vain. ``refusal`` are its words, "" where it did not refuse. None is not known.
    """

    at: float
    answer_s: float | None = None
    mem_free: int | None = None
    uptime_s: float | None = None
    refusal: str = ""


def slow_s(every_s: float) -> float:
    """From how many seconds on an answer is slow, for a board that is polled every ``every_s``."""
    return max(QUICK_S, BUDGET * every_s)


def is_well(answer_s: float, mem_free: int | None, slow_s: float) -> bool:
    """Whether an answer leaves a board without a `Pace` as it is. This is the fleet's steady state."""
    return answer_s < slow_s and (mem_free is None or mem_free >= LOW_BYTES)


def factor_of(pace: Pace | None) -> Factor:
    """By how much a board is slowed down."""
    return pace.factor if pace is not None else 1


def step(before: Pace | None, outcome: Outcome, asked_s: float, limit: Factor) -> Pace | None:
    """How the board bears its polls after this one.

    ``asked_s`` is the interval that was asked for, ``limit`` what `most` said of it.
    """
    pace = before or _WELL
    if has_restarted(pace, outcome):
        pace = Pace(1, since=outcome.at, patience=pace.patience) if pace.factor > 1 else _WELL
    factor = min(pace.factor, limit)
    if why := _complaint(outcome, asked_s * factor):
        return _worse(pace, factor, why, outcome.at, limit)
    if outcome.answer_s is not None and _would_bear(outcome, asked_s * _FASTER[factor]):
        return _better(pace, factor, outcome.at)
    if pace is _WELL:
        return None
    return _with(pace, factor, outcome.at, pace.bad, 0)


def has_restarted(pace: Pace, outcome: Outcome) -> bool:
    """Whether the board was restarted since there was something against it: then that is over."""
    if not pace.at or outcome.uptime_s is None:
        return False
    return outcome.uptime_s < outcome.at - pace.at


def _worse(pace: Pace, factor: Factor, why: str, at: float, limit: Factor) -> Pace:
    bad = min(pace.bad + 1, BAD_POLLS)
    patience = pace.patience or GOOD_POLLS
    if bad < BAD_POLLS or 2 * factor > limit:
        since = pace.since if factor == pace.factor else at
        return Pace(factor, why, since, at, bad, 0, patience)
    if factor == 1 and pace.since:  # it was slowed before, and is not yet trusted again
        patience = min(2 * patience, MOST_GOOD_POLLS)
    return Pace(_SLOWER[factor], why, at, at, 0, 0, patience)


def _better(pace: Pace, factor: Factor, at: float) -> Pace | None:
    bad, good = max(pace.bad - 1, 0), pace.good + 1
    if good >= pace.patience and bad == 0:
        if factor == 1:
            return None
        factor, good = _FASTER[factor], 0
    if factor == 1 and bad == 0 and not pace.since:
        return None  # it was never slowed
    return _with(pace, factor, at, bad, good)


def _with(pace: Pace, factor: Factor, at: float, bad: int, good: int) -> Pace:
    since = pace.since if factor == pace.factor else at
    return Pace(factor, pace.why, since, pace.at, bad, good, pace.patience)


def _complaint(outcome: Outcome, every_s: float) -> str:
    """What there is against the board in this poll, as a clause; "" for nothing."""
    if outcome.refusal:
        return outcome.refusal
    if outcome.mem_free is not None and outcome.mem_free < LOW_BYTES:
        return f"free heap {outcome.mem_free / 1000:.1f} kB"
    if outcome.answer_s is not None and outcome.answer_s >= slow_s(every_s):
        return f"answers take {outcome.answer_s:.1f} s"
    return ""


def _would_bear(outcome: Outcome, faster_s: float) -> bool:
    """Whether nothing of it were against the board if it was polled every ``faster_s``."""
    assert outcome.answer_s is not None
    is_quick = outcome.answer_s < slow_s(faster_s)
    return is_quick and (outcome.mem_free is None or outcome.mem_free >= ENOUGH_BYTES)


def most(
    name: str, asked_s: float, jobs: Sequence[Job], watchers: Sequence[Threshold], at: float
) -> Factor:
    """By how much the polling of the device ``name`` may be slowed at ``at`` (Unix seconds).

    ``jobs`` are its own, ``watchers`` the thresholds of other devices that look at its readings. Where there
    is one of either, 2: they act an interval late at most, and leases that were given before, for three
    intervals, outlast the next poll even where the board does not take longer ones. A threshold with a
    maximum age of its input may allow less.
    """
    own = [job for job in jobs if governs(job, at)]
    looking = [j for j in own if isinstance(j, Threshold) and inputs.parse(j.input).device == name]
    ages = [j.max_age_s for j in (*looking, *watchers) if j.max_age_s is not None]
    longest_s = min((LONGEST_S, *(age_s / AGE_POLLS for age_s in ages)))
    if 4 * asked_s <= longest_s and not own and not watchers:
        return 4
    return 2 if 2 * asked_s <= longest_s else 1
