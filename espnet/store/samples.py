"""The stream of samples on their way to the sinks, and the books about it."""

from collections.abc import Sequence
from typing import Any, cast

from redis.exceptions import ResponseError

from espnet.model import (
    Books,
    decode_batch,
)
from espnet.store.connection import Connection, translated
from espnet.store.records import Entry


class Samples(Connection):
    """A sink is a consumer group; an entry is one poll's samples."""

    @translated
    def books(self) -> Books:
        """Where every sample went."""
        counts = self._redis.hgetall(self._books)
        return Books(**{key.decode(): int(value) for key, value in counts.items()})

    @translated
    def create_group(self, sink: str) -> bool:
        """Makes a sink a reader of the stream, from its very beginning; False if it was one."""
        try:
            self._redis.xgroup_create(self._samples, sink, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" in str(error):
                return False
            raise
        return True

    @translated
    def read_pending(
        self, sink: str, consumer: str, count: int, after: bytes = b"0"
    ) -> list[Entry]:
        """What this consumer was given and has not acknowledged, oldest first."""
        rows = self._redis.xreadgroup(sink, consumer, {self._samples: after}, count=count)
        return self._entries(sink, rows[0][1] if rows else [])

    @translated
    def read_new(self, sink: str, consumer: str, count: int) -> list[Entry]:
        """What no consumer of the sink was given yet, oldest first."""
        rows = self._redis.xreadgroup(sink, consumer, {self._samples: ">"}, count=count)
        return self._entries(sink, rows[0][1] if rows else [])

    @translated
    def take_over(self, sink: str, consumer: str, idle_s: float, count: int) -> list[Entry]:
        """What other consumers were given and left lying for ``idle_s`` seconds."""
        rows = self._redis.xautoclaim(
            self._samples, sink, consumer, min_idle_time=int(idle_s * 1000), count=count
        )
        return self._entries(sink, rows[1])

    @translated
    def accept(self, sink: str, entries: Sequence[Entry]) -> int:
        """Books entries as delivered and removes them, atomically; returns how many samples."""
        if not entries:
            return 0
        args: list[Any] = [sink]
        for entry in entries:
            args += (entry.id, len(entry.batch.points))
        return cast(int, self._accept(keys=[self._samples, self._books], args=args))

    @translated
    def hand_back(self, sink: str, consumer: str) -> int:
        """At an orderly stop: what this consumer holds may be taken over by anyone at once."""
        rows = self._redis.xpending_range(
            self._samples, sink, min="-", max="+", count=100_000, consumername=consumer
        )
        ids = [row["message_id"] for row in rows]
        if ids:
            self._redis.xclaim(
                self._samples, sink, consumer, 0, ids, idle=24 * 3_600_000, justid=True
            )
        return len(ids)

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

    def _entries(self, sink: str, rows: list[Any]) -> list[Entry]:
        """Decodes rows. Those that the bound dropped meanwhile have no fields, or (Redis 6.2) no id."""
        found, gone = [], []
        for row_id, fields in rows:
            if fields:
                found.append(Entry(row_id, decode_batch(fields[b"batch"])))
            elif row_id is not None:
                gone.append(row_id)
        if gone:
            self._redis.xack(self._samples, sink, *gone)
        return found


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
