"""How the firmware's tests talk to a board: politely, and byte by byte."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet.simulator.fleet import Board

FIRMWARE = Path(__file__).parents[2] / "esp32"
WRITABLE = [0, 2, 4, 5, *range(12, 20), 21, 22, 23, 25, 26, 27, 32, 33]
READABLE = sorted([*WRITABLE, 1, 3, *range(34, 40)])


@dataclass(frozen=True)
class Answer:
    """What a board said; ``headers`` with names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    board: Board,
    method: str,
    path: str,
    body: bytes | dict[str, Any] | None = None,
    timeout_s: float = 20,
    **headers: str,
) -> Answer:
    """One request on a connection of its own. A dict goes as JSON, bytes as they are."""
    if isinstance(body, dict):
        body = json.dumps(body).encode()
        headers.setdefault("Content_Type", "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", board.port, timeout=timeout_s)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    with contextlib.closing(connection):
        connection.request(method, path, body, names)
        with connection.getresponse() as answer:
            lower = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, lower, answer.read())


def connect(board: Board, timeout_s: float = 20) -> socket.socket:
    return socket.create_connection(("127.0.0.1", board.port), timeout_s)


def receive(client: socket.socket) -> bytes:
    """All that comes until the board closes; a reset counts as closed."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(65536):
            data += piece
    return data


def raw(board: Board, request: bytes, timeout_s: float = 20) -> bytes:
    """Send exactly these bytes and nothing more; what comes until the board closes."""
    with connect(board, timeout_s) as client:
        with contextlib.suppress(OSError):  # the board may have closed, and be right
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
        return receive(client)


def statuses(data: bytes) -> list[int]:
    """The statuses of the answers in a stream of them."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        found.append(int(head.split()[1]))
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        data = rest[length:]
    return found


def levels(board: Board) -> dict[int, int]:
    """The writable pins as a voltmeter sees them."""
    return {pin: board.pin(pin).level for pin in WRITABLE}


def until(condition: Callable[[], Any], limit_s: float = 10) -> Any:
    """Waits for a condition, and returns what it gave; fails after the limit."""
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def free_bytes(board: Board) -> int:
    """The free heap, measured by the board after a collection that follows this call."""
    ask(board, "GET", "/")
    time.sleep(1.1)  # two of the board's ticks; its figure is from the last one that had requests
    return int(ask(board, "GET", "/").json["mem_free"])
