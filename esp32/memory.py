"""Free heap, as a number that means something.

Between two collections `gc.mem_free` mostly tells how long ago the last one was, and it walks the
whole heap. So main.py's tick collects and measures, off the path of any request, and only after
requests were served: an idle board does nothing.
"""

import gc


class Memory:
    def __init__(self):
        self._free = gc.mem_free()
        self._served = -1

    def free(self):
        """Bytes free after the last collection."""
        return self._free

    def tidy(self, served):
        """Collect and measure when `served`, the count of requests, has moved since last time."""
        if served != self._served:
            self._served = served
            gc.collect()
            self._free = gc.mem_free()
