"""The store, asked from the event loop; and whether Redis is away.

Events: ``redis.lost`` ``redis.back``.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from espnet.errors import StoreUnavailable
from espnet.store import Store

T = TypeVar("T")
U = TypeVar("U")
log = structlog.get_logger()


class Outage:
    """Says once that Redis is away and once that it is back, whoever notices."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self.is_on = False

    def began(self, error: StoreUnavailable) -> None:
        with self._guard:
            if not self.is_on:
                self.is_on = True
                log.error("redis.lost", reason=str(error))

    def ended(self) -> None:
        if self.is_on:
            with self._guard:
                if self.is_on:
                    self.is_on = False
                    log.info("redis.back")


class RedisThread:
    """A store in a thread of its own: hence one connection, and never two scripts at once.

    That Redis is away is said here, whatever becomes of the question. That it is back is for those to say
    who ask again and again.
    """

    def __init__(self, store: Store, outage: Outage) -> None:
        self._store, self.outage = store, outage
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="redis")

    async def ask(self, work: Callable[[Store], T]) -> T:
        """What ``work`` returns; raises `StoreUnavailable`."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, work, self._store)
        except StoreUnavailable as error:
            self.outage.began(error)
            raise

    async def ask_or(self, otherwise: U, work: Callable[[Store], T]) -> T | U:
        """What ``work`` returns, or ``otherwise`` where Redis is away."""
        try:
            return await self.ask(work)
        except StoreUnavailable:
            return otherwise

    def close(self) -> None:
        self._thread.shutdown()
