"""MicroPython. The board's side of the shared page: the wires between this process and the outside.

The simulator maps one file into its own memory and into this process; pin levels, sensor values,
faults and the request log lie there at fixed places (`espnet/simulator/state.py` is the other side
and says what lies where; a test compares the two). Reading a wire is reading a byte.

On a chip what the stand-ins stand for lies in ROM. So what is seldom needed is in modules of its own,
which `load` brings and nobody keeps.
"""

import struct
import sys

import uctypes
import vfs
from micropython import const

_NEXT_CAUSE = const(3)

mem = None
path = None  # the file system where the stand-ins lie


def start(address, size):
    global mem
    mem = uctypes.bytearray_at(address, size)


def get32(at):
    return struct.unpack_from(b"<I", mem, at)[0]


def put32(at, value):
    struct.pack_into(b"<I", mem, at, value & 0xFFFFFFFF)


def load(name):
    """A module of the stand-ins; it lasts only as long as somebody uses what is in it."""
    before = sys.path[:]
    sys.path[:] = ("/.hardware",)
    vfs.mount(path, "/.hardware")  # for a moment: the firmware must not see it in its `/`
    try:
        found = __import__(name)
    finally:
        vfs.umount("/.hardware")
        sys.path[:] = before
    del sys.modules[name]
    return found


def end(cause):
    """Ends this process as a reset does: at once, its sockets with it, and no program can catch it.

    Nothing lies at address 0, and what happens then zygote.py has arranged. A child that kills would
    outlive this process for a moment, and hold the port that the next one needs.
    """
    mem[_NEXT_CAUSE] = cause
    uctypes.bytearray_at(0, 1)[0] = 0
