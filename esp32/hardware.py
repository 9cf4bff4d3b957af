"""The board's pins, converters and sensors: the only file that imports `machine`, `esp32` and `dht`.

What a pin may be used for follows from the chip, the plain ESP32, not from settings:

    readable   0-5, 12-19, 21-23, 25-27, 32-39     what GET / reports
    writable   the same without 1, 3 and 34-39

Reading a pin never reconfigures it. Writing several pins changes all of them or none. Converters and
sensors are in measure.py, the clock in ntp.py, what pins do at boot in choosing.py; they get at the chip
through this file.
"""

# ruff: noqa: B904 - MicroPython cannot chain exceptions, and prints that at every attempt

import asyncio
import binascii

import dht  # noqa: F401 - for measure.py
import machine
from machine import Pin
from micropython import const

import esp32

TOGGLE = const(2)

READABLE = tuple(
    [pin for pin in range(40) if not 6 <= pin <= 11 and pin not in (20, 24, 28, 29, 30, 31)]
)

_RESET_CAUSES = {
    machine.PWRON_RESET: "power_on",
    machine.HARD_RESET: "hard",
    machine.WDT_RESET: "watchdog",
    machine.DEEPSLEEP_RESET: "deep_sleep",
    machine.SOFT_RESET: "soft",
}


# One measurement at a time: two that share a power pin would switch it off under each other.
measuring = asyncio.Lock()


class HardwareError(Exception):
    """A pin could not be set, or a sensor gave no value; the text says which one and why."""


def board_id():
    """The chip's factory id as hex digits: the board's one unchangeable name."""
    return binascii.hexlify(machine.unique_id()).decode()


def reset_cause():
    """Why the board last started, as one word."""
    return _RESET_CAUSES.get(machine.reset_cause(), "unknown")


def restart():
    """Restart the chip; it does not return."""
    machine.reset()


def watchdog(timeout_ms):
    """The watchdog: the chip restarts when nobody has called its `feed()` for so long."""
    return machine.WDT(timeout=timeout_ms)


def temperature_f():
    """The chip's temperature in °F, or None: it has no such sensor, or the sensor failed."""
    try:
        if hasattr(esp32, "raw_temperature"):  # only the original ESP32 has it
            value_f = esp32.raw_temperature()
        else:
            value_f = round(esp32.mcu_temperature() * 1.8 + 32, 1)
    except (OSError, ValueError, AttributeError):
        return None
    return value_f if -200 < value_f < 500 else None  # NaN, for which JSON has no word, fails too


def idf_heap():
    """(bytes free, largest free block) of the heap beside MicroPython's, which Wi-Fi and sockets live
    on; (None, None) on a chip that does not tell.
    """
    try:
        regions = esp32.idf_heap_info(esp32.HEAP_DATA)  # of each: total, free, largest, least ever
    except (AttributeError, OSError, ValueError):
        return None, None
    return sum([region[1] for region in regions]), max([region[2] for region in regions])


# Pins: what there is


def exists(pin):
    """Whether an ESP32 has this pin at all."""
    return pin in READABLE or 6 <= pin <= 11


def why_not_writable(pin):
    """Why an existing pin must not be driven, as the end of a sentence; None when it may be."""
    if pin >= 34:
        return "is input-only"
    if 6 <= pin <= 11:
        return "belongs to the flash chip"
    if pin in (1, 3):
        return "belongs to the serial console"
    return None


# Pins: reading, all at once, and without touching how a pin is set: a Pin object for each would
# cost memory, and shows the same bits of the same registers. The template is kept because GET / is
# asked for ever.

_GPIO_ENABLE = const(0x3FF44020)  # of the plain ESP32: pins 0-31; those of 32-39 have registers of
_GPIO_ENABLE1 = const(0x3FF4402C)  # their own
_GPIO_IN = const(0x3FF4403C)
_GPIO_IN1 = const(0x3FF44040)
_PINS = const(0x0FFFFFFF)  # there are no pins 28 to 31; without their bits it is a small integer
_PINS1 = const(0xFF)

_LEVELS = "{" + ",".join([f'"{pin}":%d' for pin in READABLE]) + "}"


def levels_json():
    """The level of every readable pin as JSON text, `{"0":1,…}`."""
    low = machine.mem32[_GPIO_IN] & _PINS
    high = machine.mem32[_GPIO_IN1] & _PINS1
    return _LEVELS % tuple([(low >> pin if pin < 32 else high >> pin - 32) & 1 for pin in READABLE])


def driven():
    """The pins that the chip drives, one bit each."""
    return machine.mem32[_GPIO_ENABLE] & _PINS | (machine.mem32[_GPIO_ENABLE1] & _PINS1) << 32


# Pins: writing


def drive(pin, level):
    """Make `pin` an output at `level`; the level is set before the mode, so there is no glitch."""
    Pin(pin, Pin.OUT, value=level)


def set_pins(pins, value):
    """Drive `pins` (distinct, writable) to 0 or 1, or flip each one with TOGGLE.

    Returns {pin: new level}. When a pin fails, those before it go back to the level they had, and
    HardwareError says which one failed.
    """
    levels = {}
    done = []
    pin = pins[0]
    try:
        before = [(pin, Pin(pin).value()) for pin in pins]
        for pin, level in before:
            levels[pin] = 1 - level if value == TOGGLE else value
            drive(pin, levels[pin])
            done.append((pin, level))
    except (OSError, ValueError) as error:
        for other, level in done:
            drive(other, level)
        raise HardwareError(f"pin {pin} could not be set: {error}")
    return levels
