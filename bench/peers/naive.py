"""The trip as one writes it in an afternoon, and well: aiohttp with kept connections, and Redis pipelines.

    python -m bench.peers.naive REDIS_URL PORT…

polls for ever, and is the process that is measured.
"""

import asyncio
import json
import sys
import time
from importlib.util import find_spec

import msgspec

from bench.processes import running
from bench.stage import Boards, Figures, Stopwatch

BATCH, INTERVAL_S, MAX_ENTRIES = 256, 10.0, 100_000


class Naive:
    name, title, boards = "naive", "aiohttp and a pipeline", ("changing",)
    uses_redis = True
    does = (
        "a program of 40 lines (`bench/peers/naive.py`): aiohttp with kept connections on uvloop, "
        "`json.loads`, and per 256 polls one pipeline with a `SET`, an `XADD` and a `ZADD` each. No locks, "
        "jobs, passwords or second collector, and what fails is lost"
    )

    def available(self) -> str | None:
        return None if find_spec("aiohttp") else "aiohttp is not installed"

    def version(self) -> str:
        import aiohttp

        return f"aiohttp {aiohttp.__version__}"

    def run(self, crowd: Boards, redis_url: str, seconds: float) -> Figures:
        command = [sys.executable, "-m", "bench.peers.naive", redis_url, *map(str, crowd.ports)]
        with running(command) as process:
            figures = Stopwatch(crowd, redis_url).measure(process, seconds)
        # Redis reads a long pipeline in pieces.
        return msgspec.structs.replace(figures, redis_reads=figures.polls / BATCH)


async def poll_for_ever(url: str, ports: list[int]) -> None:
    import aiohttp
    import redis

    store = redis.Redis.from_url(url)
    pipeline = store.pipeline(transaction=False)

    async def poll(port: int) -> None:
        async with session.get(f"http://127.0.0.1:{port}/") as response:
            text = await response.read()
        status, now = json.loads(text), time.time()
        device = status["id"]
        pipeline.set(f"naive:reading:{device}", text, ex=30)
        sample = {"id": device, "at": now, "f": status["f"]}
        pipeline.xadd("naive:samples", sample, maxlen=MAX_ENTRIES, approximate=True)
        pipeline.zadd("naive:due", {device: now + INTERVAL_S})
        if len(pipeline) >= 3 * BATCH:
            pipeline.execute()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        while True:
            await asyncio.gather(*map(poll, ports))


if __name__ == "__main__":
    import uvloop

    url, *ports = sys.argv[1:]
    uvloop.run(poll_for_ever(url, [int(port) for port in ports]))
