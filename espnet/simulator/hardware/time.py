"""MicroPython. Stand-in for the module `time`: the board's time may pass faster than this machine's.

The simulator says how fast, and may say so at any moment. Time never jumps then: board time is
machine time, times the speed, plus an offset that makes both agree at the change. Asyncio takes its
time from here. At speed 1 that costs one look at a byte.
"""

import struct

import utime
from _pads import load, mem
from micropython import const

_SPEED = const(7)  # which of the two slots holds, 0: neither
_SPEEDS = const(1712)

ticks_add = utime.ticks_add
ticks_diff = utime.ticks_diff


def __getattr__(name):
    return getattr(load("_sleep") if name[:5] == "sleep" else utime, name)


def ticks_us():
    us = utime.ticks_us()
    slot = mem[_SPEED]
    if slot:
        milli, offset = struct.unpack_from(b"<Qq", mem, _SPEEDS + 16 * slot)
        return us * milli // 1000 + offset
    return us


def ticks_ms():
    return ticks_us() // 1000 if mem[_SPEED] else utime.ticks_ms()


def real(n):
    """How many µs pass here while so many pass for the board."""
    slot = mem[_SPEED]
    return n * 1000 // struct.unpack_from(b"<Q", mem, _SPEEDS + 16 * slot)[0] if slot else n
