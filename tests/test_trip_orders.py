"""Laws of `trip.orders`: differences only, leased where the board knows leases."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet import trip
from espnet.model import Candidate, Decision, Device, Lease, Status, Timer
from espnet.trip import Order

JOB = Timer(name="lamp", pin=4, start="00:00", hours=24, zone="UTC")
FREE = Timer(name="free", pin=4, start="00:00", hours=24, zone="UTC", lease=False)
INTERVALS = st.floats(0.1, 86_400)


def decided(job: str = "lamp", **levels: int) -> dict[int, Decision]:
    """``p4=1``: pin 4 is to be on."""
    found = {}
    for name, level in levels.items():
        pin = int(name[1:])
        winner = Candidate(job, "timer", level, "on" if level else "off", "so")
        found[pin] = Decision(pin, level, winner, (), None)
    return found


def board(gpio: dict[int, int], leases=None, fence: int | None = 1) -> Status:
    leases = leases if leases is not None or fence is None else {}
    return Status("b1", 70.0, gpio, leases=leases, fence=fence)


def orders(decisions, status, *, interval_s: float = 10.0, **device) -> list[Order]:
    known = Device(id="b1", name="porch", address="10.0.0.7", **device)
    return trip.orders(decisions, (JOB, FREE), known, status, interval_s)


def test_what_is_right_is_not_written() -> None:
    """An OFF that is off, and an ON whose lease was renewed, cost nothing; other pins are not seen."""
    status = board({2: 1, 4: 0, 5: 1}, {5: Lease(30)})
    assert orders(decided(p4=0, p5=1), status) == []


def test_pins_of_one_level_go_in_one_call() -> None:
    """One order a level; their leases and safe levels part them, where they have any."""
    status = board({2: 0, 4: 0, 5: 1, 12: 1})
    done = orders(decided(p2=1, p4=1, p5=0, p12=0), status, safe={12: "high"})
    assert done == [Order((2, 4), 1, 30, "low"), Order((5, 12), 0, None, "low")]
    done = orders(decided(p2=1, p4=1), status, safe={4: "hold"})
    assert done == [Order((2,), 1, 30, "low"), Order((4,), 1, 30, "hold")]


@pytest.mark.parametrize(
    ("lease", "is_written"),
    [
        (None, True),
        (Lease(30), False),
        (Lease(29.2), False),
        (Lease(20), False),  # the last poll's: this one did not renew it
        (Lease(15), True),
        (Lease(0), True),
        (Lease(31), True),  # a longer interval's: it would keep a heater on for too long
        (Lease(10_800), True),
        (Lease(30, "high"), True),
    ],
)
def test_an_on_has_its_own_lease_or_is_written_again(lease, is_written) -> None:
    """None, too short, too long, or with another safe level: all are put right."""
    status = board({4: 1}, {4: lease} if lease else {})
    expected = [Order((4,), 1, 30, "low")] if is_written else []
    assert orders(decided(p4=1), status) == expected


def test_a_lease_that_was_renewed_just_now_tells_its_length() -> None:
    """After a change of the interval the old one is too short, though the last poll's might look like it."""
    old, status = trip.lease_s(6.7), board({4: 1}, {4: Lease(trip.lease_s(6.7))})
    known = Device(id="b1", name="porch", address="10.0.0.7")
    for is_renewed, todo in ((False, []), (True, [Order((4,), 1, 41, "low")])):
        assert trip.orders(
            decided(p4=1), (JOB, FREE), known, status, 13.4, is_renewed=is_renewed
        ) == todo  # fmt: skip
    assert old == 21


@given(interval_s=INTERVALS, late_ms=st.integers(0, 900))
def test_a_lease_that_is_known_to_be_renewed_is_not_written_again(interval_s, late_ms) -> None:
    """However sharp the look, the steady state costs nothing."""
    left_s = math.ceil(trip.lease_s(interval_s) - late_ms / 1000)
    known = Device(id="b1", name="porch", address="10.0.0.7")
    status = board({4: 1}, {4: Lease(left_s)})
    done = trip.orders(decided(p4=1), (JOB, FREE), known, status, interval_s, is_renewed=True)
    assert done == []


def test_a_job_without_lease_gets_none_and_ends_that_of_another() -> None:
    """With --no_lease an ON outlives the controller, also where a leased one was there before."""
    assert orders(decided("free", p4=1), board({4: 0})) == [Order((4,), 1, None, "low")]
    assert orders(decided("free", p4=1), board({4: 1})) == []
    assert orders(decided("free", p4=1), board({4: 1}, {4: Lease(30)})) == [
        Order((4,), 1, None, "low")
    ]


def test_an_override_is_leased() -> None:
    """It is somebody's word, but the controller has to be there for it."""
    assert orders(decided("override", p4=1), board({4: 0})) == [Order((4,), 1, 30, "low")]


def test_2021_firmware_gets_no_lease() -> None:
    """It knows neither leases nor safe levels; what is right stays unwritten."""
    status = board({4: 0, 5: 1}, fence=None)
    done = orders(decided(p4=1, p5=1), status, safe={4: "high"})
    assert done == [Order((4,), 1, None, "low")]


def test_a_pin_that_the_board_does_not_report_is_written() -> None:
    """It is for the board to refuse it."""
    assert orders(decided(p13=0), board({4: 0})) == [Order((13,), 0, None, "low")]


@given(interval_s=INTERVALS, late_ms=st.integers(0, 900))
def test_a_lease_that_every_poll_renews_is_never_written_again(interval_s, late_ms) -> None:
    """The steady state costs nothing, at every interval; a board rounds what is left up."""
    length_s = trip.lease_s(interval_s)
    left_s = math.ceil(length_s - late_ms / 1000)
    status = board({4: 1}, {4: Lease(left_s)})
    assert orders(decided(p4=1), status, interval_s=interval_s) == []


@given(INTERVALS)
def test_a_lease_outlasts_two_missed_polls_where_a_board_grants_so_much(interval_s) -> None:
    """Whole seconds, at least 15, at most a day."""
    length_s = trip.lease_s(interval_s)
    assert 15 <= length_s <= 86_400
    assert length_s >= min(3 * interval_s, 86_400)
    assert length_s <= max(15, 3 * interval_s + 1)


@given(
    gpio=st.dictionaries(st.integers(0, 54), st.integers(0, 1)),
    wanted=st.dictionaries(st.integers(0, 54), st.integers(0, 1)),
    leases=st.dictionaries(st.integers(0, 54), st.builds(Lease, st.floats(0, 100))),
    interval_s=INTERVALS,
)
def test_after_its_orders_a_board_needs_no_more(gpio, wanted, leases, interval_s) -> None:
    """Each pin is in one order at most, only decided pins are, and a second look finds nothing to do."""
    decisions = decided(**{f"p{pin}": level for pin, level in wanted.items()})
    todo = orders(decisions, board(gpio, leases), interval_s=interval_s)
    pins = [pin for order in todo for pin in order.pins]
    assert len(pins) == len(set(pins))
    assert set(pins) <= set(wanted)
    for order in todo:
        for pin in order.pins:
            gpio[pin] = order.level
            leases.pop(pin, None)
            if order.lease_s is not None:
                leases[pin] = Lease(order.lease_s, order.safe)
    assert {pin: gpio[pin] for pin in wanted} == wanted
    assert orders(decisions, board(gpio, leases), interval_s=interval_s) == []
