"""MicroPython. Stand-in for the module `dht`; the sensors are in `_dht`."""

from _pads import load


def __getattr__(name):
    return getattr(load("_dht"), name)
