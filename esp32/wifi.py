"""The board's way onto the network: the only file that imports `network`.

Reads `settings.json`: {"hostname": "porch", "wifi": [{"ssid": …, "password": …}, …]}, the networks
in order of preference. One task owns the radio for ever. It never blocks the server and never resets
the board: a board without a network still watches its leases. Passwords are never printed.

Importing `network` starts the IP stack, so main.py imports this before it opens a socket.
"""

import asyncio

import flash
import network
from micropython import const

_SETTINGS_FILE = "settings.json"

_CONNECT_S = const(15)  # an access point that has not let us in by then is left for the next one
_CHECK_S = const(5)
_PAUSE_MAX_S = const(60)

radio = None  # once it is switched on


async def stay_connected():
    """Switch the radio on, connect, watch, connect again; for ever."""
    global radio
    hostname = flash.load(_SETTINGS_FILE, {}).get("hostname")
    if isinstance(hostname, str) and hostname:
        network.hostname(hostname)
    radio = network.WLAN(network.STA_IF)
    radio.active(True)
    pause_s = 1
    while True:
        if radio.isconnected():
            pause_s = 1
            await asyncio.sleep(_CHECK_S)
        elif not await _join_any(radio):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)


async def _join_any(radio):
    """Try each network of the settings, which are read anew; whether one let us in."""
    for entry in flash.load(_SETTINGS_FILE, {}).get("wifi") or ():
        if isinstance(entry, dict) and isinstance(entry.get("ssid"), str):
            ssid = entry["ssid"]
            try:
                if await _join(radio, ssid, entry.get("password") or None):
                    print("wifi: joined", ssid, "as", radio.ifconfig()[0])
                    return True
            except (OSError, ValueError, TypeError) as error:
                print("wifi:", ssid, "failed:", error)
    return False


async def _join(radio, ssid, password):
    """Try one network for _CONNECT_S seconds; whether it let us in."""
    radio.disconnect()
    radio.connect(ssid, password)
    for _ in range(_CONNECT_S * 4):
        await asyncio.sleep_ms(250)
        if radio.isconnected():
            return True
    return False
