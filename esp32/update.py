"""Another release over the air: staged in the other slot, verified, and put on trial by a restart.

The release that runs, and what chooses between the two, are never written to: whenever the power goes,
the board boots. All that is staged is found by its SHA-256 again, so whoever was interrupted begins
anew and sends only what is missing. Loaded when it is asked for.

A manifest is text: a line `espnet-manifest 1 VERSION`, then a line `SHA256 SIZE NAME` for each file, sorted
by name. Here never more than one of its lines is in memory.
"""

# ruff: noqa: B904 - MicroPython cannot chain exceptions, and prints that at every attempt

import asyncio
import binascii
import hashlib
import os

import boots
import fields
import flash
from http1 import Refusal
from micropython import const

_STAGED = "staged"  # the name of a manifest whose files may be missing
_MANIFEST_MAX = const(4096)
_FILES_MAX = const(60)
_SPARE_BLOCKS = const(8)  # for folders, and for what the board itself writes meanwhile
_NAME_BYTES = b"abcdefghijklmnopqrstuvwxyz0123456789_."

_buffer = memoryview(bytearray(512))


def state(board_id, uptime_s):
    """The answer of GET /update."""
    block, free = _room()
    return {
        "id": board_id,
        "version": _head(boots.slot, "manifest"),
        "build": boots.build,
        "slot": boots.slot,
        "trial_s": max(0, boots.minutes * 60 - uptime_s) if boots.trial else None,
        "minutes": boots.minutes,
        "undone": boots.record().get("undone"),
        "free": free + sum([_blocks(size, block) * block for _, size in _files(boots.other())]),
        "block": block,
        "staged": _build_staged(boots.other()) or None,
        "boots": boots.count,
        "safe_mode": boots.safe,
    }


async def put(board_id, request):
    """The answer of PUT /update: to a manifest or, where the query names a file, to a piece of it."""
    if boots.trial or boots.restarting:
        raise Refusal(409, "a release is on trial; confirm or undo it first")
    index = fields.query(request.query, "file")
    at = fields.query(request.query, "at")
    async with boots.updating:
        try:
            if index is None:
                return await _stage(board_id, request.body)
            return await _add(board_id, _whole(index, "file"), _whole(at, "at"), request.body)
        except OSError as error:
            raise Refusal(503, f"the flash refused: {error}")


async def act(board_id, body):
    """The answer of POST /update."""
    do = fields.word(body, "do", ("switch", "confirm", "undo"), "")
    async with boots.updating:
        try:
            if do == "switch":
                minutes = fields.whole(body, "minutes", 1, 60) if "minutes" in body else 10
                await _switch(_build(body), minutes)
            elif do == "confirm":
                _confirm(_build(body))
            else:
                _undo(fields.text(body, "why", 100) if "why" in body else "somebody undid it")
        except OSError as error:
            raise Refusal(503, f"the flash refused: {error}")
    return {"id": board_id, "status": "OK", "build": boots.build}


def _whole(text, name):
    return fields.whole({} if text is None else {name: text}, name, 0, 10**6)


def _build(body):
    build = body.get("build")
    if not isinstance(build, str) or len(build) != 12:
        raise Refusal(400, "build must be the 12 digits of a release", "build")
    return build


# What lies where


def _room():
    """(bytes in a block, bytes free) of the flash."""
    room = os.statvfs("/")
    return room[0], room[0] * room[3]


def _blocks(size, block):
    return (size + block - 1) // block


def _files(slot):
    """(name, size) of each file in a slot."""
    try:
        entries = os.listdir(slot)
    except OSError:
        return
    for name in entries:
        yield name, os.stat(f"{slot}/{name}")[6]


def _head(slot, name):
    """The version in a manifest's first line, "" without one."""
    try:
        with open(f"{slot}/{name}", "rb") as file:
            return file.readline().decode().strip().rpartition(" ")[2]
    except (OSError, UnicodeError):
        return ""


