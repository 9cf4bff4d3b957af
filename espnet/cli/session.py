"""What every command shares: settings, the store, this process's name. Made when first needed."""

import functools
from typing import TYPE_CHECKING

from espnet.clock import Clock, SystemClock

if TYPE_CHECKING:
    from espnet.config import Config
    from espnet.server import Server
    from espnet.store import Store


class Session:
    """One run of the command line."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or SystemClock()

    @functools.cached_property
    def config(self) -> "Config":
        """The settings that the environment gives."""
        from espnet import config

        return config.from_environment()

    @functools.cached_property
    def server(self) -> "Server":
        """The Redis that is used; the embedded one is started when there is no other."""
        from espnet import server

        return server.find(self.config.redis_url, self.config.data_dir)

    @functools.cached_property
    def store(self) -> "Store":
        from espnet.store import Store

        return Store(
            self.server.url,
            prefix=self.config.prefix,
            max_samples=self.config.max_samples,
            max_bytes=self.config.max_bytes,
            secret_keys=self.config.secret_keys,
        )

    def beside(self) -> "Session":
        """The same, with a connection to Redis of its own: a store is one thread's."""
        other = Session(self.clock)
        other.__dict__.update(self.__dict__)
        other.__dict__.pop("store", None)
        return other

    @functools.cached_property
    def holder(self) -> str:
        """Who we are in locks and readings."""
        from espnet import config

        return config.holder("cli")

    @functools.cached_property
    def zone(self) -> str:
        """The site's time zone by its IANA name."""
        from espnet import config

        return self.config.zone or config.local_zone()

    @property
    def now(self) -> float:
        return self.clock.now()

    @property
    def lock_ttl_s(self) -> float:
        """Longer than everything that a command does under a board's lock."""
        return 3 * self.config.timeout_s + 5
