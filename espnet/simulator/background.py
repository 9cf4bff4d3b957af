"""A loop in one background thread, for programs without one: what both kinds of fleets are made of.

Invariants: every call returns when it is done, and what it raises is raised here. Leaving the ``with`` (or
the program) ends everything.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

_T = TypeVar("_T")
_Board = TypeVar("_Board")


class Background(ABC, Generic[_Board]):
    """A sequence of boards that live on ``loop``. What it is made of says how to begin and to end them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._thread = threading.Thread(target=loop.run_forever, name=name, daemon=True)
        self._boards: list[_Board] = []

    @abstractmethod
    def _begin(self) -> list[_Board]:
        """Starts the boards, by `run`."""

    @abstractmethod
    async def _end(self) -> None:
        """Ends whatever `_begin` began."""

    def start(self) -> Self:
        """Returns when every board answers."""
        self._thread.start()
        atexit.register(self.stop)
        try:
            self._boards = self._begin()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        atexit.unregister(self.stop)
        if self._loop.is_closed():
            return
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Runs a coroutine on the fleet's loop and returns its result."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call(self, function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        async def work() -> _T:
            return function(*args, **kwargs)

        return self.run(work())

    def __getitem__(self, n: int) -> _Board:
        return self._boards[n]

    def __len__(self) -> int:
        return len(self._boards)

    def __iter__(self) -> Iterator[_Board]:
        return iter(self._boards)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()
