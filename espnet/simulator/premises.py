"""Where simulated boards live: their folders, the locks on these, their ports, and the firmware ready to use.

Invariants: nobody else gets a board's port, or a folder that is in use; when `close` returns, no private
folder, no lock and no reserved port is left, however far `prepare` came.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
from pathlib import Path
from typing import IO

from espnet.simulator import flash
from espnet.simulator.errors import SimulatorError


class Premises:
    """``home`` is where each board's folder is, ``runtime`` what is private and removed at the end;
    ``program`` what lies on a board after `make put`, by its path there; ``launch`` what starts a board."""

    def __init__(
        self, count: int, *, directory: Path | None, port: int | None, serial: bool
    ) -> None:
        self._count, self._directory, self._port, self._serial = count, directory, port, serial
        self._runtime: Path | None = None
        self._locks: list[IO[str]] = []
        self._reserved: list[socket.socket] = []
        self.launch = self.home = Path()
        self.program: dict[str, bytes] = {}

    @property
    def runtime(self) -> Path:
        assert self._runtime is not None, "nothing is prepared"
        return self._runtime

    async def prepare(self, source: Path, compiled: bool | None) -> None:
        """Makes the folders, and the firmware from its ``source``."""
        runtime, lock = flash.runtime_folder(self._count, serial=self._serial)
        self._runtime = runtime
        self._locks.append(lock)
        self.home = runtime
        if self._directory is not None:
            self.home = self._directory.resolve()
            self._locks.append(flash.lock_folder(self.home))
        prepared = runtime / "firmware"
        await asyncio.to_thread(flash.prepare, source, prepared, compiled=compiled)
        self.program = await asyncio.to_thread(flash.read, prepared)
        self.launch = await asyncio.to_thread(flash.put_hardware, runtime / "hardware")

    def reserve(self, number: int) -> int:
        """Binds the board's port without listening: nobody else gets it, and nobody is answered.

        The board binds it too (both with SO_REUSEADDR, one of them listens).
        """
        reserved = socket.socket()
        self._reserved.append(reserved)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = 0 if self._port is None else self._port + number
        try:
            reserved.bind(("127.0.0.1", port))
        except OSError as e:
            raise SimulatorError(
                f"Port {port} of 127.0.0.1 is taken ({e.strerror}); name another first port."
            ) from e
        return int(reserved.getsockname()[1])

    def close(self) -> None:
        """Lets go of all of it. Any number of times."""
        for reserved in self._reserved:
            reserved.close()
        self._reserved.clear()
        if self._runtime is not None:
            shutil.rmtree(self._runtime, ignore_errors=True)  # no thread: the program may be ending
            self._runtime = None
        for lock in self._locks:
            lock.close()
        self._locks.clear()
