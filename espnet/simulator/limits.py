"""What this machine lets one process have, looked at before boards are started.

A limit that is too low is one sentence that says which, how much is needed, and how to raise it.
"""

from __future__ import annotations

import resource

from espnet.simulator.errors import SimulatorError


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
