"""The three levels of a device's past: how rows go into them, and how they are read as one. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from espnet.blocks.packing import header, pack, pack_buckets, unpack, unpack_buckets
from espnet.blocks.tables import Buckets, Table, aggregated, between, joined, merged, within


class Level(NamedTuple):
    """One resolution of the past.

    ``width`` is that of its buckets in seconds, 0 for readings as they were taken. Blocks that ended
    ``keep_s`` ago go. A block is open until it has ``rows`` rows. ``floor`` is the part of a device's
    memory that is this level's own: when there is too little, the oldest of the finest level goes
    first, but not all of it.
    """

    name: str
    width: int
    keep_s: int
    rows: int
    floor: float


LEVELS = (
    Level("full rate", 0, 86_400, 240, 1 / 8),
    Level("5-minute", 300, 30 * 86_400, 96, 1 / 4),
    Level("hourly", 3_600, 366 * 86_400, 96, 0.0),
)


class Sealed(NamedTuple):
    """A new block of a level; ``replaces``: it holds what the level's last block held, and more."""

    block: bytes
    replaces: bool


def sealed(table: Table, last: Sequence[bytes | None]) -> list[Sealed]:
    """Rows as one new block a level. ``last`` are the last blocks of the levels, None where none is."""
    found = []
    for level, block in zip(LEVELS, last, strict=True):
        if not level.width:
            found.append(Sealed(pack(table), False))
            continue
        parts = [aggregated(table, level.width)]
        is_open = block is not None and header(block).rows < level.rows
        if block is not None and is_open:
            parts.insert(0, unpack_buckets(block))
        found.append(Sealed(pack_buckets(merged(parts, level.width)), is_open))
    return found


class Past(NamedTuple):
    """All that is kept of a device: rows that are in no block yet, and the blocks of each level.

    ``lost`` says for each level before which second (Unix) something of it is gone.
    """

    tail: Table
    levels: tuple[Sequence[bytes], ...]
    lost: tuple[int, ...]

    def finest(self, since: float) -> Level:
        """The finest level that is whole from ``since`` on, else the one that goes back furthest."""
        for level, lost in zip(LEVELS, self.lost, strict=True):
            if lost <= since:
                return level
        return LEVELS[self.lost.index(min(self.lost))]

    def is_empty(self) -> bool:
        return not self.tail.times and not any(self.levels)

    def fields(self) -> list[str]:
        """The names of all values that are anywhere in it, in the order in which they came."""
        names = dict.fromkeys(self.tail.columns)
        for level, blocks in zip(LEVELS, self.levels, strict=True):
            for block in blocks:
                part = unpack_buckets(block) if level.width else unpack(block)
                names.update(dict.fromkeys(part.columns))
        return list(names)

    def rows(self, since: float, until: float) -> Table:
        """Readings as they were taken, ``since ≤ t < until``, as far as they are still there."""
        blocks = [unpack(block) for block in _touching(self.levels[0], since, until)]
        return between(joined([*blocks, self.tail]), since, until)

    def buckets(self, width: int, since: float, until: float, offset: int = 0) -> Buckets:
        """Everything in ``since ≤ t < until`` in buckets, each of the finest level that knows it.

        ``width`` is a multiple of that of `finest` (``since``). A start plus ``offset`` is a multiple
        of ``width``: so days begin at midnight where local time is ``offset`` seconds ahead of UTC.
        """
        parts: list[Buckets] = []
        end, coarsest = until, LEVELS[-1].width
        for index, level in enumerate(LEVELS):
            # From `begin` on the level is whole; before, a coarser one knows more, whose buckets must
            # not be cut.
            lost = self.lost[index]
            begin = since if lost <= since else float(-(-lost // coarsest) * coarsest)
            if begin >= end:
                continue
            if not level.width:
                parts.append(aggregated(self.rows(begin, end), width, offset))
            else:
                blocks = _touching(self.levels[index], begin, end)
                known = [unpack_buckets(block) for block in blocks]
                known.append(aggregated(self.tail, level.width))
                parts += (within(part, begin, end) for part in known)
            end = begin
        return merged(parts, width, offset)


def _touching(blocks: Sequence[bytes], since: float, until: float) -> list[bytes]:
    return [block for block in blocks if (lies := header(block)).start < until and lies.end > since]
