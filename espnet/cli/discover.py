"""`espcli discover`: which boards speak, and what is known of them.

Invariants: what a beacon says is shown, and nothing is believed of it: a board is registered only when it
answers at that address with that id, and is claimed as by `register`. What cannot be registered costs
nobody else.
"""

import asyncio
import ipaddress
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from espnet.board import client
from espnet.board.beacon import Beacon
from espnet.board.calls import GET_BASIC, parse_status
from espnet.board.listener import Listener
from espnet.cli import claiming
from espnet.cli.amounts import amount
from espnet.cli.describe import access
from espnet.cli.render import Line, Records, Report, Section
from espnet.cli.session import Session
from espnet.errors import BoardError, EspNetError, StoreUnavailable
from espnet.model import View
from espnet.names import split_address
from espnet.net.names import resolve

#: Most boards that are listed, and most addresses of one.
MAX_BOARDS, MAX_ADDRESSES = 10_000, 4
#: How many boards are asked at once who may control them.
ASKED_AT_ONCE = 16
#: How long a name server is waited for, in seconds.
RESOLVE_S = 1.0
#: Pause between two looks at what there is to tell, in seconds.
_TELL_S = 0.25

#: What was heard: a board's beacons by address, the latest last.
Heard = dict[str, dict[str, Beacon]]
Row = dict[str, Any]


#: Says how far it is, to whoever watches.
_Tell = Callable[[str], None]


def discover(session: Session, *, seconds: float, register: bool, tags: tuple[str, ...]) -> Report:
    """Listens so long, then says who spoke; with ``register``, registers those that nobody has registered.

    Raises `EspNetError` where nothing can be heard here.
    """
    views = {view.device.id: view for view in session.store.views()}
    heard: Heard = {}
    with progress() as tell:
        asyncio.run(_listen(session.config.beacons, heard, seconds, tell))
        rows = [_row(beacons, views.get(board_id)) for board_id, beacons in sorted(heard.items())]
        strange = [row for row in rows if row["registered_as"] is None]
        tell(f"asking {amount(len(strange), 'board')} …")
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            for row, (found, problem) in zip(
                strange, pool.map(lambda row: _access(session, row), strange), strict=True
            ):
                row["access"] = found
                row["problem"] = row["problem"] or problem
        failed = _register(session, strange, views, tags, tell) if register else 0
    new = len(strange) - failed if register else 0
    return _report(rows, seconds, register, failed, new)


async def _listen(address: str, heard: Heard, seconds: float, tell: _Tell) -> None:
    def note(beacon: Beacon) -> None:
        if beacon.id not in heard and len(heard) >= MAX_BOARDS:
            return
        beacons = heard.setdefault(beacon.id, {})
        beacons.pop(beacon.address, None)
        if len(beacons) < MAX_ADDRESSES:
            beacons[beacon.address] = beacon

    if not address:
        raise EspNetError(
            "ESPNET_BEACONS is off, so no board is heard; set it to where boards send, 0.0.0.0:8469."
        )
    listener = Listener(address, note)
    try:
        listener.open()
    except OSError as error:
        raise EspNetError(
            f"Boards cannot be listened for at {address} ({error.strerror or error}); "
            "ESPNET_BEACONS names another address."
        ) from error
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    try:
        while (left_s := end - loop.time()) > 0:
            tell(f"{amount(len(heard), 'board')} heard, {left_s:.0f} s to go")
            await asyncio.sleep(min(_TELL_S, left_s))
    finally:
        listener.close()


def _row(beacons: Mapping[str, Beacon], view: View | None) -> Row:
    *others, beacon = beacons.values()
    moved_from = None
    if view is not None and _is_at(view.device.address, beacon.address) is False:
        moved_from = view.device.address
    also = ", ".join(other.address for other in others)
    return {
        "name": beacon.name or None,
        "id": beacon.id,
        "address": beacon.address,
        "version": beacon.version or None,
        "registered_as": view.device.name if view is not None else None,
        "moved_from": moved_from,
        "access": access(view) if view is not None else None,
        "problem": f"is said to be at {also}, too: one of them is not it" if also else None,
    }


