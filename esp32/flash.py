"""Small JSON files on the board's flash.

Invariant: whenever the power goes, a file is the old one or the new one, whole. `save` writes beside
it and renames, which littlefs does atomically. A file that is missing or damaged reads as the
default: it never stops the board.
"""

import json
import os

from micropython import const

_SIZE_MAX = const(4096)
_BRACKETS_MAX = const(99)


def load(name, default):
    """The value in file `name`; `default` when there is none, or it is not JSON of that type."""
    try:
        value = read(name)
    except (OSError, ValueError, TypeError):
        return default
    return value if isinstance(value, type(default)) else default


def read(name):
    """The value in file `name`. OSError: there is none; ValueError or TypeError: it is damaged.

    What is larger, or more deeply nested, than anything that the board writes could take all memory, at
    every boot, so it is not even parsed.
    """
    with open(name) as file:
        size = brackets = 0
        while True:
            piece = file.read(128)
            if not piece:
                break
            size += len(piece)
            brackets += piece.count("[") + piece.count("{")
            if size > _SIZE_MAX or brackets > _BRACKETS_MAX:
                raise ValueError
        file.seek(0)
        return json.load(file)


def save(name, value):
    """Replace file `name` by `value`. Raises OSError when the flash is full; the old file stays."""
    beside = name + ".new"
    with open(beside, "w") as file:
        json.dump(value, file)
    os.rename(beside, name)
