"""`python -m bench.soak`: `espcli run` over many boards for a while, with what it and Redis take over time.

    python -m bench.soak [--boards N] [--static] [--interval S] [--minutes M] [--warm-up S]
                         [--queue-mb MB] [--history-mb MB] [--name NAME] [--write]
    python -m bench.soak --all [--minutes M] [--write]

Boards are those of `espcli simulate`: the real firmware in a process each, or light ones with ``--static``.
One `espcli run` polls them, with its history and two jobs a device, for a warm-up and then so many minutes.

What was missed, and how late polls were, is told as in `bench.growth`: a deadline is missed when a device
was not polled at all before its next date. Slopes are straight lines through what was seen in the second
half of the minutes: in the first one caches and arenas fill. The history, and the stream where samples wait
on it, grow until they have what they may have: so Redis's memory is told with and without them.
``--queue-mb`` and ``--history-mb`` set those bounds, low ones for a run that reaches them; with
``--queue-mb`` samples wait on the stream for a sink that never comes.

``--all`` makes the three runs of docs/performance.md one after the other. Each ends up in ``soak.json``
beside this file under its name; ``--write`` draws docs/soak.png and puts the table into docs/performance.md.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import redis

from bench import stage, table
from bench.growth import Place, Watcher, espcli_run, kept_bytes, quantile, redis_cpu_s, register
from bench.processes import Tree, end_when_asked, running

#: Between two looks at memory, and between two at what the history takes, which is many keys: in seconds.
LOOK_S, PARTS_S = 5.0, 30.0
#: After so many seconds a collector without devices has all that it needs.
EMPTY_S = 5.0
#: How many keys are asked for at once.
AT_ONCE = 500
#: The width of a column of the picture of lateness, in seconds.
BIN_S = 10.0
MINUTES_A_DAY = 24 * 60
RESULTS = Path(__file__).with_name("soak.json")
PICTURE = Path(__file__).parent.parent / "docs" / "soak.png"
DRAFT = Path(__file__).parent.parent / "build" / "bench" / "soak.png"

#: What `--all` runs: options by name.
RUNS: Mapping[str, Mapping[str, Any]] = {
    "1,000 boards with the real firmware": {"boards": 1_000, "interval": 5.0},
    "10,000 light boards": {"boards": 10_000, "interval": 10.0, "static": True},
    "1,000 light boards, all bounds reached": {
        "boards": 1_000,
        "interval": 5.0,
        "static": True,
        "queue_mb": 1,
        "history_mb": 2,
    },
}


class Look(msgspec.Struct, frozen=True):
    """What was taken at one moment, seconds after the warm-up. ``past_bytes`` is of history and stream; it is
    None where nobody looked."""

    at_s: float
    rss_kb: int
    redis_bytes: int
    redis_rss_bytes: int
    past_bytes: int | None = None


class Late(msgspec.Struct, frozen=True):
    """Polls whose dates lie within one `BIN_S`."""

    at_s: float
    p50_s: float
    p99_s: float
    most_s: float


class Soak(msgspec.Struct, frozen=True, kw_only=True):
    """One run. CPU is CPU-seconds a second; slopes are bytes a minute of all devices together.

    ``empty_rss_kb`` is of a collector without devices.
    """

    boards: int
    is_static: bool
    interval_s: float
    warm_up_s: float
    minutes: float
    queue_mb: int | None
    history_mb: int | None
    polls: int
    missed: int
    slowed: int
    faults: int
    late_p50_s: float
    late_p99_s: float
    late_most_s: float
    cpu: float
    redis_cpu: float
    load: float
    rss_kb: int
    empty_rss_kb: int
    redis_bytes_per_device: int
    rss_slope: float
    redis_slope: float
    rest_slope: float
    past_slope: float
    looks: tuple[Look, ...]
    late: tuple[Late, ...]


# --- boards -------------------------------------------------------------------------------------


@contextlib.contextmanager
def simulated(count: int, static: bool) -> Iterator[list[Place]]:
    """Boards of `espcli simulate`, all of which answer."""
    command = [sys.executable, "-P", "-m", "espnet.cli", "simulate", str(count), "--json"]
    command += ["--beacons", "off", *(["--static"] if static else [])]
    root = str(Path(__file__).parent.parent)
    with running(command, stdout=subprocess.PIPE, env={"PYTHONPATH": root}) as process:
        assert process.stdout is not None
        places = []
        for line in process.stdout:
            told = json.loads(line)
            places.append(Place(told["id"], told["address"]))
            if len(places) == count:
                break
        else:
            raise SystemExit(f"`espcli simulate` ended after {len(places)} boards.")
        yield places


# --- looking ------------------------------------------------------------------------------------


class Looker:
    """Looks at memory all the time, from a thread."""

    def __init__(self, url: str, pid: int, start: float) -> None:
        self._client, self._tree, self._start = redis.Redis.from_url(url), Tree(pid), start
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="looker", daemon=True)
        self.looks: list[Look] = []

    def __enter__(self) -> "Looker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        next_parts = 0.0
        while not self._stop.wait(LOOK_S):
            at_s = time.time() - self._start
            past = None
            if at_s >= next_parts:
                past, next_parts = past_bytes(self._client), at_s + PARTS_S
            told = self._client.info("memory")
            self.looks.append(
                Look(
                    round(time.time() - self._start, 1),
                    self._tree.rss_kb(),
                    told["used_memory"],
                    told["used_memory_rss"],
                    past,
                )
            )


def past_bytes(client: redis.Redis) -> int:
    """Memory of the stream and of the history. Every key of the history has an entry beside its value."""
    found, keys = 0, [b"espnet:samples", b"espnet:history"]
    for key in client.scan_iter("espnet:history:*", count=AT_ONCE):
        keys.append(key)
        if len(keys) >= AT_ONCE:
            found += _bytes_of(client, keys)
            keys.clear()
    return found + _bytes_of(client, keys)


def _bytes_of(client: redis.Redis, keys: Sequence[bytes]) -> int:
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.memory_usage(key, samples=0)
        return sum(size or 0 for size in pipe.execute())


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The rise a minute of the straight line that is nearest to (seconds, value)."""
    if len(points) < 2:
        return 0.0
    return round(60 * statistics.linear_regression(*zip(*points, strict=True)).slope, 1)


