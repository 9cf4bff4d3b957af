"""Somebody stands in the place of a claimed board, or on the way to it: what a collector does with his words.

The board is played at the wire, by one who does not know its password.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import redis
import structlog
import uvloop
from board_wire import Say, Wire, answer, status_body

from espnet.clock import ManualClock
from espnet.collector import Collector
from espnet.credential import new_password
from espnet.model import Device, Reading, Threshold, Timer
from espnet.store import Store

#: The board that has a password, and one that everybody may switch, whose heater looks at the first.
PORCH, SHED = "127.0.0.2", "127.0.0.3"
NONCE = "0" * 44
COLD = -40.0
CHALLENGE = (
    f'WWW-Authenticate: Digest realm="EspNet porch", nonce="{NONCE}", algorithm=SHA-256, '
    'qop="auth,auth-int"\r\n'
)
LIE = f'Authentication-Info: rspauth="{"0" * 64}", qop=auth-int, nc=00000001, cnonce="x"\r\n'
KNOWN = {"fence": 0, "leases": {}, "private": False}


def cold(claimed: bool | None, headers: str = "") -> Say:
    known = KNOWN if claimed is None else KNOWN | {"claimed": claimed}
    return answer(status_body("porch", COLD, **known), headers=headers)


def wants(request: bytes) -> bool:
    """Whether a claimed board would ask for a password here."""
    return b"?fence=" in request or request.startswith(b"POST")


def says_it_is_open(request: bytes) -> Say:
    return cold(False)


def says_it_is_old(request: bytes) -> Say:
    return cold(None)


def knows_no_fence(request: bytes) -> Say:
    if b"?fence=" in request:
        return answer(b'{"error": "no such path"}', status="404 Not Found")
    return cold(True)


def refuses_then_answers(request: bytes) -> Say:
    if wants(request):
        return answer(b'{"error": "no"}', status="401 No", headers=CHALLENGE)
    return cold(True)


def takes_any(request: bytes) -> Say:
    if wants(request) and b"Authorization" not in request:
        return answer(b'{"error": "no"}', status="401 No", headers=CHALLENGE)
    return cold(True)


def lies(request: bytes) -> Say:
    if wants(request) and b"Authorization" not in request:
        return answer(b'{"error": "no"}', status="401 No", headers=CHALLENGE)
    return cold(True, LIE)


WAYS = (
    says_it_is_open,
    says_it_is_old,
    knows_no_fence,
    refuses_then_answers,
    takes_any,
    lies,
)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


def reading_of(board: str) -> Reading:
    status = msgspec.Raw(status_body(board, **KNOWN))
    return Reading(at=0, poll_s=0, interval_s=10, collector="", status=status)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_proved_switches_nothing(
    way: Callable[[bytes], Say], wire: Wire, redis_url: str, raw: redis.Redis
) -> None:
    """Neither a pin of that board, whose sensors are not asked, nor another board's heater that looks at it;
    what was proved last stays, and grows old; the device says what is wrong."""
    switched: list[bytes] = []

    def say(host: str, request: bytes) -> Say:
        if host == PORCH:
            if request.startswith(b"POST"):
                switched.append(request)
            return way(request)
        if request.startswith(b"POST"):
            switched.append(request)
            return answer(b'{"id": "shed", "status": "OK"}')
        return answer(status_body("shed", 70.0, **KNOWN))

    wire.default = say
    store, clock = Store(redis_url), ManualClock(time.time())
    store.add_password("porch", new_password())
    for name, host in (("porch", PORCH), ("shed", SHED)):
        device = Device(id=name, name=name, address=wire.address(host), dht22={"air": 15})
        has_password = name == "porch"
        store.add(device, reading_of(name), first_due=clock.now(), has_password=has_password)
    always: Any = {"start": "00:00", "hours": 24, "zone": "UTC"}
    lamp = Timer(name="lamp", pin=4, **always)
    heater = Threshold(
        name="heater", pin=4, input="porch.f", target=20, unit="c", stale="off", **always
    )
    store.change_jobs("porch", lambda *_: (lamp,), now=clock.now())
    store.change_jobs("shed", lambda *_: (heater,), now=clock.now())

    async def law() -> None:
        collector = Collector(store, clock, holder="here", interval_s=10, timeout_s=2)
        try:
            for _ in range(8):
                tick = await collector.tick(clock.advance(100))
                assert (tick.ok, tick.failed) == (1, 1)
        finally:
            await collector.close()

    with (
        structlog.testing.capture_logs() as log,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(law())
    pins = [request for request in switched if b" /gpio " in request]
    assert not pins
    assert not [request for request in switched if PORCH.encode() in request]
    view = store.view("porch")
    assert view.reading is not None
    assert view.reading.at == 0
    assert view.fault is not None
    assert view.fault.kind in ("denied", "unproved", "unclaimed", "http")
    assert [event["name"] for event in log if event["event"] == "board.lost"] == ["porch"]
    assert json.dumps(log).count("pin.set") == 0
    store.close()
