"""How the board gets into a network, or opens one. Loaded while it is in none, and dropped then."""

import asyncio

import settings
import wifi
from micropython import const

_CONNECT_S = const(15)  # an access point that has not let us in by then is left for the next one
_ALONE_MS = const(300000)
_WPA2 = const(3)
_GOOD = "settings.good.json"

# Only these say for sure that waiting is of no use. 15 and 204 are what most access points make of
# a wrong password: the handshake ends in silence.
_WHY = {201: "not found", 202: "wrong password", 15: "wrong password", 204: "wrong password"}


async def join_any(pause_s):
    """One round: try each network, then rest; whether one let us in."""
    if await _try(settings.file):
        return True
    if _is_alone() and settings.way_back and await _try(_GOOD):
        return True
    for _ in range(pause_s):
        await asyncio.sleep(1)
        _watch()
    return False


def _is_alone():
    """Whether there has been no network for too long."""
    return wifi.clock.now_ms() - wifi.lost_ms >= _ALONE_MS


async def _try(file):
    """Try each network of a file of settings; whether one let us in."""
    static = settings.get("address", "dhcp", file)
    for entry in settings.get("wifi", (), file):
        name = entry["ssid"]
        try:
            why = await _join(name, entry.get("password", ""), static)
        except OSError as error:
            why = f"error {error.errno}"
        except ValueError:
            why = "not possible"
        if not why:
            wifi.failed.pop(name, None)
            wifi.ssid = name
            wifi.proves = file == settings.file
            return True
        if wifi.failed.get(name) != why:
            print("wifi:", name, why)
            wifi.failed[name] = why
    return False


async def _join(name, password, static):
    """Try one network for _CONNECT_S seconds. Returns why it did not let us in; None: it did."""
    radio = wifi.radio
    radio.disconnect()
    await asyncio.sleep_ms(100)  # or the end of what was would be taken for the end of this
    try:
        if static == "dhcp":
            radio.ifconfig("dhcp")
        else:
            radio.ifconfig((static["ip"], static["mask"], static["gateway"], static["dns"]))
    except OSError:
        pass  # that is how some versions say that it is so already
    radio.connect(name, password or None)
    for _ in range(_CONNECT_S * 4):
        await asyncio.sleep_ms(250)
        _watch()
        if radio.isconnected():
            return None
        why = _WHY.get(radio.status())
        if why:
            return why
    return "no answer"


def _watch():
    """Open the access point when there has been no network for too long."""
    if not wifi.point and _is_alone():
        password = settings.get("ap", {}).get("password")
        if password:
            try:
                _open(password)
            except (OSError, ValueError) as error:
                print("wifi: no access point:", error)


def _open(password):
    """Never open to everybody: an access point that takes no password is switched off again."""
    point = wifi.network.WLAN(wifi.network.AP_IF)
    try:
        try:
            point.config(ssid=wifi.own, key=password, security=_WPA2)
        except OSError:  # some versions take settings only once it is on
            point.active(True)
            point.config(ssid=wifi.own, key=password, security=_WPA2)
        point.active(True)
    except (OSError, ValueError):
        point.active(False)
        raise
    wifi.point = point
    wifi.proves = not settings.get("wifi")  # then this is the network that they name
    print("wifi: opened the access point", wifi.own)
