"""MicroPython. Stand-in for ESP32's `machine`: pins, ADC, resets, watchdog, RTC, timers.

A pad's state lives in the shared page, not in objects, so that two `Pin(4)` are one pin, as on
the chip. Interrupts and timers are asyncio tasks here: they run when the program awaits.
"""

import asyncio
import struct
import time

import _pads
import umachine
from _pads import get16, get32, mem, put32
from micropython import const

_CAUSE = const(2)
_ANY_FAULT = const(4)
_WIFI_ACTIVE = const(8)
_ID = const(12)
_WDT_MS = const(24)
_WDT_FED = const(28)
_HISTORY_COUNT = const(36)
_RANDOM = const(40)
_RTC_OFFSET = const(56)
_PINS = const(64)
_RTC_MEMORY = const(2048)
_HISTORY = const(4096)

PWRON_RESET = 1
HARD_RESET = 2
WDT_RESET = 3
DEEPSLEEP_RESET = 4
SOFT_RESET = 5

_MISSING = (20, 24, 28, 29, 30, 31)
_ADC2 = (0, 2, 4, 12, 13, 14, 15, 25, 26, 27)
_watched = []
_hz = 160000000


def __getattr__(name):
    return getattr(umachine, name)


def reset():
    _pads.die(HARD_RESET)


def soft_reset():
    _pads.die(SOFT_RESET)


def reset_cause():
    return mem[_CAUSE]


def unique_id():
    return bytes(mem[_ID : _ID + 6])


def freq(hz=None):
    global _hz
    if hz is None:
        return _hz
    if hz not in (20000000, 40000000, 80000000, 160000000, 240000000):
        raise ValueError("frequency must be 20MHz, 40MHz, 80Mhz, 160MHz or 240MHz")
    _hz = hz


def lightsleep(ms=0):
    time.sleep_ms(ms)


def disable_irq():
    return 0


def enable_irq(state=0):
    pass


def _number(pin):
    if isinstance(pin, Pin):
        return pin.n
    if not isinstance(pin, int) or not 0 <= pin < 40 or pin in _MISSING:
        raise ValueError("invalid pin")
    return pin


def _level(at):
    mode = mem[at]
    if mode & 2 and not (mode == 7 and mem[at + 2]):
        return mem[at + 2]
    if mem[at + 3] < 2:
        return mem[at + 3]
    return mem[at + 1] >> 1 & 1


def _note(n, level):
    """Writes a change of level into the history that the simulator's room is computed from."""
    count = get32(_HISTORY_COUNT)
    at = _HISTORY + (count & 255) * 16
    struct.pack_into("<QBB", mem, at, time.ticks_us(), n, level)
    put32(_HISTORY_COUNT, count + 1)


class Pin(umachine.PinBase):
    IN = 1
    OUT = 3
    OPEN_DRAIN = 7
    PULL_DOWN = 1
    PULL_UP = 2
    IRQ_RISING = 1
    IRQ_FALLING = 2

    def __init__(self, pin, mode=None, pull=-1, *, value=None, drive=None, hold=None):
        self.n = _number(pin)
        self.at = _PINS + self.n * 16
        if mode is not None or pull != -1 or value is not None:
            self.init(mode, pull, value=value)

    def __repr__(self):
        return "Pin(%d)" % self.n

    def init(self, mode=None, pull=-1, *, value=None, drive=None, hold=None):
        at = self.at
        before = _level(at)
        if mode is not None and mode & 2:
            if self.n >= 34:
                raise ValueError("pin can only be input")
            if 6 <= self.n <= 11:
                raise ValueError("pin %d carries the flash, driving it kills the board" % self.n)
        if value is not None and self.n < 34:
            mem[at + 2] = 1 if value else 0
        if mode is not None:
            mem[at] = mode
        if pull != -1 and self.n < 34:
            mem[at + 1] = pull or 0
        after = _level(at)
        if after != before:
            _note(self.n, after)

    def value(self, value=None):
        at = self.at
        if value is None:
            return _level(at)
        value = 1 if value else 0
        if mem[at + 2] != value and self.n < 34:
            before = _level(at)
            mem[at + 2] = value
            if _level(at) != before:
                _note(self.n, 1 - before)

    __call__ = value

    def on(self):
        self.value(1)

    def off(self):
        self.value(0)

    def toggle(self):
        self.value(1 - mem[self.at + 2])

    def irq(self, handler=None, trigger=3, wake=None):
        for watch in _watched:
            if watch[0].n == self.n:
                _watched.remove(watch)
        if handler:
            if not _watched:
                asyncio.create_task(_watch())
            _watched.append([self, handler, trigger, self.value()])
        return self


async def _watch():
    while _watched:
        for watch in _watched:
            pin, handler, trigger, before = watch
            now = watch[3] = pin.value()
            if now != before and trigger & (1 if now else 2):
                _call(handler, pin)
        await asyncio.sleep_ms(10)


def _call(handler, argument):
    try:
        handler(argument)
    except Exception as e:
        import sys

        sys.print_exception(e)


class _Registers:
    """The chip's registers of its pads, with a bit for each: GPIO_ENABLE and GPIO_ENABLE1 say which
    ones it drives, GPIO_IN and GPIO_IN1 at which levels they are. No others are here to be read.
    """

    def __getitem__(self, address):
        levels = address in (0x3FF4403C, 0x3FF44040)
        first = 0 if address in (0x3FF44020, 0x3FF4403C) else 32
        if first and not levels and address != 0x3FF4402C:
            raise KeyError(address)
        bits = 0
        bit = 1
        at = _PINS + first * 16
        for _ in range(8 if first else 28):
            if levels:
                if _level(at):
                    bits |= bit
            elif mem[at] & 2:
                bits |= bit
            bit <<= 1
            at += 16
        return bits


mem32 = _Registers()


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
        self.n = _number(pin)
        if self.n not in _ADC2 and self.n < 32:
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
        if mem[_ANY_FAULT] and _pads.take(None, self.n):
            raise OSError(110)
        at = _PINS + self.n * 16
        raw = get16(at + 4)
        noise = get16(at + 6)
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


class WDT:
    def __init__(self, id=0, timeout=5000):
        if timeout < 1:
            raise ValueError("WDT timeout too short")
        put32(_WDT_MS, timeout)
        self.feed()

    def feed(self):
        put32(_WDT_FED, get32(_WDT_FED) + 1)


class RTC:
    def __init__(self, id=0):
        pass

    def datetime(self, when=None):
        now = time.time()
        if when is None:
            t = time.gmtime(now + struct.unpack_from("<q", mem, _RTC_OFFSET)[0])
            return (t[0], t[1], t[2], t[6], t[3], t[4], t[5], time.time_ns() // 1000 % 1000000)
        then = time.mktime((when[0], when[1], when[2], when[4], when[5], when[6], 0, 0))
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
        self.deinit()
        ms = int(1000 // freq) if freq > 0 else period
        self.task = asyncio.create_task(self._run(mode, ms, callback))

    def deinit(self):
        if self.task:
            self.task.cancel()
            self.task = None

    async def _run(self, mode, ms, callback):
        while True:
            await asyncio.sleep_ms(ms)
            _call(callback, self)
            if mode == 0:
                return
