"""What is wrong with all of it, and what to do about that: from facts to problems. Pure.

Invariants: the same facts give the same problems; each has a next step. A *problem* needs a person; a
*remark* is worth knowing, and ends nobody's night. What follows from another problem is not said once more:
where no collector runs, every board is offline.
"""

import re
from collections.abc import Iterator
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec

from espnet.cli.amounts import NAMED, amount, amount_is, duration, size, some
from espnet.cli.facts import Facts, Redis, Sink
from espnet.samples import Books
from espnet.server import is_sentinel
from espnet.store import HISTORY, Health

#: A poll that is due for longer is late by more than a slow heartbeat.
OVERDUE_S = 120.0
#: Samples that wait for longer, without a word from an uploader, have nobody who uploads them.
SILENT_S = 120.0
#: A sink that fails for longer does not come back by itself.
FAILING_S = 300.0
#: How far the clocks of machines that share a Redis may be apart, in seconds.
SKEW_S = 5.0
#: How far the intake's clock may be off; and how far until it refuses points from the future.
INTAKE_SKEW_S, INTAKE_FUTURE_S = 60.0, 600.0
#: What is nearly full.
FULL = 0.9


class Problem(msgspec.Struct, frozen=True):
    """``what`` is one sentence or more, ``next_step`` what a person does about it."""

    severity: Literal["problem", "remark"]
    what: str
    next_step: str


def problems(facts: Facts) -> list[Problem]:
    """What is wrong, in the order in which to look at it: problems first."""
    found = [
        *_with_redis(facts),
        *_with_collectors(facts),
        *_with_devices(facts),
        *_with_access(facts),
        *_with_updates(facts),
        *_with_jobs(facts),
        *_with_queue(facts),
        *(problem for sink in facts.sinks or () for problem in _with_sink(sink, facts)),
    ]
    return sorted(found, key=lambda problem: problem.severity != "problem")


def _problem(what: str, next_step: str) -> Problem:
    return Problem("problem", what, next_step)


def _remark(what: str, next_step: str) -> Problem:
    return Problem("remark", what, next_step)


# --- Redis ----------------------------------------------------------------------------------------


