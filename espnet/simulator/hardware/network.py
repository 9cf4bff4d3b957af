"""MicroPython. Stand-in for the module `network`: a station that gets its network when there is one."""

from _pads import mem
from micropython import const

_WIFI = const(6)
_WIFI_ACTIVE = const(8)
_RSSI = const(18)
_ID = const(12)

STA_IF = 0
AP_IF = 1
STAT_IDLE = 1000
STAT_CONNECTING = 1001
STAT_GOT_IP = 1010
STAT_NO_AP_FOUND = 201
STAT_WRONG_PASSWORD = 202
STAT_BEACON_TIMEOUT = 200
STAT_ASSOC_FAIL = 203
STAT_HANDSHAKE_TIMEOUT = 204
AUTH_OPEN = 0
AUTH_WPA2_PSK = 3

_hostname = "mpy-esp32"
_country = "XX"
_stations = {}


def hostname(name=None):
    global _hostname
    if name is None:
        return _hostname
    _hostname = name


def country(code=None):
    global _country
    if code is None:
        return _country
    _country = code


class WLAN:
    IF_STA = 0
    IF_AP = 1
    PM_NONE = 0
    PM_PERFORMANCE = 1
    PM_POWERSAVE = 2

    def __new__(cls, interface=0):
        if interface not in _stations:
            wlan = _stations[interface] = super().__new__(cls)
            wlan.kind = interface
            wlan.on = wlan.wanted = False
            wlan.settings = {}
        return _stations[interface]

    def __init__(self, interface=0):
        pass

    def active(self, on=None):
        if on is None:
            return self.on
        self.on = bool(on)
        mem[_WIFI_ACTIVE] = any(w.on for w in _stations.values())
        return self.on

    def connect(self, ssid=None, key=None, *, bssid=None):
        if not self.on:
            raise OSError("Wifi Internal Error")
        self.wanted = True
        self.settings["ssid"] = ssid

    def disconnect(self):
        self.wanted = False

    def isconnected(self):
        return bool(self.on and (self.kind == 1 or (self.wanted and mem[_WIFI])))

    def status(self, what=None):
        if what == "rssi":
            return mem[_RSSI] - 256
        if what is not None:
            raise ValueError("unknown status param")
        if not self.wanted:
            return STAT_IDLE
        return STAT_GOT_IP if self.isconnected() else STAT_NO_AP_FOUND

    def ifconfig(self, settings=None):
        if settings is None:
            ip = "127.0.0.1" if self.isconnected() else "0.0.0.0"
            return (ip, "255.0.0.0", ip, ip)

    def ipconfig(self, name):
        return self.ifconfig()[:2] if name == "addr4" else None

    def config(self, name=None, **settings):
        self.settings.update(settings)
        if name == "mac":
            return bytes(mem[_ID : _ID + 6])
        if name is not None:
            return self.settings.get(name)

    def scan(self):
        return []
