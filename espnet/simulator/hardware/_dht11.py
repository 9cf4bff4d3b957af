"""MicroPython. The older sensor of the module `dht`: whole values."""

from _pads import load

_DHT22 = load("_dht").DHT22


class DHT11(_DHT22):
    def temperature(self):
        return self._read[0] // 10

    def humidity(self):
        return self._read[1] // 10
