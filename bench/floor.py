"""What polling cannot go below: the loop, HTTP and JSON alone, over the stand-in boards.

    python -m bench.floor SECONDS PORT…

One kept connection a board, one request and one decoded answer a poll, in rounds over all boards, on the
same libraries as the collector: uvloop, httptools, msgspec. No locks, no deadlines, no checks, nothing
kept, no Redis. Prints one JSON object, as `bench.trip` does.
"""

import asyncio
import json
import resource
import sys
import time

import httptools
import msgspec
import uvloop

from espnet.model import Status

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
decode = msgspec.json.Decoder(Status).decode


class Wire(asyncio.Protocol):
    """One board's connection; counts its round down."""

    def __init__(self, round_: "Round") -> None:
        self._round = round_
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        decode(self._body)
        self._body = b""
        self._round.ended()


class Round:
    """One request to every board."""

    def __init__(self) -> None:
        self._left = 0
        self._done: asyncio.Future[None] | None = None

    async def run(self, wires: list[Wire]) -> None:
        self._left, self._done = len(wires), asyncio.get_running_loop().create_future()
        for wire in wires:
            wire.transport.write(REQUEST)
        await self._done

    def ended(self) -> None:
        self._left -= 1
        if not self._left:
            self._done.set_result(None)


async def measure(seconds: float, ports: list[int]) -> dict[str, float]:
    loop, round_ = asyncio.get_running_loop(), Round()
    wires = [
        (await loop.create_connection(lambda: Wire(round_), "127.0.0.1", port))[1] for port in ports
    ]
    for _ in range(20):
        await round_.run(wires)
    polls = 0
    end = time.monotonic() + seconds
    before = resource.getrusage(resource.RUSAGE_SELF)
    while time.monotonic() < end:
        await round_.run(wires)
        polls += len(wires)
    used = resource.getrusage(resource.RUSAGE_SELF)
    user_s, system_s = used.ru_utime - before.ru_utime, used.ru_stime - before.ru_stime
    return {
        "polls_per_cpu_s": round(polls / (user_s + system_s)),
        "user_us_per_poll": round(user_s * 1e6 / polls, 1),
        "system_us_per_poll": round(system_s * 1e6 / polls, 1),
        "rss_kb": used.ru_maxrss,
    }


if __name__ == "__main__":
    seconds, *ports = sys.argv[1:]
    print(json.dumps(uvloop.run(measure(float(seconds), [int(port) for port in ports]))))
