"""Simulated boards for programs without an event loop: tests, the demo, a notebook.

    with Fleet(3, seed=7) as fleet:
        board = fleet[0]
        board.set(adc={36: 2048}, dht={4: (21.5, 40)})
        board.fault("hang", count=2)
        requests.get(f"http://{board.address}/", timeout=1)

Invariants: the loop runs in one background thread; every call returns when it is done and raises
`SimulatorError` where the board refuses; leaving the ``with`` (or the program) ends every board.
"""

from __future__ import annotations

import asyncio
from typing import Any

from espnet.simulator.background import Background
from espnet.simulator.board import SimulatedBoard
from espnet.simulator.errors import SimulatorError
from espnet.simulator.simulator import Simulator
from espnet.simulator.state import PinState, Request


class Board:
    """One board of a `Fleet`."""

    def __init__(self, fleet: Fleet, board: SimulatedBoard) -> None:
        self._fleet, self._board = fleet, board
        self.id = board.id
        self.address = board.address
        self.port = board.port
        self.control = str(board.control)
        self.flash = board.flash
        #: What mpremote and esptool open, "" where boards have no serial line (``Fleet(serial=True)``).
        self.serial = board.line.path if board.line else ""
        #: An image that makes such a board boot when it is flashed.
        self.image = board.image

    @property
    def pid(self) -> int:
        return self._board.pid

    @property
    def phase(self) -> str:
        """``starting``, ``ready``, ``halted`` (main.py ended), ``off``, ``blank`` or ``loader``."""
        return self._board.phase

    @property
    def boots(self) -> int:
        return self._board.boots

    @property
    def reset_cause(self) -> str:
        return self._board.state.cause

    @property
    def requests(self) -> list[Request]:
        """What the board was asked, oldest first (the last 1,024)."""
        return self._board.state.requests()

    def forget_requests(self) -> None:
        self._board.state.forget_requests()

    @property
    def most_connections(self) -> int:
        return self._board.state.most[0]

    @property
    def most_requests(self) -> int:
        """How many requests were ever under way at once."""
        return self._board.state.most[1]

    def pin(self, pin: int) -> PinState:
        return self._board.state.pin(pin)

    @property
    def console(self) -> str:
        """What the board printed."""
        return self._board.console()

    def describe(self) -> dict[str, Any]:
        return self._board.describe()

    @property
    def network(self) -> dict[str, Any]:
        """The board's part in the network: ssid, address, host name, its access point."""
        return self._board.state.network.describe()

    @property
    def time_s(self) -> float:
        """What the board's clock for durations shows now; it passes at ``speed``."""
        return self._fleet.call(self._board.time_s)

    @property
    def room(self) -> dict[str, Any] | None:
        return self._fleet.call(self._board.describe_room)

    def set(self, /, **values: Any) -> None:
        """See `SimulatedBoard.set`."""
        self._fleet.call(self._board.set, **values)

    def fault(self, kind: str, **options: Any) -> None:
        """See `SimulatedBoard.fault`."""
        self._fleet.run(self._board.fault(kind, **options))

    def clear(self, kind: str | None = None) -> None:
        self._fleet.run(self._board.clear(kind))

    def reset(self, cause: str = "hard", *, wait: bool = True, counted: bool = False) -> None:
        """See `SimulatedBoard.reset`."""
        self._fleet.run(self._board.reset(cause, wait=wait, counted=counted))

    def unclaim(self) -> None:
        """Makes a claimed board open, as ``mpremote fs rm :claim.json + reset`` does over USB."""
        file = self.flash / "claim.json"
        if file.exists():
            file.unlink()
            self.reset()

    def power(self, on: bool) -> None:
        self._fleet.run(self._board.power(on))

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Waits until the board answers."""
        try:
            self._fleet.run(asyncio.wait_for(self._board.ready.wait(), timeout_s))
        except TimeoutError as e:
            raise SimulatorError(
                f"Board {self.id} did not answer within {timeout_s} s; it is {self.phase}."
            ) from e


class Fleet(Background[Board]):
    """``Fleet(count, …)``: options as `Simulator`'s. ``events`` keeps what happened to boards."""

    def __init__(self, count: int, **options: Any) -> None:
        super().__init__(asyncio.new_event_loop(), "fleet")
        self._count, self._options = count, options
        self._simulator: Simulator | None = None
        self.events: list[tuple[str, str, str]] = []

    def _begin(self) -> list[Board]:
        on_event = self._options.pop("on_event", None)

        def note(board: SimulatedBoard, word: str, detail: str) -> None:
            self.events.append((board.id, word, detail))
            if on_event is not None:
                on_event(board, word, detail)

        begun: list[asyncio.Task[Any]] = []

        async def make() -> Simulator:
            begun.extend(task for task in [asyncio.current_task()] if task)
            self._simulator = Simulator(self._count, on_event=note, **self._options)
            await self._simulator.start()
            return self._simulator

        async def settled() -> None:
            if begun:
                await asyncio.wait(begun)

        try:
            simulator = self.run(make())
        except BaseException:
            self.run(settled())  # it is cancelled, and first ends what it had begun
            raise
        return [Board(self, board) for board in simulator.boards]

    async def _end(self) -> None:
        if self._simulator is not None:
            await self._simulator.stop()
