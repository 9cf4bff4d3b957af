"""Who is measured: one file a system, all with the same small protocol.

A peer says what it is and does, whether it can run here, and runs for one window over boards that are
there already. The first ones are EspNet's own.
"""

from collections.abc import Sequence
from typing import Protocol

from bench.stage import Boards, Figures


class Unfit(Exception):
    """A system did not do what is measured; what it did instead."""


class Peer(Protocol):
    """A system. ``name`` is its key in ``results.json``, ``title`` what people read.

    ``boards`` is what boards do for it (options of `bench.boards`), ``does`` what its figures hold and what
    they do not.
    """

    name: str
    title: str
    boards: tuple[str, ...]
    does: str
    uses_redis: bool

    def available(self) -> str | None:
        """Makes it ready. Why it cannot run here, as a clause, or None when it can."""

    def version(self) -> str:
        """What exactly runs, once it is available."""

    def run(self, crowd: Boards, redis_url: str, seconds: float) -> Figures:
        """One window of a fresh process. Raises `Unfit` or `RuntimeError`."""


def everybody() -> Sequence[Peer]:
    """All of them, in the order of the table."""
    from bench.peers import collectd, espnet, espnet2021, naive, prometheus

    return [
        *espnet.VARIANTS,
        naive.Naive(),
        prometheus.Prometheus(),
        prometheus.PacedPrometheus(),
        collectd.Collectd(),
        espnet2021.EspNet2021(),
    ]
