"""The records that EspNet keeps and the bytes that they become.

Invariants: records are frozen; a record that decodes is valid, field by field, because msgspec checks
types while it parses. The records of every poll hold no cycles, and garbage collection need not look at
them (``gc=False``). Times are Unix seconds (UTC), durations seconds, temperatures as their field
says. Encodings are JSON, so that any Redis client can read what EspNet stored.
"""

import zlib
from collections.abc import Mapping
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


class Lease(msgspec.Struct, frozen=True):
    """An ON that the board reverts by itself in ``left_s`` seconds, to the level ``safe``."""

    left_s: float
    safe: str = "low"


class Status(msgspec.Struct, frozen=True, gc=False):
    """What a board answers to ``GET /``. 2021 firmware knows only ``id``, ``f``, ``gpio`` and
    ``espnet_host``; on firmware without leases ``leases`` is None, on firmware without passwords ``claimed``.

    ``f`` is the chip's temperature in °F, None on chips without a sensor. ``gpio`` maps a pin's
    number to its level. ``fence`` is the highest number that a lock's holder has shown since boot.
    ``build`` is the release that runs, on ``trial`` until it is confirmed. In ``safe_mode`` no pin is driven
    and no sensor read. ``boots`` counts them all. ``idf_free`` and ``idf_largest`` are what the chip's own
    system has left for Wi-Fi and sockets, in bytes, and the largest piece of that.
    """

    id: str
    f: float | None
    gpio: dict[int, Literal[0, 1]]
    espnet_host: str | None = None
    boot: str | None = None
    uptime_s: float | None = None
    mem_free: int | None = None
    version: str | None = None
    build: str | None = None
    trial: bool | None = None
    safe_mode: bool | None = None
    boots: int | None = None
    idf_free: int | None = None
    idf_largest: int | None = None
    reset_cause: str | int | None = None
    claimed: bool | None = None
    private: bool | None = None
    leases: dict[int, Lease] | None = None
    leases_expired: int | None = None
    fence: int | None = None


class Crash(msgspec.Struct, frozen=True):
    """An exception that the firmware did not expect: its traceback; how long ago it was, in seconds, None
    when it was before the last reset; and the release that it happened in, where that is known."""

    text: str
    ago_s: float | None = None
    build: str | None = None


class Undone(msgspec.Struct, frozen=True):
    """A release that was tried and taken back, and why."""

    build: str
    version: str = ""
    why: str = ""


class Details(msgspec.Struct, frozen=True):
    """What a board answers to ``GET /details``, as far as it is of use here. ``notices`` are for people."""

    id: str
    notices: tuple[str, ...] = ()
    crash: Crash | None = None
    undone: Undone | None = None


class Climate(msgspec.Struct, frozen=True):
    """One DHT22 reading: °C as the sensor says it, and relative humidity in %."""

    temp: float
    humidity: float

    @property
    def temp_f(self) -> float:
        """The temperature in °F."""
        return celsius_to_fahrenheit(self.temp)


class Adc(msgspec.Struct, frozen=True):
    """How an ADC pin is read at every poll: with ``power_pin`` high meanwhile, ``samples`` times."""

    power_pin: int | None = None
    samples: int = 8


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A registered board. ``id`` is the key, ``name`` a label, ``address`` a hint where to look.

    ``dht22`` maps a sensor's name to the pin it hangs on, ``adc`` the pins that are sampled;
    ``report_pins`` are the pins whose levels become samples. ``safe`` is what a governed pin falls back
    to, low where nothing is said. ``interval_s`` None means the fleet's own interval. ``credential`` is
    0 where EspNet has no password for the board, else a number that changes with it.
    """

    id: str
    name: str
    address: str
    tags: tuple[str, ...] = ()
    interval_s: float | None = None
    dht22: dict[str, int] = {}
    adc: dict[int, Adc] = {}
    report_pins: tuple[int, ...] = ()
    safe: dict[int, Literal["low", "high", "hold"]] = {}
    registered_at: float = 0.0
    credential: int = 0

    @property
    def shard(self) -> str:
        """What its tag ``shard:NAME`` says: collectors of that name poll it, and no others."""
        return next((tag[6:] for tag in self.tags if tag.startswith("shard:")), "")


class Pace(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How a board bears its polls (`espnet.pace`); there is none of a board that bears them well.

    The board is polled ``factor`` times slower than asked, since ``since`` (Unix seconds, 0 for never).
    ``why`` is what was against it last, ``at`` when that was. ``bad`` counts the polls against it, ``good``
    those in a row for it, of which ``patience`` make it faster.
    """

    factor: Literal[1, 2, 4] = 1
    why: str = ""
    since: float = 0.0
    at: float = 0.0
    bad: int = 0
    good: int = 0
    patience: int = 0


