"""Samples, and the records of what becomes of them on their way to the sinks.

Invariants: those of `espnet.model`, whose ``encode`` writes these records, too.
"""

import math
from typing import Literal

import msgspec


class Books(msgspec.Struct, frozen=True):
    """What became of the samples that one sink was to have, in samples, at every instant:
    ``collected == accepted + expired + dead + dropped + queued``.

    ``expired`` were too old for it, ``dead`` are its dead letters, ``dropped`` went by a bound or by a
    person's word. ``repeated`` are those that it may have twice: sent again because nobody knew
    whether they had arrived.
    """

    collected: int = 0
    accepted: int = 0
    expired: int = 0
    dead: int = 0
    dropped: int = 0
    queued: int = 0
    repeated: int = 0

    @property
    def is_balanced(self) -> bool:
        ends = self.accepted + self.expired + self.dead + self.dropped + self.queued
        return self.collected == ends and min(ends, self.queued, self.dead) >= 0


class Queue(msgspec.Struct, frozen=True):
    """The stream that the sinks read, in samples; ``bytes`` is what it takes in Redis.

    ``refused`` are those that were not numbers and never came to be collected; ``dropped`` those
    that left by the bounds.
    """

    collected: int = 0
    queued: int = 0
    bytes: int = 0
    refused: int = 0
    dropped: int = 0


class SinkState(msgspec.Struct, frozen=True, kw_only=True):
    """How delivery to a sink goes, as its latest uploader said at ``at`` (Unix seconds).

    ``failing`` tries again by itself, ``paused`` needs a person (it tries every minute all the same).
    ``since`` is when this state began, ``ok_at`` the last time that the sink took something, ``retry_at``
    when it is asked again. ``skew_s`` is how far the far end's clock was ahead of ours.
    """

    state: Literal["ok", "failing", "paused"]
    at: float
    since: float
    uploader: str
    reason: str = ""
    status: int | None = None
    ok_at: float | None = None
    retry_at: float | None = None
    skew_s: float | None = None


class DeadLetter(msgspec.Struct, frozen=True):
    """A sample that a sink would never accept, and what it said about it at ``at`` (Unix seconds)."""

    sample: "Sample"
    reason: str
    at: float


class Sample(msgspec.Struct, frozen=True):
    """One metric point on its way to a sink, stamped by the controller (``at``, Unix seconds)."""

    metric: str
    value: float
    at: float
    tags: tuple[str, ...]


class SampleBatch(msgspec.Struct, frozen=True, gc=False):
    """The samples of one poll as one stream entry: what they share is said once.

    ``points`` are ``(metric, value, tags of this point alone)``.
    """

    at: float
    tags: tuple[str, ...]
    points: tuple[tuple[str, float, tuple[str, ...]], ...]

    def samples(self) -> list[Sample]:
        """The batch, point by point."""
        return [
            Sample(metric, value, self.at, self.tags + own) for metric, value, own in self.points
        ]


def finite(
    points: list[tuple[str, float, tuple[str, ...]]],
) -> tuple[tuple[tuple[str, float, tuple[str, ...]], ...], int]:
    """The gate before the queue: the points that are numbers, and how many were NaN or infinite."""
    kept = tuple([point for point in points if math.isfinite(point[1])])  # a list is quicker
    return kept, len(points) - len(kept)


_batch_decoder = msgspec.json.Decoder(SampleBatch)
_sink_state_decoder = msgspec.json.Decoder(SinkState)
_letter_decoder = msgspec.json.Decoder(DeadLetter)


def decode_batch(raw: bytes) -> SampleBatch:
    return _batch_decoder.decode(raw)


def decode_sink_state(raw: bytes) -> SinkState:
    return _sink_state_decoder.decode(raw)


def decode_letter(raw: bytes) -> DeadLetter:
    return _letter_decoder.decode(raw)
