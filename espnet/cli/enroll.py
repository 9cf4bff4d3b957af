"""`espcli register_all`: many boards from a list, as `register` does one.

Invariants: the list is read, and every line of it checked, before the first board is called; a board that
cannot be registered costs nobody else; what is registered already, at that address, is left as it is, so the
command may be repeated until all are in.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from espnet.cli import claiming, parse
from espnet.cli.amounts import amount
from espnet.cli.claiming import Seen
from espnet.cli.describe import access
from espnet.cli.discover import ASKED_AT_ONCE, MAX_BOARDS, Row, free_name, progress
from espnet.cli.render import Line, Records, Report, Section
from espnet.cli.session import Session
from espnet.errors import BoardError, EspNetError, StoreUnavailable, UsageError
from espnet.model import Device
from espnet.store import Gathering, OneByOne

#: Largest list that is read, in characters.
MAX_LENGTH = 4_000_000
#: How many boards are registered at once.
REGISTERED_AT_ONCE = 128


class Entry(NamedTuple):
    """One line: an address, and what its device is to be called; None: what its id says."""

    address: str
    name: str | None = None


class _Wanted(NamedTuple):
    """A board that is to be registered, its name, and what it said (None: nothing, without its password)."""

    row: Row
    name: str
    seen: Seen | None


class _Told(msgspec.Struct):
    """A line of JSON, such as `espcli simulate --json` prints."""

    address: str
    name: str | None = None


def read(file: str) -> list[Entry]:
    """The boards that a file lists; raises `UsageError` with the line's number."""
    try:
        with Path(file).open(encoding="utf-8") as source:
            text = source.read(MAX_LENGTH + 1)
    except OSError as error:
        raise EspNetError(f"{file} cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no text in UTF-8.") from error
    if len(text) > MAX_LENGTH:
        raise UsageError(
            f"{file} has more than {MAX_LENGTH:,} characters; a line a board is enough."
        )
    entries = list(_entries(text))
    if not entries:
        raise UsageError(f"{file} lists no board; a line is ADDRESS, or ADDRESS NAME.")
    if len(entries) > MAX_BOARDS:
        raise UsageError(f"{file} lists more than {MAX_BOARDS:,} boards; divide it.")
    return entries


def _entries(text: str) -> Iterator[Entry]:
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            entry = _entry(line)
            for word in filter(None, entry):
                if word in seen:
                    raise UsageError(f"{parse.quoted(word)} is in line {seen[word]}, too.")
                seen[word] = number
        except UsageError as error:
            raise UsageError(f"Line {number}: {error}") from error
        yield entry


def _entry(line: str) -> Entry:
    if line.startswith("{"):
        try:
            told = msgspec.json.decode(line, type=_Told)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UsageError(f'it is no JSON object with an "address" ({error}).') from error
        address, name = told.address, told.name
    else:
        address, *rest = line.split()
        if len(rest) > 1:
            raise UsageError("a line is ADDRESS, or ADDRESS NAME.")
        name = rest[0] if rest else None
    return Entry(parse.address(address), None if name is None else parse.name(name))


def register_all(session: Session, entries: Sequence[Entry], tags: tuple[str, ...]) -> Report:
    """Registers and claims what is not registered yet; a row for each entry."""
    views = {view.device.id: view for view in session.store.views()}
    taken = {view.device.name for view in views.values()}
    taken |= {entry.name for entry in entries if entry.name}
    with progress() as tell:
        tell(f"asking {amount(len(entries), 'board')} …")
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            looks = list(pool.map(lambda entry: _look(session, entry), entries))
        rows = [row for row, _ in looks]
        wanted: list[_Wanted] = []
        for entry, (row, seen) in zip(entries, looks, strict=True):
            known = views.get(row["id"]) if row["id"] else None
            if known is not None and _is_in(known.device, entry):
                row["registered_as"], row["access"] = known.device.name, access(known)
            elif row["problem"] is None:
                name = entry.name or (known.device.name if known else free_name(row, taken))
                taken.add(name)
                wanted.append(_Wanted(row, name, seen))
        for number, _ in enumerate(_register_each(session, wanted, tags), 1):
            tell(f"registered {number} of {len(wanted)} …")
        new = sum(each.row["problem"] is None for each in wanted)
        failed = sum(row["problem"] is not None for row in rows)
    columns = ("address", "id", "registered_as", "access", "problem")
    parts: list[Records | Section] = [Records(rows, columns, spare=("id",))]
    told = []
    if new:
        told.append(f"{amount(new, 'board')} registered now: `espcli run` polls the fleet.")
    if failed:
        told.append(
            f"{amount(failed, 'board')} could not be registered: repeat the command when they answer; "
            "those that are in stay as they are."
        )
    parts += [Section("", [Line(text)]) for text in told]
    return Report(rows, parts, 1 if failed else 0)


def _is_in(device: Device, entry: Entry) -> bool:
    """Whether a device is registered just as the list has it."""
    return device.address == entry.address and entry.name in (None, device.name)


def _look(session: Session, entry: Entry) -> tuple[Row, Seen | None]:
    """Which board answers at an address, or what is wrong there; and what it said."""
    seen = None
    row: dict[str, Any] = {"name": entry.name, "id": None, "address": entry.address}
    row |= {"registered_as": None, "access": None, "problem": None}
    try:
        seen = claiming.look(session, entry.address)
        row["id"] = seen.status.id
    except BoardError as error:
        is_private = error.kind == "denied" and error.status == 401
        if not is_private:
            row["problem"] = error.what
        elif entry.name is None:
            row["problem"] = "does not say who it is without its password; name it in the list"
    return row, seen


def _register_each(
    session: Session, wanted: Sequence[_Wanted], tags: tuple[str, ...]
) -> Iterator[None]:
    """Registers boards under these names, and says so after each.

    Redis syncs its disk once a second, and no board gets a password before that: many wait for the same sync.
    """
    turn, gathering, own = OneByOne(), Gathering(), threading.local()
    sessions: list[Session] = []

    def begin() -> None:
        own.session = session.beside()
        own.session.store.turn, own.session.store.gathering = turn, gathering
        sessions.append(own.session)

    pool = ThreadPoolExecutor(REGISTERED_AT_ONCE, initializer=begin)
    try:
        yield from pool.map(lambda one: _register(own.session, one, tags), wanted)
    finally:
        pool.shutdown(cancel_futures=True)
        for each in sessions:
            each.store.close()


def _register(session: Session, wanted: _Wanted, tags: tuple[str, ...]) -> None:
    row = wanted.row
    try:
        stored, status = claiming.register(
            session,
            row["address"],
            wanted.name,
            tags,
            claiming.How(),
            replace=False,
            leave_open=False,
            board_id=row["id"],
            seen=wanted.seen,
        )
    except StoreUnavailable:
        raise
    except EspNetError as error:
        row["problem"] = str(error)
        return
    row["id"], row["registered_as"] = stored.id, stored.name
    row["access"] = "open" if not status.claimed else "private" if status.private else "claimed"
