"""Light boards for programs without an event loop: tests, a notebook.

    with LightFleet(300, seed=7) as fleet:
        board = fleet[0]
        board.fault("hang", count=2)
        requests.get(f"http://{board.address}/", timeout=1)
        board.requests[-1].fault, board.changes, board.most_requests

Invariants: the loop runs in one background thread; every call returns when it is done and raises
`SimulatorError` where the board refuses.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, TypeVar

from espnet.simulator.light.board import LightBoard
from espnet.simulator.light.chip import PinChange
from espnet.simulator.light.simulator import LightSimulator, new_loop
from espnet.simulator.light.wire import LightRequest
from espnet.simulator.state import PinState

_T = TypeVar("_T")


class LightHandle:
    """One board of a `LightFleet`: as `Board` of a `Fleet`, where light boards have it."""

    def __init__(self, fleet: LightFleet, board: LightBoard) -> None:
        self._fleet, self._board = fleet, board
        self.id, self.address, self.port = board.id, board.address, board.port

    @property
    def phase(self) -> str:
        return self._board.phase

    @property
    def boots(self) -> int:
        return self._board.boots

    @property
    def reset_cause(self) -> str:
        return self._board.chip.cause

    @property
    def requests(self) -> list[LightRequest]:
        """What the board was asked, oldest first (the last ``log``), as it is now."""
        return self._fleet.call(self._board.requests)

    @property
    def changes(self) -> list[PinChange]:
        """The levels that the board changed, oldest first (the last ``log``)."""
        return self._fleet.call(self._board.changes)

    def forget_requests(self) -> None:
        self._fleet.call(self._board.forget)

    @property
    def most_connections(self) -> int:
        return self._board.most_connections

    @property
    def most_requests(self) -> int:
        """How many requests were ever under way at once."""
        return self._board.most_requests

    @property
    def console(self) -> str:
        """Tracebacks of what the firmware did not expect."""
        return self._board.console

    def pin(self, pin: int) -> PinState:
        return self._fleet.call(self._board.pin, pin)

    def describe(self) -> dict[str, Any]:
        return self._fleet.call(self._board.describe)

    def set(self, /, **values: Any) -> None:
        """See `LightBoard.set`."""
        self._fleet.call(self._board.set, **values)

    def script(self, on_request: Callable[[LightBoard], None] | None) -> None:
        """Has this called with the board before each request; see `LightBoard`."""
        self._board.on_request = on_request

    def fault(self, kind: str, **options: Any) -> None:
        self._fleet.run(self._board.fault(kind, **options))

    def clear(self, kind: str | None = None) -> None:
        self._fleet.run(self._board.clear(kind))

    def reset(self, cause: str = "hard") -> None:
        """Resets the board; returns when it answers again."""
        self._fleet.run(self._board.reset(cause))

    def power(self, on: bool) -> None:
        self._fleet.run(self._board.power(on))

    def unclaim(self) -> None:
        """Makes a claimed board open, as ``mpremote fs rm :claim.json + reset`` does over USB."""
        self._fleet.call(self._board.unclaim)
        self.reset()


class LightFleet:
    """``LightFleet(count, …)``: options as `LightSimulator`'s; the loop runs in a thread of its own."""

    def __init__(self, count: int, **options: Any) -> None:
        self._simulator = LightSimulator(count, on_event=self._note, **options)
        self._loop = new_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="light-fleet", daemon=True
        )
        self._boards: list[LightHandle] = []
        #: (id, word, detail): ``reset`` and its cause.
        self.events: list[tuple[str, str, str]] = []

    def _note(self, board: LightBoard, word: str, detail: str) -> None:
        self.events.append((board.id, word, detail))

    def start(self) -> LightFleet:
        """Returns when every board listens."""
        self._thread.start()
        atexit.register(self.stop)
        try:
            self.run(self._simulator.start())
        except BaseException:
            self.stop()
            raise
        self._boards = [LightHandle(self, board) for board in self._simulator.boards]
        return self

    def stop(self) -> None:
        atexit.unregister(self.stop)
        if self._loop.is_closed():
            return
        self.run(self._simulator.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
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

    def __getitem__(self, n: int) -> LightHandle:
        return self._boards[n]

    def __len__(self) -> int:
        return len(self._boards)

    def __iter__(self) -> Iterator[LightHandle]:
        return iter(self._boards)

    def __enter__(self) -> LightFleet:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()
