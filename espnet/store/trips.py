"""Locks, claims and commits, and what deciding looks at. Claims and commits are one script each."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from redis.exceptions import LockNotOwnedError
from redis.lock import Lock

from espnet.errors import (
    DeviceBusy,
    DeviceLockLost,
    StoreUnavailable,
)
from espnet.model import (
    Device,
    Memory,
    Reading,
    decode_fault,
    decode_reading,
    encode,
)
from espnet.store.connection import translated
from espnet.store.records import (
    BATCH,
    COLLECTOR_FORGOTTEN_S,
    HELD_S,
    PRESENT_S,
    Claim,
    Grant,
    LockState,
    Poll,
)
from espnet.store.registry import Registry

_NOTHING_REMEMBERED = Memory()
_packer = msgspec.msgpack.Encoder()
HELD_MS = int(HELD_S * 1000)


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


class Trips(Registry):
    """The schedule: who may talk to which board now, and what came of it."""

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

    @translated
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

    @translated
    def _release(self, lock: Lock, device: Device) -> None:
        try:
            lock.release()
        except LockNotOwnedError as error:
            raise DeviceLockLost(device.name) from error

    @translated
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

    @translated
    def claim(
        self, now: float, limit: int, holder: str, *, ttl_s: float, present_s: float = PRESENT_S
    ) -> list[Claim]:
        """Takes up to ``limit`` devices of its own that are due at ``now``, with their locks, for ``ttl_s``.

        The holder is present for the next ``present_s``, and has its share of all devices till then. What it
        gave back of them for others is in `given` afterwards.
        """
        silences = self._silences.get(holder, ("", 0.0))
        self._silences[holder] = silences[0] or f"{now:.6f}", now  # until there is an answer
        self.jobs_version, was_absent, given, rows = self._claim(
            keys=[
                self._devices,
                self._faults,
                self._fence,
                self._collectors,
                self._jobs,
                self._memory,
                self._jobs_version,
            ],
            args=[
                self.prefix,
                f"{now:.6f}",
                min(limit, BATCH),
                int(ttl_s * 1000),
                holder,
                present_s,
                COLLECTOR_FORGOTTEN_S,
                silences[0],
                f"{silences[1]:.6f}",
            ],
        )
        self._silences[holder] = "", silences[1]
        self.given = None if was_absent else tuple(raw.decode() for raw in given)
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
                    now,
                )
            )
        return claims

    @translated
    def claim_under(self, grant: Grant, name: str, now: float) -> Claim:
        """The claim of a device whose lock is held; raises `UnknownDevice`."""
        view = self.view(name)
        jobs, memory = self.jobs(view.device), self.memory(view.device)
        return Claim(view.device, view.fault, now, grant, jobs, memory, now)

    @translated
    def commit(self, polls: Sequence[Poll]) -> set[str]:
        """Ends polls in one round trip a `BATCH`; returns the ids whose lock was no longer held.

        Those changed nothing. Safe to repeat when its answer was lost.
        """
        lost: set[str] = set()
        for start in range(0, len(polls), BATCH):
            # Lua's MessagePack knows no binary strings; all of these are text.
            given: list[str | int] = []
            for poll in polls[start : start + BATCH]:
                grant, fault, batch, memory = poll.grant, poll.fault, poll.batch, poll.memory
                given += (
                    grant.id,
                    grant.token,
                    f"{poll.next_due:.6f}",
                    encode(poll.reading).decode() if poll.reading else "",
                    encode(fault).decode() if fault else "-" if poll.healed else "",
                    len(batch.points) if batch else 0,
                    encode(batch).decode() if batch else "",
                    poll.refused,
                    encode(memory).decode() if memory else "",
                )
            rows = self._commit(
                keys=[self._readings, self._faults, self._memory],
                args=[
                    self.prefix,
                    self.max_samples,
                    self.max_bytes,
                    HELD_MS,
                    _packer.encode(given),
                ],
            )
            lost.update(row.decode() for row in rows)
            for poll in polls[start : start + BATCH]:
                poll.grant.committed = True
        return lost

    def collectors(self, now: float, within_s: float) -> list[str]:
        """The collectors that claimed within the last ``within_s`` seconds."""
        return list(self.collectors_seen(now, within_s))

    @translated
    def collectors_seen(self, now: float, within_s: float) -> dict[str, float]:
        """Those collectors, with when they last claimed (Unix seconds)."""
        rows = self._redis.zrangebyscore(self._collectors, now - within_s, "+inf", withscores=True)
        return {name.decode(): at for name, at in rows}

    @translated
    def sign_off(self, collector: str) -> None:
        """At an orderly stop: the collector is at work no more, and what it had is for the others."""
        script = self._script("queues", "sign_off")
        script(keys=[self._collectors], args=[self.prefix, collector])

    # --- what deciding looks at

    @translated
    def readings(self, names: Sequence[str]) -> dict[str, Reading | None]:
        """The last reading of each device by its name; None where there is no such device yet."""
        if not names:
            return {}
        rows = self._readings_of(keys=[self._names, self._readings], args=list(names))
        return {
            name: decode_reading(raw) if raw else None
            for name, raw in zip(names, rows, strict=True)
        }

    @translated
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

    @translated
    def lift_fence(self, grant: Grant, seen: int, most: int) -> Grant | None:
        """The same grant with a fence above ``seen``, which a board knows and Redis forgot.

        None when the lock is no longer the grant's, because then somebody else's fence is the higher one, and
        when ``seen`` is above ``most``.
        """
        fence = self._lift_fence(
            keys=[self._fence, self._locks + grant.id], args=[seen, grant.token, most]
        )
        return Grant(grant.id, grant.token, fence) if fence else None

    @translated
    def wake(self, device_ids: Sequence[str], now: float) -> None:
        """Makes devices due at ``now``, unless they are earlier."""
        if device_ids:
            self._place(args=[self.prefix, "hurry", f"{now:.6f}", "", *device_ids])
