"""What a board's program prints, and a reset, without interrupting anything first."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from espnet.cable import ports, prompt
from espnet.clock import Clock

#: A wait for more; short, so that an end that was asked for is not far.
_WAIT_S = 0.2
_RESET_S = 0.1


def follow(
    port: str, say: Callable[[str], None], clock: Clock, seconds: float | None = None
) -> None:
    """Gives ``say`` every line that the board prints, for so long, or for ever; raises `CableError`."""
    import serial

    end = None if seconds is None else clock.monotonic() + seconds
    rest = b""
    with _opened(port) as line:
        while end is None or clock.monotonic() < end:
            try:
                rest += line.read(max(1, line.in_waiting))
            except (serial.SerialException, OSError) as e:
                gone = f"The board at {port} was unplugged."
                raise ports.explained(port, gone, is_ours=True) from e
            *whole, rest = rest.split(b"\n")
            for text in whole:
                say(text.decode("utf-8", "replace").rstrip("\r"))
    if rest:
        say(rest.decode("utf-8", "replace"))


def reset(port: str, pause: Callable[[float], None]) -> None:
    """Restarts the board: by its reset line, or, where there is none, from MicroPython's prompt."""
    if not ports.has_reset_lines(port) or ports.is_program(port):
        with prompt.opened(port):
            return
    with _opened(port) as line:
        line.dtr = False
        pause(_RESET_S)
        line.rts = False


@contextlib.contextmanager
def _opened(port: str) -> Iterator[Any]:
    ports.require(port)
    import serial

    # Both lines together, as they are by default, do nothing to a board; one alone would reset it.
    try:
        line = serial.Serial(port, 115200, timeout=_WAIT_S, exclusive=True)
    except (serial.SerialException, OSError) as e:
        raise ports.explained(port, f"{port} cannot be opened.") from e
    try:
        yield line
    finally:
        line.close()
