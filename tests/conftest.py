"""What several tests share: private Redis servers that end with the tests that wanted them."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis
import structlog
from board_wire import Wire, eventually

from espnet import server
from espnet.store import Store

# How long an example takes says something about the machine and what else it does, and nothing about the law.
hypothesis.settings.register_profile("espnet", deadline=None)
hypothesis.settings.load_profile("espnet")

# A shell that starts the suite in the background ignores SIGINT for it, and children would inherit that:
# the tests that interrupt a program would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


# By itself a daemon listens for beacons on all addresses. A test that wants some says where.
os.environ["ESPNET_BEACONS"] = "off"


class RedisProcess:
    """A real server on a Unix socket, without a TCP port, that a test may treat badly.

    A durable one syncs its append-only file at every write, so whatever it answered survives `kill`.
    """

    def __init__(self, folder: Path, durable: bool) -> None:
        self._durable = durable
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Returns when the server answers; a second start finds the data of the first."""
        assert self._process is None, "the server is already running"
        settings = {
            "dir": self.folder,
            "logfile": "server.log",
            "port": 0,
            "unixsocket": self.socket,
            "appendonly": "yes" if self._durable else "no",
            "appendfsync": "always",
            "save": "",
        }
        arguments = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen([server.binary(), *arguments])
        deadline = time.monotonic() + 10
        with redis.Redis(unix_socket_path=str(self.socket)) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    log = self.folder / "server.log"
                    assert self._process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.005)

    def stop(self) -> None:
        """As a service manager does; returns when the process is gone, also if it never ran."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a power cut does."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """The server keeps its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name (pytest's own may not)."""
    folder = Path(tempfile.mkdtemp(prefix="espnet-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisProcess]:
    """One server for all tests that treat it well; ask for `redis_url` instead of this."""
    folder = Path(tempfile.mkdtemp(prefix="espnet-", dir="/tmp"))
    process = RedisProcess(folder, durable=False)
    try:
        process.start()
        yield process
    finally:
        process.stop()
        shutil.rmtree(folder)


@pytest.fixture
def redis_url(redis_server: RedisProcess) -> str:
    """The URL of an empty Redis."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def own_redis(short_path: Path) -> Iterator[RedisProcess]:
    """A fresh, running server for a test that stops, kills, pauses or restarts it."""
    process = RedisProcess(short_path, durable=True)
    try:
        process.start()
        yield process
    finally:
        process.stop()


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def new_store(redis_url: str) -> Iterator[Callable[..., Store]]:
    stores: list[Store] = []

    def new(**more: Any) -> Store:
        stores.append(Store(redis_url, **more))
        return stores[-1]

    yield new
    for store in stores:
        store.close()


@pytest.fixture
def store(new_store: Callable[..., Store]) -> Store:
    return new_store()


@pytest.fixture
def wire() -> Iterator[Wire]:
    """Boards at the wire; whoever called them has hung up at the end."""
    with Wire() as wire:
        yield wire
        eventually(lambda: not any(wire.open.values()))


@pytest.fixture
def log() -> Iterator[list[Any]]:
    """What was logged, event by event."""
    with structlog.testing.capture_logs() as events:
        yield events


@pytest.fixture
def settings(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands in this process read: a private Redis and folder, and nothing of the user's own."""
    for name in [name for name in os.environ if name.startswith(("ESPNET_", "DATADOG_", "DD_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("ESPNET_DATA", str(tmp_path))
    monkeypatch.setenv("ESPNET_BEACONS", "off")
    # Real boards answer here, and may wait for their turn.
    monkeypatch.setenv("ESPNET_TIMEOUT", "20")


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A test that runs a command in this process leaves its logging to nobody."""
    yield
    structlog.reset_defaults()
