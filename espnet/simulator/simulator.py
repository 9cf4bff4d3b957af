"""Many simulated boards in one event loop: starts them, watches them, restarts what dies.

Invariants: one task at a time acts on a board's power; a board that dies unasked is reported and
comes back as after a watchdog reset, ever more slowly while it keeps dying; when `stop` returns, no
process, socket or private folder is left.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from espnet import firmware
from espnet.clock import Clock, SystemClock
from espnet.simulator import chip as chips
from espnet.simulator import control, flash, limits
from espnet.simulator.board import SimulatedBoard, call
from espnet.simulator.chip import Chip
from espnet.simulator.errors import SimulatorError
from espnet.simulator.ids import board_ids
from espnet.simulator.line import Line
from espnet.simulator.premises import Premises
from espnet.simulator.process import Launcher, find_micropython
from espnet.simulator.state import AT_PROMPT, PROGRAM, PROGRAM_THEN_PROMPT, PROMPT, SIZE
from espnet.simulator.watchdogs import Watchdogs

#: The exit code of `launch.py` when main.py ended: the board sits at its prompt.
_HALTED = 3
_START_TIMEOUT_S = 30.0
_STARTS_AT_ONCE = 16
_RESTART_DELAY_S = (0.0, 0.2, 5.0)  # first, from the second on doubling, at most
_TICK_S = 0.05
_CONSOLE_LIMIT = 1 << 18
#: Open files of a board here: its port, its control socket, its page; clients of the socket come on top.
_FILES_EACH, _OTHER_FILES = 3, 256
#: What a board with a serial line has on its chip at first.
HOLDS = ("nothing", "micropython", "firmware")

#: What ``on_event`` is called with: the board, one of these words, and details in a few words.
#: ``ready`` (first start), ``reset`` (cause), ``died`` (how), ``halted``, ``silent``, ``off``; of boards
#: with a serial line also ``blank`` (nothing to boot) and ``loader`` (esptool has them).
OnEvent = Callable[[SimulatedBoard, str, str], None]


class Simulator:
    """``async with Simulator(3) as simulator: simulator.boards …``: ready when entered.

    ``heap``: MicroPython's ``-X heapsize``, None for the port's default. ``directory``: where boards
    keep their flash; without it a private folder that is removed. ``port``: the first board's port,
    the others follow; without it free ports are found. ``chip``: decides which temperature sensor
    the module `esp32` has. ``compiled``: False leaves the firmware as source, which needs more memory
    than a board has; EspNet's own comes compiled by default, like on boards. ``speed``: how fast the
    boards' time passes. ``beacon_port``: where on 127.255.255.255 their beacons go, None: nowhere.
    ``serial``: every board has a serial line, a pseudo-terminal that mpremote and esptool open; its chip
    holds ``nothing`` (fresh from the box), ``micropython`` or the ``firmware``, as ``holds`` says.
    """

    def __init__(
        self,
        count: int,
        *,
        seed: int = 0,
        firmware: Path | None = None,
        directory: Path | None = None,
        heap: str | None = "112K",
        compiled: bool | None = None,
        port: int | None = None,
        chip: str = "esp32",
        speed: float = 1,
        beacon_port: int | None = None,
        on_ready: Callable[[SimulatedBoard], None] | None = None,
        on_event: OnEvent | None = None,
        clock: Clock | None = None,
        serial: bool = False,
        holds: str = "nothing",
    ) -> None:
        if count < 1:
            raise SimulatorError(f"{count} boards cannot be simulated; ask for 1 or more.")
        self._speed, self._beacon_port = speed, beacon_port
        if holds not in HOLDS:
            raise SimulatorError(f"A board holds {', '.join(HOLDS)}; not {holds!r}.")
        self._serial, self._holds = serial, holds
        self._count, self._seed, self._firmware = count, seed, firmware
        self._heap, self._compiled, self._chip = heap, compiled, chip
        self._premises = Premises(count, directory=directory, port=port, serial=serial)
        self._on_ready, self._on_event = on_ready, on_event
        self._clock = clock or SystemClock()
        self.boards: list[SimulatedBoard] = []
        self._launcher = Launcher(self._ended)
        self._gate = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._next: dict[int, str] = {}
        self._failures: dict[int, int] = {}
        self._watchdogs = Watchdogs()
        self._servers: list[control.ControlServer] = []
        self._killing: set[asyncio.Task[None]] = set()
        self._prompts: set[int] = set()
        self._ticker: asyncio.Task[None] | None = None

    # Starting and stopping

    async def start(self) -> None:
        """Starts every board; returns when each answered ``GET /``."""
        try:
            find_micropython()
            limits.need_files(_FILES_EACH * self._count + _OTHER_FILES, f"{self._count:,} boards")
            limits.need_processes(self._count)
            limits.need_memory(self._count)
            await self._premises.prepare(self._firmware or firmware.find(), self._compiled)
            self._ticker = asyncio.create_task(self._tick())
            for number, board_id in enumerate(board_ids(self._seed, self._count)):
                # The first boards boot while the others are still being made.
                self._begin(await self._make(number, board_id), "power")
            for board in self.boards:
                await self._until_started(board)
        except BaseException:
            await self.stop()
            raise

    async def _make(self, number: int, board_id: str) -> SimulatedBoard:
        """One board with all that it has but a process."""
        folder = self._premises.home / board_id
        folder.mkdir(exist_ok=True)
        has_firmware = not self._serial or self._holds == "firmware"
        flash.put(self._premises.program if has_firmware else {}, folder / "flash")
        board = SimulatedBoard(
            number,
            board_id,
            self._premises.reserve(number),
            folder,
            self._premises.runtime / f"{board_id}.sock",
            self._seed,
            self,
        )
        if self._beacon_port is not None:
            board.state.network.set_beacon_port(self._beacon_port)
            if has_firmware:
                flash.put_network(folder / "flash")
        if self._speed != 1:
            board.set(speed=self._speed)
        self.boards.append(board)
        if self._serial:
            self._connect(board)
        server = control.ControlServer(board.control, partial(control.handle, board))
        self._servers.append(server)
        await server.start()
        await asyncio.sleep(0)
        return board

    def _connect(self, board: SimulatedBoard) -> None:
        """Gives the board a chip and a serial line."""
        board.image = self._premises.runtime / "micropython.bin"
        board.image.write_bytes(chips.image())
        path = board.folder / "chip"
        is_fresh = not path.exists()
        board.chip = Chip(path)
        if is_fresh and self._holds != "nothing":
            board.chip.write(chips.BOOTLOADER, board.image.read_bytes())

        def erased(begin: int, end: int) -> None:
            if begin <= chips.FILES < end:
                flash.empty(board.flash)

        board.line = Line(
            board.id,
            board.chip,
            board.console_path,
            phase=lambda: board.state.phase,
            on_loader=lambda: self._stop_for(board, "loader"),
            on_left=lambda: self._stop_for(board, "power"),
            on_erase=erased,
        )

    def _stop_for(self, board: SimulatedBoard, what: str) -> None:
        """Takes the board's process away, for the ROM's loader or for a start with ``power``."""
        self._failures[board.number] = 0
        self._unready(board)
        self._next[board.number] = what
        if self._launcher.runs(board.number):
            killing = asyncio.get_running_loop().create_task(self._launcher.kill(board.number))
            self._killing.add(killing)
            killing.add_done_callback(self._killing.discard)
        else:
            self._ended(board.number, 0)

    async def stop(self) -> None:
        """Ends every board and removes what was private. Any number of times."""
        ticker = [self._ticker] if self._ticker else []
        tasks = [*self._tasks.values(), *self._killing, *ticker]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._launcher.stop()
        for server in self._servers:
            await server.stop()
        self._servers.clear()
        for board in self.boards:
            board.end()
        self._premises.close()

    async def __aenter__(self) -> Simulator:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.stop()

    # Operating one board

    def monotonic_s(self) -> float:
        return self._clock.monotonic()

    def now_s(self) -> float:
        return self._clock.now()

    async def restart(self, board: SimulatedBoard, cause: str, *, wait: bool) -> None:
        self._failures[board.number] = 0
        self._unready(board)
        if self._launcher.runs(board.number):
            self._next[board.number] = cause
            await self._launcher.kill(board.number)
        else:
            self._begin(board, cause)
        if wait:
            await self._until_started(board)

    async def switch(self, board: SimulatedBoard, on: bool) -> None:
        if on:
            if board.phase == "off":
                await self.restart(board, "power", wait=True)
            return
        if board.phase == "off":
            return
        self._next[board.number] = "off"
        self._unready(board)
        if self._launcher.runs(board.number):
            await self._launcher.kill(board.number)
            await board.settled.wait()
        else:
            self._ended(board.number, 0)

    async def _until_started(self, board: SimulatedBoard) -> None:
        """Until it answers, or does what a board with a serial line may do instead."""
        await board.settled.wait()
        if board.line is None or board.phase not in ("blank", "halted", "loader"):
            await self._until_ready(board)

    async def _until_ready(self, board: SimulatedBoard) -> None:
        await board.settled.wait()
        if not board.ready.is_set():
            raise SimulatorError(
                f"Board {board.id} at {board.address} does not answer ({board.phase}); "
                f"it printed: {board.console()[-300:].strip() or 'nothing'}"
            )

    def _unready(self, board: SimulatedBoard) -> None:
        board.ready.clear()
        board.settled.clear()

    def _settle(self, board: SimulatedBoard, phase: str, word: str, detail: str) -> None:
        board.phase = phase
        if phase == "ready":
            board.ready.set()
        board.settled.set()
        if self._on_event is not None:
            self._on_event(board, word, detail)

    def _begin(self, board: SimulatedBoard, cause: str, delay_s: float = 0.0) -> None:
        board.phase = "starting"
        self._unready(board)
        waiting = self._tasks.pop(board.number, None)
        if waiting is not None:
            waiting.cancel()
        self._tasks[board.number] = asyncio.create_task(self._boot(board, cause, delay_s))

    async def _boot(self, board: SimulatedBoard, cause: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        async with self._gate:
            board.state.begin_boot(cause, self.now_s())
            board.power_fell(self.monotonic_s())
            self._watchdogs.forget(board.number)
            board.boots += 1
            if board.forgiven:
                flash.forgive(board.flash)
                board.forgiven = False
            if board.chip is not None and not board.chip.is_bootable:
                self._is_blank(board, board.chip)
                return
            heap = ["-X", f"heapsize={self._heap}"] if self._heap else []
            order: dict[str, Any] = {"state": str(board.state_path), "size": SIZE}
            then = PROGRAM
            if board.line is None:
                order["console"] = str(board.console_path)
            else:
                order["tty"] = board.line.inner
                heap.append("-i")
                then = PROMPT if board.number in self._prompts else PROGRAM_THEN_PROMPT
                board.line.starting(is_reset=cause != "soft")
            self._prompts.discard(board.number)
            board.state.set_course(then)
            arguments = ["ADDRESS", str(SIZE), self._chip, str(board.flash)]
            order["argv"] = ["micropython", *heap, str(self._premises.launch), *arguments]
            board.pid = await self._launcher.start(board.number, order)
            try:
                async with asyncio.timeout(_START_TIMEOUT_S):
                    await self._until_answer(board)
            except TimeoutError:
                self._settle(board, "silent", "silent", "it does not answer GET /")
                return
        if board.state.phase == AT_PROMPT:
            self._is_at_prompt(board)
            return
        if board.number in self._next:
            return  # its process is being ended, and what comes then settles it
        first = board.boots == 1
        self._failures[board.number] = 0
        self._settle(board, "ready", *(("ready", board.address) if first else ("reset", cause)))
        if first:
            self._tell_ready(board)

    def _tell_ready(self, board: SimulatedBoard) -> None:
        if self._on_ready is not None:
            self._on_ready(board)

    def _is_blank(self, board: SimulatedBoard, chip: Chip) -> None:
        """Nothing boots; the ROM says so again and again, here once."""
        assert board.line is not None
        board.line.starting(is_reset=True)
        board.line.say(b"invalid header: 0x%08x\r\n" % chip.first_word)
        self._settle(board, "blank", "blank", "there is no MicroPython on its chip")
        if board.boots == 1:
            self._tell_ready(board)

    def _is_at_prompt(self, board: SimulatedBoard) -> None:
        assert board.line is not None
        board.line.up()
        self._failures[board.number] = 0
        self._unready(board)
        self._settle(board, "halted", "halted", "it is at its prompt; a reset starts its program")
        if board.boots == 1:
            self._tell_ready(board)

    async def _until_answer(self, board: SimulatedBoard) -> None:
        """Until the board answers GET / (or refuses, as it was told to): it shares a page, no event."""
        request = b"GET / HTTP/1.1\r\nHost: board\r\nConnection: close\r\n\r\n"
        while board.state.phase not in (3, AT_PROMPT):
            await asyncio.sleep(0.004)
            if board.line is not None and board.state.phase:
                board.line.up()
            if board.state.phase != 2:
                continue
            try:
                async with asyncio.timeout(5.0):
                    answer = await call("127.0.0.1", board.port, request)
            except (OSError, TimeoutError):
                continue
            # 401: somebody claimed it, and made reading private too.
            if answer.startswith(b"HTTP/1.") and answer[8:12] in (b" 200", b" 401"):
                return

    def _ended(self, number: int, status: int) -> None:
        """A board's process ended: because it was told to, by itself, or by accident."""
        board = self.boards[number]
        board.pid = 0
        self._unready(board)
        if board.line is not None:
            board.line.down()
        task = self._tasks.pop(number, None)
        if task is not None:
            task.cancel()
        now_s = self.monotonic_s()
        board.tick(now_s)
        asked = self._next.pop(number, None) or board.state.wanted_reset
        if asked in ("off", "loader"):
            board.state.begin_boot("power", self.now_s())
            board.power_fell(now_s)
            self._settle(board, asked, asked, "")
            return
        if asked is None and board.line is not None and (status >= 0 or status == -signal.SIGINT):
            # Ctrl-D at the prompt. Or Ctrl-C, in the instant in which MicroPython does not catch it.
            if board.line.rebooted_softly() or status < 0:
                self._prompts.add(number)
            self._begin(board, "soft")
            return
        if asked is None and status == _HALTED:
            self._settle(board, "halted", "halted", "main.py ended; only a reset brings it back")
            return
        if asked is None:
            how = f"signal {-status}" if status < 0 else f"exit code {status}"
            if self._on_event is not None:
                self._on_event(board, "died", how)
        self._begin(board, asked or "watchdog", self._delay_s(number))

    def _delay_s(self, number: int) -> float:
        """How long to wait before this restart: longer each time nothing answered in between."""
        failures = self._failures.get(number, 0)
        self._failures[number] = failures + 1
        first, second, most = _RESTART_DELAY_S
        return first if failures == 0 else min(second * 2 ** min(failures - 1, 10), most)

    # Watching

    async def _tick(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(_TICK_S)
            ticks += 1
            now_s = self.monotonic_s()
            for board in self.boards:
                if board.room is not None:
                    board.tick(now_s)
                if board.phase == "ready" and board.state.phase == AT_PROMPT:
                    self._is_at_prompt(board)  # somebody typed Ctrl-C
            if ticks % 2 == 0:
                await self._look_at_watchdogs(now_s)
            if ticks % 200 == 0:
                self._shorten_consoles()

    async def _look_at_watchdogs(self, now_s: float) -> None:
        for board in self.boards:
            if board.phase == "off" or not self._watchdogs.is_over(board, now_s):
                continue
            if self._launcher.runs(board.number):
                self._next[board.number] = "watchdog"
                await self._launcher.kill(board.number)
            elif board.phase == "halted":
                self._begin(board, "watchdog", self._delay_s(board.number))

    def _shorten_consoles(self) -> None:
        for board in self.boards:
            try:
                if board.console_path.stat().st_size > _CONSOLE_LIMIT:
                    os.truncate(board.console_path, 0)
            except FileNotFoundError:
                continue


async def simulate(count: int, **options: Any) -> None:
    """Runs ``count`` boards until cancelled. Options as `Simulator`'s."""
    async with Simulator(count, **options):
        await asyncio.Event().wait()
