"""MicroPython. Stand-in for the module `select`: time-outs are in the board's time."""

from time import real

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
        self.s = s = uselect.poll()
        self.register = s.register
        self.unregister = s.unregister

    def __getattr__(self, name):
        return getattr(self.s, name)

    def ipoll(self, n=-1, flags=0):
        if n > 0 and mem[_SPEED]:
            n = real(n * 1000)
            if n < 1000:  # less than it can wait for
                utime.sleep_us(n)
            n //= 1000
        return self.s.ipoll(n, flags)

    def poll(self, n=-1):
        return list(self.ipoll(n))
