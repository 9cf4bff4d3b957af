"""`python -m bench.collectors`: one, two and three collectors on one Redis, over boards that are always due.

    python -m bench.collectors [--boards N] [--counts 1,2,3] [--rounds N] [--seconds S] [--write]

Each collector is a process of its own with `Collector.tick` in a loop and two jobs a device; the boards are
stand-ins. First they poll as fast as they can: each device is due again as soon as its poll is committed.
What is told is polls per CPU-second of each collector, and the sum of those compared with one alone in the
same round: so much work is done by as many cores, if each has one. Seconds on the clock say little where
boards, Redis and collectors share a few cores. Then every board is due once a second, and polls are counted:
how even are shares? There are so many boards that batches are full with any number of collectors.

Rounds are interleaved. Writes ``collectors.json`` beside this file; ``--write`` puts the table into
docs/performance.md. (``python -m bench.collectors work URL NAME INTERVAL`` is one collector.)
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import redis
import uvloop

from bench import stage, table
from bench.boards import board_id
from bench.growth import Place, redis_cpu_s, register
from bench.processes import end_when_asked, running
from espnet.clock import SystemClock
from espnet.collector import Collector
from espnet.store import Store

BOARDS, COUNTS, ROUNDS, SECONDS = 1_536, (1, 2, 3), 5, 5.0
#: So short an interval is always over; and the one at which shares are counted, in seconds.
ALWAYS_S, EVEN_S = 0.001, 1.0
#: Pause of a collector that found nothing due, in seconds: always due, and once a second.
PAUSE_S, HEARTBEAT_S = 0.001, 0.1
#: How long collectors may take until all devices have one and every connection is made, in seconds.
WARM_S, WARM_POLLS = 20.0, 5
RESULTS = Path(__file__).with_name("collectors.json")


class Window(msgspec.Struct, frozen=True):
    """What one round with so many collectors showed; of each collector in the order of their names."""

    collectors: int
    wall_s: float
    polls: list[int]
    cpu_s: list[float]
    redis_cpu_s: float
    devices: list[int]

    @property
    def each(self) -> list[float]:
        """Polls per CPU-second of each."""
        return [polls / cpu_s for polls, cpu_s in zip(self.polls, self.cpu_s, strict=True)]


class Result(msgspec.Struct, frozen=True):
    always: list[Window]
    once_a_second: list[Window]


# --- one collector ------------------------------------------------------------------------------


async def work(url: str, name: str, interval_s: float) -> None:
    """Polls until standard input ends; each line of it is answered with polls and CPU-seconds so far."""
    clock = SystemClock()
    store = Store(url)
    collector = Collector(store, clock, holder=name, interval_s=interval_s, timeout_s=2.0)
    polls = 0
    has_ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def answer() -> None:
        for _ in sys.stdin:
            print(json.dumps({"polls": polls, "cpu_s": time.process_time()}), flush=True)
        loop.call_soon_threadsafe(has_ended.set)

    threading.Thread(target=answer, daemon=True).start()
    is_always_due = interval_s == ALWAYS_S
    while not has_ended.is_set():
        tick = await collector.tick(clock.now())
        if tick.failed:
            raise SystemExit(f"not every board was polled: {tick}")
        polls += tick.ok
        if not is_always_due:
            await asyncio.sleep(HEARTBEAT_S)
        elif not tick.ok:
            await asyncio.sleep(PAUSE_S)
    await collector.close()
    store.close()


class Worker:
    """The process of one collector."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def told(self) -> tuple[int, float]:
        """Polls and CPU-seconds until now."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a collector ended by itself")
        found = json.loads(line)
        return found["polls"], found["cpu_s"]


# --- one window ---------------------------------------------------------------------------------


@contextlib.contextmanager
def emptied(url: str) -> Iterator[None]:
    """The stream and its books go all the time, so that it neither grows nor comes to its bound."""
    stop = threading.Event()

    def run() -> None:
        with redis.Redis.from_url(url) as client:
            while not stop.wait(0.2):
                client.delete("espnet:samples", "espnet:books")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def window(places: Sequence[Place], count: int, interval_s: float, seconds: float) -> Window:
    """So many collectors over these boards. Raises `RuntimeError` where one ends."""
    with (
        contextlib.ExitStack() as stack,
        stage.redis_server() as url,
        redis.Redis.from_url(url) as client,
        emptied(url),
    ):
        names = [f"collector{number}" for number in range(count)]
        workers = []
        for name in names:
            command = [sys.executable, "-m", "bench.collectors", "work", url, name, f"{interval_s}"]
            workers.append(
                Worker(
                    stack.enter_context(
                        running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                    )
                )
            )
        wait_for(lambda: client.zcard("espnet:presence") == count)
        register(url, places, time.time(), interval_s)
        wait_for(lambda: all(w.told()[0] >= WARM_POLLS * len(places) / count for w in workers))
        before, redis_s, began = [w.told() for w in workers], redis_cpu_s(client), time.monotonic()
        time.sleep(seconds)
        after, redis_s = [w.told() for w in workers], redis_cpu_s(client) - redis_s
        return Window(
            count,
            time.monotonic() - began,
            [new[0] - old[0] for new, old in zip(after, before, strict=True)],
            [new[1] - old[1] for new, old in zip(after, before, strict=True)],
            redis_s,
            [client.zcard(f"espnet:due:{name}") for name in names],
        )


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WARM_S
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the collectors did not get to work in {WARM_S:g} s")
        time.sleep(0.05)


# --- all of them --------------------------------------------------------------------------------


def sums(result: Result) -> dict[int, list[float]]:
    """For each number of collectors: the sum of polls per CPU-second of each, as a multiple of what one
    alone did in the same round."""
    alone = [sum(found.each) for found in result.always if found.collectors == 1]
    return {
        count: [
            sum(found.each) / one
            for found, one in zip(
                [found for found in result.always if found.collectors == count], alone, strict=True
            )
        ]
        for count in dict.fromkeys(found.collectors for found in result.always)
    }


def unevenness(counts: Sequence[int]) -> float:
    """How far the one that is farthest from the average is from it."""
    mean = statistics.mean(counts)
    return max(abs(count - mean) for count in counts) / mean


def markdown(result: Result, boards: int) -> str:
    head = ["collectors", "polls per CPU-second, each", "sum, to one alone", "Redis CPU, µs a poll"]
    head += ["polls per second here", "devices each", "polls each, once a second", "uneven by"]
    lines = [f"| {' | '.join(head)} |", f"|{'---:|' * len(head)}"]
    for count, times in sums(result).items():
        found = [some for some in result.always if some.collectors == count]
        even = [some for some in result.once_a_second if some.collectors == count]
        row = [
            f"{count}",
            f"{statistics.median(statistics.mean(some.each) for some in found):,.0f}",
            f"{statistics.median(times):.2f} × ({min(times):.2f} to {max(times):.2f})",
            f"{statistics.median(1e6 * some.redis_cpu_s / sum(some.polls) for some in found):.1f}",
            f"{statistics.median(sum(some.polls) / some.wall_s for some in found):,.0f}",
            ", ".join(map(str, even[-1].devices)),
            ", ".join(f"{polls:,}" for polls in even[-1].polls),
            f"{max(unevenness(some.polls) for some in even):.1%}",
        ]
        lines.append(f"| {' | '.join(row)} |")
    rounds = sum(some.collectors == 1 for some in result.always)
    lines += [
        "",
        f"{boards} stand-in boards, two jobs a device, medians of {rounds} interleaved rounds.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    asked = argparse.ArgumentParser(prog="python -m bench.collectors")
    asked.add_argument("--boards", type=int, default=BOARDS)
    asked.add_argument("--counts", default=",".join(map(str, COUNTS)))
    asked.add_argument("--rounds", type=int, default=ROUNDS)
    asked.add_argument("--seconds", type=float, default=SECONDS, help="of one window")
    asked.add_argument("--write", action="store_true", help="into docs/ too")
    options = asked.parse_args()
    end_when_asked()
    counts = sorted({1, *map(int, options.counts.split(","))})
    result = Result([], [])
    with stage.boards(("changing", str(options.boards))) as crowd:
        places = [Place(board_id(n), f"127.0.0.1:{port}") for n, port in enumerate(crowd.ports)]
        for number in range(options.rounds):
            for count in counts:
                found = window(places, count, ALWAYS_S, options.seconds)
                print(f"round {number + 1}: {found}", file=sys.stderr, flush=True)
                result.always.append(found)
        for count in counts:
            found = window(places, count, EVEN_S, max(10.0, options.seconds))
            print(f"once a second: {found}", file=sys.stderr, flush=True)
            result.once_a_second.append(found)
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    print(markdown(result, options.boards))
    if options.write:
        table.write("collectors", markdown(result, options.boards))


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        uvloop.run(work(sys.argv[2], sys.argv[3], float(sys.argv[4])))
    else:
        main()
