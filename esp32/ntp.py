"""Sets the board's clock by the network, UTC. Loaded twice a day, and dropped after that.

Nothing here waits for anybody: sockets are asked again and again, and all of it ends after seconds.
(`getaddrinfo` would block the whole board meanwhile, so names are asked for by a DNS datagram of
our own.) What answers proves nothing but that it has seen what we sent: the board's clock decides
nothing.
"""

import asyncio
import os
import socket
import struct
import time

import fields
import settings
from hardware import machine
from micropython import const

_TRIES = const(2)
_LOOKS = const(20)  # at an answer that may have come, each _LOOK_MS
_LOOK_MS = const(100)

_FIRST_S = const(1704067200)  # 2024-01-01
_LAST_S = const(4102444800)  # 2100-01-01
_NTP_S = const(2208988800)  # between NTP's beginning, 1900, and Unix's


async def set_clock(dns):
    """Ask the server of the settings; the DNS server `dns` knows names. Whether there is no more to do."""
    server = settings.get("ntp", "pool.ntp.org")
    if not server:
        return True
    try:
        return await _set(server, dns)
    except (OSError, MemoryError) as error:
        print("ntp:", error)
        return False


async def _set(server, dns):
    if not fields.is_ipv4(server):
        server = await _look_up(server, dns)
    if server:
        nonce = os.urandom(8)  # where our own time belongs: nobody is to know that
        answer = await _ask(
            server, 123, b"\x23" + bytes(39) + nonce, lambda data: _time(data, nonce)
        )
        if answer:
            _set_chip(answer)
            print("ntp: the clock is set by", server)
            return True
    print("ntp: no time to be had")
    return False


async def _ask(host, port, question, read):
    """Send a datagram, twice if need be; what `read` makes of the first answer of which it makes
    anything. None when nothing of that kind comes in time.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.connect(socket.getaddrinfo(host, port)[0][-1])
        for _ in range(_TRIES):
            sock.send(question)
            for _ in range(_LOOKS):
                await asyncio.sleep_ms(_LOOK_MS)
                try:
                    found = read(sock.recv(512))
                except (IndexError, ValueError):
                    continue  # shorter than it says
                except OSError:
                    continue  # nothing came
                if found:
                    return found
    finally:
        sock.close()
    return None


def _set_chip(unix_s):
    """Set the chip's clock. MicroPython counts from 2000 on some chips, from 1970 on others."""
    year, month, day, hour, minute, second, weekday, _ = time.gmtime(
        unix_s - 946684800 if time.gmtime(0)[0] == 2000 else unix_s
    )[:8]
    machine.RTC().datetime((year, month, day, weekday, hour, minute, second, 0))


async def _look_up(name, dns):
    """The IPv4 address of a name, or None."""
    number = os.urandom(2)
    asked = b""
    for label in name.encode().split(b"."):
        asked += bytes((len(label),)) + label
    asked += b"\0\0\1\0\1"  # an address (A) of the internet (IN)
    question = number + b"\1\0\0\1\0\0\0\0\0\0" + asked

    def read(data):
        flags, _, answers = struct.unpack_from(b">HHH", data, 2)
        end = 12 + len(asked)
        if data[:2] != number or flags & 0xFA0F != 0x8000 or data[12:end] != asked:
            return None
        at = end
        for _ in range(min(answers, 16)):
            while data[at] and data[at] < 0xC0:
                at += 1 + data[at]
            at += 2 if data[at] else 1
            kind, family, _, size = struct.unpack_from(b">HHIH", data, at)
            at += 10
            if kind == 1 and family == 1 and size == 4 and len(data) >= at + 4:
                return "%d.%d.%d.%d" % tuple(data[at : at + 4])
            at += size
        return None

    return await _ask(dns, 53, question, read)


def _time(data, nonce):
    """Unix time by a server's answer; None when that is no answer to ours, or from no good clock."""
    if (
        len(data) < 48
        or data[0] & 7 != 4  # from a server
        or data[0] >> 6 == 3  # whose clock is not set
        or not 1 <= data[1] <= 15  # 0: a kiss of death
        or data[24:32] != nonce
    ):
        return None
    seconds = struct.unpack_from(b">I", data, 40)[0] - _NTP_S
    if seconds < _FIRST_S:
        seconds += 1 << 32  # NTP counts from 0 again in 2036
    return seconds if seconds < _LAST_S else None
