"""Windows against the almanac, against the law's own words, and against a clock that is watched."""

import itertools
import math
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet import windows
from espnet.errors import UsageError
from espnet.model import Timer
from espnet.windows import (
    check,
    parse_days,
    parse_hours,
    parse_lat,
    parse_lon,
    parse_start,
    parse_window_min,
    parse_zone,
    span,
)

MINUTE = 60.0
DAY_S = 86_400.0
VIENNA = {"lat": 48.21, "lon": 16.37}
#: Weeks in which clocks do something odd: (zone, a date in the middle of it).
ODD_WEEKS = (
    ("Europe/Vienna", date(2026, 3, 29)),
    ("Europe/Vienna", date(2026, 10, 25)),
    ("America/New_York", date(2026, 3, 8)),
    ("America/New_York", date(2026, 11, 1)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("Pacific/Apia", date(2011, 12, 30)),
    ("America/Nuuk", date(2026, 3, 28)),
    ("Africa/Cairo", date(2026, 4, 24)),
    ("Asia/Kathmandu", date(2028, 2, 29)),
)


def timer(
    start: str = "07:00", hours: float = 2, zone: str = "Europe/Vienna", **more: Any
) -> Timer:
    return Timer(**{"name": "lamp", "pin": 4, "start": start, "hours": hours, "zone": zone, **more})


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def openings(job: Timer, start: float, end: float) -> Iterator[tuple[float, float]]:
    """The windows that begin between two instants, found by going from edge to edge."""
    now = start
    while now < end:
        found = span(job, now)
        if found.open and found.since >= start:
            yield found.since, found.until
        now = found.until


@cache
def watched(zone: str, middle: date) -> list[tuple[float, datetime]]:
    """Every minute of nine days: the instant, and what a clock on the wall shows."""
    first = datetime.combine(middle - timedelta(days=4), time(), UTC).timestamp()
    place = ZoneInfo(zone)
    instants = [first + MINUTE * number for number in range(9 * 1440)]
    return [(t, datetime.fromtimestamp(t, place).replace(tzinfo=None)) for t in instants]


def oracle(job: Timer, middle: date) -> list[tuple[float, float]]:
    """A date's window begins when the watched clock first shows its start, or more than that."""
    minutes = watched(job.zone, middle)
    dates = sorted({wall.date() for _, wall in minutes})
    start_s = parse_start(job.start).offset_s
    found: dict[date, float] = {}
    for day in dates[1:-1]:
        if job.days and day.weekday() not in job.days:
            continue
        start = datetime.combine(day, time()) + timedelta(seconds=start_s)
        found[day] = next(t for t, wall in minutes if wall >= start)
    spans = []
    for day, begin in found.items():
        end = begin + round(job.hours * 60) * MINUTE
        if job.hours == 24:
            end = max(end, found.get(day + timedelta(days=1), end))
        spans.append((begin, end))
    return spans


@given(
    week=st.sampled_from(ODD_WEEKS),
    start=st.one_of(st.integers(0, 240), st.integers(0, 1439)),
    minutes=st.one_of(st.integers(1, 1440), st.just(1440)),
    days=st.sets(st.integers(0, 6), max_size=6),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_windows_are_what_a_watched_clock_says(
    week: tuple[str, date], start: int, minutes: int, days: set[int]
) -> None:
    """For every minute of an odd week: open exactly when the oracle says so, until it says otherwise."""
    zone, middle = week
    job = timer(f"{start // 60:02}:{start % 60:02}", minutes / 60, zone, days=tuple(sorted(days)))
    expected = oracle(job, middle)
    every_minute = [t for t, _ in watched(zone, middle)][3 * 1440 : 6 * 1440]
    states = [any(begin <= t < end for begin, end in expected) for t in every_minute]
    found = [span(job, t) for t in every_minute]
    assert [one.open for one in found] == states
    for t, one, (state, following) in zip(
        every_minute, found, itertools.pairwise(states), strict=False
    ):
        assert one.since <= t
        assert (one.until > t + MINUTE) == (state == following)


@given(
    starts=st.lists(st.sampled_from(("07:00", "23:30", "02:30", "sunset-00:30")), min_size=1),
    moves=st.lists(st.floats(0, 20 * DAY_S), min_size=1, max_size=30),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_what_is_remembered_never_shows(starts: list[str], moves: list[float]) -> None:
    """Asked in any order, forwards and backwards, the answer is that of a first question."""
    for start, move in zip(itertools.cycle(starts), moves, strict=False):
        job = timer(start, 3, **VIENNA)
        now = at("2026-10-15") + move
        warm = span(job, now)
        windows._spans.clear()
        cold = span(job, now)
        assert (warm.open, warm.until, warm.why(now)) == (cold.open, cold.until, cold.why(now))


@pytest.mark.parametrize(
    ("start", "zone", "lon"),
    [
        ("sunset+12:00", "Pacific/Pago_Pago", -170.7),
        ("sunset+12:00", "Pacific/Kiritimati", -157.4),
        ("sunrise-12:00", "Pacific/Kiritimati", -157.4),
        ("23:59:59", "Pacific/Pago_Pago", -170.7),
        ("00:00", "Pacific/Kiritimati", -157.4),
    ],
)
def test_a_window_is_found_until_its_last_second(start: str, zone: str, lon: float) -> None:
    """However far delay, offset, length and zone carry it from its date: a first question finds it."""
    job = timer(start, 11.9, zone, lat=-14.3, lon=lon, window_min=720)
    begins = [begin for begin, _ in openings(job, at("2026-01-10"), at("2026-02-10"))]
    for begin in begins:
        for now in (begin, begin + 11.9 * 3600 - 1):
            windows._spans.clear()
            assert span(job, now).open
    windows._spans.clear()
    day = msgspec.structs.replace(job, hours=23.0, days=(2,))
    for begin, end in openings(day, at("2026-01-10"), at("2026-02-10")):
        windows._spans.clear()
        assert span(day, end - 1) == windows.Span(True, begin, end, *span(day, end - 1)[3:])


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many different windows are asked for, only so many are kept."""
    monkeypatch.setattr(windows, "_MAX_SPANS", 10)
    for number in range(100):
        span(timer(name=str(number), window_min=5), at("2026-01-15"))
        assert len(windows._spans) <= 10 or number == 0


CHANGES = [
    ("Europe/Vienna", "02:30", 3, "2026-03-29 01:00", "2026-03-29 04:00"),
    ("Europe/Vienna", "01:00", 3, "2026-03-29 00:00", "2026-03-29 03:00"),
    ("Europe/Vienna", "02:30", 1, "2026-10-25 00:30", "2026-10-25 01:30"),
    ("America/New_York", "02:30", 1, "2026-03-08 07:00", "2026-03-08 08:00"),
    ("America/New_York", "01:30", 1, "2026-11-01 05:30", "2026-11-01 06:30"),
    ("Australia/Lord_Howe", "02:15", 1, "2026-10-03 15:30", "2026-10-03 16:30"),
    ("Australia/Lord_Howe", "01:45", 1, "2026-04-04 14:45", "2026-04-04 15:45"),
    ("Pacific/Apia", "07:00", 1, "2011-12-29 17:00", "2011-12-29 18:00"),
    ("Pacific/Apia", "07:00", 1, "2011-12-30 17:00", "2011-12-30 18:00"),
    ("Europe/Vienna", "07:00", 1, "2028-02-29 06:00", "2028-02-29 07:00"),
]


@pytest.mark.parametrize(("zone", "start", "hours", "begin", "end"), CHANGES)
def test_clock_changes_by_the_book(
    zone: str, start: str, hours: float, begin: str, end: str
) -> None:
    """Instants in UTC, worked out by hand from the published rules of each zone."""
    job = timer(start, hours, zone)
    assert not span(job, at(begin) - 1).open
    assert span(job, at(begin) - 1).until == at(begin)
    assert (span(job, at(begin)).open, span(job, at(begin)).until) == (True, at(end))
    assert not span(job, at(end)).open


def test_a_date_that_never_was_has_no_window() -> None:
    """Samoa went from Thursday to Saturday: after the 23rd, a Friday job runs on 6 January."""
    job = timer("07:00", 1, "Pacific/Apia", days=(4,))
    begins = [begin for begin, _ in openings(job, at("2011-12-20"), at("2012-01-10"))]
    assert begins == [at(f"{day} 07:00", "Pacific/Apia") for day in ("2011-12-23", "2012-01-06")]


def test_twenty_four_hours_leave_no_gap_where_clocks_change() -> None:
    """A day of 25 hours leaves no hour out, and neither does one on a list of days."""
    for day in ("2026-03-28", "2026-10-24"):
        assert span(timer(hours=24), at(day)).until == math.inf
    weekend = timer("00:00", 24, days=(5, 6, 0))
    found = list(openings(weekend, at("2026-10-20"), at("2026-10-28")))
    assert found == [(at("2026-10-24", "Europe/Vienna"), at("2026-10-27", "Europe/Vienna"))]


def test_midnight_of_a_leap_day_is_like_any_other() -> None:
    """A window from the last of February into March lasts its two hours in every year."""
    for last in ("2027-02-28", "2028-02-29"):
        begin = at(f"{last} 23:00", "Europe/Vienna")
        assert span(timer("23:00", 2), begin + 1).since == begin
        assert span(timer("23:00", 2), begin + 1).until == begin + 7200


# --- the sun --------------------------------------------------------------------------------------


def test_the_sun_rises_when_the_almanac_says() -> None:
    """Vienna on the longest day: 04:54 to 20:59 local time, within three minutes."""
    rise, _ = next(openings(timer("sunrise", **VIENNA), at("2026-06-20 23:00"), at("2026-06-22")))
    fall, _ = next(openings(timer("sunset", **VIENNA), at("2026-06-21 12:00"), at("2026-06-22")))
    assert rise == pytest.approx(at("2026-06-21 02:54"), abs=180)
    clause = span(timer("sunrise", 0.5, **VIENNA), rise - 1).why(rise - 1)
    assert clause.startswith("window sunrise for 0.5 h is closed until 04:5")
    assert fall == pytest.approx(at("2026-06-21 18:59"), abs=180)


def test_places_far_from_greenwich_keep_their_seconds() -> None:
    """Where days grow by seven minutes a day, half a day of longitude counts: as astral says itself."""
    from astral import Observer, sun

    zone = ZoneInfo("America/Anchorage")
    said = sun.sunrise(Observer(64.84, -147.72), date=date(2026, 3, 20), tzinfo=zone).timestamp()
    job = timer("sunrise", 1, "America/Anchorage", lat=64.84, lon=-147.72)
    assert span(job, said - 3600).until == pytest.approx(said, abs=5)


def test_an_offset_is_exact() -> None:
    """``sunset-01:00`` is an hour before ``sunset``, on every day of a year."""
    year = at("2026-01-01"), at("2027-01-01")
    plain = list(openings(timer("sunset", 1, **VIENNA), *year))
    early = list(openings(timer("sunset-01:00", 1, **VIENNA), *year))
    assert [begin - 3600 for begin, _ in plain] == [begin for begin, _ in early]
    assert len(plain) == 365


@pytest.mark.parametrize(
    ("zone", "lat", "lon"),
    [
        ("America/Anchorage", 64.84, -147.72),  # Fairbanks: sunset wanders over midnight
        ("Pacific/Kiritimati", 1.87, -157.4),  # a day ahead of its own longitude
        ("Pacific/Apia", -13.83, -171.77),
        ("Asia/Shanghai", 39.47, 75.99),  # Kashgar: the sun is three hours late, and rises at 0 UTC
        ("America/Los_Angeles", 34.05, -118.24),  # and here it sets at 0 UTC
        ("UTC", 0.0, 180.0),
        ("UTC", 0.0, -180.0),
    ],
)
@pytest.mark.parametrize("event", ["sunrise", "sunset"])
def test_every_solar_day_has_one_event(zone: str, lat: float, lon: float, event: str) -> None:
    """No date line and no midnight loses or doubles one: they follow each other by a day or so."""
    job = timer(event, 1, zone, lat=lat, lon=lon)
    begins = [begin for begin, _ in openings(job, at("2026-01-01"), at("2027-01-01"))]
    assert len(begins) in (364, 365, 366)
    assert all(abs(b - a - DAY_S) < 600 for a, b in itertools.pairwise(begins))


def test_polar_night_and_polar_day_have_no_window() -> None:
    """Longyearbyen has sunrises from February to April and from August to October, no others."""
    job = timer("sunrise", 2, "Arctic/Longyearbyen", lat=78.22, lon=15.65)
    begins = [begin for begin, _ in openings(job, at("2026-01-01"), at("2027-01-01"))]
    assert {datetime.fromtimestamp(begin, UTC).month for begin in begins} == {2, 3, 4, 8, 9, 10}
    for night in ("2026-11-20", "2026-06-01"):
        assert not span(job, at(night)).open
    assert span(job, at("2026-11-20")).until > at("2027-02-10")


def test_days_of_the_sun_go_by_the_event_itself() -> None:
    """Six hours after Monday's sunset is a Monday window, though it begins on Tuesday."""
    job = timer("sunset+06:00", 1, days=(0,), **VIENNA)
    begin, _ = next(openings(job, at("2026-06-14"), at("2026-06-21")))
    assert datetime.fromtimestamp(begin, ZoneInfo("Europe/Vienna")).weekday() == 1


# --- the random delay -----------------------------------------------------------------------------


def test_a_delay_is_bounded_stable_and_leaves_the_length_alone() -> None:
    """0 to 30 minutes, not always the same, two hours long every day; another name, another delay."""
    year = at("2026-01-01"), at("2026-12-31")
    found = list(openings(timer(zone="UTC", window_min=30), *year))
    delays = [(begin - 7 * 3600) % DAY_S for begin, _ in found]
    assert all(0 <= delay <= 1800 for delay in delays)
    assert len(set(delays)) > 200
    assert {end - begin for begin, end in found} == {7200}
    other = list(openings(timer(name="other", zone="UTC", window_min=30), *year))
    assert other != found


def test_a_delay_is_the_same_in_every_process() -> None:
    """It comes from a digest, not from `hash`: this figure holds for ever."""
    job = timer(zone="UTC", window_min=30)
    assert span(job, at("2026-01-15 06:00")).until - at("2026-01-15 07:00") == 989


# --- what people read and write -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "now", "clause"),
    [
        (timer(), "2026-01-15 06:30", "07:00–09:00 is open until 09:00"),
        (timer(), "2026-01-15 05:30", "07:00–09:00 is closed until 07:00"),
        (timer(days=(0,)), "2026-01-15", "07:00–09:00 on mon is closed until 2026-01-19 07:00"),
        (timer("22:00:30", 4), "2026-01-15 22:00", "22:00:30–02:00:30 is open until 02:00:30"),
        (timer(hours=24), "2026-01-15", "07:00 for 24 h is always open"),
    ],
)
def test_a_clause_names_the_window_and_its_next_edge(job: Timer, now: str, clause: str) -> None:
    """In local time, with the date where a time of day alone could mean another day."""
    assert span(job, at(now)).why(at(now)) == f"window {clause}"


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("07:00", ("midnight", 25_200)),
        ("7:05:09", ("midnight", 25_509)),
        ("23:59:59", ("midnight", 86_399)),
        ("sunrise", ("sunrise", 0)),
        ("sunrise+00:30", ("sunrise", 1800)),
        ("sunset-12:00", ("sunset", -43_200)),
    ],
)
def test_a_start_is_read(text: str, start: tuple[str, int]) -> None:
    """Every form of the contract, the 2021 one among them."""
    assert parse_start(text) == start


