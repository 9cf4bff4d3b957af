"""Laws of finding a port, and of ports that cannot be used: one sentence that says what to check."""

import os
import pty
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import serial

from espnet.cable import console, flashing, ports, prompt
from espnet.errors import CableError


@pytest.fixture
def terminal() -> Iterator[str]:
    """A port at whose other end nobody is."""
    master, slave = pty.openpty()
    yield os.ttyname(slave)
    os.close(master)
    os.close(slave)


def kind(port: str) -> tuple[str, str]:
    with pytest.raises(CableError) as caught:
        ports.require(port)
    return caught.value.kind, str(caught.value)


def test_the_only_port_is_the_one() -> None:
    """Exactly one: that one. What was named is not searched for."""
    assert ports.find("", lambda: ["/dev/ttyUSB0"]) == "/dev/ttyUSB0"
    assert ports.find("/dev/ttyACM3", lambda: ["/dev/ttyUSB0"]) == "/dev/ttyACM3"


def test_none_and_several_are_a_sentence() -> None:
    """Without a board: the cable. With two: which."""
    with pytest.raises(CableError, match="data lines"):
        ports.find("", lambda: [], lambda s: None)
    with pytest.raises(CableError, match=r"/dev/ttyUSB0, /dev/ttyUSB1.*--port"):
        ports.find("", lambda: ["/dev/ttyUSB0", "/dev/ttyUSB1"])


def test_a_board_that_is_away_for_a_moment_is_waited_for(tmp_path: Path, terminal: str) -> None:
    """A chip that is its own USB device leaves USB at every reset; its port is there again soon."""
    seen = [["/dev/ttyACM0"], [], []]
    assert ports.find("", lambda: seen.pop(), lambda s: None) == "/dev/ttyACM0"
    port = tmp_path / "ttyACM0"
    ports.require(str(port), lambda s: port.exists() or port.symlink_to(terminal))
    with pytest.raises(CableError, match="data lines"):
        ports.require(str(tmp_path / "ttyACM1"), lambda s: None)


@pytest.mark.parametrize(
    ("vid", "pid", "is_program"),
    [
        (0x10C4, 0xEA60, False),  # CP210x
        (0x1A86, 0x7523, False),  # CH340
        (0x303A, 0x1001, False),  # the chip's own, in hardware: it has reset lines
        (0x303A, 0x4001, True),
        (0xF055, 0x9802, True),
        (None, None, False),
    ],
)
def test_a_usb_device_that_is_a_program_is_known(
    vid: int | None, pid: int | None, is_program: bool
) -> None:
    """It has lines, and they reset nothing."""
    other = SimpleNamespace(device="/dev/ttyACM7", vid=0x303A, pid=0x4001)
    found = SimpleNamespace(device="/dev/ttyACM0", vid=vid, pid=pid)
    assert ports.is_program("/dev/ttyACM0", [other, found]) == is_program
    assert not ports.is_program("/dev/ttyS0", [other, found])


def test_a_port_that_is_not_there(tmp_path: Path) -> None:
    """It may have been unplugged, or only charge."""
    why, sentence = kind(str(tmp_path / "ttyUSB0"))
    assert why == "gone"
    assert "data lines" in sentence


@pytest.mark.parametrize("name", ["/dev/null", "/tmp", __file__])
def test_what_is_no_serial_port(name: str) -> None:
    """A file, a folder, another device."""
    assert kind(name)[0] == "port"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use everything")
def test_a_port_of_others(tmp_path: Path) -> None:
    """Linux gives serial ports to a group."""
    file = tmp_path / "ttyUSB0"
    file.touch(mode=0o000)
    why, sentence = kind(str(file))
    assert why == "denied"
    assert "dialout" in sentence


def test_a_port_that_another_program_has(terminal: str) -> None:
    """Nobody waits for it, and nobody reads half of what comes."""
    with serial.Serial(terminal, exclusive=True):
        assert kind(terminal)[0] == "busy"
        for use in (flashing.look, lambda port: console.reset(port, lambda s: None)):
            with pytest.raises(CableError, match="Another program"):
                use(terminal)
        with pytest.raises(CableError, match="Another program"), prompt.opened(terminal):
            pass
    ports.require(terminal)


def test_a_terminal_has_no_reset_lines(terminal: str) -> None:
    """It is asked, so esptool is not told to pull lines that are not there."""
    assert not ports.has_reset_lines(terminal)


def test_nobody_answers(terminal: str) -> None:
    """The sentence names the boot button."""
    with pytest.raises(CableError, match="BOOT button") as caught:
        flashing.look(terminal)
    assert caught.value.kind == "silent"
