"""MicroPython. The faults that are set, in the shared page. Loaded while there are some."""

from _pads import get32, mem, put32
from micropython import const

_SLOTS = const(704)
_SLOTS_END = const(1728)
_SLOT_SIZE = const(128)
_SENSOR = const(12)


def find(path, pin):
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
