"""What a poll's answer becomes: writes, reading, fault, samples and the next date. Pure: no I/O, no clock.

Invariants: the same facts give the same `Poll` and the same writes, whoever asked the board. A failed
sensor costs its own reading only. A device keeps its place within its interval: a missed date is
skipped, never made up for. A date that came while the board was being asked is not missed yet. Only
differences are written.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from espnet.errors import BoardError
from espnet.model import (
    Climate,
    Decision,
    Device,
    Fault,
    Job,
    Memory,
    Override,
    Pace,
    Reading,
    Status,
)
from espnet.samples import SampleBatch, finite
from espnet.series import UP, points_of
from espnet.store import Claim, Poll

#: Back-off of a device that fails, in seconds; a longer interval of its own stays as it is.
MAX_BACKOFF_S = 60.0
#: How much later than its back-off a retry may come, as a share of it: a room full of boards that
#: vanished together must not come back as one.
JITTER = 0.25
#: A date that came under a poll is kept for so many seconds, and for so much of the interval at most. With a
#: beat it is less than what makes others think that a collector is too slow (``lua/claim.lua``: LATE).
KEPT_S, KEPT_SHARE = 0.5, 0.5
#: An ON lasts for so many intervals without a poll, and at least so many seconds.
LEASE_INTERVALS, LEASE_MIN_S = 3, 15
#: The longest lease that a board grants, in seconds; only intervals above eight hours feel it.
LEASE_MAX_S = 86_400


def next_due(due: float, interval_s: float, now: float) -> float:
    """The first date after ``now`` on the device's own grid (``due`` + n intervals)."""
    date = due + interval_s
    if due <= now < date:
        return date
    missed = max(0, math.floor((now - due) / interval_s))
    date = due + (missed + 1) * interval_s
    return date if date > now else date + interval_s  # the division may have rounded


def date_after_poll(due: float, interval_s: float, claimed: float, ended: float) -> float:
    """The first date after the poll was ``claimed``; it may lie a moment before it ``ended``.

    A poll that is late, because the heartbeat is then, may go on while the next date comes. That date is for
    the next heartbeat: were it skipped, such a device would be polled at every other date only.
    """
    date = next_due(due, interval_s, claimed)
    if ended - date < min(KEPT_S, KEPT_SHARE * interval_s):
        return date
    return next_due(due, interval_s, ended)


def retry_due(failures: int, interval_s: float, now: float, luck: float) -> float:
    """When to try a failing device again: intervals that double up to `MAX_BACKOFF_S`.

    ``luck`` (0 ≤ luck < 1) spreads the retries by `JITTER`.
    """
    longest = max(MAX_BACKOFF_S / (1 + JITTER), interval_s)
    backoff = min(interval_s * 2.0 ** min(failures - 1, 32), longest)
    return now + backoff * (1 + JITTER * luck)


#: The same for all readings before anything was written: readings are not changed, but replaced.
_WROTE_NOTHING: dict[int, int] = {}


class Sight(msgspec.Struct, gc=False):
    """All that one trip saw of a board: its answer, byte for byte and as a record, and its sensors.

    ``at`` is when the answer came, ``answer_s`` how long it took. A sensor is among the readings or among the
    errors. ``denied`` is that of `Reading`.
    """

    at: float
    body: bytes
    status: Status
    climates: dict[str, Climate] = {}
    climate_errors: dict[str, str] = {}
    adc: dict[int, float] = {}
    adc_errors: dict[int, str] = {}
    denied: str = ""
    answer_s: float = 0.0

    def reading(
        self, *, poll_s: float, interval_s: float, collector: str, pace: Pace | None = None
    ) -> Reading:
        """The record of it, before anything was written."""
        return Reading(
            at=self.at,
            poll_s=poll_s,
            interval_s=interval_s,
            collector=collector,
            status=msgspec.Raw(self.body),
            dht22=self.climates,
            dht22_errors=self.climate_errors,
            adc=self.adc,
            adc_errors=self.adc_errors,
            wrote=_WROTE_NOTHING,
            denied=self.denied,
            pace=pace,
        )


