"""From data to what a person or a program sees. The one place that does.

Invariants: a command returns data; `--json` prints it whole, and only it, on stdout. Advice about what
to do next goes to stderr, so that it is in nobody's pipe. Boards choose some of the texts shown here:
no control character of theirs reaches the terminal.
"""

import functools
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from espnet.errors import EspNetError, UsageError

#: What a column is called in a table, where that is not its field's name.
_TITLES = {
    "age_s": "seen",
    "idle_s": "silent",
    "f": "board °F",
    "temp_c": "temp °C",
    "humidity": "humidity %",
}

#: Columns that may break over lines, and how wide they must be at least. Half an address is none.
_FOLDED = {"name": 16, "sensor": 16, "tags": 16, "problem": 24, "answer": 24}
#: Columns of space between two columns.
_GAP = 2


class Shown(NamedTuple):
    """Data for programs with a sentence for people."""

    data: Any
    text: str


class Lines(NamedTuple):
    """A mapping, shown as one `key: value` a line. ``hint`` says what to do next.

    ``shown`` is what people see instead where the data are deeper than a line.
    """

    data: Mapping[str, Any]
    hint: str = ""
    shown: Mapping[str, Any] | None = None


class Secret(NamedTuple):
    """Lines that only a person gets to see: not a part of ``--json``, whose readers keep what they read."""

    lines: Mapping[str, str]
    hint: str = ""


class Records(NamedTuple):
    """Rows of one shape: a table of ``columns`` for people. ``hint`` says what to do next.

    ``spare`` are the columns that a narrow terminal does without, the first one first.
    """

    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str]
    hint: str = ""
    spare: Sequence[str] = ()


class Line(NamedTuple):
    """A line for people; ``style`` is how a terminal that has colours shows it."""

    text: str
    style: str = ""


class Section(NamedTuple):
    """Lines about one thing, whose name stands to the left of the first."""

    title: str
    lines: Sequence[Line]


class Report(NamedTuple):
    """Data for programs, several parts for people, and what the command ends with."""

    data: Any
    parts: Sequence[Records | Section]
    code: int = 0


class Exit(NamedTuple):
    """Nothing to show: the command told its story itself, and ends with this code."""

    code: int


class Told(NamedTuple):
    """Records that come one by one while the command runs: ``run`` is given a function to say each.

    ``text`` is the key of the one value that people see; without it they see all.
    """

    run: Callable[[Callable[[Mapping[str, Any]], None]], None]
    text: str = ""


def show(answer: Any, *, as_json: bool) -> int:
    """Prints a command's answer; returns the exit code. Raises `EspNetError` where it cannot."""
    if isinstance(answer, Exit):
        return answer.code
    if isinstance(answer, Told):
        answer.run(functools.partial(_tell, as_json, answer.text))
        return 0
    if isinstance(answer, Secret):
        if as_json:
            raise UsageError("Passwords are not shown as JSON; leave out --json.")
        answer = Lines(answer.lines, answer.hint)
    with _writing():
        if as_json:
            print(json.dumps(_plain(answer), ensure_ascii=False))
        elif isinstance(answer, Records):
            if answer.rows:
                _print_table(answer)
        elif isinstance(answer, Lines):
            for key, value in (answer.data if answer.shown is None else answer.shown).items():
                print(f"{_printable(key)}: {_text(key, value)}")
        elif isinstance(answer, Shown):
            print(answer.text)
        elif isinstance(answer, Report):
            _print_parts(answer.parts)
        else:
            print(answer if isinstance(answer, str) else _text("", answer))
    if isinstance(answer, Records | Lines) and answer.hint:
        print(answer.hint, file=sys.stderr)
    return answer.code if isinstance(answer, Report) else 0


def _tell(as_json: bool, key: str, record: Mapping[str, Any]) -> None:
    with _writing():
        if key and not as_json:
            print(_printable(str(record[key])))
            return
        print(json.dumps(record) if as_json else "  ".join(f"{k} {v}" for k, v in record.items()))


