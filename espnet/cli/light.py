"""`espcli simulate --static`: light boards until Ctrl-C or SIGTERM, in as few processes as open files allow.

A board needs a file to listen and one for who polls it. Where one process may not have so many, further ones
are forked, each with its share of the boards and a control socket of its own; they end with the first one.
"""

import asyncio
import gc
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any

from espnet.simulator import SimulatorError
from espnet.simulator.light import LightBoard, LightSimulator, new_loop
from espnet.simulator.light.simulator import FILES_EACH, OTHER_FILES
from espnet.simulator.limits import most_files

#: How many requests and pin changes a board remembers: a few, for there are thousands of boards.
LOG = 16


def run_light(
    emit: Callable[[Mapping[str, Any]], None], count: int, seed: int, beacon_port: int | None
) -> None:
    """Runs ``count`` light boards and tells ``emit`` of each; returns when it is stopped."""
    most = max(1, (most_files() - OTHER_FILES) // FILES_EACH)
    shares = -(-count // most)
    firsts = [count * share // shares for share in range(shares + 1)]
    share, children, others = _fork(shares)
    first, end = firsts[share], firsts[share + 1]
    told: list[bytes] = []

    def ready(board: LightBoard) -> None:
        found = {"id": board.id, "address": board.address, "control": simulator.control}
        if share:
            told.append(json.dumps(found).encode() + b"\n")  # for the first one, which prints them
        else:
            emit(found)

    simulator = LightSimulator(
        end - first,
        seed=seed,
        first=first,
        log=LOG,
        beacon_port=beacon_port,
        with_control=True,
        on_ready=ready,
    )
    try:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(_until_stopped(simulator, others, told, emit))
    finally:
        for pid in children:
            os.kill(pid, signal.SIGTERM)  # it was not waited for yet, so it is no stranger
        for pid in children:
            os.waitpid(pid, 0)


def _fork(shares: int) -> tuple[int, list[int], list[socket.socket]]:
    """Which share this process has, its children, and a socket to each process that must live as long.

    Such a socket ends when the process at its other end does, however that happens.
    """
    children: list[int] = []
    others: list[socket.socket] = []
    for share in range(1, shares):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if not pid:
            for other in (*others, ours):
                other.close()
            return share, [], [theirs]
        theirs.close()
        children.append(pid)
        others.append(ours)
    return 0, children, others


async def _until_stopped(
    simulator: LightSimulator,
    others: list[socket.socket],
    told: list[bytes],
    emit: Callable[[Mapping[str, Any]], None],
) -> None:
    """Tells the first process of the boards in ``told``, and ``emit`` of those that the others tell of."""
    work, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert work is not None
    why: list[str] = []

    def stop(reason: str) -> None:
        why.append(reason)
        for other in others:
            loop.remove_reader(other)
        work.cancel()

    rests = dict.fromkeys(others, b"")

    def hear(other: socket.socket) -> None:
        try:
            data = other.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            stop("lost")
            return
        *lines, rests[other] = (rests[other] + data).split(b"\n")
        for line in lines:
            emit(json.loads(line))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, "asked")
    for other in others:
        other.setblocking(False)
        loop.add_reader(other, hear, other)
    try:
        async with simulator:
            gc.collect()
            gc.freeze()  # what boards are made of stays: to look through it again would take long
            if told:
                await loop.sock_sendall(others[0], b"".join(told))
            await loop.create_future()
    except asyncio.CancelledError:
        if why[:1] == ["lost"]:
            raise SimulatorError(
                "Another process with a share of the boards has ended, so all do; start them anew."
            ) from None
