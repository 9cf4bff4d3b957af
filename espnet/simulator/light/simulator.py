"""Many light boards in one event loop.

Invariants: a fleet says what it would need before it opens the first port; leases end, and slow clients are
ended, within half a second after their time; when it has stopped, no port is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

from espnet import firmware as firmwares
from espnet.clock import Clock, SystemClock
from espnet.simulator import flash
from espnet.simulator.control import ControlServer
from espnet.simulator.errors import SimulatorError
from espnet.simulator.ids import board_ids
from espnet.simulator.light.board import LightBoard
from espnet.simulator.light.control import LightControl
from espnet.simulator.light.program import Program
from espnet.simulator.light.wire import Wire
from espnet.simulator.limits import need_files

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


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop that serves many connections cheaply."""
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
