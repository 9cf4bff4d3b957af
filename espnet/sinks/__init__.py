"""The places that samples go: one file a sink, one method a sink.

Invariants: `Sink.send` never raises for anything that the far end or the network does, and never says
that a sample was accepted unless the far end said so. What it did not accept stays with the caller,
who alone decides when to try again. Sinks know neither Redis nor each other.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from espnet.model import Sample


class Outcome(NamedTuple):
    """What became of the samples of one `Sink.send`.

    The first ``accepted`` of them, in the order given, are the sink's now and must not be sent again;
    nothing is known of the others. ``reason`` says in one sentence why there are others, and is empty
    exactly when there are none. ``status`` is the HTTP status that stopped it, where there was one.
    """

    accepted: int
    reason: str = ""
    status: int | None = None


class Sink(Protocol):
    """Where samples go."""

    def send(self, samples: Sequence[Sample]) -> Outcome:
        """Delivers samples in their order until all are accepted or the far end is not willing."""
        ...
