"""From typed words to values. Everything arrives as text; every refusal is one sentence."""

import math
from collections.abc import Iterable, Sequence

from espnet.errors import UsageError
from espnet.model import (
    MAX_PIN,
    Device,
)
from espnet.names import problem_with_address, problem_with_name, problem_with_tag

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
#: Most characters of a typed word that an error repeats.
_QUOTE = 80


def quoted(text: str) -> str:
    """A typed word as an error shows it: in quotes, without control characters, not for ever."""
    return repr(text if len(text) <= _QUOTE else text[:_QUOTE] + "…")


def name(text: str, what: str = "name") -> str:
    """A device's or sensor's name."""
    problem = problem_with_name(text)
    if problem:
        raise UsageError(f"The {what} {quoted(text)} {problem}; choose another one.")
    return text


def address(text: str) -> str:
    """``HOST`` or ``HOST:PORT``."""
    problem = problem_with_address(text)
    if problem:
        raise UsageError(
            f"The address {quoted(text)} {problem}; for example 192.168.1.17 or porch.lan:80."
        )
    return text


def tags(text: str) -> tuple[str, ...]:
    """``a:b,c`` as tags, each once, in the order that they were typed."""
    found = tuple(dict.fromkeys(text.split(",")))
    for tag in found:
        problem = problem_with_tag(tag)
        if problem:
            raise UsageError(f"The tag {quoted(tag)} {problem}; for example room:attic,floor:2.")
    return found


def pin(text: str) -> int:
    """A GPIO number."""
    number = _whole(text)
    if number is None or number > MAX_PIN:
        raise UsageError(f"A pin is a GPIO number from 0 to {MAX_PIN}, not {quoted(text)}.")
    return number


def pins(text: str) -> tuple[int, ...]:
    """``2,4,5`` as GPIO numbers, in order, each once."""
    return tuple(sorted({pin(part) for part in text.split(",")}))


def known_pins(wanted: Iterable[int], device: Device, reported: Iterable[int] | None) -> None:
    """Refuses pins that the board does not report; ``reported`` None means that it is not known."""
    if reported is None:
        return
    unknown = sorted(set(wanted) - set(reported))
    if unknown:
        raise UsageError(
            f"{device.name} has no pin {', '.join(map(str, unknown))}; "
            f"it reports {', '.join(map(str, sorted(reported)))}."
        )


def count(text: str, what: str, least: int, most: int) -> int:
    """A whole number within bounds."""
    number = _whole(text)
    if number is None or not least <= number <= most:
        raise UsageError(
            f"{what} must be a whole number from {least} to {most}, not {quoted(text)}."
        )
    return number


def heartbeat(text: str) -> float:
    """Heartbeats per second."""
    from espnet.config import number

    value = number(text)
    if not 0.01 <= value <= 100:
        raise UsageError(
            f"HEARTBEAT is heartbeats per second, a number from 0.01 to 100, not {quoted(text)}."
        )
    return value


def seconds(text: str, what: str, least: float, most: float) -> float:
    """A number of seconds within bounds."""
    from espnet import config

    return config.seconds(what, text, least, most)


def number(text: str, what: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number within bounds."""
    from espnet import config

    value = config.number(text)
    if math.isfinite(value) and least <= value <= most:
        return value
    raise UsageError(f"{what} must be a number{_bounds(least, most)}, not {quoted(text)}.")


def duration(text: str, what: str, least: float = 0.0, most: float = 366 * 86_400.0) -> float:
    """``90``, ``90s``, ``5m``, ``2h`` or ``1d`` as seconds."""
    from espnet import config

    unit_s = _UNITS.get(text[-1:], 1.0)
    value = config.number(text[:-1] if text[-1:] in _UNITS else text) * unit_s
    if math.isfinite(value) and least <= value <= most:
        return value
    raise UsageError(
        f"{what} must be a time such as 90, 90s, 5m, 2h or 1d, from {span(least)} to {span(most)}; "
        f"not {quoted(text)}."
    )


def span(seconds: float) -> str:
    """A time as it is typed: 90s, 5m, 24h, 7d."""
    for unit, length_s in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length_s and seconds % length_s == 0 and seconds != 86_400:
            return f"{seconds / length_s:g}{unit}"
    return "24h" if seconds == 86_400 else f"{seconds:g}s"


def one_of(text: str, what: str, allowed: Sequence[str]) -> str:
    """One of a few words."""
    if text in allowed:
        return text
    raise UsageError(
        f"{what} must be {', '.join(allowed[:-1])} or {allowed[-1]}, not {quoted(text)}."
    )


def _bounds(least: float, most: float) -> str:
    parts = []
    if least > -math.inf:
        parts.append(f"at least {least:g}")
    if most < math.inf:
        parts.append(f"at most {most:g}")
    return f" of {' and '.join(parts)}" if parts else ""


def _whole(text: str) -> int | None:
    """Digits as a number; None for anything else, also for more digits than any number here has."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
