"""`python -m bench.growth`: what more boards cost `espcli run`, at an interval in real time.

    python -m bench.growth [--sizes 100,1000,10000] [--interval S] [--window S] [--heartbeat HZ]
                           [--boards FILE] [--beside prometheus] [--write]

For each size: boards, an embedded Redis, and one `espcli run` as a user starts it, with its history and two
jobs a device; the dates are spread over the interval. After `WARM` intervals, in which every connection is
made, and what every device's jobs decide is known, a window is measured. ``--boards`` names a file that holds
addresses of boards that run already, such as what `espcli simulate --json` prints; without it there are
stand-ins of `bench.boards`. ``--beside prometheus`` has Prometheus scrape the same stand-ins at the same
interval.

A poll is late by the time between its date, which is known from how the device was registered, and its
begin, which its reading tells. So the waiting for the next heartbeat is in it. A deadline is missed when a
device was not polled at all before its next date.

Writes ``growth.json`` beside this file; ``--write`` also draws docs/growth.png and puts the
table into docs/performance.md.
"""

import argparse
import bisect
import contextlib
import http.client
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec
import redis

from bench import stage, table
from bench.boards import board_id, status
from bench.peers.prometheus import Prometheus
from bench.processes import Tree, end_when_asked, running
from bench.trip import JOBS
from espnet.model import Device, Reading, Threshold, encode

SIZES, INTERVAL_S, WINDOW_S = (100, 1_000, 2_500, 5_000, 10_000), 10.0, 30.0
#: Intervals before the window, for whoever is measured: the first poll of a board connects and remembers its
#: pins, the second one decides, and from the third on nothing is new.
WARM = 3.2
#: Most stand-ins of one process: a board is two open files.
IN_ONE_PROCESS = 4_000
#: How many readings are fetched at once: Redis shall not be held up by our looking.
AT_ONCE = 250
#: A poll that began by so much before a date belongs to that date, in seconds, and as a part of the interval
#: at most: clocks are no better.
EARLY_S, EARLY_SHARE = 0.2, 0.02
RESULTS = Path(__file__).with_name("growth.json")
PICTURE = Path(__file__).parent.parent / "docs" / "growth.png"
DRAFT = Path(__file__).parent.parent / "build" / "bench" / "growth.png"


class Place(NamedTuple):
    """A board that runs."""

    id: str
    address: str


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """One size. CPU is CPU-seconds a second of the whole process tree; Redis's stands beside it.

    ``redis_bytes_per_device`` holds what is kept of a device; the stream and the history, which have bounds
    of their own and grow towards them, are left out. Prometheus's are None where it was not asked for.
    """

    boards: int
    interval_s: float
    window_s: float
    heartbeat_hz: float
    polls: int
    missed: int
    cpu: float
    redis_cpu: float
    rss_kb: int
    redis_bytes_per_device: int
    late_p50_s: float
    late_p99_s: float
    late_most_s: float
    prometheus_cpu: float | None = None
    prometheus_rss_kb: int | None = None


# --- boards -------------------------------------------------------------------------------------


@contextlib.contextmanager
def stand_ins(count: int) -> Iterator[list[Place]]:
    """So many boards of `bench.boards`, in as few processes as their open files allow."""
    with contextlib.ExitStack() as stack:
        places: list[Place] = []
        while len(places) < count:
            first, some = len(places), min(IN_ONE_PROCESS, count - len(places))
            crowd = stack.enter_context(stage.boards(("changing", str(some), str(first))))
            places += [
                Place(board_id(first + n), f"127.0.0.1:{port}")
                for n, port in enumerate(crowd.ports)
            ]
        yield places


def running_already(path: Path) -> list[Place]:
    """The boards whose addresses a file holds; each is asked who it is."""

    def ask(address: str) -> Place:
        connection = http.client.HTTPConnection(address, timeout=10)
        try:
            connection.request("GET", "/")
            return Place(json.loads(connection.getresponse().read())["id"], address)
        finally:
            connection.close()

    text = path.read_text(encoding="utf-8")
    # What `espcli simulate --json` prints names other places too.
    found = re.findall(r'"address": ?"([^"]+)"', text)
    found = found or re.findall(r"\b(\d+\.\d+\.\d+\.\d+(?::\d+)?)\b", text)
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(ask, dict.fromkeys(found)))


# --- one size -----------------------------------------------------------------------------------


