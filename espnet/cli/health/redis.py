"""What is wrong with Redis: whether it answers, takes writes, keeps them, and is kept by anybody else.

Invariant: the commands that it advises reach the server that EspNet uses, and hold no password.
"""

import re
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from espnet.cli.amounts import amount, duration, size, some
from espnet.cli.facts import Facts, Redis
from espnet.cli.health.problem import FULL, SKEW_S, Problem, problem, remark
from espnet.server import is_sentinel
from espnet.store import Health


def with_redis(facts: Facts) -> Iterator[Problem]:
    redis = facts.redis
    if facts.unreachable and not (redis and redis.health.is_loading):
        yield problem(facts.unreachable, _reaching(facts))
    if redis is None:
        return
    health, tool = redis.health, _redis_cli(redis)
    if health.is_loading:
        left = f" for about {health.loading_s:.0f} s more" if health.loading_s else ""
        yield problem(f"Redis still loads its data{left}; until then nothing works.", "wait")
    elif health.refusal:
        yield _refused(health, tool)
    yield from _with_settings(health, tool)
    if redis.skew_s is not None and abs(redis.skew_s) > SKEW_S:
        ahead = "ahead of" if redis.skew_s > 0 else "behind"
        yield problem(
            f"The clock of Redis' machine is {duration(abs(redis.skew_s))} {ahead} this one's; "
            "machines that share a Redis must agree on the time.",
            "`timedatectl` on both machines; let one of them keep time by NTP",
        )
    yield from _with_sentinels(redis, tool)
    for path, why in redis.passed_over.items():
        # One that is locked may be somebody else's; one that only cannot answer now is likely to be ours.
        is_locked = "password" in why or "may not open" in why
        yield (remark if is_locked else problem)(
            f"The Redis at {path} was passed over: {why}. EspNet uses one of its own instead.",
            "if that one is meant: REDIS_URL=unix://"
            + (f":PASSWORD@{path}" if "password" in why else path),
        )


def _reaching(facts: Facts) -> str:
    if not facts.settings.redis:
        return f"look at the end of {facts.settings.data}/redis/server.log"
    said = facts.unreachable.replace(facts.settings.redis, "")
    if re.search("authenti|password", said, re.IGNORECASE):
        if is_sentinel(facts.settings.redis):
            return (
                "put Redis' password into REDIS_URL: redis+sentinel://:PASSWORD@HOST,HOST/NAME, and the "
                "sentinels' own, if they have one, as ?sentinel_password=PASSWORD"
            )
        return "put the password into REDIS_URL: redis://:PASSWORD@HOST:PORT/0"
    if is_sentinel(facts.settings.redis):
        return "start the sentinels, and what they watch, or correct REDIS_URL"
    return "start it, or correct REDIS_URL; without that, EspNet uses a Redis of its own"


def _refused(health: Health, tool: str) -> Problem:
    if health.refusal == "memory":
        return problem(
            f"Redis takes no more data: its memory is full ({size(health.memory_bytes)} of "
            f"{size(health.max_bytes)}). Polls are not stored.",
            f"`{tool} CONFIG SET maxmemory` to more, or lower ESPNET_QUEUE_MB and ESPNET_HISTORY_MB",
        )
    if health.refusal == "replica":
        return problem(
            "This Redis is a replica that only reads; nothing is stored in it.",
            f"point REDIS_URL to its primary: `{tool} INFO replication` names it",
        )
    if health.refusal == "persistence":
        return problem(
            "Redis cannot write to its disk and therefore takes no more data.",
            f"make room there, then `{tool} BGSAVE`; its log says why",
        )
    if health.refusal == "permission":
        return problem(
            f"This user of Redis may not write: {health.refused}.",
            "give it the rights to all commands on EspNet's keys (`ACL SETUSER`)",
        )
    return problem(f"Redis refuses writes: {health.refused.rstrip('.')}.", "see its log")


def _with_settings(health: Health, tool: str) -> Iterator[Problem]:
    if health.policy not in (None, "noeviction"):
        lost = f" It has thrown away {health.evicted:,} keys so far." if health.evicted else ""
        yield problem(
            f"Redis throws keys away when its memory is full (maxmemory-policy {health.policy}): "
            f"EspNet's are among them.{lost}",
            f"`{tool} CONFIG SET maxmemory-policy noeviction`, and the same in its configuration",
        )
    used, most = health.memory_bytes or 0, health.max_bytes or 0
    if most and used >= FULL * most and health.refusal != "memory":
        yield problem(
            f"Redis has used {used / most:.0%} of its memory ({size(used)} of {size(most)}).",
            f"`{tool} CONFIG SET maxmemory` to more, or lower ESPNET_QUEUE_MB and ESPNET_HISTORY_MB",
        )
    if health.aof_problem:
        yield problem(
            "Redis could not write its append-only file; what comes now is lost when it ends.",
            "make room on its disk; its log says why",
        )
    if health.snapshot_problem and health.saves != "":
        yield problem(
            "The last snapshot of Redis failed; a restart finds older data.",
            f"make room on its disk, then `{tool} BGSAVE`; its log says why",
        )
    if health.is_aof is False and health.saves == "":
        yield problem(
            "Redis keeps nothing on disk: a restart loses the registry, the jobs and all samples.",
            f"`{tool} CONFIG SET appendonly yes`, and the same in its configuration",
        )
    if not health.is_supported:
        yield problem(
            f"Redis {health.version} is too old; EspNet needs 6.2 or newer, or Valkey.",
            "update it, or unset REDIS_URL for EspNet's own",
        )
    if health.is_open:
        yield problem(
            "Anybody on the network can use this Redis: it listens beyond this machine, "
            "without a password.",
            "set `requirepass` or `bind 127.0.0.1` in its configuration",
        )


def _with_sentinels(redis: Redis, tool: str) -> Iterator[Problem]:
    """Who takes over when the primary dies."""
    watch, health = redis.watch, redis.health
    if watch is None:
        return
    if watch.problem:
        yield problem(
            f"When the primary of {watch.name} dies, nobody takes over: {watch.problem}.",
            "see to the sentinels and the replicas (docs/scale.md, Fail-over)",
        )
    wrong = [f"{who} {what}" for who, what in watch.sentinels.items() if what]
    if wrong and watch.problem != "no sentinel answers":
        yield remark(
            f"{amount(len(wrong), 'sentinel')} of {len(watch.sentinels)} cannot be used: {some(wrong)}.",
            "start it, or take it out of REDIS_URL",
        )
    # With one replica, nothing could be written once it has taken over.
    if health.min_replicas == 0 and watch.replicas > 1:
        yield remark(
            "A primary that is cut off goes on taking writes, which the fail-over loses.",
            f"`{tool} CONFIG SET min-replicas-to-write 1`, on the replicas too, and in their configuration "
            "(docs/scale.md, Fail-over)",
        )


def _redis_cli(redis: Redis) -> str:
    """How redis-cli reaches that server; passwords are asked for."""
    url = redis.url
    if redis.watch is not None:
        url = f"{url.partition('+')[0]}://{redis.watch.primary}"
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"redis-cli -s {unquote(parts.path)}"
    words = ["redis-cli"]
    words += (
        ["-h", parts.hostname] if parts.hostname not in (None, "localhost", "127.0.0.1") else []
    )
    words += ["-p", str(parts.port)] if parts.port not in (None, 6379) else []
    words += ["--tls"] if parts.scheme == "rediss" else []
    return " ".join(word for word in words if word)
