"""Prometheus' page: the fleet as it is now, over HTTP, for whoever scrapes it.

Nothing is sent here and nothing waits in the queue for it: Prometheus asks, and is answered from the latest
readings. Invariants: a page is whole and of this moment, or the answer is 503 and Prometheus shows the target
as down. A device whose reading is old has no values on it, only ``espnet_up 0``; a removed one is not on it.
The socket and the threads of an `Exposition` end with its `stop`, whatever its clients do.
"""

import gzip
import re
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from operator import attrgetter
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
)

from espnet import __version__
from espnet.clock import Clock, SystemClock
from espnet.errors import SinkError, StoreUnavailable
from espnet.model import Device, Reading, Status, View
from espnet.samples import Books

DEFAULT_ADDRESS = "127.0.0.1:9469"
#: Connections at a time; one more is closed at once. Prometheus needs one, a pair of them two.
MOST_CLIENTS = 8
#: Longest wait for a client that sends or takes nothing, and longest connection, in seconds.
WAIT_S, CLIENT_S = 5.0, 30.0
#: Bounds of the poll durations that are told apart, in seconds: a board needs 0.03 to 0.3.
POLL_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class JobState(NamedTuple):
    """What a job wants of its pin. ``kind`` is timer, threshold or override; ``level`` 0 or 1."""

    job: str
    kind: str
    pin: int
    level: int
    is_winner: bool


class CollectorState(NamedTuple):
    """A collector, and how many seconds ago it was last at work."""

    name: str
    age_s: float


class SinkState(NamedTuple):
    """A sink: ``state`` is one word, ``ok_at`` the latest delivery (Unix seconds), None if there was none."""

    name: str
    state: str
    books: Books = Books()
    ok_at: float | None = None


class StreamState(NamedTuple):
    """The sample stream: what waits in it, and how many samples were not numbers and never came in."""

    entries: int = 0
    samples: int = 0
    size_bytes: int = 0
    refused: int = 0


class Fleet(NamedTuple):
    """All that a page shows. ``now`` is its time (Unix seconds); ``jobs`` are by their device's id."""

    now: float
    views: Sequence[View]
    jobs: Mapping[str, Sequence[JobState]] = {}
    collectors: Sequence[CollectorState] = ()
    sinks: Sequence[SinkState] = ()
    stream: StreamState = StreamState()


Labels = dict[str, str]
Points = Iterable[tuple[Labels, float]]


def families(fleet: Fleet) -> Iterator[Metric]:
    """The page of a fleet, without poll durations and process.

    One metric after another, so that each can be text before the next one is made: of a fleet of 10,000
    devices they are 130,000 points, and to have them all at once makes the garbage collector work.
    """
    now, views, stream = fleet.now, fleet.views, fleet.stream
    yield _metric(
        "gauge",
        "espnet_up",
        "Whether the latest poll succeeded and the reading is fresh.",
        ((_labels(view.device), view.state(now) == "online") for view in views),
    )
    yield _metric(
        "gauge",
        "espnet_device_info",
        "A device: its address, its firmware and its tags.",
        ((_labels(view.device) | _info(view.device, view.reading), 1) for view in views),
    )
    yield from _of_readings([r for view in views if (r := _row(view, fleet)) is not None])
    yield _metric(
        "gauge",
        "espnet_collector_seen_timestamp_seconds",
        "When a collector was last at work.",
        (({"collector": one.name}, now - one.age_s) for one in fleet.collectors),
    )
    yield from _of_sinks(fleet.sinks)
    for kind, name, text, value in (
        (
            "counter",
            "refused_samples",
            "Samples that were no numbers, never queued.",
            stream.refused,
        ),
        ("gauge", "stream_entries", "Polls on the sample stream.", stream.entries),
        ("gauge", "stream_samples", "Samples on the sample stream.", stream.samples),
        ("gauge", "stream_bytes", "Memory of the sample stream.", stream.size_bytes),
    ):
        yield _metric(kind, f"espnet_{name}", text, [({}, value)])
    version = {"version": __version__}
    yield _metric("gauge", "espnet_build_info", "The version of EspNet.", [(version, 1)])


class _Row(NamedTuple):
    """A device with a fresh reading."""

    me: Labels
    reading: Reading
    status: Status
    jobs: Sequence[JobState]


def _row(view: View, fleet: Fleet) -> _Row | None:
    reading = view.reading
    if reading is None or not reading.is_fresh(fleet.now):
        return None
    jobs = fleet.jobs.get(view.device.id, ())
    return _Row(_labels(view.device), reading, reading.decoded(), jobs)


