"""The ESP32's own loader, as esptool finds it on the serial line after a reset with GPIO0 low.

Pure: `Loader.feed` takes what came over the line and returns what goes back; the chip and a few registers are
all that it acts on. What it understands is what esptool sends to find out chip and flash, to erase and to
write, with its flasher stub or without. The stub's code is not run: once it was uploaded and started, the
answers are those that it would give.

A packet is SLIP-framed: direction, command, u16 size of the data, u32 checksum or value, data. An answer's
data end with the status: 0 0, or 1 and the reason.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable

from espnet.simulator.chip import FLASH_ID, SIZE, Chip

#: How an attempt to connect begins: esptool's first packet, up to the size of its data.
SYNC = b"\xc0\x00\x08\x24\x00"
_OK, _REFUSED, _FAILED, _CHECKSUM = b"\0\0", b"\1\5", b"\1\6", b"\1\7"
#: Until it is told, the ROM believes that a flash chip has so many bytes.
_ASSUMED_SIZE = 1 << 21
_SECTOR = 4096

_MAGIC_REG, _MAGIC = 0x40001000, 0x00F01D83
_EFUSE = 0x3FF5A000
_APB_DATE = 0x3FF6607C
_CALIBRATION = 0x3FF5F06C
_UART_DIVIDER = 0x3FF40014
_SPI = 0x3FF42000
_SPI_ADDRESS, _SPI_USR2, _SPI_W0 = _SPI + 0x04, _SPI + 0x24, _SPI + 0x80
_SPI_RUN = 1 << 18


class Loader:
    """From one reset into the loader to the next. ``is_left`` says that it was told to run the program."""

    def __init__(self, chip: Chip, board_id: str, on_erase: Callable[[int, int], None]) -> None:
        self._chip, self._on_erase = chip, on_erase
        mac = bytes.fromhex(board_id)
        self._registers = {
            _MAGIC_REG: _MAGIC,
            _EFUSE + 4: int.from_bytes(mac[2:], "big"),
            _EFUSE + 8: int.from_bytes(mac[:2], "big"),
            # An ESP32-D0WD-V3, revision 3.1, 240 MHz. The two last say how its clocks compare: 40 MHz.
            _EFUSE + 12: 1 << 15 | 1 << 13 | 1 << 9,
            _EFUSE + 20: 1 << 24 | 1 << 20,
            _APB_DATE: 1 << 31,
            _EFUSE + 16: 128,
            _CALIBRATION: 800 << 7,
            _UART_DIVIDER: 347,
        }
        self._rest = b""
        self._size = _ASSUMED_SIZE
        self._at = self._block = 0
        self._inflate: zlib._Decompress | None = None
        self._is_stub = False
        self.is_left = False

    def feed(self, data: bytes) -> bytes:
        """Takes bytes from the line; returns the answers to the packets that they complete."""
        self._rest += data
        answers = b""
        while not self.is_left:
            begin = self._rest.find(b"\xc0")
            end = self._rest.find(b"\xc0", begin + 1)
            if begin < 0 or end < 0:
                self._rest = self._rest[begin:] if begin >= 0 else b""
                break
            packet = self._rest[begin + 1 : end]
            # Two packets may share the byte between them.
            self._rest = self._rest[end + 1 if packet else end :]
            packet = packet.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb")
            if len(packet) >= 8 and packet[0] == 0:
                _, command, size, checksum = struct.unpack_from("<BBHI", packet)
                answers += self._answer(command, packet[8 : 8 + size], checksum)
        return answers

    def _answer(self, command: int, data: bytes, checksum: int) -> bytes:
        handler = _HANDLERS.get(command)
        if handler is None:
            return self._said(command, _REFUSED)
        try:
            return handler(self, command, data, checksum)
        except (struct.error, zlib.error, IndexError):
            return self._said(command, _REFUSED)

    def _said(self, command: int, status: bytes = _OK, value: int = 0, data: bytes = b"") -> bytes:
        data += status if self._is_stub else status + bytes(2)
        return _framed(struct.pack("<BBHI", 1, command, len(data), value) + data)

    # The line and the registers

    def _sync(self, command: int, data: bytes, checksum: int) -> bytes:
        return self._said(command, value=0 if self._is_stub else 0x20120707) * 8

    def _read_register(self, command: int, data: bytes, checksum: int) -> bytes:
        (address,) = struct.unpack("<I", data)
        return self._said(command, value=self._registers.get(address, 0))

    def _write_register(self, command: int, data: bytes, checksum: int) -> bytes:
        for at in range(0, len(data), 16):
            address, value, mask, _ = struct.unpack_from("<IIII", data, at)
            before = self._registers.get(address, 0)
            self._registers[address] = before & ~mask | value & mask
        if self._registers.get(_SPI, 0) & _SPI_RUN:
            self._registers[_SPI] = 0
            self._run_spi()
        return self._said(command)

    def _run_spi(self) -> None:
        """The flash chip answers a command that the registers spell out."""
        order = self._registers.get(_SPI_USR2, 0) & 0xFF
        if order == 0x9F:
            self._registers[_SPI_W0] = FLASH_ID
        elif order == 0x5A:  # its description of itself
            address = self._registers.get(_SPI_ADDRESS, 0) >> 8
            self._registers[_SPI_W0] = 0x50444653 if address == 0 else FLASH_ID & 0xFF
        else:
            self._registers[_SPI_W0] = 0

    def _change_baud(self, command: int, data: bytes, checksum: int) -> bytes:
        baud, _ = struct.unpack("<II", data)
        if not 1200 <= baud <= 4_000_000:
            return self._said(command, _REFUSED)
        self._registers[_UART_DIVIDER] = round(40e6 / baud)
        return self._said(command)

    def _accept(self, command: int, data: bytes, checksum: int) -> bytes:
        return self._said(command)

    def _run_uploaded(self, command: int, data: bytes, checksum: int) -> bytes:
        stays, entry = struct.unpack("<II", data)
        answer = self._said(command)
        if not stays and entry:
            self._is_stub = True
            answer += _framed(b"OHAI")
        return answer

    # The flash chip

    def _set_size(self, command: int, data: bytes, checksum: int) -> bytes:
        self._size = struct.unpack_from("<II", data)[1]
        return self._said(command)

    def _begin(self, command: int, data: bytes, checksum: int) -> bytes:
        size, _, self._block, self._at = struct.unpack_from("<IIII", data)
        self._inflate = zlib.decompressobj() if command == 0x10 else None
        if not self._erase(self._at, size):
            return self._said(command, _FAILED)
        return self._said(command)

    def _erase(self, at: int, size: int) -> bool:
        size = -(-size // _SECTOR) * _SECTOR
        if at % _SECTOR or at + size > min(self._size, SIZE):
            return False
        if size:
            self._chip.erase(at, size)
            self._on_erase(at, at + size)
        return True

    def _data(self, command: int, data: bytes, checksum: int) -> bytes:
        size, number = struct.unpack_from("<II", data)
        block = data[16 : 16 + size]
        if checksum != _checksum(block):
            return self._said(command, _CHECKSUM)
        if self._inflate is not None:
            block = self._inflate.decompress(block)
            at = self._at
            self._at += len(block)
        else:
            at = self._at + number * self._block
        if at + len(block) > min(self._size, SIZE):
            return self._said(command, _FAILED)
        self._chip.write(at, block)
        return self._said(command)

    def _finish(self, command: int, data: bytes, checksum: int) -> bytes:
        (stays,) = struct.unpack_from("<I", data)
        # The ROM leaves for the program in any case; the stub only when it is told to.
        self.is_left = not (self._is_stub and stays)
        return self._said(command)

    def _md5(self, command: int, data: bytes, checksum: int) -> bytes:
        at, size = struct.unpack_from("<II", data)
        digest = hashlib.md5(self._chip.read(at, size))
        sent = digest.digest() if self._is_stub else digest.hexdigest().encode()
        return self._said(command, data=sent)

    def _read_flash(self, command: int, data: bytes, checksum: int) -> bytes:
        at, size = struct.unpack("<II", data)
        return self._said(command, data=self._chip.read(at, min(size, 64)).ljust(64, b"\0"))

    def _erase_all(self, command: int, data: bytes, checksum: int) -> bytes:
        if not self._is_stub:
            return self._said(command, _REFUSED)
        self._size = SIZE
        self._erase(0, SIZE)
        return self._said(command)

    def _erase_region(self, command: int, data: bytes, checksum: int) -> bytes:
        at, size = struct.unpack("<II", data)
        if not (self._is_stub and self._erase(at, size)):
            return self._said(command, _REFUSED)
        return self._said(command)


def _framed(packet: bytes) -> bytes:
    escaped = packet.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
    return b"\xc0" + escaped + b"\xc0"


def _checksum(data: bytes) -> int:
    found = 0xEF
    for byte in data:
        found ^= byte
    return found


_HANDLERS: dict[int, Callable[[Loader, int, bytes, int], bytes]] = {
    0x02: Loader._begin,
    0x03: Loader._data,
    0x04: Loader._finish,
    0x05: Loader._accept,  # MEM_BEGIN: the stub is coming
    0x06: Loader._run_uploaded,
    0x07: Loader._accept,  # MEM_DATA
    0x08: Loader._sync,
    0x09: Loader._write_register,
    0x0A: Loader._read_register,
    0x0B: Loader._set_size,
    0x0D: Loader._accept,  # SPI_ATTACH
    0x0E: Loader._read_flash,
    0x0F: Loader._change_baud,
    0x10: Loader._begin,
    0x11: Loader._data,
    0x12: Loader._finish,
    0x13: Loader._md5,
    0xD0: Loader._erase_all,
    0xD1: Loader._erase_region,
}