def register(
    url: str, places: Sequence[Place], start: float, interval_s: float
) -> dict[str, float]:
    """Registers them with two jobs each; returns each device's first date, spread over the interval.

    The records are those that `Store.add` and `Store.change_jobs` write, all at once.
    """
    dates = {}
    with redis.Redis.from_url(url) as client, client.pipeline(transaction=False) as pipe:
        for number, (device_id, address) in enumerate(places):
            name, date = f"board{number}", start + number / len(places) * interval_s
            device = Device(id=device_id, name=name, address=address, report_pins=(2,))
            body = msgspec.Raw(status(number))
            reading = Reading(at=0, poll_s=0, interval_s=interval_s, collector="", status=body)
            jobs = tuple(
                msgspec.structs.replace(job, input=f"{name}.f")
                if isinstance(job, Threshold)
                else job
                for job in JOBS
            )
            pipe.hset("espnet:devices", device_id, encode(device))
            pipe.hset("espnet:names", name, device_id)
            pipe.zadd("espnet:addresses", {f"{address} {device_id}": 0})
            pipe.hset("espnet:readings", device_id, encode(reading))
            pipe.hset("espnet:jobs", device_id, encode(jobs))
            pipe.zadd("espnet:due", {device_id: date})
            dates[device_id] = date
        pipe.incr("espnet:jobs_version")
        pipe.execute()
    return dates


class _Begun(msgspec.Struct):
    """What of a `Reading` is looked at here."""

    at: float
    poll_s: float


