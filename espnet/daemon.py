"""`espcli run`: builds the graph, runs the loops, stops in order.

Invariants: the collector's heartbeat never waits for a board, a sink or Redis; each sink's uploader has
a thread and a Redis connection of its own, so that no sink waits for another. A stop claims nothing
more, lets trips under way end within their time-outs, which releases their locks, hands unfinished
uploads back, and ends with exit code 0. A bug in any loop ends the process with a traceback: a
supervisor sees it, nobody works on half.

A service manager hears when the first tick is over (ready), again and again that the event loop turns (a
process that hangs is restarted), and that it stops.

Events: ``collector.started`` ``collector.stopped`` ``uploads.off`` ``beacons.off`` ``redis.not_started``
``redis.open`` ``passwords.closed``, and those of `collector`, `uploader`, `follower` and `updates`.
"""

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

import structlog

from espnet import outlets
from espnet.board.listener import Listener
from espnet.clock import Clock, SystemClock
from espnet.collector import MAX_IN_FLIGHT, Collector, Outage
from espnet.config import Config
from espnet.errors import StoreUnavailable
from espnet.follower import Follower
from espnet.historian import Historian
from espnet.rollout import RETRY_POLLED_S
from espnet.sinks.console import is_ready
from espnet.store import HISTORY, PRESENT_S, Store
from espnet.supervisor import Supervisor
from espnet.updates import Driver
from espnet.uploader import Uploader

if TYPE_CHECKING:
    from espnet.sinks.prometheus import Exposition

log = structlog.get_logger()

#: At least so often what was read goes into the history, in seconds.
HISTORY_EVERY_S = 10.0
#: Seconds between two looks whether boards are to be updated, and while they are.
UPDATE_LOOK_S, UPDATE_STEP_S = 3.0, 0.5
#: How long updates under way get to come to a moment at which it is harmless to end.
UPDATE_CLOSE_S = 5.0
#: When garbage is collected (`gc.set_threshold`). What a poll makes holds no cycles, and what is kept of ten
#: thousand boards is much to look over in vain: with Python's 700 that took a fifteenth of a poll.
GC_THRESHOLD = (10_000, 10, 10)
#: How long the first line of the log that nobody takes is waited with, in seconds.
LOG_WAIT_S = 0.1


def configure_logging(log_format: str) -> None:
    """One line an event, on stderr: ``text`` for people (logfmt), ``json`` for machines."""
    renderer = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.processors.LogfmtRenderer(key_order=["at", "level", "event"])
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=_Stderr,
    )


class _Stderr:
    """Writes to whatever stderr is now. When nobody reads it (any more), heaters still want deciding:
    what a terminal that stands still (Ctrl-S), or a full pipe, does not take is left out."""

    def __init__(self, *_: object) -> None:
        self._was_ready = True

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._was_ready = is_ready(sys.stderr, LOG_WAIT_S if self._was_ready else 0.0)
            if self._was_ready:
                structlog.PrintLogger(sys.stderr).msg(line)

    debug = info = warning = error = critical = msg


