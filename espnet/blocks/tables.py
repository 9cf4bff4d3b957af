"""Readings as columns, and what is computed of them. Pure."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import fsum, isfinite
from typing import NamedTuple

#: The number of values, the smallest, their sum, the largest.
Cell = tuple[int, float, float, float]

#: A sum of decimals with so many places is one, without the noise of adding floats.
_DECIMALS = 6


class Table(NamedTuple):
    """Readings in the order of their times; each column has a value or None for each time."""

    times: list[float]
    columns: dict[str, list[float | None]]


class Buckets(NamedTuple):
    """What was read in stretches of ``width`` seconds, in order; ``starts`` are multiples of it.

    Each column has a `Cell` or None for each start.
    """

    width: int
    starts: list[int]
    columns: dict[str, list[Cell | None]]


# --- tables ---------------------------------------------------------------------------------------


def table_of(rows: Iterable[tuple[float, Mapping[str, float]]]) -> Table:
    """Rows, in whatever order they come, as a table; rows of one time are one row."""
    by_time: dict[float, dict[str, float]] = {}
    for at, fields in rows:
        by_time.setdefault(at, {}).update(fields)
    times = sorted(by_time)
    names = dict.fromkeys(name for at in times for name in by_time[at])
    return Table(times, {name: [by_time[at].get(name) for at in times] for name in names})


def rows_of(table: Table) -> Iterable[tuple[float, dict[str, float]]]:
    """A table, row by row, without what is missing."""
    for index, at in enumerate(table.times):
        yield (
            at,
            {
                name: value
                for name, column in table.columns.items()
                if (value := column[index]) is not None
            },
        )


def joined(tables: Sequence[Table]) -> Table:
    """Tables as one, in order of time."""
    tables = [table for table in tables if table.times]
    if len(tables) == 1:
        return tables[0]
    if any(a.times[-1] >= b.times[0] for a, b in pairwise(tables)):
        return table_of(row for table in tables for row in rows_of(table))
    names = dict.fromkeys(name for table in tables for name in table.columns)
    columns: dict[str, list[float | None]] = {name: [] for name in names}
    for table in tables:
        missing: list[float | None] = [None] * len(table.times)
        for name, column in columns.items():
            column += table.columns.get(name, missing)
    return Table([at for table in tables for at in table.times], columns)


def between(table: Table, since: float, until: float) -> Table:
    """The part of a table with ``since ≤ t < until``."""
    first, last = bisect_left(table.times, since), bisect_left(table.times, until)
    if last - first == len(table.times):
        return table
    columns = {name: column[first:last] for name, column in table.columns.items()}
    return Table(
        table.times[first:last],
        {name: column for name, column in columns.items() if any(v is not None for v in column)},
    )


# --- buckets --------------------------------------------------------------------------------------


def aggregated(table: Table, width: int, offset: int = 0) -> Buckets:
    """A table in buckets of ``width`` seconds; a start plus ``offset`` is a multiple of it."""
    times, spans, at = table.times, [], 0
    while at < len(times):
        start = int((times[at] + offset) // width) * width - offset
        end = bisect_left(times, start + width, at)
        spans.append((start, at, end))
        at = end
    columns: dict[str, list[Cell | None]] = {}
    for name, column in table.columns.items():
        cells: list[Cell | None] = []
        for _, first, last in spans:
            values = [value for value in column[first:last] if value is not None]
            cells.append(_cell(values) if values else None)
        columns[name] = cells
    return Buckets(width, [start for start, *_ in spans], columns)


def merged(parts: Iterable[Buckets], width: int, offset: int = 0) -> Buckets:
    """Buckets as one, ``width`` seconds wide: a multiple of the width of each."""
    found: dict[str, dict[int, Cell]] = {}
    for part in parts:
        starts = [start - (start + offset) % width for start in part.starts]
        for name, cells in part.columns.items():
            column = found.setdefault(name, {})
            for start, cell in zip(starts, cells, strict=True):
                if cell is not None:
                    old = column.get(start)
                    column[start] = cell if old is None else _both(old, cell)
    starts = sorted({start for column in found.values() for start in column})
    return Buckets(width, starts, {n: [c.get(s) for s in starts] for n, c in found.items()})


def within(buckets: Buckets, since: float, until: float) -> Buckets:
    """The buckets that begin in ``since ≤ start < until``."""
    first, last = bisect_left(buckets.starts, since), bisect_left(buckets.starts, until)
    columns = {name: column[first:last] for name, column in buckets.columns.items()}
    return Buckets(buckets.width, buckets.starts[first:last], columns)


def mean(cell: Cell) -> float:
    """A cell's mean, which rounding never moves out of its minimum and maximum."""
    count, low, total, high = cell
    return min(max(total / count, low), high)


def _cell(values: list[float]) -> Cell:
    low, high = min(values), max(values)
    return len(values), low, _sum(values, len(values), low, high), high


def _both(a: Cell, b: Cell) -> Cell:
    count, low, high = a[0] + b[0], min(a[1], b[1]), max(a[3], b[3])
    return count, low, _sum((a[2], b[2]), count, low, high), high


def _sum(parts: Iterable[float], count: int, low: float, high: float) -> float:
    """A sum of ``count`` values without the noise of adding: of decimals it is a decimal."""
    try:
        total = fsum(parts)
    except OverflowError:
        total = float("inf") if high > -low else float("-inf")
    if not isfinite(total):
        return total
    plain = round(total, _DECIMALS)
    noise = 1e-15 * count * max(abs(low), abs(high))
    return plain if abs(plain - total) <= noise else total
