"""Many light boards in one event loop, and the same for programs without one.

    with LightFleet(300, seed=7) as fleet:
        board = fleet[0]
        board.fault("hang", count=2)
        requests.get(f"http://{board.address}/", timeout=1)
        board.requests[-1].fault, board.changes, board.most_requests

Invariants: a fleet says what it would need before it opens the first port; leases end, and slow clients are
ended, within half a second after their time; when it is left, no port is open.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import errno
import random
import shutil
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

from espnet import firmware as firmwares
from espnet.clock import Clock, SystemClock
from espnet.simulator import flash
from espnet.simulator.control import ControlServer
from espnet.simulator.errors import SimulatorError
from espnet.simulator.light.board import LightBoard
from espnet.simulator.light.chip import PinChange
from espnet.simulator.light.control import LightControl
from espnet.simulator.light.program import Program
from espnet.simulator.light.wire import LightRequest, Wire
from espnet.simulator.limits import need_files
from espnet.simulator.simulator import board_ids
from espnet.simulator.state import PinState

_T = TypeVar("_T")

MOST = 10_000
_PORTS = range(16_384, 32_768)
_TICK_S = 0.5
_BEACON_S = 60.0
#: After so many ticks it is looked at who has leases at all.
_SIFT_TICKS = 20
#: Open files of a board: its port, and who polls it; and those that are open besides.
FILES_EACH, OTHER_FILES = 2, 64


class LightSimulator:
    """``async with LightSimulator(1000) as simulator: simulator.boards …``: every board listens when entered.

    ``log``: how many requests and pin changes each board remembers. ``boot_s``: how long a board is away
    after a reset. ``port``: the first board's, the others follow; None: free ones. ``beacon_port``: where on
    127.255.255.255 beacons go, None: nowhere. ``first``: how many boards of the seed are left out before.
    ``with_control``: there is a control socket for all boards, at ``control``.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int = 0,
        first: int = 0,
        firmware: Path | None = None,
        port: int | None = None,
        log: int = 1024,
        boot_s: float = 0.0,
        beacon_port: int | None = None,
        clock: Clock | None = None,
        on_ready: Callable[[LightBoard], None] | None = None,
        on_event: Callable[[LightBoard, str, str], None] | None = None,
        with_control: bool = False,
    ) -> None:
        if not 1 <= count <= MOST:
            raise SimulatorError(f"{count} light boards are not possible; ask for 1 to {MOST}.")
        self._count, self._seed, self._first, self._port = count, seed, first, port
        self._firmware, self._log, self.boot_s = firmware, log, boot_s
        self._beacon_port = beacon_port
        self._clock = clock or SystemClock()
        self.monotonic_s = self._clock.monotonic
        self._on_ready, self._on_event = on_ready, on_event
        self.boards: list[LightBoard] = []
        self.wires: set[Wire] = set()
        self.leased: set[LightBoard] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._beacons: socket.socket | None = None
        self._next_port = random.randrange(len(_PORTS))
        self._with_control = with_control
        self.control = ""
        self._control: ControlServer | None = None
        self._runtime: Path | None = None
        self._lock: IO[str] | None = None

    def now_s(self) -> float:
        return self._clock.now()

    async def start(self) -> None:
        """Opens every board's port."""
        need_files(FILES_EACH * self._count + OTHER_FILES, f"{self._count:,} light boards")
        program = Program(self._firmware or firmwares.find(), self.monotonic_s)
        try:
            ids = board_ids(self._seed, self._first + self._count)[self._first :]
            for number, board_id in enumerate(ids):
                board = LightBoard(number, board_id, program, self, self._log)
                self.boards.append(board)
                try:
                    self._reserve(board)
                except OSError as e:
                    raise SimulatorError(
                        f"Board {number + 1} of {self._count} can have no port of 127.0.0.1 "
                        f"({e.strerror}); name another first port, or ask for fewer boards."
                    ) from e
                board.boot("power")
                await board.listen()
                if number % 100 == 99:
                    await asyncio.sleep(0)
            self._tasks.append(asyncio.create_task(self._tick()))
            if self._with_control:
                self._runtime, self._lock = flash.runtime_folder(0)
                wall_s = self._clock.now() - self._clock.monotonic()
                answers = LightControl(self.boards, wall_s)
                path = self._runtime / "boards.sock"
                self._control = ControlServer(path, answers.answer)
                await self._control.start()
                self.control = str(path)
            if self._beacon_port is not None:
                self._beacons = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                self._beacons.setblocking(False)
                self._beacons.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                self._beacons.bind(("127.0.0.1", 0))
                self._tasks.append(asyncio.create_task(self._tell()))
            if self._on_ready is not None:
                for board in self.boards:
                    self._on_ready(board)
        except BaseException:
            await self.stop()
            raise

    def _reserve(self, board: LightBoard) -> None:
        """Binds a board's port; raises OSError.

        Free ones are looked for below those that the system gives to clients: thousands of boards among them
        would make every new connection of this machine search for long.
        """
        if self._port is not None:
            board.reserve(self._port + board.number)
            return
        for _ in range(len(_PORTS)):
            self._next_port = (self._next_port + 1) % len(_PORTS)
            try:
                board.reserve(_PORTS[self._next_port])
                return
            except OSError as e:
                if e.errno != errno.EADDRINUSE:
                    raise
        board.reserve(0)

    async def stop(self) -> None:
        """Closes every port and connection. Any number of times."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._control is not None:
            await self._control.stop()
        if self._runtime is not None:
            shutil.rmtree(self._runtime, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
        self._control = self._runtime = self._lock = None
        for board in self.boards:
            board.end()
        if self._beacons is not None:
            self._beacons.close()
            self._beacons = None
        await asyncio.sleep(0)

    async def __aenter__(self) -> LightSimulator:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.stop()

    async def _tick(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(_TICK_S)
            now_s = self.monotonic_s()
            for board in list(self.leased):
                board.expire_leases()
            for wire in [wire for wire in self.wires if wire.deadline_s < now_s]:
                wire.expire()
            ticks += 1
            if ticks % _SIFT_TICKS == 0:
                self.leased = {board for board in self.leased if board.has_leases}

    async def _tell(self) -> None:
        """Every board's beacon once a minute, evenly spread."""
        pause_s = _BEACON_S / len(self.boards)
        for board in self.boards:
            board.send_beacon()
        while True:
            due = 0.0
            for board in self.boards:
                due += pause_s
                if due >= 0.05:  # timers are not finer
                    await asyncio.sleep(due)
                    due = 0.0
                board.send_beacon()

    def beacon(self, data: bytes) -> None:
        if self._beacons is not None and self._beacon_port is not None:
            with contextlib.suppress(OSError):  # the next minute brings another
                self._beacons.sendto(data, ("127.255.255.255", self._beacon_port))

    def booted(self, board: LightBoard) -> None:
        board.send_beacon()
        if self._on_event is not None:
            self._on_event(board, "reset", board.chip.cause)


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


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop that serves many connections cheaply."""
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
