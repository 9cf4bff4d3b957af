"""MicroPython. The clock of `machine`, and its memory. It runs with this machine's, at any speed."""

import struct
import time

from _pads import get32, mem
from micropython import const

_RTC_OFFSET = const(56)
_RTC_MEMORY = const(2048)


class RTC:
    def __init__(self, id=0):
        pass

    def datetime(self, when=None):
        now = time.time()
        if when is None:
            t = time.gmtime(now + struct.unpack_from(b"<q", mem, _RTC_OFFSET)[0])
            return (t[0], t[1], t[2], t[6], t[3], t[4], t[5], time.time_ns() // 1000 % 1000000)
        # Whole days, because `mktime` would take it for the time of this machine's zone.
        year, month = (when[0], when[1] - 3) if when[1] > 2 else (when[0] - 1, when[1] + 9)
        days = 365 * year + year // 4 - year // 100 + year // 400
        days += (153 * month + 2) // 5 + when[2] - 719469
        then = days * 86400 + when[4] * 3600 + when[5] * 60 + when[6]
        struct.pack_into(b"<q", mem, _RTC_OFFSET, int(then - now))

    def memory(self, data=None):
        if data is None:
            n = get32(_RTC_MEMORY) & 0xFFFF
            return bytes(mem[_RTC_MEMORY + 2 : _RTC_MEMORY + 2 + n])
        n = len(data)
        if n > 2046:
            raise ValueError("buffer too long")
        mem[_RTC_MEMORY] = n & 255
        mem[_RTC_MEMORY + 1] = n >> 8
        mem[_RTC_MEMORY + 2 : _RTC_MEMORY + 2 + n] = bytes(data)
