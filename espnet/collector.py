"""The collector: claims what is due, polls it concurrently, commits in batches. The only async code.

Invariants: at most one request is in flight a board, because the board's lock is held meanwhile and
its TTL is longer than everything done under it. A board that fails costs only itself. Redis going
away stops nothing for good: it is said once when it goes and once when it is back. Nothing is
committed twice, and what could not be committed is counted and said.

Events: ``board.lost`` ``board.back`` ``board.slowed`` ``board.recovered`` ``poll.void`` ``polls.dropped``
``redis.lost`` ``redis.back``.
"""

import asyncio
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import msgspec
import structlog

from espnet import pace, trip
from espnet.board.round import Asked, Round
from espnet.clock import Clock
from espnet.credential import Password
from espnet.errors import BoardError, CredentialClosed, DeviceLockLost, StoreUnavailable
from espnet.model import Device, Input, Memory, Pace, Reading, View
from espnet.store import BATCH, PRESENT_S, Claim, Grant, Poll, Store
from espnet.trip import Sight
from espnet.visit import Target, act, gather, looks_of
from espnet.watch import Watch, look_up

#: Longest wait of a finished poll for others to be committed with, in seconds.
COMMIT_EVERY_S = 0.1
#: Pause between two tries to commit while Redis is away, in seconds.
RETRY_COMMIT_S = 0.5
#: What a lock's TTL adds to the time-outs of the trip under it, in seconds: one Redis time-out.
COMMIT_MARGIN_S = 5.0
#: A link whose device was not claimed here for so long is closed: another collector has it now.
FORGET_LINK_S = 120.0
#: For so long a board whose password we cannot get is left to other collectors, in seconds.
LOCKED_OUT_S = 1.0
#: What a board answers that wants to be asked less: it is asked too often, it has no memory or no place.
REFUSALS = (429, 503)
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


