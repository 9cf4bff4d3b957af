"""MicroPython. Stand-in for the module `dht`: an absent sensor times out, as a real one does."""

import struct

import _pads
from _pads import mem
from micropython import const

_ANY_FAULT = const(4)
_PINS = const(64)


class DHTBase:
    def __init__(self, pin):
        self.pin = pin
        self._read = (0, 0)

    def measure(self):
        n = self.pin.n
        if mem[_ANY_FAULT] and _pads.take(None, n):
            raise OSError(110)
        at = _PINS + n * 16
        if not mem[at + 12]:
            raise OSError(110)
        self._read = struct.unpack_from("<hH", mem, at + 8)


class DHT11(DHTBase):
    def temperature(self):
        return self._read[0] // 10

    def humidity(self):
        return self._read[1] // 10


class DHT22(DHTBase):
    def temperature(self):
        return self._read[0] / 10

    def humidity(self):
        return self._read[1] / 10
