"""MicroPython's prompt on the board, by mpremote: files, their hashes, a reset.

Invariants: coming in stops the board's program and leaves its memory to us; going out resets the board, so
that it works again. A file is written beside its place, checked by its hash on the board, and then renamed.
"""

import ast
import base64
import contextlib
import hashlib
import io
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from espnet.cable import ports
from espnet.errors import CableError

_PATIENCE_S = 5.0
#: Bytes that travel at once: their text has a third more, and is compiled in the board's memory.
_PIECE = 768
#: What the board is taught first.
_LESSON = """
import os, hashlib, binascii, gc
def _sum(path):
    sha, buffer = hashlib.sha256(), bytearray(512)
    with open(path, 'rb') as file:
        while n := file.readinto(buffer):
            sha.update(memoryview(buffer)[:n])
    return binascii.hexlify(sha.digest()).decode()
try:
    import vfs
    _mounted = [at for _, at in vfs.mount()]
except (ImportError, TypeError):
    _mounted = []
def _list(folder):
    for entry in os.ilistdir(folder or '/'):
        path = folder + '/' + entry[0]
        if path in _mounted:
            continue
        if entry[1] & 0x4000:
            print((path, None, 0))
            _list(path)
        else:
            print((path, _sum(path), os.stat(path)[6]))
import machine
# What was running may have left a watchdog that bites in a minute; it cannot be stopped. And should we
# be cut off here, the board starts by itself again, in an hour.
machine.WDT(timeout=3600000)
"""


class File(NamedTuple):
    """What is on the board: SHA-256 in hexadecimal digits, and size in bytes."""

    sha256: str
    size: int


class Prompt:
    """The board behind an open port. Made by `opened`."""

    def __init__(self, port: str, transport: Any) -> None:
        self._port, self._transport = port, transport

    def run(self, code: str) -> str:
        """Runs a few lines on the board; returns what they print. Raises `CableError`."""
        from mpremote.transport import TransportExecError

        with _translated(self._port):
            try:
                return str(self._transport.exec(code).decode("utf-8", "replace"))
            except TransportExecError as e:
                raise _refused(self._port, e.error_output) from e

    def ask(self, expression: str) -> Any:
        """The value of an expression on the board."""
        text = self.run(f"print(repr({expression}))").strip()
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError) as e:
            raise _lost(self._port) from e

    def files(self) -> tuple[dict[str, File], set[str]]:
        """Every file by its path (`/a/web.mpy`), and every folder; not what is on cards and the like."""
        files: dict[str, File] = {}
        folders = set()
        try:
            for line in self.run("_list('')").splitlines():
                path, digest, size = ast.literal_eval(line)
                if digest is None:
                    folders.add(path)
                else:
                    files[path] = File(digest, size)
        except (ValueError, SyntaxError) as e:
            raise _lost(self._port) from e
        return files, folders

    def free(self) -> int:
        """Bytes that are free on flash."""
        block, free = self.ask("(lambda s: (s[1] or s[0], s[4]))(os.statvfs('/'))")
        return int(block * free)

    def read(self, path: str) -> bytes:
        """A whole file, which is small."""
        pieces = []
        self.run(f"file = open({path!r}, 'rb')")
        while text := self.run(f"print(binascii.b2a_base64(file.read({_PIECE})).decode())").strip():
            pieces.append(base64.b64decode(text))
        self.run("file.close()")
        return b"".join(pieces)

    def write(self, path: str, data: bytes, told: Callable[[int], None] = lambda n: None) -> None:
        """Writes a whole file; ``told`` is given the bytes of each piece."""
        path = _from_here(path)
        new = path + ".new"
        self.run(f"gc.collect()\nfile = open({new!r}, 'wb')")
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            text = base64.b64encode(piece).decode()
            self.run(f"file.write(binascii.a2b_base64('{text}'))")
            told(len(piece))
        self.run("file.close()")
        if self.ask(f"_sum({new!r})") != hashlib.sha256(data).hexdigest():
            self.run(f"os.remove({new!r})")
            raise CableError(
                "failed",
                f"{path} did not arrive as it was sent: check the cable, and repeat the command; "
                "the board is as it was.",
            )
        self.run(f"os.rename({new!r}, {path!r})")

    def copy(self, source: str, target: str) -> None:
        """Copies a file on the board itself."""
        source, target = _from_here(source), _from_here(target)
        new = target + ".new"
        self.run(
            f"with open({source!r}, 'rb') as a, open({new!r}, 'wb') as b:\n"
            " while d := a.read(512):\n  b.write(d)\n"
            f"os.rename({new!r}, {target!r})"
        )

    def remove(self, path: str) -> None:
        self.run(f"os.remove({path!r})")

    def make_folder(self, path: str) -> None:
        self.run(f"os.mkdir({path!r})")


