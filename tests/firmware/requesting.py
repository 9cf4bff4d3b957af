"""What the firmware's tests ask a board by the thousand, and what they see of its heap then."""

import socket

from .firmware_client import Board, ask, free_bytes


def form(path: str, body: bytes, *headers: str) -> bytes:
    """A POST with its length."""
    lines = [f"POST {path} HTTP/1.1", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def answer_on(client: socket.socket, request: bytes) -> bytes:
    """One request on an open connection; its whole answer."""
    client.sendall(request)
    answer = client.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert answer, request
    left = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0]) - len(body)
    while left > 0:
        piece = client.recv(left)
        assert piece, answer
        left -= len(piece)
    return answer


#: What well-behaved clients ask, about as often as they do.
GOOD = [
    *[b"GET / HTTP/1.1\r\nHost: board\r\nAccept: */*\r\nUser-Agent: test\r\n\r\n"] * 20,
    b"GET /ui HTTP/1.1\r\n\r\n",
    b"GET /details HTTP/1.1\r\n\r\n",
    form("/gpio", b"pin=4,5,12,13&value=1"),
    form("/gpio", b'{"pin": [4, 5, 12, 13], "value": 0}'),
    form("/gpio", b"pin=34&value=1"),
    form("/gpio", b"pin=4&value=often"),
    form("/dht22", b"read_pin=15"),
    form("/dht22", b"read_pin=16"),
    form("/adc", b"read_pin=36&power_pin=4&samples=1"),
    form("/set_host", b"ip=10.0.0.1"),
    form("/nothing", b"x" * 4000),
]


def settled(board: Board) -> int:
    """The free heap when, of the modules that come when they are asked for, always the same are there."""
    ask(board, "POST", "/gpio", b"pin=34&value=1")
    ask(board, "GET", "/details")
    return free_bytes(board)
