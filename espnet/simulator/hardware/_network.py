"""MicroPython. What is seldom used of `network`: the access point, scanning, rare numbers."""

import network
from _pads import mem
from micropython import const

_WIFI = const(6)
_WIFI_ACTIVE = const(8)
_ID = const(12)
_RSSI = const(18)
_NET_POINTS = const(73728)
_NET_POINTS_END = const(74752)
_NET_JOINED = const(74775)
_NET_AP = const(74844)
_NET_AP_MODE = const(74845)
_NET_AP_SSID = const(74846)

STAT_BEACON_TIMEOUT = 200
STAT_ASSOC_FAIL = 203
STAT_HANDSHAKE_TIMEOUT = 204
AUTH_OPEN = 0
AUTH_WPA_PSK = 2
AUTH_WPA2_PSK = 3
AUTH_WPA_WPA2_PSK = 4
MODE_11B = 1
MODE_11G = 2
MODE_11N = 4


class _AccessPoint:
    def __init__(self):
        self.on = False
        self.key = ""

    def active(self, on=None):
        if on is not None:
            self.on = bool(on)
            mem[_NET_AP] = self.on
            mem[_WIFI_ACTIVE] = self.on or network.WLAN(0).on
        return self.on

    def config(self, name=None, *, ssid=None, key=None, security=None, **settings):
        ssid = settings.get("essid", ssid)
        key = settings.get("password", key)
        security = settings.get("authmode", security)
        if ssid is not None:
            network._name(_NET_AP_SSID, ssid)
        if key is not None:
            self.key = key
        if security is not None:
            mem[_NET_AP_MODE] = security
        if mem[_NET_AP_MODE] and len(self.key) < 8 and (key or security):
            raise OSError("Wifi Invalid Password")
        if name in ("ssid", "essid"):
            return network._name(_NET_AP_SSID)
        if name in ("security", "authmode"):
            return mem[_NET_AP_MODE]
        if name is not None:
            return config(self, name)

    def isconnected(self):
        return False  # nobody is with us

    def status(self, what=None):
        return [] if what == "stations" else None

    def ifconfig(self, settings=None):
        return ("192.168.4.1", "255.255.255.0", "192.168.4.1", "0.0.0.0")


def config(interface, name):
    if name == "mac":
        return bytes(mem[_ID : _ID + 6])
    if name in ("ssid", "essid"):
        return network._name(_NET_JOINED)
    if name == "reconnects":
        return -1 if interface.arg else 0
    raise ValueError("unknown config param")


def find(station, name):
    if name == "scan":
        return _scan
    if name == "ipconfig":
        return lambda name: station.ifconfig()[:2] if name == "addr4" else None
    if name in ("PM_NONE", "PM_PERFORMANCE", "PM_POWERSAVE"):
        return ("PM_NONE", "PM_PERFORMANCE", "PM_POWERSAVE").index(name)
    raise AttributeError("'WLAN' object has no attribute '%s'" % name)


def _scan():
    found = []
    for at in range(_NET_POINTS, _NET_POINTS_END, 128):
        if mem[_WIFI] == 2 and mem[at]:
            ssid = bytes(mem[at + 1 : at + 1 + mem[at]])
            found.append((ssid, b"\2" * 6, 6, mem[_RSSI] - 256, 3 if mem[at + 33] else 0, False))
    return found


def start():
    return _AccessPoint()
