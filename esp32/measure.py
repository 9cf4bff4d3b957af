"""What measures: the calls /adc and /dht22. Loaded when the first of them comes, to save memory.

The chip's converters and the sensors' protocols come by way of hardware.py.
"""

# ruff: noqa: B904 - MicroPython cannot chain exceptions, and prints that at every attempt

import asyncio
import time
from array import array

import fields
from calls import check_writable
from hardware import HardwareError, Pin, dht, drive, machine, measuring
from http1 import JSON, Refusal, Stream
from micropython import const

_ANALOGUE = (32, 33, 34, 35, 36, 37, 38, 39)  # the first converter; the second belongs to Wi-Fi

_SAMPLES_DEFAULT = const(20)
_SAMPLES_MAX = const(1000)
# One sample is the mean of 20 readings spread over 10 ms (half a period of 50 Hz hum) or a little
# more. Between slices the other tasks run.
_SLICES = const(5)
_READINGS = const(4)  # in each slice
_SLICE_MS = const(2)


async def adc(calls, request, body):
    """POST /adc: sample an analogue pin, while another pin powers what is measured."""
    read_pin = fields.pin(body, "read_pin")
    if read_pin not in _ANALOGUE:
        raise Refusal(422, "read_pin must be an analogue input, 32 to 39", "read_pin")
    power_pin = None
    if body.get("power_pin") not in (None, ""):  # an empty field of a form means none
        power_pin = fields.pin(body, "power_pin")
        check_writable(power_pin, "power_pin")
        if power_pin == read_pin:
            raise Refusal(422, "power_pin must not be read_pin", "power_pin")
    samples = _SAMPLES_DEFAULT
    if body.get("samples") not in (None, ""):
        samples = fields.whole(body, "samples", 1, _SAMPLES_MAX)
    calls.check_unleased(read_pin, "read_pin")
    calls.check_unleased(power_pin, "power_pin")
    calls.check_fence(body, power_pin)
    try:
        data, ticks_us = await _sample(read_pin, power_pin, samples)
    except HardwareError as error:
        raise Refusal(503, str(error), "read_pin")
    length = sum([len(piece) for piece in _pieces(calls.id, data, ticks_us)])
    request.header = request.sign(_pieces(calls.id, data, ticks_us))
    return Stream(JSON, length, _pieces(calls.id, data, ticks_us))


def _pieces(board_id, data, ticks_us):
    """The answer of /adc in pieces of 32 samples: a list of 1000 would be a large object."""
    yield f'{{"id":"{board_id}","ticks":{ticks_us},"data":[{data[0]}'.encode()
    for start in range(1, len(data), 32):
        yield "".join([f",{sample}" for sample in data[start : start + 32]]).encode()
    yield b"]}"


def dht22(calls, body):
    """POST /dht22: one fresh measurement; nothing is remembered."""
    pin = fields.pin(body, "read_pin")
    check_writable(pin, "read_pin")  # the sensor's protocol drives the line
    calls.check_unleased(pin, "read_pin")
    calls.check_fence(body, pin)
    try:
        celsius, humidity = _read_dht22(pin)
    except HardwareError as error:
        raise Refusal(503, str(error), "read_pin")
    return {"id": calls.id, "temp": celsius, "humidity": humidity}


async def _sample(read_pin, power_pin, samples):
    """Read `read_pin` while `power_pin` (or None) is high.

    Returns (an array of samples 0..4095, the duration in µs). Yields to the other tasks every few
    readings. The power goes off whatever happens: a failure, a cancellation, no memory.
    """
    async with measuring:
        data = array("H", bytes(2 * samples))
        try:
            if power_pin is not None:
                drive(power_pin, 1)
            converter = machine.ADC
            adc = converter(Pin(read_pin), atten=converter.ATTN_11DB)
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


def _read_dht22(pin):
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
