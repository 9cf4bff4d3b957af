"""From data to what a person or a program sees. The one place that does.

Invariants: a command returns data; `--json` prints it whole, and only it, on stdout. Advice about what
to do next goes to stderr, so that it is in nobody's pipe.
"""

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Shown(NamedTuple):
    """Data for programs with a sentence for people."""

    data: Any
    text: str


class Lines(NamedTuple):
    """A mapping, shown as one `key: value` a line."""

    data: Mapping[str, Any]


class Records(NamedTuple):
    """Rows of one shape: a table of ``columns`` for people. ``hint`` says what to do next."""

    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str]
    hint: str = ""


class Exit(NamedTuple):
    """Nothing to show: the command told its story itself, and ends with this code."""

    code: int


class Told(NamedTuple):
    """Records that come one by one while the command runs: ``run`` is given a function to say each."""

    run: Callable[[Callable[[Mapping[str, Any]], None]], None]


def show(answer: Any, *, as_json: bool) -> int:
    """Prints a command's answer; returns the exit code."""
    if isinstance(answer, Exit):
        return answer.code
    if isinstance(answer, Told):
        answer.run(functools.partial(_tell, as_json))
    elif as_json:
        print(json.dumps(_plain(answer), ensure_ascii=False))
    elif isinstance(answer, Records):
        _table(answer)
    elif isinstance(answer, Lines):
        for key, value in answer.data.items():
            print(f"{key}: {_text(key, value)}")
    elif isinstance(answer, Shown):
        print(answer.text)
    elif answer is not None:
        print(answer)
    return 0


def _tell(as_json: bool, record: Mapping[str, Any]) -> None:
    line = json.dumps(record) if as_json else "  ".join(f"{k} {v}" for k, v in record.items())
    print(line, flush=True)  # somebody may wait for it at the other end of a pipe


def _plain(answer: Any) -> Any:
    if isinstance(answer, Records):
        return [dict(row) for row in answer.rows]
    if isinstance(answer, Lines | Shown):
        return answer.data
    return answer


def _table(records: Records) -> None:
    if records.rows:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in records.columns:
            table.add_column(column.replace("_", " "), overflow="fold")
        for row in records.rows:
            table.add_row(*(_cell(column, row.get(column)) for column in records.columns))
        # Into a pipe a table is as wide as it wants to be; nothing is cut off there.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 500)
        console.print(table, soft_wrap=not sys.stdout.isatty())
    if records.hint and (not records.rows or "collector" in records.hint):
        print(records.hint, file=sys.stderr)


def _cell(column: str, value: Any) -> str:
    from rich.markup import escape

    return escape(_text(column, value))


def _text(key: str, value: Any) -> str:
    """A value as a person reads it."""
    if value is None or value == []:
        return "–"
    if key in ("last_seen", "registered_at"):
        return _when(value)
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return ", ".join(map(str, value))
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _when(unix_s: float) -> str:
    """A point in time, local, to the second."""
    from datetime import datetime

    return datetime.fromtimestamp(unix_s).astimezone().isoformat(sep=" ", timespec="seconds")
