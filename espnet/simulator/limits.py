"""What this machine lets simulated boards have, looked at before the first of them is started.

A limit that is too low is one sentence that says which, how much is needed, and how to raise it. What cannot
be found out is taken to be enough: then the system's own error tells.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

from espnet.simulator.errors import SimulatorError

#: Resident memory of a board's process, measured on Linux x86-64: 1.6 MB, and its flash.
BOARD_BYTES = 2_000_000
#: Processes that whoever runs the boards may have besides.
_OTHER_PROCESSES = 64


def need_files(count: int, what: str) -> None:
    """Makes sure that this process may open ``count`` files, by raising its own limit where it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    if soft == endless or soft >= count:
        return
    if hard != endless and hard < count:
        raise SimulatorError(
            f"{what} need {count:,} open files, and this process may have {hard:,}: raise the hard limit "
            f"(`ulimit -Hn {count}` as root, LimitNOFILE= of a systemd unit), or ask for fewer boards."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def most_files() -> int:
    """How many files this process may open at most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 1 << 30 if hard == resource.RLIM_INFINITY else hard


def need_processes(count: int) -> None:
    """Makes sure that so many boards may have a process each."""
    need = count + _OTHER_PROCESSES
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    endless = resource.RLIM_INFINITY
    if os.geteuid() and endless not in (soft, hard) and soft < need:
        if hard < need:
            raise SimulatorError(
                f"{count:,} boards are as many processes, and this user may have {hard:,}: raise the hard "
                "limit (`ulimit -Hu` as root), or ask for fewer boards."
            )
        resource.setrlimit(resource.RLIMIT_NPROC, (need, hard))
    for path, what, how in (
        (_own_group(), "this session", "TasksMax= of its systemd unit or slice"),
        (Path("/proc/sys/kernel/pid_max"), "this machine", "`sysctl kernel.pid_max`"),
    ):
        most = _number(path)
        if most is not None and most < need:
            raise SimulatorError(
                f"{count:,} boards are as many processes, and {what} may have {most:,}: raise that ({how}), "
                "or ask for fewer boards."
            )


def need_memory(count: int) -> None:
    """Makes sure that the memory is there which so many board processes take."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = (
            next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
        )
    except (OSError, ValueError, IndexError, StopIteration):
        return
    need = count * BOARD_BYTES
    if free < need:
        raise SimulatorError(
            f"{count:,} boards take about {need / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free: "
            "ask for fewer boards, or for light ones (--static)."
        )


def _own_group() -> Path:
    """Where the limit of processes of this process's control group (version 2) stands."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    return Path(f"/sys/fs/cgroup{own}/pids.max")


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, or `max`."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
