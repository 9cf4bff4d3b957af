"""A terminal or a pipe: one line a sample, for people who watch.

Invariants: accepted means flushed. Nothing that a board or a person named reaches the terminal as a control
character. A pipe whose reader stopped reading, or a terminal that was paused, holds `Console.send` up for
`WAIT_S` and no longer.
"""

import io
import select
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TextIO

from espnet.clock import Clock, SystemClock
from espnet.samples import Sample
from espnet.sinks import Outcome, Verdict

#: How long one `Console.send` waits for a reader, in seconds.
WAIT_S = 5.0
#: What a pipe that has any room takes at once (POSIX's PIPE_BUF on Linux).
_PIECE_BYTES = 4096


class Console:
    """Shows samples on ``stream``: local time, device, metric, value, other tags."""

    name = "console"
    window_s: float | None = None
    future_s: float | None = None

    def __init__(self, stream: TextIO, *, clock: Clock | None = None) -> None:
        self._stream, self._clock = stream, clock or SystemClock()

    def send(self, samples: Sequence[Sample]) -> Outcome:
        """Writes the samples and flushes them; stops when nobody takes them."""
        accepted = 0
        until = self._clock.monotonic() + WAIT_S
        for count, text in self._pieces(samples):
            is_unsure, why = False, ""
            try:
                if is_ready(self._stream, until - self._clock.monotonic()):
                    self._stream.write(text)
                    self._stream.flush()
                else:
                    why = f"has taken nothing for {WAIT_S:g} s; let it go on"
            except OSError as error:
                # Some of it may be on the screen.
                is_unsure = True
                why = f"cannot be written to ({error.strerror or error}); start it anew"
            except ValueError:
                why = "is closed; start it anew"
            if why:
                reason = f"The console {why}."
                return Outcome(accepted, Verdict.BUSY, reason, count, is_unsure)
            accepted += count
        return Outcome(accepted)

    def _pieces(self, samples: Sequence[Sample]) -> Iterator[tuple[int, str]]:
        """The lines, as many at a time as a pipe takes at once; each piece with how many they are."""
        encoding = self._stream.encoding or "utf-8"
        count, piece = 0, b""
        for sample in samples:
            # A terminal that knows ASCII only is shown `\xb5` for µ.
            line = f"{line_of(sample)}\n".encode(encoding, "backslashreplace")
            if count and len(piece) + len(line) > _PIECE_BYTES:
                yield count, piece.decode(encoding)
                count, piece = 0, b""
            count, piece = count + 1, piece + line
        if count:
            yield count, piece.decode(encoding)


def is_ready(stream: TextIO, wait_s: float) -> bool:
    """Whether a piece can be written now, or within ``wait_s``. Streams in memory always can."""
    try:
        fd = stream.fileno()
    except io.UnsupportedOperation:
        return True
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    # Whatever else it reports, a reader that is gone among it, the writing will say.
    return bool(poller.poll(max(0.0, wait_s) * 1000))


def line_of(sample: Sample) -> str:
    """``2025-06-15 14:03:21  porch  esp32.f  71.6  room:attic``, in local time."""
    name = next((tag[5:] for tag in sample.tags if tag.startswith("name:")), "-")
    others = (tag for tag in sample.tags if not tag.startswith("name:"))
    columns = (_when(sample.at), f"{name:16}", f"{sample.metric:20}", f"{sample.value:>10.10g}")
    return _shown("  ".join((*columns, " ".join(others)))).rstrip()


def _when(at: float) -> str:
    try:
        return f"{datetime.fromtimestamp(at, UTC).astimezone():%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return f"at {at:g}"


def _shown(text: str) -> str:
    """The text with everything that is not for reading written as an escape: line ends, colours, RTL."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
