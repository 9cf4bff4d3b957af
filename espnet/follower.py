"""Follows registered boards that moved, by what their beacons say.

Invariants: a device that answers where it is registered stays there, whoever says what: no beacon makes us
as much as ask elsewhere. One that does not answer is looked for where a beacon says that its board is, under
its lock, and moved only when that board answers with its id and, where EspNet has a password for it, proves
that it knows it. At most `CALLS_A_MINUTE` addresses are asked. What is kept is bounded by the fleet.

Events: ``device.moved`` ``beacon.refused``.
"""

import asyncio
import contextlib
import random
from collections import deque
from typing import NamedTuple

import structlog

from espnet.board import client
from espnet.board.beacon import Beacon
from espnet.board.calls import GET_BASIC, UNPROVED, parse_status, renew_leases
from espnet.board.digest import Login
from espnet.clock import Clock
from espnet.collector import Outage
from espnet.errors import BoardError, DeviceBusy, DeviceLockLost, StoreUnavailable, UnknownDevice
from espnet.model import Device
from espnet.names import split_address
from espnet.store import Store

#: Most addresses that are asked in a minute because a beacon named them.
CALLS_A_MINUTE = 120
#: Pause between two looks at the devices that may have moved, in seconds.
EVERY_S = 1.0
#: A beacon is believed to be of use for so long, in seconds: boards send one every minute.
BEACON_S = 130.0
#: Who is registered is read anew after so many seconds, if somebody else spoke.
LEARN_S = 30.0
#: Beacons that are too old are forgotten so often, in seconds.
FORGET_S = 10.0
#: An address where it was not that board is not asked again for so long, one where nothing answered not
#: for so long, in seconds.
REFUSED_S, SILENT_S = 600.0, 20.0
#: Most addresses at which one board is said to be; more of them push out one another, by chance.
MAX_PLACES = 8
#: Most addresses that are remembered as refused.
MAX_REFUSED = 4096

#: What a board may have against us that the next minute may change.
_PASSING = ("refused", "unreachable", "timeout", "closed")

log = structlog.get_logger()


class Found(NamedTuple):
    """What asking at an address came to: whether the device is there now, else when to ask again."""

    is_moved: bool = False
    refused_s: float = 0.0


