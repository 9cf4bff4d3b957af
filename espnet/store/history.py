"""The past of each device: a tail of single rows, and packed blocks on three levels.

========================  ======  ====================================================================
key                       type    holds
========================  ======  ====================================================================
``history``               hash    id → state: a number that grows with every change of the blocks, then for
                                  each level its bytes, where it begins, and before when something is gone
``history:ID:tail``       list    rows that are in no block yet, and heads that name their values
``history:ID:0 … :2``     list    the blocks of a level (`espnet.blocks`), oldest first
========================  ======  ====================================================================

Invariants: a row is appended in the script that settles its entry, so it is there exactly once. Rows
leave the tail in the script that stores the blocks made of them. A device that is not registered has
none of these keys.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, cast

import msgspec

from espnet.blocks import LEVELS, Past, Sealed, Table, table_of
from espnet.store.connection import Connection, translated
from espnet.store.records import Entry

#: Entries of one script call, which takes about 5 µs for each.
_APPENDED = 128
#: Most entries of a tail that are packed at once.
_PACKED = 1_024
_STATE = struct.Struct("<10I")
_packer = msgspec.msgpack.Encoder()


class Row(msgspec.Struct, frozen=True, gc=False):
    """What is kept of an entry: the values of one poll and their names. Without a device nothing is.

    ``full``: with so many rows the device's tail is to be packed.
    """

    entry: Entry
    device_id: str = ""
    at: float = 0.0
    names: tuple[str, ...] = ()
    values: Sequence[float] = ()
    full: int = 1


class State(NamedTuple):
    """What is known of a device's blocks without reading them: one number for each level.

    ``raw`` is what it is compared by. ``oldest`` is 0 where there is no block.
    """

    raw: bytes
    bytes: tuple[int, ...] = (0, 0, 0)
    oldest: tuple[int, ...] = (0, 0, 0)
    lost: tuple[int, ...] = (0, 0, 0)


class Tail(NamedTuple):
    """What packing a device's rows needs: the rows, the open blocks, and what to compare."""

    device_id: str
    state: State
    entries: Sequence[bytes]
    last_blocks: Sequence[bytes | None]

    def table(self) -> Table:
        return _table(self.entries)


class Packing(NamedTuple):
    """New blocks of a device, one a level; without any, only what is too old or too much goes.

    ``allowed`` bytes is what all its blocks may have together.
    """

    device_id: str
    state: State
    allowed: int
    entries: Sequence[bytes] = ()
    blocks: Sequence[Sealed] = ()


class Reach(NamedTuple):
    """How far back a level goes, over the whole fleet.

    ``bytes`` of blocks of ``devices`` devices. ``oldest`` is the oldest of all (Unix seconds, 0 for
    none). ``short`` devices have lost something that is younger than ``keep_s``: the memory was too
    small for it; of all of these, ``least_s`` is the shortest time that is still whole.
    """

    level: str
    keep_s: int
    bytes: int
    devices: int
    oldest: int
    short: int
    least_s: float | None