def _with_redis(facts: Facts) -> Iterator[Problem]:
    redis = facts.redis
    if facts.unreachable and not (redis and redis.health.is_loading):
        yield _problem(facts.unreachable, _reaching(facts))
    if redis is None:
        return
    health, tool = redis.health, _redis_cli(redis)
    if health.is_loading:
        left = f" for about {health.loading_s:.0f} s more" if health.loading_s else ""
        yield _problem(f"Redis still loads its data{left}; until then nothing works.", "wait")
    elif health.refusal:
        yield _refused(health, tool)
    yield from _with_settings(health, tool)
    if redis.skew_s is not None and abs(redis.skew_s) > SKEW_S:
        ahead = "ahead of" if redis.skew_s > 0 else "behind"
        yield _problem(
            f"The clock of Redis' machine is {duration(abs(redis.skew_s))} {ahead} this one's; "
            "machines that share a Redis must agree on the time.",
            "`timedatectl` on both machines; let one of them keep time by NTP",
        )
    yield from _with_sentinels(redis, tool)
    for path, why in redis.passed_over.items():
        # One that is locked may be somebody else's; one that only cannot answer now is likely to be ours.
        is_locked = "password" in why or "may not open" in why
        yield (_remark if is_locked else _problem)(
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
        return _problem(
            f"Redis takes no more data: its memory is full ({size(health.memory_bytes)} of "
            f"{size(health.max_bytes)}). Polls are not stored.",
            f"`{tool} CONFIG SET maxmemory` to more, or lower ESPNET_QUEUE_MB and ESPNET_HISTORY_MB",
        )
    if health.refusal == "replica":
        return _problem(
            "This Redis is a replica that only reads; nothing is stored in it.",
            f"point REDIS_URL to its primary: `{tool} INFO replication` names it",
        )
    if health.refusal == "persistence":
        return _problem(
            "Redis cannot write to its disk and therefore takes no more data.",
            f"make room there, then `{tool} BGSAVE`; its log says why",
        )
    if health.refusal == "permission":
        return _problem(
            f"This user of Redis may not write: {health.refused}.",
            "give it the rights to all commands on EspNet's keys (`ACL SETUSER`)",
        )
    return _problem(f"Redis refuses writes: {health.refused.rstrip('.')}.", "see its log")


def _with_settings(health: Health, tool: str) -> Iterator[Problem]:
    if health.policy not in (None, "noeviction"):
        lost = f" It has thrown away {health.evicted:,} keys so far." if health.evicted else ""
        yield _problem(
            f"Redis throws keys away when its memory is full (maxmemory-policy {health.policy}): "
            f"EspNet's are among them.{lost}",
            f"`{tool} CONFIG SET maxmemory-policy noeviction`, and the same in its configuration",
        )
    used, most = health.memory_bytes or 0, health.max_bytes or 0
    if most and used >= FULL * most and health.refusal != "memory":
        yield _problem(
            f"Redis has used {used / most:.0%} of its memory ({size(used)} of {size(most)}).",
            f"`{tool} CONFIG SET maxmemory` to more, or lower ESPNET_QUEUE_MB and ESPNET_HISTORY_MB",
        )
    if health.aof_problem:
        yield _problem(
            "Redis could not write its append-only file; what comes now is lost when it ends.",
            "make room on its disk; its log says why",
        )
    if health.snapshot_problem and health.saves != "":
        yield _problem(
            "The last snapshot of Redis failed; a restart finds older data.",
            f"make room on its disk, then `{tool} BGSAVE`; its log says why",
        )
    if health.is_aof is False and health.saves == "":
        yield _problem(
            "Redis keeps nothing on disk: a restart loses the registry, the jobs and all samples.",
            f"`{tool} CONFIG SET appendonly yes`, and the same in its configuration",
        )
    if not health.is_supported:
        yield _problem(
            f"Redis {health.version} is too old; EspNet needs 6.2 or newer, or Valkey.",
            "update it, or unset REDIS_URL for EspNet's own",
        )
    if health.is_open:
        yield _problem(
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
        yield _problem(
            f"When the primary of {watch.name} dies, nobody takes over: {watch.problem}.",
            "see to the sentinels and the replicas (docs/scale.md, Fail-over)",
        )
    wrong = [f"{who} {what}" for who, what in watch.sentinels.items() if what]
    if wrong and watch.problem != "no sentinel answers":
        yield _remark(
            f"{amount(len(wrong), 'sentinel')} of {len(watch.sentinels)} cannot be used: {some(wrong)}.",
            "start it, or take it out of REDIS_URL",
        )
    # With one replica, nothing could be written once it has taken over.
    if health.min_replicas == 0 and watch.replicas > 1:
        yield _remark(
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


# --- the fleet ------------------------------------------------------------------------------------


def _with_collectors(facts: Facts) -> Iterator[Problem]:
    if facts.collectors is None or facts.devices is None:
        return
    total = facts.devices.total
    if total and not facts.alive:
        seen = [one for one in facts.collectors if one.age_s is not None]
        last = min(seen, key=lambda one: one.age_s or 0.0, default=None)
        when = f" The last one was {last.name}, {duration(last.age_s)} ago." if last else ""
        devices = "device" if total == 1 else amount(total, "device")
        yield _problem(
            f"No collector runs: nobody polls the {devices}, and no job acts.{when}",
            "`espcli run`, or start the service that does; its log says why it ended",
        )
    for shard, names in sorted(facts.devices.unserved.items()) if facts.alive else ():
        whom = f"the shard {shard}" if shard else "devices without a shard"
        yield _problem(
            f"No collector polls {whom}: {some(names)}.",
            f"`espcli run{f' --shard {shard}' if shard else ''}` where it reaches them; the tag shard:NAME "
            "of a device says whose it is",
        )
    for one in facts.collectors:
        if one.age_s is not None and one.age_s < -SKEW_S:
            yield _problem(
                f"The clock of {one.name} is {duration(-one.age_s)} ahead of this machine's.",
                "`timedatectl` on both machines; let one of them keep time by NTP",
            )


def _with_devices(facts: Facts) -> Iterator[Problem]:
    devices = facts.devices
    if devices is None:
        return
    if not devices.total:
        yield _remark(
            "No devices are registered yet.",
            "`espcli register ADDRESS NAME`; without a board: `espcli simulate 3`",
        )
    denied = _denied(facts)
    offline = [one for one in devices.offline if one.name not in denied]
    if offline and facts.alive:
        lost = [one.name + (f" ({one.what})" if one.what else "") for one in offline[:NAMED]]
        first = offline[0].name
        yield _problem(
            f"{amount_is(len(offline), 'device')} offline: {some(lost, len(offline))}.",
            f"see to power and Wi-Fi; `espcli device {first} update` asks again, and "
            f"`espcli register ADDRESS {first}` says that it moved",
        )
    if devices.overdue and devices.oldest_overdue_s > OVERDUE_S and facts.alive:
        yield _problem(
            f"The collectors do not keep up: {amount_is(devices.overdue, 'poll')} overdue, the oldest by "
            f"{duration(devices.oldest_overdue_s)}.",
            "`espcli run` on one more machine, or longer intervals (`espcli device NAME interval`)",
        )
    if devices.far:
        yield _problem(
            f"{some(devices.far)} {'is' if len(devices.far) == 1 else 'are'} to be polled further in "
            "the future than any interval: was a clock set back?",
            f"`espcli device {devices.far[0]} update` polls one now, and then it is in time again",
        )
    if devices.unscheduled:
        yield _problem(
            f"{some(devices.unscheduled)} {'has' if len(devices.unscheduled) == 1 else 'have'} no date "
            "for the next poll, so nobody polls them.",
            f"`espcli device {devices.unscheduled[0]} update` polls one now and gives it a date",
        )
    if devices.slowed:
        told = [
            f"{one.name} ({one.what}; every {one.every_s:g} s, {one.asked_s:g} s asked)"
            for one in devices.slowed[:NAMED]
        ]
        are = "board is" if len(devices.slowed) == 1 else "boards are"
        yield _remark(
            f"{len(devices.slowed):,} {are} polled slower than asked: {some(told, len(devices.slowed))}.",
            "it ends by itself when they bear more; see who else asks them, read fewer sensors, or let them "
            f"be asked less (`espcli device {devices.slowed[0].name} interval SECONDS`)",
        )
    if devices.sensors:
        yield _remark(
            f"{amount_is(len(devices.sensors), 'sensor')} silent: {some(devices.sensors)}.",
            "see to its wires; `espcli device NAME` shows what each sensor said",
        )


def _denied(facts: Facts) -> set[str]:
    """The devices that we may not control: all that fails there fails for this reason."""
    if facts.devices is None:
        return set()
    return {one.name for one in facts.devices.denied} | set(facts.devices.unclaimed)


def _with_updates(facts: Facts) -> Iterator[Problem]:
    """What boards run, and what became of the latest update."""
    devices, update = facts.devices, facts.update
    if devices is None:
        return
    if devices.safe_mode:
        are = "is" if len(devices.safe_mode) == 1 else "are"
        yield _problem(
            f"{some(devices.safe_mode)} {are} in safe mode: what it runs died too often within a minute.",
            f"`espcli update {devices.safe_mode[0]}` puts the firmware on that came with this EspNet",
        )
    if update is not None and update.state == "halted":
        yield _problem(
            f"The update to {update.version} is halted: {update.reason}.",
            "`espcli update status`; then update to a version that is repaired, or `espcli update resume` "
            "goes on without the boards that failed",
        )
    is_running = update is not None and update.state == "running"
    if update is not None and is_running and not (update.is_driven or facts.alive):
        yield _problem(
            f"The update to {update.version} is not over, and nobody goes on with it.",
            "`espcli run` does, and `espcli update resume`",
        )
    tried = [name for name in devices.trial if update is None or name not in update.trial]
    if tried:
        yield _remark(
            f"{some(tried)} {'tries' if len(tried) == 1 else 'try'} a version that nobody here gave out; "
            "it ends by itself unless it is confirmed.",
            "wait, or `espcli update status` where it came from",
        )
    known = {version: count for version, count in devices.versions.items() if " " in version}
    if len(known) > 1 and not is_running:
        told = [f"{version} on {amount(count, 'board')}" for version, count in known.items()]
        yield _remark(f"Boards run different versions: {some(told)}.", "`espcli update --all`")


def _with_access(facts: Facts) -> Iterator[Problem]:
    """Who may control the boards."""
    devices, passwords = facts.devices, facts.passwords
    if devices is None or passwords is None:
        return
    if passwords.closed:
        names = list(passwords.closed)
        yield _problem(
            f"EspNet's password for {some(names)} {passwords.closed[names[0]]}.",
            "set ESPNET_SECRET_KEY here and where `espcli run` runs; after a change of keys, NEW,OLD",
        )
    if devices.unclaimed:
        name = devices.unclaimed[0]
        yield _problem(
            f"{some(devices.unclaimed)} {'is' if len(devices.unclaimed) == 1 else 'are'} open, though "
            "EspNet gave a password: made open over USB, or something else answers at the address.",
            f"look what answers there; `espcli device {name} credentials claim --again` gives it a new "
            "password, `espcli register ADDRESS NAME --open` leaves it open",
        )
    denied = [one for one in devices.denied if one.name not in passwords.closed]
    if denied:
        told = [f"{one.name} ({one.what or 'no password is kept'})" for one in denied[:NAMED]]
        first = denied[0].name
        yield _problem(
            f"EspNet may not control {some(told, len(denied))}: no pin is set there, and leases end.",
            f"look what answers at its address; `espcli device {first} credentials claim --ask` takes the "
            "password from you; if it is lost, `mpremote fs rm :claim.json + reset` over USB opens the board",
        )
    if passwords.unsealed and facts.settings.has_secret_key:
        yield _remark(
            f"{amount_is(passwords.unsealed, 'password')} not sealed under ESPNET_SECRET_KEY.",
            "`espcli seal`",
        )
    if devices.open:
        yield _remark(
            f"{some(devices.open)} {'is' if len(devices.open) == 1 else 'are'} open: everybody on the "
            "network can switch the pins.",
            f"`espcli device {devices.open[0]} credentials claim`; boards of 2021 need today's firmware "
            "(`make put`)",
        )


def _with_jobs(facts: Facts) -> Iterator[Problem]:
    denied = _denied(facts)
    refusals = [one for one in facts.refusals or () if one.device not in denied]
    if refusals and facts.alive:
        pins = [f"{one.device} pin {one.pin} ({one.what})" for one in refusals[:NAMED]]
        first = refusals[0]
        yield _problem(
            f"{amount(len(refusals), 'pin')} could not be set as decided: {some(pins, len(refusals))}.",
            f"`espcli why {first.device} {first.pin}`",
        )


# --- samples --------------------------------------------------------------------------------------


def _with_queue(facts: Facts) -> Iterator[Problem]:
    queue, settings = facts.queue, facts.settings
    if queue is None:
        return
    share = max(queue.queued / settings.max_samples, queue.bytes / settings.max_bytes)
    readers = [sink for sink in facts.sinks or () if sink.name != HISTORY]
    if share >= FULL:
        say = _problem if readers else _remark
        yield say(
            f"The queue is {share:.0%} full; past its bounds the oldest samples go.",
            "bring back the sink that it waits for (`espcli sinks`), or let go of it "
            "(`espcli sinks forget NAME`); ESPNET_MAX_SAMPLES and ESPNET_QUEUE_MB are the bounds",
        )
    is_begun = facts.devices is not None and facts.devices.total > 0
    if is_begun and not settings.sinks and not settings.is_sinks_chosen and not readers:
        yield _remark(
            "No sink is chosen: samples wait in Redis, the newest "
            f"{settings.max_samples:,} of them.",
            "set DATADOG_API_KEY, or ESPNET_SINKS (none, if that is what you want)",
        )
    if facts.alive and is_begun:
        joined = {sink.name for sink in readers}
        strangers = len(joined.difference(settings.sinks))
        for word in settings.sinks:
            if word == "prometheus" or word in joined:
                continue
            if ":" in word and strangers:
                strangers -= 1  # a sink of the user's own, whose name is in its class
                continue
            yield _problem(
                f"The sink {word} is chosen here, but no uploader has ever read samples for it: "
                "the collectors were started with other settings.",
                f"start `espcli run` anew, with {word} in ESPNET_SINKS or --sinks",
            )


def _with_sink(sink: Sink, facts: Facts) -> Iterator[Problem]:
    name, books, state = sink.name, sink.books, sink.state
    if not books.is_balanced:
        yield _problem(
            f"The books of {name} do not balance: {equation(books)}.",
            "somebody changed EspNet's keys, or this is a bug: keep `espcli xinfo --json` and report it",
        )
    if _is_silent(sink, facts):
        whose = "" if sink.is_chosen else ", which is not chosen here"
        yield _problem(
            f"Nobody uploads to {name}{whose}: {amount_is(books.queued, 'sample')} waiting, the oldest for "
            f"{duration(sink.waits_s)}.",
            f"`espcli run` with this sink, or `espcli sinks forget {name}` if it is no longer used"
            if name != HISTORY
            else "`espcli run` with ESPNET_HISTORY_MB above 0",
        )
    elif state is not None and state.state == "paused":
        yield _problem(
            f"{name} has been paused for {duration(facts.now - state.since)}: {_clause(state.reason)}.",
            _key_advice(name, state.status),
        )
    elif state is not None and state.state == "failing":
        since_s = facts.now - state.since
        say = _problem if since_s > FAILING_S else _remark
        yield say(
            f"{name} has failed for {duration(since_s)}: {_clause(state.reason)}.",
            "nothing is lost and it is tried again by itself; see that it can be reached from here",
        )
    if state is not None and state.skew_s is not None and abs(state.skew_s) > INTAKE_SKEW_S:
        ahead = "behind" if state.skew_s > 0 else "ahead of"
        refused = " Points so far off are refused." if abs(state.skew_s) > INTAKE_FUTURE_S else ""
        yield _problem(
            f"This fleet's clock is {duration(abs(state.skew_s))} {ahead} that of {name}.{refused}",
            "`timedatectl` where the collectors run; let them keep time by NTP",
        )
    if books.dead:
        yield _problem(
            f"{name} would never accept {amount(books.dead, 'sample')}: dead letters.",
            f"`espcli dead_letters show {name}` says why; then `retry` or `drop`",
        )


def _is_silent(sink: Sink, facts: Facts) -> bool:
    """Whether samples wait, and nobody has said a word about them for as long as that takes."""
    patience_s = max(SILENT_S, 3 * facts.settings.upload_interval_s)
    if sink.waits_s is None or sink.waits_s <= patience_s:
        return False
    if sink.state is None:
        return True
    return facts.now - max(sink.state.at, sink.state.retry_at or 0.0) > patience_s


def _key_advice(name: str, status: int | None) -> str:
    if name == "datadog" and status in (401, 403):
        return "put a valid DATADOG_API_KEY (and the right DATADOG_HOST) where `espcli run` runs"
    return f"set {name} right where `espcli run` runs; it is asked again every minute"


def equation(books: Books) -> str:
    """The law of the books, in numbers."""
    sign = "=" if books.is_balanced else "≠"
    return (
        f"{books.collected:,} collected {sign} {books.accepted:,} accepted + {books.expired:,} expired"
        f" + {books.dead:,} dead + {books.dropped:,} dropped + {books.queued:,} queued"
    )


def _clause(reason: str) -> str:
    return reason.strip().rstrip(".") or "it did not say why"
