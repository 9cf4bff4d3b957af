"""Whose board it is: claims a fresh one, proves that a password is right, changes it.

Invariants: a password is in Redis before a board is told of it, and the one before it stays until the new
one has proved itself; so a command that ends in the middle, however it ends, locks nobody out. A board is
claimed, and its password changed, under its lock.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from espnet.board import calls, client
from espnet.board.calls import GET_BASIC, Call, parse_status
from espnet.board.digest import Login
from espnet.cli.session import Session
from espnet.credential import Password, new_password, problem_with_password
from espnet.errors import BoardError, CredentialClosed, EspNetError, UsageError
from espnet.model import Device, Reading, Status, phase
from espnet.store import Grant

#: How a board is opened whose password nobody knows.
BY_CABLE = "mpremote fs rm :claim.json + reset"


class Seen(msgspec.Struct, frozen=True):
    """A board's answer, byte for byte and as a record, how long it took, in seconds, and when it came."""

    body: bytes
    status: Status
    poll_s: float
    at: float


class How(NamedTuple):
    """How a board is claimed: whether reading takes the password, too; whether a person says that it was made
    open over USB; and the password that he typed."""

    private: bool = False
    again: bool = False
    typed: Password | None = None


@contextmanager
def _about(how: How) -> Iterator[None]:
    """Says of a password that a person typed that it is that one which is wrong."""
    try:
        yield
    except BoardError as error:
        if how.typed is None or error.kind != "denied" or error.status != 401:
            raise
        what = (
            f"does not take the password that you gave; a USB cable opens the board (`{BY_CABLE}`)"
        )
        raise BoardError(error.address, "denied", what, 401) from error


def typed_password() -> Password:
    """A password from the terminal, or from standard input: its first line."""
    text = ""
    try:
        if sys.stdin is None:
            pass  # closed by the caller: `espcli … <&-`
        elif sys.stdin.isatty():
            import getpass

            text = getpass.getpass("The board's password: ")
        else:
            text = sys.stdin.readline().rstrip("\r\n")
        text.encode()
    except UnicodeError:
        raise UsageError("What was given as the password is not UTF-8 text.") from None
    except EOFError:
        pass
    if not text:
        raise UsageError("No password was given; type it, or write it to standard input.")
    return Password(text)


def register(
    session: Session,
    address: str,
    name: str,
    tags: tuple[str, ...],
    how: How,
    *,
    replace: bool,
    leave_open: bool,
    board_id: str | None = None,
    seen: Seen | None = None,
) -> tuple[Device, Status]:
    """Calls the board at an address, claims it if it is fresh, and stores it with what it said.

    A board that is registered without a password stays as it is, unless ``how`` asks for something. It has to
    be board ``board_id``, where that is given. Who has looked (`look`) gives what was ``seen``: the board is
    asked again, under its lock, before it is told a password, and where that was more than an interval ago.
    Returns the record as stored, and the board's answer. Raises `BoardError`, which says what to do where the
    board belongs to somebody else, and `RegistryConflict` as `Store.add` does, before anything has been
    changed.
    """
    store, now = session.store, session.now

    def device_of(board_id: str) -> Device:
        return Device(id=board_id, name=name, address=address, tags=tags, registered_at=now)

    def find(board_id: str) -> tuple[Password, ...]:
        # Whoever answers may say that it is any board: no password for one that is registered elsewhere.
        store.check(device_of(board_id), replace=replace)
        return _known(session, board_id, how)

    login, given = Login(board_id, find), seen
    if seen is None:
        with _about(how):
            seen = _read(session, address, GET_BASIC, login, board_id)
    status = seen.status
    if login.board_id not in (None, status.id):
        what = f"asks for the password of board {login.board_id}, and says that it is {status.id}"
        raise BoardError(address, "wrong_id", what)
    device = device_of(status.id)
    before = store.check(device, replace=replace)
    is_wanted = how != How()
    has_password = False
    if leave_open:
        # It may be claimed by others, and be read by us; with our password it can be controlled, too.
        has_password = bool(status.claimed and _known(session, status.id, how))
    elif status.claimed is None:
        _refuse_if_known(session, address, status.id, "knows no passwords")
        if is_wanted:
            raise UsageError(f"The board at {address} knows no passwords: its firmware is too old.")
    else:
        was_open = before is not None and not before.credential
        has_password = is_wanted or not was_open or status.claimed
    if has_password:
        seen = claim(session, device, how)
    elif given is not None and session.now - given.at > session.config.interval_s:
        # Somebody may have claimed it since, or another board have its address.
        return register(
            session,
            address,
            name,
            tags,
            how,
            replace=replace,
            leave_open=leave_open,
            board_id=status.id,
        )
    reading = Reading(
        at=seen.at,
        poll_s=seen.poll_s,
        interval_s=session.config.interval_s,
        collector=session.holder,
        status=msgspec.Raw(seen.body),
    )
    first_due = session.now + phase(device.id) * session.config.interval_s
    stored = store.add(
        device, reading, first_due=first_due, replace=replace, has_password=has_password
    )
    return stored, seen.status


