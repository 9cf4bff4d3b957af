"""Which port the board is on, and why a port cannot be opened."""

import errno
import fcntl
import os
import stat
import termios
import time
from collections.abc import Callable, Iterable
from typing import Any

from espnet.errors import CableError

_CABLE = "check that the board is plugged in, and that the cable has data lines (many only charge)"
#: A board whose chip is itself the USB device is gone from USB for a moment at every reset: so many looks.
_LOOKS, _PAUSE_S = 25, 0.1
#: Chips that are their own USB device, and the two ways: in hardware, with lines that reset; by a program.
_ESPRESSIF, _MICROPYTHON = 0x303A, 0xF055
_IN_HARDWARE = 0x1001


def plugged() -> list[str]:
    """The ports with a USB device."""
    from serial.tools import list_ports

    return sorted(str(port.device) for port in list_ports.comports() if port.vid is not None)


def find(
    given: str = "",
    look: Callable[[], list[str]] = plugged,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """The port that was named, or the only one that ``look`` finds; raises `CableError`."""
    if given:
        return given
    for _ in range(_LOOKS):
        if ports := look():
            break
        pause(_PAUSE_S)
    if len(ports) == 1:
        return ports[0]
    if not ports:
        raise CableError("port", f"No board is found: {_CABLE}; or name its port with --port.")
    raise CableError(
        "port",
        f"There are several: {', '.join(ports)}; say which one with --port, or unplug the others.",
    )


def explained(port: str, otherwise: str, *, is_ours: bool = False) -> CableError:
    """Why the port cannot be used; ``otherwise`` is what to say when it is not the port.

    ``is_ours``: this program has it open, and nobody else.
    """
    try:
        file = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError as e:
        return _of_error(port, e, otherwise)
    try:
        if not stat.S_ISCHR(os.fstat(file).st_mode):
            return CableError("port", f"{port} is no serial port: name one such as /dev/ttyUSB0.")
        termios.tcgetattr(file)
        if not is_ours:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _busy(port)
    except (OSError, termios.error):
        return CableError("port", f"{port} is no serial port: name one such as /dev/ttyUSB0.")
    finally:
        os.close(file)
    return CableError("silent", otherwise)


def require(port: str, pause: Callable[[float], None] = time.sleep) -> None:
    """Raises `CableError` when the port cannot be opened; nothing is sent."""
    looks = _LOOKS if _may_come_back(port) else 1
    for look in range(looks):
        problem = explained(port, "")
        if problem.kind != "gone" or look + 1 == looks:
            break
        pause(_PAUSE_S)
    if str(problem):
        raise problem


def _may_come_back(port: str) -> bool:
    """Whether the name is one of those that chips get which are themselves the USB device."""
    name = os.path.basename(port)
    return name.startswith(("ttyACM", "cu.usbmodem", "tty.usbmodem"))


def is_program(port: str, ports: Iterable[Any] | None = None) -> bool:
    """Whether a program on the board is the USB device: then the port's lines reset nothing."""
    if ports is None:
        from serial.tools import list_ports

        ports = list_ports.comports()
    device = os.path.realpath(port)
    for each in ports:
        if os.path.realpath(str(each.device)) == device:
            is_own = each.vid == _ESPRESSIF and each.pid != _IN_HARDWARE
            return bool(is_own or each.vid == _MICROPYTHON)
    return False


def has_reset_lines(port: str) -> bool:
    """Whether the port has the two lines that reset a board, which a pseudo-terminal, for one, has not."""
    try:
        file = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return True
    try:
        fcntl.ioctl(file, termios.TIOCMGET, bytes(4))
    except OSError as e:
        return e.errno not in (errno.ENOTTY, errno.EINVAL)
    finally:
        os.close(file)
    return True


def _of_error(port: str, e: OSError, otherwise: str) -> CableError:
    if e.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.EIO, errno.ENOTDIR):
        return CableError("gone", f"There is nothing at {port}: {_CABLE}.")
    if e.errno in (errno.EACCES, errno.EPERM):
        return CableError(
            "denied",
            f"You may not use {port}: add yourself to its group (`sudo usermod -aG dialout $USER`) "
            "and log in again.",
        )
    if e.errno == errno.EBUSY:
        return _busy(port)
    if e.errno == errno.EISDIR:
        return CableError("port", f"{port} is no serial port: name one such as /dev/ttyUSB0.")
    return CableError("silent", otherwise or f"{port} cannot be opened: {e.strerror}.")


def _busy(port: str) -> CableError:
    return CableError(
        "busy",
        f"Another program has {port} open: end it (a terminal, an IDE, another espcli) first.",
    )
