"""Laws of the simulated serial line: mpremote and esptool cannot tell it from a board's."""

import os
from pathlib import Path

import pytest

from espnet.simulator import Board, Fleet
from espnet.simulator.chip import FILES, SIZE, Chip, image

from .cabling import esptool, mpremote, status, until


def test_a_fresh_board_says_that_it_has_nothing_to_boot(fresh: Board) -> None:
    """Nothing boots until an image was written."""
    assert fresh.phase == "blank"
    assert "invalid header: 0xffffffff" in fresh.console
    assert fresh.pid == 0


@pytest.mark.parametrize("stub", [(), ("--no-stub",)], ids=["stub", "rom"])
def test_esptool_finds_the_chip_and_the_boards_id(fresh: Board, stub: tuple[str, ...]) -> None:
    """flash-id: chip, revision, MAC, flash size."""
    said = esptool(fresh, *stub, "flash-id").stdout
    mac = ":".join(fresh.id[n : n + 2] for n in range(0, 12, 2))
    assert "ESP32-D0WD-V3 (revision v3.1)" in said
    assert mac in said
    assert "Detected flash size: 4MB" in said
    until("closing the port resets the board", lambda: fresh.phase == "blank")


@pytest.mark.parametrize("stub", [(), ("--no-stub",)], ids=["stub", "rom"])
def test_an_image_that_was_written_boots(fresh: Board, stub: tuple[str, ...]) -> None:
    """write-flash at both speeds, verified by esptool itself; then MicroPython is at its prompt."""
    done = esptool(fresh, *stub, "--baud", 460800, "write-flash", "0x1000", fresh.image)
    assert "Hash of data verified" in done.stdout, done.stdout + done.stderr
    until("it boots", lambda: fresh.phase == "halted")
    assert mpremote(fresh, "exec", "print(6 * 7)").strip() == "42"
    done = esptool(fresh, *stub, "verify-flash", "0x1000", fresh.image)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("chip_id", [2, 5, 9])
def test_another_chips_image_does_not_boot(fresh: Board, tmp_path: Path, chip_id: int) -> None:
    """As on a board: it is written when somebody insists, and the ROM refuses it."""
    file = tmp_path / "other.bin"
    file.write_bytes(image(chip_id))
    done = esptool(fresh, "--no-stub", "write-flash", "--force", "0x1000", file)
    assert done.returncode == 0, done.stdout
    until("it is reset", lambda: fresh.boots == 2 and fresh.phase == "blank")
    assert "invalid header" in fresh.console


def test_erasing_empties_chip_and_files() -> None:
    """erase-flash leaves nothing of the firmware, and what is erased before 2 MB leaves the files."""
    with Fleet(1, seed=25, serial=True, holds="firmware") as fleet:
        board = fleet[0]
        assert list(board.flash.iterdir())
        esptool(board, "erase-region", "0x9000", "0x6000")
        board.wait_ready()
        assert esptool(board, "erase-flash").returncode == 0
        until("it is reset", lambda: board.phase == "blank")
        assert not list(board.flash.iterdir())


def test_writing_without_erasing_only_clears_bits(tmp_path: Path) -> None:
    """The chip is NOR flash."""
    chip = Chip(tmp_path / "chip")
    chip.write(0, b"\x0f")
    chip.write(0, b"\xf1")
    assert chip.read(0, 1) == b"\x01"
    chip.erase(0, 4096)
    assert chip.read(0, 4096) == b"\xff" * 4096
    chip.close()
    assert (tmp_path / "chip").stat().st_size == SIZE


def test_the_rom_believes_in_two_megabytes(fresh: Board) -> None:
    """Until esptool tells it the size: it does for erase-region, so that what is above can be erased."""
    done = esptool(fresh, "--no-stub", "erase-region", hex(FILES), "0x1000")
    assert done.returncode == 0, done.stdout


def test_garbage_does_not_end_the_loader(fresh: Board) -> None:
    """Broken packets, unknown commands, lies about sizes: the next attempt to connect works."""
    file = os.open(fresh.serial, os.O_RDWR | os.O_NOCTTY)
    sync = b"\xc0\x00\x08\x24\x00\0\0\0\0\x07\x07\x12\x20" + b"U" * 32 + b"\xc0"
    for packet in (
        sync,
        b"\xc0\xc0\xc0",
        b"\xc0\x00\x03\xff\xff\0\0\0\0\xc0",
        b"\xc0\0\x02\x01\0\0\0\0\0x\xc0",
    ):
        os.write(file, packet + b"\xdb\x00" + bytes(range(256)))
    os.write(file, b"\xc0\x00" + bytes([0x77]) + b"\x00\x00\0\0\0\0\xc0")
    os.close(file)
    assert "Detected flash size" in esptool(fresh, "--no-stub", "flash-id").stdout


def test_mpremote_works_with_files(board: Board, tmp_path: Path) -> None:
    """cp, ls, cat, sha256sum, mkdir, rm: what it does arrives in the board's folder."""
    file = tmp_path / "note.txt"
    file.write_bytes(bytes(range(256)) * 8)
    mpremote(board, "mkdir", ":box")
    mpremote(board, "fs", "cp", file, ":box/note.txt")
    assert (board.flash / "box" / "note.txt").read_bytes() == file.read_bytes()
    assert "note.txt" in mpremote(board, "fs", "ls", ":box")
    mpremote(board, "fs", "cp", ":box/note.txt", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    mpremote(board, "fs", "rm", ":box/note.txt")
    mpremote(board, "fs", "rmdir", ":box")
    assert not (board.flash / "box").exists()


def test_any_command_stops_the_program_until_a_reset(board: Board) -> None:
    """As on hardware: HTTP is back after `reset`, and the cause is a hard one."""
    assert status(board)["id"] == board.id
    mpremote(board, "exec", "1")
    until("it is at its prompt", lambda: board.phase == "halted")
    mpremote(board, "reset")
    board.wait_ready()
    assert board.reset_cause == "hard"
    assert status(board)["reset_cause"] == "hard"


def test_a_soft_reset_at_the_friendly_prompt_starts_the_program(board: Board) -> None:
    """mpremote's soft-reset leaves main.py out; Ctrl-D at the prompt runs it."""
    mpremote(board, "soft-reset")
    assert board.phase == "halted"
    file = os.open(board.serial, os.O_RDWR | os.O_NOCTTY)
    os.write(file, b"\r\x02\x04")
    board.wait_ready()
    os.close(file)
    assert board.reset_cause == "soft"
    assert "MPY: soft reboot" in board.console


def test_only_one_program_has_the_port(board: Board) -> None:
    """Two boards on serial lines do not hear each other."""
    with Fleet(2, seed=23, serial=True, holds="micropython") as fleet:
        for each in fleet:
            mpremote(each, "exec", f"open('me', 'w').write('{each.id}')")
        assert [(each.flash / "me").read_text() for each in fleet] == [each.id for each in fleet]


def test_a_board_on_a_line_serves_like_any_other(board: Board) -> None:
    """Console, wires and watchdog are the same: only the console goes over the line as well."""
    board.set(board_c=50.0)
    assert status(board)["f"] == 122
    assert board.describe()["port"] == board.serial
    board.power(False)
    assert board.phase == "off"
    board.power(True)
    assert status(board)["reset_cause"] == "power_on"
