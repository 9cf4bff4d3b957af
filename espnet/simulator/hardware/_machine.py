"""MicroPython. What is seldom used of `machine`: signals, power, interrupts."""

import time

import _pads
import umachine
from machine import Pin


def find(name):
    found = globals().get(name)
    return getattr(umachine, name) if found is None else found


def soft_reset():
    _pads.end(5)


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
