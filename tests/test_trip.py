"""Laws of `espnet.trip`: when a device is due again, and what a poll becomes."""

import math

import msgspec
import pytest
from board_wire import status_body
from hypothesis import given
from hypothesis import strategies as st

from espnet import trip
from espnet.clock import ManualClock
from espnet.errors import BoardError
from espnet.model import Climate, Device, Fault, decode_status
from espnet.series import tags_of
from espnet.store import Claim, Grant

GRANT = Grant("b1", "here:1", 1)
DEVICE = Device(id="b1", name="porch", address="10.0.0.7", tags=("room:attic",), report_pins=(2, 9))
FAULT = Fault(kind="timeout", what="was silent", failures=4, since=50.0, at=90.0)

INTERVALS = st.floats(0.1, 86_400)
TIMES = st.floats(1.7e9, 1.8e9)


@given(due=TIMES, interval_s=INTERVALS, late_s=st.floats(0, 1e6))
def test_the_next_date_is_later_than_now_and_on_the_device_s_grid(due, interval_s, late_s) -> None:
    """Strictly after now, at most one interval away, and a whole number of intervals after the last."""
    now = due + late_s
    date = trip.next_due(due, interval_s, now)
    assert date > now
    rounding = 1e-6 * max(1, late_s / interval_s * 1e-6)
    assert date - now <= interval_s + rounding
    steps = (date - due) / interval_s
    assert math.isclose(steps, round(steps), abs_tol=1e-5)


@given(
    due=TIMES,
    interval_s=INTERVALS,
    delays=st.lists(st.floats(0, 3), min_size=2, max_size=20),
)
def test_no_device_is_due_twice_within_its_interval(due, interval_s, delays) -> None:
    """However late each poll ends, the dates stay an interval apart: missed ones are not made up for."""
    for delay in delays:
        date = trip.next_due(due, interval_s, due + delay * interval_s)
        assert date - due >= interval_s * (1 - 1e-9) - 1e-6
        due = date


def test_a_clock_that_was_set_back_costs_no_more_than_one_interval_more() -> None:
    """A date in the future moves on by one interval, and never backwards."""
    assert trip.next_due(1000.0, 10.0, 900.0) == 1010.0


@given(
    beat_s=st.sampled_from((0.1, 0.25, 1.0, 4.0)),
    beats=st.floats(1.0, 5.0),
    phase=st.floats(0.001, 0.999),
    share=st.floats(0, 0.99),
)
def test_a_heartbeat_as_quick_as_the_interval_keeps_every_date(beat_s, beats, phase, share) -> None:
    """Wherever in the interval the heartbeat is, and though a poll that is late ends after the next date."""
    clock, interval_s = ManualClock(), beat_s * beats
    takes_s = share * min(trip.KEPT_S, trip.KEPT_SHARE * interval_s)
    first = due = clock.now() + phase * beat_s
    ended, served = 0.0, []
    for _ in range(100):
        now = clock.advance(beat_s)
        if now < max(due, ended):
            continue
        served.append(round((due - first) / interval_s))
        ended = now + takes_s
        due = trip.date_after_poll(due, interval_s, now, ended)
        assert due > now
        assert due > ended - min(trip.KEPT_S, trip.KEPT_SHARE * interval_s)
    assert served == list(range(served[0], served[-1] + 1))


@given(due=TIMES, interval_s=INTERVALS, waited=st.floats(0, 9), takes=st.floats(0, 9))
def test_no_date_from_before_a_poll_is_made_up_for(due, interval_s, waited, takes) -> None:
    """However late the poll was claimed and however long it took, the next date came after it was claimed;
    and one that is long over when it ends is skipped."""
    claimed = due + waited * interval_s
    ended = claimed + takes * interval_s
    date = trip.date_after_poll(due, interval_s, claimed, ended)
    assert date > claimed
    assert date > ended - min(trip.KEPT_S, trip.KEPT_SHARE * interval_s)
    assert date <= ended + interval_s * (1 + 1e-6) + 1e-6
    assert math.isclose((date - due) / interval_s, round((date - due) / interval_s), abs_tol=1e-5)


def test_the_backoff_doubles_up_to_a_minute() -> None:
    """10, 20, 40 s, then as long as stays below a minute with all the bad luck."""
    waits = [trip.retry_due(failures, 10.0, 0.0, 0.0) for failures in range(1, 8)]
    assert waits == [10, 20, 40, 48, 48, 48, 48]


