"""A person's terminal: a program runs on a pseudo-terminal of its own, and somebody answers what it asks."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

#: Makes the standard input the terminal that Ctrl-C and password prompts belong to.
_OWNS_IT = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


class Seen(NamedTuple):
    """What a person saw, control sequences included, and the exit code."""

    text: str
    code: int


def at_terminal(
    words: Sequence[str],
    environ: Mapping[str, str],
    folder: Path,
    answers: Mapping[str, str] | None = None,
    timeout_s: float = 120.0,
) -> Seen:
    """Runs a program to its end. ``answers``: what is typed when the last line begins so, each once."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNS_IT, *words],
        env={**environ, "TERM": "xterm-256color", "COLUMNS": "100"},
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    left = dict(answers or {})
    seen = b""
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            said = seen.decode("utf-8", "replace")
            assert time.monotonic() < deadline, f"{words} goes on: {said}"
            if not select.select([ours], [], [], 0.1)[0]:
                continue
            try:
                more = os.read(ours, 65536)
            except OSError:  # nobody has the other end open any more
                more = b""
            if not more:
                break
            seen += more
            line = seen.decode("utf-8", "replace").rpartition("\n")[2]
            for question in [each for each in left if line.startswith(each)]:
                if line.endswith(": "):
                    os.write(ours, f"{left.pop(question)}\r".encode())
        code = process.wait(timeout_s)
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(ours)
    assert not left, f"never asked: {list(left)}"
    return Seen(seen.decode("utf-8", "replace"), code)
