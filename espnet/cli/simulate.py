"""`espcli simulate`: boards until Ctrl-C or SIGTERM."""

import asyncio
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from espnet.errors import UsageError
from espnet.simulator import SimulatedBoard, simulate


def run(
    emit: Callable[[Mapping[str, Any]], None],
    count: int,
    seed: int,
    heap: str,
    serial: bool,
    beacon_port: int | None,
    keep: str,
) -> None:
    """Runs ``count`` boards and tells ``emit`` of each that answers; returns when it is stopped.

    ``heap`` is MicroPython's ``-X heapsize``, or ``none`` for the port's default. ``serial``: the boards are
    fresh from the box, and have a serial line. ``beacon_port``: where on 127.255.255.255 they send beacons.
    ``keep``: the folder where their flash stays, for the next start; empty: nothing stays.
    """
    if heap != "none" and not re.fullmatch(r"[1-9]\d{0,6}[KkMm]?", heap):
        raise UsageError(f"--heap is a size such as 112K or 188K, or none; not {heap!r}.")

    def ready(board: SimulatedBoard) -> None:
        told = {"id": board.id, "address": board.address, "control": str(board.control)}
        if board.line is not None:
            told |= {"port": board.line.path, "image": str(board.image)}
        emit(told)

    async def until_stopped() -> None:
        work = asyncio.current_task()
        assert work is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, work.cancel)
        try:
            await simulate(
                count,
                seed=seed,
                heap=None if heap == "none" else heap,
                compiled=True,
                serial=serial,
                directory=Path(keep) if keep else None,
                beacon_port=beacon_port,
                on_ready=ready,
            )
        except asyncio.CancelledError:
            return  # that is how it ends

    asyncio.run(until_stopped())
