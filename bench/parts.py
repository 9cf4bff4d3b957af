"""Where a trip's time goes in Python: the parts of it, one after another, without sockets and without Redis.

    python -m bench.parts

Prints µs of CPU a poll for each part, over 100 boards with 34 pins and two jobs each whose answers change,
the best of many rounds: the machine is shared, and nothing makes code faster than it is. In a whole trip
(`bench.trip`) the same code finds colder caches.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

import hiredis
import msgspec
import uvloop

from bench.boards import COUNT, Body, board_id, status
from bench.trip import JOBS
from espnet.board.link import _Wire
from espnet.board.round import Round
from espnet.clock import ManualClock
from espnet.collector import Collector
from espnet.model import Device, JobMemory, Memory, PinMemory, Threshold, decode_status, encode
from espnet.store import Claim, Poll, Store
from espnet.visit import Target

ROUNDS, NOW, INTERVAL_S = 200, 1_768_000_000.0, 10.0
T = TypeVar("T")


class Transport:
    """Takes what is written, and nothing comes of it."""

    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Parts:
    """The best time of each part so far, in µs a poll."""

    def __init__(self) -> None:
        self.us: dict[str, float] = {}

    def timed(self, name: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = work()
        us = (time.perf_counter() - began) / COUNT * 1e6
        self.us[name] = min(self.us.get(name, us), us)
        return result


def row(number: int) -> list[Any]:
    """What the script of claims answers for one device."""
    name = f"board{number}"
    device = Device(
        id=board_id(number),
        name=name,
        address=f"127.0.0.1:{20_000 + number}",
        report_pins=(2,),
        registered_at=NOW,
    )
    jobs = tuple(
        msgspec.structs.replace(job, input=f"{name}.f") if isinstance(job, Threshold) else job
        for job in JOBS
    )
    seen = PinMemory(0, 0.0)
    memory = Memory({4: seen, 5: seen}, {"heater": JobMemory(False, 0.0)})
    grant = [b"%.6f" % NOW, b"bench:%d" % (10**6 + number), 10**6 + number]
    return [device.id.encode(), encode(device), None, *grant, encode(jobs), encode(memory)]


async def measure() -> dict[str, float]:
    parts, clock, loop = Parts(), ManualClock(NOW), asyncio.get_running_loop()
    store = Store("unix:///nowhere")
    collector = Collector(store, clock, holder="bench", interval_s=INTERVAL_S, timeout_s=2.0)
    trips = collector._trips
    rows = [row(number) for number in range(COUNT)]
    bodies = [Body(status(number), changing=True) for number in range(COUNT)]
    sent: list[Any] = []

    def claim(**_: object) -> list[Any]:
        # As from Redis: equal bytes, and never the same objects.
        return [
            b"1",
            0,
            [],
            [[bytes(bytearray(x)) if isinstance(x, bytes) else x for x in r] for r in rows],
        ]

    def commit(keys: list[str], args: list[Any]) -> list[bytes]:
        sent[:] = ["EVALSHA", "0" * 40, len(keys), *keys, *args]
        return []

    store._commit = commit

    def answer(body: bytes) -> bytes:
        return (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Connection: keep-alive\r\n\r\n%b" % (len(body), body)
        )

    async def one_round() -> None:
        answered = claim()
        store._claim = lambda found=answered, **_: found
        claims = parts.timed("claim: records", lambda: store.claim(NOW, COUNT, "bench", ttl_s=11.0))
        targets = [collector._targets.of(claim.device) for claim in claims]
        for target in targets:
            if not target.link.is_open:
                target.link._wire = wire = _Wire("", loop, 2.0)
                wire.connection_made(Transport())  # type: ignore[arg-type]
        round_: Round[tuple[Claim, Target]] = Round(clock, 2.0)
        parts.timed(
            "ask: request and bookkeeping",
            lambda: [t.ask(c, round_) for t, c in zip(targets, claims, strict=True)],
        )
        came = [answer(body.next()) for body in bodies]
        parts.timed(
            "answer: HTTP",
            lambda: [t.link._wire.data_received(x) for t, x in zip(targets, came, strict=True)],
        )
        asked = await round_.answers()
        parts.timed("  of it: JSON", lambda: [decode_status(a.outcome.body) for a in asked])
        polls: list[Poll] = []

        def glance() -> None:
            for a in asked:
                poll, sight = trips._glance(*a.key, {}, a)
                if poll is None:  # the first round: from then on, this is the steady state
                    reading, given, _ = trips._look(*a.key, sight, 0.0, {})
                    a.key[1].settle(a.key[0], sight, given)
                    poll = trips._seen(*a.key, sight, reading, None)
                polls.append(poll)

        parts.timed("look: JSON, checks, jobs, reading, samples", glance)
        parts.timed("commit: records", lambda: store.commit(polls))
        parts.timed("commit: Redis protocol", lambda: hiredis.pack_command(tuple(sent)))
        round_.close()

    for _ in range(ROUNDS):
        await one_round()
    return parts.us


def main() -> None:
    us = uvloop.run(measure())
    for name, each in us.items():
        print(f"{name:44} {each:5.2f}")
    print(f"{'together':44} {sum(v for k, v in us.items() if k[0] != ' '):5.2f}   µs a poll")


if __name__ == "__main__":
    main()
