"""Erases a board's chip and writes MicroPython onto it, by esptool's own functions.

Invariants: everything that can be wrong with the image, or with its chip, is found before anything is erased;
what was written is read back (as a hash) before it is called written.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from espnet.cable import Progress, ports
from espnet.cable.image import Image
from espnet.errors import CableError

BAUD = 460_800
_CONNECT_BAUD = 115_200
_ATTEMPTS = 3


@dataclass(frozen=True)
class Chip:
    """What a board's chip says of itself. ``revision`` is 301 for v3.1, ``flash`` its size in bytes."""

    name: str
    chip_id: int
    description: str
    revision: int
    mac: str
    flash: int


def look(port: str) -> Chip:
    """Which chip is at the port; resets the board. Raises `CableError`."""
    with _loader(port, _forget) as held:
        return _chip(port, held.esp)


def flash(
    port: str,
    image: Image | Callable[[Chip], Image],
    progress: Progress,
    *,
    baud: int = BAUD,
    no_stub: bool = False,
) -> tuple[Chip, Image]:
    """Erases the chip at the port, writes the image and verifies it. Raises `CableError`.

    ``image`` may be a choice for the chip: it is made while the chip is held, because some boards come into
    their loader only by their button. ``no_stub``: without esptool's own loader in the chip's memory;
    slower, and works where that does not.
    """
    progress("looking for the chip", 0, 1)
    with _loader(port, progress) as held:
        import esptool

        esp = held.esp
        chip = _chip(port, esp)
        if callable(image):
            image = image(chip)
        offset = int(esp.BOOTLOADER_FLASH_OFFSET)
        _require_fit(image, chip, offset)
        if not no_stub:
            esp = held.esp = esptool.run_stub(esp)
        if baud != _CONNECT_BAUD:
            esp.change_baud(baud)
        progress("erasing", 0, 1)
        if no_stub:
            esptool.erase_region(esp, 0, chip.flash)
        else:
            esptool.erase_flash(esp)
        progress("erasing", 1, 1)
        # It compares the hash of what is on the chip then, and fails if it is another one.
        esptool.write_flash(esp, [(offset, image.data)])
    progress("writing", len(image.data), len(image.data))
    return chip, image


def _chip(port: str, esp: Any) -> Chip:
    import esptool
    from esptool.util import flash_size_bytes

    if esp.IMAGE_CHIP_ID is None:
        raise CableError(
            "chip",
            f"The board at {port} has an {esp.CHIP_NAME}; EspNet needs an ESP32 of any kind.",
        )
    esptool.attach_flash(esp)
    size = flash_size_bytes(esptool.detect_flash_size(esp))
    if not size:
        raise CableError(
            "silent", f"The flash of the board at {port} does not answer: is it sound?"
        )
    return Chip(
        name=str(esp.CHIP_NAME),
        chip_id=int(esp.IMAGE_CHIP_ID),
        description=str(esp.get_chip_description()),
        revision=int(esp.get_chip_revision()),
        mac="".join(f"{byte:02x}" for byte in esp.read_mac("BASE_MAC")),
        flash=int(size),
    )


def _require_fit(image: Image, chip: Chip, offset: int) -> None:
    if image.chip_id != chip.chip_id:
        made_for = _names().get(image.chip_id, f"chip number {image.chip_id}")
        problem = f"is for {made_for}, and this board has {chip.description}"
    elif image.least_revision > chip.revision:
        problem = (
            f"needs revision {_revision(image.least_revision)} of the chip, and this board has "
            f"{chip.description}"
        )
    elif offset + len(image.data) > chip.flash:
        problem = f"has {len(image.data):,} bytes, and this board's flash {chip.flash:,}"
    elif image.flash > chip.flash:
        problem = (
            f"is for {image.flash >> 20} MB of flash, and this board has {chip.flash >> 20} MB: it would "
            "not start"
        )
    else:
        return
    raise CableError("image", f"{image.path} {problem}; nothing was erased.")


def _names() -> dict[int, str]:
    from esptool.targets import ROM_LIST

    return {
        chip.IMAGE_CHIP_ID: chip.CHIP_NAME for chip in ROM_LIST if chip.IMAGE_CHIP_ID is not None
    }


def _revision(number: int) -> str:
    return f"v{number // 100}.{number % 100}"


class _Held:
    """``esp`` is who answers on the chip: the ROM's loader, later esptool's stub."""

    def __init__(self, esp: Any) -> None:
        self.esp = esp


@contextlib.contextmanager
def _loader(port: str, progress: Progress) -> Iterator[_Held]:
    """The chip's own loader. Afterwards the board is reset: by its lines, or by the port being closed."""
    ports.require(port)
    import esptool
    import serial
    from esptool.util import FatalError

    _silence()
    _listeners[-1] = progress
    has_lines = ports.has_reset_lines(port)
    held: _Held | None = None
    try:
        held = _Held(
            esptool.detect_chip(
                port,
                _CONNECT_BAUD,
                "default-reset" if has_lines else "no-reset",
                connect_attempts=_ATTEMPTS,
            )
        )
        yield held
    except (FatalError, serial.SerialException, OSError) as e:
        raise _failed(port, e, is_connected=held is not None) from e
    finally:
        if held is not None:
            with contextlib.suppress(FatalError, serial.SerialException, OSError):
                if has_lines:
                    held.esp.hard_reset()
            with contextlib.suppress(serial.SerialException, OSError):
                held.esp._port.close()


def _failed(port: str, e: Exception, *, is_connected: bool) -> CableError:
    if not is_connected:
        return ports.explained(
            port,
            f"No ESP chip answers at {port}: hold the board's BOOT button while you try again, "
            "and check that the cable has data lines and that this is the right port.",
        )
    what = str(e).split("\n")[0].rstrip(".")
    return CableError(
        "failed",
        f"The board at {port} was lost while it was being flashed ({what}): check the cable, and repeat the "
        "command; --no_stub and a lower --baud are slower and surer.",
    )


def _forget(what: str, done: int, total: int) -> None:
    pass


#: Whom the logger of esptool, of which a program has one, tells of progress.
_listeners: list[Progress] = [_forget]


@functools.cache
def _silence() -> None:
    """esptool's own words go nowhere from now on; its progress goes to the listener."""
    from esptool.logger import TemplateLogger, log

    class Quiet(TemplateLogger):  # type: ignore[misc]
        def print(self, *args: Any, **kwargs: Any) -> None: ...

        def note(self, message: str) -> None: ...

        def warning(self, message: str) -> None: ...

        def error(self, message: str) -> None: ...

        def stage(self, finish: bool = False) -> None: ...

        def set_verbosity(self, verbosity: str) -> None: ...

        def progress_bar(
            self,
            cur_iter: int,
            total_iters: int,
            prefix: str = "",
            suffix: str = "",
            bar_length: int = 30,
        ) -> None:
            _listeners[-1]("writing", cur_iter, total_iters)

    log.set_logger(Quiet())
