"""Laws of flashing: what is wrong is refused before anything is erased; what is right arrives whole."""

import gzip
import hashlib
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet.cable import flashing, image
from espnet.errors import CableError
from espnet.simulator import Board, Fleet
from espnet.simulator import chip as chips

from .cabling import mpremote, status, until

GOOD = chips.image()


def deaf(what: str, done: int, total: int) -> None:
    """Nobody who wants to know."""


def changed(at: int, new: bytes) -> bytes:
    return GOOD[:at] + new + GOOD[at + len(new) :]


def program_without_hash() -> bytes:
    """The program with a wrong checksum, and with the right hash of that."""
    at = chips.PROGRAM - chips.BOOTLOADER
    program = bytearray(GOOD[at:-32])
    program[-1] ^= 1
    return GOOD[:at] + bytes(program) + hashlib.sha256(program).digest()


RANDOM = random.Random(5)
WRONG = {
    "empty": b"",
    "one byte": b"\xe9",
    "text": b"MicroPython\n" * 1000,
    "html": b"<!DOCTYPE html><title>Not found</title>MicroPython",
    "zeros": bytes(70_000),
    "erased": b"\xff" * 70_000,
    "noise": RANDOM.randbytes(70_000),
    "uf2": b"UF2\n" + bytes(508),
    "zip": b"PK\x03\x04" + GOOD,
    "gzip": gzip.compress(GOOD),
    "elf": b"\x7fELF" + bytes(60_000),
    "header only": GOOD[:24],
    "bootloader only": GOOD[: 0x8000 - 0x1000],
    "no program": GOOD[: chips.PROGRAM - chips.BOOTLOADER],
    "program only": GOOD[chips.PROGRAM - chips.BOOTLOADER :],
    "cut in the program": GOOD[:-40],
    "cut by a byte": GOOD[:-1],
    "a bit fell over": changed(len(GOOD) - 60, bytes([GOOD[-60] ^ 4])),
    "wrong checksum": program_without_hash(),
    "no MicroPython": chips.image(what=b"some other program " * 50),
    "esp8266": changed(23, b"\x40"),
    "merged from 0": b"\xff" * 0x1000 + GOOD,
    "S2": chips.image(2),
    "C3": chips.image(5),
    "S3": chips.image(9),
    "unknown chip": chips.image(777),
    "newer revision": GOOD[:15] + struct.pack("<H", 400) + GOOD[17:],
    "too large": GOOD + b"\xff" * chips.SIZE,
    "for more flash": changed(3, b"\x30"),
}


@pytest.fixture(scope="module")
def flashed() -> Iterator[Board]:
    with Fleet(1, seed=24, serial=True, holds="firmware", compiled=True) as fleet:
        yield fleet[0]


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_image_is_refused_before_anything_is_erased(
    flashed: Board, tmp_path: Path, what: str
) -> None:
    """The sentence names the file and says that nothing was erased, and that is so: the board works on."""
    file = tmp_path / "image.bin"
    file.write_bytes(WRONG[what])
    chip = flashed.flash.parent / "chip"
    before = chip.read_bytes()
    with pytest.raises(CableError, match="nothing was erased") as caught:
        flashing.flash(flashed.serial, image.read(file), deaf)
    assert caught.value.kind == "image"
    assert str(file) in str(caught.value)
    assert chip.read_bytes() == before
    flashed.wait_ready()
    assert status(flashed)["id"] == flashed.id


@pytest.mark.parametrize("name", ["missing.bin", ".", "a\0b"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    """No file, a folder, no path."""
    with pytest.raises(CableError):
        image.read(tmp_path / name)


@pytest.mark.parametrize("no_stub", [False, True], ids=["stub", "rom"])
def test_flashing_erases_writes_and_tells_how_far_it_is(fresh: Board, no_stub: bool) -> None:
    """Afterwards exactly the image is on the chip, and MicroPython at its prompt."""
    assert fresh.image is not None
    (fresh.flash / "old").write_text("of the owner before")
    steps: list[tuple[str, int, int]] = []
    found, _ = flashing.flash(
        fresh.serial,
        image.read(fresh.image),
        lambda *step: steps.append(step),
        no_stub=no_stub,
    )
    assert (found.mac, found.flash, found.name) == (fresh.id, chips.SIZE, "ESP32")
    until("it boots", lambda: fresh.phase == "halted")
    chip = (fresh.flash.parent / "chip").read_bytes()
    end = chips.BOOTLOADER + len(GOOD)
    assert chip[chips.BOOTLOADER : end] == GOOD
    assert set(chip[: chips.BOOTLOADER] + chip[end:]) == {0xFF}
    assert not list(fresh.flash.iterdir())
    assert [what for what, *_ in steps if what == "erasing"]
    written = [done for what, done, total in steps if what == "writing"]
    assert written == sorted(written)
    assert len(written) > 1
    assert mpremote(fresh, "exec", "print(6 * 7)").strip() == "42"


def test_a_board_that_hangs_is_flashed_all_the_same(flashed: Board) -> None:
    """Its program is not asked."""
    board = flashed
    (board.flash / "main.py").write_text(
        "while True:\n    try:\n        x = 1\n    except:\n        pass\n"
    )
    board.reset("power", wait=False)
    until("it runs", lambda: board.pid)
    assert board.image is not None
    flashing.flash(board.serial, image.read(board.image), deaf)
    until("it boots", lambda: board.phase == "halted")


def test_a_board_that_is_unplugged_meanwhile_is_a_sentence(fresh: Board) -> None:
    """Nothing hangs, and the next attempt works."""
    assert fresh.image is not None

    def pull(what: str, done: int, total: int) -> None:
        if what == "writing" and done:
            raise OSError(5, "Input/output error")

    with pytest.raises(CableError, match="repeat the command") as caught:
        flashing.flash(fresh.serial, image.read(fresh.image), pull)
    assert caught.value.kind == "failed"
    flashing.flash(fresh.serial, image.read(fresh.image), deaf)
    until("it boots", lambda: fresh.phase == "halted")
