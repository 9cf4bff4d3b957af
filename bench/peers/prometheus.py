"""Prometheus, as Debian packages it, scraping the same boards."""

import contextlib
import json
import re
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import debian
from bench.peers import Unfit
from bench.processes import running
from bench.stage import PACED_EVERY_S, PACED_WINDOWS, Boards, Figures, Stopwatch, free_port

#: Between two scrapes of a board, in milliseconds, at first; it grows until they all happen.
INTERVAL_MS, SLOWER, SLOWEST_MS = 10, 1.5, 200
SAMPLES = 35


class Prometheus:
    name, title, boards = "prometheus", "Prometheus", ("changing",)
    uses_redis = False
    does = (
        "Debian's package, scraping 35 samples a board as text, with kept connections, into its own database "
        "on disk. It reads no JSON, so boards give it the same values in its own format. It scrapes as often "
        "as it keeps up with. No Redis, jobs, locks or passwords; its rules and alerts are not used"
    )

    def __init__(self) -> None:
        self._interval_ms = INTERVAL_MS

    def available(self) -> str | None:
        try:
            if debian.program("prometheus") is None:
                debian.unpack("prometheus")
            self._program = debian.program("prometheus")
        except debian.NotThere as error:
            return str(error)
        return None if self._program else "the package has no program of that name"

    def version(self) -> str:
        told = subprocess.run(
            [self._program, "--version"], capture_output=True, text=True, check=True
        )
        found = re.search(r"version (\S+)", told.stdout + told.stderr)
        return f"Prometheus {found[1].partition('+')[0] if found else '?'}"

    def run(self, crowd: Boards, redis_url: str, seconds: float) -> Figures:
        while True:
            try:
                figures = self._run(crowd, redis_url, seconds)
                share = figures.polls / figures.wall_s * self._interval_ms / 1000 / len(crowd.ports)
                what = f"of the scrapes that it was to make it made {share:.0%}"
            except Unfit as error:  # boards answered, and it had given up waiting for most of them
                share, what = 0.0, str(error)
            if share > 0.95:
                return figures
            self._interval_ms = round(self._interval_ms * SLOWER)
            if self._interval_ms > SLOWEST_MS:
                raise Unfit(what)

    def _run(self, crowd: Boards, redis_url: str, seconds: float) -> Figures:
        boards = [f"127.0.0.1:{port}" for port in crowd.ports]
        with self.scraping(boards, self._interval_ms) as (process, address):
            figures = Stopwatch(crowd, redis_url).measure(process, seconds)
            _check(address, len(boards))
        return figures

    @contextlib.contextmanager
    def scraping(
        self, boards: Sequence[str], interval_ms: int
    ) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """A fresh process that scrapes these addresses for as long as the block lasts; and its own."""
        with tempfile.TemporaryDirectory(prefix="espnet-bench-") as name:
            folder = Path(name)
            targets = ", ".join(f"'{board}'" for board in boards)
            (folder / "prometheus.yml").write_text(
                f"global: {{scrape_interval: {interval_ms}ms, scrape_timeout: {interval_ms}ms}}\n"
                "scrape_configs:\n"
                f"  - {{job_name: boards, static_configs: [{{targets: [{targets}]}}]}}\n"
            )
            address = f"127.0.0.1:{free_port()}"
            command = [
                *(self._program, f"--config.file={folder / 'prometheus.yml'}"),
                *(f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"),
                "--log.level=error",
            ]
            with running(command) as process:
                yield process, address


class PacedPrometheus(Prometheus):
    name, title = "prometheus_at_1000", "Prometheus, at 1,000 polls a second"
    does = "the same at the pace of EspNet's row of that name: each of the 100 boards every 100 ms"

    def run(self, crowd: Boards, redis_url: str, seconds: float) -> Figures:
        self._interval_ms = round(PACED_EVERY_S * 1000)
        figures = self._run(crowd, redis_url, seconds * PACED_WINDOWS)
        share = figures.polls / figures.wall_s * PACED_EVERY_S / len(crowd.ports)
        if share < 0.95:
            raise Unfit(f"of the scrapes that it was to make it made {share:.0%}")
        return figures


def _check(address: str, boards: int) -> None:
    """What it stored must be what the boards say. Raises `Unfit`."""
    url = f"http://{address}/api/v1/query?query=sum(scrape_samples_scraped)"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = json.load(answer)["data"]["result"]
    samples = float(found[0]["value"][1]) if found else 0
    if samples < 0.9 * boards * SAMPLES:
        raise Unfit(f"the last scrapes had {samples:.0f} samples, not {boards * SAMPLES}")
