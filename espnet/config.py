"""Settings: the one reader of the environment.

Invariants: a `Config` is complete and checked, or there is none; a bad value is a sentence that names
its variable. Secrets do not show in a ``repr``. What the command line says wins over the environment.
"""

import base64
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
from espnet.names import problem_with_address, problem_with_shard
from espnet.store import DEFAULT_MAX_BYTES, DEFAULT_MAX_SAMPLES

LOG_FORMATS = ("text", "json")
#: The sinks that come with EspNet.
SINKS = ("datadog", "dogstatsd", "prometheus", "file", "console")
_OWN_SINK = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)

_NUMBER = re.compile(r"([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})(e[+-]?[0-9]{1,2})?")


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a person may set. Times are seconds.

    ``interval_s`` is the poll interval of devices without their own, ``timeout_s`` the patience with
    one request to a board, ``upload_interval_s`` the pause between two uploads. ``sinks`` None means
    that nobody chose any. ``max_samples`` and ``max_bytes`` bound the stream, ``history_bytes`` the
    history (0: none), ``max_metrics`` what a sink may be billed for (None: anything). ``secret_keys`` open
    the boards' passwords, and the first one seals them. ``zone`` (IANA name, "" for this machine's),
    ``lat`` and ``lon`` (degrees north and east) are those of jobs that say nothing else. ``beacons`` is where
    boards' beacons are listened for, "" for nowhere. ``notify`` is where a service manager wants to hear that
    the service is ready ("": there is none), ``watchdog_s`` how often at least that it lives (0: never).
    """

    redis_url: str | None = None
    prefix: str = "espnet:"
    secret_keys: tuple[str, ...] = ()
    data_dir: Path
    interval_s: float = DEFAULT_INTERVAL_S
    timeout_s: float = 2.0
    upload_interval_s: float = 15.0
    sinks: tuple[str, ...] | None = None
    max_samples: int = DEFAULT_MAX_SAMPLES
    max_bytes: int = DEFAULT_MAX_BYTES
    history_bytes: int = 256_000_000
    max_metrics: int | None = None
    prometheus: str = ""
    dogstatsd: str = "127.0.0.1:8125"
    file: Path
    file_bytes: int = 100_000_000
    datadog_api_key: str = ""
    datadog_app_key: str = ""
    datadog_host: str = "https://api.datadoghq.com"
    log_format: str = "text"
    zone: str = ""
    lat: float | None = None
    lon: float | None = None
    beacons: str = "0.0.0.0:8469"
    shard: str = ""
    notify: str = ""
    watchdog_s: float = 0.0

    def __repr__(self) -> str:
        return f"Config(redis_url=…, data_dir={str(self.data_dir)!r}, datadog_api_key=…)"


def from_environment(environ: Mapping[str, str] = os.environ) -> Config:
    """The settings that the environment gives; raises `UsageError`."""
    data_dir = environ.get("ESPNET_DATA")
    if not data_dir:
        import platformdirs

        data_dir = str(platformdirs.user_data_path("espnet"))
    config = Config(
        file=Path(environ.get("ESPNET_FILE") or Path(data_dir, "samples.jsonl")),
        redis_url=environ.get("REDIS_URL") or None,
        prefix=environ.get("ESPNET_PREFIX", "espnet:"),
        data_dir=Path(data_dir),
        # The datadog library's own names, old and new.
        datadog_api_key=environ.get("DATADOG_API_KEY") or environ.get("DD_API_KEY", ""),
        datadog_app_key=environ.get("DATADOG_APP_KEY") or environ.get("DD_APP_KEY", ""),
        datadog_host=environ.get("DATADOG_HOST") or "https://api.datadoghq.com",
        # systemd's own names; a person sets neither.
        notify=environ.get("NOTIFY_SOCKET", ""),
        watchdog_s=_watchdog_s(environ),
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
            "sinks": ("ESPNET_SINKS", environ.get("ESPNET_SINKS")),
            "max_samples": ("ESPNET_MAX_SAMPLES", environ.get("ESPNET_MAX_SAMPLES")),
            "max_bytes": ("ESPNET_QUEUE_MB", environ.get("ESPNET_QUEUE_MB")),
            "history_bytes": ("ESPNET_HISTORY_MB", environ.get("ESPNET_HISTORY_MB")),
            "max_metrics": ("ESPNET_MAX_METRICS", environ.get("ESPNET_MAX_METRICS")),
            "prometheus": ("ESPNET_PROMETHEUS", environ.get("ESPNET_PROMETHEUS")),
            "dogstatsd": ("ESPNET_DOGSTATSD", environ.get("ESPNET_DOGSTATSD")),
            "file_bytes": ("ESPNET_FILE_MB", environ.get("ESPNET_FILE_MB")),
            "secret_keys": ("ESPNET_SECRET_KEY", environ.get("ESPNET_SECRET_KEY")),
            "log_format": ("ESPNET_LOG_FORMAT", environ.get("ESPNET_LOG_FORMAT")),
            "zone": ("ESPNET_ZONE", environ.get("ESPNET_ZONE")),
            "lat": ("ESPNET_LAT", environ.get("ESPNET_LAT")),
            "lon": ("ESPNET_LON", environ.get("ESPNET_LON")),
            "beacons": ("ESPNET_BEACONS", environ.get("ESPNET_BEACONS")),
            "shard": ("ESPNET_SHARD", environ.get("ESPNET_SHARD")),
        },
    )


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """0 where nobody watches this very process: its children inherit the variables."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (text.isascii() and text.isdigit()) or pid not in ("", str(os.getpid())):
        return 0.0
    return int(text) / 1e6


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


