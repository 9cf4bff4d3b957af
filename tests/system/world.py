"""What the end-to-end tests act with: `espcli` as a person runs it, and what they look at afterwards.

Everything has its own environment: nothing of the user's own settings or data is seen or touched, and
every process carries a mark in its environment by which `marked_processes` finds what was left behind.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import redis

from espnet.samples import SampleBatch, decode_batch
from espnet.server import urls
from espnet.simulator import Board
from espnet.simulator.state import Request
from espnet.store import Store

from . import forked

ROOT = Path(__file__).resolve().parents[2]
ESPCLI = ROOT / "espcli"
#: The stand-in intake's key.
KEY = "a-key-of-no-value"
MARK = "ESPNET_TEST_MARK"
#: How long anything that is not under test may take on a busy machine, in seconds.
PATIENCE_S = 20.0
#: Every event that the docstrings of the collector, the uploader and the daemon know.
VOCABULARY = {
    *("collector.started", "collector.stopped", "uploads.off", "redis.not_started"),
    *("board.lost", "board.back", "poll.void", "polls.dropped", "redis.lost", "redis.back"),
    *("board.slowed", "board.recovered", "heartbeat.slow"),
    *("upload.failed", "upload.paused", "upload.ok_again", "upload.dead_letters"),
    *("upload.unreadable", "pin.set", "pin.refused"),
    *("redis.open", "passwords.closed"),
    *("beacons.off", "beacon.refused", "device.moved"),
    *("update.begun", "update.done", "update.failed", "update.away", "update.halted"),
    "update.over",
}

T = TypeVar("T")


def wait_for(
    what: str, look: Callable[[], T], timeout_s: float = PATIENCE_S, every_s: float = 0.02
) -> T:
    """What ``look`` returned as soon as that was true; fails at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (seen := look()):
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(every_s)
    return seen


def to_intake(url: str, key: str = KEY) -> dict[str, str]:
    """The settings that lead a command's uploads to an intake."""
    return {"DATADOG_API_KEY": key, "DATADOG_HOST": url}


