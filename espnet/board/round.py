"""Many boards asked at once, on the connections that are kept to them: no task a board, and one timer.

A poll is a write and a read; a task, a future and a timer of its own cost more than both. So a collector
asks all boards of a batch in one go, and one coroutine takes their answers as they come.

Invariants: those of `Link`. All boards are asked before any answer is taken, so that one deadline, from
before the first of them, is nobody's longer one; and who would have much less of it is not asked. Every board
that was asked comes to an end, once: an answer, or what happened instead.
"""

import asyncio
from typing import Generic, TypeVar

from espnet.board.link import Deadline, Link, Outcome
from espnet.clock import Clock

K = TypeVar("K")
#: Nobody is asked any more when so much of the time-out has passed.
_LATE = 0.1


class Asked(Generic[K]):
    """One board that was asked: what for (``key``), and how it ended, with both clocks' times of that."""

    __slots__ = ("_round", "at", "ended", "key", "link", "outcome")

    def __init__(self, round_: "Round[K]", link: Link, key: K) -> None:
        self._round, self.link, self.key = round_, link, key
        self.outcome: Outcome | None = None
        self.at = self.ended = 0.0

    @property
    def began(self) -> float:
        """When it was asked, in monotonic seconds."""
        return self._round.began

    def begun(self) -> tuple[Outcome, float]:
        """What `Link.exchange` goes on from."""
        assert self.outcome is not None
        return self.outcome, self._round.deadline

    def told(self, outcome: Outcome) -> None:
        clock = self._round.clock
        self.outcome, self.at, self.ended = outcome, clock.now(), clock.monotonic()
        self._round.ended(self)


class Round(Generic[K]):
    """One request to each of many boards. `ask` all of them, then take `answers` until there are none."""

    def __init__(self, clock: Clock, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.clock, self.began = clock, clock.monotonic()
        self.deadline = self._loop.time() + timeout_s
        self._late = self.began + _LATE * timeout_s
        self._timer = Deadline(self._loop, self.deadline, self._expire)
        self._all: list[Asked[K]] = []
        self._left = 0
        self._ended: list[Asked[K]] = []
        self._wake: asyncio.Future[None] | None = None

    def ask(self, link: Link, request: bytes, key: K) -> bool:
        """Asks a board on its kept connection; False where there is none, or too little time, because this
        process stood still."""
        if self.clock.monotonic() > self._late:
            return False
        asked = Asked(self, link, key)
        if not link.begin(request, asked.told):
            return False
        self._all.append(asked)
        self._left += 1
        return True

    async def answers(self) -> list[Asked[K]]:
        """Those that ended since the last call, at least one; none when all have been taken."""
        if not self._ended and self._left:
            self._wake = self._loop.create_future()
            await self._wake
        ended, self._ended = self._ended, []
        self._left -= len(ended)
        return ended

    def ended(self, asked: Asked[K]) -> None:
        self._ended.append(asked)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def close(self) -> None:
        """Ends the round. Connections to boards whose answers nobody took are closed."""
        self._timer.cancel()
        for asked in self._all:
            if asked.outcome is None:
                asked.link.leave()
        for asked in self._ended:
            asked.link.leave()
        # Each knows the round.
        self._all.clear()
        self._ended.clear()

    def _expire(self) -> None:
        for asked in self._all:
            if asked.outcome is None:
                asked.link.expire()
