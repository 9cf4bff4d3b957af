"""The collector: claims what is due, polls it concurrently, commits in batches. The only async code.

Invariants: at most one request is in flight a board, because the board's lock is held meanwhile and
its TTL is longer than everything done under it. A board that fails costs only itself. Redis going
away stops nothing for good: it is said once when it goes and once when it is back. Nothing is
committed twice, and what could not be committed is counted and said.

Events: ``board.lost`` ``board.back`` ``poll.void`` ``polls.dropped`` ``redis.lost`` ``redis.back``.
"""

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import structlog

from espnet import trip
from espnet.board.calls import GET_BASIC, parse_climate, parse_status, read_dht22
from espnet.board.link import Link, request_bytes
from espnet.clock import Clock
from espnet.errors import BoardError, StoreUnavailable
from espnet.model import Climate, Device
from espnet.store import BATCH, Claim, Poll, Store

#: Longest wait of a finished poll for others to be committed with, in seconds.
COMMIT_EVERY_S = 0.1
#: Pause between two tries to commit while Redis is away, in seconds.
RETRY_COMMIT_S = 0.5
#: What a lock's TTL adds to the time-outs of the trip under it, in seconds: one Redis time-out.
COMMIT_MARGIN_S = 5.0
#: A link whose device was not claimed here for so long is closed: another collector has it now.
FORGET_LINK_S = 120.0
#: Most polls in flight at once; each is one socket.
MAX_IN_FLIGHT = 1024

T = TypeVar("T")
log = structlog.get_logger()


class Tick(NamedTuple):
    """What one tick did, in polls: those that boards answered, those that they did not, and how many
    of both came to nothing because their lock was gone."""

    ok: int = 0
    failed: int = 0
    void: int = 0


