"""Stand-in boards in one process: a static answer, or nearly, as little work as possible.

Prints their ports as a JSON list, then answers until its standard input ends; each line of it is answered
with what was done so far (`Tally`). A number says how many boards, 100 if none does, a second one the number
of the first of them. At ``/metrics`` they say the same as text, 35 samples, because Prometheus reads no
JSON; not those that are fenced or claimed. With ``close`` every answer ends its connection, as 2021 firmware
does. With ``fenced`` they know leases and fences; with
``claimed`` they also want a signature, which they do not check, and prove that they know the password.
With ``changing`` no two answers are alike, as on real boards: temperature, uptime and free memory differ.
Fenced ones make the same proof and keep it: the slower board finds its collector waiting more often, and
that, too, costs the collector CPU.
"""

import asyncio
import json
import re
import resource
import sys
import time
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


class Body:
    """A board's status from answer to answer: always the same, or ``changing``."""

    def __init__(self, body: bytes, changing: bool) -> None:
        self._body, self._count = body, 0
        # What changes becomes a place to put it.
        self._places = b""
        if changing:
            self._places = body
            for name in (b'"f":', b'"uptime_s":', b'"mem_free":'):
                head, found, rest = self._places.partition(name)
                kind = b"%d" if name == b'"mem_free":' else b"%.1f"
                self._places = head + found + kind + b"," + rest.partition(b",")[2]

    def next(self) -> bytes:
        if not self._places:
            return self._body
        self._count = n = self._count + 1
        return self._places % (113 + n % 50 / 10, 86400.5 + 10 * n, 60_000 + n * 16 % 8_192)


#: What each board says of its pins, which never change here, as Prometheus reads it.
PIN_METRICS = "".join(f'espnet_gpio{{pin="{pin}"}} 0\n' for pin in PINS).encode()


def metrics(body: bytes) -> bytes:
    """A status as Prometheus reads it: the temperature, and a sample a pin."""
    temperature = body.partition(b'"f":')[2].partition(b",")[0]
    return b"espnet_f %b\n%b" % (temperature, PIN_METRICS)


class Tally:
    """What all boards together did: statuses that they told, by whatever path."""

    told = 0


class Board(asyncio.Protocol):
    """One connection."""

    def __init__(self, body: Body, close: bool) -> None:
        self._body, self._close = body, close
        self._head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Connection: " + (b"close" if close else b"keep-alive") + b"\r\n\r\n"
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        body = self._body.next()
        if data.startswith(b"GET /metrics "):
            body = metrics(body)
        Tally.told += 1
        self._transport.write(self._head % len(body) + body)
        if self._close:
            self._transport.close()


class FencedBoard(asyncio.Protocol):
    """One connection to a board that proves that it knows its password (docs/board.md), if it is claimed."""

    _SIGNED = re.compile(rb'cnonce="(\w+)", uri="([^"]*)", nc=(\w+)')
    _UNSIGNED = (b"0" * 16, b"/?fence=12345", b"00000001")

    def __init__(self, number: int, body: Body, claimed: bool) -> None:
        self._claimed = claimed
        self._ha1 = PASSWORD.ha1(board_id(number))
        self._realm = f"EspNet {board_id(number)}"
        self._body, self._digested, self._digest = body, b"", ""

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
        body = self._body.next()
        Tally.told += 1
        if body is not self._digested:
            self._digested, self._digest = body, sha256(body).hexdigest()
        answered = sha256(f":{uri}:{self._digest}".encode()).hexdigest()
        proof = sha256(f"{self._ha1}:{NONCE}:{count}:{cnonce}:auth-int:{answered}".encode())
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: keep-alive\r\n"
        )
        info = f'Authentication-Info: rspauth="{proof.hexdigest()}"\r\n'
        if self._claimed:
            head += info
        self._transport.write(f"{head}\r\n".encode() + body)


def answer_questions() -> None:
    """Until nobody asks any more."""
    for _ in sys.stdin:
        print(json.dumps({"told": Tally.told, "cpu_s": time.process_time()}), flush=True)


async def serve(
    count: int, first: int, close: bool, fenced: bool, claimed: bool, changing: bool
) -> None:
    loop = asyncio.get_running_loop()
    ports = []
    for number in range(first, first + count):
        body = Body(status(number, fenced, claimed), changing)
        server = await loop.create_server(
            lambda n=number, b=body: (
                FencedBoard(n, b, claimed) if fenced or claimed else Board(b, close)
            ),
            "127.0.0.1",
            0,
        )
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, answer_questions)


if __name__ == "__main__":
    # A board is two sockets: where it listens, and the one it is asked by.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    count, first = (numbers + [COUNT, 0][len(numbers) :])[:2]
    words = ("close", "fenced", "claimed", "changing")
    uvloop.run(serve(count, first, *(word in sys.argv for word in words)))
