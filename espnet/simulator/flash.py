"""What lies on a simulated board's flash, and where boards keep theirs.

Invariants: a board's folder that already holds files is left alone (a board keeps its flash); the
private folder of a simulator that is gone is removed by the next one that starts.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from espnet import firmware
from espnet.simulator.chip import SIZE
from espnet.simulator.errors import SimulatorError

_PREFIX = "espnet-sim-"
_LOCK = "lock"
#: Linux keeps this folder in memory.
_MEMORY = Path("/dev/shm")
#: What a board may come to fill, generously: its flash, console and shared page.
_BOARD_BYTES = 1 << 20
#: What it has at least.
_BOARD_LEAST_BYTES = 256 << 10
_HARDWARE = Path(__file__).with_name("hardware")
_LAUNCH = "launch.py"
#: What stand-ins are called in tracebacks, all the same: names are counted (see `put_hardware`).
_STAND_IN = "hardware"
#: A Unix socket's path has room for 107 bytes.
_SOCKET_PATH_LIMIT = 107


def prepare(folder: Path, target: Path, *, compiled: bool | None = None) -> None:
    """Puts into ``target``, a new folder, what lies on a board after `make put`.

    ``compiled`` as bytecode; None: as is usual, EspNet's program compiled, and any other one as it is.
    """
    if not (folder / "main.py").is_file():
        raise SimulatorError(f"{folder} holds no main.py; name a folder with a board's program.")
    if (folder / "app.py").is_file():
        release = firmware.build(folder, compiled=compiled is not False)
        (target / "a").mkdir(parents=True)
        for name, data in release.files.items():
            (target / "a" / name).write_bytes(data)
        (target / "a" / firmware.MANIFEST).write_bytes(release.manifest)
        for name, data in release.switch.items():
            (target / name).write_bytes(data)
        return
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    if not compiled:
        return
    for source in sorted(target.rglob("*.py")):
        if source.name in firmware.SWITCH and source.parent == target:
            continue
        name = str(source.relative_to(target))
        code = firmware.compile_file(folder / name, source.name)
        source.with_suffix(".mpy").write_bytes(code)
        source.unlink()


@functools.cache
def _stand_ins() -> dict[str, bytes]:
    """The stand-ins for hardware, compiled; once in a program's life."""
    return {
        source.with_suffix(".mpy").name: firmware.compile_file(source, _STAND_IN)
        for source in sorted(_HARDWARE.glob("*.py"))
        if source.name != _LAUNCH
    }


def put_hardware(target: Path) -> Path:
    """Puts what stands for the hardware into ``target``; returns the program that starts a board.

    Compiled, because names in source (of locals and constants too) stay in MicroPython's table of
    names for ever, whose next size, beyond 620 names, costs 7 KB that no chip has to pay.
    """
    target.mkdir()
    for name, code in _stand_ins().items():
        (target / name).write_bytes(code)
    return Path(shutil.copy(_HARDWARE / _LAUNCH, target))


def read(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, by its path in there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def put(program: Mapping[str, bytes], flash: Path) -> None:
    """Writes the firmware onto a board that has none yet.

    A board may write over its files, so each has its own; a thousand boards are tens of thousands.
    """
    if flash.exists():
        return
    flash.mkdir()
    for folder in {name.rpartition("/")[0] for name in program} - {""}:
        (flash / folder).mkdir(parents=True, exist_ok=True)
    root = os.fspath(flash)
    for name, data in program.items():
        file = os.open(f"{root}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(file, data)
        finally:
            os.close(file)


def empty(flash: Path) -> None:
    """Removes every file, as erasing the chip does."""
    for path in flash.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def forgive(flash: Path) -> None:
    """Lets a board that is off forget that its last boots ended early."""
    file = flash / "boot.json"
    try:
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"short": 0}))
    except (OSError, ValueError, TypeError):
        return  # it has none, or none that counts


def put_network(flash: Path) -> None:
    """Gives a board without settings a network to join, so that it has one to send beacons to."""
    settings = flash / "settings.json"
    if not settings.exists():
        settings.write_text('{"wifi": [{"ssid": "simulated", "password": ""}]}')


def runtime_folder(boards: int, *, serial: bool = False) -> tuple[Path, IO[str]]:
    """A private folder (mode 0700) and the open lock that says that its owner lives.

    In memory where there is room for so many boards: a thousand boards are twenty thousand
    small files, and nobody wants them after a power cut.
    """
    temporary = Path(tempfile.gettempdir())
    if len(os.fsencode(temporary)) + len(_PREFIX) + 24 > _SOCKET_PATH_LIMIT:
        temporary = Path("/tmp")
    for root in {temporary, _MEMORY}:
        _remove_stale(root)
    need = boards * (_BOARD_BYTES + (SIZE if serial else 0))
    root = _MEMORY if _has_room(_MEMORY, need) else temporary
    if root == temporary and not _has_room(root, boards * _BOARD_LEAST_BYTES):
        raise SimulatorError(
            f"{boards:,} boards write {boards * _BOARD_LEAST_BYTES / 1e6:,.0f} MB of small files, and "
            f"neither {_MEMORY} nor {temporary} has so much room: free some, set TMPDIR, or ask for fewer "
            "boards."
        )
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    # Locked before it has its name, so that nobody finds it unlocked and takes it for stale.
    lock = (folder / "lock.new").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / "lock.new").rename(folder / _LOCK)
    return folder, lock


def _has_room(root: Path, need: int) -> bool:
    """Whether a folder is there, is ours to write to, and has ``need`` bytes free."""
    if not os.access(root, os.W_OK | os.X_OK):
        return False
    room = os.statvfs(root)
    return room.f_bavail * room.f_frsize > need


def lock_folder(folder: Path) -> IO[str]:
    """Claims a folder that is to be kept, for one simulator at a time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK).open("w")
    except OSError as e:
        raise SimulatorError(
            f"Boards cannot keep their files in {folder} ({e.strerror}); name another folder."
        ) from e
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        lock.close()
        raise SimulatorError(
            f"Another simulator uses {folder}; stop it or name another folder."
        ) from e
    return lock


def _remove_stale(root: Path) -> None:
    for folder in root.glob(_PREFIX + "*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            with (folder / _LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # alive, just being made, or gone meanwhile
