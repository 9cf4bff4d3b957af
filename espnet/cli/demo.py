"""`espcli demo`: the main job, live: boards, Redis, collector, intake; then the books.

Everything is real but the hardware and Datadog's end: the firmware runs on simulated boards, the
collector is `espcli run` in a process of its own, the samples leave through the datadog library.
Nothing of the user's own is touched: the demo has a private Redis and a private folder.
"""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from espnet import server
from espnet.cli.describe import describe
from espnet.clock import Clock, SystemClock
from espnet.errors import EspNetError
from espnet.model import View
from espnet.samples import Books
from espnet.simulator import Board, Fleet
from espnet.simulator.intake import Intake
from espnet.store import Store

KEY = "demo-key-of-no-value"
INTERVAL_S, UPLOAD_S = 1.0, 2.0
#: What the flaky board does, in turn: the fault, how it is limited, in words.
MISCHIEF: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("http_500", {"count": 1}, "answers HTTP 500 once"),
    ("refuse", {"for_s": 1.5}, "refuses connections for 1.5 s"),
    ("hang", {"count": 1}, "hangs once"),
    ("truncated", {"count": 1}, "sends half an answer"),
)
#: Seconds between two of them, so that the board is seen well in between.
MISCHIEF_EVERY_S = 6.0
REDRAW_S = 0.25
STOPS = (signal.SIGINT, signal.SIGTERM)


class _Stopped(BaseException):
    """Ctrl-C or SIGTERM. Not an `Exception`: nobody on the way may take it for a failure."""

    def __init__(self, number: int) -> None:
        self.number = number


def demo(seconds: float | None, clock: Clock | None = None) -> int:
    """Runs for ``seconds``, or until Ctrl-C when None; returns 0 if nothing was lost."""
    clock = clock or SystemClock()
    console = Console()
    stop = _Stop()
    previous = {number: signal.signal(number, stop) for number in STOPS}
    try:
        with ExitStack() as stack:
            return _demo(stack, console, seconds, clock, stop)
    except _Stopped as stopped:
        console.print("Stopped before there was anything to sum up.")
        return 128 + stopped.number
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Stop:
    """What the first signal does. While things are being started it waits for `check`: to interrupt the
    making of a process could leave it running with nobody who knows it."""

    def __init__(self) -> None:
        self.is_starting = True
        self._number: int | None = None

    def __call__(self, number: int, _: object) -> None:
        # One stop is enough: a second Ctrl-C must not leave half of it running.
        for each in STOPS:
            signal.signal(each, signal.SIG_IGN)
        self._number = number
        if not self.is_starting:
            raise _Stopped(number)

    def check(self) -> None:
        if self._number is not None:
            raise _Stopped(self._number)


def _demo(
    stack: ExitStack, console: Console, seconds: float | None, clock: Clock, stop: _Stop
) -> int:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="espnet-demo-")))
    console.print("Starting three boards, a Redis and an intake …", style="dim")
    boards = list(stack.enter_context(Fleet(3, seed=3, compiled=True)))
    stop.check()
    porch, attic, _ = boards
    # A room that loses heat and has a heater on pin 5; five minutes of it pass in a second.
    porch.set(
        room={
            "start_c": 18.0,
            "outside_c": 4.0,
            "heater_pin": 5,
            "heater_c_per_h": 14.0,
            "dht_pin": 4,
            "noise_c": 0.05,
            "speed": 300.0,
        }
    )
    attic.set(board_c=31.0, pins={"2": 1})
    stack.callback(server.stop, folder)  # before it starts: a stop may come in between
    redis = server.find(None, folder, default_sockets=())
    stop.check()
    intake = stack.enter_context(Intake(KEY))
    environ = {
        **os.environ,
        "REDIS_URL": redis.url,
        "ESPNET_PREFIX": "espnet:",
        "DATADOG_API_KEY": KEY,
        "DATADOG_HOST": intake.url,
        "ESPNET_INTERVAL": str(INTERVAL_S),
        "ESPNET_UPLOAD_INTERVAL": str(UPLOAD_S),
        "ESPNET_TIMEOUT": "1",
        "ESPNET_BEACONS": "off",
    }
    for board, name in zip(boards, ("porch", "attic", "flaky"), strict=True):
        _espcli(console, environ, stop, "register", board.address, name)
    _espcli(console, environ, stop, "device", "porch", "add_dht22", "air", "4")
    _espcli(console, environ, stop, "device", "attic", "report_pins", "2,4")
    heater = ("heater", "5", "00:00", "24", "0", "porch.dht22.air.temp", "20", "--band", "0.5")
    _espcli(
        console, environ, stop, "device", "porch", "add_threshold_job", *heater, "--stale", "off"
    )

    log = (folder / "collector.log").open("w")
    stack.callback(log.close)
    command = [sys.executable, "-P", "-m", "espnet.cli", "run", "4"]
    console.print("$ espcli run 4", style="bold")
    # A session of its own: the terminal's Ctrl-C reaches the demo, which ends things in order.
    collector = subprocess.Popen(command, env=environ, stderr=log, start_new_session=True)
    stack.callback(_end, collector)
    store = Store(redis.url)
    stack.callback(store.close)

    began = clock.monotonic()
    with suppress(_Stopped):  # that is how it usually ends
        stop.is_starting = False
        stop.check()
        _watch(console, store, intake, boards[2], collector, seconds, clock)
    ran_s = clock.monotonic() - began
    code = _end(collector)
    _flush(environ)
    return _summary(console, store, intake, ran_s, code, Path(log.name), clock)


