"""A stand-in for Datadog's metrics intake, on loopback: for tests, the demo and workshops.

It judges ``POST /api/v1/series`` as the real one does: key, sizes, compression, schema, time window.
Like the real one it answers 202 to points outside its window, and does not ingest them. It is stricter
in one thing: a metric's name that Datadog would rewrite is refused here.

Invariants: what it keeps is bounded; the counts are exact whatever was let go. A request changes them
before its answer leaves, so a client that saw the answer finds them changed. Nothing is printed; a bug
in here is raised when the intake ends.
"""

import json
import math
import re
import select
import socket
import sys
import threading
import zlib
from collections import Counter, deque
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from espnet.clock import Clock, SystemClock

#: Largest body as sent, and unpacked (docs.datadoghq.com/api/latest/metrics, the stricter of v1 and v2).
COMPRESSED_BYTES, RAW_BYTES = 500_000, 4_000_000
#: A point may be this old, and this far in the future, in seconds.
PAST_S, FUTURE_S = 3_600, 600
#: More than this of a body is not even read.
_READ_BYTES = 64_000_000

_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,199}", re.ASCII)
_TYPES = ("gauge", "count", "rate")


class Answer(NamedTuple):
    """What to do with one request instead of what is right.

    ``status`` None judges and ingests it honestly; a number answers that with ``body`` and looks at
    nothing. ``delay_s`` passes first, or less if the client hangs up, in which case nothing is
    answered or ingested. ``close`` ends the connection before the answer or in the middle of its body.
    """

    status: int | None = None
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    close: Literal["after", "before", "midway"] = "after"


class Request(NamedTuple):
    """One request: what came and what was answered (0 when nothing was)."""

    path: str
    headers: dict[str, str]
    sent_bytes: int
    status: int


class Refused(Exception):
    """The request is wrong."""

    def __init__(self, status: int, what: str) -> None:
        self.status, self.what = status, what
        super().__init__(what)


class Intake:
    """A running intake: ``with Intake(key="…") as intake`` and it listens at ``intake.url``.

    ``accepted`` counts the points ingested, ``not_ingested`` those that were answered 202 and let go,
    ``statuses`` the answers. ``requests`` holds the latest, ``payload`` the latest valid body.
    `points` holds at most ``points_each`` of each series and ``most_series`` of those.
    """

    def __init__(
        self,
        key: str,
        *,
        port: int = 0,
        clock: Clock | None = None,
        points_each: int = 1_000,
        most_series: int = 10_000,
    ) -> None:
        self.key = key
        self.accepted = 0
        self.not_ingested = 0
        self.statuses: Counter[int] = Counter()
        self.requests: deque[Request] = deque(maxlen=1_000)
        self.payload: dict[str, Any] = {}
        self._clock = clock or SystemClock()
        self._points_each, self._most_series = points_each, most_series
        self._series: dict[tuple[str, frozenset[str]], deque[tuple[float, float]]] = {}
        self._script: deque[Answer] = deque()
        self._fault: BaseException | None = None
        # A test's thread reads while the server's thread writes.
        self._lock = threading.Lock()
        self._stopping, self._stop = socket.socketpair()
        self._server = _Server(("127.0.0.1", port), _handler_of(self))
        self._server.intake = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="intake"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()  # ends a delay under way
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._stopping.close()
        if self._fault is not None:
            raise self._fault

    def script(self, answers: Iterable[Answer]) -> None:
        """The next requests get these answers in turn; those after them are judged as usual."""
        with self._lock:
            self._script.extend(answers)

    def points(self, metric: str, *tags: str) -> list[tuple[float, float]]:
        """``(at, value)`` of the points ingested of a metric whose series has all these tags."""
        with self._lock:
            return [
                point
                for (name, of_series), kept in self._series.items()
                if name == metric and of_series.issuperset(tags)
                for point in kept
            ]

    def series(self) -> list[tuple[str, frozenset[str]]]:
        """What Datadog would bill: each metric with each combination of tags that came."""
        with self._lock:
            return list(self._series)

    # --- the server's side ----------------------------------------------------------------------

    def _next_answer(self) -> Answer:
        with self._lock:
            return self._script.popleft() if self._script else Answer()

    def _record(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)
            self.statuses[request.status] += 1

    def _judge(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """What is right for a request; ingests what is valid."""
        try:
            url = urlsplit(target)
            if url.path != "/api/v1/series":
                raise Refused(404, "Not found")
            if method != "POST":
                raise Refused(405, "Method not allowed")
            key = headers.get("dd-api-key") or parse_qs(url.query).get("api_key", [""])[0]
            if key != self.key:
                raise Refused(403, "Forbidden")
            payload = _payload(_unpacked(headers.get("content-encoding", ""), body))
        except Refused as refused:
            return Answer(refused.status, json.dumps({"errors": [refused.what]}).encode())
        self._ingest(payload)
        return Answer(202, b'{"status": "ok"}')

    def _ingest(self, payload: dict[str, Any]) -> None:
        now = self._clock.now()
        with self._lock:
            self.payload = payload
            for series in payload["series"]:
                name = (series["metric"], frozenset(series.get("tags") or ()))
                kept = self._series.get(name)
                if kept is None:
                    kept = deque(maxlen=self._points_each)
                    if len(self._series) < self._most_series:
                        self._series[name] = kept
                for at, value in series["points"]:
                    if now - PAST_S <= at <= now + FUTURE_S:
                        kept.append((at, value))
                        self.accepted += 1
                    else:
                        self.not_ingested += 1


def _unpacked(encoding: str, body: bytes) -> bytes:
    """The body without its compression, refused when it is too large either way."""
    if len(body) > COMPRESSED_BYTES:
        raise Refused(413, "Payload too large")
    if not encoding:
        return body
    if encoding not in ("deflate", "gzip"):
        raise Refused(400, f"Content-Encoding {encoding} is not supported")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
    try:
        raw = unpacker.decompress(body, RAW_BYTES + 1)
    except zlib.error as error:
        raise Refused(400, "Payload is not compressed as it says") from error
    if len(raw) > RAW_BYTES:
        raise Refused(413, "Payload too large")
    if not unpacker.eof:
        raise Refused(400, "Payload ends too early")
    return raw


def _payload(raw: bytes) -> dict[str, Any]:
    """The body as JSON that keeps to the schema of ``MetricsPayload``."""

    def refuse_constant(name: str) -> float:
        raise ValueError(f"{name} is not JSON")

    try:
        # Integers as floats, as Datadog keeps them: one of 400 digits is infinite, not an error here.
        payload = json.loads(raw, parse_constant=refuse_constant, parse_int=float)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "Payload is not in the expected format: not JSON") from error
    series = payload.get("series") if isinstance(payload, dict) else None
    if not isinstance(series, list):
        raise Refused(400, "Payload is not in the expected format: no list of series")
    for number, one in enumerate(series):
        problem = _problem_with(one)
        if problem:
            raise Refused(400, f"Payload is not in the expected format: series {number}: {problem}")
    return payload  # type: ignore[no-any-return]


