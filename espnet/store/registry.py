"""Devices and their jobs: what people decided. Every change is one transaction."""

import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import msgspec

from espnet import inputs
from espnet.errors import (
    RegistryConflict,
    UnknownDevice,
)
from espnet.model import (
    Device,
    Fault,
    Job,
    Memory,
    Reading,
    Threshold,
    View,
    decode_device,
    decode_fault,
    decode_jobs,
    decode_memory,
    decode_reading,
    encode,
)
from espnet.store.connection import translated
from espnet.store.history import History


class Registry(History):
    """Who the devices are, and what their pins should be."""

    #: Several stores of one process may be given one lock here: changes watch whole hashes, so whoever is
    #: quicker makes the others begin anew.
    turn: AbstractContextManager[Any] = nullcontext()

    @translated
    def devices(self) -> list[Device]:
        """Every registered device, by name."""
        return sorted(
            (decode_device(raw) for raw in self._redis.hvals(self._devices)), key=_by_name
        )

    @translated
    def device(self, name: str) -> Device:
        """The device of this name; raises `UnknownDevice`."""
        device_id = self._redis.hget(self._names, name)
        raw = self._redis.hget(self._devices, device_id) if device_id else None
        if raw is None:
            raise UnknownDevice(name)
        return decode_device(raw)

    @translated
    def device_of(self, device_id: str) -> Device | None:
        """The device with this id, if there is one."""
        raw = self._redis.hget(self._devices, device_id)
        return decode_device(raw) if raw else None

    @translated
    def failing(self) -> list[str]:
        """The ids of all devices whose latest poll failed."""
        return [raw.decode() for raw in self._redis.hkeys(self._faults)]

    @translated
    def faults(self, device_ids: Sequence[str]) -> dict[str, Fault]:
        """Those of these devices whose latest poll failed, by id, with why."""
        if not device_ids:
            return {}
        rows = self._redis.hmget(self._faults, device_ids)
        return {
            device_id: decode_fault(raw)
            for device_id, raw in zip(device_ids, rows, strict=True)
            if raw is not None
        }

    @translated
    def views(self) -> list[View]:
        """Every device with its last reading and its fault, by name."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.hvals(self._devices).hgetall(self._readings).hgetall(self._faults)
        devices, readings, faults = pipe.execute()
        return [
            _view(device, readings.get(device.id.encode()), faults.get(device.id.encode()))
            for device in sorted(map(decode_device, devices), key=_by_name)
        ]

    @translated
    def view(self, name: str) -> View:
        """One device with its last reading and its fault; raises `UnknownDevice`."""
        device = self.device(name)
        pipe = self._redis.pipeline(transaction=False)
        pipe.hget(self._readings, device.id).hget(self._faults, device.id)
        return _view(device, *pipe.execute())

    @translated
    def add(
        self,
        device: Device,
        reading: Reading,
        *,
        first_due: float,
        replace: bool = False,
        has_password: bool = False,
    ) -> Device:
        """Registers a board that just answered; returns the record as stored. The next poll is due at
        ``first_due`` (Unix seconds). ``has_password``: there is one for it (`Credentials`).

        A board that comes back under its own name keeps its settings and takes the new address. Any
        other meeting of names, ids and addresses raises `RegistryConflict`, unless ``replace``: then
        the name goes to this board with the settings that it had, and what it replaces is removed.
        """

        def transaction(pipe: Any) -> Device:
            same_board, same_name = self._meetings(pipe, device, replace)
            settings = same_name or same_board
            number = new_number() if has_password else 0
            record = msgspec.structs.replace(device, credential=number)
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
                    credential=number,
                )
            replaced = [old for old in (same_board, same_name) if old is not None]
            governed = any(pipe.hexists(self._jobs, old.id) for old in replaced)
            renamed = self._looking(pipe, settings.name, device.name) if settings else {}
            pipe.multi()
            for old in replaced:
                self._erase(pipe, old, stays=old.id == record.id)
                if old.id != record.id:  # a board that comes back keeps its past
                    self._forget_history(pipe, old.id)
            if governed or renamed:
                pipe.incr(self._jobs_version)
            pipe.hset(self._devices, record.id, encode(record))
            pipe.hset(self._names, record.name, record.id)
            pipe.zadd(self._addresses, {_member(record): 0})
            pipe.hset(self._readings, record.id, encode(reading))
            self._put(pipe, record, first_due)
            if jobs:
                pipe.hset(self._jobs, record.id, jobs)
            if renamed:
                pipe.hset(self._jobs, mapping=renamed)
            if memory:
                pipe.hset(self._memory, record.id, memory)
            return record

        self._index_addresses()
        return self._transaction(transaction)

    @translated
    def check(self, device: Device, *, replace: bool = False) -> Device | None:
        """Raises what `add` would raise; returns the record of this very board, if there is one."""
        self._index_addresses()
        return self._meetings(self._redis, device, replace)[0]

    def _meetings(
        self, client: Any, device: Device, replace: bool
    ) -> tuple[Device | None, Device | None]:
        """The records of this board and of this name; raises `RegistryConflict`."""
        same_board = self._record(client, device.id)
        same_name = self._record(client, client.hget(self._names, device.name))
        at = f"{device.address} ".encode()
        members = client.zrangebylex(
            self._addresses, b"[" + at, b"(" + at[:-1] + b"!"
        )  # "!" follows " "
        there = (self._record(client, member.removeprefix(at)) for member in members)
        # What an older EspNet moved is where it was, by the index: the record's word counts.
        same_address = next(
            (d for d in there if d and d.address == device.address and d.id != device.id), None
        )
        if not replace:
            _refuse_conflicts(device, same_board, same_name, same_address)
        return same_board, same_name

    def _record(self, client: Any, device_id: bytes | str | None) -> Device | None:
        raw = client.hget(self._devices, device_id) if device_id else None
        return decode_device(raw) if raw else None

    def _index_addresses(self) -> None:
        """Makes the index of addresses anew where it has not one for each device: an EspNet that knows no
        such index registered or removed some."""

        def transaction(pipe: Any) -> None:
            places = {_member(decode_device(raw)): 0 for raw in pipe.hvals(self._devices)}
            pipe.multi()
            pipe.delete(self._addresses)
            if places:
                pipe.zadd(self._addresses, places)

        # Both at one moment: others register meanwhile.
        counts = self._redis.pipeline().zcard(self._addresses).hlen(self._devices)
        places, devices = counts.execute()
        if places != devices:
            self._redis.transaction(transaction, self._devices)

    @translated
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
            if new.address != old.address:
                self._readdress(pipe, old, new)
            if new.name != old.name:
                pipe.hdel(self._names, old.name)
                pipe.hset(self._names, new.name, old.id)
            if new.interval_s != old.interval_s:
                # A device that was to be polled in an hour and now every second must not wait.
                self._hurry(pipe, old.id, now)
            if new.shard != old.shard:
                self._put(pipe, new, now)
            return new

        return self._transaction(transaction)

    @translated
    def move(self, device: Device, address: str, *, now: float) -> bool:
        """The device is at another address now, and due at ``now`` (Unix seconds). Returns whether its record
        was still ``device``; nothing is changed where it was not."""

        def transaction(pipe: Any) -> bool:
            raw = pipe.hget(self._devices, device.id)
            pipe.multi()
            if raw is None or decode_device(raw) != device:
                return False
            moved = msgspec.structs.replace(device, address=address)
            pipe.hset(self._devices, device.id, encode(moved))
            self._readdress(pipe, device, moved)
            self._hurry(pipe, device.id, now)
            return True

        return bool(self._redis.transaction(transaction, self._devices, value_from_callable=True))

    @translated
    def remove(self, name: str, *, forget: bool = False) -> Device:
        """Forgets a device with every key of it; a poll under way finds its lock gone and is void. Its
        passwords stay, unless ``forget``."""

        def transaction(pipe: Any) -> Device:
            device = self._named(pipe, name)
            governed = pipe.hexists(self._jobs, device.id)
            pipe.multi()
            self._erase(pipe, device)
            self._forget_history(pipe, device.id)
            if forget:
                pipe.hdel(self._credentials, device.id)
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
        with self.turn:
            return cast(
                Device,
                self._redis.transaction(
                    body, self._devices, self._names, self._jobs, value_from_callable=True
                ),
            )

    def _erase(self, pipe: Any, device: Device, *, stays: bool = False) -> None:
        """``stays``: it is put into the pool then, and whoever has it has to hear of that."""
        pipe.hdel(self._devices, device.id)
        pipe.hdel(self._names, device.name)
        pipe.zrem(self._addresses, _member(device))
        if not stays:
            self._place(args=[self.prefix, "remove", "", "", device.id], client=pipe)
        pipe.hdel(self._readings, device.id)
        pipe.hdel(self._faults, device.id)
        pipe.delete(self._locks + device.id)
        pipe.hdel(self._jobs, device.id)
        pipe.hdel(self._memory, device.id)

    def _readdress(self, pipe: Any, old: Device, new: Device) -> None:
        pipe.zrem(self._addresses, _member(old))
        pipe.zadd(self._addresses, {_member(new): 0})

    def _hurry(self, pipe: Any, device_id: str, now: float) -> None:
        """The device is due at ``now``, unless it is earlier."""
        self._place(args=[self.prefix, "hurry", f"{now:.6f}", "", device_id], client=pipe)

    def _put(self, pipe: Any, device: Device, due: float) -> None:
        """The device waits for a collector of its shard to take it."""
        args = [self.prefix, "pool", f"{due:.6f}", device.shard, device.id]
        self._place(args=args, client=pipe)

    # --- jobs -----------------------------------------------------------------------------------

    @translated
    def jobs(self, device: Device) -> tuple[Job, ...]:
        """A device's jobs, in the order in which they were defined."""
        raw = self._redis.hget(self._jobs, device.id)
        return decode_jobs(raw) if raw else ()

    @translated
    def memory(self, device: Device) -> Memory:
        """What is remembered of a device's pins and jobs."""
        raw = self._redis.hget(self._memory, device.id)
        return decode_memory(raw) if raw else Memory()

    @translated
    def memories(self) -> dict[str, Memory]:
        """What is remembered of every device, by its id."""
        return {
            key.decode(): decode_memory(raw)
            for key, raw in self._redis.hgetall(self._memory).items()
        }

    @translated
    def all_jobs(self) -> dict[str, tuple[Job, ...]]:
        """The jobs of every device that has any, by its id."""
        return {
            device_id.decode(): decode_jobs(raw)
            for device_id, raw in self._redis.hgetall(self._jobs).items()
        }

    @translated
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
            self._hurry(pipe, device.id, now)
            return device

        return self._transaction(transaction)


def new_number() -> int:
    """A number for a record whose board has new passwords: never 0, and hardly ever one that was there."""
    return secrets.randbits(31) | 1


def _member(device: Device) -> str:
    """A member of the index of addresses: several devices may be said to be at one."""
    return f"{device.address} {device.id}"


def _by_name(device: Device) -> str:
    return device.name


def _view(device: Device, reading: bytes | None, fault: bytes | None) -> View:
    return View(
        device,
        decode_reading(reading) if reading else None,
        decode_fault(fault) if fault else None,
    )


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
