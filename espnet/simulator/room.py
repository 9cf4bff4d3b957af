"""A room with a heater, as a formula: its temperature from what the heater's pin did and when.

First-order: the room nears what is outside with its time constant, the heater warms it at a steady
rate. Between two changes of the pin that is one exponential, so the temperature at any time is
exact, however seldom somebody asks. Pure: no clock, no state, ``now`` is an argument.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass

from espnet.simulator.errors import SimulatorError
from espnet.simulator.state import Change


@dataclass(frozen=True)
class Room:
    """What a room is like and where its temperature shows.

    ``heater_c_per_h``: how fast the heater would warm a room that loses nothing. ``speed``: seconds
    in the room per second outside. ``noise_c``: standard deviation of what sensors show. The ADC
    shows ``adc_zero + adc_per_c × °C`` (default: a TMP36 at 3.3 V). ``board``: the board's own
    temperature is the room's plus ``board_above_c``.
    """

    outside_c: float = 5.0
    start_c: float = 18.0
    time_constant_h: float = 4.0
    heater_c_per_h: float = 8.0
    heater_pin: int | None = None
    heater_level: int = 1
    noise_c: float = 0.0
    seed: int = 0
    speed: float = 1.0
    humidity: float = 45.0
    dht_pin: int | None = None
    adc_pin: int | None = None
    adc_zero: float = 620.0
    adc_per_c: float = 12.41
    board: bool = False
    board_above_c: float = 20.0

    def __post_init__(self) -> None:
        if not self.time_constant_h > 0:
            raise SimulatorError("A room's time_constant_h must be above 0; give hours, such as 4.")
        if not self.speed >= 0:
            raise SimulatorError(
                "A room's speed cannot be negative; 1 is real time, 0 stands still."
            )


@dataclass(frozen=True)
class RoomState:
    """The room at ``at_s``: its temperature, and whether the heater is on from then on."""

    at_s: float
    celsius: float
    heating: bool = False


def after(room: Room, celsius: float, heating: bool, elapsed_h: float) -> float:
    """The temperature ``elapsed_h`` room hours later, the heater unchanged."""
    rise = room.heater_c_per_h * room.time_constant_h if heating else 0.0
    rest = room.outside_c + rise
    return rest + (celsius - rest) * math.exp(-elapsed_h / room.time_constant_h)


def advance(room: Room, state: RoomState, changes: Iterable[Change], now_s: float) -> RoomState:
    """The room at ``now_s``, given the level changes since ``state`` in the order of their times.

    Changes of other pins are ignored; one before ``state`` counts as at ``state``, one after
    ``now_s`` as at ``now_s``.
    """
    celsius, heating, at_s = state.celsius, state.heating, state.at_s
    for change in changes:
        if change.pin != room.heater_pin:
            continue
        when_s = min(max(change.at_s, at_s), now_s)
        celsius = after(room, celsius, heating, (when_s - at_s) * room.speed / 3600)
        heating, at_s = change.level == room.heater_level, when_s
    if now_s > at_s:
        celsius = after(room, celsius, heating, (now_s - at_s) * room.speed / 3600)
        at_s = now_s
    return RoomState(at_s, celsius, heating)


def shown(room: Room, state: RoomState) -> float:
    """What a sensor in the room shows: the temperature and noise that the seed and time decide."""
    if not room.noise_c:
        return state.celsius
    noise = random.Random(f"{room.seed}/{state.at_s:.3f}")
    return state.celsius + noise.gauss(0.0, room.noise_c)
