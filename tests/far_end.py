"""What the uploader's tests share: a sink whose far end does as it is told, and an audit of the books.

The audit reads Redis with its own eyes: raw commands, none of the store's scripts.
"""

import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import redis

from espnet.clock import ManualClock
from espnet.samples import Books, Sample, SampleBatch
from espnet.sinks import Outcome, Verdict
from espnet.store import Grant, Poll, Store
from espnet.uploader import Drained, Uploader

PREFIX = "espnet:"
_values = itertools.count()
_locks = itertools.count()


class Say(NamedTuple):
    """One answer of the far end: it takes the first ``taken`` samples, then it says ``verdict``.

    OK takes all. With ``is_unsure`` the request arrived if ``has_arrived``, and nobody hears of it.
    """

    verdict: Verdict = Verdict.OK
    taken: int = 0
    is_unsure: bool = False
    has_arrived: bool = False
    retry_after_s: float | None = None


BUSY, DENIED = Say(Verdict.BUSY), Say(Verdict.DENIED)


class FarEnd:
    """A sink and what is behind it: keeps what it took, refuses what is ``guilty`` by its value.

    ``answers`` come first, then ``always``. A request of more than ``most`` samples is too large, and so is
    one with a sample in ``huge``. ``got`` counts what arrived, ``order`` is how. ``before`` and ``after``
    are called in each `send`, before the far end sees it and when it has made up its mind.
    """

    def __init__(
        self,
        *answers: Say,
        name: str = "sink",
        guilty: Sequence[float] = (),
        huge: Sequence[float] = (),
        most: int = 1 << 30,
        always: Say = Say(),  # noqa: B008
    ) -> None:
        self.name, self.most, self.always = name, most, always
        self.window_s: float | None = 3600.0
        self.future_s: float | None = 600.0
        self.answers = deque(answers)
        self.guilty, self.huge = set(guilty), set(huge)
        self.got: Counter[float] = Counter()
        self.order: list[float] = []
        self.sends: list[list[float]] = []
        self.unsure = 0
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None

    def send(self, samples: Sequence[Sample]) -> Outcome:
        assert samples
        values = [sample.value for sample in samples]
        self.sends.append(values)
        self.before()
        outcome = self._judge(values)
        self.after()
        return outcome

    def _judge(self, values: list[float]) -> Outcome:
        say = self.answers.popleft() if self.answers else self.always
        if say.verdict is Verdict.OK:
            if len(values) > self.most or self.huge.intersection(values):
                return self._no(Verdict.TOO_LARGE, values)
            if self.guilty.intersection(values):
                return self._no(Verdict.BAD, values)
            self._take(values)
            return Outcome(len(values))
        taken = min(say.taken, len(values) - 1)
        self._take(values[:taken])
        if say.is_unsure:
            self.unsure += len(values) - taken
            if say.has_arrived:
                self._take(values[taken:])
        return self._no(say.verdict, values, taken)._replace(
            is_unsure=say.is_unsure, retry_after_s=say.retry_after_s
        )

    def _take(self, values: list[float]) -> None:
        self.got.update(values)
        self.order += values

    def _no(self, verdict: Verdict, values: list[float], taken: int = 0) -> Outcome:
        return Outcome(taken, verdict, f"It is {verdict.value}.", len(values) - taken)


