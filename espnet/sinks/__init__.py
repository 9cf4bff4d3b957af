"""The places that samples go: one file a sink, one method a sink.

Invariants: `Sink.send` never raises for anything that the far end or the network does, ends within
`SEND_S`, and never says that a sample was accepted unless the far end said so. What it did not accept
stays with the caller, who alone decides what becomes of it. Sinks know neither Redis nor each other.
"""

import enum
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from espnet.samples import Sample

#: A `Sink.send` ends within this time whatever the far end does, in seconds.
SEND_S = 20.0


class Verdict(enum.Enum):
    """What the far end thinks of what it was sent, which is what the caller goes by."""

    #: It has all of it.
    OK = "ok"
    #: It refuses something in there, and would refuse it again: one point or more are at fault.
    BAD = "bad"
    #: It would take less of it at a time.
    TOO_LARGE = "too large"
    #: It does not know us, or we may not: a person must do something.
    DENIED = "denied"
    #: Not now: it is away, slow, or overrun.
    BUSY = "busy"


class Outcome(NamedTuple):
    """What became of the samples of one `Sink.send`.

    The first ``accepted`` of them, in the order given, are the sink's now and must not be sent again.
    The next ``tried`` went in a request that ended with ``verdict`` and ``reason``, one sentence; with
    ``is_unsure`` the far end may have them all the same, because it never answered. What comes after those
    was not sent. All accepted means `Verdict.OK`, and nothing else does.

    ``retry_after_s`` is how long the far end wants to be left alone. ``date`` is what its clock said
    (Unix seconds), where it said so. ``status`` is the HTTP status, where there was one.
    """

    accepted: int
    verdict: Verdict = Verdict.OK
    reason: str = ""
    tried: int = 0
    is_unsure: bool = False
    retry_after_s: float | None = None
    date: float | None = None
    status: int | None = None


class Sink(Protocol):
    """Where samples go. ``name`` names its consumer group and its books: letters, digits, ``_``.

    ``window_s`` is the age from which the far end no longer wants a sample; None if it takes any.
    ``future_s`` is how far ahead of the controller's clock a sample's time may be.
    """

    name: str
    window_s: float | None
    future_s: float | None

    def send(self, samples: Sequence[Sample]) -> Outcome:
        """Delivers samples in their order until all are accepted or the far end is not willing."""
        ...
