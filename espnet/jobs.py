"""What a device's pins should be, and why. Pure: no I/O, no clock; ``now`` is an argument.

Invariants: every enabled job of a pin is a candidate, and the same candidates give the same decision
in whatever order they come. Override > fail-safe > on > off; two fail-safes that disagree: off. A pin
that no job governs is not decided. Nothing that a job or an input can hold raises.

Times belong to two different things. ``lock_s`` counts from the last change of what a threshold
*wants*, so a board that was reset is restored at once; the end of a window and a fail-safe that wants
off do not wait for it. ``min_on_s`` and ``min_off_s`` count from the last change of the *pin*, and hold
for whatever job wants to change it: the longest of all thresholds of that pin counts. An override waits
for neither, and a fail-safe that wants off does not wait for ``min_on_s``.

What nobody saw does not block: a threshold that never wanted anything may change at once, and a pin
that is seen for the first time counts as unchanged since its board booted, or for ever.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from espnet.errors import UsageError
from espnet.model import (
    FRESH_INTERVALS,
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
from espnet.windows import span

#: How far `next_change` looks: past any weekly timer.
NEXT_CHANGE_S = 8 * 86_400.0

#: For so long after its end an ON override still says off where no job governs the pin, in seconds: else
#: it would stay on, its lease renewed by every poll. Where no poll came, the lease has seen to it.
OVERRIDE_TAIL_S = 3_600.0

_RANKS = {"override": 0, "fail-safe": 1, "on": 2, "off": 3}
_WORDS: tuple[Literal["off"], Literal["on"]] = ("off", "on")
_UNSEEN_JOB = JobMemory(False, 0.0)
_Entry = tuple[tuple[Any, ...], Candidate, Job]  # what sorts it among its pin's, what the job says


def decide(
    jobs: Sequence[Job],
    inputs: Mapping[str, Input],
    observed: Observed,
    now: float,
    *,
    aged_to: float | None = None,
) -> dict[int, Decision]:
    """What each governed pin of one device should be at ``now`` (Unix seconds).

    ``inputs`` are found by `Threshold.input`; one that is absent was never seen. With ``aged_to`` they
    are for ever as old as they were then.
    """
    pins: dict[int, list[_Entry]] = {}
    for job in jobs:
        newest = 0.0
        if isinstance(job, Override):
            if now >= job.until:
                continue
            c, newest = _override(job), -job.since
        elif not job.enabled:
            continue
        else:
            c = _candidate(job, inputs, observed.memory, now, aged_to)
        # The last three only part what is alike, so that the order of the jobs never shows through.
        key = (_RANKS[c.rank], newest, c.level, c.job, c.why, c.until or math.inf)
        pins.setdefault(job.pin, []).append((key, c, job))
    for job in jobs:
        if isinstance(job, Override) and job.pin not in pins and not is_over(job, now):
            # A pin that nobody else governs must not stay on because its override has ended.
            ends, why = job.until + OVERRIDE_TAIL_S, "the override has ended"
            c = Candidate("override", "override", 0, "off", why, ends)
            pins[job.pin] = [((_RANKS["off"],), c, job)]
    return {pin: _settle(pin, entries, observed, now) for pin, entries in pins.items()}


def _candidate(
    job: Timer | Threshold,
    inputs: Mapping[str, Input],
    memory: Memory,
    now: float,
    aged_to: float | None,
) -> Candidate:
    kind: Literal["timer", "threshold"] = "timer" if isinstance(job, Timer) else "threshold"
    try:
        window = span(job, now)
    except UsageError as error:  # a zone that this machine does not know, a record edited by hand
        return Candidate(job.name, kind, 0, "off", f"its window is unknown: {error}")
    window_ends = _moment(window.until)
    if isinstance(job, Timer):
        level: Literal[0, 1] = 1 if window.open != job.invert else 0
        return Candidate(job.name, kind, level, _WORDS[level], window.why(now), window_ends)
    given = inputs.get(job.input)
    if not window.open:
        return Candidate(job.name, kind, 0, "off", window.why(now), window_ends, given)
    last = _wanted(job.name, memory, now)
    return _threshold(job, given, last, now, window.until, aged_to)


def _settle(pin: int, entries: list[_Entry], observed: Observed, now: float) -> Decision:
    """The candidates of one pin, best first, and what the pin's own times make of the best."""
    entries.sort(key=itemgetter(0))
    candidates = [candidate for _, candidate, _ in entries]
    seen = _seen(pin, observed, now)
    held = _held(entries, seen, now) if candidates[0].level != seen.level else None
    if held is not None:
        place, candidate = held
        candidates = [candidate, *candidates[:place], *candidates[place + 1 :]]
    winner = candidates[0]
    until = min((c.until for c in candidates if c.until is not None), default=None)
    return Decision(pin, winner.level, winner, tuple(candidates[1:]), until)


