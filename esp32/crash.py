"""The last crash: an exception that nobody expected, kept for people to read. Loaded at the first one.

Its traceback is in memory and, so that resets do not lose it, in `crash.json`. Flash wears out, so
that is written only when it says something else, and once in ten minutes at most; what could not be
written is tried again then. Messages that repeat what came from outside (ValueError, KeyError) are
left out, because it might be a secret; the console has them. It is short, about half a KB, because
after a crash large pieces of memory may be hard to come by.
"""

import asyncio
import io
import sys

import auth
import flash
from micropython import const

FILE = "crash.json"
_REST_S = const(600)

text = ""  # of this boot's last crash
at_s = 0
_resting = False


class _Calls(io.IOBase):
    """A file that keeps, of a traceback written into it, the last 8 lines that name a call."""

    def __init__(self):
        self.lines = ["Traceback (most recent call last):\n"]
        self.line = ""

    def write(self, data):
        if len(data) < 100:  # longer is no call, but a message
            self.line += str(data, "utf-8")
            if self.line[-1:] == "\n":
                if self.line[:7] == "  File ":
                    self.lines.append(self.line)
                    if len(self.lines) > 9:
                        del self.lines[1]
                self.line = ""
        return len(data)


def keep(error):
    """Keep an exception that nobody expected. Raises when there is no memory, or no room on flash."""
    global text, at_s
    last = type(error).__name__
    if not isinstance(error, (KeyError, ValueError)):
        last = f"{last}: {error}"[:100]
    calls = _Calls()
    sys.print_exception(error, calls)
    text = "".join(calls.lines) + last
    at_s = auth.clock.uptime_s()
    _save()


def _save():
    """Put it on flash, unless it is there or something was put there just now."""
    global _resting
    if not _resting and text != flash.load(FILE, ""):
        asyncio.create_task(_rest())
        _resting = True
        flash.save(FILE, text)


async def _rest():
    global _resting
    await asyncio.sleep(_REST_S)
    _resting = False
    try:
        _save()
    except Exception:
        pass
