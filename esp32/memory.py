"""Free heap, as a number that means something.

Between two collections `gc.mem_free` mostly tells how long ago the last one was, and it walks the
whole heap. So main.py's tick collects and measures, off the path of any request, and only after
requests were served: an idle board does nothing.

With less than _FLOOR free, or without one piece of _PIECE, the board is short of memory. It takes no
new clients then (web.py), until it has _ENOUGH again. While it is short it measures at every tick,
so nobody is kept out for longer than memory is short.

A collection follows whenever a third of what was free has been used. What is used in the meantime
lies scattered: to wait until all is used would leave no large piece when little is free.
"""

import gc

from micropython import const

_FLOOR = const(6144)  # two ordinary requests at once need so much
_ENOUGH = const(8192)  # more, or it would flutter
_OFTEN = const(2048)
_PIECE = const(768)  # what an ordinary answer needs in one piece


class Memory:
    def __init__(self):
        self.short = False
        self._free = gc.mem_free()
        self._served = -1

    def free(self):
        """Bytes free after the last collection."""
        return self._free

    def tidy(self, served):
        """Collect and measure when `served`, the count of requests, has moved since last time.

        Returns whether memory is short.
        """
        if served != self._served or self.short:
            self._served = served
            in_pieces = _has_no_piece()  # first: what it takes is collected at once
            gc.collect()
            self._free = gc.mem_free()
            gc.threshold(max(self._free // 3, _OFTEN))
            self.short = in_pieces or self._free < (_ENOUGH if self.short else _FLOOR)
        return self.short


def _has_no_piece():
    """Whether the free heap is all in pieces too small for an answer."""
    try:
        bytearray(_PIECE)
    except MemoryError:
        return True
    return False