def _held(entries: list[_Entry], seen: PinMemory, now: float) -> tuple[int, Candidate] | None:
    """The threshold whose minimum time keeps the pin as it is, and its place among the entries.

    It gets the rank that such a wait has: fail-safe while off, on while on.
    """
    best = entries[0][1]
    if best.rank == "override" or (best.rank == "fail-safe" and best.level == 0):
        return None
    name = "min_on" if seen.level else "min_off"
    longest_s, place = 0.0, -1
    for number, (_, _, job) in enumerate(entries):
        if isinstance(job, Threshold):
            least_s = job.min_on_s if seen.level else job.min_off_s
            if least_s > longest_s:
                longest_s, place = least_s, number
    end = seen.changed_at + longest_s
    if place < 0 or now >= end:
        return None
    candidate = entries[place][1]
    return place, msgspec.structs.replace(
        candidate,
        level=seen.level,
        rank="on" if seen.level else "fail-safe",
        why=f"{name}: {_WORDS[seen.level]} for {_seconds(now - seen.changed_at)} of "
        f"{_seconds(longest_s)}; {candidate.why}",
        until=end if candidate.until is None else min(end, candidate.until),
        wants=candidate.level,
    )


def is_over(job: Override, now: float) -> bool:
    """Whether an override has no say any more. One that switched a pin on also switches it off."""
    return now >= job.until + (OVERRIDE_TAIL_S if job.level else 0)


def _override(job: Override) -> Candidate:
    why = f"somebody wants it {_WORDS[job.level]}" + (f": {job.why}" if job.why else "")
    return Candidate("override", "override", job.level, "override", why, job.until)


def _threshold(
    job: Threshold,
    given: Input | None,
    last: JobMemory,
    now: float,
    until: float,
    aged_to: float | None,
) -> Candidate:
    """What a threshold says inside its window, which is open until ``until``."""
    stale, changes = _staleness(job, given, now if aged_to is None else aged_to)
    if aged_to is None:
        until = min(until, changes)
    if given is None or stale:
        want = last.on if job.stale == "hold" else job.stale == "on"
        why = f"{stale}; stale means {job.stale}"
    else:
        want, why = _compare(job, given, last)
    failsafe = bool(stale) and job.stale != "hold"
    unlocked = last.changed_at + job.lock_s
    if want != last.on and now < unlocked and not (failsafe and not want):
        failsafe, want, until = False, last.on, min(until, unlocked)
        waited = _seconds(now - last.changed_at)
        why = f"lock: {_WORDS[want]} for {waited} of {_seconds(job.lock_s)}; {why}"
    rank: Literal["fail-safe", "on", "off"] = "fail-safe" if failsafe else _WORDS[want]
    level: Literal[0, 1] = 1 if want else 0
    return Candidate(job.name, "threshold", level, rank, why, _moment(until), given)


def _staleness(job: Threshold, given: Input | None, now: float) -> tuple[str, float]:
    """Why the input may not be believed at ``now`` ("" if it may), and when that changes by itself.

    Its age may be `Threshold.max_age_s`, or else three intervals of its device. Where neither is known
    there is no limit. With a limit, an input of unknown age is stale, and so is one that is further
    in the future than it may be in the past: then two clocks disagree, and no age can be believed.
    """
    name = f"input {job.input}"
    if given is None:
        return f"{name} was never seen", math.inf
    if given.value is None:
        return f"{name} has no value" + (f": {given.problem}" if given.problem else ""), math.inf
    if not math.isfinite(given.value):
        return f"{name} is {given.value}, which is not a number", math.inf
    if job.max_age_s is not None:
        limit_s = job.max_age_s
    elif given.interval_s is not None:
        limit_s = FRESH_INTERVALS * given.interval_s
    else:
        return "", math.inf
    allowed = f"at most {_seconds(limit_s)} are allowed"
    if given.at is None or not math.isfinite(given.at):
        return f"{name} has no age, {allowed}", math.inf
    first, last = given.at - limit_s, given.at + limit_s
    if first <= now <= last:
        return "", math.nextafter(last, math.inf)
    if now < first:
        return f"{name} is {_seconds(given.at - now)} in the future, {allowed}", first
    return f"{name} is {_seconds(now - given.at)} old, {allowed}", math.inf


def _compare(job: Threshold, given: Input, last: JobMemory) -> tuple[bool, str]:
    """What a believable input makes a threshold want, and the clause that says so."""
    assert given.value is not None
    value, (low, high) = value_of(job, given.value, given.unit), edges(job)
    figure = f"{value:.6g}" + {"c": " °C", "f": " °F", None: ""}[job.unit or given.unit]
    cold, hot = value <= low, value >= high
    if cold == hot:
        keeps = _WORDS[last.on]
        if job.band:
            return last.on, f"{figure} is between {low:.6g} and {high:.6g}: keeps {keeps}"
        return last.on, f"{figure} is at the target: keeps {keeps}"
    bound, side = (low, "below") if cold else (high, "above")
    at = "at or " if job.band else ""
    return cold == (job.mode == "heat"), f"{figure} is {at}{side} {bound:.6g}"


def side(job: Threshold, given: Input) -> int:
    """Which side of its target an input is on: -1 below, 1 above, 0 in between, 2 for no number."""
    if given.value is None or not math.isfinite(given.value):
        return 2
    value, (low, high) = value_of(job, given.value, given.unit), edges(job)
    return (value >= high) - (value <= low)


