"""Which sinks there are: from the settings to `Sink` objects.

Prometheus is no `Sink`: it asks instead of being told, and needs no stream; `daemon` serves it.
"""

import importlib
import re
from collections.abc import Callable
from typing import Any, TextIO, cast

from espnet.config import Config
from espnet.errors import SinkError
from espnet.sinks import Sink

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
#: What a sink must have, and what it must be.
_ATTRIBUTES: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "window_s": lambda value: value is None or isinstance(value, int | float),
    "future_s": lambda value: value is None or isinstance(value, int | float),
    "send": callable,
}
#: Consumer groups of other purposes.
_TAKEN = ("history", "none", "prometheus")


def chosen(config: Config) -> tuple[str, ...]:
    """The sinks in force: those that were chosen, else ``datadog`` when there is a key for it."""
    if config.sinks is not None:
        return config.sinks
    return ("datadog",) if config.datadog_api_key else ()


def prometheus_address(config: Config) -> str:
    """Where the page for Prometheus is served; "" where it is not."""
    if config.prometheus or "prometheus" not in (config.sinks or ()):
        return config.prometheus
    from espnet.sinks.prometheus import DEFAULT_ADDRESS

    return DEFAULT_ADDRESS


def build(config: Config, out: TextIO) -> list[Sink]:
    """The sinks that read the stream; the console writes to ``out``.

    Raises `SinkError` for one that cannot work as it is set up.
    """
    sinks = [_build(word, config, out) for word in chosen(config) if word != "prometheus"]
    names = [sink.name for sink in sinks]
    for name in names:
        if names.count(name) > 1:
            raise SinkError(f"Two sinks are called {name}; each needs a name of its own.")
    return sinks


def _build(word: str, config: Config, out: TextIO) -> Sink:
    # Each is imported when it is wanted: none of them is cheap.
    if word == "datadog":
        from espnet.sinks.datadog import Datadog

        return Datadog(config.datadog_api_key, config.datadog_app_key, config.datadog_host)
    if word == "dogstatsd":
        from espnet.sinks.dogstatsd import DogStatsd

        return DogStatsd(config.dogstatsd)
    if word == "file":
        from espnet.sinks.file import File

        return File(config.file, max_bytes=config.file_bytes)
    if word == "console":
        from espnet.sinks.console import Console

        return Console(out)
    return _own(word)


def _own(word: str) -> Sink:
    """A user's own sink, ``MODULE:CLASS``, which is made without arguments."""
    module, _, name = word.partition(":")
    try:
        kind: Any = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and what it imports is not
        raise SinkError(
            f"There is no module {module} for the sink {word}; "
            "is its folder in PYTHONPATH, and is it spelt so?"
        ) from error
    except AttributeError as error:
        if error.name != name:
            raise
        kind = None
    if not isinstance(kind, type):
        raise SinkError(
            f"The module {module} has no class {name} for the sink {word}; is it spelt so?"
        )
    made: Any = kind()
    problems = [
        attribute
        for attribute, is_right in _ATTRIBUTES.items()
        if not (hasattr(made, attribute) and is_right(getattr(made, attribute)))
    ]
    if problems:
        raise SinkError(
            f"The sink {word} lacks a good {' and '.join(problems)}; docs/sinks.md shows one."
        )
    if not _NAME.fullmatch(made.name) or made.name in _TAKEN:
        raise SinkError(
            f"The sink {word} is called {made.name!r}; a name is a small letter and then "
            f"small letters, digits and _, and none of {', '.join(_TAKEN)}."
        )
    return cast(Sink, made)
