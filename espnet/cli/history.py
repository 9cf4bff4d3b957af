"""The word `history` of a device: what was read before, as a table, a picture or a file."""

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from espnet.blocks import LEVELS, Cell, Past, Table, mean
from espnet.cli import parse
from espnet.cli.act import Words, verb
from espnet.cli.render import Records, Shown
from espnet.cli.session import Session
from espnet.errors import NoReading, UsageError
from espnet.model import Device

#: The longest time that can be asked for, in seconds: what the coarsest level keeps.
MAX_LAST_S = float(LEVELS[-1].keep_s)
#: Most buckets of one answer: a minute each for more than two months.
MAX_BUCKETS = 100_000
#: Readings that are so many of their usual distances apart have a gap between them.
GAP = 2.5
#: Distances on either side that say which one is usual.
_NEAR = 4


class Story(NamedTuple):
    """What is told of a device: a point in time, then a cell or None for each field.

    ``width`` is that of the buckets in seconds, 0 where each cell is one reading. Where readings are
    missing, one point without any cell stands in their place.
    """

    name: str
    zone: ZoneInfo
    since: float
    until: float
    width: int
    times: list[float]
    columns: dict[str, list[Cell | None]]


class HistoryWords(Words):
    """What a device was."""

    _session: Session
    _name: str

    @verb
    def history(
        self,
        field: str = "",
        *,
        last: str = "1h",
        every: str = "",
        plot: bool = False,
        csv: bool = False,
        png: str = "",
    ) -> Records | Shown:
        """Shows what was read in the last hour, or in another time.

        Full rate reaches back 24 hours, 5-minute values 30 days, hourly ones a year, unless
        the memory for them is smaller. The finest that reaches back far enough is shown. A line
        without values stands where readings are missing.

        FIELD   one value, with minimum and maximum; all values if left out

        --last 24h    how far back: 90s, 5m, 24h, 30d
        --every 5m    one line for so long: minimum, mean, maximum
        --plot        draws it here
        --csv         prints it with commas between, all digits
        --png FILE    draws it into a file (pip install matplotlib)

        Example: espcli device porch history dht22.air.temp --last 7d --every 1h --plot
        """
        last_s = parse.duration(last, "--last", least=1.0, most=MAX_LAST_S)
        width = _width(every, last_s)
        if sum(map(bool, (plot, csv, png))) > 1:
            raise UsageError("--plot, --csv and --png are three ways to show it; choose one.")
        if png:
            from espnet.cli.plot import require_matplotlib

            require_matplotlib(self._session.config.data_dir)
        session = self._session
        device = session.store.device(self._name)
        past = session.store.past(device.id)
        _require_field(device, past, field)
        story, hint = _story(session, device, past, field, last_s, width)
        rows = list(_rows(story, field))
        if csv:
            return Shown(rows, _csv(rows))
        if plot:
            from espnet.cli.plot import drawn

            return Shown(rows, "\n".join(filter(None, (drawn(story), hint))))
        if png:
            from espnet.cli.plot import write_png

            write_png(story, png)
            return Shown({"file": png, "points": len(rows)}, f"The picture is in {png}.")
        columns: tuple[str, ...]
        if story.width and field:
            columns = ("time", "readings", "min", "mean", "max")
        else:
            columns = ("time", *story.columns)
        if story.width and not field:
            hint = " ".join(filter(None, (hint, "Shown are means; name a FIELD for more.")))
        return Records(rows, columns, hint)


def _width(every: str, last_s: float) -> int:
    """``--every`` as whole seconds, 0 where nothing was said."""
    if not every:
        return 0
    width = parse.duration(every, "--every", least=1.0, most=MAX_LAST_S)
    if width != int(width):
        raise UsageError(f"--every must be whole seconds, not {parse.quoted(every)}.")
    if width > last_s:
        raise UsageError(
            f"--every {every} is longer than --last {parse.span(last_s)}; make one of them fit the other."
        )
    if last_s / width > MAX_BUCKETS:
        raise UsageError(
            f"--every {every} would be {last_s / width:,.0f} lines; at most {MAX_BUCKETS:,} are "
            "shown at once: choose a longer one."
        )
    return int(width)


def _require_field(device: Device, past: Past, field: str) -> None:
    if past.is_empty():
        raise NoReading(
            f"{device.name} has no history yet; it is kept while `espcli run` is running."
        )
    if field:
        fields = past.fields()
        if field not in fields:
            raise UsageError(
                f"{device.name} has no history of {parse.quoted(field)}; it has: "
                f"{', '.join(fields)}."
            )