def _of_readings(rows: list[_Row]) -> Iterator[Metric]:
    """What devices say of themselves, and what their jobs want."""
    for name, text, value in (
        ("board_temperature_celsius", "Temperature of the board's chip.", _celsius),
        ("board_uptime_seconds", "Time since the board booted.", attrgetter("uptime_s")),
        ("board_free_memory_bytes", "Free heap of the board.", attrgetter("mem_free")),
        ("board_idf_free_bytes", "Memory free for Wi-Fi and sockets.", attrgetter("idf_free")),
        ("board_idf_largest_bytes", "The largest piece of that.", attrgetter("idf_largest")),
    ):
        found = ((row.me, value(row.status)) for row in rows)
        known = ((me, number) for me, number in found if number is not None)
        yield _metric("gauge", f"espnet_{name}", text, known)
    yield _metric(
        "gauge",
        "espnet_poll_slowdown_ratio",
        "How many times slower than asked a board that struggles is polled.",
        (
            (row.me, row.reading.pace.factor)
            for row in rows
            if row.reading.pace is not None and row.reading.pace.factor > 1
        ),
    )
    yield _metric(
        "gauge",
        "espnet_pin_level",
        "Level of a pin, 0 or 1.",
        (
            (row.me | {"pin": str(pin)}, level)
            for row in rows
            for pin, level in (row.status.gpio | row.reading.wrote).items()
        ),
    )
    climates = [
        (row.me | {"sensor": sensor}, climate)
        for row in rows
        for sensor, climate in row.reading.dht22.items()
    ]
    yield _metric(
        "gauge",
        "espnet_dht22_temperature_celsius",
        "Temperature at a DHT22.",
        ((which, climate.temp) for which, climate in climates),
    )
    yield _metric(
        "gauge",
        "espnet_dht22_humidity_ratio",
        "Relative humidity at a DHT22, 0 to 1.",
        ((which, climate.humidity / 100) for which, climate in climates),
    )
    yield _metric(
        "gauge",
        "espnet_adc_raw",
        "Mean of an ADC pin's raw values.",
        (
            (row.me | {"pin": str(pin)}, mean)
            for row in rows
            for pin, mean in row.reading.adc.items()
        ),
    )
    jobs = [
        # Prometheus has a label `job` of its own, and would rename ours.
        (row.me | {"job_name": job.job, "kind": job.kind, "pin": str(job.pin)}, job)
        for row in rows
        for job in row.jobs
    ]
    yield _metric(
        "gauge",
        "espnet_job_wanted_level",
        "Level that a job wants of its pin, 0 or 1.",
        ((which, job.level) for which, job in jobs),
    )
    yield _metric(
        "gauge",
        "espnet_job_wins",
        "Whether it is this job that decides its pin.",
        ((which, job.is_winner) for which, job in jobs),
    )


def _of_sinks(sinks: Sequence[SinkState]) -> Iterator[Metric]:
    """How the deliveries go, sink by sink."""
    yield _metric(
        "gauge",
        "espnet_sink_state",
        "1 for the state that a sink is in.",
        (({"sink": sink.name, "state": sink.state}, 1) for sink in sinks),
    )
    yield _metric(
        "gauge",
        "espnet_sink_ok_timestamp_seconds",
        "When a sink last accepted samples.",
        (({"sink": sink.name}, sink.ok_at) for sink in sinks if sink.ok_at is not None),
    )
    for kind, name, text in (
        ("gauge", "queued", "Samples that wait for a sink."),
        ("counter", "collected", "Samples that were queued for a sink."),
        ("counter", "repeated", "Samples that a sink may have twice."),
    ):
        points = (({"sink": sink.name}, getattr(sink.books, name)) for sink in sinks)
        yield _metric(kind, f"espnet_sink_{name}_samples", text, points)
    yield _metric(
        "counter",
        "espnet_sink_settled_samples",
        "Samples that left a sink's queue, by fate.",
        (
            ({"sink": sink.name, "fate": fate}, getattr(sink.books, fate))
            for sink in sinks
            for fate in ("accepted", "expired", "dead", "dropped")
        ),
    )


def _metric(kind: str, name: str, text: str, points: Points) -> Metric:
    metric = Metric(name, text, kind)
    full = f"{name}_total" if kind == "counter" else name
    for labels, value in points:
        metric.add_sample(full, labels, value)
    return metric


def _labels(device: Device) -> Labels:
    return {"device": device.name, "id": device.id}


def _celsius(status: Status) -> float | None:
    return None if status.f is None else (status.f - 32) * 5 / 9


def _info(device: Device, reading: Reading | None) -> Labels:
    """What is said once of a device. A tag ``room:attic`` becomes ``tag_room="attic"``.

    Label names know fewer characters than tags: where two tags become one name, the values share it.
    """
    labels = {"address": device.address}
    version = reading.decoded().version if reading is not None else None
    if version:
        labels["version"] = version
    values: dict[str, list[str]] = {}
    for tag in device.tags:
        key, _, value = tag.partition(":")
        # An empty label is no label.
        values.setdefault("tag_" + re.sub(r"[^A-Za-z0-9_]", "_", key), []).append(value or "true")
    return labels | {name: ",".join(sorted(found)) for name, found in values.items()}


