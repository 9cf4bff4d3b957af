"""What the tests of updates over the air need: versions that work, versions that do not, and a way to boards
on which answers are lost.
"""

import contextlib
import re
import shutil
import socket
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from espnet import firmware
from espnet.simulator import Board

from .world import World, wait_for

#: How long an update of a few boards may take on a busy machine, in seconds.
UPDATE_S = 90.0
#: The options that make it quick.
QUICK = ("--minutes", "1", "--settle", "1")


def version_of(folder: Path, version: str, *, all_files: bool = False) -> Path:
    """A copy of the firmware that calls itself so. Few of its bytes are other ones, unless ``all_files``."""
    target = folder / f"version-{version}"
    shutil.copytree(firmware.find(), target)
    (target / "version.py").write_text(f'VERSION = "{version}"\n')
    if all_files:
        for path in target.glob("*.py"):  # bytecode knows its lines
            if path.name not in firmware.SWITCH and path.name != "version.py":
                path.write_text("\n" + path.read_text())
    return target


def change(folder: Path, name: str, old: str, new: str) -> None:
    """Edits a file, in one place."""
    text = (folder / name).read_text()
    assert old in text, f"{name} no longer has {old!r}"
    (folder / name).write_text(text.replace(old, new, 1))


def raises_at_import(folder: Path) -> None:
    change(
        folder, "app.py", "import asyncio\n", "import asyncio\n\nraise OSError('no luck today')\n"
    )


def hangs_at_start(folder: Path) -> None:
    change(folder, "app.py", "import asyncio\n", "while True:\n    pass\n")


def fails_its_poll(folder: Path) -> None:
    change(
        folder,
        "calls.py",
        "        temperature_f = hardware.temperature_f()\n",
        "        temperature_f = hardware.no_such_thing()\n",
    )


def eats_the_heap(folder: Path) -> None:
    change(
        folder,
        "app.py",
        "    starts = (tick",
        "    global hoard\n    hoard = []\n    gc.collect()\n    while gc.mem_free() > 7500:\n"
        "        hoard.append(bytearray(400))\n    starts = (tick",
    )


def build_of(folder: Path) -> str:
    return firmware.build(folder).build


def on_board(board: Board) -> str:
    """The build that a board is to run, by its flash."""
    import json

    record = json.loads((board.flash / "boot.json").read_text())
    slot = record["trial"] or record["slot"]
    return firmware.build_of((board.flash / slot / "manifest").read_bytes())


def status(world: World) -> dict[str, Any]:
    """`espcli update status`, with its boards by their names."""
    told: dict[str, Any] = world.json("update", "status")
    told["boards"] = {board["name"]: board for board in told["boards"]}
    return told


def wait_state(world: World, name: str, *states: str) -> dict[str, Any]:
    """Returns what is said of a board as soon as it is in one of these states."""

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = status(world)["boards"][name]
        return found if found["state"] in states else None

    found = wait_for(f"{name} {states}", look, UPDATE_S, every_s=0.1)
    assert found is not None
    return found


class Way(socketserver.ThreadingTCPServer):
    """The way to a board. The answers to requests that hold ``lost`` do not come, so often; of requests that
    hold ``late`` only the first line arrives, so often."""

    daemon_threads = True

    def __init__(self, board: Board) -> None:
        super().__init__(("127.0.0.1", 0), _Traveller)
        self.port, self.lost, self.losses = board.port, b"-", 0
        self.late, self.delays = b"-", 0
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.asked: list[bytes] = []
        self.on_request: Callable[[bytes], None] = lambda request: None
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def lose(self, what: bytes, times: int = 1) -> None:
        self.lost, self.losses = what, times

    def delay(self, what: bytes, times: int = 1) -> None:
        self.late, self.delays = what, times

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Traveller(socketserver.BaseRequestHandler):
    server: Way

    def handle(self) -> None:
        way = self.server
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", way.port)) as on:
            back = threading.Thread(target=self._back, args=(on,))
            self._is_lost = False
            back.start()
            while data := self.request.recv(65536):
                if data[:4] in (b"GET ", b"PUT ", b"POST"):
                    data = self._whole(data)
                    way.asked.append(data.split(b"\r\n", 1)[0])
                    way.on_request(data)
                if way.losses and way.lost in data:
                    way.losses -= 1
                    self._is_lost = True
                if way.delays and way.late in data:
                    way.delays -= 1
                    data = data[: data.index(b"\r\n") + 2]
                on.sendall(data)
            on.shutdown(socket.SHUT_WR)
            back.join()

    def _whole(self, request: bytes) -> bytes:
        """A request with its body, which clients send on their own, if all of it comes."""
        while (length := _length(request)) is None or len(request) < length:
            more = self.request.recv(65536)
            if not more:
                break
            request += more
        return request

    def _back(self, on: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := on.recv(65536):
                if self._is_lost and not data.startswith(b"HTTP/1.1 401"):
                    break
                self.request.sendall(data)
            self.request.shutdown(socket.SHUT_RDWR)


def _length(request: bytes) -> int | None:
    """How long a request is; None while its head is not whole."""
    head, end, _ = request.partition(b"\r\n\r\n")
    if not end:
        return None
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return len(head) + len(end) + (int(found[1]) if found else 0)
