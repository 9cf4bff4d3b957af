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

from collections.abc import Callable
from typing import Any

from espnet.simulator.background import Background
from espnet.simulator.light.board import LightBoard
from espnet.simulator.light.chip import PinChange
from espnet.simulator.light.simulator import LightSimulator, new_loop
from espnet.simulator.light.wire import LightRequest
from espnet.simulator.state import PinState


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


class LightFleet(Background[LightHandle]):
    """``LightFleet(count, …)``: options as `LightSimulator`'s; the loop runs in a thread of its own."""

    def __init__(self, count: int, **options: Any) -> None:
        self._simulator = LightSimulator(count, on_event=self._note, **options)
        super().__init__(new_loop(), "light-fleet")
        #: (id, word, detail): ``reset`` and its cause.
        self.events: list[tuple[str, str, str]] = []

    def _note(self, board: LightBoard, word: str, detail: str) -> None:
        self.events.append((board.id, word, detail))

    def _begin(self) -> list[LightHandle]:
        self.run(self._simulator.start())
        return [LightHandle(self, board) for board in self._simulator.boards]

    async def _end(self) -> None:
        await self._simulator.stop()
