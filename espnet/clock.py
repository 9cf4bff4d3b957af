"""The one place that reads the time.

Invariants: decisions take ``now`` (Unix seconds, UTC) as an argument; loops hold a `Clock`. Elapsed
time is measured with ``monotonic`` so that a corrected wall clock never makes a duration negative.
"""

import time
from typing import Protocol


class Clock(Protocol):
    """Unix seconds for points in time, monotonic seconds for durations."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that moves when told, so that a day passes in microseconds."""

    def __init__(self, now: float = 1_750_000_000.0) -> None:
        self._now = now
        self._elapsed = 0.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def advance(self, seconds: float) -> float:
        """Moves both clocks forward by ``seconds`` and returns the new time."""
        if seconds < 0:
            raise ValueError(f"a clock does not run backwards: {seconds}")
        self._now += seconds
        self._elapsed += seconds
        return self._now
