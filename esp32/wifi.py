"""The board's way onto the network: the only file that imports `network`.

One task owns the radio for ever: it tries the networks of the settings in order (joining.py), watches
the one it is in, and connects again after any loss. It never blocks the server and never resets the
board: a board without a network still watches its leases. Five minutes without one open an access
point, if the settings have a password for it, and the networks of the last good settings are tried
as well. Passwords are read from flash for each round, kept nowhere, and never printed.

Importing `network` starts the IP stack, so this is imported before anybody opens a socket.
"""

import asyncio
import gc

import hardware
import network
import rarely
import settings
from micropython import const

_CHECK_S = const(5)
_PAUSE_MAX_S = const(60)
_WELL_MS = const(60000)  # so long in a network before the access point closes
_BEACON_MS = const(60000)
_CLOCK_MS = const(43200000)
_CLOCK_AGAIN_MS = const(600000)

clock = calls = None  # app.py hands them in
radio = None  # once it is switched on
address = ""  # that the board has in the network; "" while it is in none
ssid = ""  # of the network
proves = False  # whether that is one of the settings in use
failed = {}  # {SSID: why it did not let us in the last time}
point = None  # the access point while it is open
own = "espnet-" + hardware.board_id()[-6:]  # its name, and the board's where it was given none
lost_ms = 0  # since when there is no network
_clock_ms = 0  # when the clock is to be set
_beacon_ms = 0


async def stay_connected():
    """Switch the radio on, connect, watch, connect again; for ever."""
    global radio, address, lost_ms, proves
    network.hostname(settings.name or own)
    country = settings.get("country")
    if country:
        network.country(country)
    radio = network.WLAN(network.STA_IF)
    radio.active(True)
    radio.config(reconnects=0)  # the driver would try for ever, and never say what is wrong
    lost_ms = joined_ms = clock.now_ms()
    pause_s = 1
    while True:
        if radio.isconnected():
            now_ms = clock.now_ms()
            if not address:
                joined_ms = now_ms
            await _look(now_ms, joined_ms)
            pause_s = 1
            await asyncio.sleep(_CHECK_S)
            lost_ms = clock.now_ms()
            continue
        if address:
            print("wifi: lost", ssid)
            address = ""
            proves = False
        try:
            joined = await rarely.once("joining").join_any(pause_s)
        except MemoryError:
            # Clients at our own access point may have all of it. That is no crash, and it passes.
            joined = False
            await asyncio.sleep(pause_s)
        if not joined:
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)
        gc.collect()


async def _look(now_ms, joined_ms):
    """What there is to do in a network: see which address we have, close the access point, send the
    beacon, and set the clock when the network is there, and then twice a day.
    """
    global address, point, _clock_ms, _beacon_ms
    found = radio.ifconfig()
    if found[0] != address:
        _beacon_ms = now_ms
        if not address:
            _clock_ms = now_ms
        gc.collect()
        address = found[0]
        print("wifi: in", ssid, "as", address)
    if point and now_ms - joined_ms >= _WELL_MS:
        point.active(False)
        point = None
        print("wifi: closed the access point")
    try:
        if now_ms >= _beacon_ms:
            _beacon_ms = now_ms + _BEACON_MS
            rarely.once("beacon").send(calls, address)
        if now_ms >= _clock_ms:
            _clock_ms = now_ms + _CLOCK_AGAIN_MS
            if await rarely.once("ntp").set_clock(found[3]):
                _clock_ms = now_ms + _CLOCK_MS
    except MemoryError:
        pass  # neither is worth a crash
    gc.collect()


def status():
    """What people should know about the network, without any password."""
    return {
        "ssid": ssid if address else None,
        "address": address,
        "failed": failed,
        "ap": own if point else None,
    }
