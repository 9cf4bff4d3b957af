"""Laws of `espnet.blocks`: nothing is changed by packing, nothing by how readings were divided."""

import math
import random
import struct
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from espnet.blocks import (
    LEVELS,
    Buckets,
    Past,
    Table,
    aggregated,
    between,
    header,
    joined,
    mean,
    merged,
    pack,
    pack_buckets,
    rows_of,
    sealed,
    table_of,
    unpack,
    unpack_buckets,
    within,
)

NOW = 1_750_000_000.0
Rows = list[tuple[float, dict[str, float]]]

odd = st.sampled_from(
    [-0.0, 0.0, 0.1, 1 / 3, 5e-324, -5e-324, 2.2250738585072014e-308, 1e-7, 1e22, 2.0**53, 2.0**53 + 2,
     -(2.0**63), 1.7976931348623157e308, -1.7976931348623157e308, 1e-6, 0.000001234, 123456789.123456]
)  # fmt: skip
decimals = st.builds(
    lambda n, k: round(n / 10**k, k), st.integers(-20_000, 20_000), st.integers(0, 4)
)
values = st.one_of(
    odd,
    decimals,
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**60), 2**60).map(float),
)
times = st.one_of(
    st.integers(0, 4_000_000_000_000), st.integers(1_749_999_000_000, 1_750_003_600_000)
).map(lambda ms: ms / 1000)
names = st.sampled_from(["f", "up", "gpio.4", "dht22.Küche.temp", "adc.36", "x"])


def tables(value: st.SearchStrategy[float] = values) -> st.SearchStrategy[Table]:
    rows = st.lists(st.tuples(times, st.dictionaries(names, value)), min_size=1, max_size=40)
    return rows.map(table_of)


def bits(numbers: Iterable[float | None]) -> list[bytes | None]:
    return [None if number is None else struct.pack("<d", number) for number in numbers]


def same(a: Table, b: Table) -> bool:
    """Equal bit by bit: 0.0 and -0.0 are not the same."""
    return (
        bits(a.times) == bits(b.times)
        and list(a.columns) == list(b.columns)
        and all(bits(a.columns[name]) == bits(b.columns[name]) for name in a.columns)
    )


@given(tables())
@example(table_of([(NOW, {})]))
@example(table_of([(NOW + n / 10, {"f": 1 / 3}) for n in range(300)]))
def test_a_packed_table_is_the_same_table(table: Table) -> None:
    """Every value comes back bit by bit, every gap is still one; the header says where it lies."""
    block = pack(table)
    assert same(unpack(block), table)
    lies = header(block)
    assert lies.rows == len(table.times)
    assert lies.start <= table.times[0] <= table.times[-1] < lies.end


@given(tables(), st.sampled_from([300, 3_600]))
def test_packed_buckets_are_the_same_buckets(table: Table, width: int) -> None:
    """Numbers, minima, sums and maxima come back bit by bit, also when a sum is beyond any float."""
    buckets = aggregated(table, width)
    back = unpack_buckets(pack_buckets(buckets))
    assert back == buckets
    for name, column in buckets.columns.items():
        for one, other in zip(column, back.columns[name], strict=True):
            assert one is None or other is None or bits(one) == bits(other)
    lies = header(pack_buckets(buckets))
    assert lies.start <= table.times[0]
    assert table.times[-1] < lies.end


def brute(rows: Rows, width: int) -> dict[tuple[str, int], tuple[int, float, float, float]]:
    """Buckets as anyone would compute them: number, minimum, mean, maximum."""
    found: dict[tuple[str, int], list[float]] = {}
    for at, fields in rows:
        for name, value in fields.items():
            found.setdefault((name, math.floor(at / width) * width), []).append(value)
    return {key: (len(v), min(v), math.fsum(v) / len(v), max(v)) for key, v in found.items()}