@contextmanager
def _writing() -> Iterator[None]:
    """Everything is written when this ends: somebody may wait for it at the other end of a pipe."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EspNetError(f"The answer cannot be written: {error.strerror or error}.") from error


def _plain(answer: Any) -> Any:
    if isinstance(answer, Records):
        return [dict(row) for row in answer.rows]
    if isinstance(answer, Lines | Shown | Report):
        return answer.data
    return answer


def _print_table(records: Records) -> None:
    from rich.cells import cell_len

    columns = {
        column: [_title(column), *(_cell(column, row[column]) for row in records.rows)]
        for column in records.columns
    }
    widths = {column: max(map(cell_len, cells)) for column, cells in columns.items()}
    if sys.stdout.isatty():
        _print_fitting(columns, widths, records.spare)
        return
    # Into a pipe a table is as wide as it wants to be; nothing is folded or left out there.
    for row in zip(*columns.values(), strict=True):
        cells = zip(row, widths.values(), strict=True)
        print((" " * _GAP).join(c + " " * (width - cell_len(c)) for c, width in cells).rstrip())


def _print_fitting(
    columns: dict[str, list[str]], widths: dict[str, int], spare: Sequence[str]
) -> None:
    """Prints a table as wide as the terminal at most; what a cell says is never cut.

    Where there is no room, ``spare`` columns go, then titles break over lines, then the last columns
    go too, and that is said.
    """
    # These take 0.06 s to import, which a pipe does not wait for.
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    least = {column: min(width, _FOLDED.get(column, width)) for column, width in widths.items()}
    titles = {column: _title(column) for column in columns}

    def is_fitting() -> bool:
        return sum(least.values()) + _GAP * (len(least) - 1) <= console.width

    for column in spare:
        if is_fitting():
            break
        del columns[column], least[column]
    if not is_fitting():
        for column, (_, *cells) in columns.items():
            if column not in _FOLDED:
                titles[column] = _broken(titles[column], max(map(cell_len, cells)))
                least[column] = max(map(cell_len, [*titles[column].split("\n"), *cells]))
    left_out: list[str] = []
    while len(columns) > 2 and not is_fitting():
        left_out.insert(0, column := list(columns)[-1])
        del columns[column], least[column]
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(titles[column], no_wrap=column not in _FOLDED, overflow="fold")
    for row in list(zip(*columns.values(), strict=True))[1:]:
        table.add_row(*map(Text, row))
    with console.capture() as lines:  # rich has its own ideas of what to do about a closed pipe
        console.print(table)
    for line in lines.get().splitlines():
        print(line.rstrip())
    if left_out:
        names = ", ".join(map(_title, left_out))
        print(f"No room here for {names}; --json has everything.", file=sys.stderr)


def _broken(title: str, width: int) -> str:
    """A title in lines: broken after dots and spaces, as few times as ``width`` allows."""
    lines = [""]
    for piece in re.findall(r"[^. ]+[. ]?|[. ]", title):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _print_parts(parts: Sequence[Records | Section]) -> None:
    """One part after another; tables and lines without a title stand apart, sections form one block."""
    width = max((len(part.title) for part in parts if isinstance(part, Section)), default=0)
    for number, part in enumerate(parts):
        is_apart = isinstance(part, Records) or not part.title
        if number and (is_apart or isinstance(parts[number - 1], Records)):
            print()
        if isinstance(part, Records):
            _print_table(part)
        else:
            _print_section(part, width)


def _print_section(section: Section, width: int) -> None:
    width = width + _GAP if section.title else 0
    left, indent = f"{section.title:{width}}", " " * width
    if not sys.stdout.isatty():
        for number, line in enumerate(section.lines):
            print((indent if number else left) + _printable(line.text))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    with console.capture() as captured:
        for number, line in enumerate(section.lines):
            text = Text(_printable(line.text), style=line.style)
            # What goes on in the next line stands below its own beginning.
            hang = len(line.text) - len(line.text.lstrip(" →·✗"))
            room = max(console.width - len(indent) - hang, 16)
            for row, wrapped in enumerate(text[hang:].wrap(console, room)):
                title = left if not (number or row) else indent
                mark = text[:hang] if not row else Text(" " * hang)
                console.print(Text.assemble((title, "bold"), mark, wrapped), soft_wrap=True)
    for shown in captured.get().splitlines():
        print(shown.rstrip())


def _title(column: str) -> str:
    return _TITLES.get(column, column.replace("_", " "))


def _cell(column: str, value: Any) -> str:
    if column == "age_s" and value is not None:
        return f"{_span(value)} ago"
    if column == "idle_s":
        return _span(value)
    return _text(column, value)


def _text(key: str, value: Any) -> str:
    """A value as a person reads it."""
    if value is None or value == []:
        return "–"
    if key in ("last_seen", "registered_at", "kept_at"):
        return _when(value)
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return _printable(", ".join(map(str, value)))
    if isinstance(value, dict | list):
        return _printable(json.dumps(value, ensure_ascii=False))
    return _printable(str(value))


def _printable(text: str) -> str:
    """The text without what would move the cursor or colour the screen: `\\x1b` stands for ESC."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def _when(unix_s: float) -> str:
    """A point in time, local, to the second."""
    from datetime import datetime

    return datetime.fromtimestamp(unix_s).astimezone().isoformat(sep=" ", timespec="seconds")


def _span(length_s: float) -> str:
    """How long, in the largest unit that tells enough."""
    for unit, unit_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if length_s >= 2 * unit_s:
            return f"{length_s / unit_s:.0f} {unit}"
    return f"{max(length_s, 0):.0f} s"