class Follower:
    """``holder`` names us in locks; ``timeout_s`` is for one call to a board. ``store`` is its alone."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        holder: str,
        timeout_s: float,
        outage: Outage | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        self._store, self._clock, self._holder = store, clock, holder
        self._timeout_s, self._every_s = timeout_s, every_s
        self._outage = outage or Outage()
        self._registered: frozenset[str] = frozenset()
        self._learned_at = -LEARN_S
        self._is_news = True
        #: By a device's id: where it is said to be, and when that was last heard (monotonic seconds).
        self._places: dict[str, dict[str, float]] = {}
        self._forgot_at = 0.0
        #: Until when an address is not asked for a board again.
        self._refused: dict[tuple[str, str], float] = {}
        self._calls: deque[float] = deque(maxlen=CALLS_A_MINUTE)

    def heard(self, beacon: Beacon) -> None:
        """Notes where a registered board says that it is. To be called on `run`'s loop."""
        if beacon.id not in self._registered:
            self._is_news = True
            return
        places = self._places.setdefault(beacon.id, {})
        if beacon.address not in places and len(places) >= MAX_PLACES:
            del places[random.choice(list(places))]
        places[beacon.address] = self._clock.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Follows until ``stop``; Redis going away only makes it wait."""
        while not stop.is_set():
            try:
                await self.look()
            except StoreUnavailable as error:
                self._outage.began(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await stop.wait()

    async def look(self) -> None:
        """One look: asks for each device that fails at one of the places where it is said to be."""
        now = self._clock.monotonic()
        if self._is_news and now - self._learned_at >= LEARN_S:
            self._is_news, self._learned_at = False, now
            self._registered = await asyncio.to_thread(self._learn)
        if now - self._forgot_at >= FORGET_S:
            self._forget(now)
        if not self._places:
            return
        failing = [
            device_id
            for device_id in await asyncio.to_thread(self._store.failing)
            if device_id in self._places
        ]
        random.shuffle(failing)  # who comes late in the minute today comes early tomorrow
        for device_id in failing:
            address = self._next_place(device_id, now)
            if address is None:
                continue
            if not self._may_call():
                break
            found = await asyncio.to_thread(self._ask, device_id, address)
            if found.is_moved:
                self._places.pop(device_id, None)
            elif found.refused_s:
                if len(self._refused) >= MAX_REFUSED:
                    del self._refused[next(iter(self._refused))]
                self._refused[device_id, address] = self._clock.monotonic() + found.refused_s

    def _learn(self) -> frozenset[str]:
        return frozenset(device.id for device in self._store.devices())

    def _forget(self, now: float) -> None:
        """Beacons grow old, and so does what was refused."""
        self._forgot_at = now
        for device_id, places in list(self._places.items()):
            for address in [one for one, at in places.items() if now - at > BEACON_S]:
                del places[address]
            if not places or device_id not in self._registered:
                del self._places[device_id]
        for key in [key for key, until in self._refused.items() if until <= now]:
            del self._refused[key]

    def _next_place(self, device_id: str, now: float) -> str | None:
        """One of the places where the device is said to be and was not found to be missing, by chance."""
        places = [
            address
            for address, at in self._places.get(device_id, {}).items()
            if now - at <= BEACON_S and self._refused.get((device_id, address), now) <= now
        ]
        return random.choice(places) if places else None

    def _may_call(self) -> bool:
        calls, now = self._calls, self._clock.monotonic()
        return len(calls) < CALLS_A_MINUTE or now - calls[0] >= 60

    def _ask(self, device_id: str, address: str) -> Found:
        """Asks at the address whether it is that board, under the device's lock; moves it there if it is."""
        device = self._store.device_of(device_id)
        if device is None or is_same_place(device.address, address):
            return Found(refused_s=SILENT_S)
        try:
            with self._store.hold(
                device, self._holder, ttl_s=2 * self._timeout_s + 10, wait_s=0
            ) as grant:
                # Under the lock nobody polls it: it is as it was said to be, or it has come back.
                present = self._store.device_of(device_id)
                if present is None or device_id not in self._store.faults([device_id]):
                    return Found()
                return self._verified(present, address, grant.fence)
        except (DeviceBusy, DeviceLockLost, UnknownDevice):
            return Found()  # it is polled just now, or gone; the next look will see

    def _verified(self, device: Device, address: str, fence: int) -> Found:
        self._calls.append(self._clock.monotonic())
        try:
            if not self._is_there(device, address, fence):
                return Found(refused_s=REFUSED_S)
        except BoardError as error:
            is_passing = error.kind in _PASSING or (error.status or 0) >= 500
            if not is_passing:
                log.warning("beacon.refused", name=device.name, address=address, reason=error.what)
            return Found(refused_s=SILENT_S if is_passing else REFUSED_S)
        if not self._store.move(device, address, now=self._clock.now()):
            return Found()  # somebody changed it meanwhile
        log.info(
            "device.moved",
            name=device.name,
            id=device.id,
            was=device.address,
            address=address,
            proved=bool(device.credential),
        )
        return Found(is_moved=True)

    def _is_there(self, device: Device, address: str, fence: int) -> bool:
        """Whether the board answers at the address, as far as that can be asked; raises `BoardError` where
        something else does, or nothing."""
        if not device.credential:
            parse_status(address, client.send(address, GET_BASIC, self._timeout_s), device.id)
            return True
        credential = self._store.credential(device.id)
        if credential.problem or not credential.passwords:
            return False  # others may have the key
        login = Login(device.id, lambda _: credential.passwords)
        body = client.send(address, renew_leases(fence), self._timeout_s, login)
        if not login.is_proved:
            raise BoardError(address, "unproved", UNPROVED)
        parse_status(address, body, device.id)
        return True


def is_same_place(one: str, other: str) -> bool:
    """Whether two addresses are written differently at most: port 80 may be left out."""
    return split_address(one) == split_address(other)
