"""A board whose power goes, or whose flash is full, at the n-th operation on its flash.

The firmware's `boot.py` puts a file system of its own around the board's, which counts what is written
there. An operation is one piece of up to 512 bytes, a file's opening (which empties it) or closing, a
rename, a removal, a new folder. A cut in the middle of a piece leaves half of it: worse than littlefs does.
What is to happen stands in the file `.fault`: after how many further boots, at which operation, and what.
"""

import re
import shutil
from pathlib import Path

from espnet.simulator.fleet import Board

from .firmware_client import FIRMWARE

FAULT = ".fault"
#: The counting file system is no part of what a board keeps in its heap.
HEAP = "160K"

_BOOT = """
import gc, io, sys, vfs

_PIECE = 512


class Flash:
    def __init__(self, inner):
        self.inner, self.left, self.kind, self.count = inner, 0, "", 0
        for name in ("stat", "ilistdir", "statvfs", "chdir", "getcwd"):
            setattr(self, name, getattr(inner, name))
        try:
            with inner.open("FAULT", "r") as file:
                boots, left, kind = file.read().split()
        except OSError:
            return
        if kind == "count":
            print("flash: boot")
            self.kind = kind
        elif kind == "over":
            inner.remove("FAULT")
        else:
            boots = int(boots)
            if not boots:
                self.left, self.kind = int(left), kind
                kind = "over"
            with inner.open("FAULT", "w") as file:
                file.write("%d %s %s" % (boots - 1, left, kind))

    def mount(self, readonly, mkfs):
        pass

    def umount(self):
        pass

    def step(self, what, needs_room=False, half=None):
        if not self.kind:
            return
        self.count += 1
        if self.kind == "count":
            print("flash:", self.count, what)
        elif self.kind == "cut" and self.count == self.left:
            if half:
                half()
            __import__("_pads").end(1)
        elif self.kind in ("full", "once") and needs_room and self.count >= self.left:
            if self.kind == "once":
                self.kind = ""
            if half:
                half()
            raise OSError(28)

    def open(self, path, mode):
        if mode[0] == "r":
            return self.inner.open(path, mode)
        self.step("open " + path, True)
        return File(self, self.inner.open(path, mode), path)

    def remove(self, path):
        self.step("remove " + path)
        self.inner.remove(path)

    def rename(self, old, new):
        self.step("rename " + old)
        self.inner.rename(old, new)

    def mkdir(self, path):
        self.step("mkdir " + path, True)
        self.inner.mkdir(path)

    def rmdir(self, path):
        self.step("rmdir " + path)
        self.inner.rmdir(path)


class File(io.IOBase):
    def __init__(self, flash, inner, path):
        self.flash, self.inner, self.path, self.rest = flash, inner, path, b""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def write(self, data):
        if isinstance(data, str):
            data = data.encode()
        self.rest += bytes(data)
        while len(self.rest) >= _PIECE:
            self.put(_PIECE)
        return len(data)

    def put(self, size):
        piece, self.rest = self.rest[:size], self.rest[size:]

        def half():
            self.inner.write(piece[: len(piece) // 2])
            self.inner.flush()

        self.flash.step("write " + self.path, True, half)
        self.inner.write(piece)

    def close(self):
        try:
            if self.rest:
                self.put(len(self.rest))
            self.flash.step("close " + self.path)
        finally:
            self.rest = b""
            self.inner.close()


_inner = vfs.mount()[0][0]
vfs.umount("/")
vfs.mount(Flash(_inner), "/")
"""


def faulty_firmware(folder: Path) -> Path:
    """The firmware's sources, made into ``folder``, with such a boot.py."""
    shutil.copytree(FIRMWARE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    boot = folder / "boot.py"
    boot.write_text(_BOOT.replace("FAULT", FAULT) + boot.read_text())
    return folder


def plan(board: Board, *, boots: int = 0, at: int = 0, kind: str) -> None:
    """Switches the board on with a fault planned: a ``cut``, a flash that is ``full`` from then on or
    ``once``; ``count`` prints every operation."""
    board.power(False)
    (board.flash / FAULT).write_text(f"{boots} {at} {kind}")
    board.power(True)


def is_over(board: Board) -> bool:
    """Whether the boot after the one with the fault has begun."""
    return not (board.flash / FAULT).exists()


def operations(board: Board) -> list[int]:
    """How many operations there were in each boot that was counted, since the board was made."""
    counts: list[int] = []
    for word in re.findall(r"^flash: (\w+)", board.console, re.MULTILINE):
        if word == "boot":
            counts.append(0)
        else:
            counts[-1] = int(word)
    return counts


def restore(board: Board, folder: Path) -> None:
    """Lets the board, which is off afterwards, have on its flash what is in ``folder``."""
    board.power(False)
    for path in board.flash.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.copytree(folder, board.flash, dirs_exist_ok=True)
