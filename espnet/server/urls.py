"""The URLs that name a Redis: what may be in one, how it is shown, and the client that it gives.

Invariants: what is said about a URL quotes none of it, because any part may be a password; it is shown
without its credentials only. A client repeats nothing by itself, and waits for nothing without an end.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from espnet.errors import UsageError

if TYPE_CHECKING:
    import redis

_SCHEMES = ("redis://", "rediss://", "unix://")
_SENTINEL_SCHEMES = ("redis+sentinel://", "rediss+sentinel://")


@dataclass(frozen=True)
class Watch:
    """What the sentinels say of the primary called ``name``.

    ``primary`` is its address, "" where none of them names one that is up. ``sentinels`` are those of the
    URL, each with what is wrong with it ("" for nothing). ``replicas`` are those that could take over.
    ``problem`` is why no fail-over could be made now, "" where it could.
    """

    name: str
    primary: str
    sentinels: dict[str, str]
    replicas: int
    problem: str


def redacted(url: str) -> str:
    """The URL without the credentials in it, whatever it looks like."""
    url = re.sub(r"(?i)((?:password|username)=)[^&]*", r"\1***", url)
    return re.sub(r"(?s)^([a-z+]+://)?.*@", r"\1***@", url)


def is_sentinel(url: str) -> bool:
    """Whether the URL names sentinels, who know which Redis is meant, and not a Redis."""
    return url.startswith(_SENTINEL_SCHEMES)


def check_url(url: str) -> None:
    """Raises `UsageError` unless ``url`` is complete. Quotes none of it: it may be a password."""
    if problem := _problem_with(url):
        raise UsageError(
            f"REDIS_URL {problem}; it is redis://HOST:PORT/0, rediss://HOST:PORT/0, unix:///PATH or "
            "redis+sentinel://HOST:PORT,HOST:PORT/NAME."
        )


def client(url: str, timeout_s: float) -> "redis.Redis":
    """A client of the Redis that ``url`` names, which connects when it is first asked.

    Each step of the way (to a sentinel, to the server, its answer) takes ``timeout_s`` at most, unless the
    URL's own options say otherwise. Raises `UsageError` for options that make no sense.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        if is_sentinel(url):
            from espnet.server import sentinel

            found = sentinel.client(url, options)
        else:
            found = redis.Redis.from_url(url, **options)
        found.connection_pool.make_connection()  # connects nothing, but reads every option
    except (TypeError, ValueError, redis.RedisError) as error:
        raise UsageError("REDIS_URL has an option after its '?' that redis-py refuses.") from error
    return found


def _problem_with(url: str) -> str | None:
    if not url.isprintable() or " " in url:
        return "holds a space or a control character"
    if is_sentinel(url):
        from espnet.server import sentinel

        return sentinel.problem_with(url)
    if not url.startswith(_SCHEMES):
        return "begins with none of redis://, rediss://, unix:// and redis+sentinel://"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "has a malformed host or port (in a password write / ? # @ as %2F %3F %23 %40)"
    if parts.fragment:
        return "holds a '#' (in a password write it as %23)"
    databases = parse_qs(parts.query, keep_blank_values=True).get("db", [])
    if parts.scheme == "unix":
        if host or not parts.path.strip("/"):
            return "needs an absolute path after unix://"
    elif not host:
        return "names no host"
    elif port == 0:
        return "names port 0"
    elif parts.path.strip("/"):
        databases.append(parts.path[1:])
    if not all(number.isascii() and number.isdigit() for number in databases):
        return "names a database that is not a number"
    return None
