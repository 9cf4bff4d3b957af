"""Time since boot: never jumps, never wraps, and no network can change it.

`time.ticks_ms` wraps round, on an ESP32 every 2**30 ms (12.4 days). A Clock adds up the differences
instead, so it must be asked at least once in half a period; main.py's tick asks it twice a second.
Invariant: `now_ms` never decreases.
"""

import time


class Clock:
    def __init__(self, ticks_ms=time.ticks_ms, ticks_diff=time.ticks_diff):
        self._ticks_ms = ticks_ms
        self._ticks_diff = ticks_diff
        self._last_ticks = ticks_ms()
        self._now_ms = 0

    def now_ms(self):
        """Milliseconds since this clock was made."""
        ticks = self._ticks_ms()
        self._now_ms += self._ticks_diff(ticks, self._last_ticks)
        self._last_ticks = ticks
        return self._now_ms

    def uptime_s(self):
        """Whole seconds since this clock was made."""
        return self.now_ms() // 1000
