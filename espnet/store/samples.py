"""The stream of samples on their way to the sinks, and the books about it."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec

from espnet.model import (
    Books,
    Queue,
    SinkState,
    decode_batch,
    decode_letter,
    decode_sink_state,
    encode,
)
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
        self._mark = self._script("sinks", "mark")
        self._settle = self._script("sinks", "settle")
        self._tidy = self._script("sinks", "tidy")
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
        """Forgets a sink, its books and what only it waited for; False if there is no such sink."""
        after: bytes | None = self._forget(args=[self.prefix, sink, "0-0", _STEP])
        if after is None:
            return False
        while after:
            after = self._forget(args=[self.prefix, sink, after, _STEP])
        ids = [letter.id for letter in self.letters() if letter.sink == sink]
        if ids:
            self._redis.xdel(self._dead, *ids)
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
        return [_entry(row_id, fields) for row_id, fields in self._take(args=args)]

    @translated
    def oldest_waiting(self, sink: str) -> Entry | None:
        """The oldest entry that nobody of the sink took yet; it stays where it is."""
        for text in self._redis.lrange(f"{self.prefix}waiting:{sink}", 0, -1):
            start, end = text.split()
            stop = end if end == b"+" else b"(" + end
            rows = self._redis.xrange(self._samples, b"(" + start, stop, count=1)
            if rows:
                return _entry(*rows[0])
        return None

    @translated
    def read_pending(
        self, sink: str, consumer: str, count: int, after: bytes = b"0"
    ) -> list[Entry]:
        """What this consumer took and did not settle, oldest first; it is its own anew."""
        while True:
            answer = self._redis.xreadgroup(sink, consumer, {self._samples: after}, count=count)
            rows = answer[0][1] if answer else []
            found = self._present(sink, rows)
            if found or not rows:
                return found
            after = rows[-1][0]

    @translated
    def take_over(self, sink: str, consumer: str, count: int) -> list[Entry]:
        """What other consumers took and left lying for `HELD_S`, or handed back."""
        cursor: bytes | str = "0-0"
        while True:
            cursor, rows, *_ = self._redis.xautoclaim(
                self._samples,
                sink,
                consumer,
                min_idle_time=int(HELD_S * 1000),
                start_id=cursor,
                count=count,
            )
            found = self._present(sink, rows)
            if found or cursor == b"0-0":
                break
        if not found:
            return []
        # One delivery is the one just now: who had it before never sent it, or handed it back.
        held = self._redis.xpending_range(
            self._samples, sink, found[0].id, found[-1].id, len(found), consumername=consumer
        )
        sent = {row["message_id"] for row in held if row["times_delivered"] > 1}
        return [entry._replace(was_sent=entry.id in sent) for entry in found]

    @translated
    def mark_sent(self, sink: str, consumer: str, ids: Sequence[bytes]) -> set[bytes]:
        """Says that entries are about to be sent, in case that nobody lives to say what came of it.

        Returns those that are still the consumer's, and are so for `HELD_S` from now.
        """
        return set(self._mark(args=[self.prefix, sink, consumer, *ids])) if ids else set()

    # --- ends -------------------------------------------------------------------------------------

    @translated
    def settle(self, sink: str, fates: Sequence[Fate], *, keep: bool = True) -> int:
        """Books what became of samples, ends the entries that are finished, and removes those of them that
        no other sink waits for, atomically.

        Returns how many were finished: one that somebody else settled, or the bound dropped, is none.
        ``keep``: the history alone does not use samples up.
        """
        if not fates:
            return 0
        args: list[Any] = [self.prefix, sink, MAX_LETTERS, int(keep)]
        for entry, accepted, expired, dropped, letters, open_ones in fates:
            args += (entry.id, entry.samples, entry.size, accepted, expired, dropped)
            args += (len(letters), open_ones, *map(encode, letters))
        return cast(int, self._settle(args=args))

    @translated
    def release(self, sink: str, consumer: str, ids: Sequence[bytes]) -> None:
        """Gives back what was taken and is not with the sink: anybody may have it at once."""
        if ids:
            self._redis.xclaim(
                self._samples,
                sink,
                consumer,
                0,
                list(ids),
                idle=_LONG_AGO_MS,
                retrycount=0,
                justid=True,
            )

    @translated
    def leave(self, sink: str, consumer: str) -> None:
        """At an orderly stop: gives back all that this consumer holds, and forgets it."""
        while rows := self._redis.xpending_range(
            self._samples, sink, min="-", max="+", count=_STEP, consumername=consumer
        ):
            self.release(sink, NOBODY, [row["message_id"] for row in rows])
        self._tidy(args=[self.prefix, sink, consumer, _FORGOTTEN_MS])

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

    def _present(self, sink: str, rows: list[Any]) -> list[Entry]:
        """Those rows that are still there (somebody may have deleted entries by hand), with their fates."""
        gone = [row_id for row_id, fields in rows if row_id is not None and not fields]
        if gone:
            self._redis.xack(self._samples, sink, *gone)
        there = [_entry(row_id, fields) for row_id, fields in rows if fields]
        if not there:
            return there
        fates = self._redis.hmget(f"{self.prefix}parts:{sink}", [entry.id for entry in there])
        return [
            entry._replace(fates=known) if known else entry
            for entry, known in zip(there, fates, strict=True)
        ]


def _entry(row_id: bytes, fields: Any) -> Entry:
    # Scripts answer with a list, commands of the client library with a mapping.
    samples, raw = (
        (fields[b"n"], fields[b"batch"]) if isinstance(fields, dict) else (fields[1], fields[3])
    )
    try:
        batch = decode_batch(raw)
    except msgspec.MsgspecError:
        batch = None
    if batch is not None and len(batch.points) != int(samples):
        batch = None
    return Entry(row_id, int(samples), len(raw), batch)


def _counts(kind: Any, flat: list[bytes]) -> Any:
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return msgspec.convert({key.decode(): int(value) for key, value in pairs}, kind)


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
