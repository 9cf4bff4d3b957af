"""100 stand-in boards in one process: a static answer, as little work as possible.

Prints their ports as a JSON list, then answers until its standard input ends. With ``close`` every
answer ends its connection, as 2021 firmware does. With ``fenced`` they know leases and fences; with
``claimed`` they also want a signature, which they do not check, and prove that they know the password.
Fenced ones make the same proof and keep it: the slower board finds its collector waiting more often, and
that, too, costs the collector CPU.
"""

import asyncio
import json
import re
import sys
from hashlib import sha256

import uvloop

from espnet.credential import Password

COUNT = 100
PASSWORD = Password("a password for the bench")
NONCE = "0" * 44
#: The pins that 2021 firmware reports.
PINS = [*range(20), 21, 22, 23, 25, 26, 27, *range(32, 40)]


def board_id(number: int) -> str:
    return f"{number:012x}"


def status(number: int, fenced: bool = False, claimed: bool = False) -> bytes:
    """What a board answers: 34 pins, some 430 bytes."""
    answer = {
        "id": board_id(number),
        "f": 113.4,
        "gpio": {str(pin): 0 for pin in PINS},
        "espnet_host": "192.168.1.2",
        "boot": "9f3ac1d2",
        "uptime_s": 86400.5,
        "mem_free": 61232,
        "version": "0.1.0",
        "sensors": {},
        "leases": {},
        "reset_cause": "power",
    }
    if fenced or claimed:
        answer |= {"fence": 1, "claimed": claimed, "private": False}
    return json.dumps(answer, separators=(",", ":")).encode()


class Board(asyncio.Protocol):
    """One connection."""

    def __init__(self, answer: bytes, close: bool) -> None:
        self._answer, self._close = answer, close

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answer)
        if self._close:
            self._transport.close()


class FencedBoard(asyncio.Protocol):
    """One connection to a board that proves that it knows its password (docs/board.md), if it is claimed."""

    _SIGNED = re.compile(rb'cnonce="(\w+)", uri="([^"]*)", nc=(\w+)')
    _UNSIGNED = (b"0" * 16, b"/?fence=12345", b"00000001")

    def __init__(self, number: int, body: bytes, claimed: bool) -> None:
        self._claimed = claimed
        self._ha1 = PASSWORD.ha1(board_id(number))
        self._realm = f"EspNet {board_id(number)}"
        self._body, self._digest = body, sha256(body).hexdigest()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        found = self._SIGNED.search(data)
        if found is None and self._claimed:
            challenge = (
                f'Digest realm="{self._realm}", nonce="{NONCE}", algorithm=SHA-256, '
                'qop="auth,auth-int"'
            )
            head = f"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\n"
            self._transport.write(f"{head}Content-Length: 0\r\n\r\n".encode())
            return
        cnonce, uri, count = (
            part.decode() for part in (found.groups() if found else self._UNSIGNED)
        )
        answered = sha256(f":{uri}:{self._digest}".encode()).hexdigest()
        proof = sha256(f"{self._ha1}:{NONCE}:{count}:{cnonce}:auth-int:{answered}".encode())
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(self._body)}\r\nConnection: keep-alive\r\n"
        )
        info = f'Authentication-Info: rspauth="{proof.hexdigest()}"\r\n'
        if self._claimed:
            head += info
        self._transport.write(f"{head}\r\n".encode() + self._body)


async def serve(close: bool, fenced: bool, claimed: bool) -> None:
    loop = asyncio.get_running_loop()
    ports = []
    for number in range(COUNT):
        body = status(number, fenced, claimed)
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"Connection: {'close' if close else 'keep-alive'}\r\n\r\n"
        )
        answer = head.encode() + body
        server = await loop.create_server(
            lambda n=number, b=body, a=answer: (
                FencedBoard(n, b, claimed) if fenced or claimed else Board(a, close)
            ),
            "127.0.0.1",
            0,
        )
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve(*(word in sys.argv for word in ("close", "fenced", "claimed"))))
