"""Modules that are loaded when they are asked for, and dropped when they have rested for two minutes.

This board has little memory. Most of the time it is polled, and nobody updates it, claims it, writes
its pins or opens its page. The largest of them, that for updates, is never there together with
another one. What must not be forgotten with such a module is kept elsewhere.
"""

import gc
import sys

from micropython import const

_LARGEST = "update"
_REST_S = const(120)  # twice as long as any call may take

_used = {}  # {name: uptime in s when it was used last}
_now_s = 0


def need(name):
    """The module `name`, loaded if need be."""
    if name not in sys.modules:
        for other in list(_used):
            if _LARGEST in (name, other):
                _drop(other)
        gc.collect()  # or what is loaded would lie amid the free heap, and cut it in two
    _used[name] = _now_s
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
    for name in list(_used) if _used else ():
        if now_s - _used[name] > _REST_S:
            _drop(name)


def _drop(name):
    del _used[name]
    sys.modules.pop(name, None)