def account(device: Device, status: Status) -> str:
    """What a person should know about who may control a board that was just registered."""
    if status.claimed is None:
        return "It is open: its firmware knows no passwords, so everybody on its network can switch its pins."
    if not status.claimed:
        return (
            "It is open: everybody on its network can switch its pins; `espcli device "
            f"{device.name} credentials claim` changes that."
        )
    if not device.credential:
        return "It is claimed, and EspNet has no password for it: it can be read, not controlled."
    return (
        "It is claimed: control takes its password, which `espcli device "
        f"{device.name} credentials show` shows."
    )


def claim(session: Session, device: Device, how: How) -> Seen:
    """Claims the device's board if it is open, and proves the password in any case; under its lock.

    Returns what the board says then. Raises `BoardError`, `CredentialClosed`, `DeviceBusy`.
    """
    store, address, ttl_s = session.store, device.address, _ttl_s(session)
    with _about(how), store.hold(device, session.holder, ttl_s=ttl_s, wait_s=ttl_s) as grant:
        known = _known(session, device.id, how)
        login = Login(device.id, lambda _: known)
        status = _read(session, address, GET_BASIC, login, device.id).status
        if status.claimed is None:
            raise BoardError(address, "bad_answer", "knows no passwords: its firmware is too old")
        if not status.claimed:
            if not how.again:
                _refuse_if_known(session, address, device.id, "is open")
            problem = problem_with_password(how.typed.reveal()) if how.typed else None
            if problem:
                raise UsageError(f"A board's password {problem}; choose another one.")
            # A new one even where one is known: it goes in clear to whatever answers at this address.
            password = how.typed or new_password()
            store.add_password(device.id, password)
            _send(session, address, calls.claim(password.ha1(device.id), how.private), None)
            login = Login(device.id, lambda _: (password,))
        elif how.private and not status.private:
            raise UsageError(
                f"The board at {address} is claimed already; `espcli device NAME credentials rotate "
                "--private yes` closes it to readers."
            )
        return _prove(session, device, login, grant)


def rotate(session: Session, name: str, *, private: bool | None) -> Device:
    """Gives a board another password; ``private`` None leaves who may read.

    Raises `BoardError`; the sentence says which password the board has now.
    """
    store, ttl_s = session.store, _ttl_s(session)
    with store.hold(store.device(name), session.holder, ttl_s=ttl_s, wait_s=ttl_s) as grant:
        device = store.device(name)  # while we waited it may have been given another address
        known = _known(session, device.id)
        login = Login(device.id, lambda _: known)
        seen = _read(session, device.address, GET_BASIC, login, device.id)
        if not seen.status.claimed:
            raise EspNetError(
                f"{name} is open: it has no password; `espcli device {name} credentials claim` gives it one."
            )
        _prove(session, device, login, grant)
        new = new_password()
        store.add_password(device.id, new)
        is_private = bool(seen.status.private) if private is None else private
        order = calls.reclaim(login.coming(), new.ha1(device.id), is_private)
        try:
            _send(session, device.address, order, login)
        except BoardError as error:
            if error.status is not None:
                raise
            # It may have been done, and only the answer was lost.
        old, proof = login.password, Login(device.id, lambda _: (new, *known))
        try:
            _prove(session, device, proof, grant)
        except BoardError as error:
            raise BoardError(
                device.address,
                error.kind,
                f"{error.what}; it is not known whether it took its new password: both are kept, so repeat "
                "the command when it answers",
                error.status,
            ) from error
        if proof.password == old:
            what = "still has the password that it had: try again"
            raise BoardError(device.address, "closed", what)
    return device