class Watcher:
    """Looks at all readings several times an interval, and notes when each poll began."""

    def __init__(self, url: str, dates: Mapping[str, float], interval_s: float) -> None:
        self._client, self._interval_s = redis.Redis.from_url(url), interval_s
        self._dates = dates
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        #: device → its polls' begins.
        self.begun: dict[str, set[float]] = {device_id: set() for device_id in dates}

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        decoder, ids = msgspec.json.Decoder(_Begun), list(self._dates)
        while not self._stop.wait(self._interval_s / 3):
            for first in range(0, len(ids), AT_ONCE):
                some = ids[first : first + AT_ONCE]
                for device_id, raw in zip(
                    some, self._client.hmget("espnet:readings", some), strict=True
                ):
                    reading = decoder.decode(raw)
                    if reading.at:
                        self.begun[device_id].add(round(reading.at - reading.poll_s, 4))

    def lateness(self, since: float, until: float) -> tuple[list[float], int]:
        """Of all dates of a window: how late the first poll for each was, and how many had none."""
        late, missed = self.dated(since, until)
        return [late_s for _, late_s in late], missed

    def dated(self, since: float, until: float) -> tuple[list[tuple[float, float]], int]:
        """The same with each date."""
        late, missed = [], 0
        early_s = min(EARLY_S, EARLY_SHARE * self._interval_s)
        for device_id, first in self._dates.items():
            begun = sorted(self.begun[device_id])
            date = first + max(0, -(-(since - first) // self._interval_s)) * self._interval_s
            while date + self._interval_s <= until:
                # A begin is an end, by one clock, less a time, by another one.
                early = date - early_s
                at = bisect.bisect_left(begun, early)
                if at == len(begun) or begun[at] >= early + self._interval_s:
                    missed += 1
                else:
                    late.append((date, max(0.0, begun[at] - date)))
                date += self._interval_s
        return late, missed


@contextlib.contextmanager
def espcli_run(
    url: str,
    interval_s: float,
    heartbeat_hz: float,
    *,
    sinks: str | None = "none",
    env: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A collector as a user starts it. Without ``sinks`` samples wait for some."""
    command = [sys.executable, "-P", "-m", "espnet.cli", "run", f"{heartbeat_hz:g}"]
    command += ["--sinks", sinks] if sinks else []
    command += ["--device_update_interval", f"{interval_s:g}"]
    root = str(Path(__file__).parent.parent)
    with tempfile.TemporaryDirectory(prefix="espnet-bench-") as folder:
        own = {"REDIS_URL": url, "ESPNET_DATA": folder, "ESPNET_BEACONS": "off", "PYTHONPATH": root}
        with running(command, env={**own, **(env or {})}) as process:
            yield process


def measure(
    places: Sequence[Place], interval_s: float, window_s: float, heartbeat_hz: float
) -> Growth:
    """One `espcli run` over these boards, in a window after its first intervals. Raises `RuntimeError`."""
    with stage.redis_server() as url, redis.Redis.from_url(url) as client:
        # A little ahead: registering takes some 0.2 ms a device, and the collector has to start.
        start = time.time() + 2.0 + 0.0005 * len(places)
        dates = register(url, places, start, interval_s)
        with (
            espcli_run(url, interval_s, heartbeat_hz) as process,
            Watcher(url, dates, interval_s) as watcher,
        ):
            tree = Tree(process.pid)
            time.sleep(start + WARM * interval_s - time.time())
            since, cpu_s, redis_s = time.time(), tree.cpu_s(), redis_cpu_s(client)
            time.sleep(window_s)
            until, cpu_s, redis_s = (
                time.time(),
                tree.cpu_s() - cpu_s,
                redis_cpu_s(client) - redis_s,
            )
            rss_kb = tree.rss_kb()
            if process.poll() is not None:
                raise RuntimeError(f"espcli run ended with exit code {process.returncode}")
            time.sleep(interval_s / 3 + 0.5)  # the watcher's last look
        late, missed = watcher.lateness(since, until - 0.5)
        late.sort()
        return Growth(
            boards=len(places),
            interval_s=interval_s,
            window_s=window_s,
            heartbeat_hz=heartbeat_hz,
            polls=len(late),
            missed=missed,
            cpu=round(cpu_s / (until - since), 4),
            redis_cpu=round(redis_s / (until - since), 4),
            rss_kb=rss_kb,
            redis_bytes_per_device=round(kept_bytes(client) / len(places)),
            late_p50_s=quantile(late, 0.5),
            late_p99_s=quantile(late, 0.99),
            late_most_s=quantile(late, 1.0),
        )


def beside(places: Sequence[Place], interval_s: float, window_s: float) -> tuple[float, int]:
    """What Prometheus takes for the same boards: CPU-seconds a second, resident memory in kB."""
    peer = Prometheus()
    if reason := peer.available():
        raise RuntimeError(f"Prometheus cannot run here: {reason}")
    with peer.scraping([place.address for place in places], round(interval_s * 1000)) as (
        process,
        _,
    ):
        tree = Tree(process.pid)
        time.sleep(WARM * interval_s)
        began, cpu_s = time.monotonic(), tree.cpu_s()
        time.sleep(window_s)
        share = (tree.cpu_s() - cpu_s) / (time.monotonic() - began)
        return round(share, 4), tree.rss_kb()


def redis_cpu_s(client: redis.Redis) -> float:
    told = client.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


def kept_bytes(client: redis.Redis) -> int:
    """Memory of what is kept of devices themselves."""
    keys = (
        "devices",
        "names",
        "addresses",
        "due",
        "readings",
        "faults",
        "jobs",
        "memory",
        "credentials",
    )
    keys += tuple(key.decode().removeprefix("espnet:") for key in client.scan_iter("espnet:due:*"))
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.memory_usage(f"espnet:{key}", samples=0)
        return sum(found or 0 for found in pipe.execute())


def quantile(ordered: Sequence[float], share: float) -> float:
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)


# --- all sizes ----------------------------------------------------------------------------------


def slope(results: Sequence[Growth]) -> tuple[float, float]:
    """CPU-µs a poll, and resident kB a device: the differences between the largest size and the smallest."""
    few, many = results[0], results[-1]
    boards = many.boards - few.boards
    return (
        (many.cpu - few.cpu) * many.interval_s / boards * 1e6,
        (many.rss_kb - few.rss_kb) / boards,
    )


def markdown(results: Sequence[Growth]) -> str:
    has_peer = any(result.prometheus_cpu is not None for result in results)
    head = [
        "boards",
        "CPU",
        "Redis CPU",
        "memory",
        "Redis, a device",
        "late p50",
        "p99",
        "most",
        "missed",
    ]
    if has_peer:
        head += ["Prometheus CPU", "its memory"]
    lines = [f"| {' | '.join(head)} |", f"|{'---:|' * len(head)}"]
    for result in results:
        row = [
            f"{result.boards:,}",
            f"{result.cpu:.2%}",
            f"{result.redis_cpu:.2%}",
            f"{result.rss_kb / 1024:.0f} MB",
            f"{result.redis_bytes_per_device:,} B",
            *(
                f"{late:.2f} s"
                for late in (result.late_p50_s, result.late_p99_s, result.late_most_s)
            ),
            f"{result.missed:,} of {result.polls + result.missed:,}",
        ]
        if has_peer and result.prometheus_cpu is not None:
            row += [
                f"{result.prometheus_cpu:.2%}",
                f"{(result.prometheus_rss_kb or 0) / 1024:.0f} MB",
            ]
        lines.append(f"| {' | '.join(row)} |")
    it = results[0]
    lines += [
        "",
        f"One `espcli run {it.heartbeat_hz:g}`, every board each {it.interval_s:g} s, two jobs a device, "
        f"windows of {it.window_s:g} s. CPU is a share of one core.",
    ]
    if len(results) > 1:
        cpu_us, rss_kb = slope(results)
        lines[-1] += (
            f" From the first row to the last: {cpu_us:.0f} µs of CPU a poll, {rss_kb:.1f} kB a device."
        )
    return "\n".join(lines) + "\n"


def draw(results: Sequence[Growth], path: Path) -> None:
    """Cost against number of boards, on linear axes: CPU, memory, lateness."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    boards = [result.boards for result in results]
    figure, (cpu, memory, late) = pyplot.subplots(1, 3, figsize=(12, 3.9), layout="constrained")

    def line(
        axes: object, values: Sequence[float | None], label: str, color: str, style: str = "-"
    ) -> None:
        if any(value is not None for value in values):
            axes.plot(boards, values, "o" + style, label=label, color=color, markersize=4)  # type: ignore[attr-defined]

    line(cpu, [100 * result.cpu for result in results], "espcli run", "#1f6f8b")
    line(cpu, [100 * result.redis_cpu for result in results], "Redis", "#d1495b")
    shares = [result.prometheus_cpu for result in results]
    line(cpu, [None if s is None else 100 * s for s in shares], "Prometheus", "#9aa5ad")
    straight = [100 * results[-1].cpu * count / boards[-1] for count in (0, boards[-1])]
    cpu.plot(
        [0, boards[-1]],
        straight,
        ":",
        color="#1f6f8b",
        alpha=0.6,
        label="from 0 to the last, straight",
    )
    cpu.set_title("CPU, % of one core", loc="left", fontsize=11)
    line(memory, [result.rss_kb / 1024 for result in results], "espcli run", "#1f6f8b")
    kept = [result.redis_bytes_per_device * result.boards / 2**20 for result in results]
    line(memory, kept, "Redis, of devices", "#d1495b")
    sizes = [result.prometheus_rss_kb for result in results]
    line(memory, [None if s is None else s / 1024 for s in sizes], "Prometheus", "#9aa5ad")
    memory.set_title("Memory, MB", loc="left", fontsize=11)
    line(late, [result.late_p50_s for result in results], "half of the polls", "#1f6f8b")
    line(late, [result.late_p99_s for result in results], "99 of 100", "#d1495b")
    late.set_title(
        f"Begun within, s (heartbeat {1 / results[0].heartbeat_hz:g} s)", loc="left", fontsize=11
    )
    for axes in (cpu, memory, late):
        axes.set_xlabel(f"boards, each polled every {results[0].interval_s:g} s")
        axes.set_xlim(0, boards[-1] * 1.04)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    asked = argparse.ArgumentParser(prog="python -m bench.growth")
    asked.add_argument("--sizes", default=",".join(map(str, SIZES)))
    asked.add_argument("--interval", type=float, default=INTERVAL_S)
    asked.add_argument("--window", type=float, default=WINDOW_S)
    asked.add_argument("--heartbeat", type=float, default=1.0)
    asked.add_argument("--boards", type=Path)
    asked.add_argument("--beside", choices=["prometheus"])
    asked.add_argument("--write", action="store_true", help="into docs/ too")
    options = asked.parse_args()
    end_when_asked()
    given = running_already(options.boards) if options.boards else None
    results = []
    for size in sorted(map(int, options.sizes.split(","))):
        if given is not None and size > len(given):
            raise SystemExit(f"{options.boards} holds {len(given)} boards, not {size}.")
        with stand_ins(size) if given is None else contextlib.nullcontext(given[:size]) as places:
            found = measure(places, options.interval, options.window, options.heartbeat)
            if options.beside:
                share, rss_kb = beside(places, options.interval, options.window)
                found = msgspec.structs.replace(
                    found, prometheus_cpu=share, prometheus_rss_kb=rss_kb
                )
        print(found, file=sys.stderr, flush=True)
        results.append(found)
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(results)) + b"\n")
    print(markdown(results))
    if options.write:
        table.write("growth", markdown(results))
    drawn = PICTURE if options.write else DRAFT
    drawn.parent.mkdir(parents=True, exist_ok=True)
    draw(results, drawn)
    print(f"Written to {RESULTS} and {drawn}.")


if __name__ == "__main__":
    main()
