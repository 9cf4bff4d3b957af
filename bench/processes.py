"""What processes cost, as Linux tells it, and how they end. Nothing here asks the process itself.

Invariants: CPU and memory are those of the whole tree below a process, and of nobody else. Whoever is
started here is ended here, by its own id, however the bench ends short of a SIGKILL.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

#: How long a process may take to end when it is asked to, in seconds.
PATIENCE_S = 10.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


class Tree:
    """A process and all below it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def pids(self) -> list[int]:
        """Its processes now, parents first."""
        children: dict[int, list[int]] = {}
        for pid, (parent, _, _) in _everybody():
            children.setdefault(parent, []).append(pid)
        found = [self.pid]
        for pid in found:
            found.extend(children.get(pid, ()))
        return found

    def cpu_s(self) -> float:
        """CPU-seconds since it began, user and system. Those of children that ended are in their parents'."""
        mine = set(self.pids())
        return sum(ticks for pid, (_, ticks, _) in _everybody() if pid in mine) / TICKS_PER_S

    def rss_kb(self) -> int:
        """Resident memory."""
        mine = set(self.pids())
        return sum(pages for pid, (_, _, pages) in _everybody() if pid in mine) * PAGE_KB


def _everybody() -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Each process: its id, then its parent's, its CPU in clock ticks, its resident pages."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                # The name, in brackets, may hold anything; what follows the last one is numbers.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                yield (
                    int(folder.name),
                    (int(fields[1]), sum(map(int, fields[11:15])), int(fields[21])),
                )


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """A process for as long as the block lasts; a Ctrl-C reaches it through us only."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **(env or {})},
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Ends a process, and what it started, and waits till they are gone."""
    tree = Tree(process.pid).pids()
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
    for pid in tree:
        # What is left of it is in the session that began with it; a number may be another's by now.
        with contextlib.suppress(ProcessLookupError):
            if process.returncode is None or os.getsid(pid) == process.pid:
                os.kill(pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def end_when_asked() -> None:
    """Makes Ctrl-C, SIGTERM and SIGHUP end everything that was begun, in order, and no traceback."""

    def stop(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
