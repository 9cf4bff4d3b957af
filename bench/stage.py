"""What every system meets: the same stand-in boards, a Redis of its own kind, the same stop-watch.

Invariants: boards and Redis are processes of their own, and their CPU is never a system's. What is counted
is what boards answered, not what a system says of itself. The watch starts when a system is warm, so that
nobody's start is measured, and stops while it still polls.
"""

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import redis

from bench.processes import Tree, running
from espnet import server

#: A system is warm when it has polled each board so often, and has until then, in seconds.
WARM_POLLS, WARM_WITHIN_S = 5, 60.0
#: Who polls at a pace polls all boards this often, in seconds, and is watched for so many windows: CPU is
#: told in hundredths of a second, and it takes few of them.
PACED_EVERY_S, PACED_WINDOWS = 0.1, 4
#: Between two looks whether it is, in seconds.
LOOK_S = 0.02


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one system cost in one window. Of Redis only what has a Redis; commands are counted inside of
    scripts too, ``reads`` is how often Redis read something from a socket."""

    boards: int
    polls: int
    wall_s: float
    cpu_s: float
    boards_cpu_s: float
    rss_kb: int
    redis_cpu_s: float
    redis_reads: float
    redis_commands: float
    redis_bytes: float


class Boards:
    """Stand-in boards that run."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.ports: list[int] = self._next()

    def _next(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def told(self) -> tuple[int, float]:
        """How often they told their status until now, and the CPU-seconds that they took for it."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found = self._next()
        return found["told"], found["cpu_s"]


@contextlib.contextmanager
def boards(options: Sequence[str] = ()) -> Iterator[Boards]:
    """Fresh stand-in boards; ``options`` are those of `bench.boards`."""
    command = [sys.executable, "-m", "bench.boards", *options]
    with running(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield Boards(process)


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """The URL of an embedded server of our own, as EspNet starts it, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="espnet-bench-") as folder:
        url = server.find(None, Path(folder), default_sockets=()).url
        try:
            yield url
        finally:
            server.stop(Path(folder))


class Stopwatch:
    """Measures whoever polls ``crowd``, with the Redis at ``url`` beside it."""

    def __init__(self, crowd: Boards, url: str) -> None:
        self._crowd, self._redis = crowd, redis.Redis.from_url(url)

    def measure(self, process: subprocess.Popen[str], seconds: float) -> Figures:
        """Waits until it is warm, then so many seconds. Raises `RuntimeError` when it does not get there."""
        tree, enough = (
            Tree(process.pid),
            self._crowd.told()[0] + WARM_POLLS * len(self._crowd.ports),
        )
        deadline = time.monotonic() + WARM_WITHIN_S
        while self._crowd.told()[0] < enough:
            if process.poll() is not None:
                raise RuntimeError(f"it ended by itself, with exit code {process.returncode}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"it did not get to poll in {WARM_WITHIN_S:.0f} s")
            time.sleep(LOOK_S)
        before = self._look(tree)
        time.sleep(seconds)
        after = self._look(tree)
        if process.poll() is not None:
            raise RuntimeError(
                f"it ended while it was measured, with exit code {process.returncode}"
            )
        spent = {name: after[name] - before[name] for name in before}
        spent["polls"] = int(spent["polls"])
        return Figures(**spent, boards=len(self._crowd.ports), rss_kb=tree.rss_kb())

    def _look(self, tree: Tree) -> dict[str, Any]:
        polls, boards_cpu_s = self._crowd.told()
        cpu_s = tree.cpu_s()
        stats, cpu = self._redis.info("stats"), self._redis.info("cpu")
        calls = self._redis.info("commandstats")
        return {
            "polls": polls,
            "wall_s": time.monotonic(),
            "cpu_s": cpu_s,
            "boards_cpu_s": boards_cpu_s,
            "redis_cpu_s": float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"]),
            "redis_reads": stats["total_reads_processed"],
            "redis_commands": sum(
                call["calls"] for name, call in calls.items() if name != "cmdstat_info"
            ),
            "redis_bytes": stats["total_net_input_bytes"] + stats["total_net_output_bytes"],
        }


def free_port() -> int:
    """A TCP port of 127.0.0.1 where nobody listened a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
