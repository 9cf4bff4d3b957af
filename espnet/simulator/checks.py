"""What may be set on a simulated board, and which faults there are: one place checks it.

So boards that run the firmware and light ones refuse the same things, with the same sentences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from espnet.simulator.errors import SimulatorError
from espnet.simulator.state import FAULTS, PINS, PinState

#: What is said when one more fault is set than there are places.
FAULTS_FULL = "Eight faults are set already; clear some first."


@dataclass(frozen=True)
class Fault:
    """A fault as it was set: for the next ``count`` requests (None: for ever) of ``path`` ("": any).

    ``pin`` None is any sensor; ``keys`` are those that `missing_keys` takes away.
    """

    kind: str
    count: int | None = None
    path: str = ""
    pin: int | None = None
    bytes_per_s: int = 20
    keys: tuple[str, ...] = ()
    for_s: float | None = None


def fault(
    kind: str,
    *,
    count: int | None = None,
    path: str | None = None,
    pin: int | None = None,
    bytes_per_s: int | None = None,
    keys: list[str] | None = None,
    for_s: float | None = None,
) -> Fault:
    """The fault that these options mean; raises `SimulatorError`."""
    fault_kind(kind)
    whole = isinstance(count, int) and not isinstance(count, bool)
    if count is not None and (kind == "refuse" or not whole or not 1 <= count < 2**31):
        raise SimulatorError(
            f"{kind} takes no count {count!r}: a count is a whole number from 1, and nobody counts "
            "connections that are refused; use for_s, or rst with a count."
        )
    if path is not None and (
        kind in ("refuse", "sensor")
        or not isinstance(path, str)
        or not path.startswith("/")
        or len(path.encode()) > 47
    ):
        raise SimulatorError(
            f"{kind} cannot be for the path {path!r}; a path begins with / and has at most 47 "
            "bytes, and refuse and sensor have none."
        )
    if pin is not None and kind != "sensor":
        raise SimulatorError(f"{kind} is not about a pin; only sensor is.")
    if keys is not None and (
        kind != "missing_keys"
        or not isinstance(keys, list)
        or not all(isinstance(key, str) and "," not in key for key in keys)
        or not 1 <= len(",".join(keys).encode()) <= 71
    ):
        raise SimulatorError(
            f"{kind} does not take the keys {keys!r}; missing_keys takes a list of names, "
            "71 bytes in all."
        )
    if bytes_per_s is not None and kind != "slow":
        raise SimulatorError(f"{kind} has no bytes_per_s; only slow has.")
    rate = 20 if bytes_per_s is None else round(number("bytes_per_s", bytes_per_s, 1, 65535))
    seconds = None if for_s is None else number("for_s", for_s, 0.001, 1e6)
    return Fault(
        kind,
        count,
        path or "",
        None if pin is None else pin_number(pin),
        rate,
        tuple(keys or ("f", "gpio")) if kind == "missing_keys" else (),
        seconds,
    )


def fault_kind(kind: str) -> None:
    """Raises `SimulatorError` where there is no such fault."""
    if kind not in FAULTS:
        raise SimulatorError(f"There is no fault {kind!r}; there are {', '.join(FAULTS)}.")


class Wires(Protocol):
    """What leads to a board from outside."""

    def pin(self, pin: int) -> PinState: ...

    def drive(self, pin: int, level: int | None) -> None: ...

    def set_adc(self, pin: int, value: float, noise: int | None = None) -> None: ...

    def dht(self, pin: int) -> tuple[float, float] | None: ...

    def set_dht(self, pin: int, celsius: float, humidity: float) -> None: ...

    def unplug_dht(self, pin: int) -> None: ...

    def set_board_c(self, celsius: float) -> None: ...


def wires(state: Wires, name: str, value: Any) -> list[tuple[Any, ...]] | None:
    """What setting ``name`` (``pins``, ``adc``, ``dht``, ``board_c``) does: functions with arguments.

    None when ``name`` is none of these; raises `SimulatorError`.
    """
    todo: list[tuple[Any, ...]] = []
    if name == "pins":
        for pin, level in by_pin(name, value):
            if level is not None and (isinstance(level, float) or level not in (0, 1)):
                raise SimulatorError(f"Pin {pin} can be driven to 0, 1 or null, not {level!r}.")
            todo.append((state.drive, pin, None if level is None else int(level)))
    elif name == "adc":
        for pin, given in by_pin(name, value):
            given = given if isinstance(given, Mapping) else {"value": given}
            only(f"adc {pin}", given, {"value", "noise"})
            level = number("an ADC value", given.get("value", state.pin(pin).adc), 0, 4095)
            noise = number("ADC noise", given.get("noise", 0), 0, 4095)
            todo.append((state.set_adc, pin, level, round(noise)))
    elif name == "dht":
        for pin, given in by_pin(name, value):
            if given is None:
                todo.append((state.unplug_dht, pin))
                continue
            celsius, humidity = dht(given, state.dht(pin) or (20.0, 50.0))
            todo.append((state.set_dht, pin, celsius, humidity))
    elif name == "board_c":
        todo.append((state.set_board_c, number("board_c", value, -300, 300)))
    else:
        return None
    return todo


def number(name: str, value: Any, low: float, high: float) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        raise SimulatorError(f"{name} is a number from {low:g} to {high:g}, not {value!r}.")
    return value


def pin_number(value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal() or int(text) not in PINS:
        raise SimulatorError(f"The ESP32 has no pin {value!r}; it has 0-19, 21-23, 25-27, 32-39.")
    return int(text)


def by_pin(name: str, value: Any) -> list[tuple[int, Any]]:
    if not isinstance(value, Mapping):
        raise SimulatorError(f'{name} is an object of pins, such as {{"4": 1}}, not {value!r}.')
    return [(pin_number(pin), item) for pin, item in value.items()]


def only(what: str, given: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(str(name) for name in given if name not in known)
    if unknown:
        raise SimulatorError(
            f"{what[0].upper()}{what[1:]} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}."
        )


def dht(given: Any, before: tuple[float, float]) -> tuple[float, float]:
    if isinstance(given, Mapping):
        only("a DHT", given, {"temp", "humidity"})
        celsius, humidity = given.get("temp", before[0]), given.get("humidity", before[1])
    elif isinstance(given, (list, tuple)) and len(given) == 2:
        celsius, humidity = given
    else:
        celsius, humidity = given, before[1]
    return number("temp", celsius, -40, 80), number("humidity", humidity, 0, 100)