def _build_staged(slot):
    """The build whose manifest is staged, "" without one."""
    try:
        with open(f"{slot}/{_STAGED}", "rb") as file:
            digest = hashlib.sha256()
            while True:
                size = file.readinto(_buffer)
                if not size:
                    return binascii.hexlify(digest.digest()).decode()[:12]
                digest.update(_buffer[:size])
    except OSError:
        return ""


def _entries(path):
    """(SHA-256 in hex, size, name) of each file in a manifest, one line in memory at a time."""
    with open(path, "rb") as file:
        file.readline()
        while True:
            line = file.readline()
            if not line:
                return
            if line[-1:] != b"\n":
                raise ValueError
            digest, size, name = line[:-1].split(b" ")
            yield digest, int(size), name.decode()


async def _digest(path):
    """The SHA-256 of a file in hex; other tasks run meanwhile. Nothing for a file that is not there."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while True:
                size = file.readinto(_buffer)
                if not size:
                    return binascii.hexlify(digest.digest())
                digest.update(_buffer[:size])
                await asyncio.sleep_ms(0)
    except OSError:
        return b""


async def _is_right(slot, entry):
    digest, size, name = entry
    try:
        return os.stat(f"{slot}/{name}")[6] == size and await _digest(f"{slot}/{name}") == digest
    except OSError:
        return False


# Staging


async def _stage(board_id, pieces):
    """Begin, or go on with, the release that a manifest describes; says which files are missing."""
    slot = boots.other()
    if slot not in os.listdir():
        os.mkdir(slot)
    new = f"{slot}/{_STAGED}.new"
    size = 0
    with open(new, "wb") as file:
        while pieces:
            size += file.write(pieces.pop(0))  # its memory is free then
    try:
        if size > _MANIFEST_MAX:
            raise Refusal(413, f"a manifest may have {_MANIFEST_MAX} bytes at most")
        _check(new)
        await _check_room(new)
        _forget_previous()
    except Exception:
        os.remove(new)
        raise
    _remove(slot + "/manifest")
    os.rename(new, f"{slot}/{_STAGED}")
    for name in os.listdir(slot):
        if name != _STAGED and not any(name == entry[2] for entry in _entries(f"{slot}/{_STAGED}")):
            os.remove(f"{slot}/{name}")
    missing = []
    for index, entry in enumerate(_entries(f"{slot}/{_STAGED}")):
        if await _is_right(slot, entry):
            continue
        _remove(f"{slot}/{entry[2]}")
        if await _is_right(boots.slot, entry):
            await _copy(f"{boots.slot}/{entry[2]}", f"{slot}/{entry[2]}")
        else:
            missing.append(index)
    return {"id": board_id, "build": _build_staged(slot), "missing": missing}


def _forget_previous():
    """The release before is about to be overwritten: the switch must not fall back to it. And whatever
    became of it is no longer what became of the last one.
    """
    known = boots.record()
    if known.get("previous") or known.get("undone"):
        known["previous"] = known["undone"] = None
        flash.save(boots.FILE, known)


def _check(path):
    """Refuse what is no manifest."""
    last = ""
    count = has_app = 0
    try:
        with open(path, "rb") as file:
            if file.readline().split(b" ")[:2] != [b"espnet-manifest", b"1"]:
                raise ValueError
        for digest, size, name in _entries(path):
            if (
                len(digest) != 64
                or digest.strip(b"0123456789abcdef")
                or not 0 <= size <= 10**6
                or not 3 <= len(name) <= 32
                or name.encode().strip(_NAME_BYTES)
                or name[:1] == "."
                or "." not in name
                or name <= last  # they are sorted, so that nobody comes twice
                or count == _FILES_MAX
            ):
                raise ValueError
            last = name
            count += 1
            has_app += name in ("app.mpy", "app.py")
    except (ValueError, UnicodeError):
        has_app = 0
    if not has_app:
        raise Refusal(422, "the body is no manifest of a release for boards")


async def _check_room(path):
    """Refuse a release that does not fit beside the one that runs."""
    block, free = _room()
    kept = 0
    for entry in _entries(path):
        if await _is_right(boots.other(), entry):
            kept += _blocks(entry[1], block)
    there = 0
    for name, size in _files(boots.other()):
        if f"{boots.other()}/{name}" != path:
            there += _blocks(size, block)
    free += (there - kept) * block
    needed = _SPARE_BLOCKS - kept
    for _, size, _ in _entries(path):
        needed += _blocks(size, block)
    needed *= block
    if needed > free:
        error = f"the flash is too small for two releases: {needed} bytes needed, {free} free"
        raise Refusal(507, error, None, "", {"needed": needed, "free": free})


def _remove(path):
    try:
        os.remove(path)
    except OSError:
        pass  # it was not there


async def _copy(source, target):
    with open(source, "rb") as old, open(target, "wb") as new:
        while True:
            size = old.readinto(_buffer)
            if not size:
                return
            new.write(_buffer[:size])
            await asyncio.sleep_ms(0)


def _staged(path, index):
    """The entry with this number in a manifest."""
    try:
        for entry in _entries(path):
            if index == 0:
                return entry
            index -= 1
    except OSError:
        pass
    raise Refusal(409, "no release with such a file is staged; put its manifest first", "file")


async def _add(board_id, index, at, pieces):
    """Add a piece to a file; when that is whole, its SHA-256 must be right."""
    slot = boots.other()
    digest, whole, name = _staged(f"{slot}/{_STAGED}", index)
    path = f"{slot}/{name}"
    there = 0
    if at:
        try:
            there = os.stat(path)[6]
        except OSError:
            pass
    if at != there:
        raise Refusal(409, f"the file has {there} bytes so far", "at", "", {"at": there})
    size = at + sum([len(piece) for piece in pieces])
    if size > whole:
        raise Refusal(422, f"the file has {whole} bytes in all", "at")
    with open(path, "ab" if at else "wb") as file:
        for piece in pieces:
            file.write(piece)
    if size == whole and await _digest(path) != digest:
        os.remove(path)
        raise Refusal(422, "the file is not what the manifest says; put it anew", "file")
    return {"id": board_id, "file": index, "at": size}


# What is done with it


async def _switch(build, minutes):
    """Put what is staged on trial, when every byte of it is right."""
    if boots.restarting or (boots.trial and boots.build == build):
        return  # the answer was lost
    slot = boots.other()
    if boots.trial or _build_staged(slot) != build:
        raise Refusal(409, "this release is not staged", "build")
    for entry in _entries(f"{slot}/{_STAGED}"):
        if not await _is_right(slot, entry):
            raise Refusal(
                409, f"{entry[2]} is missing, or not right; put the manifest again", "build"
            )
    wanted = {"build": build, "version": _head(slot, _STAGED)}
    os.rename(f"{slot}/{_STAGED}", f"{slot}/manifest")
    known = boots.record()
    known.update(
        {"slot": boots.slot, "trial": slot, "tries": 0, "minutes": minutes, "wanted": wanted}
    )
    known["undone"] = None
    known["why"] = ""
    flash.save(boots.FILE, known)
    boots.restart()


def _confirm(build):
    """The release that runs has proved itself."""
    if build != boots.build:
        raise Refusal(409, f"release {boots.build} runs", "build")
    if boots.restarting:
        raise Refusal(409, "it is too late: the board restarts", "build")
    if boots.trial:
        known = boots.record()
        known.update({"slot": boots.slot, "previous": boots.other(), "trial": None, "wanted": None})
        known.update({"tries": 0, "short": 0, "undone": None, "why": ""})
        flash.save(boots.FILE, known)
        boots.trial = False
        if boots.timer:
            boots.timer.deinit()


def _undo(why):
    """End the trial; without one, throw away what is staged."""
    if boots.trial:
        boots.undo(why)
    else:
        _remove(f"{boots.other()}/{_STAGED}")
