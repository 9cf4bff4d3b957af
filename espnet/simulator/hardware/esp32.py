"""MicroPython. Stand-in for the module `esp32`.

The original chip has `raw_temperature` (°F), the later ones `mcu_temperature` (°C): `launch.py`
takes away what the board's chip lacks.
"""

import struct

from _pads import mem
from micropython import const

_BOARD_CENTI_C = const(20)

HEAP_DATA = 4


def raw_temperature():
    return round(struct.unpack_from(b"<h", mem, _BOARD_CENTI_C)[0] * 9 / 500 + 32)


def mcu_temperature():
    return round(struct.unpack_from(b"<h", mem, _BOARD_CENTI_C)[0] / 100)


def idf_heap_info(n):
    # (total, free, largest free block, least free ever): a board with Wi-Fi up and one socket
    if n != HEAP_DATA:
        return [(113840, 40932, 31744, 40688), (15072, 15036, 14848, 15036)]
    return [
        (7288, 0, 0, 0),
        (16648, 4, 0, 4),
        (81536, 37788, 31744, 33004),
        (15072, 15036, 14848, 15036),
    ]