class Run:
    """A running `espcli run … --log_format json`, in a session of its own, and its log."""

    def __init__(self, command: list[str], environ: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def events(self, *names: str) -> list[dict[str, Any]]:
        """The log's lines, each of which must be JSON, of these events or of all."""
        # A line that is being written has no end yet.
        lines = [line for line in self.log.splitlines(keepends=True) if line.endswith("\n")]
        events = [json.loads(line) for line in lines]
        return [event for event in events if not names or event["event"] in names]

    def wait_for_event(self, name: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        def look() -> list[dict[str, Any]]:
            found = self.events(name)
            assert found or self.process.poll() is None, self.log
            return found

        return wait_for(f"the event {name}", look, timeout_s)[-1]

    @property
    def holder(self) -> str:
        """What this collector is called in locks and readings."""
        return str(self.wait_for_event("collector.started")["holder"])

    def send(self, number: signal.Signals) -> None:
        assert self.process.poll() is None, self.log
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = PATIENCE_S) -> int:
        """Stops it in order; returns its exit code."""
        self.send(number)
        return self.process.wait(timeout_s)

    def end(self) -> None:
        """Whatever happened, it is gone afterwards."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def require_good_log(self) -> None:
        """Every line is JSON, of the vocabulary, and no traceback."""
        for event in self.events():
            assert event["event"] in VOCABULARY, event
            assert {"at", "level"} <= event.keys()
            assert "Traceback" not in json.dumps(event)


class World:
    """One Redis with what runs on it. ``settings`` are environment variables of every command."""

    def __init__(self, folder: Path, redis_url: str | None, **settings: str) -> None:
        self.folder = folder
        self.mark = secrets.token_hex(8)
        home, temporary = folder / "home", folder / "tmp"
        for path in (home, temporary):
            path.mkdir(exist_ok=True)
        self.environ = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "ESPNET_DATA": str(folder / "data"),
            "ESPNET_BEACONS": "off",
            "PYTHONWARNINGS": "error",
            MARK: self.mark,
            **({"REDIS_URL": redis_url} if redis_url else {}),
            **settings,
        }
        self.redis_url = redis_url
        self.runs: list[Run] = []

    # --- commands -------------------------------------------------------------------------------

    def espcli(self, *words: str, code: int = 0, **settings: str) -> str:
        """Runs a command to its end; its standard output, and its error where ``code`` is not 0.

        Who registers boards has patience with them: they are there, and this machine may be busy.
        """
        if words[0].startswith("register"):
            settings = {"ESPNET_TIMEOUT": "5"} | settings
        done = forked.run(words, self.environ | settings, self.folder / "tmp", timeout_s=60)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout if code == 0 else done.stderr

    def killed(self, *words: str, after: int) -> bool:
        """Kills a command when it has sent so many changes; whether it came to that."""
        done = forked.run(words, self.environ, self.folder / "tmp", timeout_s=60, die_after=after)
        assert done.returncode in (0, -signal.SIGKILL), done
        return done.returncode != 0

    def json(self, *words: str, **settings: str) -> Any:
        """What a command tells a program."""
        return json.loads(self.espcli("--json", *words, **settings))

    def device(self, name: str) -> dict[str, Any]:
        """`espcli device NAME`, every field."""
        told: dict[str, Any] = self.json("device", name)
        return told

    def register(self, *boards: Board, names: str = "") -> list[str]:
        """Registers boards as ``b0``, ``b1`` … or by the names in ``names``; returns their names."""
        chosen = names.split() or [f"b{n}" for n in range(len(boards))]
        for board, name in zip(boards, chosen, strict=True):
            self.espcli("register", board.address, name)
            board.forget_requests()
        return chosen

    def start(self, heartbeat: str = "10", *options: str, **settings: str) -> Run:
        """Starts a collector; returns when it has said so."""
        run = Run(
            [str(ESPCLI), "run", heartbeat, "--log_format", "json", *options],
            self.environ | settings,
            self.folder / f"run{len(self.runs)}.log",
        )
        self.runs.append(run)
        run.wait_for_event("collector.started")
        return run

    def end(self) -> None:
        """Ends every collector, in whatever state it is."""
        for run in self.runs:
            run.end()

    # --- what they left in Redis ----------------------------------------------------------------

    @contextlib.contextmanager
    def client(self) -> Iterator[redis.Redis]:
        assert self.redis_url
        with urls.client(self.redis_url, 5.0) as client:
            yield client

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        """The store as commands see it, for looks that are too frequent for a command each."""
        assert self.redis_url
        store = Store(self.redis_url)
        try:
            yield store
        finally:
            store.close()

    def state(self, store: Store, name: str) -> str:
        return store.view(name).state(time.time())

    def samples(self) -> list[SampleBatch]:
        """The polls' samples that are queued, oldest first."""
        with self.client() as client:
            rows: Any = client.xrange("espnet:samples")
        return [decode_batch(fields[b"batch"]) for _, fields in rows]

    def locks(self) -> list[bytes]:
        with self.client() as client:
            return list(client.scan_iter("espnet:lock:*"))

    def require_balance(self, sink: str = "datadog") -> dict[str, int]:
        """The books balance, and agree with what lies in the stream; returns the sink's.

        Without such a sink yet, what is collected is queued for one to come.
        """
        info = self.json("xinfo")
        queue: dict[str, int] = info["queue"]
        in_stream = sum(len(batch.points) for batch in self.samples())
        assert queue["queued"] == in_stream, info
        for books in info["sinks"].values():
            ends = ("accepted", "expired", "dead", "dropped", "queued")
            assert books["collected"] == sum(books[end] for end in ends), info
            assert 0 <= books["queued"] <= in_stream, info
        empty = dict.fromkeys(("accepted", "expired", "dead", "repeated"), 0)
        found: dict[str, int] = info["sinks"].get(sink, queue | empty)
        if list(info["sinks"]) == [sink]:
            assert found["queued"] == in_stream, info
        return found


def polls(board: Board, since_s: float = 0.0) -> list[Request]:
    """The polls that a board has received since a monotonic time; a challenge is not yet one."""
    return [
        request
        for request in board.requests
        if (request.method, request.path.split("?")[0]) == ("GET", "/")
        and request.at_s >= since_s
        and (request.status != 401 or request.fault)
    ]


def gaps(board: Board, since_s: float, until_s: float) -> list[float]:
    """The pauses between a board's polls from one monotonic time to another, ends included."""
    times = [poll.at_s for poll in polls(board, since_s) if poll.at_s <= until_s]
    return [b - a for a, b in zip([since_s, *times], [*times, until_s], strict=True)]


def marked_processes(mark: str, folder: Path) -> list[str]:
    """Living processes that carry the mark or work in the folder, as their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
            if mark.encode() in (entry / "environ").read_bytes() or os.fsencode(folder) in words:
                found.append(f"{entry.name}: {words.replace(bytes(1), b' ').decode()}")
        except OSError:
            continue  # it ended meanwhile, or is another user's
    return found
