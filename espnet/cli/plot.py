"""Pictures of the history: drawn in the terminal (plotext), or into a PNG (matplotlib).

Both are imported when they are needed. Time runs to the right, local; a line breaks where readings are
missing; with buckets the means are the line, minima and maxima its band.
"""

import math
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from espnet.blocks import Cell, mean
from espnet.errors import EspNetError, UsageError

if TYPE_CHECKING:
    from espnet.cli.history import Story

#: Smallest and largest size of a drawing in the terminal, in characters.
_WIDTHS, _HEIGHTS = (40, 200), (8, 20)
#: Distances between two marks on the time axis, in seconds.
_STEPS_S = (1, 5, 10, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200,
            86_400, 172_800, 604_800, 1_209_600, 2_592_000, 7_776_000)  # fmt: skip
#: Characters of a mark on the time axis, with space around it.
_MARK = 10
#: Points that are drawn at most: dots side by side in a character of the terminal, dots in a picture.
_DENSE, _PICTURE = 2, 800
#: The ends of fields' names and the units of their values.
_UNITS = (("temp", "°C"), ("humidity", "%"), ("seconds", "s"))

#: When, and what was there; None where nothing was.
Point = tuple[float, Cell | None]


def unit(field: str) -> str:
    """The unit of a field, in parentheses and with a space before it; "" where it has none."""
    if field == "f":
        return " (°F)"
    return next((f" ({what})" for end, what in _UNITS if field.endswith(end)), "")


def require_matplotlib(data_dir: Path) -> None:
    """Raises `EspNetError` unless matplotlib is there. What it keeps for itself goes to ``data_dir``."""
    os.environ.setdefault("MPLCONFIGDIR", str(data_dir / "matplotlib"))
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise EspNetError(
            "--png needs matplotlib, which is not installed: pip install matplotlib. "
            "--plot draws in the terminal without it."
        ) from error


# --- in the terminal ------------------------------------------------------------------------------


