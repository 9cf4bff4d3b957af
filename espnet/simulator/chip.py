"""The flash chip of a simulated board, and images for it.

Invariants: the chip is a file of `SIZE` bytes that outlives the program; what is erased is 0xFF, and writing
can only clear bits, as in NOR flash: who forgets to erase finds out.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from pathlib import Path

#: 4 MB, what most modules have.
SIZE = 1 << 22
#: What the chip answers to "who are you?": maker, type, and 2^0x16 bytes.
FLASH_ID = 0x1640EF
#: Where an ESP32 looks for its bootloader, and where MicroPython's program and file system begin.
BOOTLOADER, PROGRAM, FILES = 0x1000, 0x10000, 0x200000
_TABLE = 0x8000
#: The first byte of every image.
MAGIC = 0xE9
#: The number of the ESP32 in an image's extended header.
ESP32 = 0
_CHECKSUM_SEED = 0xEF


class Chip:
    """One chip. Reading and writing are memory accesses."""

    def __init__(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size != SIZE:
            path.write_bytes(b"\xff" * SIZE)
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), SIZE)

    def close(self) -> None:
        self._bytes.close()

    def read(self, at: int, size: int) -> bytes:
        return self._bytes[at : at + size]

    def erase(self, at: int, size: int) -> None:
        self._bytes[at : at + size] = b"\xff" * (min(at + size, SIZE) - at)

    def write(self, at: int, data: bytes) -> None:
        there = int.from_bytes(self.read(at, len(data)), "little")
        both = there & int.from_bytes(data, "little")
        self._bytes[at : at + len(data)] = both.to_bytes(len(data), "little")

    @property
    def first_word(self) -> int:
        """Where the bootloader should be; the ROM shows it when it is none."""
        return int(struct.unpack("<I", self.read(BOOTLOADER, 4))[0])

    @property
    def is_bootable(self) -> bool:
        """Whether MicroPython for this chip lies here."""
        head = self.read(BOOTLOADER, 24)
        (made_for,) = struct.unpack_from("<H", head, 12)
        has_head = head[0] == MAGIC and made_for == ESP32
        return has_head and self._bytes.find(b"MicroPython") >= 0


def image(
    chip_id: int = ESP32, what: bytes = b"MicroPython stand-in for a simulated board"
) -> bytes:
    """What `write-flash 0x1000` takes: bootloader and program, well-formed, and of no use on a real chip."""
    bootloader = _part(chip_id, b"bootloader stand-in").ljust(_TABLE - BOOTLOADER, b"\xff")
    parts = ((1, 2, 0x9000, 0x6000, b"nvs"), (0, 0, PROGRAM, FILES - PROGRAM, b"factory"))
    table = b"".join(struct.pack("<2sBBII16sI", b"\xaa\x50", *part, 0) for part in parts)
    front = (bootloader + table).ljust(PROGRAM - BOOTLOADER, b"\xff")
    return front + _part(chip_id, what)


def _part(chip_id: int, content: bytes) -> bytes:
    """One image: header, extended header, one segment, checksum, hash."""
    content += bytes(-len(content) % 4)
    head = struct.pack("<BBBBI", MAGIC, 1, 2, 0x20, 0x40080000)
    extended = struct.pack("<B3sHBHH4xB", 0xEE, bytes(3), chip_id, 0, 0, 0xFFFF, 1)
    checksum = _CHECKSUM_SEED
    for byte in content:
        checksum ^= byte
    made = head + extended + struct.pack("<II", 0x3FFB0000, len(content)) + content
    made += bytes(15 - len(made) % 16) + bytes([checksum])
    return made + hashlib.sha256(made).digest()