class Outage:
    """Says once that Redis is away and once that it is back, whoever notices."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self.is_on = False

    def began(self, error: StoreUnavailable) -> None:
        with self._guard:
            if not self.is_on:
                self.is_on = True
                log.error("redis.lost", reason=str(error))

    def ended(self) -> None:
        if self.is_on:
            with self._guard:
                if self.is_on:
                    self.is_on = False
                    log.info("redis.back")


class _Target:
    """What the collector keeps of a device between polls: its link, and what never changes."""

    def __init__(self, device: Device, interval_s: float) -> None:
        self.device = device
        self.link = Link(device.address)
        self.interval_s = device.interval_s or interval_s
        self.tags = trip.sample_tags(device)
        self.get_basic = request_bytes(device.address, GET_BASIC)
        self.get_dht22 = {
            name: request_bytes(device.address, read_dht22(pin))
            for name, pin in device.dht22.items()
        }
        self.claimed_at = 0.0


class Collector:
    """Polls the fleet. ``holder`` names this collector in locks, readings and `Store.collectors`.

    ``interval_s`` is for devices without one of their own; ``timeout_s`` is for one request. A trip
    gets twice that for all its requests together.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        holder: str,
        interval_s: float,
        timeout_s: float,
        outage: Outage | None = None,
        luck: Callable[[], float] = random.random,
    ) -> None:
        self._store, self._clock, self._holder = store, clock, holder
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._outage, self._luck = outage or Outage(), luck
        self.lock_ttl_s = 2 * timeout_s + COMMIT_MARGIN_S
        self._targets: dict[str, _Target] = {}
        self._in_flight = 0
        self._claiming = False
        self._stopping = False
        # One thread, hence one Redis connection and no two scripts at once.
        self._redis_thread = ThreadPoolExecutor(1, thread_name_prefix="redis")

    async def tick(self, now: float) -> Tick:
        """Polls everything that is due at ``now``; returns when all of it is committed.

        Ticks may overlap: a slow board must not delay the next heartbeat.
        """
        if self._claiming:
            return Tick()  # Redis is slow; another claim behind this one would not help
        batches = []
        self._claiming = True
        try:
            while (free := MAX_IN_FLIGHT - self._in_flight) > 0 and not self._stopping:
                claims = await self._claim(now, min(free, BATCH))
                self._in_flight += len(claims)
                if claims:
                    batches.append(asyncio.create_task(self._poll(claims)))
                if len(claims) < min(free, BATCH):
                    break
        finally:
            self._claiming = False
        self._forget_links()
        ticks = await asyncio.gather(*batches)
        return Tick(*map(sum, zip(*ticks, strict=True))) if ticks else Tick()

    def stop(self) -> None:
        """Claims nothing more; ticks under way end within their time-outs."""
        self._stopping = True

    async def close(self) -> None:
        """Closes every connection. Call it when the last tick has ended."""
        for target in self._targets.values():
            target.link.close()
        self._targets.clear()
        self._redis_thread.shutdown()

    # --- one batch ------------------------------------------------------------------------------

    async def _claim(self, now: float, limit: int) -> list[Claim]:
        try:
            claims = await self._in_thread(
                lambda: self._store.claim(now, limit, self._holder, ttl_s=self.lock_ttl_s)
            )
        except StoreUnavailable as error:
            self._outage.began(error)
            return []
        self._outage.ended()
        return claims

    async def _poll(self, claims: Sequence[Claim]) -> Tick:
        """Polls claimed devices and commits them as they end, the quick ones first."""
        locked_until = self._clock.monotonic() + self.lock_ttl_s
        waiting = {asyncio.create_task(self._trip(claim)) for claim in claims}
        failed = void = 0
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=COMMIT_EVERY_S)
            if done:
                polls = [task.result() for task in done]
                failed += sum(poll.reading is None for poll in polls)
                void += await self._commit(polls, locked_until)
                self._in_flight -= len(polls)
        return Tick(len(claims) - failed, failed, void)

    async def _commit(self, polls: Sequence[Poll], locked_until: float) -> int:
        """Commits, again and again while Redis is away, for as long as the locks can be ours.

        Returns how many polls did not count.
        """
        while True:
            try:
                lost = await self._in_thread(lambda: self._store.commit(polls))
            except StoreUnavailable as error:
                self._outage.began(error)
                if self._clock.monotonic() >= locked_until:
                    samples = sum(len(poll.batch.points) for poll in polls if poll.batch)
                    log.error("polls.dropped", polls=len(polls), samples=samples)
                    return len(polls)
                await asyncio.sleep(RETRY_COMMIT_S)
            else:
                self._outage.ended()
                if lost:
                    log.warning("poll.void", polls=len(lost), reason="the lock was gone")
                return len(lost)

    # --- one trip -------------------------------------------------------------------------------

    async def _trip(self, claim: Claim) -> Poll:
        device, fault, due, grant = claim
        target = self._target(device)
        monotonic = self._clock.monotonic
        began = monotonic()
        try:
            body = await target.link.exchange(target.get_basic, self._timeout_s)
            status = parse_status(device.address, body, device.id)
        except BoardError as error:
            if self._targets.get(device.id) is not target:
                return Poll(grant, self._clock.now())  # let go for a newer claim; its lock is gone
            target.link.close()
            if fault is None or fault.kind != error.kind:
                log.warning("board.lost", name=device.name, kind=error.kind, reason=str(error))
            return trip.failed(
                grant,
                fault,
                error,
                at=self._clock.now(),
                interval_s=target.interval_s,
                tags=target.tags,
                luck=self._luck(),
            )
        climates, climate_errors = (
            await self._climates(target, began) if target.get_dht22 else ({}, {})
        )
        if fault is not None:
            log.info("board.back", name=device.name, failures=fault.failures)
        return trip.seen(
            device,
            grant,
            fault,
            body,
            status,
            climates,
            climate_errors,
            at=self._clock.now(),
            poll_s=monotonic() - began,
            due=due,
            interval_s=target.interval_s,
            collector=self._holder,
            tags=target.tags,
        )

    async def _climates(
        self, target: _Target, began: float
    ) -> tuple[dict[str, Climate], dict[str, str]]:
        """Reads the DHT22 sensors in what is left of the trip's time; a failure costs one reading."""
        climates: dict[str, Climate] = {}
        errors: dict[str, str] = {}
        for name, request in target.get_dht22.items():
            left_s = began + 2 * self._timeout_s - self._clock.monotonic()
            if left_s <= 0:
                errors[name] = "not read: the board took too long before its turn"
                continue
            try:
                body = await target.link.exchange(request, min(left_s, self._timeout_s))
                climates[name] = parse_climate(target.device.address, body)
            except BoardError as error:
                errors[name] = error.what
        return climates, errors

    def _target(self, device: Device) -> _Target:
        target = self._targets.get(device.id)
        # A busy link means that somebody freed the lock under a trip: the device was registered anew.
        if target is None or target.device is not device or target.link.is_busy:
            if target is not None:
                target.link.close()
            target = self._targets[device.id] = _Target(device, self._interval_s)
        target.claimed_at = self._clock.monotonic()
        return target

    def _forget_links(self) -> None:
        """Closes the links of devices that are no longer claimed here."""
        horizon = self._clock.monotonic() - FORGET_LINK_S
        for device_id in [i for i, t in self._targets.items() if t.claimed_at < horizon]:
            self._targets.pop(device_id).link.close()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._redis_thread, work)
