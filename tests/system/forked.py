"""`espcli` commands that need not be started anew: forked from a process that has read the program.

Reading the program takes a quarter of a second, longer than most commands, and a test gives many of them.
That `./espcli` itself starts is shown by `tests/test_packaging.py`, and by every collector here.
"""

import itertools
import multiprocessing
import os
import pkgutil
import signal
import socket
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import espnet
import espnet.cli

#: Everything but what draws pictures and what commands start as programs of their own.
_PROGRAM = [
    *(f"espnet.{found.name}" for found in pkgutil.iter_modules(espnet.__path__)),
    *(f"espnet.cli.{found.name}" for found in pkgutil.iter_modules(espnet.cli.__path__)),
]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [name for name in _PROGRAM if name not in ("espnet.cli.__main__", "espnet.cli.plot")]
)
_numbers = itertools.count()


class Done(NamedTuple):
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


#: What Redis is asked without changing anything by it.
_READING = {
    *(b"HELLO", b"AUTH", b"CLIENT", b"PING", b"SELECT", b"INFO", b"WATCH", b"UNWATCH", b"SCRIPT"),
    *(b"GET", b"HGET", b"HMGET", b"HGETALL", b"HVALS", b"HKEYS", b"HEXISTS", b"HRANDFIELD"),
    *(b"WAIT", b"WAITAOF"),
}


def run(
    words: Sequence[str],
    environ: Mapping[str, str],
    folder: Path,
    timeout_s: float,
    die_after: int = 0,
) -> Done:
    """Runs a command to its end, in a process of its own, with this environment and no other.

    With ``die_after`` it is killed as soon as it has sent so many requests that may change something, to
    Redis or to a board, and before it hears what came of the last one. ``folder`` holds what it says
    until it is read. For one thread: `multiprocessing` confuses the ends of what several threads started.
    """
    number = next(_numbers)
    said = folder / f"{number}.stdout", folder / f"{number}.stderr"
    process = _FORKS.Process(target=_command, args=(list(words), dict(environ), *said, die_after))
    process.start()
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"{words} took longer than {timeout_s:g} s")
    done = Done(process.exitcode, *(path.read_text() for path in said))
    process.close()
    for path in said:
        path.unlink()
    return done


def _command(
    words: list[str], environ: dict[str, str], stdout: Path, stderr: Path, die_after: int
) -> None:
    """In the child: becomes what `./espcli` with these words would be."""
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    warnings.simplefilter("error")
    sys.argv = ["espcli", *words]
    for number, path, mode in ((0, os.devnull, "r"), (1, stdout, "w"), (2, stderr, "w")):
        with open(path, mode) as file:
            os.dup2(file.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    if die_after:
        _die_after(die_after)
    sys.exit(espnet.cli.main(words))


def _die_after(most: int) -> None:
    """Counts what leaves through the sockets of this process."""
    left = itertools.count(most - 1, -1)
    send_some, send_all = socket.socket.send, socket.socket.sendall

    def note(data: bytes) -> None:
        if _may_change(bytes(data)) and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def send(self: socket.socket, data: bytes, *more: int) -> int:
        sent = send_some(self, data, *more)
        note(data)
        return sent

    def sendall(self: socket.socket, data: bytes, *more: int) -> None:
        send_all(self, data, *more)
        note(data)

    socket.socket.send, socket.socket.sendall = send, sendall  # type: ignore[method-assign,assignment]


def _may_change(data: bytes) -> bool:
    if data.startswith(b"*"):  # Redis: *COUNT, $LENGTH, the command's name
        return data.split(b"\r\n", 3)[2].upper() not in _READING
    return not data.startswith(b"GET / ")
