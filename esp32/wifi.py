"""The board's way onto the network: the only file that imports `network`.

One task owns the radio for ever: it tries the networks of the settings in order, watches the one it
is in, and connects again after any loss. It never blocks the server and never resets the board: a
board without a network still watches its leases. Five minutes without one open an access point, if
the settings have a password for it, and the networks of the last good settings are tried as well.
Passwords are read from flash for each round, kept nowhere, and never printed.

Importing `network` starts the IP stack, so this is imported before anybody opens a socket.
"""

import asyncio
import gc
import sys

import hardware
import network
import settings
from micropython import const

_CONNECT_S = const(15)  # an access point that has not let us in by then is left for the next one
_CHECK_S = const(5)
_PAUSE_MAX_S = const(60)
_ALONE_MS = const(300000)
_WELL_MS = const(60000)  # so long in a network before the access point closes
_CLOCK_MS = const(43200000)
_CLOCK_AGAIN_MS = const(600000)
_WPA2 = const(3)

# Only these say for sure that waiting is of no use. 15 and 204 are what most access points make of
# a wrong password: the handshake ends in silence.
_WHY = {
    network.STAT_NO_AP_FOUND: "not found",
    network.STAT_WRONG_PASSWORD: "wrong password",
    15: "wrong password",
    204: "wrong password",
}

clock = None  # main.py hands it in
radio = None  # once it is switched on
address = ""  # that the board has in the network; "" while it is in none
ssid = ""  # of the network
proves = False  # whether that is one of the settings in use
failed = {}  # {SSID: why it did not let us in the last time}
_ap = None  # the access point while it is open
_static = False
_lost_ms = 0  # since when there is no network


async def stay_connected():
    """Switch the radio on, connect, watch, connect again; for ever."""
    global radio, address, proves, _lost_ms
    network.hostname(settings.name or "espnet-" + hardware.board_id()[-6:])
    country = settings.get("country")
    if country:
        network.country(country)
    radio = network.WLAN(network.STA_IF)
    radio.active(True)
    radio.config(reconnects=0)  # the driver would try for ever, and never say what is wrong
    _lost_ms = joined_ms = clock.now_ms()
    clock_ms = 0  # when the clock is to be set
    pause_s = 1
    while True:
        now_ms = clock.now_ms()
        if radio.isconnected():
            found = radio.ifconfig()
            if found[0] != address:
                if not address:
                    joined_ms = clock_ms = now_ms
                gc.collect()
                address = found[0]
                print("wifi: in", ssid, "as", address)
            if _ap and now_ms - joined_ms >= _WELL_MS:
                _close()
            if now_ms >= clock_ms:
                right = await _set_clock(found[3])
                clock_ms = now_ms + (_CLOCK_MS if right else _CLOCK_AGAIN_MS)
            pause_s = 1
            await asyncio.sleep(_CHECK_S)
            _lost_ms = clock.now_ms()
            continue
        if address:
            print("wifi: lost", ssid)
            address = ""
            proves = False
        if not await _join_any(settings.file):
            alone = now_ms - _lost_ms >= _ALONE_MS and settings.way_back
            if not alone or not await _join_any(settings.GOOD):
                for _ in range(pause_s):
                    await asyncio.sleep(1)
                    _watch()
                pause_s = min(2 * pause_s, _PAUSE_MAX_S)


async def _join_any(file):
    """Try each network of a file of settings; whether one let us in."""
    global ssid, proves
    static = settings.get("address", "dhcp", file)
    for entry in settings.get("wifi", (), file):
        try:
            name = entry["ssid"]
            why = await _join(name, entry.get("password", ""), static)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            why = f"error {error.errno}" if isinstance(error, OSError) else "not possible"
        if not why:
            failed.pop(name, None)
            ssid = name
            proves = file == settings.file
            return True
        if failed.get(name) != why:
            print("wifi:", name, why)
            failed[name] = why
    return False


async def _join(name, password, static):
    """Try one network for _CONNECT_S seconds. Returns why it did not let us in; None: it did."""
    global _static
    radio.disconnect()
    await asyncio.sleep_ms(100)  # or the end of what was would be taken for the end of this
    if static != "dhcp":
        radio.ifconfig((static["ip"], static["mask"], static["gateway"], static["dns"]))
    elif _static:
        radio.ifconfig("dhcp")
    _static = static != "dhcp"
    radio.connect(name, password or None)
    for _ in range(_CONNECT_S * 4):
        await asyncio.sleep_ms(250)
        _watch()
        status = radio.status()
        if radio.isconnected():
            return None
        if status in _WHY:
            return _WHY[status]
    return "no answer"


def _watch():
    """Open the access point when the board has been without a network for long enough."""
    if not _ap and clock.now_ms() - _lost_ms >= _ALONE_MS:
        password = settings.get("ap", {}).get("password")
        if password:
            try:
                _open("espnet-" + hardware.board_id()[-6:], password)
            except (OSError, ValueError) as error:
                print("wifi: no access point:", error)


def _open(name, password):
    """Never open to everybody: an access point that takes no password is switched off again."""
    global _ap, proves
    point = network.WLAN(network.AP_IF)
    try:
        try:
            point.config(ssid=name, key=password, security=_WPA2)
        except OSError:  # some versions take settings only once it is on
            point.active(True)
            point.config(ssid=name, key=password, security=_WPA2)
        point.active(True)
    except (OSError, ValueError):
        point.active(False)
        raise
    _ap = point
    proves = not settings.get("wifi")  # then this is the network that they name
    print("wifi: opened the access point", name)


def _close():
    global _ap
    _ap.active(False)
    _ap = None
    print("wifi: closed the access point")


async def _set_clock(dns):
    """Set the board's clock, which decides nothing; whether that went well."""
    server = settings.get("ntp", "pool.ntp.org")
    try:
        gc.collect()
        import ntp  # needed twice a day

        return not server or await ntp.set_clock(server, dns)
    except (OSError, ValueError, MemoryError) as error:
        print("ntp:", error)
        return False
    finally:
        sys.modules.pop("ntp", None)
        gc.collect()


def status():
    """What people should know about the network, without any password."""
    point = "espnet-" + hardware.board_id()[-6:] if _ap else None
    return {"ssid": ssid if address else None, "address": address, "failed": failed, "ap": point}