def drawn(story: "Story") -> str:
    """The story as text: one drawing a field, below each other."""
    size = shutil.get_terminal_size((100, 40))
    width = min(max(size.columns, _WIDTHS[0]), _WIDTHS[1])
    count = len(story.columns)
    # One drawing leaves room for the prompt; several share two screens.
    height = min(max((size.lines - 3) * min(count, 2) // count, _HEIGHTS[0]), _HEIGHTS[1])
    pictures = [_drawing(story, field, width, height) for field in story.columns]
    if any(_is_band(_thinned(story, field, width * _DENSE)) for field in story.columns):
        pictures.append("The line is the mean; dots are minimum and maximum.")
    return "\n".join(pictures)


def _drawing(story: "Story", field: str, width: int, height: int) -> str:
    import plotext

    cells = _thinned(story, field, width * _DENSE)
    low = min(cell[1] for _, cell in cells if cell)
    high = max(cell[3] for _, cell in cells if cell)
    marks = _marks(low, high, max(2, height // 4))
    labels = _labels(marks)
    plotext.terminal.limit(False, False)
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, height)
    figure.title(f"{story.name} {field}{unit(field)}")
    is_step = _is_switch(story, field)
    for run in _runs(cells):
        times = [at for at, _ in run]
        if any(cell[1] != cell[3] for _, cell in run):
            for end in (1, 3):
                figure.draw(figure.signal(times, [cell[end] for _, cell in run], marker="braille"))
        middle = [mean(cell) for _, cell in run]
        if is_step:
            times, middle = _stepped(times, middle)
        signal = figure.signal(times, middle, marker="braille" if len(run) > 1 else "dot")
        figure.draw(signal.lines())
    vertical, across = figure.ruler("y"), figure.ruler("x")
    low, high = min(low, marks[0]), max(high, marks[-1])
    vertical.lim(low - (high - low) * 0.05, high + (high - low) * 0.05)
    vertical.ticks(marks, labels)
    across.lim(story.since, story.until)
    across.ticks(*_time_marks(story, (width - 10) // _MARK))
    text: str = figure.build().string(not sys.stdout.isatty())
    figure.clear()
    return "\n".join(line.rstrip() for line in text.splitlines())


def _thinned(story: "Story", field: str, most: int) -> list[Point]:
    """The points of a field, or where there are too many, one for several: what they all were.

    Between two of those a gap is shown where it can be seen: where it is wider than one of them.
    """
    points = list(zip(story.times, story.columns[field], strict=True))
    if len(points) <= most:
        return points
    width = (story.until - story.since) / most
    found: list[Point] = []
    group: list[Cell] = []
    place, missing = 0, None
    for at, cell in [*points, (math.inf, None)]:
        if cell is None and at < math.inf:
            missing = at if missing is None else missing
            continue
        here = int((at - story.since) / width) if at < math.inf else place + 1
        if here != place and group:
            counts, lows, totals, highs = zip(*group, strict=True)
            whole = (sum(counts), min(lows), math.fsum(totals), max(highs))
            found.append((story.since + (place + 0.5) * width, whole))
            group = []
            if missing is not None and (here > place + 1 or at == math.inf):
                found.append((missing, None))
        place, missing = here, None
        if cell is not None:
            group.append(cell)
    return found


def _runs(points: list[Point]) -> Iterator[list[tuple[float, Cell]]]:
    """The points between two gaps."""
    run: list[tuple[float, Cell]] = []
    for at, cell in points:
        if cell is not None:
            run.append((at, cell))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _is_band(points: list[Point]) -> bool:
    """Whether points stand for several values each."""
    return any(cell is not None and cell[0] > 1 and cell[1] != cell[3] for _, cell in points)


def _stepped(times: list[float], values: list[float]) -> tuple[list[float], list[float]]:
    """A line that stays where it is until it changes."""
    where, what = times[:1], values[:1]
    for at, value in zip(times[1:], values[1:], strict=True):
        where += (at, at)
        what += (what[-1], value)
    return where, what


def _is_switch(story: "Story", field: str) -> bool:
    """Whether a field is only ever 0 or 1, as pins are."""
    return all(cell is None or {cell[1], cell[3]} <= {0, 1} for cell in story.columns[field])


def _marks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``, at least two; around them where nothing
    changes."""
    if {low, high} <= {0.0, 1.0}:
        return [0.0, 1.0]
    room = (high - low) / count or abs(low) / 10 or 1.0
    power = 10.0 ** math.floor(math.log10(room))
    steps = [step * power for step in (10, 5, 2.5, 2, 1, 0.5, 0.25, 0.2)]
    step = [step for step in steps if step >= room * 0.999][-1]
    # The widest that has two of its marks between the ends; a flat line has none.
    for finer in steps[steps.index(step) :]:
        marks = _multiples(finer, math.ceil(low / finer - 1e-9), math.floor(high / finer + 1e-9))
        if len(marks) > 1:
            return marks
    return _multiples(step, math.floor(low / step), math.floor(low / step) + 1)


def _multiples(step: float, first: int, last: int) -> list[float]:
    return [number * step for number in range(first, last + 1)]


def _labels(marks: list[float]) -> list[str]:
    step = marks[1] - marks[0]
    if not 1e-6 < step < 1e9:
        return [f"{mark:.6g}" for mark in marks]
    decimals = next(d for d in range(8) if abs(round(step, d) - step) < step * 1e-6 or d == 7)
    return [f"{mark:.{decimals}f}" for mark in marks]


def _time_marks(story: "Story", most: int) -> tuple[list[float], list[str]]:
    """Round local times and how they are written: the date where a day begins."""
    asked = (story.until - story.since) / max(1, most)
    step = next((s for s in _STEPS_S if s >= asked), _STEPS_S[-1])
    ahead = datetime.fromtimestamp(story.until, story.zone).utcoffset()
    offset = ahead.total_seconds() if ahead is not None else 0.0
    at = math.ceil((story.since + offset) / step) * step - offset
    places, labels = [], []
    while at <= story.until:
        when = datetime.fromtimestamp(at, story.zone)
        if step >= 86_400 or (when.hour == when.minute == when.second == 0):
            label = f"{when.day} {when:%b}"
        else:
            label = f"{when:%H:%M:%S}" if step < 60 else f"{when:%H:%M}"
        places.append(at)
        labels.append(label)
        at += step
    return places, labels


# --- into a file ----------------------------------------------------------------------------------


def write_png(story: "Story", file: str) -> None:
    """Draws the story into a PNG; raises `UsageError` where the file cannot be written."""
    import io

    out = io.BytesIO()
    with warnings.catch_warnings():
        # A name may hold characters that the font does not have: they are boxes then.
        warnings.simplefilter("ignore", UserWarning)
        _picture(story).savefig(out, format="png", dpi=120)
    try:
        Path(file).write_bytes(out.getvalue())
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"--png {file!r} cannot be written: {why}.") from error


def _picture(story: "Story") -> Any:
    import matplotlib.dates
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dates: Any = matplotlib.dates
    count = len(story.columns)
    figure = Figure(figsize=(10, 1.2 + 1.9 * max(count, 2)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(count, 1, sharex=True, squeeze=False)[:, 0]
    nothing = (0, math.nan, math.nan, math.nan)
    is_banded = False
    for axis, field in zip(axes, story.columns, strict=True):
        points = _thinned(story, field, _PICTURE)
        times = [datetime.fromtimestamp(at, story.zone) for at, _ in points]
        cells = [cell or nothing for _, cell in points]
        middle = [mean(cell) if cell[0] else math.nan for cell in cells]
        is_switch = _is_switch(story, field)
        style: Any = "steps-post" if is_switch else "default"
        axis.plot(times, middle, linewidth=1.2, color="C0", drawstyle=style)
        alone = [run[0] for run in _runs(points) if len(run) == 1]
        where = [datetime.fromtimestamp(at, story.zone) for at, _ in alone]
        axis.plot(where, [mean(cell) for _, cell in alone], "o", ms=2.5, color="C0")
        if _is_band(points):
            is_banded = True
            lows, highs = [cell[1] for cell in cells], [cell[3] for cell in cells]
            step: Any = "post" if is_switch else None
            axis.fill_between(times, lows, highs, alpha=0.25, linewidth=0, color="C0", step=step)
        if is_switch:
            axis.set_ylim(-0.15, 1.15)
            axis.set_yticks([0, 1])
        axis.set_title(f"{field}{unit(field)}", loc="left", fontsize=10, parse_math=False)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    locator = dates.AutoDateLocator(tz=story.zone)
    axes[-1].xaxis.set_major_locator(locator)
    axes[-1].xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=story.zone))
    axes[-1].set_xlim(
        *(datetime.fromtimestamp(at, story.zone) for at in (story.since, story.until))
    )
    told = " · line: mean, band: minimum to maximum" if is_banded else ""
    axes[-1].set_xlabel(f"{story.zone.key}{told}", fontsize=9, parse_math=False)
    figure.suptitle(story.name, fontsize=12, parse_math=False)
    return figure
