"""The Datadog Agent on this machine or network, by DogStatsD datagrams.

The ``datadog`` library's client writes the lines, and nothing else: its own sending drops what the
kernel does not take, and says so in a log at best. Here each datagram is sent in the open.

What accepted means: the kernel took the datagram. On a Unix socket that is as good as delivered, because
the kernel refuses what the Agent has no room for. By UDP it is no more than that: nobody answers, so an
Agent that is overrun, or a network, may still lose it, and an Agent that is not there shows only on
its own machine, or at the next datagram.

Agent 7.40 or newer: older ones do not know timestamps, and neither does one whose
``dogstatsd_no_aggregation_pipeline`` is off; they would take each point for one of the present. Times
are whole seconds. A character that Datadog does not allow in a tag becomes ``_``, as it would at Datadog.

Invariants: no thread, no metric and no tag of the library's own, nothing from the environment. A
datagram holds whole lines, and no more bytes than the Agent reads at once.
"""

import errno
import math
import os
import re
import socket
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from espnet.clock import SystemClock
from espnet.errors import SinkError
from espnet.net.names import resolve
from espnet.samples import Sample
from espnet.sinks import SEND_S, Outcome, Verdict

DEFAULT_ADDRESS = "127.0.0.1:8125"
DEFAULT_PORT = 8125
#: Most bytes of a datagram with several lines: what passes an Ethernet in one piece; the Agent's buffer.
UDP_BYTES, UNIX_BYTES = 1_432, 8_192
#: Longest path of a Unix socket (Linux has 108 bytes with the zero at the end, others have 104).
_PATH_BYTES = 103

_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,199}", re.ASCII)

_monotonic = SystemClock().monotonic


class DogStatsd:
    """Sends samples as gauges with their times. One thread's at a time.

    ``address`` is ``HOST:PORT`` or ``unix:///PATH``. An Agent that takes nothing for ``timeout_s`` is
    busy; a whole `send` may last ``within_s``. Raises `SinkError` for an address that cannot be one.
    The library is imported by the first `send`.
    """

    name = "dogstatsd"
    window_s: float | None = 3_600.0
    future_s: float | None = 600.0

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout_s: float = 2.0,
        within_s: float = SEND_S - 1.0,
    ) -> None:
        self._where = address
        self._path, self._host, self._port = _parse_address(address)
        self._most_bytes = UNIX_BYTES if self._path else UDP_BYTES
        self._timeout_s, self._within_s = timeout_s, within_s
        self._writer: _Writer | None = None
        self._socket: socket.socket | None = None
        # A sink may be dropped without a word; its socket must not outlive it.
        self._open = ExitStack()
        weakref.finalize(self, self._open.close)

    def send(self, samples: Sequence[Sample]) -> Outcome:
        """Delivers samples, many to a datagram; stops at the first one that the kernel does not take."""
        deadline = _monotonic() + self._within_s
        accepted = 0
        self._writer = self._writer or _Writer()
        for datagram in _datagrams(samples, self._writer, self._most_bytes):
            if datagram.problem:
                return Outcome(accepted, Verdict.BAD, datagram.problem, tried=1)
            left_s = deadline - _monotonic()
            if left_s <= 0:
                why = self._sentence(f"took {accepted} samples in the time there was")
                return Outcome(accepted, Verdict.BUSY, why, retry_after_s=0.0)
            try:
                self._put(datagram.lines, min(left_s, self._timeout_s))
            except OSError as error:
                self.close()
                return self._refusal(error, accepted, datagram.samples)
            accepted += datagram.samples
        return Outcome(accepted)

    def close(self) -> None:
        """Gives the socket back; `send` makes a new one when it needs one."""
        self._open.close()
        self._socket = None

    def _put(self, lines: bytes, timeout_s: float) -> None:
        """Returns when the kernel has taken it; raises `OSError`."""
        if self._socket is None:
            self._socket = self._open.enter_context(self._connected(timeout_s))
        # With a time-out the kernel waits for room at a Unix socket instead of refusing at once.
        self._socket.settimeout(timeout_s)
        self._socket.send(lines)
        # Nobody listens: on the same machine the kernel knows it by now, and tells who asks.
        if failed := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(failed, os.strerror(failed))

    def _connected(self, timeout_s: float) -> socket.socket:
        """A socket that knows its Agent, so that the kernel tells it of errors."""
        if self._path:
            found: list[Any] = [(socket.AF_UNIX, socket.SOCK_DGRAM, 0, "", self._path)]
        else:
            found = list(resolve(self._host, self._port, socket.SOCK_DGRAM, timeout_s))
            # An Agent listens on IPv4 unless told otherwise, and UDP cannot try one after another.
            found.sort(key=lambda one: one[0] != socket.AF_INET)
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    def _refusal(self, error: OSError, accepted: int, count: int) -> Outcome:
        """The kernel refused a datagram, or there is nowhere to send it. It was not sent."""
        verdict = Verdict.BUSY
        if isinstance(error, PermissionError):
            verdict = Verdict.DENIED
        elif error.errno == errno.EMSGSIZE:
            verdict = Verdict.TOO_LARGE if count > 1 else Verdict.BAD
        if isinstance(error, TimeoutError | BlockingIOError):
            what = "takes no more for now"
        else:
            what = f"cannot be sent to ({error.strerror or error})"
        return Outcome(accepted, verdict, self._sentence(what), tried=count)

    def _sentence(self, what: str) -> str:
        return f"DogStatsD at {self._where} {what}."


