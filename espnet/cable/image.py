"""A MicroPython image for an ESP: what it is made for, and whether it is whole.

An image is what the download pages call `.bin`: bootloader, partition table and program, as they lie on the
chip from where its bootloader begins.
"""

import functools
import hashlib
import operator
import struct
from dataclasses import dataclass
from pathlib import Path

from espnet.errors import CableError

_MAGIC = 0xE9
_HEADER = 24
_CHECKSUM_SEED = 0xEF
_TABLE, _TABLE_ENTRY = 0x8000, 32
#: An image is 1 to 3 MB; nobody wants to wait for a film to be read.
_LARGEST = 1 << 25
#: Where chips' bootloaders begin, by the number in the header; 0 for the others.
_OFFSETS = {0: 0x1000, 2: 0x1000, 18: 0x2000, 23: 0x2000}


@dataclass(frozen=True)
class Image:
    """``chip_id`` is the number of the chip that it is for; ``least_revision`` is 301 for v3.1.

    ``flash`` is the size in bytes of the flash that it expects: with less, its bootloader stops.
    """

    path: Path
    data: bytes
    chip_id: int
    least_revision: int
    flash: int


def read(path: Path) -> Image:
    """The image in a file; raises `CableError` for what is none, or not whole."""
    data = _contents(path)
    if data[:4] == b"UF2\n":
        raise _wrong(path, "is a UF2 file, which is for boards that appear as a disk")
    if data[:2] == b"PK" or data[:2] == b"\x1f\x8b":
        raise _wrong(path, "is an archive: unpack it, and name the .bin file in it")
    if not data or data[0] != _MAGIC:
        raise _wrong(path, "is no image for an ESP chip")
    if len(data) < _HEADER or data[23] not in (0, 1):
        raise _wrong(path, "is no image for an ESP32 of any kind (it may be for an ESP8266)")
    chip_id, _, least = struct.unpack_from("<HBH", data, 12)
    program = _program(path, data, _OFFSETS.get(chip_id, 0))
    if b"MicroPython" not in data:
        raise _wrong(path, "holds no MicroPython")
    _require_whole(path, data[program:])
    return Image(path, data, chip_id, least, 1 << (20 + (data[3] >> 4)))


def _contents(path: Path) -> bytes:
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise _wrong(path, what)
        if path.stat().st_size > _LARGEST:
            raise _wrong(path, "is larger than any chip's flash")
        return path.read_bytes()
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else "no such path"
        raise _wrong(path, f"cannot be read ({reason})") from e


def _program(path: Path, data: bytes, begin: int) -> int:
    """Where in the file the program is that the partition table names."""
    at = _TABLE - begin
    while data[at : at + 2] == b"\xaa\x50":
        kind, _, offset, _ = struct.unpack_from("<BBII", data, at + 2)
        if kind == 0:
            if offset - begin >= len(data):
                break
            return int(offset) - begin
        at += _TABLE_ENTRY
    raise _wrong(path, "is cut off, or only a part of an image: it holds no program")


def _require_whole(path: Path, program: bytes) -> None:
    """The program's own checksum and hash, as the chip's bootloader will check them."""
    at, checksum = _HEADER, _CHECKSUM_SEED
    try:
        for _ in range(program[1]):
            (size,) = struct.unpack_from("<I", program, at + 4)
            segment = program[at + 8 : at + 8 + size]
            checksum ^= functools.reduce(operator.xor, segment, 0)
            at += 8 + size
        at += 16 - at % 16
        is_whole = program[0] == _MAGIC and program[at - 1] == checksum
        if program[23]:
            is_whole = is_whole and program[at : at + 32] == hashlib.sha256(program[:at]).digest()
    except (struct.error, IndexError):
        is_whole = False
    if not is_whole:
        raise _wrong(path, "is damaged or cut off")


def _wrong(path: Path, what: str) -> CableError:
    return CableError(
        "image",
        f"{path} {what}; nothing was erased. `espcli board firmware` fetches the image for your chip.",
    )
