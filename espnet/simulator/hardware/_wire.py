"""MicroPython. What servers for names and time answer, as the simulator scripts it.

Each answer is what a datagram from the network would be: right, or wrong in one way.
"""

import os
import struct
import time

from _pads import get32, mem, put32
from micropython import const

_NET_DNS = const(74886)
_NET_NTP = const(74887)
_NET_ASKED_DNS = const(74888)
_NET_ASKED_NTP = const(74892)

# The numbers are state.py's.
_GOOD = const(1)
_GARBAGE = const(2)
_WRONG_ID = const(3)
_NO_SUCH_NAME = const(4)
_KISS = const(3)
_WRONG_ORIGIN = const(4)
_FAR_FUTURE = const(5)
_PAST = const(6)
_WRONG_MODE = const(7)
_UNSYNCHRONISED = const(8)
_SHORT = const(9)


def answer(port, asked):
    """The answer to a datagram, or None."""
    at = _NET_ASKED_DNS if port == 53 else _NET_ASKED_NTP
    put32(at, get32(at) + 1)
    how = mem[_NET_DNS if port == 53 else _NET_NTP]
    if not how:
        return None
    if how == _GARBAGE:
        return os.urandom(48 + asked[-1] % 16)
    return _name(asked, how) if port == 53 else _time(asked, how)


def _name(asked, how):
    """127.0.0.1, behind a CNAME, as big pools of servers have one."""
    number = bytes([asked[0] ^ (how == _WRONG_ID), asked[1]])
    if how == _NO_SUCH_NAME:
        return number + b"\x81\x83" + asked[4:6] + bytes(6) + asked[12:]
    alias = b"\xc0\x0c\0\5\0\1\0\0\0\x3c\0\4\1a\xc0\x0c"
    alias_at = len(asked) + 12
    found = struct.pack(b">HHHIH", 0xC000 | alias_at, 1, 1, 60, 4) + b"\x7f\0\0\1"
    return number + b"\x81\x80\0\1\0\2\0\0\0\0" + asked[12:] + alias + found


def _time(asked, how):
    now = time.time()
    seconds = int(now)
    if how == _FAR_FUTURE:
        seconds = 4765132800  # 2121
    elif how == _PAST:
        seconds = 946684800  # 2000
    stamp = struct.pack(b">II", (seconds + 2208988800) & 0xFFFFFFFF, int(now % 1 * 2**32))
    origin = os.urandom(8) if how == _WRONG_ORIGIN else asked[40:48]
    first = 0x23 if how == _WRONG_MODE else 0xE4 if how == _UNSYNCHRONISED else 0x24
    stratum = 0 if how == _KISS else 2
    head = (
        bytes([first, stratum, 6, 0xEC]) + bytes(8) + (b"RATE" if how == _KISS else b"\x7f\0\0\1")
    )
    found = head + stamp + origin + stamp + stamp
    return found[:40] if how == _SHORT else found
