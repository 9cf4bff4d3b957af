"""`espcli` commands that need not be started anew: forked from a process that has read the program.

Reading the program takes a quarter of a second, longer than most commands, and a test gives many of them.
That `./espcli` itself starts is shown by `tests/test_packaging.py`, and by every collector here.
"""

import itertools
import multiprocessing
import os
import pkgutil
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


def run(words: Sequence[str], environ: Mapping[str, str], folder: Path, timeout_s: float) -> Done:
    """Runs a command to its end, in a process of its own, with this environment and no other.

    ``folder`` holds what it says until it is read. For one thread: `multiprocessing` confuses the ends
    of what several threads started.
    """
    number = next(_numbers)
    said = folder / f"{number}.stdout", folder / f"{number}.stderr"
    process = _FORKS.Process(target=_command, args=(list(words), dict(environ), *said))
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


def _command(words: list[str], environ: dict[str, str], stdout: Path, stderr: Path) -> None:
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
    sys.exit(espnet.cli.main(words))