@pytest.mark.parametrize(
    "text",
    [
        *("", "7", "24:00", "07:60", "07:00:60", "07:00 ", "-07:00", "07:00\n", "٠٧:٠٠"),
        *("noon", "sunset+13:00", "sunset+12:01", "sunset01:00", "sunset+01:60", "sunrise+1"),
    ],
)
def test_a_bad_start_is_refused(text: str) -> None:
    """One sentence that names the field and what it may hold."""
    with pytest.raises(UsageError, match=r"^start must be HH:MM or .*, not .*\.$"):
        parse_start(text)


def test_days_are_read_and_refused() -> None:
    """Names, groups and lists of them; all seven are every day."""
    assert parse_days("tue,mon") == (0, 1)
    assert parse_days("Weekends, mon") == (0, 5, 6)
    assert parse_days("weekdays") == (0, 1, 2, 3, 4)
    assert parse_days("daily") == parse_days("weekdays,weekends") == ()
    for text in ("", "monday", "mon,", "1"):
        with pytest.raises(UsageError, match=r"^days must be a comma list of mon, .*daily, not"):
            parse_days(text)


@pytest.mark.parametrize(
    "text",
    ["", "Nowhere", "Europe", "europe/vienna", "right/Europe/Vienna", "../UTC", "/etc", "U\0"],
)
def test_an_unknown_zone_is_refused(text: str) -> None:
    """Whatever the database or the file system says to such a name, people get one sentence."""
    with pytest.raises(UsageError, match=r"^zone must be a name of the IANA time zone database"):
        parse_zone(text)


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (parse_hours, ("0.5", "24", 2), ("0", "-1", "24.1", "1e1", "nan", "1_0", "two", 0)),
        (parse_lat, ("-90", "48.21", 90), ("91", "-90.1", "N48", math.inf)),
        (parse_lon, ("-180", "16.37", 180), ("181", "-181", "", math.nan)),
        (parse_window_min, ("0", "720", 30), ("721", "-1", "30m", math.nan)),
    ],
)
def test_numbers_are_read_and_refused(
    parse: Callable[[str | float], float],
    good: tuple[str | float, ...],
    bad: tuple[str | float, ...],
) -> None:
    """Plain decimal numbers within their range, and nothing else that Python would take for one."""
    for value in good:
        assert parse(value) == float(value)
    for value in bad:
        with pytest.raises(UsageError, match="must be a number"):
            parse(value)


def test_a_job_is_checked_field_by_field() -> None:
    """What cannot be a window is refused with the field's name, in a record as in a command."""
    for wrong, field in (
        ({"start": "25:00"}, "start"),
        ({"hours": 0}, "hours"),
        ({"zone": "Mars"}, "zone"),
        ({"days": (7,)}, "days"),
        ({"start": "sunset"}, "lat and lon"),
        ({"start": "sunset", "lat": 91.0, "lon": 0.0}, "lat"),
        ({"window_min": 1441.0}, "window"),
    ):
        with pytest.raises(UsageError, match=f"^{field} "):
            check(timer(**wrong))
    check(timer("sunset", window_min=30, **VIENNA))