class Order(NamedTuple):
    """One write: pins that are to have one level. ``lease_s`` None: for good."""

    pins: tuple[int, ...]
    level: int
    lease_s: int | None
    safe: str


def lease_s(interval_s: float) -> int:
    """How long an ON lasts by itself on a device that is polled every ``interval_s``, whole seconds."""
    return min(max(math.ceil(LEASE_INTERVALS * interval_s), LEASE_MIN_S), LEASE_MAX_S)


def orders(
    decisions: Mapping[int, Decision],
    jobs: Sequence[Job],
    device: Device,
    status: Status,
    interval_s: float,
    *,
    is_renewed: bool = False,
) -> list[Order]:
    """The writes that make the board's pins what was decided: differences only, one a level.

    An ON that is right already is written again when the board knows leases and this one has none,
    or one of another length, as after a change of the interval; and when it has one and is to have none.
    Pins that the board does not report are written too: it is for the board to refuse them. ``is_renewed``:
    the leases are known to have begun anew with this answer, so what is left tells their length.
    """
    unleased = {job.name for job in jobs if not isinstance(job, Override) and not job.lease}
    wanted_s = lease_s(interval_s)
    # The poll renewed it just now, or, where the board was not shown a fence that it takes, the last one.
    oldest_s = wanted_s - (2.0 if is_renewed else max(1.5 * interval_s, 2.0))
    groups: dict[tuple[int, int | None, str], list[int]] = {}
    for pin, decision in decisions.items():
        lasts: int | None = None
        safe = "low"
        if decision.level and status.fence is not None and decision.winner.job not in unleased:
            lasts, safe = wanted_s, device.safe.get(pin, "low")
        if status.gpio.get(pin) == decision.level:
            lease = status.leases.get(pin) if status.leases else None
            if lease is None or lasts is None:
                if lease is None and lasts is None:
                    continue
            elif lease.safe == safe and oldest_s < lease.left_s <= lasts:
                continue
        groups.setdefault((decision.level, lasts, safe), []).append(pin)
    return [Order(tuple(pins), *how) for how, pins in groups.items()]


def seen(
    claim: Claim,
    sight: Sight,
    reading: Reading,
    *,
    memory: Memory | None = None,
    tags: tuple[str, ...],
    pins: Mapping[int, None] | None = None,
) -> Poll:
    """A successful poll. ``reading`` is what is stored of ``sight``; ``memory`` None is unchanged; ``pins``
    are those of `points_of`."""
    kept, refused = finite(points_of(claim.device, claim.jobs, reading, sight.status, pins))
    return Poll(
        claim.grant,
        date_after_poll(claim.due, reading.interval_s, claim.at, reading.at),
        reading=reading,
        healed=claim.fault is not None,
        batch=SampleBatch(reading.at, tags, kept),
        refused=refused,
        memory=memory,
    )


def failed(
    claim: Claim,
    error: BoardError,
    *,
    at: float,
    interval_s: float,
    tags: tuple[str, ...],
    luck: float,
    pace: Pace | None = None,
) -> Poll:
    """A poll that the board did not answer, or not with sense.

    ``interval_s`` is the one that was asked for: the back-off grows from there, and is never less than the
    interval of a board that is slowed down, nor than what the board wants, up to `MAX_BACKOFF_S`.
    """
    before = claim.fault
    failures = before.failures + 1 if before else 1
    wait_s = min(error.facts.get("retry_after_s", 0), MAX_BACKOFF_S)
    if pace is not None:
        wait_s = max(wait_s, interval_s * pace.factor)
    return Poll(
        claim.grant,
        max(retry_due(failures, interval_s, at, luck), at + wait_s),
        fault=Fault(
            kind=error.kind,
            what=error.what,
            failures=failures,
            since=before.since if before else at,
            at=at,
            pace=pace,
        ),
        batch=SampleBatch(at, tags, ((UP, 0, ()),)),
    )