def value_of(job: Threshold, value: float, unit: str | None) -> float:
    """An input's value in the job's unit, so that 0.3 - 0.1 is 0.2, and 67.1 °F are 19.5 °C."""
    if job.unit and unit and job.unit != unit:
        value = value * 9 / 5 + 32 if job.unit == "f" else (value - 32) * 5 / 9
    return round(value, 9)


def edges(job: Threshold) -> tuple[float, float]:
    """Where the band begins and ends."""
    return round(job.target - job.band, 9), round(job.target + job.band, 9)


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 or seconds == round(seconds) else f"{seconds:.1f} s"


def _moment(instant: float) -> float | None:
    return instant if instant < math.inf else None


# --- memory -------------------------------------------------------------------------------------


def _seen(pin: int, observed: Observed, now: float) -> PinMemory:
    """A pin's level and since when, after it was looked at. Unreported, it is as last seen."""
    last = observed.memory.pins.get(pin)
    if last is None:
        # It may have been so since the board booted, and no longer: a boot switches pins off.
        level: Literal[0, 1] = 1 if observed.levels.get(pin) else 0
        return PinMemory(level, min(observed.booted_at or 0.0, now))
    return _changed(last, observed.levels.get(pin, last.level), now)


def _changed(last: PinMemory, level: int, now: float) -> PinMemory:
    if level == last.level and last.changed_at <= now:
        return last
    return PinMemory(1 if level else 0, now)  # also where the clock was set back: no endless wait


def _wanted(job: str, memory: Memory, now: float) -> JobMemory:
    last = memory.jobs.get(job, _UNSEEN_JOB)
    return last if last.changed_at <= now else JobMemory(last.on, now)


def remember(
    jobs: Iterable[Job],
    decisions: Mapping[int, Decision],
    observed: Observed,
    now: float,
    written: Mapping[int, int] = MappingProxyType({}),
) -> Memory:
    """What the next `decide` needs to know. ``written``: the levels that the board confirmed at ``now``.

    Keeps the pins of all jobs, disabled ones too (a compressor needs its rest whoever switched it), and
    what enabled thresholds want. Without ``written``, a change counts from the poll that sees it.
    """
    pins = {}
    for pin in {job.pin for job in jobs}:
        if pin in observed.levels or pin in observed.memory.pins:
            pins[pin] = _seen(pin, observed, now)
        if pin in written:
            pins[pin] = _changed(pins.get(pin, PinMemory(0, 0.0)), written[pin], now)
    wants = {}
    for made in decisions.values():
        for candidate in (made.winner, *made.losers):
            if candidate.kind == "threshold":
                want = bool(candidate.level if candidate.wants is None else candidate.wants)
                last = _wanted(candidate.job, observed.memory, now)
                wants[candidate.job] = last if want == last.on else JobMemory(want, now)
    return Memory(pins, wants)


# --- the future ---------------------------------------------------------------------------------


def predict(
    jobs: Sequence[Job],
    inputs: Mapping[str, Input],
    observed: Observed,
    start: float,
    end: float,
    *,
    readings: Iterable[tuple[float, Mapping[str, Input]]] = (),
    steady: bool = False,
) -> Iterator[tuple[float, dict[int, Decision]]]:
    """The decisions from ``start`` to before ``end``, at each moment where one may change.

    Each is taken to be carried out at once. ``readings``, in order of time, replace the inputs that
    they name when their time comes. ``steady`` supposes that inputs go on as they are, value and age;
    without it they grow old as time passes.
    """
    current = dict(inputs)
    coming = iter(readings)
    reading = next(coming, None)
    now = start
    while now < end:
        while reading is not None and reading[0] <= now:
            current.update(reading[1])
            reading = next(coming, None)
        decisions = decide(jobs, current, observed, now, aged_to=start if steady else None)
        yield now, decisions
        levels = {pin: decision.level for pin, decision in decisions.items()}
        memory = remember(jobs, decisions, observed, now, levels)
        observed = Observed({**observed.levels, **levels}, memory)
        moments = [d.until for d in decisions.values() if d.until is not None]
        if reading is not None:
            moments.append(reading[0])
        now = min(moments, default=end)


def next_change(
    jobs: Sequence[Job],
    inputs: Mapping[str, Input],
    observed: Observed,
    now: float,
    *,
    within_s: float = NEXT_CHANGE_S,
    steady: bool = True,
) -> dict[int, tuple[float, Decision]]:
    """When each pin's decided level next changes by itself, and to what; pins that do not are absent.

    ``steady`` as in `predict`: unless told otherwise, it is supposed that sensors go on answering.
    """
    future = predict(jobs, inputs, observed, now, now + within_s, steady=steady)
    _, present = next(future, (now, {}))
    changes: dict[int, tuple[float, Decision]] = {}
    for at, decisions in future:
        for pin, decision in decisions.items():
            if pin not in changes and decision.level != present[pin].level:
                changes[pin] = (at, decision)
        if len(changes) == len(present):
            break
    return changes
