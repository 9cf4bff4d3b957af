"""Whose board it is: claims a fresh one, proves that a password is right, changes it.

Invariants: a password is in Redis before a board is told of it, and the one before it stays until the new
one has proved itself; so a command that ends in the middle, however it ends, locks nobody out. A board is
claimed, and its password changed, under its lock.
"""

import sys

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
    """A board's answer, byte for byte and as a record, and how long it took, in seconds."""

    body: bytes
    status: Status
    poll_s: float


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
    *,
    replace: bool,
    leave_open: bool,
    private: bool,
    typed: Password | None,
) -> tuple[Device, Status]:
    """Calls the board at an address, claims it if it is fresh, and stores it with what it said.

    A board that is registered without a password stays as it is. Returns the record as stored, and the
    board's answer. Raises `BoardError`, which says what to do where the board belongs to somebody else, and
    `RegistryConflict` as `Store.add` does, before anything has been changed.
    """
    store = session.store
    login = Login(None, lambda board_id: _known(session, board_id, typed))
    seen = _read(session, address, GET_BASIC, login, None)
    status = seen.status
    if login.board_id not in (None, status.id):
        what = f"asks for the password of board {login.board_id}, and says that it is {status.id}"
        raise BoardError(address, "wrong_id", what)
    device = Device(id=status.id, name=name, address=address, tags=tags, registered_at=session.now)
    before = store.check(device, replace=replace)
    is_wanted = typed is not None or private
    stays_open = (
        before is not None and not before.credential and not status.claimed and not is_wanted
    )
    has_password = status.claimed is not None and not leave_open and not stays_open
    if has_password:
        seen = claim(session, device, private=private, typed=typed)
    elif is_wanted:
        raise UsageError(
            f"The board at {address} {'is to stay open' if leave_open else 'knows no passwords'}; leave out "
            f"{'--ask' if typed else '--private'}."
        )
    reading = Reading(
        at=session.now,
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


def claim(session: Session, device: Device, *, private: bool, typed: Password | None) -> Seen:
    """Claims the device's board if it is open, and proves the password in any case; under its lock.

    Returns what the board says then. Raises `BoardError`, `CredentialClosed`, `DeviceBusy`.
    """
    store, address, ttl_s = session.store, device.address, _ttl_s(session)
    with store.hold(device, session.holder, ttl_s=ttl_s, wait_s=ttl_s) as grant:
        known = _known(session, device.id, typed)
        login = Login(device.id, lambda _: known)
        status = _read(session, address, GET_BASIC, login, device.id).status
        if status.claimed is None:
            raise BoardError(address, "bad_answer", "knows no passwords: its firmware is too old")
        if not status.claimed:
            problem = problem_with_password(typed.reveal()) if typed else None
            if problem:
                raise UsageError(f"A board's password {problem}; choose another one.")
            # A new one even where one is known: it goes in clear to whatever answers at this address.
            password = typed or new_password()
            store.add_password(device.id, password)
            _send(session, address, calls.claim(password.ha1(device.id), private), None)
            login = Login(device.id, lambda _: (password,))
        elif private and not status.private:
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
        known = _known(session, device.id, None)
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
    """A call for a person, with the board's password where it asks for it; raises `BoardError`."""
    login = Login(device.id, lambda board_id: _known(session, board_id, None))
    return _send(session, device.address, call, login)


def _known(session: Session, board_id: str, typed: Password | None) -> tuple[Password, ...]:
    """The password that was typed, or those that are kept for the board; raises `CredentialClosed`."""
    if typed is not None:
        return (typed,)
    credential = session.store.credential(board_id)
    if credential.problem:
        raise CredentialClosed(board_id, credential.problem)
    return credential.passwords


def _prove(session: Session, device: Device, login: Login, grant: Grant) -> Seen:
    """Reads the board with the right to control it, as a poll does under this lock; from then on that
    password is the one that is tried first.

    The board must prove that it knows it, too: an impostor would take any.
    """
    seen = _read(session, device.address, calls.renew_leases(grant.fence), login, device.id)
    if login.password is None or not login.is_proved:
        what = "does not prove that it knows its password: is something else at its address?"
        raise BoardError(device.address, "wrong_id", what)
    session.store.prefer_password(device.id, login.password)
    return seen


def _read(session: Session, address: str, call: Call, login: Login, board_id: str | None) -> Seen:
    began = session.clock.monotonic()
    body = _send(session, address, call, login)
    status = parse_status(address, body, board_id)
    return Seen(body, status, session.clock.monotonic() - began)


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
