"""The serial line of a simulated board: a pseudo-terminal that a computer opens as if it were USB.

::

    mpremote, esptool ── outer terminal ── here ── inner terminal ── MicroPython's prompt or program
                                            └───── the ROM's loader, after esptool's first packet

A pseudo-terminal has no DTR and RTS, with which esptool resets a real board into its loader. So the first
packet of an attempt to connect does that, and closing the port starts the board again. Nothing here waits;
everything belongs to the loop's thread.

Invariants: what the board says while no computer has the port open is in its console file only; Ctrl-C
reaches the board also when it comes while the board's process is being replaced.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

from espnet.simulator.chip import Chip
from espnet.simulator.loader import SYNC, Loader
from espnet.simulator.state import AT_PROMPT

_IN_CLOSE, _IN_OPEN = 0x18, 0x20
_LIBC = ctypes.CDLL(None, use_errno=True)
_CHUNK = 4096
#: What waits for a computer that has the port open and does not read. More is lost, as on a real line.
_MOST_WAITING = 1 << 20
_PROMPT = b">>> "
_INTERRUPT, _RAW, _FRIENDLY = b"\x03", b"\x01", b"\x02"


class Line:
    """See the module. ``path`` is what the computer opens, ``inner`` the board's own terminal."""

    def __init__(
        self,
        board_id: str,
        chip: Chip,
        console: Path,
        *,
        phase: Callable[[], int],
        on_loader: Callable[[], None],
        on_left: Callable[[], None],
        on_erase: Callable[[int, int], None],
    ) -> None:
        self._board_id, self._chip = board_id, chip
        self._phase = phase
        self._on_loader, self._on_left, self._on_erase = on_loader, on_left, on_erase
        self._console = os.open(console, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._outer, slave = os.openpty()
        self._inner, self._inner_slave = os.openpty()  # held open: processes come and go
        self.path, self.inner = os.ttyname(slave), os.ttyname(self._inner_slave)
        self._host_settings, self._board_settings = _set_raw(slave), _set_program(self._inner_slave)
        for file in (self._outer, self._inner):
            os.set_blocking(file, False)
        # Tells who opens and closes the port; reading alone would tell only that nobody has it open.
        self._watch = int(_LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        os.close(slave)
        _LIBC.inotify_add_watch(self._watch, self.path.encode(), _IN_OPEN | _IN_CLOSE)
        self._opened = 0
        self._to_board = self._to_host = b""
        self._recent = b""
        self._loader: Loader | None = None
        self._is_up = self._is_raw = self._is_interrupted = self._is_prompted = False
        self._said = b""
        loop = self._loop = asyncio.get_running_loop()
        loop.add_reader(self._watch, self._ports_changed)
        loop.add_reader(self._inner, self._from_board)

    def close(self) -> None:
        for file in (self._watch, self._inner, self._outer):
            self._loop.remove_reader(file)
            self._loop.remove_writer(file)
        files = (self._watch, self._inner, self._inner_slave, self._outer, self._console)
        for file in files:
            os.close(file)

    # What the simulator says about the board

    def down(self) -> None:
        """The board's process has ended: Ctrl-C waits for the next one."""
        self._is_up = self._is_prompted = self._is_interrupted = False
        self._said = b""

    def starting(self, *, is_reset: bool) -> None:
        """A process is about to be the board. After a reset nothing is left of what was typed before."""
        termios.tcsetattr(self._inner_slave, termios.TCSANOW, self._board_settings)
        self._loader = None
        if is_reset:
            termios.tcflush(self._inner_slave, termios.TCIOFLUSH)
            self._to_board = b""
            self._is_raw = False

    def up(self) -> None:
        """The board's process takes Ctrl-C from now on. One that came before interrupts its program."""
        self._is_up = True
        if self._is_interrupted and self._phase() != AT_PROMPT:
            self._send_board(_INTERRUPT)
        self._is_interrupted = False

    def rebooted_softly(self) -> bool:
        """Says what a board says; returns whether the computer was at the raw prompt, as mpremote is.

        A board goes back to that prompt then, and leaves main.py out.
        """
        self.say(b"MPY: soft reboot\r\n")
        if self._is_raw:
            self._send_board(_RAW)
        return self._is_raw

    def say(self, text: bytes) -> None:
        """What the chip itself prints."""
        os.write(self._console, text)
        self._send_host(text)

    # The computer's side

    def _events(self) -> list[int]:
        try:
            data = os.read(self._watch, _CHUNK)
        except BlockingIOError:
            return []
        found = []
        while data:
            _, mask, _, length = struct.unpack_from("<iIII", data)
            found.append(mask)
            data = data[16 + length :]
        return found

    def _ports_changed(self) -> None:
        for mask in self._events():
            if mask & _IN_OPEN:
                self._opened += 1
                if self._opened == 1:
                    self._loop.add_reader(self._outer, self._from_host)
            elif mask & _IN_CLOSE:
                self._opened -= 1
                if self._opened == 0:
                    self._closed()

    def _closed(self) -> None:
        self._from_host()  # what was said before
        self._loop.remove_reader(self._outer)
        self._loop.remove_writer(self._outer)
        self._to_host = self._recent = b""
        termios.tcsetattr(self._outer, termios.TCSANOW, self._host_settings)
        if self._loader is not None:
            self._leave()

    def _from_host(self) -> None:
        while True:
            try:
                data = os.read(self._outer, _CHUNK)
            except OSError:
                return  # nothing more, or nobody there
            self._heard(data)

    def _heard(self, data: bytes) -> None:
        if self._loader is None:
            seen = self._recent + data
            at = seen.find(SYNC)
            if at < 0:
                self._recent = seen[-len(SYNC) :]
                self._typed(data)
                return
            self._recent = b""
            self._loader, data = Loader(self._chip, self._board_id, self._on_erase), seen[at:]
            self._on_loader()
        self._send_host(self._loader.feed(data))
        if self._loader.is_left:
            self._leave()

    def _leave(self) -> None:
        self._loader = None
        self._on_left()

    def _typed(self, data: bytes) -> None:
        for key in (_RAW, _FRIENDLY):
            if data.rfind(key) > data.rfind(_FRIENDLY if key == _RAW else _RAW):
                self._is_raw = key == _RAW
        if not self._is_up and _INTERRUPT in data:
            self._is_interrupted = True
            data = data.replace(_INTERRUPT, b"")
        if self._phase() == AT_PROMPT and not self._is_prompted:
            # The program has ended, and the prompt is not there yet: it would strike what is typed next.
            data = data.replace(_INTERRUPT, b"")
        self._send_board(data)

    # Both ways

    def _from_board(self) -> None:
        try:
            data = os.read(self._inner, _CHUNK)
        except OSError:
            return
        os.write(self._console, data)
        self._said = (self._said + data)[-_CHUNK:]
        self._is_prompted = self._is_prompted or _PROMPT in self._said
        if self._loader is None:
            self._send_host(data)

    def _send_host(self, data: bytes) -> None:
        if self._opened > 0 and len(self._to_host) < _MOST_WAITING:
            self._to_host += data
            self._write_host()

    def _write_host(self) -> None:
        self._to_host = self._written(self._outer, self._to_host, self._write_host)

    def _send_board(self, data: bytes) -> None:
        if len(self._to_board) < _MOST_WAITING:
            self._to_board += data
            self._write_board()

    def _write_board(self) -> None:
        self._to_board = self._written(self._inner, self._to_board, self._write_board)

    def _written(self, file: int, data: bytes, go_on: Callable[[], None]) -> bytes:
        """Writes what there is room for; returns the rest, which is written when there is room again."""
        try:
            data = data[os.write(file, data) :] if data else b""
        except BlockingIOError:
            pass
        except OSError:
            data = b""  # nobody there
        if data:
            self._loop.add_writer(file, go_on)
        else:
            self._loop.remove_writer(file)
        return data


def _set_raw(file: int) -> list[Any]:
    settings = termios.tcgetattr(file)
    settings[0] = settings[1] = settings[3] = 0
    termios.tcsetattr(file, termios.TCSANOW, settings)
    return settings


def _set_program(file: int) -> list[Any]:
    """As a board's line is for a running program: raw, but Ctrl-C interrupts, and what was typed stays."""
    settings = termios.tcgetattr(file)
    settings[0] = settings[1] = 0
    settings[3] = termios.ISIG | termios.NOFLSH
    # Ctrl-\ and Ctrl-Z are no signals on a board.
    settings[6][termios.VQUIT] = settings[6][termios.VSUSP] = b"\0"
    termios.tcsetattr(file, termios.TCSANOW, settings)
    return settings