class History(Connection):
    """Rows in, blocks in their place, and all of it out again."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._states, self._past = self.prefix + "history", self.prefix + "history:"
        self._append = self._script("sinks", "history_append")
        self._seal = self._script("history_seal")

    @translated
    def device_count(self) -> int:
        """How many devices are registered."""
        return cast(int, self._redis.hlen(self._devices))

    @translated
    def append_history(self, rows: Sequence[Row], *, keep: bool = True) -> tuple[int, list[str]]:
        """Settles entries and keeps their rows, each in one step; ``keep`` is that of `Samples.settle`.

        Returns how many rows were kept, and the ids of devices whose tails are full.
        """
        kept, full = 0, dict[str, None]()
        for start in range(0, len(rows), _APPENDED):
            heads: dict[bytes, int] = {}
            told: list[str | int] = []
            packed = []
            for row in rows[start : start + _APPENDED]:
                entry = row.entry
                form = _form(row.names)
                value = form.pack(row.at, *row.values)
                packed.append(value)
                number = heads.setdefault(form.head, len(heads) + 1)
                told += (entry.id.decode(), entry.samples, entry.size)
                told += (row.device_id, number, len(value), row.full)
            # Lua's MessagePack knows no binary strings: the rows stand beside it, one after the other.
            args = [self.prefix, int(keep), _packer.encode(told), b"".join(packed), *heads]
            some, ids = self._append(args=args)
            kept += some
            full |= dict.fromkeys(device_id.decode() for device_id in ids)
        return kept, list(full)

    @translated
    def tails(self, device_ids: Sequence[str]) -> list[Tail]:
        """The tails of devices, with what packing them needs."""
        pipe = self._redis.pipeline()
        for device_id in device_ids:
            key = f"{self._past}{device_id}:"
            pipe.hget(self._states, device_id).lrange(key + "tail", 0, _PACKED - 1)
            for level in range(len(LEVELS)):
                pipe.lindex(f"{key}{level}", -1)
        answers = iter(pipe.execute())
        return [
            Tail(
                device_id,
                _state(next(answers)),
                next(answers),
                [next(answers) for _ in LEVELS],
            )
            for device_id in device_ids
        ]

    @translated
    def seal(self, packings: Sequence[Packing], now: float) -> int:
        """Puts blocks in the place of rows; returns for how many devices.

        Where somebody else was faster, nothing happens.
        """
        done = 0
        for device_id, state, allowed, entries, blocks in packings:
            last, head = (entries[-1], _heads(entries)[-1]) if entries else (b"", b"")
            args: list[Any] = [self.prefix, device_id, state.raw, len(entries), last, head]
            args += (int(now), max(0, allowed))
            for index, level in enumerate(LEVELS):
                block, replaces = blocks[index] if blocks else (b"", False)
                floor = int(max(0, allowed) * level.floor)
                args += (level.keep_s, floor, block, int(replaces))
            done += self._seal(args=args)
        return done

    @translated
    def past(self, device_id: str) -> Past:
        """All that is kept of a device, at one instant."""
        key = f"{self._past}{device_id}:"
        pipe = self._redis.pipeline()
        pipe.hget(self._states, device_id).lrange(key + "tail", 0, -1)
        for level in range(len(LEVELS)):
            pipe.lrange(f"{key}{level}", 0, -1)
        raw, tail, *levels = pipe.execute()
        return Past(_table(tail), tuple(levels), _state(raw).lost)

    @translated
    def history_states(self, cursor: int, count: int) -> tuple[int, dict[str, State]]:
        """Some devices' states, and the cursor for the next ones; 0 is the beginning and the end."""
        cursor, found = self._redis.hscan(self._states, cursor, count=count)
        return cursor, {device_id.decode(): _state(raw) for device_id, raw in found.items()}

    @translated
    def history_reach(self, now: float) -> list[Reach]:
        """How far back each level goes. Reads one hash, whatever the fleet."""
        states = [_state(raw) for raw in self._redis.hvals(self._states)]
        found = []
        for index, level in enumerate(LEVELS):
            oldest = [state.oldest[index] for state in states if state.oldest[index]]
            # Blocks go when all of them is too old: what is lost by age is never younger than that.
            lost = [s.lost[index] for s in states if s.lost[index] > now - level.keep_s]
            found.append(
                Reach(
                    level.name,
                    level.keep_s,
                    sum(state.bytes[index] for state in states),
                    len(oldest),
                    min(oldest, default=0),
                    len(lost),
                    max(0.0, now - max(lost)) if lost else None,
                )
            )
        return found

    def _forget_history(self, pipe: Any, device_id: str) -> None:
        """Deletes a device's past within somebody's transaction."""
        names = ("tail", *range(len(LEVELS)))
        pipe.hdel(self._states, device_id)
        pipe.delete(*(f"{self._past}{device_id}:{name}" for name in names))


class _Form:
    """How rows with certain names are written."""

    def __init__(self, names: tuple[str, ...]) -> None:
        text = "\n".join(names).encode()
        self.head = b"n" + struct.pack("<I", zlib.crc32(text)) + text
        self._mark, self._pack = self.head[1:5], struct.Struct(f"<c4s{len(names) + 1}d").pack

    def pack(self, at: float, *values: float) -> bytes:
        return self._pack(b"v", self._mark, at, *values)


_form = lru_cache(maxsize=4_096)(_Form)


def _heads(entries: Sequence[bytes]) -> list[bytes]:
    return [entry for entry in entries if entry[:1] == b"n"]


def _state(raw: bytes | None) -> State:
    if not raw:
        return State(b"")
    _, *numbers = _STATE.unpack(raw)
    return State(raw, *(tuple(numbers[part::3]) for part in range(3)))


def _table(entries: Sequence[bytes]) -> Table:
    """The rows of a tail, in order of time."""
    runs = list(_runs(entries))
    if len(runs) == 1:
        names, (times, *columns) = runs[0][0], zip(*runs[0][1], strict=True)
        if all(a < b for a, b in pairwise(times)):
            return Table(list(times), dict(zip(names, map(list, columns), strict=True)))
    return table_of(
        (at, dict(zip(names, values, strict=True))) for names, rows in runs for at, *values in rows
    )


def _runs(entries: Sequence[bytes]) -> Iterator[tuple[list[str], list[tuple[float, ...]]]]:
    """A tail as runs of rows that have the same values: names, then times and values."""
    starts = [index for index, entry in enumerate(entries) if entry[:1] == b"n"]
    for start, end in pairwise([*starts, len(entries)]):
        text = entries[start][5:].decode()
        names = text.split("\n") if text else []
        rows = b"".join(entries[start + 1 : end])
        yield names, list(struct.iter_unpack(f"<5x{len(names) + 1}d", rows))