def told(buckets: Buckets) -> dict[tuple[str, int], tuple[int, float, float, float]]:
    return {
        (name, start): (cell[0], cell[1], mean(cell), cell[3])
        for name, column in buckets.columns.items()
        for start, cell in zip(buckets.starts, column, strict=True)
        if cell is not None
    }


def agree(found: dict, right: dict) -> None:
    assert found.keys() == right.keys()
    for key, (count, low, middle, high) in right.items():
        assert found[key][0] == count
        assert (found[key][1], found[key][3]) == (low, high)
        noise = 1e-12 * max(abs(low), abs(high))
        assert abs(found[key][2] - middle) <= noise


def past_of(parts: Sequence[Rows], tail: Rows = []) -> Past:  # noqa: B006
    """What is kept when each part is packed in its turn, and the rest is not packed yet."""
    levels: list[list[bytes]] = [[] for _ in LEVELS]
    for part in parts:
        new = sealed(table_of(part), [blocks[-1] if blocks else None for blocks in levels])
        for blocks, (block, replaces) in zip(levels, new, strict=True):
            if replaces:
                blocks.pop()
            blocks.append(block)
    return Past(table_of(tail), tuple(levels), (0, 0, 0))


unique_rows = st.lists(
    st.tuples(
        st.integers(0, 4 * 3_600_000).map(lambda ms: NOW + ms / 1000),
        st.dictionaries(names, decimals, min_size=1),
    ),
    min_size=1,
    max_size=80,
    unique_by=lambda row: row[0],
)


@settings(max_examples=200)
@given(unique_rows, st.lists(st.integers(0, 80), max_size=6), st.booleans())
def test_buckets_do_not_depend_on_how_readings_were_divided(
    rows: Rows, cuts: list[int], in_order: bool
) -> None:
    """In any order, packed in any portions: each level tells what all the readings together tell."""
    if in_order:
        rows = sorted(rows, key=lambda row: row[0])
    edges = sorted({min(cut, len(rows)) for cut in cuts})
    parts = [part for a, b in zip([0, *edges], edges, strict=False) if (part := rows[a:b])]
    past = past_of(parts, rows[edges[-1] :] if edges else rows)
    for level, blocks in zip(LEVELS[1:], past.levels[1:], strict=True):
        known = [*map(unpack_buckets, blocks), aggregated(past.tail, level.width)]
        agree(told(merged(known, level.width)), brute(rows, level.width))
    assert dict(rows_of(past.rows(0, 2 * NOW))) == dict(rows)
    for width in (60, 300, 3_600, 7_200):
        agree(told(past.buckets(width, 0, 2 * NOW)), brute(rows, width))


def walk(seconds: int, step: int = 10, seed: int = 7) -> Rows:
    luck, rows, value = random.Random(seed), [], 21.0
    for at in range(0, seconds, step):
        value += luck.choice((-0.1, 0, 0, 0.1))
        rows.append((NOW + at + luck.randrange(50) / 1000, {"t": round(value, 1), "up": 1.0}))
    return rows


def cut(past: Past, drops: Sequence[int]) -> Past:
    """What is left when so many of each level's oldest blocks are gone."""
    lost = [
        max((header(b).end for b in blocks[:n]), default=0)
        for blocks, n in zip(past.levels, drops, strict=True)
    ]
    levels = tuple(blocks[n:] for blocks, n in zip(past.levels, drops, strict=True))
    return Past(past.tail, levels, tuple(lost))


PASTS = given(
    st.tuples(*[st.integers(0, 12)] * 2),
    st.sampled_from([300, 900, 3_600, 86_400]),
    st.integers(0, 3_000),
)