def holder(role: str, shard: str = "") -> str:
    """What this process is called in locks and readings: unique, and telling to a person. A collector's
    shard is part of its name (``lua/queues.lua``)."""
    role = f"{role}/{shard}" if shard else role
    return f"{role}@{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"


def shard_of(holder: str) -> str:
    """The shard of a collector by its name, "" for none."""
    return holder.partition("@")[0].partition("/")[2]


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


def _whole(name: str, text: str, least: int, most: int) -> int:
    value = number(text)
    if not (text.isdigit() and least <= value <= most):
        raise UsageError(f"{name} must be a whole number from {least} to {most}, not {text!r}.")
    return int(value)


def _megabytes(name: str, text: str, least: int) -> int:
    return _whole(name, text, least, 1_000_000) * 1_000_000


def _sinks(name: str, text: str) -> tuple[str, ...]:
    """The sinks that were chosen, each once; none at all is a choice, too."""
    chosen = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if chosen == ("none",):
        return ()
    if "none" in chosen:
        raise UsageError(f"{name}: none stands alone; leave it out, or leave out the others.")
    for word in chosen:
        if word not in SINKS and not _OWN_SINK.fullmatch(word):
            raise UsageError(
                f"{name}: there is no sink {word!r}; choose among {', '.join(SINKS)}, none, and "
                "MODULE:CLASS for one of your own."
            )
    if not chosen:
        raise UsageError(f"{name} names no sink; write none for none.")
    return chosen


def _address(name: str, text: str, such_as: str = "127.0.0.1:9469") -> str:
    """``HOST:PORT``, or a port alone, which means this machine's loopback."""
    address = f"127.0.0.1{text}" if text.startswith(":") else text
    address = f"127.0.0.1:{text}" if text.isdigit() else address
    problem = problem_with_address(address)
    if problem is None and not re.search(r":[0-9]+\Z", address):
        problem = "needs a port"
    if problem:
        raise UsageError(f"{name} is an address such as {such_as}; {text!r} {problem}.")
    return address


def _beacons(name: str, text: str) -> str:
    """``IPv4:PORT``, "" for ``off``. Boards send to everybody, and that reaches addresses, not names."""
    if text == "off":
        return ""
    host, _, port = text.rpartition(":")
    if re.fullmatch(r"[0-9.]+", host) and port.isdigit() and problem_with_address(text) is None:
        return text
    raise UsageError(
        f"{name} is where boards' beacons are listened for, such as 0.0.0.0:8469, or off; not {text!r}."
    )


def _shard(name: str, text: str) -> str:
    if problem := problem_with_shard(text):
        raise UsageError(
            f"{name} is what the tag shard:NAME of devices says, and that {problem}; not {text!r}."
        )
    return text


def _dogstatsd(name: str, text: str) -> str:
    if text.startswith("unix://"):
        if text.startswith("unix:///") and len(text) > 8 and text.isprintable():
            return text
        raise UsageError(f"{name} names no socket; write unix:///var/run/datadog/dsd.socket.")
    return _address(name, text, "127.0.0.1:8125 or unix:///var/run/datadog/dsd.socket")


def _secret_keys(name: str, text: str) -> tuple[str, ...]:
    """Keys of 32 bytes in either kind of base64, with commas between; what is wrong is not shown."""
    keys = []
    for word in text.split(","):
        try:
            key = base64.b64decode(word.strip().replace("-", "+").replace("_", "/"), validate=True)
        except ValueError:  # binascii.Error, or not ASCII
            key = b""
        if len(key) != 32:
            raise UsageError(
                f"{name} must be 32 random bytes in base64, such as `openssl rand -base64 32` makes, or "
                "several with commas between, the newest first."
            )
        keys.append(base64.urlsafe_b64encode(key).decode())
    return tuple(keys)


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
    "sinks": _sinks,
    "max_samples": lambda name, text: _whole(name, text, 1000, 10**9),
    "max_bytes": lambda name, text: _megabytes(name, text, 1),
    "history_bytes": lambda name, text: _megabytes(name, text, 0),
    "max_metrics": lambda name, text: _whole(name, text, 1, 10**9),
    "prometheus": _address,
    "dogstatsd": _dogstatsd,
    "file_bytes": lambda name, text: _megabytes(name, text, 1),
    "secret_keys": _secret_keys,
    "log_format": _log_format,
    "zone": _zone,
    "lat": lambda name, text: _degrees(name, text, 90),
    "lon": lambda name, text: _degrees(name, text, 180),
    "beacons": _beacons,
    "shard": _shard,
}
