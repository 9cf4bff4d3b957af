"""MicroPython. The sensors of the module `dht`: an absent one times out, as a real one does."""

import struct

from _pads import load, mem
from micropython import const

_ANY_FAULT = const(4)


class DHT22:
    def __init__(self, pin):
        self.pin = pin
        self._read = (0, 0)

    def measure(self):
        at = self.pin.at
        if mem[_ANY_FAULT] and load("_slots").find(None, at - 64 >> 4):
            raise OSError(110)
        if not mem[at + 12]:
            raise OSError(110)
        self._read = struct.unpack_from(b"<hH", mem, at + 8)

    def temperature(self):
        return self._read[0] / 10

    def humidity(self):
        return self._read[1] / 10
