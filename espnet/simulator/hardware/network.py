"""MicroPython. Stand-in for the module `network`: the station; `_ap` has the access point.

The simulator scripts which access points there are, with which passwords. A chip's driver tries for
ever, and says so (STAT_CONNECTING), unless `config(reconnects=0)` has it give up and say why.
"""

from _pads import load, mem
from micropython import const

_WIFI = const(6)  # 0: no network, 1: any network, 2: those of the list
_WIFI_ACTIVE = const(8)
_RSSI = const(18)
_NET = const(73728)
_NET_POINTS = const(73728)
_NET_POINTS_END = const(74752)
_NET_ADDRESS = const(74752)
_NET_STATIC = const(74756)
_NET_JOINED = const(74775)
_NET_HOSTNAME = const(74808)
_NET_COUNTRY = const(74841)

_IDLE = const(1000)
_CONNECTING = const(1001)
_GOT_IP = const(1010)
_NO_AP_FOUND = const(201)
_WRONG_PASSWORD = const(202)

STA_IF = 0
AP_IF = 1


def __getattr__(name):
    return getattr(load("_network"), name)


def text(at, s=None):
    """Reads or writes a short text of the page: its length, then its bytes."""
    if s is None:
        return bytes(mem[at + 1 : at + 1 + mem[at]]).decode()
    s = s.encode()[:32]
    mem[at] = len(s)
    mem[at + 1 : at + 1 + len(s)] = s


def hostname(name=None):
    return text(_NET_HOSTNAME, name)


def country(code=None):
    return text(_NET_COUNTRY, code)


class WLAN:
    IF_STA = 0
    IF_AP = 1

    def __new__(self, n=0):
        global ap
        if n:
            ap = ap or load("_ap").AP()
            return ap
        return state or super().__new__(self)

    def __init__(self, n=0):
        global state
        if state is None:
            state = self
            self.on = self.arg = True
            self.on = False
            self.key = None  # the network that is to be joined, and its password
            self.reason = _IDLE  # or what the driver would say now

    def __getattr__(self, name):
        return load("_network").find(self, name)

    def active(self, on=None):
        if on is not None:
            self.on = bool(on)
            mem[_WIFI_ACTIVE] = self.on or bool(ap and ap.on)
        return self.on

    def connect(self, ssid=None, key=None, *, bssid=None):
        if not self.on:
            raise OSError("Wifi Internal Error")
        self.key = (ssid, key)
        self.reason = _CONNECTING
        mem[_NET_JOINED] = 0

    def disconnect(self):
        self.key = None
        self.reason = _IDLE
        mem[_NET_JOINED] = 0

    def _try(self):
        """What the network that is wanted says now."""
        if mem[_WIFI] < 2:
            return _GOT_IP if mem[_WIFI] else _NO_AP_FOUND
        ssid, key = [(s or "").encode() for s in self.key]
        found = _NO_AP_FOUND
        for at in range(_NET_POINTS, _NET_POINTS_END, 128):
            if mem[at] and bytes(mem[at + 1 : at + 1 + mem[at]]) == ssid:
                at += 33
                if bytes(mem[at + 1 : at + 1 + mem[at]]) == key:
                    return _GOT_IP
                found = _WRONG_PASSWORD
        return found

    def status(self, what=None):
        if what == "rssi":
            if self.status() != _GOT_IP:
                raise OSError("Wifi Not Connected")
            return mem[_RSSI] - 256
        if what is not None:
            raise ValueError("unknown status param")
        reason = self.reason
        if reason in (_CONNECTING, _GOT_IP):
            verdict = self._try() if self.on else _NO_AP_FOUND
            if verdict != reason:
                if verdict == _GOT_IP:
                    text(_NET_JOINED, self.key[0] or "")
                else:
                    mem[_NET_JOINED] = 0
                    if reason == _GOT_IP:
                        verdict = 200  # the access point's beacon no longer comes
                    if self.arg:
                        verdict = _CONNECTING
                self.reason = verdict
        return self.reason

    def isconnected(self):
        return self.status() == _GOT_IP

    def ifconfig(self, settings=None):
        if settings is not None:
            mem[_NET_STATIC] = settings != "dhcp"
            if mem[_NET_STATIC]:
                numbers = ".".join(settings).split(".")
                mem[_NET_STATIC + 1 : _NET_STATIC + 17] = bytes([int(n) for n in numbers])
        elif not self.isconnected():
            return ("0.0.0.0",) * 4
        elif mem[_NET_STATIC]:
            at = _NET_STATIC + 1
            return tuple(["%d.%d.%d.%d" % tuple(mem[n : n + 4]) for n in range(at, at + 16, 4)])
        else:
            ip = "%d.%d.%d.%d" % tuple(mem[_NET_ADDRESS : _NET_ADDRESS + 4])
            return (ip, "255.0.0.0", "127.0.0.1", "127.0.0.1")

    def config(self, name=None, **settings):
        self.arg = settings.get("reconnects", -1 if self.arg else 0) != 0
        if name is not None:
            return load("_network").config(self, name)


state = ap = None