class Reading(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What one successful poll saw.

    ``at`` is when the answer came, ``poll_s`` how long the trip took, ``interval_s`` the interval in
    force (``pace`` says whether it is the one that was asked for), ``status`` the board's own answer byte
    for byte. A DHT22 sensor is in ``dht22`` or in
    ``dht22_errors`` (name → what went wrong), never in both; ``adc`` holds the means of ADC pins, raw,
    in the same way. ``wrote`` are the levels that the trip set after it had read the board. ``denied``
    is why we cannot control the board, as the end of a sentence; "" where we can.
    """

    at: float
    poll_s: float
    interval_s: float
    collector: str
    status: msgspec.Raw
    dht22: dict[str, Climate] = {}
    dht22_errors: dict[str, str] = {}
    adc: dict[int, float] = {}
    adc_errors: dict[int, str] = {}
    wrote: dict[int, int] = {}
    denied: str = ""
    pace: Pace | None = None

    def levels(self) -> dict[int, int]:
        """Every pin's level: as the board said it, then as it was written in the same trip."""
        return {**self.decoded().gpio, **self.wrote}

    def decoded(self) -> Status:
        """The board's answer as a record."""
        return decode_status(bytes(self.status))

    def is_fresh(self, now: float) -> bool:
        """Whether the reading may still be shown as the present at ``now``."""
        return now - self.at <= FRESH_INTERVALS * self.interval_s


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Why the latest polls of a device failed; it exists only while they do.

    ``kind`` and ``what`` are those of `BoardError`; ``failures`` counts the polls in a row since
    ``since``; ``at`` is the latest. ``pace`` is that of `Reading`, which a failure does not replace.
    """

    kind: str
    what: str
    failures: int
    since: float
    at: float
    pace: Pace | None = None


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

    @property
    def pace(self) -> Pace | None:
        """How the board bore its latest poll."""
        if self.fault is not None:
            return self.fault.pace
        return self.reading.pace if self.reading is not None else None

    @property
    def asked_s(self) -> float | None:
        """The interval that was asked for, in seconds; None where nobody knows the fleet's own."""
        if self.device.interval_s is not None:
            return self.device.interval_s
        if (reading := self.reading) is None:
            return None
        return reading.interval_s / (reading.pace.factor if reading.pace else 1)


_encoder = msgspec.json.Encoder()
_status_decoder = msgspec.json.Decoder(Status)
_details_decoder = msgspec.json.Decoder(Details)
_device_decoder = msgspec.json.Decoder(Device)
_reading_decoder = msgspec.json.Decoder(Reading)
_fault_decoder = msgspec.json.Decoder(Fault)

encode = _encoder.encode


def decode_status(raw: bytes) -> Status:
    """Raises `msgspec.DecodeError` (not JSON) or `msgspec.ValidationError` (wrong fields)."""
    return _status_decoder.decode(raw)


def decode_details(raw: bytes) -> Details:
    """Raises as `decode_status` does."""
    return _details_decoder.decode(raw)


def decode_device(raw: bytes) -> Device:
    return _device_decoder.decode(raw)


def decode_reading(raw: bytes) -> Reading:
    return _reading_decoder.decode(raw)


def decode_fault(raw: bytes) -> Fault:
    return _fault_decoder.decode(raw)


def phase(device_id: str) -> float:
    """A device's place within its interval, 0 ≤ phase < 1: spreads a fleet's polls evenly."""
    return zlib.crc32(device_id.encode()) / 2**32


def celsius_to_fahrenheit(celsius: float) -> float:
    return celsius * 9 / 5 + 32


# --- jobs ---------------------------------------------------------------------------------------

#: What a pin falls back to by itself when its lease runs out, or its governing input is stale.
SafeLevel = Literal["low", "high", "hold"]


class Timer(msgspec.Struct, frozen=True, kw_only=True, tag="timer", tag_field="kind"):
    """A pin is high in a window of local time (low in it, and high outside, with ``invert``).

    ``start`` is ``HH:MM:SS``, or ``sunrise±HH:MM`` / ``sunset±HH:MM`` at ``lat``/``lon``; the window
    lasts ``hours`` of elapsed time. ``days`` are those on which it starts (0 is Monday; empty means
    every day). ``window_min`` delays the start by up to so many minutes, by a hash of job and date.
    """

    name: str
    pin: int
    start: str
    hours: float
    zone: str
    days: tuple[int, ...] = ()
    lat: float | None = None
    lon: float | None = None
    window_min: float = 0.0
    invert: bool = False
    enabled: bool = True
    lease: bool = True


class Threshold(msgspec.Struct, frozen=True, kw_only=True, tag="threshold", tag_field="kind"):
    """A pin follows an input inside a window of local time, and is low outside of it.

    ``mode`` heat: on at or below ``target - band``, off at or above ``target + band``; cool: the other
    way round. In between the job keeps what it wants. ``lock_s`` is the least time between two
    changes of what it wants, ``min_on_s`` / ``min_off_s`` that of the pin itself. ``stale`` says what it
    wants while its input is missing, older than ``max_age_s`` (None: three intervals of the input's
    device), or not a finite number. ``unit`` converts an input that is a temperature before it is
    compared with ``target``; None compares it as it comes.
    """

    name: str
    pin: int
    start: str
    hours: float
    zone: str
    input: str
    target: float
    stale: Literal["off", "on", "hold"]
    mode: Literal["heat", "cool"] = "heat"
    band: float = 0.0
    lock_s: float = 0.0
    min_on_s: float = 0.0
    min_off_s: float = 0.0
    max_age_s: float | None = None
    unit: Literal["c", "f"] | None = None
    days: tuple[int, ...] = ()
    lat: float | None = None
    lon: float | None = None
    enabled: bool = True
    lease: bool = True


class Override(msgspec.Struct, frozen=True, kw_only=True, tag="override", tag_field="kind"):
    """A person's word about a pin; it ends by itself at ``until`` (Unix seconds)."""

    pin: int
    level: Literal[0, 1]
    since: float
    until: float
    why: str = ""


Job = Timer | Threshold | Override


class Input(msgspec.Struct, frozen=True, gc=False):
    """What a threshold's input is right now.

    ``value`` None or not finite means that there is none, and ``problem`` says why. ``at`` is when it
    was true (Unix seconds), None where nobody knows. ``interval_s`` is that of the device it comes
    from, None when it is not a device's. ``unit`` is ``c`` or ``f`` for temperatures.
    """

    value: float | None = None
    at: float | None = None
    interval_s: float | None = None
    unit: Literal["c", "f"] | None = None
    problem: str = ""


class PinMemory(msgspec.Struct, frozen=True):
    """What is known of a governed pin: its level as last seen, and since when (Unix seconds).

    ``changed_at`` 0 means that nobody saw it change.
    """

    level: Literal[0, 1]
    changed_at: float


class JobMemory(msgspec.Struct, frozen=True):
    """What a threshold wants, and since when (Unix seconds). It outlives sensors and collectors.

    ``changed_at`` 0 means that it never wanted anything else.
    """

    on: bool
    changed_at: float


class Write(msgspec.Struct, frozen=True):
    """The latest write to a pin: when (Unix seconds), what, and ``problem``, "" when the board did it."""

    at: float
    level: Literal[0, 1]
    problem: str = ""


class Memory(msgspec.Struct, frozen=True):
    """What is remembered of a device from one poll to the next: what deciding needs, and the writes.

    ``is_fenced``: the board knows leases and fences.
    """

    pins: dict[int, PinMemory] = {}
    jobs: dict[str, JobMemory] = {}
    writes: dict[int, Write] = {}
    is_fenced: bool = False


class Observed(msgspec.Struct, frozen=True):
    """The board's pins as just read, what was remembered of it, and when it booted (Unix seconds)."""

    levels: Mapping[int, int]
    memory: Memory = Memory()
    booted_at: float | None = None


class Candidate(msgspec.Struct, frozen=True):
    """What one job says about its pin now.

    ``level`` is what it wants. ``rank`` is ``override``, ``fail-safe``, ``on`` or ``off``. ``why`` is a
    clause for people. ``input`` is what a threshold saw. ``until`` is when this may change by itself
    (Unix seconds), None for never. ``wants`` is what a threshold goes by and is remembered for, where
    a minimum time makes it say ``level`` instead; None means the same as ``level``.
    """

    job: str
    kind: Literal["timer", "threshold", "override"]
    level: Literal[0, 1]
    rank: Literal["override", "fail-safe", "on", "off"]
    why: str
    until: float | None = None
    input: Input | None = None
    wants: Literal[0, 1] | None = None


class Decision(msgspec.Struct, frozen=True):
    """The one desired state of a pin: the winner decides; the losers, best first, had less to say.

    ``until`` is the first moment at which it may change by itself (Unix seconds), None for never.
    """

    pin: int
    level: Literal[0, 1]
    winner: Candidate
    losers: tuple[Candidate, ...]
    until: float | None


#: Pins of an ESP32 that no job may govern: 34–39 can only be read, 6–11 hold its flash, 1 and 3 are its
#: serial console (Espressif, ESP32 Series Datasheet, pin list).
INPUT_ONLY_PINS = frozenset(range(34, 40))
FLASH_PINS = frozenset(range(6, 12))
CONSOLE_PINS = frozenset((1, 3))
#: ADC1, the one that works beside Wi-Fi (same datasheet).
ADC_PINS = frozenset(range(32, 40))

_jobs_decoder = msgspec.json.Decoder(tuple[Timer | Threshold | Override, ...])
_memory_decoder = msgspec.json.Decoder(Memory)


def decode_jobs(raw: bytes) -> tuple[Job, ...]:
    return _jobs_decoder.decode(raw)


def decode_memory(raw: bytes) -> Memory:
    return _memory_decoder.decode(raw)
