"""Hears beacons, as many programs at once as want to.

Invariants: nothing is ever answered. However much comes, at most `MOST_A_SECOND` datagrams a second are
looked at: what is beyond stays in the socket's own buffer, and is dropped there by the system. Nothing
is kept here.
"""

import asyncio
import socket
from collections.abc import Callable

from espnet.board.beacon import MAX_BYTES, Beacon, decode
from espnet.names import split_address

#: Datagrams that are looked at in a second: a fleet of 5,000 boards sends 83.
MOST_A_SECOND = 1000
#: They are looked at in so many portions a second.
_PORTIONS = 10


class Listener:
    """Tells ``heard`` of every beacon, on the running loop, from `open` to `close`."""

    def __init__(self, address: str, heard: Callable[[Beacon], None]) -> None:
        self.address, self._heard = address, heard
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._left = 0
        self._refilled_at = 0.0

    @property
    def port(self) -> int:
        """The port that it listens at; the real one where 0 was asked for."""
        assert self._socket is not None
        return int(self._socket.getsockname()[1])

    def open(self) -> None:
        """Raises `OSError` where the address is taken by who does not share, is not ours, or not allowed."""
        host, port = split_address(self.address)
        assert port is not None  # `Config` saw to it
        ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            # A broadcast reaches all that listen at its port, each of which has to agree to that.
            ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "SO_REUSEPORT"):
                ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            ear.setblocking(False)
            ear.bind((host, port))
        except BaseException:
            ear.close()
            raise
        self._socket, self._loop = ear, asyncio.get_running_loop()
        self._loop.add_reader(ear, self._read)

    def close(self) -> None:
        """Hears nothing more; a second call does nothing."""
        ear, self._socket = self._socket, None
        if ear is not None and self._loop is not None:
            if self._pause is not None:
                self._pause.cancel()
            self._loop.remove_reader(ear)
            ear.close()

    def _read(self) -> None:
        """What there is, as far as this portion goes."""
        if self._socket is None or self._loop is None:
            return
        now = self._loop.time()
        if now - self._refilled_at >= 1 / _PORTIONS:
            self._left, self._refilled_at = MOST_A_SECOND // _PORTIONS, now
        while self._left:
            try:
                # One byte more than a beacon has: longer ones are seen to be longer.
                datagram, source = self._socket.recvfrom(MAX_BYTES + 1)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an interface that went away; the next ones may still come
                return
            self._left -= 1
            beacon = decode(datagram, source[0])
            if beacon is not None:
                self._heard(beacon)
                if self._socket is None:
                    return  # closed by who heard it
        self._loop.remove_reader(self._socket)
        self._pause = self._loop.call_later(1 / _PORTIONS, self._go_on)

    def _go_on(self) -> None:
        if self._socket is not None and self._loop is not None:
            self._loop.add_reader(self._socket, self._read)
