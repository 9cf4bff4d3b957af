"""MicroPython. Stand-in for the module `select`: time-outs are in the board's time."""

from time import real_us

import uselect
import utime
from _pads import mem
from micropython import const

_SPEED = const(7)

POLLIN = uselect.POLLIN
POLLOUT = uselect.POLLOUT
POLLERR = uselect.POLLERR
POLLHUP = uselect.POLLHUP


class poll:
    def __init__(self):
        self.p = p = uselect.poll()
        self.register = p.register
        self.unregister = p.unregister

    def __getattr__(self, name):
        return getattr(self.p, name)

    def ipoll(self, ms=-1, flags=0):
        if ms > 0 and mem[_SPEED]:
            ms = _real(ms)
        return self.p.ipoll(ms, flags)

    def poll(self, ms=-1):
        if ms > 0 and mem[_SPEED]:
            ms = _real(ms)
        return self.p.poll(ms)


def _real(ms):
    us = real_us(ms * 1000)
    if us < 1000:
        utime.sleep_us(us)
    return us // 1000
