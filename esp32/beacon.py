"""The beacon: a datagram to everybody in the network, which says that this board is there.

A hint, never a proof: anybody can send one. Loaded for each one, and dropped.
"""

import socket

import settings
from micropython import const
from version import VERSION

_PORT = const(8469)


def send(calls, address):
    """Send one; when it does not go out, the next minute brings another."""
    text = (
        f'{{"espnet":1,"id":"{calls.id}","name":"{settings.name}","address":"{address}",'
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
    except OSError as error:
        print("beacon:", error)