def send(session: Session, device: Device, call: Call) -> bytes:
    """A call for a person, with the board's password where there is one; raises `BoardError`.

    A board that has a password proves itself first, by refusing an order that says nothing: whatever else
    may answer at its address is told nothing more.
    """
    if not device.credential:
        return _send(session, device.address, call, None)
    login = Login(device.id, lambda board_id: _known(session, board_id))
    try:
        _send(session, device.address, Call("POST", "/gpio"), login)
    except BoardError as error:
        if error.status != 400:
            raise
    _require_proof(device, login)
    body = _send(session, device.address, call, login)
    if call.method == "POST" or call == calls.GET_SETTINGS:  # what everybody may read is not proved
        _require_proof(device, login)
    calls.require_done(device.address, body)
    return body


def _require_proof(device: Device, login: Login) -> None:
    if login.password is None or not login.is_proved:
        raise BoardError(device.address, "unproved", calls.UNPROVED)


def _known(session: Session, board_id: str, how: How = How()) -> tuple[Password, ...]:  # noqa: B008
    """The password that was typed, or those that are kept for the board; raises `CredentialClosed`."""
    if how.typed is not None:
        return (how.typed,)
    credential = session.store.credential(board_id)
    if credential.problem:
        raise CredentialClosed(board_id, credential.problem)
    return credential.passwords


def _refuse_if_known(session: Session, address: str, board_id: str, what: str) -> None:
    """Whatever answers here says that it is a board which has a password of ours, and acts as if it had
    none: a new one would go to it in clear, and jobs would believe it."""
    credential = session.store.credential(board_id)
    if credential.problem or credential.is_proved:
        raise BoardError(
            address,
            "unclaimed",
            f"{what}, though EspNet gave board {board_id} a password: if you made it open over USB, say so "
            "(--again; --open leaves it open); else something else answers there",
        )


def _prove(session: Session, device: Device, login: Login, grant: Grant) -> Seen:
    """Reads the board with the right to control it, as a poll does under this lock; from then on that
    password is the one that is tried first.

    The board must prove that it knows it, too: an impostor would take any.
    """
    seen = _read(session, device.address, calls.renew_leases(grant.fence), login, device.id)
    _require_proof(device, login)
    assert login.password is not None
    session.store.prefer_password(device.id, login.password)
    session.store.wake([device.id], session.now)  # jobs act on what is true now
    return seen


def look(session: Session, address: str) -> Seen:
    """What a board says to everybody; raises `BoardError`."""
    return _read(session, address, GET_BASIC, None, None)


def _read(
    session: Session, address: str, call: Call, login: Login | None, board_id: str | None
) -> Seen:
    began = session.clock.monotonic()
    body = _send(session, address, call, login)
    status = parse_status(address, body, board_id)
    return Seen(body, status, session.clock.monotonic() - began, session.now)


def _send(session: Session, address: str, call: Call, login: Login | None) -> bytes:
    try:
        return client.send(address, call, session.config.timeout_s, login)
    except BoardError as error:
        # 409: somebody else claimed it between our look at it and this.
        is_claimed = error.status == 409 and call.path == "/claim"
        if not is_claimed and (error.kind != "denied" or error.status == 429):
            raise
        raise BoardError(
            address,
            "denied",
            "is claimed, and EspNet does not have its password: `espcli register "
            f"{address} NAME --ask` takes it from you; if it is lost, a USB cable opens the board "
            f"(`{BY_CABLE}`), and `espcli register` claims it anew",
            error.status,
        ) from error


def _ttl_s(session: Session) -> float:
    """Longer than everything that is done under the lock here: four calls, and Redis between them."""
    return 4 * session.config.timeout_s + 20
