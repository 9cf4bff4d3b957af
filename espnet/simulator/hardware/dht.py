"""MicroPython. Stand-in for the module `dht`; the sensors are in `_dht`."""

from _pads import part


def __getattr__(name):
    return getattr(part("_dht"), name)
