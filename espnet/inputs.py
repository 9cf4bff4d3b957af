"""What a threshold may look at: the text that names it, and the value that a reading gives. Pure.

====================================  ==========================================================
text                                  value
====================================  ==========================================================
``NAME.f``                            the board's own temperature, °F
``NAME.dht22.SENSOR.temp``            °C, as the sensor says it
``NAME.dht22.SENSOR.humidity``        %
``NAME.gpio.PIN``                     0 or 1
``NAME.adc.PIN``                      the mean of the samples of one poll, raw
``redis:KEY``                         a number that somebody else keeps in Redis
``redis:KEY#FIELD``                   a field of a hash, or of a JSON object in a string
====================================  ==========================================================

A name may hold dots: what follows the name is recognised from its end. The age of a device's value is
that of its poll; a Redis value is as old as the field ``at`` beside it (Unix seconds) says.
"""

import math
import re
from functools import lru_cache
from typing import NamedTuple, cast

import msgspec

from espnet.errors import UsageError
from espnet.model import ADC_PINS, MAX_PIN, Input, Reading, Status
from espnet.names import problem_with_name

_DEVICE = re.compile(
    r"(?P<device>.+)\.(?:(?P<f>f)|gpio\.(?P<gpio>\d{1,2})|adc\.(?P<adc>\d{1,2})"
    r"|dht22\.(?P<sensor>.+)\.(?P<field>temp|humidity))",
    re.ASCII,
)
_REDIS = re.compile(r"redis:(?P<key>[^#\s]+)(?:#(?P<field>\S+))?")

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", re.ASCII | re.IGNORECASE)


class Source(NamedTuple):
    """A parsed input: of a device (``device``), or a Redis value (``key``, maybe a ``field`` of it).

    ``sensor`` and ``pin`` say which of several; ``what`` is ``f``, ``gpio``, ``adc``, ``temp``,
    ``humidity`` or ``redis``.
    """

    what: str
    device: str = ""
    sensor: str = ""
    pin: int = -1
    key: str = ""
    field: str = ""


@lru_cache(maxsize=16_384)
def parse(text: str) -> Source:
    """What an input's text names; raises `UsageError`."""
    if match := _REDIS.fullmatch(text):
        return Source("redis", key=match["key"], field=match["field"] or "")
    if match := _DEVICE.fullmatch(text):
        device = match["device"]
        if match["f"]:
            return Source("f", device)
        for what in ("gpio", "adc"):
            if match[what]:
                return Source(what, device, pin=int(match[what]))
        return Source(match["field"], device, sensor=match["sensor"])
    raise UsageError(
        f"INPUT {text!r} names nothing that can be read; it is NAME.f, NAME.gpio.PIN, NAME.adc.PIN, "
        "NAME.dht22.SENSOR.temp, NAME.dht22.SENSOR.humidity, redis:KEY or redis:KEY#FIELD."
    )


def check(text: str, prefix: str) -> Source:
    """`parse` for what a person defines: refuses also what can never have a value, and what is ours.

    ``prefix`` is that of EspNet's own keys: a job may look at what others keep, not at those.
    """
    source = parse(text)
    if source.what == "redis":
        if not text.isprintable():
            raise UsageError(f"INPUT {text!r} holds characters that cannot be shown.")
        if prefix and source.key.startswith(prefix):
            raise UsageError(
                f"INPUT {text!r} is one of EspNet's own keys (they begin with {prefix!r}); "
                "name a reading instead, such as NAME.f."
            )
        return source
    for name in filter(None, (source.device, source.sensor)):
        if problem := problem_with_name(name):
            raise UsageError(f"INPUT {text[:80]!r}: the name {name[:80]!r} {problem}.")
    if source.what == "adc" and source.pin not in ADC_PINS:
        raise UsageError(f"INPUT {text!r}: an ADC pin is one of 32 to 39, not {source.pin}.")
    if source.pin > MAX_PIN:
        raise UsageError(f"INPUT {text!r}: a pin is a GPIO number from 0 to {MAX_PIN}.")
    return source


def renamed(text: str, old: str, new: str) -> str:
    """The same input after the device ``old`` was renamed to ``new``."""
    return new + text[len(old) :] if parse(text).device == old else text


def from_reading(source: Source, reading: Reading | None, status: Status | None = None) -> Input:
    """The value that a device's latest reading gives; ``reading`` None: there never was one.

    ``status`` is the reading's own, where it is decoded already.
    """
    if reading is None:
        return Input(problem=f"{source.device} was never read")
    status = status or reading.decoded()
    value: float | None = None
    unit = None
    problem = ""
    if source.what == "f":
        value, unit = status.f, "f"
        problem = "" if value is not None else f"{source.device} has no temperature of its own"
    elif source.what == "gpio":
        value = reading.wrote.get(source.pin, status.gpio.get(source.pin))
        problem = "" if value is not None else f"{source.device} does not report pin {source.pin}"
    elif source.what == "adc":
        value = reading.adc.get(source.pin)
        problem = reading.adc_errors.get(source.pin, "")
        if value is None and not problem:
            problem = (
                f"{source.device} does not read ADC pin {source.pin}: "
                f"`espcli device {source.device} add_adc {source.pin}`"
            )
    else:
        climate = reading.dht22.get(source.sensor)
        if climate is not None:
            value = climate.temp if source.what == "temp" else climate.humidity
            unit = "c" if source.what == "temp" else None
        else:
            problem = reading.dht22_errors.get(
                source.sensor, f"{source.device} has no DHT22 named {source.sensor}"
            )
    return Input(value, reading.at, reading.interval_s, unit, problem)  # type: ignore[arg-type]


def from_redis(source: Source, string: object, fields: object) -> Input:
    """The number that others keep in Redis, of what `Store.foreign` found.

    ``string`` are the bytes at the key, ``fields`` those of the hash's field and of its ``at``; an
    exception stands where the key holds something else.
    """
    value: object = string
    at: object = None
    if source.field:
        if isinstance(fields, Exception):
            value, at = _json_field(string, source.field)
        else:
            value, at = cast(list[object], fields)
    name = source.key + (f"#{source.field}" if source.field else "")
    if isinstance(value, Exception):
        return Input(problem=f"{name} is not a string: name a field of it, redis:KEY#FIELD")
    if value is None:
        return Input(problem=f"Redis has no {name}")
    number = _number(value)
    if number is None:
        shown = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        return Input(problem=f"{name} holds {shown[:40]!r}, which is no number")
    return Input(number, _number(at))


def _json_field(text: object, field: str) -> tuple[object, object]:
    """``field`` and ``at`` of a JSON object; (None, None) when the text is none."""
    try:
        found = msgspec.json.decode(text) if isinstance(text, bytes) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None
    return (found.get(field), found.get("at")) if isinstance(found, dict) else (None, None)


def _number(value: object) -> float | None:
    """A finite number, or None."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, bytes | str) and not _NUMBER.fullmatch(
        value if isinstance(value, str) else value.decode(errors="replace")
    ):
        return None  # such as 21_5, which Python takes for 215
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