class Daemon:
    """The collector and the uploaders of one process. ``heartbeat_hz`` is claims per second.

    ``revive`` is called, in a thread, while Redis is away: it may start it again (the embedded server
    is ours to start) and raises `StoreUnavailable` when it cannot. ``out`` is where the console sink
    writes. Raises `SinkError` for a sink that cannot work as it is set up.
    """

    def __init__(
        self,
        config: Config,
        redis_url: str,
        *,
        holder: str,
        heartbeat_hz: float,
        out: TextIO,
        revive: Callable[[], object] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._config, self._holder, self._period_s = config, holder, 1 / heartbeat_hz
        self._revive, self._reviving, self._not_started = revive, False, ""
        self._clock = clock or SystemClock()
        self._outage = Outage()
        self._stop_uploads = threading.Event()
        self._redis_url = redis_url
        self._supervisor = Supervisor(config.notify)
        self._is_ready = False
        self._stores: list[Store] = []
        self._store = self._new_store()
        sinks = outlets.build(config, out)
        self._readers = [sink.name for sink in sinks]
        if config.history_bytes:
            self._readers.append(HISTORY)
        stores = [self._new_store() for _ in sinks]
        self._uploaders = [
            (store, Uploader(store, sink, holder, self._clock, stop=self._stop_uploads.is_set))
            for store, sink in zip(stores, sinks, strict=True)
        ]
        self._history_store = self._new_store()
        self._historian = self._new_historian() if config.history_bytes else None
        self._follower = Follower(
            self._new_store(),
            self._clock,
            holder=holder,
            timeout_s=config.timeout_s,
            outage=self._outage,
        )
        self._listener = Listener(config.beacons, self._follower.heard) if config.beacons else None
        self._page = (
            self._exposition(address) if (address := outlets.prometheus_address(config)) else None
        )

    def _new_historian(self) -> Historian:
        return Historian(
            self._history_store,
            self._holder,
            budget_bytes=self._config.history_bytes,
            stop=self._stop_uploads.is_set,
            keep=self._config.sinks is None,
        )

    def _exposition(self, address: str) -> "Exposition":
        from espnet import exposition
        from espnet.sinks.prometheus import Exposition

        store = self._new_store()
        return Exposition(lambda: exposition.look(store, self._clock), address, clock=self._clock)

    def _new_store(self) -> Store:
        """A Redis connection for one thread, which ends with the daemon."""
        self._stores.append(self._connect())
        return self._stores[-1]

    def _connect(self) -> Store:
        config = self._config
        return Store(
            self._redis_url,
            prefix=config.prefix,
            max_samples=config.max_samples,
            max_bytes=config.max_bytes,
            secret_keys=config.secret_keys,
        )

    def run(self) -> None:
        """Runs until SIGTERM or SIGINT."""
        import uvloop

        _allow_sockets(2 * MAX_IN_FLIGHT)
        gc.set_threshold(*GC_THRESHOLD)
        with (
            self._page or contextlib.nullcontext(),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        collector = Collector(
            self._store,
            self._clock,
            holder=self._holder,
            interval_s=self._config.interval_s,
            timeout_s=self._config.timeout_s,
            present_s=max(PRESENT_S, 3 * self._period_s),
            beat_s=self._period_s,
            outage=self._outage,
            observe=self._page.observe if self._page else lambda _: None,
        )
        log.info(
            "collector.started",
            holder=self._holder,
            interval_s=self._config.interval_s,
            timeout_s=self._config.timeout_s,
        )
        if self._config.sinks is None and not self._uploaders:
            log.warning(
                "uploads.off",
                reason="no sink was chosen, and DATADOG_API_KEY is not set",
                effect=f"samples wait in Redis, the newest {self._config.max_samples:,} of them",
            )
        uploads = [
            asyncio.create_task(asyncio.to_thread(self._upload_until_stopped, *each))
            for each in self._uploaders
        ]
        uploads.append(asyncio.create_task(asyncio.to_thread(self._keep_history_until_stopped)))
        uploads.append(asyncio.create_task(asyncio.to_thread(self._update_boards_until_stopped)))
        for task in uploads:
            task.add_done_callback(lambda _: stop.set())  # it ends early only by a bug
        try:
            async with asyncio.TaskGroup() as ticks:
                ticks.create_task(asyncio.to_thread(self._say_what_is_open))
                alive = ticks.create_task(self._say_alive())
                if self._hears_beacons():
                    ticks.create_task(self._follower.run(stop))
                await self._beat(collector, ticks, stop)
                self._supervisor.stopping()
                alive.cancel()
                collector.stop()
                # Now, and not when the last trip has ended: a sink must not be asked anew meanwhile.
                self._stop_uploads.set()
        finally:
            self._stop_uploads.set()
            if self._listener is not None:
                self._listener.close()
            await asyncio.gather(*uploads)
            await collector.close()
            for store in self._stores:
                store.close()
        log.info("collector.stopped", holder=self._holder)

    def _hears_beacons(self) -> bool:
        """Whether boards that move will be followed; without, everything else goes on."""
        if self._listener is None:
            return False
        try:
            self._listener.open()
        except OSError as error:
            log.warning(
                "beacons.off",
                address=self._listener.address,
                reason=error.strerror or str(error),
                effect="boards that get another address are not followed; ESPNET_BEACONS names another "
                "place to listen at",
            )
            return False
        return True

    def _say_what_is_open(self) -> None:
        """Once, at start: what lets others in, or keeps us out."""
        store = self._new_store()
        try:
            is_open, kept = store.health().is_open, store.all_credentials()
        except StoreUnavailable:
            return  # the heartbeat says so
        if is_open:
            log.warning(
                "redis.open",
                reason="it listens beyond this machine, without a password",
                effect="who reaches it controls every board; `espcli doctor` says what to do",
            )
        closed = [credential.problem for credential in kept.values() if credential.problem]
        if closed:
            log.error(
                "passwords.closed",
                boards=len(closed),
                reason=closed[0],
                effect="these boards are left to other collectors",
            )

    async def _beat(
        self, collector: Collector, ticks: asyncio.TaskGroup, stop: asyncio.Event
    ) -> None:
        """Starts a tick every heartbeat; beats that were missed are skipped."""
        loop = asyncio.get_running_loop()
        beat = loop.time()
        while not stop.is_set():
            ticks.create_task(self._tick(collector))
            if self._outage.is_on and self._revive is not None and not self._reviving:
                ticks.create_task(self._revive_redis(self._revive))
            beat = max(beat + self._period_s, loop.time())
            try:
                async with asyncio.timeout_at(beat):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _tick(self, collector: Collector) -> None:
        await collector.tick(self._clock.now())
        if not self._is_ready and not self._outage.is_on:
            self._is_ready = True
            self._supervisor.ready()

    async def _say_alive(self) -> None:
        """Three times as often as it is asked for: one late beat must not end the process."""
        while self._config.watchdog_s:
            self._supervisor.alive()
            await asyncio.sleep(self._config.watchdog_s / 3)

    async def _revive_redis(self, revive: Callable[[], object]) -> None:
        self._reviving = True
        try:
            await asyncio.to_thread(revive)
            self._not_started = ""
        except StoreUnavailable as error:
            if str(error) != self._not_started:
                self._not_started = str(error)
                log.error("redis.not_started", reason=self._not_started)
        finally:
            self._reviving = False

    def _upload_until_stopped(self, store: Store, uploader: Uploader) -> None:
        while not self._stop_uploads.is_set():
            wait_s = self._config.upload_interval_s
            with self._outage_is_said():
                self._join_all(store)
                drained = uploader.drain(self._clock.now())
                wait_s = uploader.wait_s or wait_s if drained.is_done else 0.0
            self._stop_uploads.wait(wait_s)
        with self._outage_is_said():
            uploader.close()

    def _keep_history_until_stopped(self) -> None:
        if self._historian is None:
            # What it had not read must not be kept for it.
            with self._outage_is_said():
                self._history_store.forget_sink(HISTORY)
            self._stop_uploads.wait()
            return
        while not self._stop_uploads.is_set():
            with self._outage_is_said():
                self._join_all(self._history_store)
                self._historian.drain(self._clock.now())
            self._stop_uploads.wait(min(self._config.upload_interval_s, HISTORY_EVERY_S))
        with self._outage_is_said():
            self._historian.close()

    def _update_boards_until_stopped(self) -> None:
        """Goes on with the rollout where nobody else does: with boards that come back, and with those whose
        driver is gone."""
        driver = Driver(
            self._connect,
            self._clock,
            holder=self._holder,
            interval_s=self._config.interval_s,
            timeout_s=self._config.timeout_s,
            retry_s=RETRY_POLLED_S,
        )
        try:
            while not self._stop_uploads.is_set():
                with self._outage_is_said():
                    driver.step()
                self._stop_uploads.wait(UPDATE_STEP_S if driver.is_busy else UPDATE_LOOK_S)
        finally:
            driver.close(UPDATE_CLOSE_S)

    def _join_all(self, store: Store) -> None:
        """No reader settles an entry that another one of this process has not yet heard of."""
        for reader in self._readers:
            store.join(reader, self._clock.now())

    @contextlib.contextmanager
    def _outage_is_said(self) -> Iterator[None]:
        try:
            yield
        except StoreUnavailable as error:
            self._outage.began(error)


def _allow_sockets(wanted: int) -> None:
    """Raises the soft limit of open files towards the hard one: every board is a socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > soft:
        most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted, most), hard))
