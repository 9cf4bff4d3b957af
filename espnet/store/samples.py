"""The stream of samples on their way to the sinks, and the books about it."""

from collections.abc import Collection, Sequence
from typing import Any, Literal, cast

import msgspec

from espnet.model import encode
from espnet.samples import Books, Queue, SinkState, decode_batch, decode_letter, decode_sink_state
from espnet.store.connection import Connection, translated
from espnet.store.records import (
    HELD_S,
    MAX_LETTERS,
    Entry,
    Fate,
    Ledger,
    Letter,
    SinkBooks,
)

#: As if nobody had touched it for a day: whoever asks for abandoned entries gets it.
_LONG_AGO_MS = 24 * 3_600_000
#: Before the first entry of a stream.
_START = b"0-0"
#: A consumer that holds nothing and says nothing for so long is forgotten.
_FORGOTTEN_MS = 3_600_000
#: Entries of one step of what may take many: no script may hold Redis up for long.
_STEP = 500
#: Who has what was given back at an orderly stop.
NOBODY = "nobody"


class Samples(Connection):
    """A sink is a consumer group; an entry is one poll's samples.

    An entry is in one of three places for a sink: in a range that nobody took yet, in somebody's
    hands (the group's pending list), or settled. Every way from one to the next is one script.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._join = self._script("sinks", "join")
        self._take = self._script("sinks", "take")
        self._hold = self._script("sinks", "hold")
        self._mark = self._script("sinks", "mark")
        self._settle = self._script("sinks", "settle")
        self._leave = self._script("sinks", "leave")
        self._bury = self._script("sinks", "bury")
        self._all_books = self._script("sinks", "books")
        self._forget = self._script("sinks", "forget")

    @translated
    def join(self, sink: str, now: float) -> bool:
        """Makes a sink a reader of the stream, from its very beginning; False if it was one.

        Cheap, and to be repeated: Redis may have come back empty.
        """
        return bool(self._join(args=[self.prefix, sink, f"{now:.3f}"]))

    @translated
    def forget_sink(self, sink: str) -> bool:
        """Forgets a sink, its books, its dead letters and what only it waited for; False if there is no
        such sink."""
        after: bytes | None = self._forget(args=[self.prefix, sink, "0-0", _STEP])
        if after is None:
            return False
        while after:
            after = self._forget(args=[self.prefix, sink, after, _STEP])
        return True

    # --- reading ----------------------------------------------------------------------------------

    @translated
    def take(
        self, sink: str, consumer: str, count: int, *, newest_first: bool = False
    ) -> list[Entry]:
        """Up to ``count`` entries that nobody of the sink took yet, oldest first.

        They are the oldest of all, or the newest ones. What is taken is the consumer's for `HELD_S`.
        """
        args = [self.prefix, sink, consumer, count, int(newest_first)]
        return [_entry(*row) for row in self._take(args=args)]

    @translated
    def oldest_waiting(self, sink: str) -> Entry | None:
        """The oldest entry that nobody of the sink took yet; it stays where it is."""
        for text in self._redis.lrange(f"{self.prefix}waiting:{sink}", 0, -1):
            start, end = text.split()
            stop = end if end == b"+" else b"(" + end
            rows = self._redis.xrange(self._samples, b"(" + start, stop, count=1)
            if rows:
                row_id, fields = rows[0]
                return _entry(row_id, [part for pair in fields.items() for part in pair])
        return None

    @translated
    def read_pending(
        self,
        sink: str,
        consumer: str,
        count: int,
        after: bytes = _START,
        known: Collection[bytes] = (),
    ) -> list[Entry]:
        """What this consumer took and did not settle, oldest first; it is its own anew.

        ``known`` are ids of which it knows whether they were sent. What was marked of all others may be
        sent twice now, and is booked so.
        """
        args = [self.prefix, sink, consumer, count, after, 0, *known]
        return [_entry(*row) for row in self._hold(args=args)]

    @translated
    def take_over(self, sink: str, consumer: str, count: int) -> list[Entry]:
        """What other consumers took and left lying for `HELD_S`, or handed back.

        What they marked may be sent twice now, and is booked so.
        """
        args = [self.prefix, sink, consumer, count, "", int(HELD_S * 1000)]
        return [_entry(*row) for row in self._hold(args=args)]

    @translated
    def mark_sent(self, sink: str, consumer: str, ids: Sequence[bytes]) -> set[bytes]:
        """Says that entries are about to be sent, in case that nobody lives to say what came of it.

        Returns those that are still the consumer's, and are so for `HELD_S` from now.
        """
        return set(self._mark(args=[self.prefix, sink, consumer, *ids])) if ids else set()

    # --- ends -------------------------------------------------------------------------------------

    @translated
    def settle(
        self,
        sink: str,
        consumer: str,
        fates: Sequence[Fate],
        *,
        repeated: int = 0,
        keep: bool = True,
    ) -> int:
        """Books what became of samples, ends the entries that are finished, removes those of them that no
        other sink waits for, and gives back the others, which anybody may have at once; atomically.

        Returns how many were finished: one that is not the consumer's any more, or that the bound
        dropped, is none. ``repeated`` samples may get to the sink twice. ``keep``: the history alone does
        not use samples up.
        """
        if not fates and not repeated:
            return 0
        args: list[Any] = [self.prefix, sink, consumer, MAX_LETTERS, int(keep), repeated]
        for entry, accepted, expired, dropped, letters, open_ones in fates:
            args += (entry.id, entry.samples, entry.size, accepted, expired, dropped)
            args += (len(letters), open_ones, *map(encode, letters))
        return cast(int, self._settle(args=args))

    @translated
    def leave(self, sink: str, consumer: str) -> None:
        """At an orderly stop: gives back all that this consumer holds, and forgets it."""
        args = [self.prefix, sink, consumer, NOBODY, _LONG_AGO_MS, _STEP, _FORGOTTEN_MS]
        while self._leave(args=args) == _STEP:
            pass

    @translated
    def count_repeated(self, sink: str, samples: int) -> None:
        """Books that the sink may get so many samples twice."""
        self._redis.hincrby(f"{self.prefix}books:{sink}", "repeated", samples)

    # --- dead letters -----------------------------------------------------------------------------

    @translated
    def letters(self) -> list[Letter]:
        """All dead letters, oldest first: at most `MAX_LETTERS`."""
        return [
            Letter(row_id.decode(), fields[b"sink"].decode(), decode_letter(fields[b"letter"]))
            for row_id, fields in self._redis.xrange(self._dead)
        ]

    @translated
    def bury(self, fate: Literal["accepted", "expired", "dropped"], ids: Sequence[str]) -> int:
        """Ends dead letters; returns how many there still were."""
        return cast(int, self._bury(args=[self.prefix, fate, *ids])) if ids else 0

    # --- books ------------------------------------------------------------------------------------

    @translated
    def ledger(self) -> Ledger:
        """The books of the stream and of each sink, at one instant."""
        queue, *sinks = self._all_books(args=[self.prefix])
        return Ledger(
            _counts(Queue, queue),
            tuple(
                SinkBooks(
                    name.decode(), _counts(Books, books), decode_sink_state(raw) if raw else None
                )
                for name, books, raw in sorted(sinks)
            ),
        )

    @translated
    def note_sink(self, sink: str, state: SinkState) -> None:
        """Says how delivery goes, for `ledger`."""
        self._redis.hset(self._sink_states, sink, encode(state))

    @translated
    def stream_info(self) -> dict[str, Any]:
        """Length of the stream, its ends, and each sink's group with what is pending there."""
        if not self._redis.exists(self._samples):
            return {"length": 0, "groups": []}
        info = self._redis.xinfo_stream(self._samples)
        groups = self._redis.xinfo_groups(self._samples)
        return {
            "length": info["length"],
            "first": _text(info["first-entry"][0]) if info["first-entry"] else None,
            "last": _text(info["last-entry"][0]) if info["last-entry"] else None,
            "groups": [{key: _text(value) for key, value in group.items()} for group in groups],
        }

    @translated
    def pending(self, sink: str) -> list[dict[str, Any]]:
        """Who holds entries of a sink: consumer, entries, and the longest time without a word."""
        found: dict[str, dict[str, Any]] = {}
        start = "-"
        while rows := self._redis.xpending_range(
            self._samples, sink, min=start, max="+", count=1_000
        ):
            for row in rows:
                name = row["consumer"].decode()
                holds = found.setdefault(name, {"consumer": name, "entries": 0, "idle_s": 0.0})
                holds["entries"] += 1
                holds["idle_s"] = max(holds["idle_s"], row["time_since_delivered"] / 1000)
            start = "(" + rows[-1]["message_id"].decode()
        return list(found.values())


def _entry(row_id: bytes, fields: list[bytes], fates: bytes = b"") -> Entry:
    try:
        _, samples, _, raw = fields
        count, batch = int(samples), decode_batch(raw)
    except (ValueError, msgspec.MsgspecError):
        return _unreadable(row_id, fields, fates)
    if len(batch.points) != count:
        return _unreadable(row_id, fields, fates)
    return Entry(row_id, count, len(raw), batch, fates)


def _unreadable(row_id: bytes, fields: list[bytes], fates: bytes) -> Entry:
    """What the scripts make of it (``samples_of`` and ``bytes_of``)."""
    samples = fields[1] if fields[1].isdigit() else b"0"
    return Entry(row_id, int(samples), len(fields[3]) if len(fields) > 3 else 0, None, fates)


def _counts(kind: Any, flat: list[bytes]) -> Any:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return msgspec.convert({key.decode(): int(value) for key, value in pairs}, kind)


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
