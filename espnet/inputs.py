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

import re
from functools import lru_cache
from typing import NamedTuple, cast

import msgspec

from espnet.errors import UsageError
from espnet.model import Input, Reading, Status

_DEVICE = re.compile(
    r"(?P<device>.+)\.(?:(?P<f>f)|gpio\.(?P<gpio>\d{1,2})|adc\.(?P<adc>\d{1,2})"
    r"|dht22\.(?P<sensor>.+)\.(?P<field>temp|humidity))"
)
_REDIS = re.compile(r"redis:(?P<key>[^#\s]+)(?:#(?P<field>\S+))?")


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
        return Input(problem=f"{name} holds {str(value)[:40]}, which is no number")
    return Input(number, _number(at))


def _json_field(text: object, field: str) -> tuple[object, object]:
    """``field`` and ``at`` of a JSON object; (None, None) when the text is none."""
    try:
        found = msgspec.json.decode(text) if isinstance(text, bytes) else None
    except msgspec.DecodeError:
        return None, None
    return (found.get(field), found.get("at")) if isinstance(found, dict) else (None, None)


def _number(value: object) -> float | None:
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
