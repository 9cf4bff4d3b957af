"""Power cuts and a full flash at every single operation on the flash: nothing of it loses the board."""

import contextlib
import hashlib
import http.client
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest

from espnet import firmware
from espnet.firmware import Release, read_manifest
from espnet.simulator import Fleet
from espnet.simulator.fleet import Board

from .digest_client import PASSWORD, Person, ha1_of
from .firmware_client import FIRMWARE, ask, until
from .flash_faults import HEAP, faulty_firmware, is_over, operations, plan, restore
from .networking import GARDEN, HOME, on_flash
from .updating import act, release, stage, state, switch

OWN = firmware.build(FIRMWARE)
OLD_SETTINGS = {"hostname": "old", "wifi": [HOME]}
NEW_SETTINGS = {"hostname": "new", "wifi": [HOME, GARDEN]}
#: What a board that loses its power, or has no room, makes of a call.
TROUBLE = (OSError, http.client.HTTPException, AssertionError, KeyError, ValueError)

Deed = Callable[[Board], object]


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return release(tmp_path_factory.mktemp("newer") / "esp32")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = faulty_firmware(tmp_path_factory.mktemp("faulty") / "esp32")
    with Fleet(4, firmware=folder, heap=HEAP) as boards:
        for board in boards:
            board.set(wifi=[HOME, GARDEN])
        yield boards


@pytest.fixture
def base(fleet: Fleet, tmp_path: Path) -> Path:
    """A board's flash as it was put, with settings that have proved good; tests change it."""
    folder = tmp_path / "flash"
    fleet[0].power(False)
    folder.mkdir()
    for name in ("a", *firmware.SWITCH):
        source = fleet[0].flash / name
        if source.is_dir():
            shutil.copytree(source, folder / name)
        else:
            shutil.copy(source, folder)
    for name in ("settings.json", "settings.good.json"):
        (folder / name).write_text(json.dumps(OLD_SETTINGS))
    return folder


