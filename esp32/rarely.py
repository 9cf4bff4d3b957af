"""Modules that are loaded when they are asked for, and dropped when they, or their memory, are not needed.

This board has little memory. Most of the time it is polled, and nobody updates it, claims it, writes
its pins or opens its page. Others of these modules stay only while there is plenty of memory for one
more, and nobody keeps them for longer than two minutes. What must not be forgotten with such a module
is kept elsewhere.
"""

import gc
import sys

from micropython import const

_PLENTY = const(23552)  # the largest takes 8 KB, and requests are to have as much twice
_REST_S = const(120)  # twice as long as any call may take

used = []  # [(uptime in s when it was used last, name), …], the last used last
_now_s = 0


def need(name):
    """The module `name`, loaded if need be."""
    for entry in used:
        if entry[1] == name:
            used.remove(entry)
            break
    else:
        gc.collect()  # or what is loaded would lie amid the free heap, and cut it in two
        while used and gc.mem_free() < _PLENTY:
            drop()
            gc.collect()
    used.append((_now_s, name))
    return __import__(name)


def once(name):
    """A module that is needed for a moment: it goes when the last one who runs in it is done."""
    gc.collect()
    found = __import__(name)
    del sys.modules[name]
    return found


def forget(now_s):
    """Drop what has rested long enough; asked twice a second."""
    global _now_s
    _now_s = now_s
    while used and now_s - used[0][0] > _REST_S:
        drop()


def drop():
    """Drop the one that has rested longest."""
    sys.modules.pop(used.pop(0)[1], None)
