"""100 stand-in boards in one process: a static answer, as little work as possible.

Prints their ports as a JSON list, then answers until its standard input ends. With ``close`` every
answer ends its connection, as 2021 firmware does.
"""

import asyncio
import json
import sys

import uvloop

COUNT = 100
#: The pins that 2021 firmware reports.
PINS = [*range(20), 21, 22, 23, 25, 26, 27, *range(32, 40)]


def board_id(number: int) -> str:
    return f"{number:012x}"


def status(number: int) -> bytes:
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


async def serve(close: bool) -> None:
    loop = asyncio.get_running_loop()
    ports = []
    for number in range(COUNT):
        body = status(number)
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"Connection: {'close' if close else 'keep-alive'}\r\n\r\n"
        )
        answer = head.encode() + body
        server = await loop.create_server(lambda a=answer: Board(a, close), "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(serve("close" in sys.argv))
