"""`python -m bench.uploads`: samples per CPU-second of a process that empties the stream into Datadog's sink.

A million samples of a thousand boards wait, ten a poll. The intake is a process of its own that reads a
request and says yes. What Redis spends is told beside it, because one Redis serves many uploaders. The
medians of the rounds count. Each process prints one JSON object:

    python -m bench.uploads drain REDIS_URL INTAKE_URL
    python -m bench.uploads intake
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redis
import uvloop

from bench.boards import board_id
from espnet import server
from espnet.clock import SystemClock
from espnet.samples import SampleBatch
from espnet.sinks.datadog import Datadog
from espnet.store import BATCH, Grant, Poll, Store
from espnet.uploader import Uploader

ROUNDS, SAMPLES, BOARDS = 3, 1_000_000, 1_000
YES = b'HTTP/1.1 202 Accepted\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'


def batches(polls: int, now: float) -> Iterator[SampleBatch]:
    """What a collector makes of boards with a DHT22 and five pins that are reported."""
    for number in range(polls):
        board, value = number % BOARDS, number * 0.001
        tags = (f"name:board{board}", f"id:{board_id(board)}", f"room:r{board % 40}", "floor:2")
        own: list[tuple[str, float, tuple[str, ...]]] = [
            ("esp32.up", 1.0, ()),
            ("esp32.poll_seconds", 0.0312 + value % 0.01, ()),
            ("esp32.f", 113.0 + value % 9, ()),
            ("esp32.dht22.temp", 70.7 + value % 5, ("sensor:air",)),
            ("esp32.dht22.humidity", 40.0 + value % 7, ("sensor:air",)),
            *(("esp32.gpio", float(number % 2), (f"pin:{pin}",)) for pin in (2, 4, 5, 12, 13)),
        ]
        yield SampleBatch(now, tags, tuple(own))


def fill(url: str) -> None:
    """Ends as many polls as it takes, as a collector does."""
    store = Store(url)
    polls = []
    with redis.Redis.from_url(url) as client:
        client.flushall()
        for number, batch in enumerate(batches(SAMPLES // 10, time.time())):
            polls.append(Poll(Grant(f"d{number % BATCH}", str(number), 0), 0.0, batch=batch))
            if len(polls) == BATCH or number == SAMPLES // 10 - 1:
                locks = {f"espnet:lock:{poll.grant.id}": poll.grant.token for poll in polls}
                client.mset(locks)
                store.commit(polls)
                polls.clear()
    queued = store.ledger().queue.queued
    assert queued == SAMPLES, queued
    store.close()


def drain(redis_url: str, intake_url: str) -> dict[str, float]:
    """Empties the stream; measures itself and Redis."""
    clock = SystemClock()
    store, sink = Store(redis_url), Datadog("key", host=intake_url)
    uploader = Uploader(store, sink, "bench", clock)
    with redis.Redis.from_url(redis_url) as client:
        redis_s, began_s, began = _redis_cpu_s(client), time.process_time(), time.monotonic()
        accepted = 0
        while not (drained := uploader.drain(clock.now())).is_done or drained.accepted:
            accepted += drained.accepted
        cpu_s, wall_s = time.process_time() - began_s, time.monotonic() - began
        redis_s = _redis_cpu_s(client) - redis_s
    books = store.ledger().books("datadog")
    assert accepted == books.accepted == SAMPLES, (accepted, books)
    return {
        "samples_per_cpu_s": round(SAMPLES / cpu_s),
        "samples_per_redis_cpu_s": round(SAMPLES / redis_s),
        "samples_per_s": round(SAMPLES / wall_s),
    }


def _redis_cpu_s(client: redis.Redis) -> float:
    told = client.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


class _Yes(asyncio.Protocol):
    """Says yes to each request, whatever is in it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.head, self.left = transport, b"", 0

    def data_received(self, data: bytes) -> None:
        if not self.left:
            self.head += data
            head, end, body = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            self.head, self.left, data = b"", int(length), body
        self.left -= len(data)
        if not self.left:
            self.transport.write(YES)  # type: ignore[attr-defined]


async def intake() -> None:
    """Prints its URL; ends with its standard input."""
    loop = asyncio.get_running_loop()
    listening = await loop.create_server(_Yes, "127.0.0.1", 0)
    print(json.dumps(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    module = [sys.executable, "-m", "bench.uploads"]
    rounds = []
    with tempfile.TemporaryDirectory(prefix="espnet-bench-") as folder:
        url = server.find(None, Path(folder), default_sockets=()).url
        helper = subprocess.Popen(
            [*module, "intake"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert helper.stdout is not None
        try:
            intake_url = json.loads(helper.stdout.readline())
            for _ in range(ROUNDS):
                fill(url)
                done = subprocess.run(
                    [*module, "drain", url, intake_url],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                rounds.append(json.loads(done.stdout))
        finally:
            helper.communicate()
            server.stop(Path(folder))
    figures = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    print(
        f"{figures['samples_per_cpu_s']:,.0f} samples per CPU-second of the uploader, "
        f"{figures['samples_per_redis_cpu_s']:,.0f} of Redis, {figures['samples_per_s']:,.0f} per "
        f"second; medians of {ROUNDS} rounds of {SAMPLES:,} samples."
    )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["drain", redis_url, intake_url]:
            print(json.dumps(drain(redis_url, intake_url)))
        case ["intake"]:
            uvloop.run(intake())
        case _:
            main()
