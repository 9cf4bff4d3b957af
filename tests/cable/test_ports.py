"""Laws of finding a port, and of ports that cannot be used: one sentence that says what to check."""

import os
import pty
from collections.abc import Iterator
from pathlib import Path

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
        ports.find("", lambda: [])
    with pytest.raises(CableError, match=r"/dev/ttyUSB0, /dev/ttyUSB1.*--port"):
        ports.find("", lambda: ["/dev/ttyUSB0", "/dev/ttyUSB1"])


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
