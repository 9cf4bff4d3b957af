"""Windows of local time as instants: is a job's window open, and when does that change by itself?

Invariants: pure, for all that answers are remembered: what comes out depends on job and ``now`` alone.
A window begins at most once per date and lasts ``hours`` of elapsed time, whatever the clocks do in
between; windows that touch are one. A begin in a skipped hour is the first instant after the gap, one
in a doubled hour is the first of the two. A date that its zone skips has no window, and neither has a
day on which the sun does not cross the horizon. Twenty-four hours, day after day, leave no gap.

The date of a window is that of its ``start`` in the job's zone; for the sun it is the date of the
sunrise or sunset itself, without the offset. ``days`` and the random delay go by that date.
"""

import hashlib
import math
import re
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from espnet.errors import UsageError
from espnet.model import Threshold, Timer

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_GROUPS = {"weekdays": (0, 1, 2, 3, 4), "weekends": (5, 6), "daily": (0, 1, 2, 3, 4, 5, 6)}
#: Sun offsets and random delays stay within half a day, so that windows keep the order of their dates.
MAX_SUN_OFFSET_S = 12 * 3600
MAX_WINDOW_MIN = 720.0
#: A window that is open now had its date at most so many days ago: 1 for its length, ½ for its delay,
#: ½ for the sun's offset, 1 between its zone and UTC.
_DAYS_BACK = 4
#: Longer than any polar night: what does not change within so many days never does.
_DAYS_AHEAD = 400
#: How many windows are remembered: thousands of jobs are asked about at every poll.
_MAX_SPANS = 16_384

