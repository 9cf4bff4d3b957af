"""Laws of putting: only what differs travels, nothing of the user's is touched, and a board always boots."""

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from espnet import firmware
from espnet.cable import prompt, putting
from espnet.cable.putting import Done
from espnet.errors import CableError
from espnet.firmware import Release
from espnet.simulator import Board

from .cabling import PATIENCE_S, ROOT, mpremote, status, until

DRIVER = Path(__file__).with_name("driver.py")
#: How many times the cable is pulled.
PULLS = 16


def variant(folder: Path, version: str) -> Path:
    """The firmware's sources as another version."""
    shutil.copytree(firmware.find(), folder)
    file = folder / "version.py"
    file.write_text(re.sub(r'VERSION = "[^"]*"', f'VERSION = "{version}"', file.read_text()))
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("sources")
    return {version: variant(home / version, version) for version in ("8.0.0", "9.0.0")}


@pytest.fixture(scope="module")
def releases(sources: dict[str, Path]) -> dict[str, Release]:
    return {version: firmware.build(folder) for version, folder in sources.items()}


def put(board: Board, release: Release, **parts: bool) -> Done:
    """Puts, and returns when the board answers again, which it does not when it has no switch."""
    with prompt.opened(board.serial) as there:
        return putting.put(there, release, lambda what, done, total: None, **parts)


def record(board: Board) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((board.flash / "boot.json").read_text())
    return found


def test_an_empty_board_gets_all_of_it(releases: dict[str, Release], fresh: Board) -> None:
    """Slot a, the switch, and a record that names the slot; then it serves."""
    assert fresh.image is not None
    from espnet.cable import flashing, image

    flashing.flash(fresh.serial, image.read(fresh.image), lambda what, done, total: None)
    until("it boots", lambda: fresh.phase == "halted")
    release = releases["8.0.0"]
    done = put(fresh, release)
    assert done.slot == "a"
    assert len(done.sent) == len(release.files) + len(release.switch)
    fresh.wait_ready()
    about = status(fresh)
    assert (about["version"], about["build"], about["trial"]) == ("8.0.0", release.build, False)


def test_what_is_there_does_not_travel(board: Board, releases: dict[str, Release]) -> None:
    """Twice the same: nothing. Another version: the one file that differs; the others are copied there."""
    put(board, releases["8.0.0"])
    board.wait_ready()
    again = put(board, releases["8.0.0"])
    assert (again.sent, again.removed, again.sent_bytes) == ([], [], 0)
    board.wait_ready()
    assert status(board)["version"] == "8.0.0"
    slot = record(board)["slot"]
    other = put(board, releases["9.0.0"])
    assert other.slot != slot
    assert other.sent == [f"/{other.slot}/version.mpy"]
    board.wait_ready()
    assert status(board)["version"] == "9.0.0"
    back = put(board, releases["8.0.0"])
    assert (back.slot, back.sent) == (slot, [])
    board.wait_ready()
    assert status(board)["version"] == "8.0.0"


def test_files_of_the_user_stay_and_old_firmware_goes(
    board: Board, releases: dict[str, Release]
) -> None:
    """Settings, claim, host, his own files: untouched. What earlier firmware left in the root: removed."""
    own = {name: f"{name} of the user" for name in ("notes.txt", "mine.py", "wifi.py", "host.json")}
    own |= {"settings.json": '{"hostname": "porch"}'}
    for name, text in own.items():
        (board.flash / name).write_text(text)
    (board.flash / "box").mkdir()
    (board.flash / "box" / "web.mpy").write_text("deeper")
    for name in ("web.mpy", "wifi.mpy", "ui.html.gz"):
        (board.flash / name).write_bytes(b"of an older layout")
    done = put(board, releases["8.0.0"])
    assert sorted(done.removed) == ["/ui.html.gz", "/web.mpy", "/wifi.mpy"]
    for name, text in own.items():
        assert (board.flash / name).read_text() == text
        (board.flash / name).unlink()
    shutil.rmtree(board.flash / "box")
    board.wait_ready()


def test_the_halves_can_be_put_alone(board: Board, releases: dict[str, Release]) -> None:
    """The app without the switch, the switch without the app."""
    (board.flash / "boot.py").write_text("# another one\n")
    done = put(board, releases["9.0.0"], switch=False)
    assert not [path for path in done.sent if path.count("/") == 1]
    assert (board.flash / "boot.py").read_text() == "# another one\n"
    board.wait_ready()
    done = put(board, releases["8.0.0"], app=False)
    assert done.sent == ["/boot.py"]
    board.wait_ready()
    assert status(board)["version"] == "9.0.0"


