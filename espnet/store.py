"""Every Redis key, script and codec. Nothing else in EspNet knows a key's name.

Every key begins with a prefix (``espnet:`` unless configured). A device's hardware id is its key
everywhere; names only lead to ids. Commands are those that Redis ≥ 6.2 and Valkey share.

====================  ======  ========================================================================
key                   type    holds
====================  ======  ========================================================================
``devices``           hash    id → `Device`: what a person decided
``names``             hash    name → id
``due``               zset    id → when the next poll is due (Unix seconds); a claimed device's date is
                              the end of its lock, so that a collector that dies loses nothing
``readings``          hash    id → `Reading` of the last successful poll; whether it is still fresh is
                              for the reader to say (`Reading.is_fresh`)
``faults``            hash    id → `Fault`, only while polls fail
``lock:ID``           string  the token of who may talk to the board; always with a TTL
``jobs``              hash    id → the device's jobs, overrides among them
``jobs_version``      int     grows with every change of any job
``memory``            hash    id → `Memory`: what deciding needs from poll to poll, and the writes
``fence``             int     grows with every lock grant, in the order of the grants
``collectors``        zset    collector → when it last claimed (Unix seconds)
``samples``           stream  one entry a poll: ``n`` samples, ``batch`` (`SampleBatch`); a sink is a
                              consumer group; an entry leaves when it was delivered
``books``             hash    ``collected`` ``accepted`` ``dropped`` ``queued`` ``refused`` samples
====================  ======  ========================================================================

Invariants: what belongs together changes in one transaction or one script (``lua/``). A lock's
token is ``HOLDER:NUMBER``, unique; only its owner commits or releases. Every error of the client
library leaves here as `StoreUnavailable`.
"""

import functools
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.exceptions import LockNotOwnedError, RedisError, ResponseError
from redis.lock import Lock
from redis.retry import Retry

from espnet import inputs
from espnet.errors import (
    DeviceBusy,
    DeviceLockLost,
    RegistryConflict,
    StoreUnavailable,
    UnknownDevice,
)
from espnet.model import (
    Books,
    Device,
    Fault,
    Job,
    Memory,
    Reading,
    SampleBatch,
    Threshold,
    View,
    decode_batch,
    decode_device,
    decode_fault,
    decode_jobs,
    decode_memory,
    decode_reading,
    encode,
)

#: Most devices of one claim or commit: Lua's ``unpack`` takes some 8,000 values, and a batch of this
#: size spreads the round trip thin enough (0.7 µs a device on the client's side).
BATCH = 256
#: Most samples that wait for a sink (about 256 MB of stream at 250 bytes each).
DEFAULT_MAX_SAMPLES = 1_000_000
#: A collector that has not claimed for so long is no longer listed, in seconds.
COLLECTOR_FORGOTTEN_S = 3_600
#: Decoded records that are kept between claims: a fleet of this size never decodes one twice.
CACHED_DEVICES = 65_536

F = TypeVar("F", bound=Callable[..., Any])


_NOTHING_REMEMBERED = Memory()


class Grant(msgspec.Struct):
    """A lock that was given: ``fence`` grows with every grant, ``token`` proves the ownership."""

    id: str
    token: str
    fence: int
    committed: bool = False


class Claim(NamedTuple):
    """A device to be polled now, and the lock that allows it. ``due`` is when it should have been.

    ``jobs`` and ``memory`` are what its pins are decided by.
    """

    device: Device
    fault: Fault | None
    due: float
    grant: Grant
    jobs: tuple[Job, ...] = ()
    memory: Memory = Memory()


class Poll(NamedTuple):
    """What a trip ends with. A successful poll has a reading, a failed one a fault, and one that was
    given up before it began has neither.

    ``healed`` says that an earlier fault is over. ``refused`` counts samples that were not numbers.
    ``memory`` None leaves it as it is.
    """

    grant: Grant
    next_due: float
    reading: Reading | None = None
    fault: Fault | None = None
    healed: bool = False
    batch: SampleBatch | None = None
    refused: int = 0
    memory: Memory | None = None


