"""A stand-in board at the wire: it sends exactly the bytes that a test wrote down, well formed or not.

One `Wire` may play a whole fleet: it listens on all of 127.0.0.0/8, and each address is a board with an
id and a script of its own. It runs in a thread, so that blocking clients can be tested with it too.
"""

import asyncio
import gc
import json
import os
import socket
import struct
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple

Then = Literal["keep", "close", "reset", "hang", "half"]


class Say(NamedTuple):
    """What a board does with one request: the pieces that it sends, ``gap_s`` apart, and what then
    becomes of the connection (``half``: it says no more, and still listens)."""

    pieces: tuple[bytes, ...] = ()
    then: Then = "keep"
    gap_s: float = 0.0

    @property
    def bytes(self) -> bytes:
        return b"".join(self.pieces)


def status_body(board_id: str = "b1", f: float | None = 104.0, **more: object) -> bytes:
    """What a board of this id answers to ``GET /``."""
    return json.dumps({"id": board_id, "f": f, "gpio": {"2": 1, "4": 0}, **more}).encode()


def answer(
    body: bytes = b'{"id": "b1", "f": 104.0, "gpio": {"2": 1, "4": 0}}',
    *,
    status: str = "200 OK",
    headers: str = "",
    version: str = "HTTP/1.1",
    then: Then = "keep",
) -> Say:
    """A well-formed answer with its length."""
    head = f"{version} {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()
    return Say((head + body,), then)


def eventually(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Returns as soon as ``condition`` is true; fails when it is not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "this did not come true in time"
        time.sleep(0.002)


def open_sockets() -> int:
    """How many sockets this process has open."""
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
    return count


def run_on(
    new_loop: Callable[[], asyncio.AbstractEventLoop], main: Coroutine[None, None, None]
) -> None:
    """Runs on such a loop; nobody shouts into its handler of forgotten errors, or leaves anything open."""
    complaints: list[Any] = []
    runner = asyncio.Runner(loop_factory=new_loop)
    try:
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        runner.run(asyncio.wait_for(main, 60))
    finally:
        # uvloop waits for ever for what is open still where its warning is made an error.
        with warnings.catch_warnings(record=True) as leaks:
            warnings.simplefilter("always", ResourceWarning)
            runner.close()
    assert not leaks
    assert complaints == []


@contextmanager
def no_leak(more: int = 0) -> Iterator[None]:
    """Leaves as many sockets as it found, or so many ``more``, and no ResourceWarning to whoever collects."""
    gc.collect()
    before = open_sockets()
    yield
    gc.collect()
    eventually(lambda: open_sockets() <= before + more)


class Wire:
    """The boards behind one port, each at its own loopback address.

    ``default`` answers every request of a board for which `script` has nothing; the last entry of a
    script is repeated.
    """

    def __init__(self, *script: Say) -> None:
        self.scripts: dict[str, list[Say]] = defaultdict(list)
        self.scripts["127.0.0.1"] += script
        self.default: Callable[[str, bytes], Say] = lambda host, request: answer(
            status_body(board_id(host))
        )
        self.requests: dict[str, list[bytes]] = defaultdict(list)
        self.connections: dict[str, int] = defaultdict(int)
        self.open: dict[str, int] = defaultdict(int)
        self.most_at_once: dict[str, int] = defaultdict(int)
        self.busy = self.most_busy = 0
        self._busy: dict[str, int] = defaultdict(int)
        self._go: threading.Event | None = None
        self._hanging: dict[str, list[asyncio.Task[None]]] = {}
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("0.0.0.0", 0), backlog=4096)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def address(self, host: str = "127.0.0.1") -> str:
        return f"{host}:{self.port}"

    def hold_back(self) -> threading.Event:
        """From now on, no board answers before the event is set."""
        self._go = threading.Event()
        return self._go

    def hang_up(self, host: str) -> None:
        """Ends the connections of a board that hangs."""
        self._loop.call_soon_threadsafe(
            lambda: [task.cancel() for task in self._hanging.pop(host, [])]
        )

    def __enter__(self) -> "Wire":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        self._loop.add_reader(self._socket, self._accept)
        self._loop.run_forever()
        self._loop.remove_reader(self._socket)
        self._loop.run_until_complete(self._leave())
        self._loop.close()
        # A task that was cancelled before its first step closed nothing.
        for open_one in (self._socket, *self._connections):
            open_one.close()

    async def _leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):
            connection, _ = self._socket.accept()
            self._connections.add(connection)
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        host = connection.getsockname()[0]
        self.connections[host] += 1
        self.open[host] += 1
        received = b""
        try:
            while True:
                while not (length := _whole(received)):
                    piece = await self._loop.sock_recv(connection, 65_536)
                    if not piece:
                        return
                    received += piece
                request, received = received[:length], received[length:]
                if not await self._answer(connection, host, request):
                    return
        except OSError:
            return
        finally:
            self.open[host] -= 1
            self._connections.discard(connection)
            connection.close()

    async def _answer(self, connection: socket.socket, host: str, request: bytes) -> bool:
        """Plays the next entry of the script; returns whether the connection goes on."""
        self.requests[host].append(request)
        script = self.scripts[host]
        say = (
            (script.pop(0) if len(script) > 1 else script[0])
            if script
            else self.default(host, request)
        )
        self.busy += 1
        self._busy[host] += 1
        self.most_busy = max(self.most_busy, self.busy)
        self.most_at_once[host] = max(self.most_at_once[host], self._busy[host])
        try:
            while self._go is not None and not self._go.is_set():  # noqa: ASYNC110 - another thread's
                await asyncio.sleep(0.005)
            for number, piece in enumerate(say.pieces):
                if number and say.gap_s:
                    await asyncio.sleep(say.gap_s)
                if number == len(say.pieces) - 1 and say.then == "keep":
                    self._done(host)
                await self._loop.sock_sendall(connection, piece)
            if say.then == "half":
                connection.shutdown(socket.SHUT_WR)
            if say.then in ("hang", "half"):
                # Until the other side has enough of it, or `hang_up`.
                if task := asyncio.current_task():
                    self._hanging.setdefault(host, []).append(task)
                while await self._loop.sock_recv(connection, 65_536):
                    pass
        finally:
            if not (say.pieces and say.then == "keep"):
                self._done(host)
        if say.then == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return say.then == "keep"

    def _done(self, host: str) -> None:
        self.busy -= 1
        self._busy[host] -= 1


def board_id(host: str) -> str:
    """The id of the board at a loopback address."""
    return "b" + "-".join(host.split(".")[1:])


def _whole(received: bytes) -> int:
    """The length of the request that ``received`` begins with, 0 while it is not whole."""
    head, end, _ = received.partition(b"\r\n\r\n")
    if not end:
        return 0
    length = len(head) + len(end)
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length += int(value)
    return length if len(received) >= length else 0