def _story(
    session: Session, device: Device, past: Past, field: str, last_s: float, width: int
) -> tuple[Story, str]:
    """What there is, and a sentence where it is not what was asked."""
    now, zone = session.now, ZoneInfo(session.zone)
    since = now - last_s
    level = past.finest(since)
    hint = ""
    if level.width and width % level.width:
        asked, width = width, math.ceil(width / level.width) * level.width
        hint = (
            f"That far back there are {level.name} values only: {parse.span(width)} instead of "
            f"{parse.span(asked)}."
        )
    elif level.width and not width:
        width = level.width
        hint = f"These are {level.name} values: full rate does not reach back that far."
    # A second more, because the newest reading may have come while this is asked.
    if width:
        offset = _offset(now, zone)
        since -= (since + offset) % width
        buckets = past.buckets(width, since, now + 1, offset)
        times, columns = [float(start) for start in buckets.starts], buckets.columns
    else:
        table = past.rows(since, now + 1)
        times, columns = table.times, _cells(table)
    if field:
        columns = {field: columns.get(field, [None] * len(times))}
    columns = {name: cells for name, cells in columns.items() if field or any(cells)}
    if not any(any(cells) for cells in columns.values()):
        what = f"{field} of {device.name}" if field else device.name
        raise NoReading(
            f"{what} was not read in the last {parse.span(last_s)}; ask for more with --last, such as "
            f"--last {parse.span(min(MAX_LAST_S, 7 * max(last_s, 86_400)))}."
        )
    interval_s = device.interval_s or session.config.interval_s
    told = Story(device.name, zone, since, now, width, times, columns)
    return _with_gaps(told, interval_s), hint


def _cells(table: Table) -> dict[str, list[Cell | None]]:
    return {
        name: [None if value is None else (1, value, value, value) for value in column]
        for name, column in table.columns.items()
    }


def _with_gaps(story: Story, interval_s: float) -> Story:
    """One empty point in the place of all that is missing in a row."""
    import statistics  # 5 ms that no other command waits for

    keep = _kept(story)
    times: list[float] = []
    columns: dict[str, list[Cell | None]] = {name: [] for name in story.columns}

    def put(at: float, index: int | None) -> None:
        times.append(at)
        for name, cells in story.columns.items():
            columns[name].append(None if index is None else cells[index])

    points = [story.times[index] for index in keep]
    steps = [b - a for a, b in pairwise(points)]
    for place, index in enumerate(keep):
        put(story.times[index], index)
        is_last = place == len(keep) - 1
        step = story.until - story.times[index] if is_last else steps[place]
        near = steps[max(0, place - _NEAR) : place + _NEAR + 1]
        usual = max(interval_s, statistics.median(near) if near else 0.0)
        is_told = all(cells[index] is None for cells in story.columns.values())
        if not is_told and step > _longest(usual, interval_s, story.width):
            put(story.times[index] + (story.width or usual), None)
    return story._replace(times=times, columns=columns)


def _kept(story: Story) -> list[int]:
    """The points that say something; of points without any value, the first one in a row."""
    found: list[int] = []
    was_empty = True
    for index in range(len(story.times)):
        is_empty = all(cells[index] is None for cells in story.columns.values())
        if not (is_empty and was_empty):
            found.append(index)
        was_empty = is_empty
    return found


def _longest(usual_s: float, interval_s: float, width: int) -> float:
    """The longest step between two points that is no gap."""
    if usual_s <= width:
        return max(1.5 * width, width + GAP * interval_s)
    return width + GAP * usual_s


def _rows(story: Story, field: str) -> Iterator[dict[str, Any]]:
    """What is shown, point by point: the mean under a field's own name."""
    stamp = _stamps(story)
    for index, at in enumerate(story.times):
        cells = {name: column[index] for name, column in story.columns.items()}
        row: dict[str, Any] = {"at": round(at, 3), "time": stamp(at)}
        if story.width:
            row["readings"] = max((cell[0] for cell in cells.values() if cell), default=0)
        for name, cell in cells.items():
            if not story.width:
                row[name] = cell[1] if cell else None
            elif field:
                row |= dict(zip(("min", "mean", "max"), _three(cell), strict=True))
            else:
                low, middle, high = _three(cell)
                row |= {name: middle, f"{name}.min": low, f"{name}.max": high}
        yield row


def _three(cell: Cell | None) -> tuple[float | None, float | None, float | None]:
    return (cell[1], round(mean(cell), 6), cell[3]) if cell else (None, None, None)


def _stamps(story: Story) -> Any:
    """How times are written: local, to the second; with the offset where that changes on the way."""
    ends = (story.since, story.until)
    offsets = {_offset(at, story.zone) for at in ends} | {
        _offset(at, story.zone) for at in story.times[:: max(1, len(story.times) // 100)]
    }
    is_short = len(offsets) == 1

    def stamp(at: float) -> str:
        when = datetime.fromtimestamp(at, story.zone).replace(microsecond=0)
        return (when.replace(tzinfo=None) if is_short else when).isoformat(" ")

    return stamp


def _offset(at: float, zone: ZoneInfo) -> int:
    """Seconds that local time is ahead of UTC."""
    ahead = datetime.fromtimestamp(at, zone).utcoffset()
    return int(ahead.total_seconds()) if ahead is not None else 0


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    import csv
    import io

    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip("\n")