def _is_at(registered: str, heard: str) -> bool | None:
    """Whether a device's address is the one that was heard; None where no name server says so."""
    (host, port), (ip, heard_port) = split_address(registered), split_address(heard)
    if port != heard_port:
        return False
    try:
        return str(ipaddress.IPv4Address(host)) == ip
    except ValueError:
        pass  # a name, or IPv6
    try:
        found = resolve(host.strip("[]"), port or 80, socket.SOCK_STREAM, RESOLVE_S)
    except OSError:
        return None
    # A board may be registered by an address of IPv6; beacons have those of IPv4.
    known = {address[4][0] for address in found if address[0] == socket.AF_INET}
    return ip in known if known else None


def _access(session: Session, row: Row) -> tuple[str | None, str | None]:
    """Who may control a board that is not registered, as it says itself; or what is wrong."""
    try:
        body = client.send(row["address"], GET_BASIC, session.config.timeout_s)
        status = parse_status(row["address"], body, row["id"])
    except BoardError as error:
        if error.kind == "denied" and error.status == 401:
            return "private", None
        return None, error.what
    if not status.claimed:
        return "open", None
    return "private" if status.private else "claimed", None


def _register(
    session: Session,
    strange: Sequence[Row],
    views: Mapping[str, View],
    tags: tuple[str, ...],
    tell: _Tell,
) -> int:
    """Registers what can be; returns how many could not."""
    taken = {view.device.name for view in views.values()}
    failed = 0
    for number, row in enumerate(strange, 1):
        name = free_name(row, taken)
        taken.add(name)
        tell(f"registering {name}, {number} of {len(strange)} …")
        try:
            if row["problem"]:
                raise EspNetError(row["problem"])
            stored, status = claiming.register(
                session,
                row["address"],
                name,
                tags,
                claiming.How(),
                replace=False,
                leave_open=False,
                board_id=row["id"],
            )
        except StoreUnavailable:
            raise
        except EspNetError as error:
            failed += 1
            row["problem"] = str(error)
        else:
            row["registered_as"] = stored.name
            row["access"] = "open" if not status.claimed else "claimed"
            if status.private:
                row["access"] = "private"
    return failed


def free_name(row: Row, taken: set[str]) -> str:
    """A name that is free: the board's own, with the end of its id where another one has it."""
    own = row["name"] or "espnet"
    names = [own] if row["name"] else []
    names += [f"{own}-{row['id'][-6:]}", f"{own}-{row['id']}"]
    return next((name for name in names if name not in taken), row["id"])


def _report(rows: Sequence[Row], seconds: float, register: bool, failed: int, new: int) -> Report:
    parts: list[Records | Section] = []
    columns = (
        "name",
        "id",
        "address",
        "version",
        "registered_as",
        "moved_from",
        "access",
        "problem",
    )
    if rows:
        parts.append(Records(rows, columns, spare=("version", "moved_from", "name")))
    parts += [Section("", [Line(text)]) for text in _advice(rows, seconds, register, failed, new)]
    return Report(list(rows), parts, 1 if failed else 0)


def _advice(
    rows: Sequence[Row], seconds: float, register: bool, failed: int, new: int
) -> list[str]:
    if not rows:
        return [
            f"No board spoke within {seconds:g} s. Boards speak once a minute, to their own network only: "
            "is this machine in it, and does its firewall let UDP 8469 in? Boards with old firmware are "
            "silent: `espcli register ADDRESS NAME`."
        ]
    told = []
    if moved := [row for row in rows if row["moved_from"]]:
        name, address = moved[0]["registered_as"], moved[0]["address"]
        told.append(
            f"{name} says that it has moved: `espcli run` follows it when it no longer answers at its old "
            f"address, `espcli register {address} {name}` takes it where it is now."
        )
    strange = [row for row in rows if row["registered_as"] is None]
    if strange and not register:
        told.append(
            f"{amount(len(strange), 'board')} not registered: `espcli discover --register`, or "
            "`espcli register ADDRESS NAME`."
        )
    if new:
        told.append(f"{amount(new, 'board')} registered now: `espcli run` polls the fleet.")
    if failed:
        told.append(f"{amount(failed, 'board')} could not be registered.")
    return told


@contextmanager
def progress() -> Iterator[_Tell]:
    """Something that moves while there is nothing to show, on a terminal; it leaves nothing behind."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True, highlight=False).status("") as status:
        yield lambda text: status.update(text)
