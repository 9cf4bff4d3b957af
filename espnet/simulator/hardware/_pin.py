"""MicroPython. What is seldom asked of a pin."""

import sys

from _pads import load


def find(pin, name):
    if name == "n":
        return pin.at - 64 >> 4
    if name == "on":
        return lambda: pin.value(1)
    if name == "off":
        return lambda: pin.value(0)
    if name == "toggle":
        import _pads

        return lambda: pin.value(1 - _pads.mem[pin.at + 2])
    if name == "irq":
        irq = sys.modules.get("_irq") or load("_irq")
        sys.modules["_irq"] = irq  # it knows the handlers
        return lambda *args, **named: irq.irq(pin, *args, **named)
    raise AttributeError("'Pin' object has no attribute '%s'" % name)