class Entry(NamedTuple):
    """One poll's samples on the stream."""

    id: bytes
    batch: SampleBatch


class LockState(NamedTuple):
    """Who holds a device's lock, and for how many seconds more at most."""

    holder: str
    left_s: float


class _FencedLock(Lock):
    """redis-py's lock, whose grant and fence are one step.

    A fence that was taken before the wait for the lock would be older than the fence of whoever held
    the lock meanwhile, and the board would refuse it.
    """

    fence_key = ""
    fence = 0

    def do_acquire(self, token: str) -> bool:
        pipe = self.redis.pipeline()
        pipe.set(self.name, token, nx=True, px=int(float(self.timeout or 0) * 1000))
        pipe.incr(self.fence_key)
        taken, self.fence = pipe.execute()
        return bool(taken)


def _translated(method: F) -> F:
    """What the client library raises leaves as one sentence about Redis."""

    @functools.wraps(method)
    def wrapper(self: "Store", *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except RedisError as error:
            raise self._unavailable(error) from error

    return cast(F, wrapper)


class Store:
    """The registry, the schedule with its locks, the readings and the sample stream.

    ``url`` is what `espnet.server` chose. Commands time out after ``timeout_s`` and are not repeated
    here: the loops that call decide when to try again.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "espnet:",
        timeout_s: float = 5.0,
        max_samples: int = DEFAULT_MAX_SAMPLES,
        client: "redis.Redis | None" = None,
    ) -> None:
        self.url, self.prefix, self.max_samples = url, prefix, max_samples
        #: As the latest claim found it; it differs from before when any device's jobs have changed.
        self.jobs_version = b""
        # Any: the library types every answer as a union of all that any command may answer.
        self._redis: Any = client or redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        self._devices, self._names = prefix + "devices", prefix + "names"
        self._due, self._readings = prefix + "due", prefix + "readings"
        self._faults, self._locks = prefix + "faults", prefix + "lock:"
        self._fence, self._collectors = prefix + "fence", prefix + "collectors"
        self._samples, self._books = prefix + "samples", prefix + "books"
        self._jobs, self._jobs_version = prefix + "jobs", prefix + "jobs_version"
        self._memory = prefix + "memory"
        self._claim = self._script("claim")
        self._commit = self._script("commit")
        self._accept = self._script("accept")
        self._readings_of = self._script("readings")
        self._lift_fence = self._script("lift_fence")
        # A device's record rarely changes between two claims: the same bytes are the same object.
        self._decoded = functools.lru_cache(CACHED_DEVICES)(decode_device)
        self._decoded_jobs = functools.lru_cache(CACHED_DEVICES)(decode_jobs)
        self._decoded_memory = functools.lru_cache(CACHED_DEVICES)(decode_memory)

    def _script(self, name: str) -> Callable[..., Any]:
        source = (
            resources.files("espnet").joinpath("lua", name + ".lua").read_text(encoding="utf-8")
        )
        return cast(Callable[..., Any], self._redis.register_script(source))

    def _unavailable(self, error: RedisError) -> StoreUnavailable:
        from espnet.server import redacted

        what = "refused a command" if isinstance(error, ResponseError) else "does not answer"
        return StoreUnavailable(
            f"Redis at {redacted(self.url)} {what}: {error}; "
            "`espcli redis` shows which server is used, REDIS_URL names another."
        )

    def close(self) -> None:
        """Gives the connections back."""
        self._redis.close()

    @_translated
    def ping(self) -> None:
        """Raises `StoreUnavailable` unless Redis answers."""
        self._redis.ping()

    @_translated
    def server_info(self) -> dict[str, Any]:
        """Redis's own account of itself (``INFO``)."""
        return cast(dict[str, Any], self._redis.info())

    # --- registry -------------------------------------------------------------------------------

    @_translated
    def devices(self) -> list[Device]:
        """Every registered device, by name."""
        return sorted(
            (decode_device(raw) for raw in self._redis.hvals(self._devices)), key=_by_name
        )

    @_translated
    def device(self, name: str) -> Device:
        """The device of this name; raises `UnknownDevice`."""
        device_id = self._redis.hget(self._names, name)
        raw = self._redis.hget(self._devices, device_id) if device_id else None
        if raw is None:
            raise UnknownDevice(name)
        return decode_device(raw)

    @_translated
    def views(self) -> list[View]:
        """Every device with its last reading and its fault, by name."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.hvals(self._devices).hgetall(self._readings).hgetall(self._faults)
        devices, readings, faults = pipe.execute()
        return [
            _view(device, readings.get(device.id.encode()), faults.get(device.id.encode()))
            for device in sorted(map(decode_device, devices), key=_by_name)
        ]

    @_translated
    def view(self, name: str) -> View:
        """One device with its last reading and its fault; raises `UnknownDevice`."""
        device = self.device(name)
        pipe = self._redis.pipeline(transaction=False)
        pipe.hget(self._readings, device.id).hget(self._faults, device.id)
        return _view(device, *pipe.execute())

    @_translated
    def add(
        self, device: Device, reading: Reading, *, first_due: float, replace: bool = False
    ) -> Device:
        """Registers a board that just answered; returns the record as stored. The next poll is due at
        ``first_due`` (Unix seconds).

        A board that comes back under its own name keeps its settings and takes the new address. Any
        other meeting of names, ids and addresses raises `RegistryConflict`, unless ``replace``: then
        the name goes to this board with the settings that it had, and what it replaces is removed.
        """

        def transaction(pipe: Any) -> Device:
            known = {d.id: d for d in map(decode_device, pipe.hvals(self._devices))}
            same_board = known.get(device.id)
            same_name = next((d for d in known.values() if d.name == device.name), None)
            same_address = next(
                (d for d in known.values() if d.address == device.address and d.id != device.id),
                None,
            )
            if not replace:
                _refuse_conflicts(device, same_board, same_name, same_address)
            settings = same_name or same_board
            record = device
            jobs = pipe.hget(self._jobs, settings.id) if settings else None
            # What is remembered of pins is true of this very board only.
            memory = pipe.hget(self._memory, device.id) if same_board else None
            if settings is not None:
                record = msgspec.structs.replace(
                    settings,
                    id=device.id,
                    name=device.name,
                    address=device.address,
                    tags=device.tags or settings.tags,
                )
            replaced = [old for old in (same_board, same_name) if old is not None]
            governed = any(pipe.hexists(self._jobs, old.id) for old in replaced)
            renamed = self._looking(pipe, settings.name, device.name) if settings else {}
            pipe.multi()
            for old in replaced:
                self._forget(pipe, old)
            if governed or renamed:
                pipe.incr(self._jobs_version)
            pipe.hset(self._devices, record.id, encode(record))
            pipe.hset(self._names, record.name, record.id)
            pipe.hset(self._readings, record.id, encode(reading))
            pipe.zadd(self._due, {record.id: first_due})
            if jobs:
                pipe.hset(self._jobs, record.id, jobs)
            if renamed:
                pipe.hset(self._jobs, mapping=renamed)
            if memory:
                pipe.hset(self._memory, record.id, memory)
            return record

        return self._transaction(transaction)

    @_translated
    def change(self, name: str, how: Callable[[Device], Device], *, now: float) -> Device:
        """Replaces a device's record by ``how(record)``. The id stays; a new interval counts from
        ``now`` (Unix seconds). Jobs that look at a device go on looking at it under a new name."""

        def transaction(pipe: Any) -> Device:
            old = self._named(pipe, name)
            new = how(old)
            if new.name != old.name and pipe.hexists(self._names, new.name):
                raise RegistryConflict(
                    f"The name {new.name!r} is taken; choose another, or unregister that device."
                )
            jobs = self._looking(pipe, old.name, new.name)
            pipe.multi()
            pipe.hset(self._devices, old.id, encode(new))
            if jobs:
                pipe.hset(self._jobs, mapping=jobs)
                pipe.incr(self._jobs_version)
            if new.name != old.name:
                pipe.hdel(self._names, old.name)
                pipe.hset(self._names, new.name, old.id)
            if new.interval_s != old.interval_s:
                # A device that was to be polled in an hour and now every second must not wait.
                pipe.zadd(self._due, {old.id: now}, lt=True, xx=True)
            return new

        return self._transaction(transaction)

    @_translated
    def remove(self, name: str) -> Device:
        """Forgets a device with every key of it; a poll under way finds its lock gone and is void."""

        def transaction(pipe: Any) -> Device:
            device = self._named(pipe, name)
            governed = pipe.hexists(self._jobs, device.id)
            pipe.multi()
            self._forget(pipe, device)
            if governed:
                pipe.incr(self._jobs_version)
            return device

        return self._transaction(transaction)

    def _looking(self, pipe: Any, old: str, new: str) -> dict[bytes, bytes]:
        """The jobs, by device, that look at the device ``old``, which is to be called ``new``."""
        if new == old:
            return {}
        changed = {}
        for device_id, raw in pipe.hgetall(self._jobs).items():
            before = decode_jobs(raw)
            after = tuple(
                msgspec.structs.replace(job, input=inputs.renamed(job.input, old, new))
                if isinstance(job, Threshold)
                else job
                for job in before
            )
            if after != before:
                changed[device_id] = encode(after)
        return changed

    def _named(self, pipe: Any, name: str) -> Device:
        device_id = pipe.hget(self._names, name)
        raw = pipe.hget(self._devices, device_id) if device_id else None
        if raw is None:
            raise UnknownDevice(name)
        return decode_device(raw)

    def _transaction(self, body: Callable[[Any], Device]) -> Device:
        return cast(
            Device,
            self._redis.transaction(
                body, self._devices, self._names, self._jobs, value_from_callable=True
            ),
        )

    def _forget(self, pipe: Any, device: Device) -> None:
        pipe.hdel(self._devices, device.id)
        pipe.hdel(self._names, device.name)
        pipe.zrem(self._due, device.id)
        pipe.hdel(self._readings, device.id)
        pipe.hdel(self._faults, device.id)
        pipe.delete(self._locks + device.id)
        pipe.hdel(self._jobs, device.id)
        pipe.hdel(self._memory, device.id)

    # --- jobs -----------------------------------------------------------------------------------

    @_translated
    def jobs(self, device: Device) -> tuple[Job, ...]:
        """A device's jobs, in the order in which they were defined."""
        raw = self._redis.hget(self._jobs, device.id)
        return decode_jobs(raw) if raw else ()

    @_translated
    def memory(self, device: Device) -> Memory:
        """What is remembered of a device's pins and jobs."""
        raw = self._redis.hget(self._memory, device.id)
        return decode_memory(raw) if raw else Memory()

    @_translated
    def all_jobs(self) -> dict[str, tuple[Job, ...]]:
        """The jobs of every device that has any, by its id."""
        return {
            device_id.decode(): decode_jobs(raw)
            for device_id, raw in self._redis.hgetall(self._jobs).items()
        }

    @_translated
    def change_jobs(
        self,
        name: str,
        how: Callable[[Device, tuple[Job, ...]], tuple[Job, ...]],
        *,
        now: float,
    ) -> Device:
        """Replaces a device's jobs by ``how(device, jobs)``; it is due at once, so that they act."""

        def transaction(pipe: Any) -> Device:
            device = self._named(pipe, name)
            raw = pipe.hget(self._jobs, device.id)
            before = decode_jobs(raw) if raw else ()
            jobs = how(device, before)
            pipe.multi()
            if jobs == before:
                return device
            if jobs:
                pipe.hset(self._jobs, device.id, encode(jobs))
            else:
                pipe.hdel(self._jobs, device.id)
                pipe.hdel(self._memory, device.id)
            pipe.incr(self._jobs_version)
            pipe.zadd(self._due, {device.id: now}, lt=True, xx=True)
            return device

        return self._transaction(transaction)

    @_translated
    def readings(self, names: Sequence[str]) -> dict[str, Reading | None]:
        """The last reading of each device by its name; None where there is no such device yet."""
        if not names:
            return {}
        rows = self._readings_of(keys=[self._names, self._readings], args=list(names))
        return {
            name: decode_reading(raw) if raw else None
            for name, raw in zip(names, rows, strict=True)
        }

    @_translated
    def foreign(self, wanted: Sequence[tuple[str, str]]) -> list[tuple[Any, Any]]:
        """What others keep in Redis, for each (key, field): the string at the key, and the hash's
        ``[field, at]``. What is not of that type is a `ResponseError` in its place.

        The only keys that EspNet reads and that do not begin with its prefix.
        """
        pipe = self._redis.pipeline(transaction=False)
        for key, field in wanted:
            pipe.get(key).hmget(key, field, "at")
        answers = pipe.execute(raise_on_error=False)
        return list(zip(answers[::2], answers[1::2], strict=True))

    @_translated
    def lift_fence(self, grant: Grant, seen: int) -> Grant | None:
        """The same grant with a fence above ``seen``, which a board knows and Redis forgot.

        None when the lock is no longer the grant's: then somebody else's fence is the higher one.
        """
        fence = self._lift_fence(
            keys=[self._fence, self._locks + grant.id], args=[seen, grant.token]
        )
        return Grant(grant.id, grant.token, fence) if fence else None

    @_translated
    def wake(self, device_ids: Sequence[str], now: float) -> None:
        """Makes devices due at ``now``, unless they are earlier."""
        if device_ids:
            dates = dict.fromkeys(device_ids, now)
            self._redis.zadd(self._due, dates, lt=True, xx=True)

    # --- locks ----------------------------------------------------------------------------------

    @contextmanager
    def hold(self, device: Device, holder: str, *, ttl_s: float, wait_s: float) -> Iterator[Grant]:
        """Holds a device's lock for the ``with`` block.

        Waits up to ``wait_s`` for it, then raises `DeviceBusy`. It ends by itself after ``ttl_s``;
        a block that took longer ends with `DeviceLockLost`, unless it raised something itself.
        """
        lock, grant = self._acquire(device, holder, ttl_s, wait_s)
        try:
            yield grant
        except BaseException:
            if not grant.committed:
                with suppress(DeviceLockLost, StoreUnavailable):
                    self._release(lock, device)
            raise
        if not grant.committed:
            self._release(lock, device)

    @_translated
    def _acquire(
        self, device: Device, holder: str, ttl_s: float, wait_s: float
    ) -> tuple[Lock, Grant]:
        token = f"{holder}:{secrets.randbits(64)}"
        lock = _FencedLock(
            self._redis,
            self._locks + device.id,
            timeout=ttl_s,
            sleep=0.05,
            blocking_timeout=wait_s,
        )
        lock.fence_key = self._fence
        if not lock.acquire(token=token):
            state = self.lock_state(device)
            raise DeviceBusy(
                device.name,
                state.holder if state else "somebody else",
                state.left_s if state else 0,
            )
        return lock, Grant(device.id, token, lock.fence)

    @_translated
    def _release(self, lock: Lock, device: Device) -> None:
        try:
            lock.release()
        except LockNotOwnedError as error:
            raise DeviceLockLost(device.name) from error

    @_translated
    def lock_state(self, device: Device) -> LockState | None:
        """Who holds the device's lock now, or None."""
        pipe = self._redis.pipeline()
        pipe.get(self._locks + device.id).pttl(self._locks + device.id)
        token, left_ms = pipe.execute()
        if token is None:
            return None
        text = token.decode(errors="replace")
        return LockState(text.rpartition(":")[0] or text, max(left_ms, 0) / 1000)

    # --- the trip -------------------------------------------------------------------------------

    @_translated
    def claim(self, now: float, limit: int, holder: str, *, ttl_s: float) -> list[Claim]:
        """Takes up to ``limit`` devices that are due at ``now``, with their locks, for ``ttl_s``."""
        self.jobs_version, rows = self._claim(
            keys=[
                self._due,
                self._devices,
                self._faults,
                self._fence,
                self._collectors,
                self._jobs,
                self._memory,
                self._jobs_version,
            ],
            args=[
                f"{now:.6f}",
                min(limit, BATCH),
                int(ttl_s * 1000),
                holder,
                self._locks,
                COLLECTOR_FORGOTTEN_S,
            ],
        )
        claims = []
        for raw_id, record, fault, due, token, fence, jobs, memory in rows:
            claims.append(
                Claim(
                    self._decoded(record),
                    decode_fault(fault) if fault else None,
                    float(due),
                    Grant(raw_id.decode(), token.decode(), fence),
                    self._decoded_jobs(jobs) if jobs else (),
                    self._decoded_memory(memory) if memory else _NOTHING_REMEMBERED,
                )
            )
        return claims

    @_translated
    def claim_under(self, grant: Grant, name: str, now: float) -> Claim:
        """The claim of a device whose lock is held; raises `UnknownDevice`."""
        view = self.view(name)
        jobs, memory = self.jobs(view.device), self.memory(view.device)
        return Claim(view.device, view.fault, now, grant, jobs, memory)

    @_translated
    def commit(self, polls: Sequence[Poll]) -> set[str]:
        """Ends polls in one round trip a `BATCH`; returns the ids whose lock was no longer held.

        Those changed nothing. Safe to repeat when its answer was lost.
        """
        lost: set[str] = set()
        for start in range(0, len(polls), BATCH):
            args: list[Any] = [self._locks, self.max_samples]
            for grant, next_due, reading, fault, healed, batch, refused, memory in polls[
                start : start + BATCH
            ]:
                args += (
                    grant.id,
                    grant.token,
                    f"{next_due:.6f}",
                    encode(reading) if reading else b"",
                    encode(fault) if fault else b"-" if healed else b"",
                    len(batch.points) if batch else 0,
                    encode(batch) if batch else b"",
                    refused,
                    encode(memory) if memory else b"",
                )
            rows = self._commit(
                keys=[
                    self._due,
                    self._readings,
                    self._faults,
                    self._samples,
                    self._books,
                    self._memory,
                ],
                args=args,
            )
            lost.update(row.decode() for row in rows)
            for poll in polls[start : start + BATCH]:
                poll.grant.committed = True
        return lost

    @_translated
    def collectors(self, now: float, within_s: float) -> list[str]:
        """The collectors that claimed within the last ``within_s`` seconds."""
        return [
            name.decode()
            for name in self._redis.zrangebyscore(self._collectors, now - within_s, "+inf")
        ]

    # --- samples --------------------------------------------------------------------------------

    @_translated
    def books(self) -> Books:
        """Where every sample went."""
        counts = self._redis.hgetall(self._books)
        return Books(**{key.decode(): int(value) for key, value in counts.items()})

    @_translated
    def create_group(self, sink: str) -> bool:
        """Makes a sink a reader of the stream, from its very beginning; False if it was one."""
        try:
            self._redis.xgroup_create(self._samples, sink, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" in str(error):
                return False
            raise
        return True

    @_translated
    def read_pending(
        self, sink: str, consumer: str, count: int, after: bytes = b"0"
    ) -> list[Entry]:
        """What this consumer was given and has not acknowledged, oldest first."""
        rows = self._redis.xreadgroup(sink, consumer, {self._samples: after}, count=count)
        return self._entries(sink, rows[0][1] if rows else [])

    @_translated
    def read_new(self, sink: str, consumer: str, count: int) -> list[Entry]:
        """What no consumer of the sink was given yet, oldest first."""
        rows = self._redis.xreadgroup(sink, consumer, {self._samples: ">"}, count=count)
        return self._entries(sink, rows[0][1] if rows else [])

    @_translated
    def take_over(self, sink: str, consumer: str, idle_s: float, count: int) -> list[Entry]:
        """What other consumers were given and left lying for ``idle_s`` seconds."""
        rows = self._redis.xautoclaim(
            self._samples, sink, consumer, min_idle_time=int(idle_s * 1000), count=count
        )
        return self._entries(sink, rows[1])

    @_translated
    def accept(self, sink: str, entries: Sequence[Entry]) -> int:
        """Books entries as delivered and removes them, atomically; returns how many samples."""
        if not entries:
            return 0
        args: list[Any] = [sink]
        for entry in entries:
            args += (entry.id, len(entry.batch.points))
        return cast(int, self._accept(keys=[self._samples, self._books], args=args))

    @_translated
    def hand_back(self, sink: str, consumer: str) -> int:
        """At an orderly stop: what this consumer holds may be taken over by anyone at once."""
        rows = self._redis.xpending_range(
            self._samples, sink, min="-", max="+", count=100_000, consumername=consumer
        )
        ids = [row["message_id"] for row in rows]
        if ids:
            self._redis.xclaim(
                self._samples, sink, consumer, 0, ids, idle=24 * 3_600_000, justid=True
            )
        return len(ids)

    @_translated
    def stream_info(self) -> dict[str, Any]:
        """Length of the stream, its ends, and each sink's group with what is pending there."""
        if not self._redis.exists(self._samples):
            return {"length": 0, "groups": []}
        info = self._redis.xinfo_stream(self._samples)
        groups = self._redis.xinfo_groups(self._samples)
        return {
            "length": info["length"],
            "first": _text(info["first-entry"][0]) if info["first-entry"] else None,
            "last": _text(info["last-entry"][0]) if info["last-entry"] else None,
            "groups": [{key: _text(value) for key, value in group.items()} for group in groups],
        }

    def _entries(self, sink: str, rows: list[Any]) -> list[Entry]:
        """Decodes rows. Those that the bound dropped meanwhile have no fields, or (Redis 6.2) no id."""
        found, gone = [], []
        for row_id, fields in rows:
            if fields:
                found.append(Entry(row_id, decode_batch(fields[b"batch"])))
            elif row_id is not None:
                gone.append(row_id)
        if gone:
            self._redis.xack(self._samples, sink, *gone)
        return found


def _by_name(device: Device) -> str:
    return device.name


def _view(device: Device, reading: bytes | None, fault: bytes | None) -> View:
    return View(
        device,
        decode_reading(reading) if reading else None,
        decode_fault(fault) if fault else None,
    )


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _refuse_conflicts(
    new: Device, same_board: Device | None, same_name: Device | None, same_address: Device | None
) -> None:
    if same_board is not None and same_board.name != new.name:
        raise RegistryConflict(
            f"The board at {new.address} (id {new.id}) is already registered as {same_board.name!r}; "
            f"use that name, or `espcli rename {same_board.name} {new.name}`, "
            "or register again with --replace."
        )
    if same_name is not None and same_name.id != new.id:
        raise RegistryConflict(
            f"The name {new.name!r} belongs to another board (id {same_name.id}, last at "
            f"{same_name.address}); choose another name, or --replace to put this board in its place."
        )
    if same_address is not None:
        raise RegistryConflict(
            f"{new.address} is registered for {same_address.name!r} (id {same_address.id}), but the "
            f"board that answers there has the id {new.id}; unregister {same_address.name!r} if it is "
            "gone, register it again where it is now, or --replace to let this board have the address."
        )
