"""The beacon: a datagram to everybody in the network, which says that this board is there.

When the network is there, on a new address, and once a minute. A hint, never a proof: anybody can
send one.
"""

import asyncio
import socket

import settings
import wifi
from micropython import const
from version import VERSION

_PORT = const(8469)
_EVERY_S = const(60)
_LOOK_S = const(2)  # so soon a new address is told

calls = None  # main.py hands it in


async def speak():
    """Send beacons for ever."""
    said = ""
    left_s = 0
    while True:
        await asyncio.sleep(_LOOK_S)
        left_s -= _LOOK_S
        if wifi.address and (wifi.address != said or left_s <= 0):
            said = wifi.address
            left_s = _EVERY_S
            text = (
                f'{{"espnet":1,"id":"{calls.id}","name":"{settings.name}","address":"{said}",'
                f'"port":80,"version":"{VERSION}","boot":"{calls.boot}"}}'
            )
            try:
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                try:
                    sock.setblocking(False)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                    sock.sendto(text.encode(), socket.getaddrinfo("255.255.255.255", _PORT)[0][-1])
                finally:
                    sock.close()
            except OSError:
                pass  # the next minute brings another one
