"""The records that EspNet keeps and the bytes that they become.

Invariants: records are frozen; a record that decodes is valid, field by field, because msgspec checks
types while it parses. Times are Unix seconds (UTC), durations seconds, temperatures as their field
says. Encodings are JSON, so that any Redis client can read what EspNet stored.
"""

import ipaddress
import math
import re
import zlib
from typing import Literal

import msgspec

#: Seconds between two polls of a device that names no interval of its own (as in 2021).
DEFAULT_INTERVAL_S = 10.0
#: A reading older than this many of its device's intervals is not shown as the present.
FRESH_INTERVALS = 3
#: Shortest and longest interval that a device may ask for, in seconds.
INTERVAL_RANGE_S = (0.1, 86_400.0)
#: The highest GPIO number of any ESP32 variant (ESP32-P4: 54).
MAX_PIN = 54


class Status(msgspec.Struct, frozen=True):
    """What a board answers to ``GET /``. Only the first three fields are known to 2021 firmware.

    ``f`` is the chip's temperature in °F, None on chips without a sensor. ``gpio`` maps a pin's
    number to its level.
    """

    id: str
    f: float | None
    gpio: dict[int, Literal[0, 1]]
    espnet_host: str | None = None
    boot: str | None = None
    uptime_s: float | None = None
    mem_free: int | None = None
    version: str | None = None
    reset_cause: str | int | None = None


