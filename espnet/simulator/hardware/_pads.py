"""MicroPython. The board's side of the shared page: the wires between this process and the outside.

The simulator maps one file into its own memory and into this process; pin levels, sensor values,
faults and the request log lie there at fixed places (`espnet/simulator/state.py` is the other side
and says what lies where; a test compares the two). Reading a wire is reading a byte.
"""

import os
import struct

import uctypes
from micropython import const

_NEXT_CAUSE = const(3)
_SLOTS = const(704)
_SLOTS_END = const(1728)
_SLOT_SIZE = const(128)
_SENSOR = const(12)

mem = None


def attach(address, size):
    global mem
    mem = uctypes.bytearray_at(address, size)


def get16(at):
    return mem[at] | mem[at + 1] << 8


def get32(at):
    return struct.unpack_from("<I", mem, at)[0]


def put32(at, value):
    struct.pack_into("<I", mem, at, value & 0xFFFFFFFF)


def take(path, pin):
    """The next fault for a request of ``path``, or (path None) for reading sensor ``pin``.

    Returns (kind, place of its settings) and counts it, or None.
    """
    for at in range(_SLOTS, _SLOTS_END, _SLOT_SIZE):
        kind = mem[at]
        if not kind or (kind == _SENSOR) != (path is None):
            continue
        if path is None:
            if mem[at + 1] not in (255, pin):
                continue
        else:
            n = mem[at + 8]
            if n and bytes(mem[at + 9 : at + 9 + n]) != path:
                continue
        count = get32(at + 4)
        if count != 0xFFFFFFFF:
            put32(at + 4, count - 1)
            if count == 1:
                mem[at] = 0
        return kind, at
    return None


def die(cause):
    """Ends this process as a reset does: at once, and no program can catch it."""
    mem[_NEXT_CAUSE] = cause
    while True:
        os.system("kill -9 $PPID")
