"""Settings: the one reader of the environment.

Invariants: a `Config` is complete and checked, or there is none; a bad value is a sentence that names
its variable. Secrets do not show in a ``repr``. What the command line says wins over the environment.
"""

import math
import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from espnet.errors import UsageError
from espnet.model import DEFAULT_INTERVAL_S, INTERVAL_RANGE_S
from espnet.store import DEFAULT_MAX_SAMPLES

LOG_FORMATS = ("text", "json")

_NUMBER = re.compile(r"([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})(e[+-]?[0-9]{1,2})?")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a person may set. Times are seconds.

    ``interval_s`` is the poll interval of devices without their own, ``timeout_s`` the patience with
    one request to a board, ``upload_interval_s`` the pause between two uploads. ``zone`` (IANA name,
    "" for this machine's), ``lat`` and ``lon`` (degrees north and east) are those of jobs that say
    nothing else.
    """

    redis_url: str | None = None
    prefix: str = "espnet:"
    data_dir: Path
    interval_s: float = DEFAULT_INTERVAL_S
    timeout_s: float = 2.0
    upload_interval_s: float = 15.0
    max_samples: int = DEFAULT_MAX_SAMPLES
    datadog_api_key: str = ""
    datadog_app_key: str = ""
    datadog_host: str = "https://api.datadoghq.com"
    log_format: str = "text"
    zone: str = ""
    lat: float | None = None
    lon: float | None = None

    def __repr__(self) -> str:
        return f"Config(redis_url=…, data_dir={str(self.data_dir)!r}, datadog_api_key=…)"


def from_environment(environ: Mapping[str, str] = os.environ) -> Config:
    """The settings that the environment gives; raises `UsageError`."""
    data_dir = environ.get("ESPNET_DATA")
    if not data_dir:
        import platformdirs

        data_dir = str(platformdirs.user_data_path("espnet"))
    config = Config(
        redis_url=environ.get("REDIS_URL") or None,
        prefix=environ.get("ESPNET_PREFIX", "espnet:"),
        data_dir=Path(data_dir),
        # The datadog library's own names, old and new.
        datadog_api_key=environ.get("DATADOG_API_KEY") or environ.get("DD_API_KEY", ""),
        datadog_app_key=environ.get("DATADOG_APP_KEY") or environ.get("DD_APP_KEY", ""),
        datadog_host=environ.get("DATADOG_HOST") or "https://api.datadoghq.com",
    )
    return override(
        config,
        {
            "interval_s": ("ESPNET_INTERVAL", environ.get("ESPNET_INTERVAL")),
            "timeout_s": ("ESPNET_TIMEOUT", environ.get("ESPNET_TIMEOUT")),
            "upload_interval_s": (
                "ESPNET_UPLOAD_INTERVAL",
                environ.get("ESPNET_UPLOAD_INTERVAL"),
            ),
            "max_samples": ("ESPNET_MAX_SAMPLES", environ.get("ESPNET_MAX_SAMPLES")),
            "log_format": ("ESPNET_LOG_FORMAT", environ.get("ESPNET_LOG_FORMAT")),
            "zone": ("ESPNET_ZONE", environ.get("ESPNET_ZONE")),
            "lat": ("ESPNET_LAT", environ.get("ESPNET_LAT")),
            "lon": ("ESPNET_LON", environ.get("ESPNET_LON")),
        },
    )


def override(config: Config, texts: Mapping[str, tuple[str, str | None]]) -> Config:
    """``config`` with those settings that have a text.

    ``texts`` maps a field of `Config` to the name by which a person knows it (an option, a variable)
    and the text, None where nothing was said. Raises `UsageError`.
    """
    changes = {
        field: _PARSERS[field](name, text)
        for field, (name, text) in texts.items()
        if text is not None and text != ""
    }
    return msgspec.structs.replace(config, **changes)


def local_zone() -> str:
    """The IANA name of this machine's time zone; raises `UsageError` where it has none."""
    import tzlocal

    try:
        name: str | None = tzlocal.get_localzone_name()
    except (LookupError, OSError, ValueError):
        name = None
    if not name:
        raise UsageError(
            "This machine does not say which time zone it is in; set ESPNET_ZONE, such as "
            "ESPNET_ZONE=Europe/Vienna."
        )
    return name


def holder(role: str) -> str:
    """What this process is called in locks and readings: unique, and telling to a person."""
    return f"{role}@{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


def number(text: str) -> float:
    """A plain number, or NaN, which is within no bounds: Python's own ``float`` takes ``1_000``,
    ``infinity`` and the digits of every script."""
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def seconds(name: str, text: str, least: float, most: float) -> float:
    """A number of seconds within bounds; raises `UsageError`."""
    value = number(text)
    if not least <= value <= most:
        raise UsageError(
            f"{name} must be a number of seconds between {least:g} and {most:g}, not {text!r}."
        )
    return value


def _max_samples(name: str, text: str) -> int:
    value = number(text)
    if not (text.isdigit() and 1000 <= value <= 10**9):
        raise UsageError(f"{name} must be a whole number from 1000 to 1000000000, not {text!r}.")
    return int(value)


def _log_format(name: str, text: str) -> str:
    if text not in LOG_FORMATS:
        raise UsageError(f"{name} must be text or json, not {text!r}.")
    return text


def _zone(name: str, text: str) -> str:
    from espnet.windows import parse_zone

    try:
        parse_zone(text)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    return text


def _degrees(name: str, text: str, most: float) -> float:
    value = number(text)
    if not -most <= value <= most:
        raise UsageError(f"{name} must be degrees from {-most:g} to {most:g}, not {text!r}.")
    return value


_PARSERS: dict[str, Callable[[str, str], object]] = {
    "interval_s": lambda name, text: seconds(name, text, *INTERVAL_RANGE_S),
    "timeout_s": lambda name, text: seconds(name, text, 0.05, 60.0),
    "upload_interval_s": lambda name, text: seconds(name, text, 0.1, 3600.0),
    "max_samples": _max_samples,
    "log_format": _log_format,
    "zone": _zone,
    "lat": lambda name, text: _degrees(name, text, 90),
    "lon": lambda name, text: _degrees(name, text, 180),
}
