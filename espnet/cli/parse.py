"""From typed words to values. Everything arrives as text; every refusal is one sentence."""

from collections.abc import Iterable

from espnet.errors import UsageError
from espnet.model import (
    MAX_PIN,
    Device,
    problem_with_address,
    problem_with_name,
    problem_with_tag,
)


def name(text: str, what: str = "name") -> str:
    """A device's or sensor's name."""
    problem = problem_with_name(text)
    if problem:
        raise UsageError(f"The {what} {text!r} {problem}; choose another one.")
    return text


def address(text: str) -> str:
    """``HOST`` or ``HOST:PORT``."""
    problem = problem_with_address(text)
    if problem:
        raise UsageError(
            f"The address {text!r} {problem}; for example 192.168.1.17 or porch.lan:80."
        )
    return text


def tags(text: str) -> tuple[str, ...]:
    """``a:b,c`` as tags."""
    found = tuple(dict.fromkeys(tag for tag in text.split(",") if tag))
    for tag in found:
        problem = problem_with_tag(tag)
        if problem:
            raise UsageError(f"The tag {tag!r} {problem}; for example room:attic.")
    return found


def pin(text: str) -> int:
    """A GPIO number."""
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_PIN):
        raise UsageError(f"A pin is a GPIO number from 0 to {MAX_PIN}, not {text!r}.")
    return int(text)


def pins(text: str) -> tuple[int, ...]:
    """``2,4,5`` as GPIO numbers, in order, each once. Fire may have made a tuple's text of it."""
    inner = text.strip("()[]").replace(" ", "")
    return tuple(sorted({pin(part) for part in inner.split(",") if part}))


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


def flag(text: object, option: str) -> bool:
    """``--option``, ``--option=true`` or ``--nooption``."""
    word = str(text).lower()
    if word in ("true", "1", "yes"):
        return True
    if word in ("false", "0", "no"):
        return False
    raise UsageError(f"{option} is either there or not; it takes no value like {text!r}.")


def count(text: str, what: str, least: int, most: int) -> int:
    """A whole number within bounds."""
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise UsageError(f"{what} must be a whole number from {least} to {most}, not {text!r}.")
    return int(text)


def heartbeat(text: str) -> float:
    """Heartbeats per second."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0.01 <= value <= 100:
        raise UsageError(
            f"HEARTBEAT is heartbeats per second, a number from 0.01 to 100, not {text!r}."
        )
    return value


def refuse(what: str, text: str, allowed: Iterable[str]) -> UsageError:
    """The error for a word that is none of those that are allowed."""
    return UsageError(f"`{what}` knows {' and '.join(allowed)}, not {text!r}.")
