"""Readings packed in blocks, and what is computed of them. Pure: no I/O, no clock.

A `Table` is readings as they were taken; `Buckets` are their numbers, minima, sums and maxima in
stretches of equal width. Either is packed column by column: a column of decimals becomes whole numbers,
their differences, and those are deflated. The past of a device is kept in three `LEVELS`, finest first,
and `Past` is how they are read as one.

Invariants: what is unpacked is what was packed, bit by bit. Buckets of parts, merged, are the buckets of
the whole, however it was divided: so rows may come late, and a block may begin anywhere. A value that
is missing is None, and never made up. Times are Unix seconds, whole milliseconds; names of columns hold
no line breaks.
"""

from espnet.blocks.levels import LEVELS, Level, Past, Sealed, sealed
from espnet.blocks.packing import (
    Header,
    header,
    pack,
    pack_buckets,
    unpack,
    unpack_buckets,
)
from espnet.blocks.tables import (
    Buckets,
    Cell,
    Table,
    aggregated,
    between,
    joined,
    mean,
    merged,
    rows_of,
    table_of,
    within,
)

__all__ = [
    "LEVELS",
    "Buckets",
    "Cell",
    "Header",
    "Level",
    "Past",
    "Sealed",
    "Table",
    "aggregated",
    "between",
    "header",
    "joined",
    "mean",
    "merged",
    "pack",
    "pack_buckets",
    "rows_of",
    "sealed",
    "table_of",
    "unpack",
    "unpack_buckets",
    "within",
]
