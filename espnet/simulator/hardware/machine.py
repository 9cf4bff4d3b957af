"""MicroPython. Stand-in for ESP32's `machine`: pins, resets, watchdog; the rest is in files of its own.

A pad's state lives in the shared page, not in objects, so that two `Pin(4)` are one pin, as on
the chip. Interrupts and timers are asyncio tasks here: they run when the program awaits.
"""

import struct

import _pads
from _pads import get32, mem, put32
from micropython import const
from utime import ticks_us

_CAUSE = const(2)
_ID = const(12)
_WDT_MS = const(24)
_WDT_FED = const(28)
_HISTORY_COUNT = const(36)
_PINS = const(64)
_HISTORY = const(4096)

PWRON_RESET = 1
HARD_RESET = 2
WDT_RESET = 3
DEEPSLEEP_RESET = 4
SOFT_RESET = 5


def __getattr__(name):
    if name in ("ADC", "RTC", "Timer"):
        return getattr(_pads.load("_" + name.lower()), name)
    return _pads.load("_machine").find(name)


def reset():
    _pads.end(HARD_RESET)


def reset_cause():
    return mem[_CAUSE]


def unique_id():
    return bytes(mem[_ID : _ID + 6])


def _look(at):
    mode = mem[at]
    if mode & 2 and not (mode == 7 and mem[at + 2]):
        return mem[at + 2]
    if mem[at + 3] < 2:
        return mem[at + 3]
    return mem[at + 1] >> 1 & 1


def _set(at, level):
    """Writes a change of level into the history that the simulator's room is computed from."""
    count = get32(_HISTORY_COUNT)
    place = _HISTORY + (count & 255) * 16
    struct.pack_into(b"<QBB", mem, place, ticks_us(), at - _PINS >> 4, level)
    put32(_HISTORY_COUNT, count + 1)


class Pin:
    """One attribute only, its place in the page: the firmware keeps many, which on a chip are ROM."""

    IN = 1
    OUT = 3
    OPEN_DRAIN = 7
    PULL_DOWN = 1
    PULL_UP = 2
    IRQ_RISING = 1
    IRQ_FALLING = 2

    def __init__(self, pin, mode=None, pull=-1, *, value=None, drive=None, hold=None):
        if isinstance(pin, Pin):
            self.at = pin.at
        elif isinstance(pin, int) and 0 <= pin < 40 and not 0xF1100000 >> pin & 1:
            self.at = _PINS + pin * 16
        else:
            raise ValueError("invalid pin")
        if mode is not None or pull != -1 or value is not None:
            self.init(mode, pull, value=value)

    def __getattr__(self, name):
        return _pads.load("_pin").find(self, name)

    def init(self, mode=None, pull=-1, *, value=None, drive=None, hold=None):
        at = self.at
        n = at - _PINS >> 4
        before = _look(at)
        if mode is not None and mode & 2:
            if n >= 34:
                raise ValueError("pin can only be input")
            if 6 <= n <= 11:
                raise ValueError("pin %d carries the flash, driving it kills the board" % n)
        if value is not None and n < 34:
            mem[at + 2] = 1 if value else 0
        if mode is not None:
            mem[at] = mode
        if pull != -1 and n < 34:
            mem[at + 1] = pull or 0
        after = _look(at)
        if after != before:
            _set(at, after)

    def value(self, value=None):
        at = self.at
        if value is None:
            return _look(at)
        value = 1 if value else 0
        if mem[at + 2] != value and at < _PINS + 34 * 16:
            before = _look(at)
            mem[at + 2] = value
            if _look(at) != before:
                _set(at, 1 - before)

    __call__ = value


class mem32:
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
                if _look(at):
                    bits |= bit
            elif mem[at] & 2:
                bits |= bit
            bit <<= 1
            at += 16
        return bits


mem32 = mem32()


class WDT:
    def __init__(self, id=0, timeout=5000):
        if timeout < 1:
            raise ValueError("WDT timeout too short")
        put32(_WDT_MS, timeout)
        self.feed()

    def feed(self):
        put32(_WDT_FED, get32(_WDT_FED) + 1)
