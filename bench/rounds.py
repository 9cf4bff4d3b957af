"""Interleaved rounds of everybody, and what comes out: one `Result` a system, the same keys in each.

Machines are shared and noisy, and a slow minute must not be one system's. So each round measures everybody
once, and the medians of the rounds count.
"""

import os
import platform
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import redis

from bench import stage
from bench.peers import Peer, Unfit
from bench.stage import Figures

#: A round that fails for some reason of the moment is made again, so often.
TRIES = 2


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One system. Figures are None where it was skipped, Redis's where it uses none. ``skipped`` says why.

    ``cpu`` is that of its whole process tree; ``redis_…`` and ``boards_…`` are not part of it. Memory is
    resident, of the tree; commands are counted inside of scripts too, bytes in both directions.
    """

    name: str
    title: str
    version: str = ""
    does: str
    skipped: str | None = None
    measured_on: str
    boards: int = 0
    rounds: int = 0
    polls_per_cpu_s: float | None = None
    polls_per_cpu_s_each_round: list[float] = []
    polls_per_s: float | None = None
    rss_kb: float | None = None
    redis_cpu_us_per_poll: float | None = None
    redis_round_trips_per_poll: float | None = None
    redis_commands_per_poll: float | None = None
    redis_bytes_per_poll: float | None = None
    boards_cpu_us_per_poll: float | None = None


def machine() -> str:
    """What the figures were measured on."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), {memory_gib:.0f} GiB, "
        f"Linux {platform.release().partition('-')[0]}"
    )


def measure(
    peers: Sequence[Peer], rounds: int, seconds: float, say: Callable[[str], object]
) -> dict[str, Result]:
    """Everybody's results, by name; who cannot run is said and skipped."""
    skipped: dict[str, str] = {}
    for peer in peers:
        if reason := peer.available():
            skipped[peer.name] = reason
            say(f"{peer.title} is skipped: {reason}.")
    found: dict[str, list[Figures]] = {peer.name: [] for peer in peers}
    with stage.redis_server() as url, redis.Redis.from_url(url) as client:
        for number in range(rounds):
            for peer in peers:
                if peer.name in skipped:
                    continue
                try:
                    figures = _round(peer, url, seconds)
                except (Unfit, RuntimeError) as error:
                    skipped[peer.name] = str(error)
                    say(f"{peer.title} is skipped: {error}.")
                    continue
                finally:
                    client.flushall()
                found[peer.name].append(figures)
                say(
                    f"round {number + 1} of {rounds}: {peer.title}: "
                    f"{figures.polls / figures.cpu_s:,.0f} polls per CPU-second"
                )
    return {peer.name: _result(peer, found[peer.name], skipped.get(peer.name)) for peer in peers}


def _round(peer: Peer, url: str, seconds: float) -> Figures:
    for left in reversed(range(TRIES)):
        with stage.boards(peer.boards) as crowd:
            try:
                figures = peer.run(crowd, url, seconds)
                if not figures.polls:
                    raise Unfit("it polled nobody while it was watched")
                return figures
            except (Unfit, RuntimeError):
                if not left:
                    raise
    raise AssertionError("unreachable")


def _result(peer: Peer, rounds: Sequence[Figures], skipped: str | None) -> Result:
    known = {"name": peer.name, "title": peer.title, "does": peer.does, "measured_on": machine()}
    if skipped is not None or not rounds:
        return Result(**known, skipped=skipped or "no round was made")

    def median(of: Callable[[Figures], float], digits: int = 0) -> float:
        return round(statistics.median(map(of, rounds)), digits or None)

    of_redis = {}
    if peer.uses_redis:
        of_redis = {
            "redis_cpu_us_per_poll": median(lambda r: r.redis_cpu_s * 1e6 / r.polls, 1),
            "redis_round_trips_per_poll": median(lambda r: r.redis_reads / r.polls, 4),
            "redis_commands_per_poll": median(lambda r: r.redis_commands / r.polls, 2),
            "redis_bytes_per_poll": median(lambda r: r.redis_bytes / r.polls),
        }
    return Result(
        **known,
        **of_redis,
        version=peer.version(),
        boards=rounds[0].boards,
        rounds=len(rounds),
        polls_per_cpu_s=median(lambda r: r.polls / r.cpu_s),
        polls_per_cpu_s_each_round=[round(r.polls / r.cpu_s) for r in rounds],
        polls_per_s=median(lambda r: r.polls / r.wall_s),
        rss_kb=median(lambda r: r.rss_kb),
        boards_cpu_us_per_poll=median(lambda r: r.boards_cpu_s * 1e6 / r.polls, 1),
    )