_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?", re.ASCII)
_SUN = re.compile(r"(sunrise|sunset)(?:([+-])(\d{1,2}):(\d\d))?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)


class Start(NamedTuple):
    """Where a window begins: seconds after local midnight, or after (before) the sun's event."""

    event: Literal["midnight", "sunrise", "sunset"]
    offset_s: int


class Span(NamedTuple):
    """A window's state and how long it has been and will be so: ``since <= now < until``.

    ``until`` is infinite for never. ``clock`` and ``day`` are clauses for people that name ``until``
    as a time of day, and with its date.
    """

    open: bool
    since: float
    until: float
    clock: str
    day: str

    def why(self, now: float) -> str:
        """A clause for people: ``window 07:00–09:00 is closed until 07:00``."""
        return self.clock if self.until - now <= 86_400 else self.day


class _Window(NamedTuple):
    """What of a job its window depends on: jobs that agree in it share one remembered span."""

    start: str
    hours: float
    zone: str
    days: tuple[int, ...]
    lat: float | None
    lon: float | None
    delay_min: float
    delay_seed: str


_spans: dict[_Window, Span] = {}


def span(job: Timer | Threshold, now: float) -> Span:
    """The state of a job's window at ``now`` (Unix seconds). Raises `UsageError` as `check` does."""
    delay_min, delay_seed = 0.0, ""
    if isinstance(job, Timer) and job.window_min:
        delay_min, delay_seed = job.window_min, job.name
    window = _Window(
        job.start, job.hours, job.zone, job.days, job.lat, job.lon, delay_min, delay_seed
    )
    found = _spans.get(window)
    if found is None or not found.since <= now < found.until:
        check(job)
        found = _find(window, now)
        if len(_spans) >= _MAX_SPANS:
            _spans.clear()
        _spans[window] = found
    return found


def _find(window: _Window, now: float) -> Span:
    """Walks the window's dates, joining what touches, to the first begin after ``now`` and a gap."""
    duration_s = window.hours * 3600
    first = datetime.fromtimestamp(now, UTC).date() - timedelta(days=_DAYS_BACK)
    begin = end = -math.inf
    following = math.inf
    joined: int | None = None  # the number of the date that `end` stems from
    for number in range(_DAYS_BACK + _DAYS_AHEAD):
        instant = _begin(window, first + timedelta(days=number))
        if instant is None:
            continue
        if instant <= end or (window.hours == 24 and joined == number - 1):
            end = max(end, instant + duration_s)
        elif instant <= now:
            begin, end = instant, instant + duration_s
        else:
            following = instant
            break
        joined = number
    if now < end:
        return _span(window, True, begin, end if following < math.inf else math.inf)
    return _span(window, False, end if end > -math.inf else now, following)


def _span(window: _Window, is_open: bool, since: float, until: float) -> Span:
    name, state = f"window {_label(window)}", "open" if is_open else "closed"
    if until == math.inf:
        text = f"{name} is always {state}"
        return Span(is_open, since, until, text, text)
    local = datetime.fromtimestamp(until, parse_zone(window.zone))
    clock = f"{local:%H:%M:%S}" if local.second else f"{local:%H:%M}"
    text = f"{name} is {state} until"
    return Span(is_open, since, until, f"{text} {clock}", f"{text} {local:%Y-%m-%d} {clock}")


def _label(window: _Window) -> str:
    event, offset_s = parse_start(window.start)
    if event != "midnight" or window.hours == 24:
        label = f"{window.start} for {window.hours:g} h"
    else:
        label = f"{_clock(offset_s)}–{_clock(round(offset_s + window.hours * 3600))}"
    if window.days:
        label += " on " + ", ".join(DAYS[day] for day in window.days)
    return label


def _clock(offset_s: int) -> str:
    minutes, seconds = divmod(offset_s % 86_400, 60)
    text = f"{minutes // 60:02}:{minutes % 60:02}"
    return f"{text}:{seconds:02}" if seconds else text


def _begin(window: _Window, day: date) -> float | None:
    """When the window of one date begins (Unix seconds), None on a date without one."""
    event, offset_s = parse_start(window.start)
    zone = parse_zone(window.zone)
    begin: float | None
    if event == "midnight":
        if window.days and day.weekday() not in window.days:
            return None
        begin = _instant(datetime.combine(day, time()) + timedelta(seconds=offset_s), zone)
        if begin is None:
            return None
    else:
        begin = _sun(event, day, window.lat, window.lon)
        if begin is None:
            return None
        if window.days and datetime.fromtimestamp(begin, zone).weekday() not in window.days:
            return None
        begin += offset_s
    if window.delay_min:
        digest = hashlib.sha256(f"{window.delay_seed}|{day}".encode()).digest()
        begin += math.floor(window.delay_min * 60 * int.from_bytes(digest[:4]) / 2**32)
    return begin


def _instant(wall: datetime, zone: ZoneInfo) -> float | None:
    """When a zone's wall clock first shows ``wall`` or, where it skips that, what comes next.

    None where it skips a day or more: that date never was (Pacific/Apia, 2011-12-30).
    """
    first = wall.replace(tzinfo=zone).timestamp()
    second = wall.replace(tzinfo=zone, fold=1).timestamp()
    if first <= second:
        return first
    # PEP 495: in a gap, fold=1 counts with the offset after it and lands before it, and vice versa.
    if first - second >= 86_400:
        return None
    before, after = math.floor(second), math.ceil(first)
    offset_after = datetime.fromtimestamp(after, zone).utcoffset()
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == offset_after:
            after = middle
        else:
            before = middle
    return float(after)


def _sun(event: str, day: date, lat: float | None, lon: float | None) -> float | None:
    """Sunrise or sunset of a solar day (Unix seconds), None where the sun stays up or down.

    Solar days have exactly one of each. Calendar dates may have none or two, where sunset wanders
    over midnight (Fairbanks in June), and astral finds none for one day a year where it wanders over
    midnight in UTC (California's sunset, China's sunrise). So astral is asked for longitude 0 only,
    where its dates are solar days, and the rest of the way is a share of a day.
    """
    assert lat is not None  # `check` saw to both
    assert lon is not None
    here = _solar(event, day, lat)
    if here is None:
        return None
    share = -lon / 360
    there = _solar(event, day + timedelta(days=1 if share > 0 else -1), lat)
    drift = 0.0 if there is None else (there - here) * abs(share)
    midnight = datetime.combine(day, time(), UTC).timestamp()
    return float(round(midnight + here + drift + share * 86_400))


@lru_cache(maxsize=16_384)
def _solar(event: str, day: date, lat: float) -> float | None:
    """Seconds from midnight of a solar day to its sunrise (-6 h to 18 h) or sunset (6 h to 30 h)."""
    from astral import Observer, sun  # costs 20 ms, and few jobs follow the sun

    try:
        found: datetime = getattr(sun, event)(Observer(lat, 0.0), date=day, tzinfo=UTC)
    except ValueError:
        return None
    earliest = -21_600 if event == "sunrise" else 21_600
    midnight = datetime.combine(day, time(), UTC)
    return ((found - midnight).total_seconds() - earliest) % 86_400 + earliest


# --- what people write --------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def parse_start(text: str) -> Start:
    """``HH:MM``, ``HH:MM:SS``, ``sunrise±HH:MM`` or ``sunset±HH:MM``. Raises `UsageError`."""
    if clock := _CLOCK.fullmatch(text):
        hour, minute, second = (int(part or 0) for part in clock.groups())
        if hour < 24 and minute < 60 and second < 60:
            return Start("midnight", hour * 3600 + minute * 60 + second)
    elif sun := _SUN.fullmatch(text):
        offset_s = int(sun[3] or 0) * 3600 + int(sun[4] or 0) * 60
        if offset_s <= MAX_SUN_OFFSET_S and int(sun[4] or 0) < 60:
            event: Literal["sunrise", "sunset"] = "sunrise" if sun[1] == "sunrise" else "sunset"
            return Start(event, -offset_s if sun[2] == "-" else offset_s)
    raise UsageError(
        f"start must be HH:MM or HH:MM:SS from 00:00 to 23:59:59, or sunrise±HH:MM or sunset±HH:MM "
        f"with at most 12:00, not {text!r}."
    )


def parse_days(text: str) -> tuple[int, ...]:
    """``mon,tue``, ``weekdays``, ``weekends``, ``daily``, or a list of them, as `Timer.days`.

    Raises `UsageError`.
    """
    days: set[int] = set()
    for word in text.lower().split(","):
        word = word.strip()
        if word in _DAY_GROUPS:
            days.update(_DAY_GROUPS[word])
        elif word in DAYS:
            days.add(DAYS.index(word))
        else:
            raise UsageError(
                f"days must be a comma list of {', '.join(DAYS)}, weekdays, weekends or daily, "
                f"not {text!r}."
            )
    return () if len(days) == 7 else tuple(sorted(days))


@lru_cache(maxsize=1024)
def parse_zone(text: str) -> ZoneInfo:
    """A zone of the IANA database by its name. Raises `UsageError`."""
    try:
        # Their names begin with a capital; right/… would count leap seconds, localtime is no name.
        if text[:1].isupper():
            return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    raise UsageError(
        f"zone must be a name of the IANA time zone database, like Europe/Vienna or UTC, "
        f"not {text!r}."
    )


def parse_hours(value: str | float) -> float:
    """How long a window lasts: 0 < hours ≤ 24. Raises `UsageError`."""
    hours = _number("hours", value, 0, 24)
    if hours == 0:
        raise UsageError(f"hours must be a number above 0 and at most 24, not {value!r}.")
    return hours


def parse_lat(value: str | float) -> float:
    """Degrees north, -90 to 90. Raises `UsageError`."""
    return _number("lat", value, -90, 90)


def parse_lon(value: str | float) -> float:
    """Degrees east, -180 to 180. Raises `UsageError`."""
    return _number("lon", value, -180, 180)


def parse_window_min(value: str | float) -> float:
    """The longest random delay in minutes, 0 to 720. Raises `UsageError`."""
    return _number("window", value, 0, MAX_WINDOW_MIN)


def _number(field: str, value: str | float, low: float, high: float) -> float:
    number = float(value) if not isinstance(value, str) or _NUMBER.fullmatch(value) else math.nan
    if not low <= number <= high:
        raise UsageError(f"{field} must be a number from {low:g} to {high:g}, not {value!r}.")
    return number


def check(job: Timer | Threshold) -> None:
    """Raises `UsageError` that names the field and what it may hold, where a window cannot be."""
    start = parse_start(job.start)
    parse_zone(job.zone)
    parse_hours(job.hours)
    for day in job.days:
        if day not in range(7):
            raise UsageError(f"days must be numbers from 0 (Monday) to 6 (Sunday), not {day!r}.")
    if job.lat is not None:
        parse_lat(job.lat)
    if job.lon is not None:
        parse_lon(job.lon)
    if start.event != "midnight" and (job.lat is None or job.lon is None):
        raise UsageError(f"lat and lon are needed for start {job.start!r}.")
    if isinstance(job, Timer):
        parse_window_min(job.window_min)