class Exposition:
    """Serves ``http://ADDRESS/metrics`` from `start` to `stop`.

    ``address`` is ``HOST:PORT`` or a port, which is then one of this machine's loopback; port 0 is any free
    one. ``look`` is called once a scrape, on a thread of the server; where it raises `StoreUnavailable` the
    scrape fails. Raises `SinkError` for an address that cannot be one.
    """

    def __init__(
        self,
        look: Callable[[], Fleet],
        address: str = DEFAULT_ADDRESS,
        *,
        clock: Clock | None = None,
    ) -> None:
        self._look = look
        self._address = address
        self._host, self._port = _parse_address(address)
        self._clock = clock or SystemClock()
        self._polls = Histogram(
            "espnet_poll_duration_seconds",
            "How long polls took.",
            registry=None,
            buckets=POLL_BUCKETS_S,
        )
        #: Takes the duration of one poll, in seconds, from any thread (0.6 µs).
        self.observe: Callable[[float], None] = self._polls.observe
        self._registry = CollectorRegistry()
        self._registry.register(self)
        # This process, on Linux: its processor time, memory and open files, by their usual names.
        ProcessCollector(registry=self._registry)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where the page is; with the real port once it is served."""
        port = self._server.server_address[1] if self._server else self._port
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{port}/metrics"

    def collect(self) -> Iterator[Metric]:
        """The page's metrics, as `prometheus_client` asks for them."""
        yield from families(self._look())
        for family in self._polls.collect():
            # When this process began to count is no measurement of ours.
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family

    def start(self) -> None:
        """Binds and serves. Raises `SinkError` when the address is taken or not this machine's."""
        try:
            self._server = _Server(self._host, self._port, self._registry, self._clock)
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "no such host is possible"
            raise SinkError(
                f"Prometheus' page cannot be served at {self._address} ({why}); "
                f"name another address with --prometheus HOST:PORT."
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="espnet-prometheus",
            # A process that ends by a bug ends.
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Ends every connection, the threads and the socket; a second call does nothing."""
        server, self._server = self._server, None
        thread, self._thread = self._thread, None
        if server is not None and thread is not None:
            server.shutdown()
            thread.join()
            server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread a connection, and a bound on both; `server_close` ends them all."""

    allow_reuse_address = True
    daemon_threads = False

    def __init__(self, host: str, port: int, registry: CollectorRegistry, clock: Clock) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = found[0]
        self.registry = registry
        self._clock = clock
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)  # type: ignore[arg-type]

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            is_welcome = len(self._clients) < MOST_CLIENTS
            if is_welcome:
                self._clients[request] = self._clock.monotonic()
        if is_welcome:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._clients.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Between two connections: whoever had one for too long has none any more."""
        self._hang_up(self._clock.monotonic() - CLIENT_S)

    def server_close(self) -> None:
        self._hang_up(None)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's concern; anything else is a bug and is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def _hang_up(self, before: float | None) -> None:
        """On those that came before then, or on all: their threads' reads and writes end with it."""
        with self._lock:
            for client, since in self._clients.items():
                if before is None or since < before:
                    # It may have hung up itself.
                    with suppress(OSError):
                        client.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """``GET /metrics`` and nothing else."""

    server: _Server
    timeout = WAIT_S

    def do_GET(self) -> None:
        if urlsplit(self.path).path != "/metrics":
            self._answer(404, "text/plain; charset=utf-8", b"The page is at /metrics.\n")
            return
        try:
            page = generate_latest(self.server.registry)
        except StoreUnavailable as error:
            self._answer(503, "text/plain; charset=utf-8", f"{error}\n".encode())
            return
        # One format for all, since the newer one takes longer to write and says nothing more here.
        kind = CONTENT_TYPE_PLAIN_0_0_4
        if re.search(r"\bgzip\b(?!\s*;\s*q=0)", self.headers.get("Accept-Encoding", "")):
            # The fastest level: a page shrinks to a 14th even so.
            self._answer(200, kind, gzip.compress(page, 1), ("Content-Encoding", "gzip"))
        else:
            self._answer(200, kind, page)

    def _answer(self, status: int, kind: str, body: bytes, *more: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), *more):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def version_string(self) -> str:
        return f"EspNet/{__version__}"

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are no events."""


def _parse_address(address: str) -> tuple[str, int]:
    """``HOST:PORT``, ``[IPv6]:PORT``, ``:PORT`` or ``PORT`` as host and port."""
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        port = ""
    if not (re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= 65_535):
        raise SinkError(
            f"{address!r} is no address for Prometheus' page; "
            f"it must be HOST:PORT, such as {DEFAULT_ADDRESS}."
        )
    return host or "127.0.0.1", int(port)
