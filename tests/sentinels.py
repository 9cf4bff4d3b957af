"""A Redis with replicas and sentinels, all real, on loopback: what the fail-over tests act with.

Sentinels know each other, and the replicas, from their configuration: finding each other would take seconds.
Their own clocks run faster than usual (`SENTINEL DEBUG`), so that a fail-over takes about two.
"""

import contextlib
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from espnet import server

NAME = "house"
#: Sentinels that vote for themselves at the same moment try again twice `failover-timeout` later, and again.
PATIENCE_S = 60.0
#: How long a primary may say nothing before a sentinel holds it to be down, in milliseconds: no fail-over in
#: the middle of a test because it waits for its turn; and where one is wanted (`House.in_haste`).
DOWN_MS, HASTY_DOWN_MS = 10_000, 500
#: What sentinels do every second or ten, in milliseconds.
PERIODS = {"INFO-PERIOD": 200, "PING-PERIOD": 100, "ASK-PERIOD": 100, "PUBLISH-PERIOD": 200}


def wait_until(what: str, look: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
    """What ``look`` returned as soon as that was true; errors of Redis are not yet true."""
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(redis.RedisError):
            if seen := look():
                return seen
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(0.02)


_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens at, below those that connections get: it is free until its server starts."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _given:
                _given.add(port)
                return port


class Server:
    """One process of the Valkey program with a port of its own: a server, or a sentinel."""

    def __init__(self, folder: Path, kind: str, lines: list[str], password: str = "") -> None:
        self._folder, self._kind, self.lines = folder, kind, lines
        self.password = password
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def client(self, **options: Any) -> redis.Redis:
        once = Retry(NoBackoff(), 0)
        options = {"socket_timeout": 2, "retry": once, "password": self.password} | options
        return redis.Redis(port=self.port, **options)

    def write(self) -> None:
        """Settles its port, and writes its configuration, which the program changes later on."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()

    def start(self) -> None:
        """Returns when it answers."""
        path = self._folder / "conf"
        if not path.exists():
            head = ["bind 127.0.0.1", f"port {self.port}", f"dir {self._folder}", "logfile log"]
            path.write_text("\n".join([*head, *self.lines]) + "\n")
        words = [
            str(server.binary()),
            str(path),
            *(["--sentinel"] if self._kind == "sentinel" else []),
        ]
        self._process = subprocess.Popen(words, env={}, stdin=subprocess.DEVNULL)

        def answers() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log
            with self.client() as client:
                return bool(client.ping())

        wait_until(f"{self._kind} answers", answers)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """As a power cut does; harmless where it does not run."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait(10)


class House:
    """A primary, its replicas and three sentinels who watch them, in a folder that goes with them."""

    def __init__(self, replicas: int = 1, password: str = "", sentinel_password: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="espnet-", dir="/tmp"))
        data = ["appendonly yes", "appendfsync everysec", 'save ""', "repl-diskless-sync-delay 0"]
        data += ["repl-ping-replica-period 1"]
        if password:
            data += [f"requirepass {password}", f"masterauth {password}"]
        self.servers = [
            Server(self.folder / f"server{n}", "server", list(data), password)
            for n in range(1 + replicas)
        ]
        self.sentinels = [
            Server(self.folder / f"sentinel{n}", "sentinel", [], sentinel_password)
            for n in range(3)
        ]
        self.password, self.sentinel_password = password, sentinel_password

    @property
    def url(self) -> str:
        credentials = f":{self.password}@" if self.password else ""
        option = f"?sentinel_password={self.sentinel_password}" if self.sentinel_password else ""
        hosts = ",".join(one.address for one in self.sentinels)
        return f"redis+sentinel://{credentials}{hosts}/{NAME}{option}"

    def start(self) -> None:
        """Returns when everybody follows, and would agree on a fail-over."""
        for one in [*self.servers, *self.sentinels]:
            one.write()
        primary, *replicas = self.servers
        primary.start()
        for replica in replicas:
            replica.lines.append(f"replicaof 127.0.0.1 {primary.port}")
            replica.start()
        ids = {one: secrets.token_hex(20) for one in self.sentinels}
        for one in self.sentinels:
            monitored = [
                f"sentinel myid {ids[one]}",
                f"sentinel monitor {NAME} 127.0.0.1 {primary.port} 2",
            ]
            monitored += [f"sentinel down-after-milliseconds {NAME} {DOWN_MS}"]
            monitored += [f"sentinel failover-timeout {NAME} 2000"]
            if self.password:
                monitored += [f"sentinel auth-pass {NAME} {self.password}"]
            if self.sentinel_password:
                monitored += [f"requirepass {self.sentinel_password}"]
                monitored += [f"sentinel sentinel-pass {self.sentinel_password}"]
            for replica in replicas:
                monitored += [f"sentinel known-replica {NAME} 127.0.0.1 {replica.port}"]
            for other in self.sentinels:
                if other is not one:
                    monitored += [
                        f"sentinel known-sentinel {NAME} 127.0.0.1 {other.port} {ids[other]}"
                    ]
            one.lines += monitored
            one.start()
            with one.client() as client:
                words = [str(word) for pair in PERIODS.items() for word in pair]
                client.execute_command("SENTINEL", "DEBUG", *words)
        self.wait_whole()

    @contextlib.contextmanager
    def in_haste(self) -> Iterator[None]:
        """Within it, the sentinels that run fail over soon."""
        try:
            self._down_after(HASTY_DOWN_MS)
            yield
        finally:
            self._down_after(DOWN_MS)

    def _down_after(self, down_ms: int) -> None:
        for one in self.guards:
            with one.client() as client:
                client.sentinel_set(NAME, "down-after-milliseconds", down_ms)

    @property
    def guards(self) -> list[Server]:
        """The sentinels that run."""
        return [one for one in self.sentinels if one.is_running]

    def wait_whole(self) -> None:
        """Returns when replicas follow, and the sentinels that run know it and would agree on a fail-over."""
        wait_until("everybody follows and agrees", lambda: all(map(self._is_ready, self.guards)))

    def _is_ready(self, one: Server) -> bool:
        with one.client() as client:
            state: Any = client.sentinel_master(NAME)
            others: Any = client.sentinel_slaves(NAME)
            client.execute_command("SENTINEL", "CKQUORUM", NAME)
        fit = [not other["is_sdown"] and other["master-link-status"] == "ok" for other in others]
        is_up = state["flags"] == "master" and state["num-other-sentinels"] == 2
        return is_up and fit == [True] * (len(self.servers) - 1)

    def primary(self) -> Server | None:
        """Whom the sentinels agree to be the primary."""
        said = set()
        for one in self.guards:
            with one.client() as client:
                address: Any = client.sentinel_get_master_addr_by_name(NAME)
            said.add(int(address[1]))
        found = [one for one in self.servers if said == {one.port}]
        return found[0] if found else None

    def wait_for_another(self, old: Server) -> Server:
        """The primary that took the place of ``old``, once it serves as one."""

        def look() -> Server | None:
            found = self.primary()
            if found is None or found is old:
                return None
            with found.client() as client:
                role: Any = client.role()
            return found if role[0] == b"master" else None

        found: Server = wait_until("another primary", look)
        return found

    def end(self) -> None:
        for one in [*self.sentinels, *self.servers]:
            one.kill()
        shutil.rmtree(self.folder)


@contextlib.contextmanager
def guarded(replicas: int = 1, **passwords: str) -> Iterator[House]:
    """A house that is up, and gone afterwards."""
    house = House(replicas, **passwords)
    try:
        house.start()
        yield house
    finally:
        house.end()
