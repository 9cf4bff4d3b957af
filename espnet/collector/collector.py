"""Claims what is due, has it visited, commits in batches; shares the fleet with other collectors.

Invariants: at most one request is in flight a board, because the board's lock is held meanwhile and its
TTL is longer than everything done under it. Redis going away stops nothing for good. Nothing is committed
twice, and what could not be committed is counted and said.

Events: ``poll.void`` ``polls.dropped``.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog

from espnet.clock import Clock
from espnet.collector.redis_thread import Outage, RedisThread
from espnet.collector.targets import Targets
from espnet.collector.trips import Trips
from espnet.errors import BoardError, CredentialClosed, DeviceLockLost, StoreUnavailable
from espnet.model import Device, View
from espnet.store import BATCH, PRESENT_S, Claim, Poll, Store
from espnet.watch import Watch

#: Longest wait of a finished poll for others to be committed with, in seconds.
COMMIT_EVERY_S = 0.1
#: Pause between two tries to commit while Redis is away, in seconds.
RETRY_COMMIT_S = 0.5
#: What a lock's TTL adds to the time-outs of the trip under it, in seconds: one Redis time-out.
COMMIT_MARGIN_S = 5.0
#: Most polls in flight at once; each is one socket.
MAX_IN_FLIGHT = 1024

log = structlog.get_logger()


class Tick(NamedTuple):
    """What one tick did, in polls: those that boards answered, those that they did not, and how many
    of both came to nothing because their lock was gone."""

    ok: int = 0
    failed: int = 0
    void: int = 0


class Collector:
    """Polls the fleet. ``holder`` names this collector in locks, readings and `Store.collectors`.

    ``interval_s`` is for devices without one of their own; ``timeout_s`` is for one request. A trip
    gets three times that: for the board's answer, for all its sensors, for all writes. A collector that has
    not claimed for ``present_s`` is thought dead. ``beat_s`` is the time between two ticks: what is to be
    polled more often is said, once. ``observe`` is told how long each poll took, in seconds.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        holder: str,
        interval_s: float,
        timeout_s: float,
        present_s: float = PRESENT_S,
        beat_s: float = 0.0,
        outage: Outage | None = None,
        luck: Callable[[], float] = random.random,
        observe: Callable[[float], object] = lambda poll_s: None,
    ) -> None:
        self._store, self._clock, self._holder = store, clock, holder
        self._present_s = present_s
        self.lock_ttl_s = 3 * timeout_s + COMMIT_MARGIN_S
        self._redis = RedisThread(store, outage or Outage())
        self._targets, self._watch = Targets(clock, interval_s, beat_s), Watch()
        self._trips = Trips(
            self._targets,
            self._watch,
            self._redis,
            clock,
            holder=holder,
            timeout_s=timeout_s,
            luck=luck,
            observe=observe,
        )
        self._in_flight = 0
        self._claiming = self._has_claimed = False
        self._stopping = False

    async def tick(self, now: float) -> Tick:
        """Polls everything that is due at ``now``; returns when all of it is committed.

        Ticks may overlap: a slow board must not delay the next heartbeat.
        """
        if self._claiming:
            return Tick()  # Redis is slow; another claim behind this one would not help
        batches = []
        self._claiming = True
        try:
            while not self._stopping:
                most = min(MAX_IN_FLIGHT - self._in_flight, BATCH)
                # From before the locks are taken: the answer may be long under way, or this process stopped.
                locked_until = self._clock.monotonic() + self.lock_ttl_s
                # With no room for more, this says that somebody is here.
                claims = await self._claim(now, most)
                self._in_flight += len(claims)
                if claims:
                    batches.append(asyncio.create_task(self._poll(claims, locked_until)))
                if not claims or len(claims) < most:
                    break
        finally:
            self._claiming = False
        self._targets.forget()
        ticks = await asyncio.gather(*batches)
        return Tick(*map(sum, zip(*ticks, strict=True))) if ticks else Tick()

    async def poll(self, claims: Sequence[Claim]) -> Tick:
        """Polls devices whose locks somebody took already, and commits them."""
        self._in_flight += len(claims)
        return await self._poll(claims, self._clock.monotonic() + self.lock_ttl_s)

    def stop(self) -> None:
        """Claims nothing more; ticks under way end within their time-outs."""
        self._stopping = True

    async def close(self) -> None:
        """Closes every connection, and is at work no more. Call it when the last tick has ended."""
        self._targets.close()
        if self._has_claimed and not self._redis.outage.is_on:
            await self._redis.ask_or(None, lambda store: store.sign_off(self._holder))
        self._redis.close()

    # --- one batch ------------------------------------------------------------------------------

    async def _claim(self, now: float, limit: int) -> list[Claim]:
        try:
            claims = await self._redis.ask(
                lambda store: store.claim(
                    now,
                    limit,
                    self._holder,
                    ttl_s=self.lock_ttl_s,
                    present_s=self._present_s,
                )
            )
        except StoreUnavailable:
            return []
        self._redis.outage.ended()
        self._has_claimed = True
        self._targets.let_go(self._store.given)
        self._targets.keep(claims)
        if (version := self._store.jobs_version) != self._watch.version:
            await self._learn(version)
        return claims

    async def _learn(self, version: bytes) -> None:
        """Somebody's jobs changed: learns anew who looks at whose readings."""
        known = await self._redis.ask_or(None, lambda store: (store.all_jobs(), store.devices()))
        if known is not None:
            jobs, devices = known
            self._watch.learn(version, jobs, {device.id: device.name for device in devices})

    async def _wake(self) -> None:
        """Makes devices due that look at a reading which changed sides."""
        if woken := self._watch.take_woken():
            await self._redis.ask_or(None, lambda store: store.wake(woken, self._clock.now()))

    async def _poll(self, claims: Sequence[Claim], locked_until: float) -> Tick:
        """Polls claimed devices and commits them as they end, the quick ones first."""
        ended: list[Poll] = []
        visiting = asyncio.create_task(self._trips.make(claims, ended, locked_until))
        failed = void = 0
        is_over = False
        try:
            while not is_over:
                done, _ = await asyncio.wait((visiting,), timeout=COMMIT_EVERY_S)
                for task in done:
                    is_over = True
                    task.result()
                if ended:
                    polls = ended.copy()
                    ended.clear()
                    failed += sum(poll.reading is None for poll in polls)
                    void += await self._commit(polls, locked_until)
                    self._in_flight -= len(polls)
        finally:
            visiting.cancel()  # what nobody will commit is not asked for
        return Tick(len(claims) - failed, failed, void)

    async def _commit(self, polls: Sequence[Poll], locked_until: float) -> int:
        """Commits, again and again while Redis is away, for as long as the locks can be ours.

        Returns how many polls did not count.
        """
        while True:
            try:
                lost = await self._redis.ask(lambda store: store.commit(polls))
            except StoreUnavailable:
                if self._clock.monotonic() >= locked_until:
                    samples = sum(len(poll.batch.points) for poll in polls if poll.batch)
                    log.error("polls.dropped", polls=len(polls), samples=samples)
                    return len(polls)
                await asyncio.sleep(RETRY_COMMIT_S)
            else:
                self._redis.outage.ended()
                await self._wake()
                if lost:
                    log.warning("poll.void", polls=len(lost), reason="the lock was gone")
                return len(lost)


def poll_now(
    store: Store, device: Device, clock: Clock, *, holder: str, interval_s: float, timeout_s: float
) -> View:
    """One whole trip to one device, whose lock is waited for: read, decide, write, commit.

    For programs without an event loop. Returns what is known of the device then. Raises `BoardError` after
    the failure was committed too, `DeviceBusy` when a collector has it, `CredentialClosed` before anything
    is done without the password, `UnknownDevice`.
    """
    if device.credential and (problem := store.credential(device.id).problem):
        raise CredentialClosed(device.id, problem)
    collector = Collector(store, clock, holder=holder, interval_s=interval_s, timeout_s=timeout_s)
    ttl_s = collector.lock_ttl_s
    with store.hold(device, holder, ttl_s=ttl_s, wait_s=ttl_s) as grant:
        # Read under the lock: while we waited, the device may have been given another address.
        claim = store.claim_under(grant, device.name, clock.now())

        async def trip() -> bool:
            try:
                return not (await collector.poll([claim])).void
            finally:
                await collector.close()

        if not asyncio.run(trip()):
            raise DeviceLockLost(device.name)
    view = store.view(device.name)
    if view.fault is not None:
        raise BoardError(view.device.address, view.fault.kind, view.fault.what)
    return view
