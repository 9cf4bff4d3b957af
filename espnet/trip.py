"""What a poll's answer becomes: reading, fault, samples and the next date. Pure: no I/O, no clock.

Invariants: the same facts give the same `Poll`, whoever asked the board, the collector or a person.
A failed sensor costs its own reading only. A device keeps its place within its interval: a missed
date is skipped, never made up for.
"""

import math
from collections.abc import Mapping

import msgspec

from espnet.errors import BoardError
from espnet.model import (
    Climate,
    Device,
    Fault,
    Reading,
    SampleBatch,
    Status,
    finite,
)
from espnet.store import Grant, Poll

#: Back-off of a device that fails, in seconds; a longer interval of its own stays as it is.
MAX_BACKOFF_S = 60.0
#: How much later than its back-off a retry may come, as a share of it: a room full of boards that
#: vanished together must not come back as one.
JITTER = 0.25


def next_due(due: float, interval_s: float, now: float) -> float:
    """The first date after ``now`` on the device's own grid (``due`` + n intervals)."""
    missed = max(0, math.floor((now - due) / interval_s))
    date = due + (missed + 1) * interval_s
    return date if date > now else date + interval_s  # the division may have rounded


def retry_due(failures: int, interval_s: float, now: float, luck: float) -> float:
    """When to try a failing device again: intervals that double up to `MAX_BACKOFF_S`.

    ``luck`` (0 ≤ luck < 1) spreads the retries by `JITTER`.
    """
    longest = max(MAX_BACKOFF_S / (1 + JITTER), interval_s)
    backoff = min(interval_s * 2.0 ** min(failures - 1, 32), longest)
    return now + backoff * (1 + JITTER * luck)


def seen(
    device: Device,
    grant: Grant,
    fault: Fault | None,
    body: bytes,
    status: Status,
    climates: Mapping[str, Climate],
    climate_errors: Mapping[str, str],
    *,
    at: float,
    poll_s: float,
    due: float,
    interval_s: float,
    collector: str,
    tags: tuple[str, ...],
) -> Poll:
    """A successful poll. ``body`` is the board's answer that ``status`` was read from."""
    points: list[tuple[str, float, tuple[str, ...]]] = [
        ("esp32.up", 1, ()),
        ("esp32.poll_seconds", poll_s, ()),
    ]
    if status.f is not None:
        points.append(("esp32.f", status.f, ()))
    for pin in device.report_pins:
        level = status.gpio.get(pin)
        if level is not None:
            points.append(("esp32.gpio", level, (f"pin:{pin}",)))
    for name, climate in climates.items():
        own = (f"sensor:{name}",)
        points.append(("esp32.dht22.temp", climate.temp_f, own))
        points.append(("esp32.dht22.humidity", climate.humidity, own))
    kept, refused = finite(points)
    return Poll(
        grant,
        next_due(due, interval_s, at),
        reading=Reading(
            at=at,
            poll_s=poll_s,
            interval_s=interval_s,
            collector=collector,
            status=msgspec.Raw(body),
            dht22=dict(climates),
            dht22_errors=dict(climate_errors),
        ),
        healed=fault is not None,
        batch=SampleBatch(at, tags, kept),
        refused=refused,
    )


def failed(
    grant: Grant,
    fault: Fault | None,
    error: BoardError,
    *,
    at: float,
    interval_s: float,
    tags: tuple[str, ...],
    luck: float,
) -> Poll:
    """A poll that the board did not answer, or not with sense. ``fault`` is the one before."""
    failures = fault.failures + 1 if fault else 1
    return Poll(
        grant,
        retry_due(failures, interval_s, at, luck),
        fault=Fault(
            kind=error.kind,
            what=error.what,
            failures=failures,
            since=fault.since if fault else at,
            at=at,
        ),
        batch=SampleBatch(at, tags, (("esp32.up", 0, ()),)),
    )


def sample_tags(device: Device) -> tuple[str, ...]:
    """The tags of every sample of a device: its name, its id and its own."""
    return (f"name:{device.name}", f"id:{device.id}", *device.tags)