def _watch(
    console: Console,
    store: Store,
    intake: Intake,
    flaky: Board,
    collector: "subprocess.Popen[bytes]",
    seconds: float | None,
    clock: Clock,
) -> None:
    """Draws the table until time is over; makes mischief meanwhile."""
    began = clock.monotonic()
    mischief = itertools.cycle(MISCHIEF)
    next_mischief, note = began + MISCHIEF_EVERY_S, ""
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while collector.poll() is None:
            elapsed = clock.monotonic() - began
            if seconds is not None and elapsed >= seconds:
                break
            if clock.monotonic() >= next_mischief:
                kind, options, note = next(mischief)
                flaky.fault(kind, **options)
                next_mischief += MISCHIEF_EVERY_S
            screen = _screen(
                store.views(), store.ledger().books("datadog"), intake, note, elapsed, clock.now()
            )
            if console.is_terminal:
                live.update(screen, refresh=True)
            else:
                live.update(screen)
            try:
                collector.wait(timeout=REDRAW_S)
            except subprocess.TimeoutExpired:
                continue


def _screen(
    views: list[View], books: Books, intake: Intake, note: str, elapsed_s: float, now: float
) -> Group:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("device", "state", "board °F", "DHT22 °C", "pins high", "last poll", "problem"):
        table.add_column(title, no_wrap=title != "problem")
    colours = {"online": "green", "late": "yellow", "offline": "red", "new": "dim"}
    for view in views:
        row = describe(view, now)
        climate = view.reading.dht22.get("air") if view.reading else None
        table.add_row(
            row["name"],
            Text(row["state"], style=colours[row["state"]]),
            "–" if row["f"] is None else f"{row['f']:.1f}",
            f"{climate.temp:.1f}" if climate else "–",
            ", ".join(map(str, row["pins_high"])) or "–",
            "–" if row["age_s"] is None else f"{row['age_s']:.1f} s ago",
            escape(row["problem"] or ""),
        )
    flaky = f"   flaky {note}" if note else ""
    line = Text.assemble(
        (f"{elapsed_s:5.1f} s", "bold"),
        f"   samples: {books.collected} collected, {books.accepted} accepted, ",
        f"{books.queued} queued, {books.dropped} dropped",
        (flaky, "dim"),
    )
    return Group(table, Text(), line)


def _summary(
    console: Console,
    store: Store,
    intake: Intake,
    ran_s: float,
    code: int,
    log: Path,
    clock: Clock,
) -> int:
    """Says what happened, and whether the books agree with what the intake has."""
    views, books = store.views(), store.ledger().books("datadog")
    polled = [
        view.device.name
        for view in views
        if view.reading and view.reading.collector.startswith("collector@")
    ]
    problems = []
    if len(polled) < 3:
        problems.append(f"only {len(polled)} of 3 boards were polled")
    if not books.is_balanced:
        problems.append(f"the books do not balance: {books}")
    lost = books.dropped + books.dead + books.expired
    if lost or books.queued:
        problems.append(f"{lost} samples were not delivered, {books.queued} are still queued")
    if intake.accepted != books.accepted:
        problems.append(f"the intake has {intake.accepted} points, the books say {books.accepted}")
    if not books.accepted:
        problems.append("no sample was accepted")
    if code:
        problems.append(f"the collector ended with exit code {code}")
    console.print()
    console.print(
        f"{len(polled)} boards polled in {ran_s:.0f} s: {', '.join(polled)}. "
        f"Samples: {books.collected} collected, {books.accepted} accepted by the intake, "
        f"{lost + books.queued} lost.",
        highlight=False,
    )
    for problem in problems:
        console.print(f"Wrong: {problem}.", style="red", highlight=False)
    if problems:
        console.print("The collector's last lines:", style="dim")
        for line in log.read_text().splitlines()[-5:]:
            console.print(f"  {line}", style="dim", markup=False, highlight=False)
    return 1 if problems else 0


def _espcli(console: Console, environ: dict[str, str], stop: _Stop, *words: str) -> None:
    """Runs a command as a person would, and shows it."""
    console.print(f"$ espcli {' '.join(words)}", style="bold", highlight=False, markup=False)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "espnet.cli", *words],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    stop.check()
    console.print(done.stdout.strip() or done.stderr.strip(), highlight=False, markup=False)
    if done.returncode:
        raise EspNetError("The demo cannot go on; the line above says why.")


def _flush(environ: dict[str, str]) -> None:
    """Uploads what the last interval left, as `espcli upload_queued_metrics` does."""
    subprocess.run(
        [sys.executable, "-P", "-m", "espnet.cli", "upload_queued_metrics"],
        env=environ,
        capture_output=True,
        check=False,
    )


def _end(process: "subprocess.Popen[bytes]") -> int:
    """Stops the collector in order, and for good if it will not."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()
