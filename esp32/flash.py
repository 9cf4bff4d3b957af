"""Small JSON files on the board's flash.

Invariant: whenever the power goes, a file is the old one or the new one, whole. `save` writes beside
it and renames, which littlefs does atomically. A file that is missing or damaged reads as the
default: it never stops the board.
"""

import json
import os


def load(name, default):
    """The value in file `name`; `default` when there is none, or it is not JSON of that type."""
    try:
        with open(name) as file:
            value = json.load(file)
    except (OSError, ValueError):
        return default
    return value if isinstance(value, type(default)) else default


def save(name, value):
    """Replace file `name` by `value`. Raises OSError when the flash is full; the old file stays."""
    beside = name + ".new"
    with open(beside, "w") as file:
        json.dump(value, file)
    os.rename(beside, name)
