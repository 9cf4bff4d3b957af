"""From the sample stream to a sink: read, send, acknowledge.

Invariants: an entry is acknowledged only after the sink accepted every sample of it, and stays on the
stream in every other case, also when this process dies between any two lines. Any number of uploaders
may share a sink: each entry is one uploader's at a time. A sample is sent twice only where a process
or a connection died after the sink had accepted it and before that was known here.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import structlog

from espnet.model import Sample
from espnet.sinks import Outcome, Sink
from espnet.store import Entry, Store

#: Entries (polls) of one round: about 1,000 samples, a request or two.
ENTRIES = 256
#: An entry that another consumer has had for so long without a word is abandoned, in seconds. Longer
#: than a round can take: a request and its acknowledgement, each with its time-outs.
ABANDONED_S = 60.0

_log = structlog.get_logger()


class Drained(NamedTuple):
    """What one `Uploader.drain` did, in samples.

    ``sent == accepted + kept``. ``reason`` is the sink's own, and empty when it accepted everything.
    """

    sent: int = 0
    accepted: int = 0
    kept: int = 0
    reason: str = ""


class Uploader:
    """Empties the stream into one sink.

    ``sink_name`` names the sink's consumer group, ``consumer`` this process in it: the same name after
    a restart finds what the last run had not delivered. Without a ``sink`` nothing is read, and
    samples wait up to the stream's bound. ``stop`` is asked between rounds.
    """

    def __init__(
        self,
        store: Store,
        sink_name: str,
        sink: Sink | None,
        consumer: str,
        *,
        entries: int = ENTRIES,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store, self._sink_name, self._sink = store, sink_name, sink
        self._consumer, self._entries, self._stop = consumer, entries, stop
        # Of entries that are not acknowledged yet: how many samples the sink already has.
        self._delivered: dict[bytes, int] = {}
        self._failing_since = 0.0
        self._reason = ""

    def drain(self, now: float) -> Drained:
        """Sends what is queued until nothing is left, the sink refuses or it is time to stop.

        Raises `StoreUnavailable`; the next call goes on where that left off.
        """
        if self._sink is None or self._stop():
            return Drained()
        sent = accepted = 0
        reason = ""
        for page in self._pages():
            handed, outcome = self._deliver(self._sink, page)
            sent, accepted, reason = sent + handed, accepted + outcome.accepted, outcome.reason
            if reason or self._stop():
                break
        drained = Drained(sent, accepted, sent - accepted, reason)
        self._tell(now, drained)
        return drained

    def close(self) -> None:
        """At an orderly stop: what is unfinished may be taken over by another uploader at once."""
        if self._sink is not None:
            self._store.hand_back(self._sink_name, self._consumer)

    def _pages(self) -> Iterator[list[Entry]]:
        """What this consumer was given and did not finish, then what others abandoned, then news."""
        store, here, count = self._store, (self._sink_name, self._consumer), self._entries
        # Each time, because Redis may have come back empty.
        store.create_group(self._sink_name)
        after = b"0"
        while page := store.read_pending(*here, count, after):
            yield page
            after = page[-1].id
        # What is left in here is no longer this consumer's: dropped by the bound, or taken over.
        self._delivered.clear()
        while page := store.take_over(*here, ABANDONED_S, count):
            yield page
        # While boards are polled there is always something new; a short page is the end for now.
        while page := store.read_new(*here, count):
            yield page
            if len(page) < count:
                return

    def _deliver(self, sink: Sink, page: list[Entry]) -> tuple[int, Outcome]:
        """Sends what the sink does not have yet; acknowledges the entries that it has entirely."""
        samples: list[Sample] = []
        spans = []
        for entry in page:
            start = len(samples)
            samples += entry.batch.samples()[self._delivered.get(entry.id, 0) :]
            spans.append((entry, start, len(samples)))
        outcome = sink.send(samples)
        done = []
        for entry, start, end in spans:
            news = min(max(outcome.accepted - start, 0), end - start)
            self._delivered[entry.id] = self._delivered.get(entry.id, 0) + news
            if self._delivered[entry.id] == len(entry.batch.points):
                done.append(entry)
        self._store.accept(self._sink_name, done)
        for entry in done:
            del self._delivered[entry.id]
        return len(samples), outcome

    def _tell(self, now: float, drained: Drained) -> None:
        """One line when delivery begins to fail, or fails differently, and one when it works again."""
        if drained.reason and drained.reason != self._reason:
            if not self._reason:
                self._failing_since = now
            self._reason = drained.reason
            _log.warning(
                "upload.failed", sink=self._sink_name, reason=drained.reason, kept=drained.kept
            )
        elif self._reason and drained.accepted and not drained.reason:
            _log.info(
                "upload.ok_again",
                sink=self._sink_name,
                after_s=round(now - self._failing_since, 1),
                accepted=drained.accepted,
            )
            self._reason = ""
