"""MicroPython. What is seldom used of `network`: scanning, and numbers by name."""

import network
from _pads import mem
from micropython import const

_WIFI = const(6)
_ID = const(12)
_RSSI = const(18)
_NET_POINTS = const(73728)
_NET_POINTS_END = const(74752)
_NET_JOINED = const(74775)

STAT_IDLE = 1000
STAT_CONNECTING = 1001
STAT_GOT_IP = 1010
STAT_NO_AP_FOUND = 201
STAT_WRONG_PASSWORD = 202
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


def config(interface, name):
    if name == "mac":
        return bytes(mem[_ID : _ID + 6])
    if name in ("ssid", "essid"):
        return network.text(_NET_JOINED)
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
