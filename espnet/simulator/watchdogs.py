"""Boards' watchdogs, as seen from outside: each counts the time since its board fed it last.

Invariant: a watchdog that was found over is not found again before its board has started anew, or fed it, and
its time has passed once more.
"""

from __future__ import annotations

from espnet.simulator.board import SimulatedBoard

#: In so long every process that lives gets its turn on this machine, in seconds.
_TURN_S = 5.0


class Watchdogs:
    """Those of all boards."""

    def __init__(self) -> None:
        #: Board → how often its watchdog was fed, and when that was first seen.
        self._fed: dict[int, tuple[int, float]] = {}

    def forget(self, number: int) -> None:
        """The board starts anew, without a watchdog."""
        self._fed.pop(number, None)

    def is_over(self, board: SimulatedBoard, now_s: float) -> bool:
        """Whether the board should have fed its watchdog by now, and has not."""
        timeout_ms, fed = board.state.watchdog()
        if not timeout_ms:
            return False
        seen, since_s = self._fed.get(board.number, (-1, now_s))
        if fed != seen:
            self._fed[board.number] = (fed, now_s)
            return False
        if now_s - since_s <= _limit_s(timeout_ms, board.state.speed):
            return False
        del self._fed[board.number]
        return True


def _limit_s(timeout_ms: int, speed: float) -> float:
    """How long a watchdog waits. It counts the board's time, but gives a fast board a second of this
    machine, in which every process that lives gets its turn."""
    limit_s = timeout_ms / 1000
    return limit_s if speed == 1 else max(limit_s / speed, min(limit_s, _TURN_S))
