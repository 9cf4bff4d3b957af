"""MicroPython. The access point of `network`: nobody ever joins it."""

import network
from _pads import mem
from micropython import const

_WIFI_ACTIVE = const(8)
_NET_AP = const(74844)
_NET_AP_MODE = const(74845)
_NET_AP_SSID = const(74846)


class AP:
    def __init__(self):
        self.on = False
        self.key = ""

    def active(self, on=None):
        if on is not None:
            self.on = bool(on)
            mem[_NET_AP] = self.on
            mem[_WIFI_ACTIVE] = self.on or network.WLAN(0).on
        return self.on

    def config(self, name=None, *, ssid=None, key=None, security=None):
        if ssid is not None:
            network.text(_NET_AP_SSID, ssid)
        if key is not None:
            self.key = key
        if security is not None:
            mem[_NET_AP_MODE] = security
        if mem[_NET_AP_MODE] and len(self.key) < 8 and (key or security):
            raise OSError("Wifi Invalid Password")
        if name is not None:
            return network.text(_NET_AP_SSID) if name == "ssid" else mem[_NET_AP_MODE]

    def isconnected(self):
        return False

    def ifconfig(self, settings=None):
        return ("192.168.4.1", "255.255.255.0", "192.168.4.1", "0.0.0.0")
