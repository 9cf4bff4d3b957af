"""How tests collect: boards at the wire, a real Redis, and ticks of a clock that moves when told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import uvloop
from board_wire import Say, Wire, board_id, run_on, status_body

from espnet.clock import ManualClock
from espnet.collector import Collector
from espnet.model import Device, Reading
from espnet.store import Store

#: Long enough never to pass.
PATIENCE_S = 20.0
#: Where a board hangs until its time-out; a board that answers may still be a second late.
HANG_TIMEOUT_S = 1.5
HANG = Say((), "hang")


def run(main: Coroutine[None, None, None]) -> None:
    """Runs on the loop that `espcli run` uses."""
    run_on(uvloop.new_event_loop, main)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is another thread's
            await asyncio.sleep(0.002)


@asynccontextmanager
async def collecting(
    store: Store,
    clock: ManualClock,
    holder: str = "here",
    timeout_s: float = PATIENCE_S,
    beat_s: float = 0.0,
) -> AsyncIterator[Collector]:
    collector = Collector(
        store,
        clock,
        holder=holder,
        interval_s=10.0,
        timeout_s=timeout_s,
        beat_s=beat_s,
        luck=lambda: 0.0,
    )
    try:
        yield collector
    finally:
        await collector.close()


def host(number: int) -> str:
    return f"127.1.{number // 250}.{number % 250 + 1}"


def register(store: Store, wire: Wire, clock: ManualClock, count: int, **more: Any) -> list[Device]:
    """``count`` boards that are all due now, named by their numbers."""
    return [
        store.add(
            Device(
                id=board_id(host(number)),
                name=str(number),
                address=wire.address(host(number)),
                registered_at=clock.now(),
                **more,
            ),
            Reading(
                at=0,
                poll_s=0,
                interval_s=10,
                collector="",
                status=msgspec.Raw(status_body(board_id(host(number)))),
            ),
            first_due=clock.now(),
        )
        for number in range(count)
    ]


def polled(store: Store, clock: ManualClock) -> set[str]:
    """The names of those with a reading of this very moment."""
    return {v.device.name for v in store.views() if v.reading and v.reading.at == clock.now()}


def names(log: list[Any]) -> list[str]:
    return [event["event"] for event in log]