@given(
    failures=st.integers(1, 10**9),
    interval_s=INTERVALS,
    luck=st.floats(0, 1, exclude_max=True),
)
def test_a_failing_device_is_asked_within_a_minute_or_its_longer_interval(
    failures, interval_s, luck
) -> None:
    """Never sooner than its interval, never later than a minute, unless its interval is longer."""
    wait = trip.retry_due(failures, interval_s, 0.0, luck)
    assert wait >= interval_s * (1 - 1e-9)
    assert wait <= max(60.0, interval_s * (1 + trip.JITTER)) + 1e-9


def test_boards_that_vanished_together_come_back_one_by_one() -> None:
    """Luck spreads the retries over a quarter of the back-off."""
    waits = [trip.retry_due(9, 10.0, 0.0, luck / 100) for luck in range(100)]
    assert len(set(waits)) == 100
    assert max(waits) - min(waits) > 10


def seen(
    body: bytes = status_body(), device: Device = DEVICE, fault=None, climates=None, poll_s=0.02
):
    claim = Claim(device, fault, 100.0, GRANT)
    sight = trip.Sight(103.0, body, decode_status(body), climates or {}, {"soil": "no answer"})
    reading = sight.reading(poll_s=poll_s, interval_s=10.0, collector="here")
    return trip.seen(claim, sight, reading, tags=tags_of(device))


def points(poll) -> dict[str, float]:
    return {" ".join((metric, *own)): value for metric, value, own in poll.batch.points}


def test_a_poll_becomes_a_reading_samples_and_a_date() -> None:
    """The reading is the board's answer; a pin that is not reported, or not there, is no sample."""
    poll = seen(climates={"air": Climate(20.0, 40.0)})
    assert poll.grant is GRANT
    assert poll.next_due == 110.0
    assert (poll.fault, poll.healed, poll.refused) == (None, False, 0)
    assert bytes(poll.reading.status) == status_body()
    assert poll.reading.dht22 == {"air": Climate(20.0, 40.0)}
    assert poll.reading.dht22_errors == {"soil": "no answer"}
    assert (poll.reading.at, poll.reading.interval_s, poll.reading.collector) == (103, 10, "here")
    assert points(poll) == {
        "esp32.up": 1,
        "esp32.poll_seconds": 0.02,
        "esp32.f": 104.0,
        "esp32.gpio pin:2": 1,
        "esp32.dht22.temp sensor:air": 68.0,
        "esp32.dht22.humidity sensor:air": 40.0,
    }
    assert poll.batch.tags == ("name:porch", "id:b1", "room:attic")
    assert poll.batch.at == 103.0


def test_a_chip_without_a_sensor_has_no_temperature_sample() -> None:
    """Null is no number; 0.0 is one."""
    assert "esp32.f" not in points(seen(status_body(f=None)))
    assert points(seen(status_body(f=0.0)))["esp32.f"] == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308])
def test_what_is_not_a_number_is_refused_and_counted(value) -> None:
    """NaN, infinities and what becomes one in °F never reach the queue; the rest of the poll does."""
    poll = seen(climates={"air": Climate(value, 40.0)})
    assert poll.refused == 1
    assert "esp32.dht22.temp sensor:air" not in points(poll)
    assert points(poll)["esp32.dht22.humidity sensor:air"] == 40.0


def test_a_success_after_failures_heals() -> None:
    """The fault is taken away exactly when there was one."""
    assert seen(fault=FAULT).healed
    assert not seen().healed


def test_failures_are_counted_from_the_first() -> None:
    """A fault keeps its beginning while it lasts, and says the latest reason."""
    error = BoardError("10.0.0.7", "refused", "refused the connection")
    claim = Claim(DEVICE, None, 100.0, GRANT)
    one = trip.failed(claim, error, at=103.0, interval_s=10.0, tags=("a",), luck=0.0)
    assert one.fault == Fault(
        kind="refused", what="refused the connection", failures=1, since=103.0, at=103.0
    )
    assert one.next_due == 113.0
    assert (one.reading, points(one)) == (None, {"esp32.up": 0})
    five = trip.failed(
        msgspec.structs.replace(claim, fault=FAULT),
        error,
        at=103.0,
        interval_s=10.0,
        tags=("a",),
        luck=0.0,
    )
    assert (five.fault.failures, five.fault.since, five.fault.kind) == (5, 50.0, "refused")


def test_the_same_facts_give_the_same_poll() -> None:
    """No clock, no luck, no I/O inside: the collector and a person come to the same result."""
    assert msgspec.json.encode(seen()) == msgspec.json.encode(seen())