@settings(max_examples=20, deadline=None)
@PASTS
def test_levels_are_stitched_without_a_seam(drops: tuple[int, int], width: int, tail: int) -> None:
    """Whatever is gone of the finer levels, the coarser ones say it, once, to the last reading."""
    rows = walk(86_400)
    size = 240
    packed = rows[: len(rows) - tail] if tail else rows
    parts = [packed[i : i + size] for i in range(0, len(packed), size)]
    past = cut(past_of(parts, rows[len(packed) :]), (*drops, 0))
    level = past.finest(0)
    width = -(-width // (level.width or 1)) * (level.width or 1)
    agree(told(past.buckets(width, 0, 2 * NOW)), brute(rows, width))


@pytest.mark.soak
@settings(max_examples=150, deadline=None)
@PASTS
def test_levels_are_stitched_for_long(drops: tuple[int, int], width: int, tail: int) -> None:
    """The same, with many more pasts."""
    test_levels_are_stitched_without_a_seam.hypothesis.inner_test(drops, width, tail)


def test_days_begin_at_local_midnight() -> None:
    """With an offset, buckets of a day are those of people, whatever level they come from."""
    rows = walk(3 * 86_400, 300)
    past = past_of([rows])
    for offset in (7_200, -18_000, 20_700):
        found = past.buckets(86_400, 0, 2 * NOW, offset)
        assert all((start + offset) % 86_400 == 0 for start in found.starts)
        shifted = [(at + offset, fields) for at, fields in rows]
        right = brute(shifted, 86_400)
        agree({(n, s + offset): cell for (n, s), cell in told(found).items()}, right)


def test_the_finest_level_that_is_whole_is_chosen() -> None:
    """A level that lost something younger than what is asked is not the one that answers."""
    past = Past(Table([], {}), ((), (), ()), (1_000, 500, 0))
    assert [past.finest(at).name for at in (1_000, 999, 500, 499)] == [
        "full rate", "5-minute", "5-minute", "hourly",
    ]  # fmt: skip
    assert past.is_empty()


def test_rows_of_one_time_are_one_row() -> None:
    """What is said twice is kept once; what is said of different things at one time stands together."""
    table = table_of([(2.0, {"f": 1.0}), (1.0, {"f": 0.0}), (2.0, {"f": 3.0, "g": 4.0})])
    assert table == Table([1.0, 2.0], {"f": [0.0, 3.0], "g": [None, 4.0]})
    assert joined([table, table]) == table


@given(tables(), tables(), times, times)
def test_a_part_of_a_table_is_what_lies_in_it(
    a: Table, b: Table, since: float, until: float
) -> None:
    """Joining forgets nothing, and cutting keeps what is inside and nothing else."""
    whole = joined([a, b])
    assert whole.times == sorted({*a.times, *b.times})
    inside = between(whole, since, until)
    assert inside.times == [at for at in whole.times if since <= at < until]
    assert all(len(column) == len(inside.times) for column in inside.columns.values())


def test_a_sum_of_decimals_is_a_decimal() -> None:
    """Adding tenths in any order leaves no float noise, which would cost eight bytes a value."""
    rows = [(float(n), {"t": n % 7 / 10}) for n in range(300)]
    parts = [aggregated(table_of(rows[i : i + 9]), 300) for i in range(0, 300, 9)]
    (cell,) = merged(parts, 300).columns["t"]
    assert cell is not None
    assert cell[2] == round(cell[2], 1) == pytest.approx(sum(n % 7 for n in range(300)) / 10)


def test_an_open_block_grows_and_a_full_one_is_left_alone() -> None:
    """A block of buckets takes on rows until it is full; then the next one begins."""
    rows = walk(12 * 3_600)
    past = past_of([rows[i : i + 100] for i in range(0, len(rows), 100)])
    full, five, hourly = past.levels
    assert len(full) == math.ceil(len(rows) / 100)
    assert header(five[0]).rows >= LEVELS[1].rows
    assert len(five) == 2
    assert len(hourly) == 1


def test_packing_pays() -> None:
    """A room's readings take less than a byte a value at full rate."""
    rows = walk(2_400)
    assert len(pack(table_of(rows))) / len(rows) < 2.5
    assert within(aggregated(table_of(rows), 300), NOW, NOW + 1).starts == []
