"""Tables and buckets as bytes, column by column. Pure."""

import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeVar, cast

from espnet.blocks.tables import Buckets, Cell, Table

#: Before each block, readable in Lua: kind, first and last second (the latter
#: outside), rows (at most 65,535).
HEADER = struct.Struct("<BIIH")
_TABLE, _BUCKETS = 1, 2
#: More decimals than this are not tried: the value is kept as the float that it is.
_DECIMALS = 6
#: Beyond this not every whole number is a float.
_EXACT = 2**53
#: What blocks have in common, so that short ones deflate too. Never change it: blocks are kept.
_COMMON = (
    b"\nhumidity\ntemp\nsensor\nadc.39\nadc.36\nadc.35\nadc.34\nadc.33\nadc.32\ngpio.0\ngpio.2\ngpio.5"
    b"\ngpio.4\ndht22.air.temp\ndht22.air.humidity\nup\npoll_seconds\nf"
)
_WIDTHS = ((1, "b"), (2, "h"), (4, "i"), (8, "q"))
_CODES = dict(_WIDTHS)
#: Where the number of decimals would be: the column is floats.
_FLOAT = 0xFF

T = TypeVar("T")


class Header(NamedTuple):
    """Where a block lies: all its times are in ``start ≤ t < end``."""

    start: int
    end: int
    rows: int


def header(block: bytes) -> Header:
    """Where a block lies; nothing is inflated."""
    _, start, end, rows = HEADER.unpack_from(block)
    return Header(start, end, rows)


def pack(table: Table) -> bytes:
    """A table with at least one row as a block."""
    times = table.times
    ms = [round(at * 1000) for at in times]
    steps = _steps(ms)
    usual = min(steps, default=0)
    parts = [_varint(ms[0]), _varint(usual), _whole([step - usual for step in steps])]
    for column in table.columns.values():
        values = _present(column, parts)
        if values:
            scaled = _scaled(values)
            parts.append(_raw(values) if scaled is None else _changes(*scaled))
    head = HEADER.pack(_TABLE, int(times[0]), int(times[-1]) + 1, len(times))
    return head + _deflated(table.columns, parts)


def unpack(block: bytes) -> Table:
    """The table of a block."""
    rows = header(block).rows
    names, data = _inflated(block)
    reader = _Reader(data)
    first, usual = reader.varint(), reader.varint()
    ms = list(accumulate((step + usual for step in reader.whole(rows - 1)), initial=first))
    columns = {name: reader.spread(rows, reader.floats) for name in names}
    return Table([at / 1000 for at in ms], columns)