def _from_here(path: str) -> str:
    """The path from where a board is after a reset; the unix port can rename no other kind."""
    return path.lstrip("/")


@contextlib.contextmanager
def opened(port: str) -> Iterator[Prompt]:
    """The board's prompt; its program is stopped. Afterwards the board is reset.

    Raises `CableError`, in the block, too, when the board is lost.
    """
    ports.require(port)
    from mpremote.transport import TransportError
    from mpremote.transport_serial import SerialTransport

    try:
        transport = SerialTransport(port, baudrate=115200, timeout=_PATIENCE_S)
    except (TransportError, OSError) as e:
        raise ports.explained(port, f"{port} cannot be opened.") from e
    try:
        _enter(port, transport)
        prompt = Prompt(port, transport)
        prompt.run(_LESSON)
        try:
            yield prompt
        finally:
            _reset(transport)
    finally:
        with contextlib.suppress(OSError):
            transport.close()


def _enter(port: str, transport: Any) -> None:
    from mpremote.transport import TransportError

    for attempt in range(2):  # the first Ctrl-C may fall into the moment in which the board starts
        try:
            with contextlib.redirect_stdout(
                io.StringIO()
            ):  # mpremote prints what it could not read
                transport.enter_raw_repl(soft_reset=True, timeout_overall=_PATIENCE_S)
            return
        except (TransportError, OSError) as e:
            if attempt or isinstance(e, OSError):
                raise ports.explained(
                    port,
                    f"MicroPython does not answer at {port}: press the board's reset button and try again; "
                    "on a board that never had MicroPython, `espcli board flash` puts it there.",
                    is_ours=True,
                ) from e


def _reset(transport: Any) -> None:
    from mpremote.transport import TransportError

    with contextlib.suppress(TransportError, OSError, struct.error):
        transport.exec_raw_no_follow("import time, machine\ntime.sleep_ms(100)\nmachine.reset()")


@contextlib.contextmanager
def _translated(port: str) -> Iterator[None]:
    from mpremote.transport import TransportError

    try:
        yield
    except (TransportError, OSError, struct.error) as e:
        raise _lost(port) from e


def _lost(port: str) -> CableError:
    return ports.explained(
        port,
        f"The board at {port} stopped answering: check the cable, and repeat the command; what was not "
        "finished is as it was.",
        is_ours=True,
    )


def _refused(port: str, traceback: str) -> CableError:
    """What went wrong on the board, from the last line of its traceback, which repeats no data."""
    last = (traceback.strip().splitlines() or ["nothing"])[-1]
    if "ENOSPC" in last or "Errno 28" in last:
        return CableError(
            "flash",
            f"The flash of the board at {port} is full: remove what you put there (`espcli board ls`).",
        )
    if "MemoryError" in last:
        return CableError(
            "failed", f"The board at {port} ran out of memory; reset it and try again."
        )
    kind = last.split(":")[0]
    return CableError(
        "failed", f"The board at {port} refused a step ({kind}); reset it and try again."
    )
