"""From the sample stream to one sink: take, send, settle. What a sink's answer means is decided here.

==============  ==================================================================================
verdict         what becomes of the samples
==============  ==================================================================================
``OK``          accepted
``BAD``         halved until the guilty one is alone: a dead letter; all others are delivered
``TOO_LARGE``   halved; a sample that is too large alone is a dead letter
``DENIED``      kept; the sink is paused and asked again every minute, with one entry
``BUSY``        kept; asked again after 2 to 64 s, or when the sink says, with one entry; where no answer
                came, with half as much then
==============  ==================================================================================

Samples that are too old for the sink are expired and never sent; from the future they are dead letters.

Invariants: an entry is settled only when each of its samples has its fate, and stays on the stream in
every other case, also when this process dies between any two lines. Any number of uploaders may
share a sink: an entry is one uploader's at a time, and no round lasts longer than that. A sample is
sent twice only where a process or a connection died after the sink may have had it; those are counted.

Events: ``upload.failed`` ``upload.paused`` ``upload.ok_again`` ``upload.dead_letters`` ``upload.unreadable``.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import structlog

from espnet.clock import Clock
from espnet.samples import DeadLetter, Sample, SinkState
from espnet.sinks import Outcome, Sink, Verdict
from espnet.store import Entry, Fate, Letter, Store

#: Entries (polls) of one round: some thousand samples, a request or two.
ENTRIES = 256
#: A round ends after so many seconds; two more `Sink.send` (`sinks.SEND_S`) and the settling fit into the
#: time for which an entry is its taker's (`store.HELD_S`).
ROUND_S = 15.0
#: When the oldest sample waits longer, the newest go first, in seconds.
BACKLOG_S = 120.0
#: A paused sink is asked again after this time, in seconds.
PAUSE_S = 60.0
#: The first and the longest wait for a sink that is busy, in seconds, and how much of it is up to luck.
BACKOFF_S, MAX_BACKOFF_S, JITTER = 2.0, 64.0, 0.25
#: So many refused samples in a row, with none accepted between them, are not the samples' fault.
SUSPICIOUS = 16
#: At least so often a sink's state is written down, in seconds.
NOTE_EVERY_S = 15.0

_OPEN, _ACCEPTED, _DEAD = 0, 1, 2
_ALL = 1 << 30
_ALL_WELL = Outcome(0)
_REFUSALS = (Verdict.BAD, Verdict.TOO_LARGE)

#: What became of each sample of an entry so far, and what was said of those that are dead.
_Known = tuple[bytes, dict[int, str]]

_log = structlog.get_logger()


class Drained(NamedTuple):
    """What one `Uploader.drain` did, in samples.

    ``stopped`` is the answer that ended it, OK where none did. ``is_done`` is False where the time was
    over first, or it was told to stop: there is more that can be sent now.
    """

    accepted: int = 0
    expired: int = 0
    dead: int = 0
    stopped: Outcome = _ALL_WELL
    is_done: bool = True

    def plus(self, later: "Drained") -> "Drained":
        """Both together; how it ended is the later one's to say."""
        return later._replace(
            accepted=self.accepted + later.accepted,
            expired=self.expired + later.expired,
            dead=self.dead + later.dead,
        )


