"""The connection to Redis: the keys, the scripts, and how its errors leave."""

import functools
import re
from collections.abc import Callable
from importlib import resources
from typing import Any, TypeVar, cast

import redis
from redis.exceptions import RedisError, ResponseError

from espnet.errors import (
    StoreUnavailable,
)
from espnet.model import (
    decode_device,
    decode_jobs,
    decode_memory,
)
from espnet.server import urls
from espnet.store.records import CACHED_DEVICES, DEFAULT_MAX_BYTES, DEFAULT_MAX_SAMPLES
from espnet.store.sealing import Seals

F = TypeVar("F", bound=Callable[..., Any])
_COMMAND = re.compile(r"\ACommand # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)


def translated(method: F) -> F:
    """What the client library raises leaves as one sentence about Redis."""

    @functools.wraps(method)
    def wrapper(self: "Connection", *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except RedisError as error:
            self._doubt()
            raise self._unavailable(error) from error

    return cast(F, wrapper)


class Connection:
    """A client of the chosen Redis, the names of all keys, the scripts.

    ``url`` is what `espnet.server` chose. Commands time out after ``timeout_s`` and are not repeated
    here: the loops that call decide when to try again. ``secret_keys`` seal the boards' passwords.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "espnet:",
        timeout_s: float = 5.0,
        max_samples: int = DEFAULT_MAX_SAMPLES,
        max_bytes: int = DEFAULT_MAX_BYTES,
        secret_keys: tuple[str, ...] = (),
        client: "redis.Redis | None" = None,
    ) -> None:
        self.url, self.prefix = url, prefix
        self.max_samples, self.max_bytes = max_samples, max_bytes
        self._seals = Seals(secret_keys)
        #: As the latest claim found it; it differs from before when any device's jobs have changed.
        self.jobs_version = b""
        #: What the latest claim gave back, or lost, to others: those ids, or None where all may be theirs.
        self.given: tuple[str, ...] | None = ()
        #: The claims of each holder without an answer: the first one since the latest answer, the latest one.
        self._silences: dict[str, tuple[str, float]] = {}
        # Any: the library types every answer as a union of all that any command may answer.
        self._redis: Any = client or urls.client(url, timeout_s)
        self._devices, self._names = prefix + "devices", prefix + "names"
        self._addresses = prefix + "addresses"
        self._due, self._readings = prefix + "due", prefix + "readings"
        self._faults, self._locks = prefix + "faults", prefix + "lock:"
        self._fence, self._collectors = prefix + "fence", prefix + "collectors"
        self._samples, self._dead = prefix + "samples", prefix + "dead"
        self._sinks, self._sink_states = prefix + "sinks", prefix + "sink_states"
        self._jobs, self._jobs_version = prefix + "jobs", prefix + "jobs_version"
        self._memory, self._credentials = prefix + "memory", prefix + "credentials"
        self._claim = self._script("queues", "claim")
        self._commit = self._script("sinks", "queues", "commit")
        self._place = self._script("queues", "place")
        self._schedule = self._script("queues", "schedule")
        self._readings_of = self._script("readings")
        self._lift_fence = self._script("lift_fence")
        # A device's record rarely changes between two claims: the same bytes are the same object.
        self._decoded = functools.lru_cache(CACHED_DEVICES)(decode_device)
        self._decoded_jobs = functools.lru_cache(CACHED_DEVICES)(decode_jobs)
        self._decoded_memory = functools.lru_cache(CACHED_DEVICES)(decode_memory)

    def _script(self, *names: str) -> Callable[..., Any]:
        """One script made of the named files of ``lua/``, one after another."""
        folder = resources.files("espnet").joinpath("lua")
        source = "\n".join(folder.joinpath(f"{name}.lua").read_text("utf-8") for name in names)
        return cast(Callable[..., Any], self._redis.register_script(source))

    def _doubt(self) -> None:
        """Behind sentinels, another server may be the primary by now: whatever went wrong, they are asked."""
        if urls.is_sentinel(self.url):
            from espnet.server import sentinel

            sentinel.doubt(self._redis)

    def _unavailable(self, error: RedisError) -> StoreUnavailable:
        what = "refused a command" if isinstance(error, ResponseError) else "does not answer"
        # redis-py names the command that failed, with its arguments: those are nobody's business.
        said = _COMMAND.sub("", str(error))
        return StoreUnavailable(
            f"Redis at {urls.redacted(self.url)} {what}: {said}; "
            "`espcli redis` shows which server is used, REDIS_URL names another."
        )

    def close(self) -> None:
        """Gives the connections back."""
        self._redis.close()

    @translated
    def ping(self) -> None:
        """Raises `StoreUnavailable` unless Redis answers."""
        self._redis.ping()

    @translated
    def server_info(self) -> dict[str, Any]:
        """Redis's own account of itself (``INFO``)."""
        return cast(dict[str, Any], self._redis.info())
