"""The trips of one batch: each board visited once, each poll handed on as it ends.

Invariants: no board is asked whose lock could end under its trip. A board that fails costs only itself: its
poll is a failure, and nobody else's waits. Where Redis does not answer, nothing is decided and nothing
written; what boards say is kept all the same.

Events: ``board.lost`` ``board.back`` ``board.slowed`` ``board.recovered``.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from espnet import pace, trip
from espnet.board.round import Asked, Round
from espnet.clock import Clock
from espnet.collector.redis_thread import RedisThread
from espnet.collector.targets import Targets
from espnet.credential import Password
from espnet.errors import BoardError, CredentialClosed
from espnet.model import Device, Input, Memory, Pace, Reading
from espnet.store import Claim, Grant, Poll
from espnet.trip import Sight
from espnet.visit import Target, act, gather, looks_of
from espnet.watch import Watch, look_up

#: For so long a board whose password we cannot get is left to other collectors, in seconds.
LOCKED_OUT_S = 1.0
#: What a board answers that wants to be asked less: it is asked too often, it has no memory or no place.
REFUSALS = (429, 503)

log = structlog.get_logger()


class Trips:
    """``holder`` is who polls; ``timeout_s`` is for one request; ``luck`` spreads retries (0 ≤ luck < 1);
    ``observe`` is told how long each poll took, in seconds."""

    def __init__(
        self,
        targets: Targets,
        watch: Watch,
        redis: RedisThread,
        clock: Clock,
        *,
        holder: str,
        timeout_s: float,
        luck: Callable[[], float],
        observe: Callable[[float], object],
    ) -> None:
        self._targets, self._watch, self._redis, self._clock = targets, watch, redis, clock
        self._holder, self._timeout_s = holder, timeout_s
        self._luck, self._observe = luck, observe

    async def make(self, claims: Sequence[Claim], ended: list[Poll], locked_until: float) -> None:
        """Visits the boards; their polls join ``ended``, the quick ones first. ``locked_until`` is when their
        locks may end, in monotonic seconds."""
        await self._recall(claims)
        await self._log_in(claims)
        await self._visit(claims, await self._others(claims), ended, locked_until)

    # --- what has to be known before ------------------------------------------------------------

    async def _recall(self, claims: Sequence[Claim]) -> None:
        """Learns how boards bear their polls that somebody else polled last, as far as anybody knows."""
        known = self._targets.known
        strange = [
            claim
            for claim in claims
            if (target := known(claim.device)) is None
            or abs(target.next_due - claim.due) > 1e-5  # Redis keeps six digits
        ]
        if not strange:
            return
        names = [claim.device.name for claim in strange if claim.fault is None]
        readings = await self._redis.ask_or(None, lambda store: store.readings(names))
        if readings is None:
            return
        for claim in strange:
            last = claim.fault or readings.get(claim.device.name)
            self._targets.of(claim.device).pace_as(last.pace if last else None)

    async def _log_in(self, claims: Sequence[Claim]) -> None:
        """Fetches the passwords of boards that are new here, have another one, or refused theirs."""
        known = self._targets.known
        wanting = [
            self._targets.of(claim.device)
            for claim in claims
            if claim.device.credential
            and ((target := known(claim.device)) is None or target.wants_login)
        ]
        if not wanting:
            return
        ids = [target.device.id for target in wanting]
        found = await self._redis.ask_or(None, lambda store: store.credentials(ids))
        if found is None:
            return
        for target in wanting:
            target.log_in(found.get(target.device.id))

    async def _others(self, claims: Sequence[Claim]) -> dict[str, Input] | None:
        """What the thresholds of a batch look at beyond their own boards, in one round trip.

        None where Redis did not say: then nothing is decided, and the leases go on deciding.
        """
        wanted: set[str] = set()
        for claim in claims:
            target = self._targets.known(claim.device)
            looks = target.looks(claim.jobs) if target else looks_of(claim.device, claim.jobs)
            wanted.update(looks.others)
        if not wanted:
            return {}
        return await self._redis.ask_or(None, lambda store: look_up(store, wanted))

    # --- the visits ------------------------------------------------------------------------------

    async def _visit(
        self,
        claims: Sequence[Claim],
        others: Mapping[str, Input] | None,
        ended: list[Poll],
        locked_until: float,
    ) -> None:
        """Visits the boards of a batch; each poll joins ``ended`` as it ends.

        In the steady state of a fleet a visit is one answer on a kept connection, of which nothing follows:
        this coroutine takes all of those. What needs more gets a task of its own.
        """

        async def long_way(*trip: Any) -> None:
            ended.append(await self._trip(*trip))

        tasks = []
        round_: Round[tuple[Claim, Target]] = Round(self._clock, self._timeout_s)
        try:
            if self._is_late(round_.began, locked_until):
                ended += [Poll(claim.grant, self._clock.now()) for claim in claims]
                return
            for claim in claims:
                target = self._targets.of(claim.device)
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

    def _is_late(self, began: float, locked_until: float) -> bool:
        """Whether a board's lock could end under a trip that ``began`` then: Redis was slow, or this process
        stood still, and somebody else may be there."""
        return began > locked_until - 3 * self._timeout_s

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
        if asked is None and self._is_late(began, target.locked_until):
            return Poll(claim.grant, self._clock.now())
        if target.is_locked_out:
            # Another collector may have the key. Nothing is asked, and nothing is said of the board.
            return Poll(claim.grant, self._clock.now() + LOCKED_OUT_S)
        try:
            if sight is None:
                sight = await target.read(claim, self._clock, self._timeout_s, began, asked)
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
        if not self._targets.has(target):
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
        return await self._redis.ask_or(None, lambda store: store.lift_fence(grant, seen, most))

    async def _prefer(self, device: Device, password: Password) -> None:
        """A change of the password was cut off, and the board has another one than the likeliest: people who
        ask for it shall be shown that one."""
        # Somebody may have sealed it meanwhile, under a key that is not ours.
        with contextlib.suppress(CredentialClosed):
            await self._redis.ask_or(None, lambda store: store.prefer_password(device.id, password))


def _why_recovered(before: Pace | None, outcome: pace.Outcome, limit: int) -> str:
    if before is not None and pace.has_restarted(before, outcome):
        return "it was restarted"
    return "it bears its polls" if limit > 1 else "its readings are needed more often"