def in_bins(late: Sequence[tuple[float, float]]) -> list[Late]:
    """Lateness by when the polls were due: (seconds, lateness) in columns."""
    bins: dict[int, list[float]] = {}
    for at_s, late_s in late:
        bins.setdefault(int(at_s // BIN_S), []).append(late_s)
    return [
        Late(number * BIN_S, quantile(some, 0.5), quantile(some, 0.99), some[-1])
        for number, some in sorted((number, sorted(some)) for number, some in bins.items())
    ]


# --- one run ------------------------------------------------------------------------------------


def soak(
    boards: int,
    interval: float,
    *,
    minutes: float,
    warm_up: float,
    static: bool = False,
    queue_mb: int | None = None,
    history_mb: int | None = None,
) -> Soak:
    """One run, as its options say. Raises `RuntimeError` where the collector ends."""
    env = {
        name: str(value)
        for name, value in (("ESPNET_QUEUE_MB", queue_mb), ("ESPNET_HISTORY_MB", history_mb))
        if value is not None
    }
    with (
        simulated(boards, static) as places,
        stage.redis_server() as url,
        redis.Redis.from_url(url) as client,
    ):
        with espcli_run(url, interval, 1.0, env=env) as process:
            time.sleep(EMPTY_S)
            empty_kb = Tree(process.pid).rss_kb()
        first = time.time() + 2.0 + 0.0005 * boards
        dates = register(url, places, first, interval)
        sinks = None if queue_mb is not None else "none"
        with (
            espcli_run(url, interval, 1.0, sinks=sinks, env=env) as process,
            Watcher(url, dates, interval) as watcher,
        ):
            tree = Tree(process.pid)
            since = first + max(warm_up, 1.5 * interval)
            with Looker(url, process.pid, since) as looker:
                time.sleep(since - time.time())
                cpu_s, redis_s = tree.cpu_s(), redis_cpu_s(client)
                began, loads = time.monotonic(), []
                while (left_s := minutes * 60 - (time.monotonic() - began)) > 0:
                    time.sleep(min(left_s, 10.0))
                    loads.append(float(Path("/proc/loadavg").read_text().split()[0]))
                    if process.poll() is not None:
                        raise RuntimeError(f"espcli run ended with exit code {process.returncode}")
                wall_s = time.monotonic() - began
                cpu_s, redis_s = tree.cpu_s() - cpu_s, redis_cpu_s(client) - redis_s
                until = time.time()
                rss_kb = tree.rss_kb()
                time.sleep(interval / 3 + 0.5)  # the watcher's last look
        late, missed = watcher.dated(since, until - 0.5)
        some = sorted(late_s for _, late_s in late)
        readings = client.hvals("espnet:readings")
        after = [look for look in looker.looks if look.at_s >= wall_s / 2]
        parted = [look for look in after if look.past_bytes is not None]
        return Soak(
            boards=boards,
            is_static=static,
            interval_s=interval,
            warm_up_s=since - first,
            minutes=round(wall_s / 60, 2),
            queue_mb=queue_mb,
            history_mb=history_mb,
            polls=len(late),
            missed=missed,
            slowed=sum(json.loads(raw).get("pace") is not None for raw in readings),
            faults=client.hlen("espnet:faults"),
            late_p50_s=quantile(some, 0.5),
            late_p99_s=quantile(some, 0.99),
            late_most_s=quantile(some, 1.0),
            cpu=round(cpu_s / wall_s, 4),
            redis_cpu=round(redis_s / wall_s, 4),
            load=round(statistics.mean(loads), 1),
            rss_kb=rss_kb,
            empty_rss_kb=empty_kb,
            redis_bytes_per_device=round(kept_bytes(client) / boards),
            rss_slope=slope([(look.at_s, 1024 * look.rss_kb) for look in after]),
            redis_slope=slope([(look.at_s, look.redis_bytes) for look in after]),
            rest_slope=slope([(k.at_s, k.redis_bytes - (k.past_bytes or 0)) for k in parted]),
            past_slope=slope([(look.at_s, look.past_bytes or 0) for look in parted]),
            looks=tuple(looker.looks),
            late=tuple(in_bins([(date - since, late_s) for date, late_s in late])),
        )


# --- all runs -----------------------------------------------------------------------------------


def markdown(results: Mapping[str, Soak]) -> str:
    def a_day(bytes_a_minute: float) -> str:
        return f"{bytes_a_minute * MINUTES_A_DAY / 2**20:+,.1f} MB"

    def a_device(run: Soak, bytes_a_minute: float) -> str:
        return f"{bytes_a_minute / run.boards:+,.1f} B"

    rows: list[tuple[str, Any]] = [
        ("polled each", lambda r: f"{r.interval_s:g} s for {r.minutes:g} min"),
        ("polls", lambda r: f"{r.polls:,}"),
        ("missed deadlines", lambda r: f"{r.missed:,}"),
        ("boards that were slowed, failing at the end", lambda r: f"{r.slowed}, {r.faults}"),
        (
            "late: p50, p99, most",
            lambda r: f"{r.late_p50_s:.2f}, {r.late_p99_s:.2f}, {r.late_most_s:.2f} s",
        ),
        ("CPU of `espcli run`, of one core", lambda r: f"{r.cpu:.1%}"),
        ("CPU of Redis", lambda r: f"{r.redis_cpu:.1%}"),
        (
            "memory of `espcli run`",
            lambda r: f"{r.rss_kb / 1024:.0f} MB ({r.empty_rss_kb / 1024:.0f} MB without devices)",
        ),
        (
            "the same, a device",
            lambda r: f"{(r.rss_kb - r.empty_rss_kb) * 1.024 / r.boards:.1f} kB",
        ),
        (
            "its slope, a minute and device; a day",
            lambda r: f"{a_device(r, r.rss_slope)}; {a_day(r.rss_slope)}",
        ),
        ("Redis, records of a device", lambda r: f"{r.redis_bytes_per_device:,} B"),
        ("Redis, all of it, at the end", lambda r: f"{r.looks[-1].redis_bytes / 2**20:.0f} MB"),
        (
            "slope of history and stream",
            lambda r: f"{a_device(r, r.past_slope)}; {a_day(r.past_slope)}",
        ),
        (
            "slope of the rest",
            lambda r: f"{a_device(r, r.rest_slope)}; {a_day(r.rest_slope)}",
        ),
        ("load of the machine meanwhile", lambda r: f"{r.load:.1f}"),
    ]
    lines = [f"| | {' | '.join(results)} |", f"|---|{'---:|' * len(results)}"]
    for what, show in rows:
        lines.append(f"| {what} | {' | '.join(show(run) for run in results.values())} |")
    return "\n".join(lines) + "\n"


def draw(results: Mapping[str, Soak], path: Path) -> None:
    """A row a run: memory of the collector, memory of Redis, lateness; over minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (12, 3.1 * len(results))
    figure, rows = pyplot.subplots(
        len(results), 3, figsize=size, layout="constrained", squeeze=False
    )
    for (name, run), (rss, store, late) in zip(results.items(), rows, strict=True):
        minutes = [look.at_s / 60 for look in run.looks]
        rss.plot(minutes, [look.rss_kb / 1024 for look in run.looks], color="#1f6f8b")
        rss.set_title(f"{name}: espcli run, MB", loc="left", fontsize=10)
        store.plot(
            minutes,
            [look.redis_bytes / 2**20 for look in run.looks],
            color="#d1495b",
            label="all",
        )
        parted = [look for look in run.looks if look.past_bytes is not None]
        store.plot(
            [look.at_s / 60 for look in parted],
            [(look.redis_bytes - (look.past_bytes or 0)) / 2**20 for look in parted],
            ".-",
            color="#1f6f8b",
            label="without history and stream",
        )
        store.set_title("Redis, MB", loc="left", fontsize=10)
        at = [some.at_s / 60 for some in run.late]
        for label, values, color in (
            ("half", [some.p50_s for some in run.late], "#1f6f8b"),
            ("99 of 100", [some.p99_s for some in run.late], "#d1495b"),
            ("latest", [some.most_s for some in run.late], "#9aa5ad"),
        ):
            late.plot(at, values, color=color, label=label)
        late.set_title(f"begun within, s (each {run.interval_s:g} s)", loc="left", fontsize=10)
        for axes in (rss, store, late):
            axes.set_ylim(bottom=0)
            axes.set_xlabel("minutes after the warm-up")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
        store.legend(frameon=False, fontsize=8)
        late.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def main() -> None:
    asked = argparse.ArgumentParser(prog="python -m bench.soak")
    asked.add_argument("--boards", type=int, default=1_000)
    asked.add_argument("--static", action="store_true", help="light boards")
    asked.add_argument("--interval", type=float, default=5.0)
    asked.add_argument("--minutes", type=float, default=10.0)
    asked.add_argument("--warm-up", type=float, default=150.0)
    asked.add_argument("--queue-mb", type=int)
    asked.add_argument("--history-mb", type=int)
    asked.add_argument("--name")
    asked.add_argument("--all", action="store_true")
    asked.add_argument("--write", action="store_true", help="into docs/ too")
    options = vars(asked.parse_args())
    end_when_asked()
    everything, write, name = (options.pop(word) for word in ("all", "write", "name"))
    minutes, warm_up = options.pop("minutes"), options.pop("warm_up")
    name = name or f"{options['boards']:,} {'light ' if options['static'] else ''}boards"
    for each, how in (RUNS if everything else {name: options}).items():
        found = soak(**how, minutes=minutes, warm_up=warm_up)
        results: dict[str, Soak] = {}
        with contextlib.suppress(FileNotFoundError):
            results = msgspec.json.decode(RESULTS.read_bytes(), type=dict[str, Soak])
        results[each] = found
        RESULTS.write_bytes(msgspec.json.encode(results) + b"\n")
        print(markdown({each: found}), flush=True)
    if write:
        table.write("soak", markdown(results))
    draw(results, PICTURE if write else DRAFT)
    print(f"Written to {RESULTS} and {PICTURE if write else DRAFT}.", file=sys.stderr)


if __name__ == "__main__":
    main()
