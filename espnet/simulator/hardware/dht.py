"""MicroPython. Stand-in for the module `dht`; each sensor is in a file of its own."""

from _pads import load


def __getattr__(name):
    return getattr(load("_dht11" if name == "DHT11" else "_dht"), name)