def test_a_damaged_file_is_put_right(board: Board, releases: dict[str, Release]) -> None:
    """A slot in which one file is rotten is not what boots afterwards; strange files in the other one go."""
    put(board, releases["8.0.0"])
    slot = record(board)["slot"]
    other = "b" if slot == "a" else "a"
    board.power(False)
    (board.flash / slot / "web.mpy").write_bytes(b"rotten")
    (board.flash / other).mkdir(exist_ok=True)
    (board.flash / other / "stranger.mpy").write_bytes(b"who is this")
    board.reset("power", wait=False)
    until("it is up", lambda: board.phase == "starting" and board.pid)
    done = put(board, releases["8.0.0"])
    assert done.slot == other
    assert not (board.flash / other / "stranger.mpy").exists()
    board.wait_ready()
    assert status(board)["version"] == "8.0.0"
    for name, data in releases["8.0.0"].files.items():
        assert (board.flash / done.slot / name).read_bytes() == data


def test_a_trial_ends_with_what_is_put(board: Board, releases: dict[str, Release]) -> None:
    """What comes by cable needs no confirmation, whatever was on trial."""
    put(board, releases["8.0.0"])
    board.wait_ready()
    board.power(False)
    before = record(board)
    other = "b" if before["slot"] == "a" else "a"
    wanted = {"build": "0" * 12, "version": "7"}
    (board.flash / "boot.json").write_text(json.dumps(before | {"trial": other, "wanted": wanted}))
    board.power(True)
    done = put(board, releases["9.0.0"])
    board.wait_ready()
    after = record(board)
    assert (after["slot"], after["trial"], after["wanted"]) == (done.slot, None, None)
    assert status(board)["version"] == "9.0.0"


def test_commands_do_not_count_as_boots_that_failed(board: Board) -> None:
    """Somebody who looks ten times does not bring the board into safe mode."""
    for _ in range(5):
        with prompt.opened(board.serial):
            pass
        board.wait_ready()
    assert status(board)["safe_mode"] is False
    assert record(board)["short"] <= 2


def test_a_damaged_record_is_replaced(board: Board, releases: dict[str, Release]) -> None:
    """What cannot be read says nothing; nothing is stuck."""
    put(board, releases["8.0.0"])
    for text in ("", "[]", '{"slot": "z"}', "\x00"):
        board.power(False)
        (board.flash / "boot.json").write_text(text)
        board.power(True)
        put(board, releases["9.0.0"])
        board.wait_ready()
        assert status(board)["version"] == "9.0.0"


def drive(board: Board, folder: Path, last: int) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(DRIVER), board.serial, str(folder), str(last)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_pulled_cable_leaves_a_board_that_boots(
    board: Board, sources: dict[str, Path], releases: dict[str, Release]
) -> None:
    """Killed in the middle of any write: after a reset the old version or the new one answers, and the next
    attempt brings the new one."""
    whole = drive(board, sources["8.0.0"], 0)
    assert whole.returncode == 0, whole.stderr
    board.wait_ready()
    first = drive(board, sources["9.0.0"], 0)
    writes = int(first.stdout)
    seed = 6
    chance = random.Random(seed)
    old, new = "9.0.0", "8.0.0"
    seen = set()
    for number in [1, writes - 1, *(chance.randrange(1, writes) for _ in range(PULLS - 2))]:
        board.wait_ready()
        # Without what it could copy, so that much has to travel.
        shutil.rmtree(board.flash / ("b" if record(board)["slot"] == "a" else "a"))
        cut = drive(board, sources[new], number)
        assert cut.returncode in (0, -9), (seed, number, cut.stderr)
        board.reset("power")
        version = status(board)["version"]
        assert version in (old, new), (seed, number)
        seen.add(version == new)
        put(board, releases[new])
        board.wait_ready()
        assert status(board)["version"] == new, (seed, number)
        old, new = new, old


class Crowded(prompt.Prompt):
    """A board whose flash has an end; the simulated one has none."""

    def free(self) -> int:
        return 4096


def test_too_little_flash_is_said_before_anything_is_changed(
    board: Board, releases: dict[str, Release]
) -> None:
    """The sentence has both numbers; the board goes on as it is."""
    put(board, releases["8.0.0"])
    board.wait_ready()
    other = "b" if record(board)["slot"] == "a" else "a"
    shutil.rmtree(board.flash / other, ignore_errors=True)
    with prompt.opened(board.serial) as there:
        crowded = Crowded(board.serial, there._transport)
        with pytest.raises(CableError, match="bytes of flash") as caught:
            putting.put(crowded, releases["9.0.0"], lambda what, done, total: None)
    assert caught.value.kind == "flash"
    board.wait_ready()
    assert not (board.flash / other).exists()
    assert status(board)["version"] == "8.0.0"


def test_what_mpremote_put_is_what_we_see(board: Board) -> None:
    """Our listing and mpremote's agree, hash by hash."""
    (board.flash / "données.txt").write_text("ünï")
    with prompt.opened(board.serial) as there:
        files, folders = there.files()
        assert there.read("/données.txt").decode() == "ünï"
    board.wait_ready()
    assert {path.lstrip("/") for path in files} == {
        str(path.relative_to(board.flash)) for path in board.flash.rglob("*") if path.is_file()
    }
    assert "/a" in folders
    assert files["/main.py"].sha256 in mpremote(board, "fs", "sha256sum", "main.py")
    (board.flash / "données.txt").unlink()