def serves(board: Board) -> dict[str, Any]:
    """The board answers, and what it runs is whole and what it says."""
    assert ask(board, "GET", "/").status == 200
    found = state(board)
    folder = board.flash / found["slot"]
    manifest = (folder / "manifest").read_bytes()
    assert firmware.build_of(manifest) == found["build"]
    for entry in read_manifest(manifest)[1]:
        data = (folder / entry.name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry.sha256, entry.name
    return found


def at_every_operation(
    fleet: Fleet,
    base: Path,
    deed: Deed,
    afterwards: Deed,
    *,
    kinds: tuple[str, ...] = ("cut", "full"),
) -> int:
    """Does ``deed`` again and again, with each fault at each operation of each boot; returns how often.

    ``afterwards`` is done when the fault is over, and must find a board that serves.
    """
    restore(fleet[0], base)
    counted = len(operations(fleet[0]))
    plan(fleet[0], kind="count")
    deed(fleet[0])
    faults: Queue[tuple[int, int, str]] = Queue()
    for boots, count in enumerate(operations(fleet[0])[counted:]):
        for at in range(1, count + 1):
            for kind in kinds:
                faults.put((boots, at, kind))
    total = faults.qsize()

    def work(board: Board) -> None:
        while True:
            try:
                boots, at, kind = faults.get_nowait()
            except Empty:
                return
            restore(board, base)
            plan(board, boots=boots, at=at, kind=kind)
            with contextlib.suppress(*TROUBLE):
                deed(board)
            if kind == "cut":
                until(lambda: is_over(board) and board.phase == "ready", 30)
            try:
                if kind != "cut":
                    board.wait_ready()
                    serves(board)
                    board.power(False)
                    board.power(True)
                serves(board)
                afterwards(board)
            except (*TROUBLE, RuntimeError) as error:
                raise AssertionError(f"{kind} at operation {at} of boot {boots}") from error

    with ThreadPoolExecutor(len(fleet)) as pool:
        for done in [pool.submit(work, board) for board in fleet]:
            done.result()
    return total


def update_to(made: Release) -> Deed:
    def deed(board: Board) -> None:
        stage(board, made)
        switch(board, made)
        assert act(board, "confirm", made).status == 200

    return deed


def completes(made: Release) -> Deed:
    """An update that was interrupted is done by beginning it anew."""

    def deed(board: Board) -> None:
        found = serves(board)
        assert found["build"] in (OWN.build, made.build)
        if found["build"] != made.build:
            stage(board, made)
            switch(board, made)
        assert act(board, "confirm", made).status == 200
        board.reset()
        found = serves(board)
        assert (found["build"], found["trial_s"]) == (made.build, None)

    return deed


def nearly_there(base: Path, made: Release) -> None:
    """The other slot has what an update before left there, except for two files and one too many."""
    (base / "b").mkdir()
    for name, data in made.files.items():
        (base / "b" / name).write_bytes(data)
    (base / "b" / "version.mpy").write_bytes(b"another one")
    (base / "b" / "clock.mpy").unlink()  # is copied
    (base / "b" / "strange.mpy").write_bytes(b"no part of it")
    (base / "b" / "manifest").write_bytes(b"espnet-manifest 1 0.0.1\n")


def test_an_update_at_every_operation(fleet: Fleet, base: Path, newer: Release) -> None:
    """From the manifest to the confirmation: old or new, whole, and then the update completes."""
    nearly_there(base, newer)
    record = {"slot": "a", "previous": "b", "trial": None, "boots": 5}
    (base / "boot.json").write_text(json.dumps(record))
    assert at_every_operation(fleet, base, update_to(newer), completes(newer)) > 60


@pytest.mark.soak
def test_a_whole_update_at_every_operation(fleet: Fleet, base: Path, newer: Release) -> None:
    """The same with nothing there: every file is copied or sent."""
    deed = update_to(newer)
    assert (
        at_every_operation(fleet, base, deed, completes(newer), kinds=("cut", "full", "once")) > 600
    )


def test_an_undo_at_every_operation(fleet: Fleet, base: Path, newer: Release) -> None:
    """A trial that is undone ends, whatever happens meanwhile, with the release before."""
    nearly_there(base, newer)
    for name, data in {**newer.files, firmware.MANIFEST: newer.manifest}.items():
        (base / "b" / name).write_bytes(data)
    wanted = {"build": newer.build, "version": newer.version}
    record = {"slot": "a", "trial": "b", "tries": 0, "minutes": 10, "wanted": wanted}
    (base / "boot.json").write_text(json.dumps(record))

    def undo(board: Board) -> None:
        assert state(board)["build"] == newer.build
        boots = board.boots
        assert act(board, "undo", why="no good").status == 200
        until(lambda: board.boots > boots and board.phase == "ready")

    def is_undone(board: Board) -> None:
        if state(board)["build"] != OWN.build:
            undo(board)
        found = serves(board)
        assert (found["build"], found["trial_s"]) == (OWN.build, None)
        assert found["undone"] is None or found["undone"]["build"] == newer.build
        board.reset()
        assert serves(board)["build"] == OWN.build

    assert at_every_operation(fleet, base, undo, is_undone) > 15


def test_settings_at_every_operation(fleet: Fleet, base: Path) -> None:
    """Old settings or new ones, both files right, and in the end the new ones prove good."""

    def set_new(board: Board) -> None:
        answer = ask(board, "POST", "/settings", NEW_SETTINGS)
        assert answer.status == 200, answer
        board.reset()
        until(lambda: board.network["ssid"])
        until(
            lambda: (
                ask(board, "GET", "/").status == 200
                and on_flash(board, "settings.good.json") == NEW_SETTINGS
            )
        )

    def are_set(board: Board) -> None:
        assert on_flash(board, "settings.json") in (OLD_SETTINGS, NEW_SETTINGS)
        assert on_flash(board, "settings.good.json") in (OLD_SETTINGS, NEW_SETTINGS)
        assert ask(board, "GET", "/settings").json["hostname"] in ("old", "new")
        assert "settings" not in " ".join(ask(board, "GET", "/details").json["notices"])
        set_new(board)

    for board in fleet:
        board.set(speed=20)  # joining takes a while
    try:
        assert at_every_operation(fleet, base, set_new, are_set) > 15
    finally:
        for board in fleet:
            board.set(speed=1)


def test_a_claim_at_every_operation(fleet: Fleet, base: Path) -> None:
    """Open or claimed, never closed to everybody; what else it was told is whole, too."""

    def claim(board: Board) -> None:
        ask(board, "POST", "/set_host", {"ip": "10.1.2.3"})
        answer = ask(board, "POST", "/claim", {"ha1": ha1_of(board.id, PASSWORD)})
        assert answer.status == 200, answer

    def is_claimed(board: Board) -> None:
        found = ask(board, "GET", "/").json
        assert found["espnet_host"] in ("", "10.1.2.3")
        if not found["claimed"]:
            claim(board)
        assert Person(board).ask("POST", "/gpio", b"pin=4&value=0").status == 200

    assert at_every_operation(fleet, base, claim, is_claimed) > 15
