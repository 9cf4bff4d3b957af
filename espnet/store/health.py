"""How Redis itself is: what it says of itself, and whether it would take a write."""

from typing import Any, Literal, NamedTuple

import msgspec
from redis.exceptions import (
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from espnet.store.connection import Connection, translated

Refusal = Literal["memory", "replica", "persistence", "permission", "other"]

#: A member that no device can be: ids have no spaces.
_NOBODY = "espnet doctor"
_SETTINGS = ("save", "bind", "protected-mode", "port", "tls-port", "min-replicas-to-write")


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What a Redis says of itself; None where it does not say.

    ``time`` is its clock (Unix seconds). ``saves`` are its rules for snapshots, "" for none. ``refusal``
    is why it takes no writes, "" when it does, and ``refused`` its own words. ``is_open``: anybody who
    reaches it over the network may do anything, and it listens beyond this machine. ``min_replicas`` is how
    many must follow it for a write to be taken.
    """

    name: str = "Redis"
    version: str | None = None
    uptime_s: float | None = None
    time: float | None = None
    is_loading: bool = False
    loading_s: float | None = None
    is_aof: bool | None = None
    aof_problem: str = ""
    saves: str | None = None
    snapshot_problem: str = ""
    saved_at: float | None = None
    memory_bytes: int | None = None
    max_bytes: int | None = None
    policy: str | None = None
    evicted: int = 0
    refusal: Refusal | Literal[""] = ""
    refused: str = ""
    is_open: bool | None = None
    min_replicas: int | None = None

    @property
    def is_supported(self) -> bool:
        """Whether it is Redis ≥ 6.2 (Valkey says of which Redis it is the like)."""
        parts = (self.version or "6.2").split(".")
        numbers = [int(part) if part.isdigit() else 0 for part in (*parts, "0")[:2]]
        return self.name == "Valkey" or numbers >= [6, 2]


class Turn(NamedTuple):
    """When a device is due (Unix seconds), and the collector that will poll it; "" where nobody has it."""

    at: float
    collector: str


class HealthChecks(Connection):
    """What `espcli doctor` asks beyond what everybody asks."""

    @translated
    def health(self) -> Health:
        """Asks all at once. What Redis forbids is left out: managed ones forbid a lot.

        The write changes nothing: it gives a date to a device that does not exist, if it exists.
        """
        pipe = self._redis.pipeline(transaction=False)
        pipe.info()
        pipe.time()
        for setting in _SETTINGS:
            pipe.config_get(setting)
        pipe.execute_command("ACL", "GETUSER", "default")
        pipe.zadd(self._due, {_NOBODY: 0}, xx=True)
        info, time, *configs, user, write = pipe.execute(raise_on_error=False)
        if isinstance(info, RedisError):
            info = {}
        settings: dict[str, str] = {}
        for answer in configs:
            if isinstance(answer, dict):
                settings.update({_text(key): _text(value) for key, value in answer.items()})
        refusal, refused = _refusal(write)
        valkey = info.get("valkey_version")
        rewrite, snapshot = info.get("aof_last_write_status"), info.get("rdb_last_bgsave_status")
        return Health(
            name="Valkey" if valkey else "Redis",
            version=_known(valkey or info.get("redis_version")),
            uptime_s=info.get("uptime_in_seconds"),
            time=None if isinstance(time, RedisError) else time[0] + time[1] / 1e6,
            is_loading=bool(info.get("loading")),
            loading_s=info.get("loading_eta_seconds") if info.get("loading") else None,
            is_aof=None if "aof_enabled" not in info else bool(info["aof_enabled"]),
            aof_problem="" if rewrite in (None, "ok") else str(rewrite),
            saves=settings.get("save"),
            snapshot_problem="" if snapshot in (None, "ok") else str(snapshot),
            saved_at=info.get("rdb_last_save_time"),
            memory_bytes=info.get("used_memory"),
            max_bytes=info.get("maxmemory"),
            policy=_known(info.get("maxmemory_policy")),
            evicted=info.get("evicted_keys", 0),
            refusal=refusal,
            refused=refused,
            is_open=_is_open(settings, user),
            min_replicas=_number(settings.get("min-replicas-to-write")),
        )

    @translated
    def schedule(self) -> dict[str, Turn]:
        """When each device is due next, and who has it, by its id."""
        rows = self._schedule(args=[self.prefix])
        return {
            device_id.decode(): Turn(float(at), _collector_of(queue.decode()))
            for device_id, at, queue in rows
        }


def _collector_of(queue: str) -> str:
    return queue.removeprefix("due:") if queue.startswith("due:") else ""


def _refusal(answer: Any) -> tuple[Refusal | Literal[""], str]:
    if not isinstance(answer, RedisError):
        return "", ""
    text = str(answer)
    if isinstance(answer, OutOfMemoryError):
        return "memory", text
    if isinstance(answer, ReadOnlyError):
        return "replica", text
    if isinstance(answer, NoPermissionError):
        return "permission", text
    if text.startswith("MISCONF"):
        return "persistence", text
    if isinstance(answer, ResponseError) and "WRONGTYPE" in text:
        return "", ""  # somebody else's data; it is said where the key is read
    return "other", text


def _is_open(settings: dict[str, str], user: Any) -> bool | None:
    """None where Redis does not say enough to be sure."""
    if not {"bind", "protected-mode", "port"} <= settings.keys() or not isinstance(
        user, list | dict
    ):
        return None
    if settings["port"] == "0" and settings.get("tls-port", "0") == "0":
        return False
    flags = dict(zip(user[::2], user[1::2], strict=False)) if isinstance(user, list) else user
    allowed = {_text(flag) for flag in flags.get(b"flags", flags.get("flags")) or ()}
    if not {"on", "nopass"} <= allowed or settings["protected-mode"] != "no":
        return False
    hosts = settings["bind"].split() or ["*"]
    return not all(_is_local(host.removeprefix("-")) for host in hosts)


def _is_local(host: str) -> bool:
    return host.startswith("127.") or host in ("::1", "localhost")


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _known(text: Any) -> str | None:
    return None if text is None else str(text)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
