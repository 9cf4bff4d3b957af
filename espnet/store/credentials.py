"""The boards' passwords.

Invariants: nothing but `Credentials.credentials` reads them. A device's record carries a number that
changes with its passwords, so whoever holds a record knows whether what it has is still right. Passwords
stay when their device is unregistered: else nobody could control that board again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec
from redis.exceptions import ResponseError

from espnet.credential import Credential, Password
from espnet.errors import CredentialClosed, StoreUnavailable
from espnet.model import decode_device, encode
from espnet.store.connection import translated
from espnet.store.registry import Registry, new_number
from espnet.store.sealing import CannotOpen, Secrets, is_sealed
from espnet.store.together import Gathering

#: Most passwords that are kept for a board: the one in force, those before it, and those that it may have
#: taken without our hearing of it.
MAX_PASSWORDS = 8
#: How long Redis may take to have a new password on its disk and with a replica, in milliseconds: it
#: syncs once a second, and commands time out after five.
_SETTLED_MS = 3000
_NOT_SEALED = "would be the only one that is not sealed: ESPNET_SECRET_KEY is missing here"


class Credentials(Registry):
    """What opens boards."""

    #: Several stores of one process may be given one of these: their new passwords go to Redis together.
    gathering: Gathering | None = None

    @translated
    def credentials(self, device_ids: Sequence[str]) -> dict[str, Credential]:
        """The passwords of these boards, by id; boards that have none are left out."""
        return self._read(self._redis, device_ids) if device_ids else {}

    @translated
    def all_credentials(self) -> dict[str, Credential]:
        """The passwords of every board that has any, registered or not."""
        return self.credentials([raw.decode() for raw in self._redis.hkeys(self._credentials)])

    def credential(self, device_id: str) -> Credential:
        """Those of one board; an empty one where there are none."""
        return self.credentials([device_id]).get(device_id, Credential())

    def _read(self, client: Any, device_ids: Sequence[str]) -> dict[str, Credential]:
        """The only place where they are read."""
        rows = client.hmget(self._credentials, device_ids)
        found = {}
        for device_id, raw in zip(device_ids, rows, strict=True):
            if raw is None:
                continue
            try:
                secrets = self._seals.open(device_id, raw)
            except CannotOpen as error:
                found[device_id] = Credential(problem=str(error))
            else:
                is_current = self._seals.is_current(raw)
                found[device_id] = Credential(
                    tuple(map(Password, secrets.passwords)),
                    is_current=is_current,
                    is_proved=secrets.is_proved,
                )
        return found

    def add_password(self, device_id: str, password: Password) -> None:
        """Keeps one more password that a board may come to have: after the one in force, on disk where this
        Redis can tell. Raises `CredentialClosed` rather than write over what no key here opens."""
        if self.gathering is not None:
            refused = self.gathering.add(self, device_id, password)
        else:
            refused = self.add_passwords({device_id: password})
        if device_id in refused:
            raise refused[device_id]

    def add_passwords(self, passwords: Mapping[str, Password]) -> dict[str, CredentialClosed]:
        """One more for each of these boards, as `add_password` does: in one step, and one wait for the disk.
        Returns what it would have raised, by id; all others got theirs."""

        def add(device_id: str, old: Credential) -> Credential:
            new = passwords[device_id]
            return old._replace(passwords=(*old.passwords[:1], new, *old.passwords[1:]))

        refused = self._change_passwords(list(passwords), add)
        if len(refused) < len(passwords):
            self._settle_on_disk()
        return refused

    def prefer_password(self, device_id: str, password: Password) -> None:
        """The board has proved that it has this one: it comes first; the others stay behind it."""

        def prefer(_: str, old: Credential) -> Credential:
            return old._replace(passwords=(password, *old.passwords), is_proved=True)

        for error in self._change_passwords([device_id], prefer).values():
            raise error

    @translated
    def _change_passwords(
        self, device_ids: Sequence[str], how: Callable[[str, Credential], Credential]
    ) -> dict[str, CredentialClosed]:
        """A registered device's record changes with its passwords, so that collectors fetch them; so does one
        that said that there were none. Returns, by id, why some were left as they are."""

        def transaction(pipe: Any) -> dict[str, CredentialClosed]:
            found = self._read(pipe, device_ids)
            records = pipe.hmget(self._devices, device_ids)
            others_are_sealed = None
            refused, rows, devices = {}, {}, {}
            for device_id, record in zip(device_ids, records, strict=True):
                credential = found.get(device_id, Credential())
                if credential.problem:
                    refused[device_id] = CredentialClosed(device_id, credential.problem)
                    continue
                old, new = (
                    _secrets(device_id, each) for each in (credential, how(device_id, credential))
                )
                # Only what adds something: what could be read without a key lies there plain already.
                if not self._seals.has_key and not set(new.passwords) <= set(old.passwords):
                    if others_are_sealed is None:
                        others_are_sealed = self._others_are_sealed(pipe)
                    if others_are_sealed:
                        refused[device_id] = CredentialClosed(device_id, _NOT_SEALED)
                        continue
                device = decode_device(record) if record is not None else None
                if new == old and (device is None or device.credential):
                    continue
                rows[device_id] = self._seals.seal(new)
                if device is not None:
                    device = msgspec.structs.replace(device, credential=new_number())
                    devices[device_id] = encode(device)
            pipe.multi()
            if rows:
                pipe.hset(self._credentials, mapping=rows)
            if devices:
                pipe.hset(self._devices, mapping=devices)
            return refused

        with self.turn:
            return cast(
                dict[str, CredentialClosed],
                self._redis.transaction(
                    transaction, self._credentials, self._devices, value_from_callable=True
                ),
            )

    def _others_are_sealed(self, client: Any) -> bool:
        return any(map(is_sealed, client.hvals(self._credentials)))

    @translated
    def _settle_on_disk(self) -> None:
        """Returns when what was written last is on this Redis' disk, and with its replicas.

        A board that took a password which Redis then forgot could only be opened with a cable. What is
        asked for is this connection's writes, and a store is one thread's. A Redis older than 7.2 cannot
        be asked: there its sync, once a second, is waited out. Without an append-only file, or where
        syncing is left to the system, there is nothing to wait for; `espcli doctor` says what that means.
        """
        replicas = int(self._redis.info("replication").get("connected_slaves", 0))
        if replicas and self._redis.wait(1, _SETTLED_MS) < 1:
            raise StoreUnavailable(
                f"No replica of Redis took a new password within {_SETTLED_MS / 1000:g} s, so no board "
                "was told of it; try again when Redis is well."
            )
        try:
            if self._redis.config_get("appendfsync").get("appendfsync") == "no":
                return
        except ResponseError:
            pass  # this user may not ask; most sync every second
        try:
            on_disk, _ = self._redis.execute_command("WAITAOF", 1, 0, _SETTLED_MS)
        except ResponseError:
            if self._redis.info("persistence").get("aof_enabled"):
                self._redis.blpop(self.prefix + "nothing", 2)
            return
        if not on_disk:
            raise StoreUnavailable(
                f"Redis did not get a new password to its disk within {_SETTLED_MS / 1000:g} s, so no "
                "board was told of it; look at the disk's load and try again."
            )

    @translated
    def reseal(self, device_id: str) -> bool:
        """Seals anew under the key in force; whether that was possible. Passwords that change meanwhile
        are those that are sealed."""

        def transaction(pipe: Any) -> bool:
            credential = self._read(pipe, [device_id]).get(device_id)
            pipe.multi()
            if credential is None or not credential.passwords:
                return False
            raw = self._seals.seal(_secrets(device_id, credential))
            pipe.hset(self._credentials, device_id, raw)
            return True

        return bool(
            self._redis.transaction(transaction, self._credentials, value_from_callable=True)
        )


def _secrets(device_id: str, credential: Credential) -> Secrets:
    texts = dict.fromkeys(password.reveal() for password in credential.passwords)
    return Secrets(device_id, list(texts)[:MAX_PASSWORDS], credential.is_proved)
