"""The board's pins, converters and sensors: the only file that imports `machine`, `esp32` and `dht`.

What a pin may be used for follows from the chip, the plain ESP32, not from settings:

    readable   0-5, 12-19, 21-23, 25-27, 32-39     what GET / reports
    writable   the same without 1, 3 and 34-39
    analogue   32-39: the first converter; the second one belongs to Wi-Fi

Reading a pin never reconfigures it. Writing several pins changes all of them or none.
"""

# ruff: noqa: B904 - MicroPython cannot chain exceptions, and prints that at every attempt

import asyncio
import binascii
import time
from array import array

import dht
import machine
from machine import ADC, Pin
from micropython import const

import esp32

TOGGLE = const(2)

READABLE = tuple(
    [pin for pin in range(40) if not 6 <= pin <= 11 and pin not in (20, 24, 28, 29, 30, 31)]
)
ANALOGUE = (32, 33, 34, 35, 36, 37, 38, 39)

SAMPLES_MAX = const(1000)
#: One sample is the mean of 20 readings spread over 10 ms (half a period of 50 Hz hum) or a little
#: more. Between slices the other tasks run.
_SLICES = const(5)
_READINGS = const(4)  # in each slice
_SLICE_MS = const(2)

# One measurement at a time: two that share a power pin would switch it off under each other.
_measuring = asyncio.Lock()

_RESET_CAUSES = {
    machine.PWRON_RESET: "power_on",
    machine.HARD_RESET: "hard",
    machine.WDT_RESET: "watchdog",
    machine.DEEPSLEEP_RESET: "deep_sleep",
    machine.SOFT_RESET: "soft",
}


class HardwareError(Exception):
    """A pin could not be set, or a sensor gave no value; the text says which one and why."""


def board_id():
    """The chip's factory id as hex digits: the board's one unchangeable name."""
    return binascii.hexlify(machine.unique_id()).decode()


def reset_cause():
    """Why the board last started, as one word."""
    return _RESET_CAUSES.get(machine.reset_cause(), "unknown")


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


# Pins: reading. Pin(n) without a mode leaves the pin as it is. The objects and the template are
# kept because GET / is asked for ever.

_LINES = tuple([Pin(pin) for pin in READABLE])
_LEVELS = "{" + ",".join([f'"{pin}":%d' for pin in READABLE]) + "}"


def levels_json():
    """The level of every readable pin as JSON text, `{"0":1,…}`; a pin that fails is left out."""
    try:
        return _LEVELS % tuple([line.value() for line in _LINES])
    except (OSError, ValueError):
        return "{" + ",".join(_levels_one_by_one()) + "}"


def _levels_one_by_one():
    for index, pin in enumerate(READABLE):
        try:
            level = _LINES[index].value()
        except (OSError, ValueError):
            continue
        yield f'"{pin}":{level}'


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


def driven():
    """The pins that the chip drives, one bit each: its registers GPIO_ENABLE and GPIO_ENABLE1."""
    return machine.mem32[0x3FF44020] | machine.mem32[0x3FF4402C] << 32


# Converters and sensors


async def sample_adc(read_pin, power_pin, samples):
    """Read `read_pin` while `power_pin` (or None) is high.

    Returns (an array of samples 0..4095, the duration in µs). Yields to the other tasks every few
    readings. The power goes off whatever happens: a failure, a cancellation, no memory.
    """
    async with _measuring:
        data = array("H", bytes(2 * samples))
        try:
            if power_pin is not None:
                drive(power_pin, 1)
            adc = ADC(Pin(read_pin), atten=ADC.ATTN_11DB)
            started_us = time.ticks_us()
            for index in range(samples):
                total = 0
                for _ in range(_SLICES):
                    await asyncio.sleep_ms(_SLICE_MS)
                    for _ in range(_READINGS):
                        total += adc.read_u16()
                data[index] = total // (_SLICES * _READINGS) >> 4
            return data, time.ticks_diff(time.ticks_us(), started_us)
        except (OSError, ValueError) as error:
            raise HardwareError(f"the converter on pin {read_pin} failed: {error}")
        finally:
            if power_pin is not None:
                drive(power_pin, 0)


def read_dht22(pin):
    """(temperature in °C, relative humidity in %) of a DHT22 on `pin`.

    Blocks for about 25 ms, which the sensor's protocol needs. No answer, a wrong checksum and
    values that no DHT22 can measure are HardwareErrors.
    """
    try:
        sensor = dht.DHT22(Pin(pin))
        sensor.measure()
        celsius, humidity = sensor.temperature(), sensor.humidity()
    except MemoryError:
        raise
    except Exception as error:
        why = str(error) or type(error).__name__
        raise HardwareError(f"the DHT22 on pin {pin} gave no reading: {why}")
    if not (-40 <= celsius <= 80 and 0 <= humidity <= 100):
        raise HardwareError(f"the DHT22 on pin {pin} gave {celsius} °C and {humidity} %")
    return celsius, humidity