class Collector:
    """Polls the fleet. ``holder`` names this collector in locks, readings and `Store.collectors`.

    ``interval_s`` is for devices without one of their own; ``timeout_s`` is for one request. A trip
    gets three times that: for the board's answer, for all its sensors, for all writes. A collector that has
    not claimed for ``present_s`` is thought dead. ``observe`` is told how long each poll took, in seconds.
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
        outage: Outage | None = None,
        luck: Callable[[], float] = random.random,
        observe: Callable[[float], object] = lambda poll_s: None,
    ) -> None:
        self._observe = observe
        self._store, self._clock, self._holder = store, clock, holder
        self._interval_s, self._timeout_s = interval_s, timeout_s
        self._outage, self._luck = outage or Outage(), luck
        self._present_s = present_s
        self.lock_ttl_s = 3 * timeout_s + COMMIT_MARGIN_S
        self._targets: dict[str, Target] = {}
        #: Devices that are somebody else's now, and whose last visit here is not yet over.
        self._leaving: set[str] = set()
        self._watch = Watch()
        #: When `_forget_links` looks again, in monotonic seconds.
        self._forget_at = 0.0
        self._in_flight = 0
        self._claiming = self._has_claimed = False
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
        self._forget_links()
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
        for target in self._targets.values():
            target.link.close()
        self._targets.clear()
        if self._has_claimed and not self._outage.is_on:
            try:
                await self._in_thread(lambda: self._store.sign_off(self._holder))
            except StoreUnavailable as error:
                self._outage.began(error)
        self._redis_thread.shutdown()

    # --- one batch ------------------------------------------------------------------------------

    async def _claim(self, now: float, limit: int) -> list[Claim]:
        try:
            claims = await self._in_thread(
                lambda: self._store.claim(
                    now,
                    limit,
                    self._holder,
                    ttl_s=self.lock_ttl_s,
                    present_s=self._present_s,
                )
            )
        except StoreUnavailable as error:
            self._outage.began(error)
            return []
        self._outage.ended()
        self._has_claimed = True
        self._let_go(self._store.given)
        if self._leaving:
            self._leaving.difference_update(claim.device.id for claim in claims)
        if (version := self._store.jobs_version) != self._watch.version:
            await self._learn(version)
        return claims

    def _let_go(self, given: Sequence[str] | None) -> None:
        """Closes the links of devices that are somebody else's now: a board has few places. None: of all."""
        ids = list(self._targets) if given is None else [*given, *self._leaving]
        self._leaving.clear()
        for device_id in ids:
            target = self._targets.get(device_id)
            if target is None:
                continue
            if target.link.is_busy:
                self._leaving.add(device_id)
            else:
                self._targets.pop(device_id).link.close()

    async def _learn(self, version: bytes) -> None:
        """Somebody's jobs changed: learns anew who looks at whose readings."""
        try:
            jobs, devices = await self._in_thread(
                lambda: (self._store.all_jobs(), self._store.devices())
            )
        except StoreUnavailable as error:
            self._outage.began(error)
        else:
            self._watch.learn(version, jobs, {device.id: device.name for device in devices})

    async def _wake(self) -> None:
        """Makes devices due that look at a reading which changed sides."""
        if woken := self._watch.take_woken():
            try:
                await self._in_thread(lambda: self._store.wake(woken, self._clock.now()))
            except StoreUnavailable as error:
                self._outage.began(error)

    async def _poll(self, claims: Sequence[Claim], locked_until: float) -> Tick:
        """Polls claimed devices and commits them as they end, the quick ones first."""
        await self._recall(claims)
        await self._log_in(claims)
        others = await self._others(claims)
        ended: list[Poll] = []
        visiting = asyncio.create_task(self._visit(claims, others, ended, locked_until))
        failed = void = 0
        is_over = False
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
        return Tick(len(claims) - failed, failed, void)

    async def _visit(
        self,
        claims: Sequence[Claim],
        others: Mapping[str, Input] | None,
        ended: list[Poll],
        locked_until: float,
    ) -> None:
        """Visits the boards of a batch; each poll joins ``ended`` as it ends. No board is asked whose lock
        could end under its trip: Redis was slow, or this process stood still, and somebody else may be there.

        In the steady state of a fleet a visit is one answer on a kept connection, of which nothing follows:
        this coroutine takes all of those. What needs more gets a task of its own.
        """

        async def long_way(*trip: Any) -> None:
            ended.append(await self._trip(*trip))

        if self._clock.monotonic() > locked_until - 3 * self._timeout_s:
            ended += [Poll(claim.grant, self._clock.now()) for claim in claims]
            return
        tasks = []
        round_: Round[tuple[Claim, Target]] = Round(self._clock, self._timeout_s)
        try:
            for claim in claims:
                target = self._target(claim.device)
                target.locked_until = locked_until
                if target.is_locked_out or not target.ask(claim, round_):
                    tasks.append(asyncio.create_task(long_way(claim, target, others)))
            while answers := await round_.answers():
                for asked in answers:
                    claim, target = asked.key
                    poll, sight = self._glance(claim, target, others, asked)
                    if poll is not None:
                        ended.append(poll)
                        continue
                    rest = long_way(claim, target, others, asked, sight)
                    tasks.append(asyncio.create_task(rest))
        finally:
            round_.close()
        for task in tasks:
            await task

    async def _recall(self, claims: Sequence[Claim]) -> None:
        """Learns how boards bear their polls that somebody else polled last, as far as anybody knows."""
        known = self._targets
        strange = [
            claim
            for claim in claims
            if (target := known.get(claim.device.id)) is None
            or abs(target.next_due - claim.due) > 1e-5  # Redis keeps six digits
            or target.device is not claim.device
        ]
        if not strange:
            return
        names = [claim.device.name for claim in strange if claim.fault is None]
        try:
            readings = await self._in_thread(lambda: self._store.readings(names))
        except StoreUnavailable as error:
            self._outage.began(error)
            return
        for claim in strange:
            last = claim.fault or readings.get(claim.device.name)
            self._target(claim.device).pace_as(last.pace if last else None)

    async def _log_in(self, claims: Sequence[Claim]) -> None:
        """Fetches the passwords of boards that are new here, have another one, or refused theirs."""
        known = self._targets
        wanting = [
            self._target(claim.device)
            for claim in claims
            if claim.device.credential
            and (
                (target := known.get(claim.device.id)) is None
                or target.device is not claim.device
                or target.wants_login
            )
        ]
        if not wanting:
            return
        ids = [target.device.id for target in wanting]
        try:
            found = await self._in_thread(lambda: self._store.credentials(ids))
        except StoreUnavailable as error:
            self._outage.began(error)
            return
        for target in wanting:
            target.log_in(found.get(target.device.id))

    async def _prefer(self, device: Device, password: Password) -> None:
        """A change of the password was cut off, and the board has another one than the likeliest: people who
        ask for it shall be shown that one."""
        try:
            await self._in_thread(lambda: self._store.prefer_password(device.id, password))
        except CredentialClosed:
            pass  # somebody sealed it meanwhile, under a key that is not ours
        except StoreUnavailable as error:
            self._outage.began(error)

    async def _others(self, claims: Sequence[Claim]) -> dict[str, Input] | None:
        """What the thresholds of a batch look at beyond their own boards, in one round trip.

        None where Redis did not say: then nothing is decided, and the leases go on deciding.
        """
        wanted: set[str] = set()
        for claim in claims:
            target = self._targets.get(claim.device.id)
            if target is not None and target.device is claim.device:
                wanted.update(target.looks(claim.jobs).others)
            else:
                wanted.update(looks_of(claim.device, claim.jobs).others)
        if not wanted:
            return {}
        try:
            return await self._in_thread(lambda: look_up(self._store, wanted))
        except StoreUnavailable as error:
            self._outage.began(error)
            return None

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
                await self._wake()
                if lost:
                    log.warning("poll.void", polls=len(lost), reason="the lock was gone")
                return len(lost)

    # --- one trip -------------------------------------------------------------------------------

    async def _trip(
        self,
        claim: Claim,
        target: Target,
        others: Mapping[str, Input] | None,
        asked: Asked[tuple[Claim, Target]] | None = None,
        sight: Sight | None = None,
    ) -> Poll:
        """A whole trip; with ``asked``, and maybe ``sight``, what is left of it after `_glance`."""
        began = asked.began if asked else self._clock.monotonic()
        if target.is_locked_out:
            # Another collector may have the key. Nothing is asked, and nothing is said of the board.
            return Poll(claim.grant, self._clock.now() + LOCKED_OUT_S)
        try:
            if sight is None:
                sight = await target.read(claim, self._clock, self._timeout_s, asked)
                if target.pace is not None or not pace.is_well(
                    sight.answer_s, sight.status.mem_free, target.slow_s
                ):
                    self._weigh(claim, target, sight)
        except BoardError as error:
            self._observe(self._clock.monotonic() - began)
            return self._failed(claim, target, error)
        poll_s = self._clock.monotonic() - began
        if (password := target.found) is not None:
            await self._prefer(claim.device, password)
        self._observe(poll_s)
        reading, given, is_settled = self._look(claim, target, sight, poll_s, others)
        memory = None
        if not is_settled and self._clock.monotonic() <= target.locked_until - self._timeout_s:
            memory, wrote = await act(
                target, claim, sight, given, self._lift_fence, self._clock, self._timeout_s
            )
            if wrote:
                reading = msgspec.structs.replace(reading, wrote=wrote)
        return self._seen(claim, target, sight, reading, memory)

    def _glance(
        self,
        claim: Claim,
        target: Target,
        others: Mapping[str, Input] | None,
        asked: Asked[tuple[Claim, Target]],
    ) -> tuple[Poll | None, Sight | None]:
        """The end of a trip that is over with the board's answer. Where it is not, `_trip` goes on from the
        answer, or from what was seen in it."""
        poll_s = asked.ended - asked.began
        try:
            sight = target.glance(asked)
        except BoardError as error:
            self._observe(poll_s)
            return self._failed(claim, target, error), None
        if sight is None:
            return None, None
        if target.pace is not None or not pace.is_well(
            sight.answer_s, sight.status.mem_free, target.slow_s
        ):
            self._weigh(claim, target, sight)
        if target.found is not None:
            return None, sight
        reading, _, is_settled = self._look(claim, target, sight, poll_s, others)
        if not is_settled:
            return None, sight
        self._observe(poll_s)
        return self._seen(claim, target, sight, reading, None), sight

    def _look(
        self,
        claim: Claim,
        target: Target,
        sight: Sight,
        poll_s: float,
        others: Mapping[str, Input] | None,
    ) -> tuple[Reading, dict[str, Input], bool]:
        """What was seen, what the jobs look at, and whether nothing is to be decided of it."""
        reading = sight.reading(
            poll_s=round(poll_s, 6),
            interval_s=target.interval_s,
            collector=self._holder,
            pace=target.pace,
        )
        if not claim.jobs or others is None:
            return reading, {}, True
        given = gather(target.looks(claim.jobs), sight, reading, others)
        return reading, given, target.is_settled(claim, sight, given)

    def _seen(
        self, claim: Claim, target: Target, sight: Sight, reading: Reading, memory: Memory | None
    ) -> Poll:
        if claim.fault is not None:
            log.info("board.back", name=claim.device.name, failures=claim.fault.failures)
        self._watch.saw(claim.device.name, reading, sight.status)
        pins = target.looks(claim.jobs).pins
        poll = trip.seen(claim, sight, reading, memory=memory, tags=target.tags, pins=pins)
        target.next_due = poll.next_due
        return poll

    def _failed(self, claim: Claim, target: Target, error: BoardError) -> Poll:
        if self._targets.get(claim.device.id) is not target:
            # Let go for a newer claim; its lock is gone.
            return Poll(claim.grant, self._clock.now())
        is_refusal = error.status in REFUSALS
        if not is_refusal:  # who has no place for us shall not have to find one anew
            target.link.close()
        if claim.fault is None or claim.fault.kind != error.kind:
            log.warning("board.lost", name=claim.device.name, kind=error.kind, reason=str(error))
        at = self._clock.now()
        if is_refusal or "waited_s" in error.facts:
            refusal = error.what if is_refusal else ""
            self._repace(claim, target, pace.Outcome(at, self._timeout_s, refusal=refusal))
        poll = trip.failed(
            claim,
            error,
            at=at,
            interval_s=target.asked_s,
            tags=target.tags,
            luck=self._luck(),
            pace=target.pace,
        )
        target.next_due = poll.next_due
        return poll

    def _weigh(self, claim: Claim, target: Target, sight: Sight) -> None:
        """What an answer says of the load on a board; asked only where that is something."""
        status = sight.status
        seen = pace.Outcome(sight.at, sight.answer_s, status.mem_free, status.uptime_s)
        self._repace(claim, target, seen)

    def _repace(self, claim: Claim, target: Target, outcome: pace.Outcome) -> None:
        """What a poll that was not simply well, or one after such a poll, makes of the board's pace."""
        device, asked_s = claim.device, target.asked_s
        watchers = self._watch.watchers(device.name)
        limit = pace.most(device.name, asked_s, claim.jobs, watchers, outcome.at)
        before, after = target.pace, pace.step(target.pace, outcome, asked_s, limit)
        target.pace_as(after)
        was, now = pace.factor_of(before), pace.factor_of(after)
        how = {"name": device.name, "every_s": target.interval_s, "asked_s": asked_s}
        if after is not None and now > was:
            log.warning("board.slowed", **how, reason=after.why)
        elif now == 1 < was:
            log.info("board.recovered", **how, reason=_why_recovered(before, outcome, limit))

    async def _lift_fence(self, grant: Grant, seen: int, most: int) -> Grant | None:
        """Where Redis cannot be asked, nothing is written."""
        try:
            return await self._in_thread(lambda: self._store.lift_fence(grant, seen, most))
        except StoreUnavailable as error:
            self._outage.began(error)
            return None

    def _target(self, device: Device) -> Target:
        target = self._targets.get(device.id)
        # A busy link means that somebody freed the lock under a trip: the device was registered anew.
        if target is None or target.device is not device or target.link.is_busy:
            if target is not None:
                target.link.close()
            target = self._targets[device.id] = Target(device, self._interval_s)
        target.claimed_at = self._clock.monotonic()
        return target

    def _forget_links(self) -> None:
        """Closes the links of devices that are no longer claimed here. It looks at all of them, which may be
        ten thousand, when the first can be due, and not before."""
        now_s = self._clock.monotonic()
        if now_s <= self._forget_at:
            return
        first = now_s + FORGET_LINK_S  # of those that are claimed from now on
        for device_id, target in list(self._targets.items()):
            until = target.claimed_at + max(FORGET_LINK_S, 3 * target.interval_s)
            if now_s > until:
                self._targets.pop(device_id).link.close()
            else:
                first = min(first, until)
        self._forget_at = first

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._redis_thread, work)


def _why_recovered(before: Pace | None, outcome: pace.Outcome, limit: int) -> str:
    if before is not None and pace.has_restarted(before, outcome):
        return "it was restarted"
    return "it bears its polls" if limit > 1 else "its readings are needed more often"


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
