"""How numbers are said: times, sizes, counts, and names of which there are too many."""

from collections.abc import Mapping, Sequence

#: Names in one sentence.
NAMED = 5


def some(names: Sequence[str], total: int | None = None) -> str:
    """The first few names, and how many more there are."""
    shown = names[:NAMED]
    more = (len(names) if total is None else total) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def amount(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def amount_is(number: int, noun: str) -> str:
    return f"{amount(number, noun)} {'is' if number == 1 else 'are'}"


def duration(seconds: float | None) -> str:
    """How long, in the largest unit that tells enough."""
    if seconds is None:
        return "an unknown time"
    for unit, length_s in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(number: int | None) -> str:
    """A number of bytes, in units of 1000."""
    if number is None:
        return "an unknown size"
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def sentinels_told(sentinels: Mapping[str, str]) -> str:
    """Sentinels in a line, with what is wrong with them."""
    return ", ".join(f"{who} ({what})" if what else who for who, what in sentinels.items())
