"""The calls that put a release of the firmware onto a board, and what it answers to them.

docs/board.md, "Updates over the air", is the contract.
"""

import msgspec

from espnet.board.calls import Call, decoded
from espnet.errors import BoardError

#: Most characters that a board takes of why a version is undone.
MAX_WHY = 100

_BYTES = "application/octet-stream"

GET_UPDATE = Call("GET", "/update")


class Undone(msgspec.Struct, frozen=True):
    """The latest version that a board went back from, and why."""

    build: str | None = None
    version: str | None = None
    why: str = ""


class Slots(msgspec.Struct, frozen=True, kw_only=True):
    """What a board says of its versions. ``trial_s`` is how long the running one has left to be confirmed,
    None where it is. ``free`` bytes of flash, in blocks of ``block``, are there for another one."""

    id: str
    version: str
    build: str
    boots: int
    trial_s: float | None = None
    undone: Undone | None = None
    free: int | None = None
    block: int = 4096
    staged: str | None = None
    safe_mode: bool = False


class _Missing(msgspec.Struct):
    build: str
    missing: list[int]


_slots_decoder = msgspec.json.Decoder(Slots)
_missing_decoder = msgspec.json.Decoder(_Missing)


def stage(manifest: bytes, fence: int) -> Call:
    """Begins to put a release beside the running one, or goes on with it; it may take the board long."""
    return Call("PUT", f"/update?fence={fence}", content=manifest, media=_BYTES)


def put_piece(index: int, at: int, piece: bytes, fence: int) -> Call:
    """The next bytes of the manifest's file number ``index``, which is ``at`` bytes long by now."""
    return Call("PUT", f"/update?file={index}&at={at}&fence={fence}", content=piece, media=_BYTES)


def switch(build: str, minutes: int, fence: int) -> Call:
    """Lets the board verify what is staged and restart into it, for so many minutes unless confirmed."""
    return _order("switch", build, fence, ("minutes", str(minutes)))


def confirm(build: str, fence: int) -> Call:
    """The version on trial is the board's version from now on."""
    return _order("confirm", build, fence)


def undo(build: str, why: str, fence: int) -> Call:
    """Ends a trial, or throws away what is staged."""
    plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in why)
    return _order("undo", build, fence, ("why", plain[:MAX_WHY]))


def _order(do: str, build: str, fence: int, *more: tuple[str, str]) -> Call:
    return Call("POST", "/update", (("do", do), ("build", build), *more, ("fence", str(fence))))


def parse_slots(address: str, body: bytes, board_id: str) -> Slots:
    """The answer to `GET_UPDATE`; a different board than ``board_id`` is a `BoardError`."""
    slots = decoded(_slots_decoder.decode, address, body)
    if slots.id != board_id:
        what = f"is another one: it has the id {slots.id!a}, expected was {board_id}"
        raise BoardError(address, "wrong_id", what)
    return slots


def parse_missing(address: str, body: bytes, files: int) -> list[int]:
    """The answer to `stage`: the files that the board has not yet, by their numbers among ``files``."""
    missing = decoded(_missing_decoder.decode, address, body).missing
    if not all(0 <= index < files for index in missing):
        raise BoardError(address, "bad_answer", "misses files that the release does not have")
    return missing
