"""A file of JSON lines: one sample a line, for `jq`, log shippers and people who keep everything.

Invariants: accepted means written and synced to the disk, file and name. A write that fails is taken back,
so the file holds whole lines only, and what a crash left of a line goes before the next one is written.
Any number of processes and threads may share the file: whoever writes or rotates holds the lock of the
file that the path names at that moment. Nothing is open between two `send`.
"""

import errno
import fcntl
import itertools
import math
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from espnet.errors import SinkError
from espnet.samples import Sample
from espnet.sinks import Outcome, Verdict

DEFAULT_MAX_BYTES = 100_000_000
DEFAULT_KEEP = 5
#: How long one `File.send` waits for others' locks, in seconds. A lock is held for as long as a batch takes
#: to reach the disk.
WAIT_S = 10.0
_PAUSE_S = 0.01
#: How far back the beginning of a torn line is looked for. Names and tags are bounded far below this.
_LINE_BYTES = 65_536
#: What a disk that has no room says.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ADVICE = {
    errno.ENOENT: "create its folder",
    errno.ENOTDIR: "create its folder",
    errno.EISDIR: "name a file, not a folder",
    errno.EACCES: "let this user write there",
    errno.EPERM: "let this user write there",
    errno.EROFS: "name a file on a disk that can be written",
    errno.EIO: "look at the disk",
    errno.EWOULDBLOCK: "end that process",
} | dict.fromkeys(_FULL, "make room there")

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Sample)


class File:
    """Appends samples to ``path``.

    A file that would grow beyond ``max_bytes`` becomes ``path.1``, that one ``path.2`` and so on up to
    ``path.keep``; the oldest is deleted. ``wait_s`` bounds the wait for other writers. Raises `SinkError` for
    bounds that cannot be right.
    """

    name = "file"
    window_s: float | None = None
    future_s: float | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        keep: int = DEFAULT_KEEP,
        wait_s: float = WAIT_S,
    ) -> None:
        if not os.fspath(path):
            raise SinkError("The file sink needs a path; set ESPNET_FILE.")
        if max_bytes < 1 or keep < 1:
            raise SinkError("The file sink needs room for at least 1 byte and 1 older file.")
        # Absolute from the beginning, since a daemon may change its folder; and behind links, since
        # rotation renames what it finds.
        self._path = Path(os.path.realpath(path))
        self._max_bytes, self._keep = max_bytes, keep
        self._pauses = round(wait_s / _PAUSE_S)

    def send(self, samples: Sequence[Sample]) -> Outcome:
        """Writes and syncs the samples, in several files if need be; stops at the first that fails."""
        lines, problem = _lines(samples)
        pauses = iter(range(self._pauses))
        accepted = 0
        try:
            while accepted < len(lines):
                with self._opened(pauses) as (fd, size):
                    count = self._fitting(lines[accepted:], size)
                    if count:
                        if not size:
                            self._sync_folder()
                        _append(fd, size, b"".join(lines[accepted : accepted + count]))
                        accepted += count
                    else:
                        self._rotate()
        except OSError as error:
            return Outcome(accepted, Verdict.BUSY, self._sentence(error), len(lines) - accepted)
        if problem:
            return Outcome(accepted, Verdict.BAD, problem, 1)
        return Outcome(accepted)

    def _fitting(self, lines: list[bytes], size: int) -> int:
        """How many lines still go into a file of ``size`` bytes; an empty one takes at least one."""
        totals = itertools.accumulate(map(len, lines), initial=size)
        next(totals)
        count = sum(1 for _ in itertools.takewhile(self._max_bytes.__ge__, totals))
        return count if size else max(count, 1)

    @contextmanager
    def _opened(self, pauses: Iterator[int]) -> Iterator[tuple[int, int]]:
        """The file that the path names, locked, without a torn end; and its size.

        Another process may rotate between the opening and the lock: then the lock is that of an older
        file, and the new one is opened.
        """
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode):
                    raise OSError(errno.EINVAL, "not a regular file")
                _lock(fd, pauses)
                if self._names(found):
                    yield fd, _mended(fd, os.fstat(fd).st_size)
                    return
            finally:
                os.close(fd)

    def _names(self, found: os.stat_result) -> bool:
        """Whether the path still leads to that file."""
        try:
            return os.path.samestat(found, os.stat(self._path))
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        """Makes room for a new file. Under the lock of the present one, whose renaming comes last.

        A gap, as a crash in here leaves one, is filled first: nothing is deleted needlessly.
        """
        names = [self._path, *(self._older(number) for number in range(1, self._keep + 1))]
        gap = next((n for n in range(1, self._keep) if not names[n].exists()), self._keep)
        for number in range(gap, 0, -1):
            os.replace(names[number - 1], names[number])
        self._sync_folder()

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _sync_folder(self) -> None:
        """A name is on the disk when its folder is."""
        try:
            fd = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:
            return  # A folder that may be written but not read: the name will be there some seconds later.
        try:
            os.fsync(fd)
        except OSError as error:
            # Some network file systems have no such thing.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(fd)

    def _sentence(self, error: OSError) -> str:
        what = error.strerror or str(error)
        where = error.filename2 or error.filename
        if where is not None and str(where) != str(self._path):
            what += f": {where}"
        advice = _ADVICE.get(error.errno or 0, "see ESPNET_FILE")
        return f"Samples cannot be written to {self._path} ({what}); {advice}."


def _lines(samples: Sequence[Sample]) -> tuple[list[bytes], str]:
    """The samples as lines, up to the first that no line can hold, and what is wrong with that one."""
    lines: list[bytes] = []
    for sample in samples:
        # JSON has no NaN; the library would write null.
        if not (math.isfinite(sample.value) and math.isfinite(sample.at)):
            return lines, f"A sample of {sample.metric} is not finite; JSON cannot say it."
        try:
            lines.append(_encoder.encode(sample) + b"\n")
        except UnicodeEncodeError:
            return lines, f"A sample of {sample.metric!r} is not text; JSON cannot say it."
    return lines, ""


def _lock(fd: int, pauses: Iterator[int]) -> None:
    """Waits for the lock, for a bounded time: its holder may be a stopped process."""
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if next(pauses, None) is None:
                raise OSError(errno.EWOULDBLOCK, "another process keeps it locked") from None
            time.sleep(_PAUSE_S)


def _append(fd: int, size: int, data: bytes) -> None:
    """Writes and syncs all of it, or makes the file as long as it was."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(fd, size)
            os.fsync(fd)
        raise


def _mended(fd: int, size: int) -> int:
    """The size of the file after its last line is whole.

    A line without an end is what a crash left. Nobody was told that it is there, so the torn piece of
    one goes; a whole one only lacks its end. Text that is not ours is left alone.
    """
    tail = os.pread(fd, min(size, _LINE_BYTES), max(0, size - _LINE_BYTES))
    if not tail or tail.endswith(b"\n"):
        return size
    torn = tail[tail.rfind(b"\n") + 1 :]
    begin = size - len(torn)
    # A power cut may leave the length of a line without its bytes.
    if not _is_sample(torn) and _is_ours(torn.strip(b"\0")):
        os.ftruncate(fd, begin)
        return begin
    _append(fd, size, b"\n")
    return size + 1


def _is_sample(line: bytes) -> bool:
    try:
        _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def _is_ours(piece: bytes) -> bool:
    """Whether a line that we write begins, or may begin, like this."""
    head = b'{"metric":"'
    return piece.startswith(head) or head.startswith(piece)