def _problem_with(series: object) -> str | None:
    """What is wrong with one series, or None."""
    if not isinstance(series, dict):
        return "is not an object"
    metric, tags, points = series.get("metric"), series.get("tags"), series.get("points")
    if not isinstance(metric, str) or not _METRIC.fullmatch(metric):
        return "the metric's name is not valid"
    if series.get("type", "gauge") not in _TYPES:
        return f"the type is none of {', '.join(_TYPES)}"
    if tags is not None and not (isinstance(tags, list) and all(type(t) is str for t in tags)):
        return "tags is not a list of strings"
    if not isinstance(series.get("host", ""), str):
        return "host is not a string"
    if not isinstance(points, list) or not all(map(_is_point, points)):
        return "points is not a list of [seconds, number]"
    return None


def _is_point(point: object) -> bool:
    """Whether this is ``[seconds, number]``; ``1e999`` reads as infinity, and is none."""
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(type(number) is float and math.isfinite(number) for number in point)
    )


class _Server(HTTPServer):
    """Serves one request a connection, one after another, in one thread."""

    request_queue_size = 128
    intake: Intake

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exception()
        # A client that goes away in the middle is not this server's fault.
        if not isinstance(error, ConnectionError):
            self.intake._fault = error


def _handler_of(intake: Intake) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """HTTP/1.0: the connection ends with the answer, so nobody waits for another's idle one."""

        timeout = 10  # for a client that says nothing, in seconds

        def do_POST(self) -> None:
            answer = intake._next_answer()
            headers = {name.lower(): value for name, value in self.headers.items()}
            length = headers.get("content-length", "")
            body = b""
            if length.isascii() and length.isdigit() and len(length) < 12:
                # Read even what is too large: a client that is still writing sees no answer.
                body = self.rfile.read(min(int(length), _READ_BYTES))
                if len(body) < int(length):
                    return
            if answer.delay_s and self._client_left_within(answer.delay_s):
                intake._record(Request(self.path, headers, len(body), 0))
                return
            if answer.status is None:
                right = intake._judge(self.command, self.path, headers, body)
                answer = right._replace(close=answer.close)
            status = 0 if answer.close == "before" else answer.status or 0
            intake._record(Request(self.path, headers, len(body), status))
            if status:
                self._say(answer, status)

        do_GET = do_PUT = do_DELETE = do_POST

        def _client_left_within(self, delay_s: float) -> bool:
            """Waits; True when the client hung up or the intake ends meanwhile."""
            waited_for = [self.connection, intake._stopping]
            return bool(select.select(waited_for, [], [], delay_s)[0])

        def _say(self, answer: Answer, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            for name, value in answer.headers:
                self.send_header(name, value)
            self.end_headers()
            half = len(answer.body) // 2
            self.wfile.write(answer.body[:half] if answer.close == "midway" else answer.body)

        def date_time_string(self, timestamp: float | None = None) -> str:
            """``Date`` is the intake's own time, right or wrong."""
            return super().date_time_string(timestamp or intake._clock.now())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
