"""MicroPython. What is seldom used of `machine`: converters, clock, timers, signals, power."""

import struct
import time

import _pads
import umachine
from _pads import get16, get32, mem, part, put32
from machine import Pin
from micropython import const

_ANY_FAULT = const(4)
_WIFI_ACTIVE = const(8)
_RANDOM = const(40)
_RTC_OFFSET = const(56)
_PINS = const(64)
_RTC_MEMORY = const(2048)


def find(name):
    found = globals().get(name)
    return getattr(umachine, name) if found is None else found


def soft_reset():
    _pads.die(5)


def freq(hz=None):
    if hz is None:
        return 160000000
    if hz not in (20000000, 40000000, 80000000, 160000000, 240000000):
        raise ValueError("frequency must be 20MHz, 40MHz, 80Mhz, 160MHz or 240MHz")


def lightsleep(ms=0):
    time.sleep_ms(ms)


def disable_irq():
    return 0


def enable_irq(state=0):
    pass


class Signal:
    def __init__(self, pin, *args, invert=False, **named):
        self.pin = Pin(pin, *args, **named) if args or named else pin
        self.invert = 1 if invert else 0

    def value(self, value=None):
        if value is None:
            return self.pin.value() ^ self.invert
        self.pin.value((1 if value else 0) ^ self.invert)

    __call__ = value

    def on(self):
        self.value(1)

    def off(self):
        self.value(0)


class ADC:
    ATTN_0DB = 0
    ATTN_2_5DB = 1
    ATTN_6DB = 2
    ATTN_11DB = 3
    WIDTH_9BIT = 9
    WIDTH_10BIT = 10
    WIDTH_11BIT = 11
    WIDTH_12BIT = 12

    def __init__(self, pin, *, atten=0):
        self.at = Pin(pin).at
        self.n = (self.at - _PINS) >> 4
        if self.n not in (0, 2, 4, 12, 13, 14, 15, 25, 26, 27) and self.n < 32:
            raise ValueError("invalid pin")
        self.bits = 12

    def init(self, *, atten=0):
        pass

    def atten(self, atten):
        pass

    def width(self, bits):
        self.bits = bits

    def _raw(self):
        if self.n < 32 and mem[_WIFI_ACTIVE]:
            raise OSError(110)  # ADC2 belongs to the radio while Wi-Fi is up
        if mem[_ANY_FAULT] and part("_slots").take(None, self.n):
            raise OSError(110)
        raw = get16(self.at + 4)
        noise = get16(self.at + 6)
        if noise:
            x = get32(_RANDOM)
            x = (x * 1103515245 + 12345) & 0x7FFFFFFF
            put32(_RANDOM, x)
            raw += (x >> 8) % (2 * noise + 1) - noise
        return min(max(raw, 0), 4095)

    def read(self):
        return self._raw() >> 12 - self.bits

    def read_u16(self):
        raw = self._raw()
        return raw << 4 | raw >> 8

    def read_uv(self):
        return self._raw() * 3300000 // 4095


class RTC:
    def __init__(self, id=0):
        pass

    def datetime(self, when=None):
        now = time.time()
        if when is None:
            t = time.gmtime(now + struct.unpack_from("<q", mem, _RTC_OFFSET)[0])
            return (t[0], t[1], t[2], t[6], t[3], t[4], t[5], time.time_ns() // 1000 % 1000000)
        # Whole days, because `mktime` would take it for the time of this machine's zone.
        year, month = (when[0], when[1] - 3) if when[1] > 2 else (when[0] - 1, when[1] + 9)
        days = 365 * year + year // 4 - year // 100 + year // 400
        days += (153 * month + 2) // 5 + when[2] - 719469
        then = days * 86400 + when[4] * 3600 + when[5] * 60 + when[6]
        struct.pack_into("<q", mem, _RTC_OFFSET, int(then - now))

    def memory(self, data=None):
        if data is None:
            n = get16(_RTC_MEMORY)
            return bytes(mem[_RTC_MEMORY + 2 : _RTC_MEMORY + 2 + n])
        n = len(data)
        if n > 2046:
            raise ValueError("buffer too long")
        mem[_RTC_MEMORY] = n & 255
        mem[_RTC_MEMORY + 1] = n >> 8
        mem[_RTC_MEMORY + 2 : _RTC_MEMORY + 2 + n] = bytes(data)


class Timer:
    ONE_SHOT = 0
    PERIODIC = 1

    def __init__(self, id=-1, **settings):
        self.task = None
        if settings:
            self.init(**settings)

    def init(self, *, mode=1, freq=-1, period=-1, callback=None):
        import asyncio

        self.deinit()
        ms = int(1000 // freq) if freq > 0 else period
        self.task = asyncio.create_task(self._run(mode, ms, callback))

    def deinit(self):
        if self.task:
            self.task.cancel()
            self.task = None

    async def _run(self, mode, ms, callback):
        import asyncio

        call = part("_irq").call
        while True:
            await asyncio.sleep_ms(ms)
            call(callback, self)
            if mode == 0:
                return
