"""MicroPython. The converters of `machine`."""

from _pads import get32, load, mem, put32
from machine import Pin
from micropython import const

_ANY_FAULT = const(4)
_WIFI_ACTIVE = const(8)
_RANDOM = const(40)
_PINS = const(64)


class ADC:
    ATTN_0DB = 0
    ATTN_2_5DB = 1
    ATTN_6DB = 2
    ATTN_11DB = 3

    def __init__(self, pin, *, atten=0):
        self.at = Pin(pin).at
        self.n = (self.at - _PINS) >> 4
        if self.n not in (0, 2, 4, 12, 13, 14, 15, 25, 26, 27) and self.n < 32:
            raise ValueError("invalid pin")

    def atten(self, atten):
        pass

    def read(self):
        if self.n < 32 and mem[_WIFI_ACTIVE]:
            raise OSError(110)  # ADC2 belongs to the radio while Wi-Fi is up
        if mem[_ANY_FAULT] and load("_slots").find(None, self.n):
            raise OSError(110)
        raw = get32(self.at + 4) & 0xFFFF
        noise = get32(self.at + 6) & 0xFFFF
        if noise:
            x = get32(_RANDOM)
            x = (x * 1103515245 + 12345) & 0x7FFFFFFF
            put32(_RANDOM, x)
            raw += (x >> 8) % (2 * noise + 1) - noise
        return min(max(raw, 0), 4095)

    def read_u16(self):
        raw = self.read()
        return raw << 4 | raw >> 8

    def read_uv(self):
        return self.read() * 3300000 // 4095