class _Writer:
    """The library's client, with this in the place of its socket: what it sends is the line it wrote."""

    def __init__(self) -> None:
        from datadog.dogstatsd.base import DogStatsd as Library

        tape = self

        class Client(Library):
            def get_socket(self, telemetry: bool = False) -> Any:
                return tape

        # Host and port keep it from asking the environment; they are never used.
        client: Any = Client(
            host="127.0.0.1",
            port=DEFAULT_PORT,
            disable_telemetry=True,
            origin_detection_enabled=False,
            track_instance=False,
        )
        # What it took from the environment all the same: DD_ENV and its like, DD_EXTERNAL_ENV,
        # DD_DOGSTATSD_DISABLE.
        client.constant_tags = []
        client._external_data, client._enabled = None, True
        self._write = client.gauge_with_timestamp
        self._line = b""

    def send(self, line: bytes) -> int:
        """For the library."""
        self._line = line
        return len(line)

    def line(self, sample: Sample) -> bytes:
        """One sample in the protocol, with its line's end; empty if the protocol cannot say it."""
        metric, value, at, tags = sample.metric, sample.value, sample.at, sample.tags
        # Time 0 would mean the present, and so would a smaller one.
        if not (_METRIC.fullmatch(metric) and math.isfinite(value) and 1 <= at < 2**62):
            return b""
        self._line = b""
        self._write(metric, value, int(at), tags)
        line = self._line
        # The library has replaced whatever could end a tag, a field or the line too early.
        is_whole = line.count(b"|") == (3 if tags else 2) and line.find(b"\n") == len(line) - 1
        return line if is_whole else b""


class _Datagram(NamedTuple):
    """How many samples, and as what; with a ``problem`` the next sample can go in none."""

    samples: int
    lines: bytes
    problem: str = ""


def _datagrams(samples: Sequence[Sample], writer: _Writer, most_bytes: int) -> Iterator[_Datagram]:
    """Neighbours, as many as fit in each."""
    lines: list[bytes] = []
    size_bytes, problem = 0, ""
    for sample in samples:
        line = writer.line(sample)
        if not line:
            problem = f"A sample of {sample.metric[:200]!r} cannot be said in DogStatsD's protocol."
            break
        if len(line) > UNIX_BYTES:
            problem = f"A sample of {sample.metric} is longer than the Agent reads at once."
            break
        if lines and size_bytes + len(line) > most_bytes:
            yield _Datagram(len(lines), b"".join(lines))
            lines, size_bytes = [], 0
        lines.append(line)
        size_bytes += len(line)
    if lines:
        yield _Datagram(len(lines), b"".join(lines))
    if problem:
        yield _Datagram(0, b"", problem)


def _parse_address(address: str) -> tuple[str, str, int]:
    """The path, or "" with host and port."""
    if address.startswith("unix://"):
        path = address.removeprefix("unix://")
        if path.startswith("/") and "\0" not in path and len(os.fsencode(path)) <= _PATH_BYTES:
            return path, "", 0
    else:
        try:
            parts = urlsplit(f"//{address}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if host and parts.netloc == address and "@" not in address and port != 0:
            return "", host, port or DEFAULT_PORT
    raise SinkError(
        f"The DogStatsD address must be HOST:PORT or unix:///PATH, such as {DEFAULT_ADDRESS}."
    )