class Climate(msgspec.Struct, frozen=True):
    """One DHT22 reading: °C as the sensor says it, and relative humidity in %."""

    temp: float
    humidity: float

    @property
    def temp_f(self) -> float:
        """The temperature in °F."""
        return celsius_to_fahrenheit(self.temp)


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A registered board. ``id`` is the key, ``name`` a label, ``address`` a hint where to look.

    ``dht22`` maps a sensor's name to the pin it hangs on; ``report_pins`` are the pins whose levels
    become samples. ``interval_s`` None means the fleet's own interval.
    """

    id: str
    name: str
    address: str
    tags: tuple[str, ...] = ()
    interval_s: float | None = None
    dht22: dict[str, int] = {}
    report_pins: tuple[int, ...] = ()
    registered_at: float = 0.0


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What one successful poll saw.

    ``at`` is when the answer came, ``poll_s`` how long the trip took, ``interval_s`` the interval in
    force, ``status`` the board's own answer byte for byte. A DHT22 sensor is in ``dht22`` or in
    ``dht22_errors`` (name → what went wrong), never in both.
    """

    at: float
    poll_s: float
    interval_s: float
    collector: str
    status: msgspec.Raw
    dht22: dict[str, Climate] = {}
    dht22_errors: dict[str, str] = {}

    def decoded(self) -> Status:
        """The board's answer as a record."""
        return decode_status(bytes(self.status))

    def is_fresh(self, now: float) -> bool:
        """Whether the reading may still be shown as the present at ``now``."""
        return now - self.at <= FRESH_INTERVALS * self.interval_s


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Why the latest polls of a device failed; it exists only while they do.

    ``kind`` and ``what`` are those of `BoardError`; ``failures`` counts the polls in a row since
    ``since``; ``at`` is the latest.
    """

    kind: str
    what: str
    failures: int
    since: float
    at: float


class View(msgspec.Struct, frozen=True):
    """All that is known of a device: what it is, what it said last, and what is wrong now."""

    device: Device
    reading: Reading | None
    fault: Fault | None

    def state(self, now: float) -> str:
        """``online``: the reading is fresh. ``late``: fresh still, but the latest poll failed.
        ``offline``: the reading is too old, or only failures came. ``new``: never polled."""
        if self.reading is not None and self.reading.is_fresh(now):
            return "late" if self.fault else "online"
        return "new" if self.reading is None and self.fault is None else "offline"


class Books(msgspec.Struct, frozen=True):
    """Where every sample went: ``collected == accepted + dropped + queued`` at every instant.

    ``refused`` are those that were not numbers and never came to be collected.
    """

    collected: int = 0
    accepted: int = 0
    dropped: int = 0
    queued: int = 0
    refused: int = 0


class Sample(msgspec.Struct, frozen=True):
    """One metric point on its way to a sink, stamped by the controller (``at``, Unix seconds)."""

    metric: str
    value: float
    at: float
    tags: tuple[str, ...]


class SampleBatch(msgspec.Struct, frozen=True):
    """The samples of one poll as one stream entry: what they share is said once.

    ``points`` are ``(metric, value, tags of this point alone)``.
    """

    at: float
    tags: tuple[str, ...]
    points: tuple[tuple[str, float, tuple[str, ...]], ...]

    def samples(self) -> list[Sample]:
        """The batch, point by point."""
        return [
            Sample(metric, value, self.at, self.tags + own) for metric, value, own in self.points
        ]


def finite(
    points: list[tuple[str, float, tuple[str, ...]]],
) -> tuple[tuple[tuple[str, float, tuple[str, ...]], ...], int]:
    """The gate before the queue: the points that are numbers, and how many were NaN or infinite."""
    kept = tuple(point for point in points if math.isfinite(point[1]))
    return kept, len(points) - len(kept)


_encoder = msgspec.json.Encoder()
_status_decoder = msgspec.json.Decoder(Status)
_device_decoder = msgspec.json.Decoder(Device)
_reading_decoder = msgspec.json.Decoder(Reading)
_fault_decoder = msgspec.json.Decoder(Fault)
_batch_decoder = msgspec.json.Decoder(SampleBatch)

encode = _encoder.encode


def decode_status(raw: bytes) -> Status:
    """Raises `msgspec.DecodeError` (not JSON) or `msgspec.ValidationError` (wrong fields)."""
    return _status_decoder.decode(raw)


def decode_device(raw: bytes) -> Device:
    return _device_decoder.decode(raw)


def decode_reading(raw: bytes) -> Reading:
    return _reading_decoder.decode(raw)


def decode_fault(raw: bytes) -> Fault:
    return _fault_decoder.decode(raw)


def decode_batch(raw: bytes) -> SampleBatch:
    return _batch_decoder.decode(raw)


def phase(device_id: str) -> float:
    """A device's place within its interval, 0 ≤ phase < 1: spreads a fleet's polls evenly."""
    return zlib.crc32(device_id.encode()) / 2**32


def celsius_to_fahrenheit(celsius: float) -> float:
    return celsius * 9 / 5 + 32


# --- what people may call things ----------------------------------------------------------------

_TAG = re.compile(r"[^\W\d_][\w:./\-]{0,199}", re.UNICODE)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.\-]{0,252})")


def problem_with_name(name: str) -> str | None:
    """What is wrong with a device's or sensor's name, or None.

    Any printable text without spaces will do. A leading ``-`` would be read as an option by every
    shell command, and a ``.`` or ``#`` separates the parts of a job's input.
    """
    if not name:
        return "is empty"
    if len(name) > 64:
        return "is longer than 64 characters"
    if not name.isprintable() or any(character.isspace() for character in name):
        return "may hold printable characters only, and no spaces"
    if name.startswith("-"):
        return "may not begin with '-', which begins an option"
    return None


def problem_with_tag(tag: str) -> str | None:
    """What is wrong with a tag by Datadog's rules (a letter first, at most 200 characters), or None."""
    if _TAG.fullmatch(tag):
        return None
    return "must begin with a letter and hold only letters, digits and _ - : . / (at most 200)"


def problem_with_address(address: str) -> str | None:
    """What is wrong with ``HOST`` or ``HOST:PORT``, or None. IPv6 is written in brackets."""
    host, port = split_address(address)
    if port is None or not 1 <= port <= 65_535:
        return "needs a port between 1 and 65535 after its ':'"
    if host.startswith("["):
        try:
            ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            return "is not an IPv6 address in brackets"
        return None
    if not _HOST.fullmatch(host):
        return "must be HOST or HOST:PORT, without http:// and without a path"
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            return "is not an IPv4 address: four numbers from 0 to 255"
    return None


def split_address(address: str) -> tuple[str, int | None]:
    """``HOST[:PORT]`` as host and port (80 when none is named, None when it is not a number)."""
    host, separator, port = address.rpartition(":")
    if not separator or address.endswith("]"):
        return address, 80
    return host, int(port) if port.isascii() and port.isdigit() else None
