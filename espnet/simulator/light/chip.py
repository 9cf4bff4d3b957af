"""What a light board's firmware takes for its chip: pins, sensors, flash, and what else it asks about itself.

One `Chip` stands for the module ``hardware`` of one board; what the outside connects to it is set by the
methods that `checks.Wires` names. Invariants: reading all pins costs nothing while none changes; every
change of a level that the board makes is noted, with its time and its reason.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from espnet.simulator.light.program import Program
from espnet.simulator.state import PinState

#: The free heap of a board that was just started, and what its other heap shows, in bytes.
MEM_FREE = 26_000
IDF_FREE, IDF_LARGEST = 52_828, 31_744
#: What MicroPython raises when a sensor says nothing.
_TIMED_OUT = (110, "ETIMEDOUT")


class PinChange(NamedTuple):
    """The board changed the level of a pin at ``at_s`` (monotonic seconds).

    ``why``: ``request``, ``measurement``, ``lease`` (its end) or ``reset``. ``request`` is the number of the
    request that did it, None where none did.
    """

    at_s: float
    pin: int
    level: int
    why: str
    request: int | None


class Chip:
    """See the module. ``note(pin, level, why)`` is called whenever the board changes a pin's level."""

    __slots__ = (
        "_adc",
        "_dht",
        "_driven",
        "_find",
        "_id",
        "_json",
        "_latches",
        "_measuring",
        "_note",
        "_outside",
        "_program",
        "_sensor_fails",
        "board_c",
        "cause",
        "idf_free",
        "idf_largest",
    )

    def __init__(
        self,
        program: Program,
        board_id: str,
        note: Callable[[int, int, str], None],
        sensor_fails: Callable[[int], bool],
    ) -> None:
        self._program, self._id = program, board_id
        self._note, self._sensor_fails = note, sensor_fails
        self._driven = self._latches = 0
        self._outside: dict[int, int] = {}
        self._adc: dict[int, tuple[int, int]] = {}
        self._dht: dict[int, tuple[float, float]] = {}
        self._json = ""
        self._measuring: asyncio.Lock | None = None
        self.board_c: float | None = 45.0
        self.idf_free: int | None = IDF_FREE
        self.idf_largest: int | None = IDF_LARGEST
        self.cause = "power_on"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program.hardware, name)  # which pins there are: the firmware's own

    # The module `hardware`

    def board_id(self) -> str:
        return self._id

    def reset_cause(self) -> str:
        return self.cause

    def temperature_f(self) -> int | None:
        return None if self.board_c is None else round(self.board_c * 1.8 + 32)

    def idf_heap(self) -> tuple[int | None, int | None]:
        return self.idf_free, self.idf_largest

    def levels_json(self) -> str:
        if not self._json:
            levels = self._levels()
            readable = self._program.hardware.READABLE
            made = ",".join([f'"{pin}":{levels >> pin & 1}' for pin in readable])
            self._json = f"{{{made}}}"
        return self._json

    def driven(self) -> int:
        return self._driven

    def drive(self, pin: int, level: int, why: str = "measurement") -> None:
        bit = 1 << pin
        before = self._levels() >> pin & 1
        self._driven |= bit
        self._latches = self._latches | bit if level else self._latches & ~bit
        if before != level:
            self._json = ""
            self._note(pin, level, why)

    def set_pins(self, pins: list[int], value: int) -> dict[int, int]:
        before = self._levels()
        toggles = value == self._program.hardware.TOGGLE
        levels = {pin: 1 - (before >> pin & 1) if toggles else value for pin in pins}
        for pin, level in levels.items():
            self.drive(pin, level, "request")
        return levels

    @property
    def measuring(self) -> asyncio.Lock:
        if self._measuring is None:
            self._measuring = asyncio.Lock()
        return self._measuring

    @property
    def machine(self) -> Any:
        def converter(pin: int, atten: int) -> Any:
            return SimpleNamespace(read_u16=lambda: self._read_u16(pin))

        converter.ATTN_11DB = 3  # type: ignore[attr-defined]
        return SimpleNamespace(ADC=converter)

    @property
    def dht(self) -> Any:
        return SimpleNamespace(DHT22=lambda pin: _Dht22(self, pin))

    Pin = int

    def _read_u16(self, pin: int) -> int:
        if self._sensor_fails(pin):
            raise OSError(*_TIMED_OUT)
        raw, noise = self._adc.get(pin, (0, 0))
        if noise:
            raw = min(max(raw + random.randint(-noise, noise), 0), 4095)
        return raw << 4 | raw >> 8

    def read_dht(self, pin: int) -> tuple[float, float]:
        if self._sensor_fails(pin) or pin not in self._dht:
            raise OSError(*_TIMED_OUT)
        return self._dht[pin]

    # The outside

    def pin(self, pin: int) -> PinState:
        outside = self._outside.get(pin)
        adc, noise = self._adc.get(pin, (0, 0))
        is_driven = bool(self._driven >> pin & 1)
        driver = "board" if is_driven else "nobody" if outside is None else "outside"
        level = self._levels() >> pin & 1
        mode = "out" if is_driven else "unset"
        return PinState(pin, level, mode, None, driver, outside, adc, noise)

    def connect(self, pin: int, level: int | None) -> None:
        """Connects a pin to a level from outside; None lets it float."""
        if level is None:
            self._outside.pop(pin, None)
        else:
            self._outside[pin] = level
        self._json = ""

    def set_adc(self, pin: int, value: float, noise: int | None = None) -> None:
        before = self._adc.get(pin, (0, 0))[1]
        self._adc[pin] = (round(value), before if noise is None else noise)

    def sensor(self, pin: int) -> tuple[float, float] | None:
        """What a DHT on that pin shows, if there is one."""
        return self._dht.get(pin)

    def sensors(self) -> dict[int, tuple[float, float]]:
        return dict(self._dht)

    def set_dht(self, pin: int, celsius: float, humidity: float) -> None:
        self._dht[pin] = (round(float(celsius), 1), round(float(humidity), 1))

    def unplug_dht(self, pin: int) -> None:
        self._dht.pop(pin, None)

    def reset(self, cause: str) -> None:
        """What a reset does: pins are inputs again but after a soft one, and whoever measured is gone."""
        self.cause = cause
        self._measuring = None
        if cause == "soft":
            return
        before = self._levels()
        self._driven = self._latches = 0
        self._json = ""
        after = self._levels()
        for pin in range(40):
            if (before ^ after) >> pin & 1:
                self._note(pin, after >> pin & 1, "reset")

    def _levels(self) -> int:
        """The level of every pin, one bit each: an output beats the outside."""
        levels = self._latches & self._driven
        for pin, level in self._outside.items():
            if level and not self._driven >> pin & 1:
                levels |= 1 << pin
        return levels


class _Dht22:
    def __init__(self, chip: Chip, pin: int) -> None:
        self._chip, self._pin = chip, pin
        self._read = (0.0, 0.0)

    def measure(self) -> None:
        self._read = self._chip.read_dht(self._pin)

    def temperature(self) -> float:
        return self._read[0]

    def humidity(self) -> float:
        return self._read[1]
