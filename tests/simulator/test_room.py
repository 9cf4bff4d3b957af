"""The room is a formula: tested against its closed form and its symmetries."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet.simulator import Board, SimulatorError
from espnet.simulator.room import Room, RoomState, advance, after, shown
from espnet.simulator.state import Change

from .probing import Client, until

ROOM = Room(outside_c=4.0, time_constant_h=3.0, heater_c_per_h=9.0, heater_pin=2)
finite = st.floats(-50, 60)
hours = st.floats(0, 100)


@given(finite, st.booleans(), hours)
def test_the_curve_solves_the_equation(celsius: float, heating: bool, elapsed_h: float):
    """dT/dt = (outside − T)/τ + power, at every point of the curve."""
    step_h = 1e-4
    here = after(ROOM, celsius, heating, elapsed_h)
    there = after(ROOM, celsius, heating, elapsed_h + step_h)
    slope = (ROOM.outside_c - here) / 3.0 + (9.0 if heating else 0.0)
    assert (there - here) / step_h == pytest.approx(slope, rel=1e-3, abs=1e-3)


@given(finite, st.booleans(), hours, hours)
def test_two_steps_are_one(celsius: float, heating: bool, a: float, b: float):
    """It does not matter when somebody looks."""
    twice = after(ROOM, after(ROOM, celsius, heating, a), heating, b)
    assert twice == pytest.approx(after(ROOM, celsius, heating, a + b), abs=1e-9)


def test_it_rests_where_heat_and_loss_are_equal():
    """Off: the outside's temperature. On: power × time constant above it."""
    assert after(ROOM, 30.0, False, 1e6) == pytest.approx(4.0)
    assert after(ROOM, 30.0, True, 1e6) == pytest.approx(4.0 + 27.0)
    assert after(ROOM, 31.0, True, 5.0) == pytest.approx(31.0)
    assert after(ROOM, 14.0, False, 3.0) == pytest.approx(4.0 + 10.0 / math.e)


@given(
    st.lists(st.tuples(st.floats(0, 1000), st.sampled_from([2, 5]), st.sampled_from([0, 1]))),
    st.lists(st.floats(0, 1000), max_size=5),
)
def test_the_history_decides_and_not_the_looking(raw, looks):
    """Advancing through any instants in between ends at the same temperature."""
    room = Room(heater_pin=2, speed=60.0)
    changes = [Change(*item) for item in sorted(raw)]
    start = RoomState(0.0, 18.0)
    direct = advance(room, start, changes, 1000.0)
    state, rest = start, changes
    for look in sorted(looks):
        state = advance(room, state, [c for c in rest if c.at_s <= look], look)
        rest = [c for c in rest if c.at_s > look]
    stepped = advance(room, state, rest, 1000.0)
    assert stepped.celsius == pytest.approx(direct.celsius, abs=1e-9)
    assert stepped.heating == direct.heating


def test_speed_is_room_seconds_per_second():
    """A day at speed 3600 lasts 24 s."""
    fast = advance(Room(speed=3600.0), RoomState(0.0, 18.0), [], 24.0)
    slow = advance(Room(), RoomState(0.0, 18.0), [], 24.0 * 3600)
    assert fast.celsius == pytest.approx(slow.celsius)


def test_time_does_not_run_backwards():
    """Looking at an earlier instant changes nothing."""
    state = RoomState(10.0, 18.0)
    assert advance(Room(), state, [], 5.0) == state


def test_a_relay_may_be_active_low():
    """heater_level 0: the heater is on while the pin is low."""
    room = Room(heater_pin=2, heater_level=0)
    assert advance(room, RoomState(0.0, 18.0), [Change(1.0, 2, 0)], 2.0).heating
    assert not advance(room, RoomState(0.0, 18.0, True), [Change(1.0, 2, 1)], 2.0).heating


def test_noise_is_the_seed_s_and_has_the_deviation_asked_for():
    """The same seed and time show the same; over many instants the deviation is right."""
    room = Room(noise_c=0.3, seed=5)
    values = [shown(room, RoomState(t / 10, 20.0)) for t in range(2000)]
    assert values == [shown(room, RoomState(t / 10, 20.0)) for t in range(2000)]
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    assert mean == pytest.approx(20.0, abs=0.05)
    assert deviation == pytest.approx(0.3, rel=0.1)
    assert shown(Room(), RoomState(1.0, 20.0)) == 20.0


def test_a_room_that_cannot_be_is_refused():
    """A time constant of nothing and a clock that runs backwards are errors."""
    with pytest.raises(SimulatorError):
        Room(time_constant_h=0)
    with pytest.raises(SimulatorError):
        Room(speed=-1)


def test_a_board_s_heater_warms_its_room_and_its_sensors_show_it(board: Board, client: Client):
    """The pin's history becomes temperature, and temperature becomes DHT, ADC and board values."""
    board.set(
        room={
            "heater_pin": 2,
            "dht_pin": 4,
            "adc_pin": 36,
            "board": True,
            "start_c": 15,
            "outside_c": 5,
            "speed": 3600,
        }
    )
    client.exec("import dht, esp32\nh = machine.Pin(2, machine.Pin.OUT, value=1)")
    read = "s = dht.DHT22(machine.Pin(4))\ns.measure()\nr = s.temperature()"
    until(lambda: client.exec(read) > 20, "the DHT shows a warmer room")
    assert client.exec("r = machine.ADC(36).read()") > 620 + 12 * 20
    assert client.exec("r = esp32.raw_temperature()") > 100
    client.exec("h.off()")
    room = board.room
    assert room is not None
    assert not room["heating"]
    until(lambda: board.room["celsius"] < room["celsius"] - 1, "it cools")
    board.set(room=None)


def test_a_reset_switches_the_heater_off_at_that_moment(board: Board, client: Client):
    """Pads let go in a reset: the room cools from then on."""
    board.set(room={"heater_pin": 2, "start_c": 15, "speed": 1000})
    client.exec("machine.Pin(2, machine.Pin.OUT, value=1)")
    assert board.room["heating"]
    board.reset()
    assert not board.room["heating"]
    board.set(room=None)


def test_a_room_s_settings_can_be_changed_while_it_drifts(board: Board):
    """A partial change keeps the rest and the temperature of the moment."""
    board.set(room={"start_c": 30, "outside_c": 0, "speed": 36000})
    until(lambda: board.room["celsius"] < 25, "it cools")
    board.set(room={"speed": 0})
    still = board.room
    assert still["outside_c"] == 0
    assert 0 < still["celsius"] < 25
    assert board.room["celsius"] == still["celsius"]
    board.set(room=None)


def test_random_histories_are_deterministic():
    """No hidden state: the same history gives the same room."""
    rng = random.Random(3)
    changes = sorted(
        (Change(rng.uniform(0, 100), 2, rng.randint(0, 1)) for _ in range(50)),
        key=lambda change: change.at_s,
    )
    assert advance(ROOM, RoomState(0.0, 1.0), changes, 100.0) == advance(
        ROOM, RoomState(0.0, 1.0), changes, 100.0
    )
