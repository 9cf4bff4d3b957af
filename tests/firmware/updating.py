"""How the firmware's tests make other releases, and bring them onto a board as a controller does."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from espnet import firmware
from espnet.firmware import PIECE_MAX, Release, read_manifest
from espnet.simulator.fleet import Board

from .firmware_client import FIRMWARE, Answer, ask, until

#: What makes a release another one without making it worse.
NEWER = {"version.py": [('VERSION = "', 'VERSION = "9.')]}

Changes = dict[str, list[tuple[str, str]]]


def release(folder: Path, changes: Changes | None = None) -> Release:
    """The release that the firmware makes with parts of its source replaced; ``folder`` is new."""
    shutil.copytree(FIRMWARE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, pairs in (changes or NEWER).items():
        text = (folder / name).read_text()
        for old, new in pairs:
            assert old in text, f"{name} has no {old!r} any more"
            text = text.replace(old, new)
        (folder / name).write_text(text)
    return firmware.build(folder)


def put_manifest(board: Board, made: Release) -> Answer:
    return ask(board, "PUT", "/update", made.manifest)


def pieces(made: Release, missing: list[int]) -> Iterator[tuple[str, bytes]]:
    """(target, body) of every call that brings the missing files."""
    entries = read_manifest(made.manifest)[1]
    for index in missing:
        data = made.files[entries[index].name]
        for at in range(0, max(len(data), 1), PIECE_MAX):
            yield f"/update?file={index}&at={at}", data[at : at + PIECE_MAX]


def stage(board: Board, made: Release, before: Callable[[], object] = lambda: None) -> int:
    """Brings a whole release; returns how many pieces it took. ``before`` is called before each call."""
    before()
    answer = put_manifest(board, made)
    assert answer.status == 200, answer
    sent = 0
    for target, body in pieces(made, answer.json["missing"]):
        before()
        answer = ask(board, "PUT", target, body)
        assert answer.status == 200, answer
        sent += 1
    return sent


def act(board: Board, do: str, made: Release | None = None, **more: Any) -> Answer:
    build = {"build": made.build} if made else {}
    return ask(board, "POST", "/update", {"do": do, **build, **more})


def switch(board: Board, made: Release, **more: Any) -> None:
    """Puts a staged release on trial, and waits until it runs."""
    boots = board.boots
    assert act(board, "switch", made, **more).status == 200
    until(lambda: board.boots > boots and board.phase == "ready")


def state(board: Board) -> dict[str, Any]:
    found: dict[str, Any] = ask(board, "GET", "/update").json
    return found


def record(board: Board) -> dict[str, Any]:
    """The switch's record, as it lies on flash."""
    found: dict[str, Any] = json.loads((board.flash / "boot.json").read_text())
    return found