class Rig:
    """A store, a clock, and what the tests do with them. Every step ends with an audit."""

    def __init__(self, url: str, **options: Any) -> None:
        self.url, self.options = url, options
        self.store = Store(url, **options)
        self.raw: Any = redis.Redis.from_url(url)
        self.clock = ManualClock()

    def close(self) -> None:
        self.store.close()
        self.raw.close()

    def uploader(self, sink: Any, consumer: str = "one", **options: Any) -> Uploader:
        store = options.pop("store", self.store)
        return Uploader(
            store, sink, consumer, self.clock, **{"luck": lambda: 0.0, "entries": 4} | options
        )

    def drain(self, uploader: Uploader) -> Drained:
        """Drains whether or not the sink is left alone now."""
        self.clock.advance(uploader.wait_s)
        drained = uploader.drain(self.clock.now())
        self.audit()
        return drained

    def queue(self, polls: int, points: int = 3, ago_s: float = 0.0, **more: Any) -> list[float]:
        """Queues that many polls as a collector does; returns the values, no two alike, in order."""
        batches = []
        for _ in range(polls):
            values = [float(next(_values)) for _ in range(points)]
            batches.append(batch_of(values, self.clock.now() - ago_s, **more))
        commit(self.store, batches)
        self.audit()
        return [value for batch in batches for _, value, _ in batch.points]

    def books(self, sink: str = "sink") -> Books:
        return self.store.ledger().books(sink)

    def ranges(self, sink: str = "sink") -> int:
        return int(self.raw.llen(f"{PREFIX}waiting:{sink}"))

    def grow_old(self, seconds: float, sink: str = "sink") -> None:
        """As if whoever was given entries had said nothing for so long."""
        for row in self.raw.xpending_range(PREFIX + "samples", sink, "-", "+", 100_000):
            here = (PREFIX + "samples", sink, row["consumer"], 0, [row["message_id"]])
            self.raw.xclaim(*here, idle=int(seconds * 1000), justid=True)

    def audit(self) -> None:
        audit(self.raw, self.store)


def batch_of(values: Sequence[float], at: float, device: str = "a") -> SampleBatch:
    points = tuple(("esp32.f", value, (f"point:{i}",)) for i, value in enumerate(values))
    return SampleBatch(at, (f"id:{device}",), points)


def commit(store: Store, batches: Sequence[SampleBatch]) -> None:
    """Ends as many polls, each under a lock that it holds, a round trip a batch."""
    client = store._redis
    for start in range(0, len(batches), 256):
        polls = []
        pipe = client.pipeline(transaction=False)
        for i, batch in enumerate(batches[start : start + 256]):
            grant = Grant(f"d{i}", f"test:{next(_locks)}", 0)
            pipe.set(f"{store.prefix}lock:{grant.id}", grant.token, px=60_000)
            polls.append(Poll(grant, 0.0, batch=batch))
        pipe.execute()
        assert not store.commit(polls)


def weight(batch: bytes) -> int:
    """What the books say that an entry takes, in bytes."""
    return len(batch) * 4 // 3 + 64


def audit(raw: Any, store: Store) -> None:
    """The books say what is so: of the stream, and of every sink."""
    rows = raw.xrange(PREFIX + "samples")
    samples = {row_id: int(fields[b"n"]) for row_id, fields in rows}
    ledger = store.ledger()
    assert ledger.queue.queued == sum(samples.values())
    assert ledger.queue.bytes == sum(weight(fields[b"batch"]) for _, fields in rows)
    waited_for = set()
    for name, books, _ in ledger.sinks:
        held = _held(raw, name)
        waiting = _waiting(raw, name, samples)
        assert not held & waiting, "an entry is in one place at a time"
        assert held <= samples.keys(), "what is held is there"
        parts = raw.hgetall(f"{PREFIX}parts:{name}")
        assert parts.keys() <= held, "what is half done is held"
        outstanding = sum(
            samples[entry] - sum(map(bool, parts.get(entry, b""))) for entry in held | waiting
        )
        assert books.is_balanced, (name, books)
        assert books.queued == outstanding, (name, books, outstanding)
        waited_for |= held | waiting
    dead = Counter(fields[b"sink"].decode() for _, fields in raw.xrange(PREFIX + "dead"))
    assert dead == Counter({name: books.dead for name, books, _ in ledger.sinks if books.dead})
    if any(name != "history" for name, _, _ in ledger.sinks):
        assert samples.keys() == waited_for, "what nobody waits for is gone"


def _held(raw: Any, sink: str) -> set[bytes]:
    rows = raw.xpending_range(PREFIX + "samples", sink, "-", "+", 1_000_000)
    return {row["message_id"] for row in rows}


def _waiting(raw: Any, sink: str, entries: Any) -> set[bytes]:
    found = set()
    for text in raw.lrange(f"{PREFIX}waiting:{sink}", 0, -1):
        low, high = text.split()
        found |= {
            entry
            for entry in entries
            if _number(low) < _number(entry) and (high == b"+" or _number(entry) < _number(high))
        }
    return found


def _number(entry: bytes) -> tuple[int, ...]:
    return tuple(map(int, entry.split(b"-")))
