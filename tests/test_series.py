"""Laws of `espnet.series`: which metrics a device makes, and that a poll makes no others."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet import trip
from espnet.model import (
    MAX_PIN,
    Adc,
    Climate,
    Device,
    Job,
    Override,
    Threshold,
    Timer,
    decode_status,
)
from espnet.series import points_of, series_of, tags_of
from espnet.store import Claim, Grant

NOW = 1_750_000_000.0
PINS = st.integers(0, MAX_PIN)


def timer(pin: int, *, enabled: bool = True) -> Timer:
    return Timer(name=f"t{pin}", pin=pin, start="06:00", hours=2, zone="UTC", enabled=enabled)


def threshold(pin: int, *, enabled: bool = True) -> Threshold:
    return Threshold(
        name=f"h{pin}",
        pin=pin,
        start="00:00",
        hours=24,
        zone="UTC",
        input="porch.f",
        target=20,
        stale="off",
        enabled=enabled,
    )


def override(pin: int, left_s: float = 60.0) -> Override:
    return Override(pin=pin, level=1, since=NOW - 60, until=NOW + left_s)


JOBS = st.lists(
    st.builds(timer, PINS, enabled=st.booleans())
    | st.builds(threshold, PINS, enabled=st.booleans())
    | st.builds(override, PINS, st.sampled_from([-60.0, 60.0])),
    max_size=8,
)
DEVICES = st.builds(
    Device,
    id=st.just("b1"),
    name=st.just("porch"),
    address=st.just("10.0.0.7"),
    dht22=st.dictionaries(st.sampled_from(["air", "soil", "日本"]), PINS),
    adc=st.dictionaries(st.integers(32, 39), st.just(Adc())),
    # As a record that was edited by hand might have it, one pin may stand there twice.
    report_pins=st.lists(PINS, max_size=6).map(tuple),
)


def poll_of(device: Device, jobs: list[Job], f: float | None, levels: dict[int, int], wrote=None):
    """A poll in which the board and all its sensors answered."""
    body = json.dumps({"id": device.id, "f": f, "gpio": levels}).encode()
    sight = trip.Sight(
        NOW,
        body,
        decode_status(body),
        dict.fromkeys(device.dht22, Climate(20.0, 40.0)),
        adc=dict.fromkeys(device.adc, 12.5),
    )
    reading = sight.reading(poll_s=0.02, interval_s=10.0, collector="here")
    reading = msgspec.structs.replace(reading, wrote=wrote or {})
    return sight, reading


@given(
    device=DEVICES,
    jobs=JOBS,
    f=st.none() | st.just(104.0),
    levels=st.dictionaries(PINS, st.sampled_from([0, 1])),
)
def test_a_poll_makes_the_series_that_are_foretold(device, jobs, f, levels) -> None:
    """For any device, jobs and board: the same pairs, in the same order, each once."""
    sight, reading = poll_of(device, jobs, f, levels)
    claim = Claim(device, None, NOW, Grant("b1", "here:1", 1), tuple(jobs))
    poll = trip.seen(claim, sight, reading, tags=tags_of(device))
    made = [(metric, own) for metric, _, own in poll.batch.points]
    assert made == series_of(device, jobs, NOW, sight.status)
    assert len(set(made)) == len(made)


@given(device=DEVICES, jobs=JOBS)
def test_a_board_that_nobody_asked_yet_is_supposed_to_have_everything(device, jobs) -> None:
    """Without a status every pin and the temperature count, so a forecast is never too low."""
    everything = dict.fromkeys(range(MAX_PIN + 1), 0)
    sight, _ = poll_of(device, jobs, 104.0, everything)
    assert series_of(device, jobs, NOW) == series_of(device, jobs, NOW, sight.status)


@pytest.mark.parametrize(
    ("jobs", "report_pins", "sampled"),
    [
        ([], (), []),
        ([], (2, 9), [2, 9]),
        ([timer(4)], (), [4]),
        ([threshold(4)], (), [4]),
        ([timer(4), threshold(4), override(4)], (4,), [4]),
        ([timer(5), timer(4)], (9,), [9, 5, 4]),
        ([timer(4, enabled=False)], (), []),
        ([threshold(4, enabled=False)], (), []),
        ([timer(4, enabled=False)], (4,), [4]),
        ([override(4)], (), [4]),
        ([override(4, left_s=0)], (), []),
        ([override(4, left_s=-1), timer(4)], (), [4]),
    ],
)
def test_a_pin_is_sampled_where_something_governs_it(jobs, report_pins, sampled) -> None:
    """Enabled jobs and overrides that last; a disabled job and an ended override govern nothing."""
    device = Device(id="b1", name="porch", address="a", report_pins=report_pins)
    pins = [own[0] for metric, own in series_of(device, jobs, NOW) if metric == "esp32.gpio"]
    assert pins == [f"pin:{pin}" for pin in sampled]


def test_the_level_of_a_pin_is_the_one_that_the_trip_left() -> None:
    """What was written in the same trip wins over what the board said before, reported or not."""
    device = Device(id="b1", name="porch", address="a", report_pins=(2,))
    sight, reading = poll_of(device, [], None, {2: 0, 4: 0}, wrote={2: 1, 4: 1, 9: 1})
    points = points_of(device, [timer(4), timer(9)], reading, sight.status)
    levels = {own[0]: value for metric, value, own in points if metric == "esp32.gpio"}
    assert levels == {"pin:2": 1, "pin:4": 1, "pin:9": 1}


def test_the_last_point_of_an_override_says_that_the_pin_is_off() -> None:
    """The poll that switches a pin off after its override has ended samples it; later ones do not."""
    device = Device(id="b1", name="porch", address="a")
    ended = [override(4, left_s=-1)]
    sight, reading = poll_of(device, ended, None, {4: 1}, wrote={4: 0})
    assert ("esp32.gpio", 0, ("pin:4",)) in points_of(device, ended, reading, sight.status)
    sight, reading = poll_of(device, ended, None, {4: 0})
    assert points_of(device, ended, reading, sight.status) == [
        ("esp32.up", 1, ()),
        ("esp32.poll_seconds", 0.02, ()),
    ]


def test_what_every_point_of_a_device_is_tagged_with() -> None:
    """Its name, its id, its own tags, in this order."""
    device = Device(id="b1", name="porch", address="a", tags=("room:attic", "old"))
    assert tags_of(device) == ("name:porch", "id:b1", "room:attic", "old")