class Uploader:
    """Empties the stream into one sink.

    ``consumer`` names this process in the sink's group. ``luck`` (0 ≤ luck < 1) spreads what comes
    back together. ``stop`` is asked between requests. ``keep`` is that of `Store.settle`.
    """

    def __init__(
        self,
        store: Store,
        sink: Sink,
        consumer: str,
        clock: Clock,
        *,
        entries: int = ENTRIES,
        luck: Callable[[], float] = random.random,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store, self._sink, self._consumer, self._clock = store, sink, consumer, clock
        self._entries, self._luck, self._stop = entries, luck, stop
        # What became of a page's entries, and how many samples nobody answered for, until Redis was told.
        self._known: dict[bytes, _Known] = {}
        self._unsure = 0
        self._has_joined = False
        # Most samples of one request: less than all after a refusal, until something is accepted.
        self._most = _ALL
        self._refused_in_a_row = 0
        self._failures = 0
        self._retry_at = self._end = -float("inf")  # on the monotonic clock
        self._state: SinkState | None = None
        self._skew_s: float | None = None

    @property
    def wait_s(self) -> float:
        """For how many seconds more `drain` will leave the sink alone."""
        return max(0.0, self._retry_at - self._clock.monotonic())

    def drain(self, now: float) -> Drained:
        """Delivers what waits, as far as the sink takes it; does nothing while the sink is left alone.

        Raises `StoreUnavailable`; nothing is lost then, and nothing is sent again.
        """
        if self.wait_s:
            return Drained()
        self._end = self._clock.monotonic() + ROUND_S
        # Each time, because Redis may have come back empty.
        self._store.join(self._sink.name, now)
        self._has_joined = True
        drained = self._catch_up(now)
        for entries in self._pages(now):
            drained = drained.plus(self._deliver(entries, now))
            if drained.stopped.verdict is not Verdict.OK or not drained.is_done:
                break
            if self._is_over():
                drained = drained._replace(is_done=False)
                break
        self._judge(now, drained)
        return drained

    def retry(self, letters: Sequence[Letter], now: float) -> Drained:
        """Sends dead letters of this sink once more; those that it takes now, or that are too old, end."""
        sink, self._end = self._sink, self._clock.monotonic() + ROUND_S
        ages = {letter.id: now - letter.letter.sample.at for letter in letters}
        old = [
            i for i, age_s in ages.items() if sink.window_s is not None and age_s > sink.window_s
        ]
        early = [
            i for i, age_s in ages.items() if sink.future_s is not None and -age_s > sink.future_s
        ]
        rest = [letter for letter in letters if letter.id not in {*old, *early}]
        page = _Page(letter.letter.sample for letter in rest)
        # Beforehand, in case that nobody lives to say what came of it.
        self._store.count_repeated(sink.name, len(rest))
        stopped = self._send(page)
        taken = [letter.id for i, letter in enumerate(rest) if page.fates[i] == _ACCEPTED]
        ended = self._store.bury("accepted", taken)
        # Letters that were gone were sent by somebody else at the same time.
        twice, self._unsure = self._unsure + len(taken) - ended, 0
        self._store.count_repeated(sink.name, twice - len(rest))
        expired = self._store.bury("expired", old)
        dead = len(page.letters) + len(early)
        return Drained(ended, expired, dead, stopped or _ALL_WELL, stopped is not None)

    def close(self) -> None:
        """At an orderly stop: what is unfinished may be taken over by another uploader at once."""
        if self._has_joined:  # else nothing was ever taken
            self._catch_up(self._clock.now())
            self._store.leave(self._sink.name, self._consumer)

    def _is_over(self) -> bool:
        return self._clock.monotonic() > self._end or self._stop()

    # --- what to send -----------------------------------------------------------------------------

    def _pages(self, now: float) -> Iterator[list[Entry]]:
        """Entries to deliver, a page at a time, in the order in which they matter."""
        if self._failures:
            # One entry is enough to ask whether the sink is back.
            yield self._probe(now)
        oldest = self._store.oldest_waiting(self._sink.name)
        if oldest is None or oldest.batch is None or now - oldest.batch.at <= BACKLOG_S:
            yield from self._left()
            yield from self._waiting(newest_first=False)
        else:
            yield from self._waiting(newest_first=True)
            yield from self._left()

    def _probe(self, now: float) -> list[Entry]:
        """One entry to ask with, and those that are held here and need no asking.

        It is the newest that is held here, else the newest of all: every entry taken out of the middle
        of what waits leaves one range more in Redis. But where it seems that all is refused, what is
        held may be one bad board's.
        """
        window_s = self._sink.window_s

        def is_sendable(entry: Entry) -> bool:
            return entry.batch is not None and (
                window_s is None or now - entry.batch.at <= window_s
            )

        held = next(self._held(), [])
        sendable = [entry for entry in held if is_sendable(entry)]
        others = [entry for entry in held if not is_sendable(entry)]
        if self._refused_in_a_row < SUSPICIOUS:
            return others + (sendable[-1:] or self._take(1, newest_first=True))
        start = int(self._luck() * len(sendable))
        return others + (self._take(1, newest_first=True) or sendable[start : start + 1])

    def _take(self, count: int, *, newest_first: bool) -> list[Entry]:
        return self._store.take(self._sink.name, self._consumer, count, newest_first=newest_first)

    def _held(self) -> Iterator[list[Entry]]:
        """What this consumer took and did not finish."""
        after = b"0-0"
        while page := self._store.read_pending(
            self._sink.name, self._consumer, self._entries, after, self._known
        ):
            yield page
            after = page[-1].id

    def _waiting(self, *, newest_first: bool) -> Iterator[list[Entry]]:
        # While boards are polled there is always something new; a short page is the end for now.
        while page := self._take(self._entries, newest_first=newest_first):
            yield page
            if len(page) < self._entries:
                return

    def _left(self) -> Iterator[list[Entry]]:
        """What this consumer took and did not finish, then what others abandoned."""
        yield from self._held()
        while page := self._store.take_over(self._sink.name, self._consumer, self._entries):
            yield page

    # --- one page ---------------------------------------------------------------------------------

    def _deliver(self, entries: Sequence[Entry], now: float) -> Drained:
        """Sends what may be sent of some entries, and books what became of it."""
        wanted, fates = self._sift(entries, now)
        self._known = {entry.id: (_fates_of(entry), {}) for entry in wanted}
        mine = self._store.mark_sent(self._sink.name, self._consumer, list(self._known))
        page = _Page()
        for entry in wanted:
            if entry.id in mine:
                page.add(entry)
        stopped = self._send(page)
        # Remembered first, in case that Redis does not answer: what was sent must not be sent again.
        self._known |= {entry.id: known for entry, known in page.known()}
        fates += [_fate(entry, *known, now) for entry, known in page.known()]
        drained = self._book(fates)
        return drained._replace(stopped=stopped or _ALL_WELL, is_done=stopped is not None)

    def _catch_up(self, now: float) -> Drained:
        """Tells Redis what became of the latest page, where it did not hear of it."""
        if not self._known:
            return Drained()
        held = [entry for page in self._held() for entry in page]
        # All others were settled after all (the answer was lost), dropped by the bound, or taken over.
        return self._book(
            [_fate(entry, *self._known[entry.id], now) for entry in held if entry.id in self._known]
        )

    def _book(self, fates: Sequence[Fate]) -> Drained:
        self._store.settle(self._sink.name, self._consumer, fates, repeated=self._unsure)
        self._known, self._unsure = {}, 0
        return Drained(
            sum(fate.accepted for fate in fates),
            sum(fate.expired for fate in fates),
            sum(len(fate.letters) for fate in fates),
        )

    def _sift(self, entries: Sequence[Entry], now: float) -> tuple[list[Entry], list[Fate]]:
        """The entries that may be sent, and the fates of those that may not."""
        wanted, fates = [], []
        window_s, future_s = self._sink.window_s, self._sink.future_s
        for entry in entries:
            known = _fates_of(entry)
            if entry.batch is None:
                _log.error("upload.unreadable", sink=self._sink.name, entry=entry.id.decode())
                fates.append(Fate(entry, dropped=known.count(_OPEN)))
                continue
            ahead_s = entry.batch.at - now
            if window_s is not None and -ahead_s > window_s:
                fates.append(_fate(entry, known, {}, now, expired=True))
            elif future_s is not None and ahead_s > future_s:
                why = f"It is {ahead_s:.0f} s in the future: was a clock set back?"
                letters = {i: why for i, fate in enumerate(known) if fate == _OPEN}
                known = known.replace(bytes([_OPEN]), bytes([_DEAD]))
                fates.append(_fate(entry, known, letters, now))
            else:
                wanted.append(entry)
        return wanted, fates

    # --- sending ----------------------------------------------------------------------------------

    def _send(self, page: "_Page") -> Outcome | None:
        """Finds every sample's fate, or an answer that ends the round; None when the time was over."""
        work = page.open_runs()
        work.reverse()
        while work:
            if self._is_over():
                return None
            low, high = work.pop()
            if high - low > self._most:
                work.append((low + self._most, high))
                high = low + self._most
            outcome = self._try(page, low, high)
            low += outcome.accepted
            if low < high:
                work.append((low, high))
            if outcome.verdict is Verdict.OK:
                self._most = min(2 * self._most, _ALL)
            elif outcome.accepted and not outcome.tried:
                continue  # its time was over, not its patience
            elif outcome.verdict not in _REFUSALS:
                if outcome.is_unsure and outcome.tried > 1:
                    # Perhaps the line is too slow for so much; the next round asks with less.
                    self._most = outcome.tried // 2
                return outcome
            elif outcome.tried > 1:
                # It stays so small until something is accepted, also in the rounds to come.
                self._most = outcome.tried // 2
            elif self._refused_in_a_row >= SUSPICIOUS and (why := self._doubt(page, work, outcome)):
                return why
            else:
                page.refuse(low, outcome.reason)
                self._refused_in_a_row += 1
                low, high = work.pop()
                if low + 1 < high:
                    work.append((low + 1, high))
        return _ALL_WELL

    def _try(self, page: "_Page", low: int, high: int) -> Outcome:
        outcome = self._sink.send(page.samples[low:high])
        assert 0 <= outcome.accepted <= outcome.accepted + outcome.tried <= high - low, outcome
        assert (outcome.accepted == high - low) == (outcome.verdict is Verdict.OK), outcome
        if outcome.date is not None:
            self._skew_s = outcome.date - self._clock.now()
        if outcome.is_unsure:
            self._unsure += outcome.tried
        if outcome.accepted:
            page.accept(low, low + outcome.accepted)
            self._refused_in_a_row = 0
        return outcome

    def _doubt(
        self, page: "_Page", work: list[tuple[int, int]], refused: Outcome
    ) -> Outcome | None:
        """Whether the sink, which refused many in a row, refuses all: None if it takes the sample that is
        furthest from those, else what ends the round."""
        low, high = work[0]
        is_last = len(work) == 1 and high - low == 1
        other = refused if is_last else self._try(page, high - 1, high)
        if other.verdict is Verdict.OK:
            work[:1] = [(low, high - 1)] if high - low > 1 else []
            return None
        if other.verdict not in _REFUSALS:
            return other
        why = f"It refuses all that it is sent, the last sample so: {other.reason}"
        return other._replace(verdict=Verdict.BUSY, reason=why)

    # --- what the sink is like --------------------------------------------------------------------

    def _judge(self, now: float, drained: Drained) -> None:
        """Decides when to ask again; says when delivery begins to fail, fails differently, works again."""
        before, stopped = self._state, drained.stopped
        if self._failures and stopped.verdict is Verdict.OK and not drained.accepted:
            return  # it was not asked, or took nothing: nobody knows that it is back
        state: Literal["ok", "failing", "paused"]
        if stopped.verdict is Verdict.OK:
            state, wait_s, self._failures = "ok", 0.0, 0
        elif stopped.verdict is Verdict.DENIED:
            state, wait_s, self._failures = "paused", PAUSE_S, self._failures + 1
        else:
            if drained.accepted:
                self._failures = 0
            wait_s = min(BACKOFF_S * 2.0 ** min(self._failures, 32), MAX_BACKOFF_S)
            wait_s *= 1 - JITTER * self._luck()
            state, wait_s = "failing", max(wait_s, stopped.retry_after_s or 0.0)
            self._failures += 1
        self._retry_at = self._clock.monotonic() + wait_s
        is_news = before is None or before.state != state or before.reason != stopped.reason
        took_something = bool(drained.accepted)
        is_idle = before is not None and state == "ok" == before.state and not took_something
        if is_idle and before is not None and now - before.at < NOTE_EVERY_S:
            return
        self._state = SinkState(
            state=state,
            at=now,
            since=before.since if before is not None and before.state == state else now,
            uploader=self._consumer,
            reason=stopped.reason,
            status=stopped.status,
            ok_at=now if took_something else before.ok_at if before is not None else None,
            retry_at=self._clock.now() + wait_s if wait_s else None,
            skew_s=self._skew_s,
        )
        self._store.note_sink(self._sink.name, self._state)
        if is_news:
            self._tell(before, self._state)
        if drained.dead:
            _log.warning("upload.dead_letters", sink=self._sink.name, samples=drained.dead)

    def _tell(self, before: SinkState | None, state: SinkState) -> None:
        if state.state == "ok":
            if before is not None and before.state != "ok":
                after_s = round(state.at - before.since, 1)
                _log.info("upload.ok_again", sink=self._sink.name, after_s=after_s)
            return
        event = "upload.paused" if state.state == "paused" else "upload.failed"
        _log.warning(event, sink=self._sink.name, reason=state.reason)


class _Page:
    """The samples of some entries, one after another, and what became of each."""

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        self.samples = list(samples)
        self.fates = bytearray(len(self.samples))
        #: Each entry with its place in ``samples``.
        self.spans: list[tuple[Entry, int, int]] = []
        #: What was said of those that are dead, by their place.
        self.letters: dict[int, str] = {}

    def add(self, entry: Entry) -> None:
        """One more entry, of whose samples some may have their fate already."""
        assert entry.batch is not None
        start = len(self.samples)
        self.samples += entry.batch.samples()
        self.spans.append((entry, start, len(self.samples)))
        self.fates += _fates_of(entry)

    def known(self) -> Iterator[tuple[Entry, _Known]]:
        """What became of each entry."""
        for entry, low, high in self.spans:
            dead = [i for i in range(low, high) if i in self.letters] if self.letters else []
            yield entry, (bytes(self.fates[low:high]), {i - low: self.letters[i] for i in dead})

    def open_runs(self) -> list[tuple[int, int]]:
        """The stretches of samples that have no fate yet."""
        return [run.span() for run in re.finditer(rb"\x00+", self.fates)]

    def accept(self, low: int, high: int) -> None:
        self.fates[low:high] = bytes([_ACCEPTED]) * (high - low)

    def refuse(self, place: int, reason: str) -> None:
        self.fates[place] = _DEAD
        self.letters[place] = reason


def _fates_of(entry: Entry) -> bytes:
    return entry.fates or bytes(entry.samples)


def _fate(
    entry: Entry, known: bytes, letters: dict[int, str], now: float, *, expired: bool = False
) -> Fate:
    """What is news of an entry, against what the books hold of it."""
    before = _fates_of(entry)
    fresh = [i for i in letters if before[i] != _DEAD]
    samples = entry.batch.samples() if entry.batch is not None and fresh else []
    is_open = _OPEN in known and not expired
    return Fate(
        entry,
        accepted=known.count(_ACCEPTED) - before.count(_ACCEPTED),
        expired=known.count(_OPEN) if expired else 0,
        letters=tuple(DeadLetter(samples[i], letters[i], now) for i in fresh),
        fates=known if is_open else b"",
    )