def pack_buckets(buckets: Buckets) -> bytes:
    """Buckets, at least one, as a block."""
    width, starts = buckets.width, buckets.starts
    numbers = [start // width for start in starts]
    parts = [_varint(width), _changes(0, numbers)]
    for column in buckets.columns.values():
        cells = _present(column, parts)
        if not cells:
            continue
        counts, lows, totals, highs = map(list, zip(*cells, strict=True))
        parts.append(_changes(0, counts))
        scaled = _scaled([*lows, *totals, *highs])
        if scaled is None:
            parts += (_raw(lows), _raw(totals), _raw(highs))
            continue
        decimals, ints = scaled
        size = len(lows)
        low, total, high = ints[:size], ints[size : 2 * size], ints[2 * size :]
        above = [t - n * a for t, n, a in zip(total, counts, low, strict=True)]
        spread = [b - a for a, b in zip(low, high, strict=True)]
        parts += (_changes(decimals, low), _whole(above), _whole(spread))
    head = HEADER.pack(_BUCKETS, starts[0], starts[-1] + width, len(starts))
    return head + _deflated(buckets.columns, parts)


def unpack_buckets(block: bytes) -> Buckets:
    """The buckets of a block."""
    rows = header(block).rows
    names, data = _inflated(block)
    reader = _Reader(data)
    width = reader.varint()
    starts = [number * width for number in reader.changes(rows)[1]]
    columns = {name: reader.spread(rows, reader.cells) for name in names}
    return Buckets(width, starts, columns)


def _deflated(names: Iterable[str], parts: Sequence[bytes]) -> bytes:
    text = "\n".join(names).encode()
    packer = zlib.compressobj(6, wbits=-15, zdict=_COMMON)
    return packer.compress(b"".join((_varint(len(text)), text, *parts))) + packer.flush()


def _inflated(block: bytes) -> tuple[list[str], bytes]:
    opener = zlib.decompressobj(wbits=-15, zdict=_COMMON)
    data = opener.decompress(memoryview(block)[HEADER.size :])
    reader = _Reader(data)
    text = reader.take(reader.varint()).decode()
    return (text.split("\n") if text else []), data[reader.at :]


def _present(column: Sequence[T | None], parts: list[bytes]) -> list[T]:
    """The values that are there; which ones those are goes before them."""
    if None not in column:
        parts.append(b"\1")
        return cast(list[T], column)
    bits = "".join("0" if value is None else "1" for value in column)
    parts.append(b"\0" + int(bits, 2).to_bytes((len(bits) + 7) // 8, "little"))
    return [value for value in column if value is not None]


def _scaled(values: Sequence[float]) -> tuple[int, list[int]] | None:
    """Floats as whole numbers of a decimal place, the coarsest that loses nothing; None without one."""
    largest = max(max(values), -min(values))
    exact = struct.pack(f"<{len(values)}d", *values)
    for decimals in range(_DECIMALS + 1):
        scale = 10**decimals
        if not largest * scale < _EXACT:
            return None
        probe = values[-1]
        if round(probe * scale) / scale != probe:
            continue
        ints = [round(value * scale) for value in values]
        # Bytes, because -0.0 equals 0.0.
        if struct.pack(f"<{len(ints)}d", *[number / scale for number in ints]) == exact:
            return decimals, ints
    return None


def _steps(numbers: Sequence[int]) -> list[int]:
    return [b - a for a, b in pairwise(numbers)]


def _changes(decimals: int, numbers: Sequence[int]) -> bytes:
    """Whole numbers as the first one and the differences."""
    return bytes((decimals,)) + _varint(numbers[0]) + _whole(_steps(numbers))


def _whole(numbers: Sequence[int]) -> bytes:
    """Whole numbers, each as wide as the widest; without any width where all of them are 0.

    First bytes come first, then second bytes: what is alike lies together.
    """
    if not any(numbers):
        return b"\0"
    bound = max(max(numbers), -1 - min(numbers))
    for width, code in _WIDTHS:
        if bound < 1 << (8 * width - 1):
            raw = struct.pack(f"<{len(numbers)}{code}", *numbers)
            return bytes((width,)) + b"".join(raw[i::width] for i in range(width))
    raise OverflowError(f"{bound} has no width")


def _raw(values: Sequence[float]) -> bytes:
    raw = struct.pack(f"<{len(values)}d", *values)
    return bytes((_FLOAT,)) + b"".join(raw[i::8] for i in range(8))


def _varint(number: int) -> bytes:
    """A whole number, negative ones between the others, 7 bits a byte."""
    number = number * 2 if number >= 0 else -number * 2 - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


class _Reader:
    """Takes apart what the functions above put together."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size : self.at]

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        number = shift = 0
        while (byte := self.byte()) > 127:
            number |= (byte & 127) << shift
            shift += 7
        number |= byte << shift
        return -(number + 1) // 2 if number & 1 else number // 2

    def whole(self, count: int) -> list[int]:
        width = self.byte()
        return list(self._numbers(count, width, _CODES[width])) if width else [0] * count

    def changes(self, count: int) -> tuple[int, list[int]]:
        decimals, first = self.byte(), self.varint()
        return decimals, list(accumulate(self.whole(count - 1), initial=first))

    def floats(self, count: int) -> list[float]:
        if self.data[self.at] == _FLOAT:
            self.at += 1
            return list(self._numbers(count, 8, "d"))
        decimals, ints = self.changes(count)
        scale = 10**decimals
        return [number / scale for number in ints]

    def cells(self, count: int) -> list[Cell]:
        counts = self.changes(count)[1]
        if self.data[self.at] == _FLOAT:
            columns = [self.floats(count) for _ in range(3)]
            return list(zip(counts, *columns, strict=True))
        decimals, low = self.changes(count)
        above, spread = self.whole(count), self.whole(count)
        scale = 10**decimals
        return [
            (n, a / scale, (more + n * a) / scale, (a + high) / scale)
            for n, a, more, high in zip(counts, low, above, spread, strict=True)
        ]

    def spread(self, rows: int, read: Callable[[int], list[T]]) -> list[T | None]:
        """A column, with None where nothing was."""
        if self.byte():
            return cast(list[T | None], read(rows))
        bits = f"{int.from_bytes(self.take((rows + 7) // 8), 'little'):0{rows}b}"
        count = bits.count("1")
        values = iter(read(count) if count else ())
        return [next(values) if bit == "1" else None for bit in bits]

    def _numbers(self, count: int, width: int, code: str) -> tuple[Any, ...]:
        raw = bytearray(count * width)
        for plane in range(width):
            raw[plane::width] = self.take(count)
        return struct.unpack(f"<{count}{code}", raw)
