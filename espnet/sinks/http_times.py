"""The times in an HTTP answer's head: its date, and how long its sender wants to be left alone.

Invariants: pure; whatever a head says, nothing is raised, and what makes no sense is None.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

#: Nobody is left alone for longer than this, whatever it wants, in seconds.
MOST_S = 3_600.0
_SECONDS = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", re.ASCII)


def date_of(headers: Mapping[str, str]) -> float | None:
    """The ``Date`` as Unix seconds."""
    return _date(headers.get("Date", ""))


def retry_after_of(status: int, headers: Mapping[str, str]) -> float | None:
    """How long to wait before the next request, 0 to `MOST_S` seconds; None if the answer does not say.

    A date counts from the answer's own date, because this machine's clock may be wrong.
    ``X-RateLimit-Reset`` comes with every answer, and asks for a pause only with 429.
    """
    waits = []
    after = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(after):
        waits.append(float(after))
    elif (then := _date(after)) is not None and (now := date_of(headers)) is not None:
        waits.append(then - now)
    reset = headers.get("X-RateLimit-Reset", "").strip()
    if status == 429 and _SECONDS.fullmatch(reset):
        waits.append(float(reset))
    return min(max(*waits, 0.0), MOST_S) if waits else None


def _date(text: str) -> float | None:
    try:
        when = parsedate_to_datetime(text)
        # HTTP knows only GMT.
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None
