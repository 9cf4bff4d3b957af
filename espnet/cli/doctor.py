"""`espcli doctor`: what is known and what is wrong, as a page for people and an object for programs."""

from collections.abc import Iterator
from typing import Any

import msgspec

from espnet.cli.amounts import amount, amount_is, duration, sentinels_told, size, some
from espnet.cli.facts import Collector, Facts, Passwords, Redis, Sink
from espnet.cli.health import Problem, equation, problems
from espnet.cli.render import Line, Report, Section
from espnet.store import HISTORY

#: Names of devices that are listed, in `--json` too; the counts are of all.
LISTED = 100
#: Exit codes: a person is needed; Redis cannot be reached, or says no more.
SICK, UNREACHABLE = 1, 3

_GOOD, _BAD, _POOR, _DIM = "green", "bold red", "yellow", "dim"


def report(facts: Facts) -> Report:
    """The page, the object, and the exit code."""
    found = problems(facts)
    code = SICK if any(problem.severity == "problem" for problem in found) else 0
    if facts.unreachable or (facts.redis and facts.redis.health.is_loading):
        code = UNREACHABLE
    sections = [
        Section("Redis", list(_redis(facts))),
        Section("Settings", list(_settings(facts))),
        Section("Collectors", list(_collectors(facts))),
        Section("Devices", list(_devices(facts))),
        Section("Queue", list(_queue(facts))),
        Section("Sinks", list(_sinks(facts))),
        Section("History", list(_history(facts))),
        Section("", list(_verdict(found))),
    ]
    return Report(_data(facts, found, code), [one for one in sections if one.lines], code)


# --- for people -----------------------------------------------------------------------------------


def _redis(facts: Facts) -> Iterator[Line]:
    redis = facts.redis
    if redis is None:
        yield Line("not reached", _BAD)
        return
    health = redis.health
    version = f"{health.name} {health.version}" if health.version else health.name
    up = f", up {duration(health.uptime_s)}" if health.uptime_s is not None else ""
    yield Line(f"{version}, {redis.kind}{up}")
    yield Line(redis.url, _DIM)
    if (watch := redis.watch) is not None:
        yield Line(f"primary {watch.primary or 'unknown'}, {amount(watch.replicas, 'replica')}")
        yield Line(f"sentinels {sentinels_told(watch.sentinels)}", _POOR if watch.problem else "")
    yield Line(f"{_persistence(redis)}; {_memory(redis)}")
    if redis.skew_s is not None:
        yield Line(f"its clock is {_offset(redis.skew_s, 1.0)}")


def _settings(facts: Facts) -> Iterator[Line]:
    """Where to look when Redis says nothing."""
    settings = facts.settings
    if facts.redis is None:
        yield Line(f"REDIS_URL {settings.redis or 'is not set'}")
        yield Line(f"data folder {settings.data}")
        yield Line(
            f"sinks {', '.join(settings.sinks) or 'none'}; keys begin with {settings.prefix}"
        )


def _persistence(redis: Redis) -> str:
    health = redis.health
    ways = []
    if health.is_aof:
        ways.append("append-only file" + (" FAILS" if health.aof_problem else ", written"))
    if health.saves:
        ways.append("snapshots" + (", the last one FAILED" if health.snapshot_problem else ""))
    if not ways and (health.is_aof is None or health.saves is None):
        return "does not say how it keeps data"
    return " and ".join(ways) or "nothing on disk"


def _memory(redis: Redis) -> str:
    health = redis.health
    most = f" of {size(health.max_bytes)}" if health.max_bytes else ""
    return f"{size(health.memory_bytes)}{most} used, {health.policy or 'unknown policy'}"


def _offset(seconds: float, least_s: float) -> str:
    if abs(seconds) < least_s:
        return "that of this machine"
    return f"{duration(abs(seconds))} {'ahead' if seconds > 0 else 'behind'}"


def _collectors(facts: Facts) -> Iterator[Line]:
    if facts.collectors is None:
        return
    alive = facts.alive
    yield Line(f"{len(alive)} at work" if alive else "none at work", _style(bool(alive), facts))
    for one in sorted(facts.collectors, key=lambda one: (not one.is_alive, -one.devices)):
        yield Line(f"{one.name}  {_work_of(one)}", "" if one.is_alive else _DIM)


def _work_of(one: Collector) -> str:
    polled = f"{amount(one.devices, 'device')}"
    if one.age_s is None:
        return f"{polled}, polled by hand"
    when = f"claimed {duration(max(one.age_s, 0.0))} ago"
    return f"{polled}, {when}" if one.is_alive else f"gone, {when}"


def _devices(facts: Facts) -> Iterator[Line]:
    devices = facts.devices
    if devices is None:
        return
    counts = (
        ("online", devices.online),
        ("late", devices.late),
        ("offline", len(devices.offline)),
        ("never seen", devices.new),
    )
    parts = ", ".join(f"{number:,} {word}" for word, number in counts if number)
    yield Line(f"{devices.total:,} registered{': ' if parts else ''}{parts}")
    if devices.offline:
        yield Line(f"offline: {some([one.name for one in devices.offline])}", _BAD)
    if len(devices.versions) > 0:
        told = [f"{version} on {count:,}" for version, count in devices.versions.items()]
        yield Line(f"firmware: {some(told)}", _DIM)
    if facts.update is not None:
        far = ", ".join(f"{n:,} {state}" for state, n in sorted(facts.update.boards.items()))
        yield Line(f"update to {facts.update.version}: {facts.update.state}, {far}")
    if devices.overdue:
        yield Line(
            f"{amount_is(devices.overdue, 'poll')} due, the oldest for "
            f"{duration(devices.oldest_overdue_s)}"
        )


def _queue(facts: Facts) -> Iterator[Line]:
    queue, settings = facts.queue, facts.settings
    if queue is None:
        return
    yield Line(
        f"{amount(queue.queued, 'sample')} of at most {settings.max_samples:,}, "
        f"{size(queue.bytes)} of {size(settings.max_bytes)}"
    )
    yield Line(f"{queue.dropped:,} dropped by these bounds, {queue.refused:,} were no numbers")


def _sinks(facts: Facts) -> Iterator[Line]:
    if facts.sinks is None:
        return
    for sink in facts.sinks:
        yield from _sink(sink, facts)
    joined = {sink.name for sink in facts.sinks}
    for word in facts.settings.sinks:
        if word not in joined and ":" not in word:
            is_page = word == "prometheus"
            yield Line(f"{word}: " + ("asks by itself" if is_page else "chosen, never began"))
    if not joined - {HISTORY} and not facts.settings.sinks:
        yield Line("none chosen")


def _sink(sink: Sink, facts: Facts) -> Iterator[Line]:
    state, books = sink.state, sink.books
    what, style = "began, has not said a word yet", _POOR
    if sink.name == HISTORY and state is None:
        what, style = "keeps readings", ""
    elif state is not None:
        style = {"ok": _GOOD, "failing": _POOR, "paused": _BAD}[state.state]
        what = f"{state.state}, as of {duration(facts.now - state.at)} ago"
        if state.ok_at is not None:
            what += f", took samples {duration(facts.now - state.ok_at)} ago"
    yield Line(f"{sink.name}: {what}", style)
    yield Line(f"   {equation(books)}", "" if books.is_balanced else _BAD)
    more = []
    if sink.waits_s is not None:
        more.append(f"the oldest waits for {duration(sink.waits_s)}")
    if books.repeated:
        more.append(f"{books.repeated:,} sent twice at most")
    if state is not None and state.skew_s is not None:
        more.append(f"its clock is {_offset(state.skew_s, 2.0)}")
    if more:
        yield Line(f"   {'; '.join(more)}", _DIM)


def _history(facts: Facts) -> Iterator[Line]:
    for level in facts.history or ():
        # The newest readings wait to be packed, and are not counted here.
        back = f"{duration(facts.now - level.since)} back" if level.since else "no block yet"
        yield Line(f"{level.level}: {back}, {size(level.bytes)}")
        if level.short and level.least_s is not None:
            devices = amount(level.short, "device")
            yield Line(
                f"   {devices} at least {duration(level.least_s)} back: no more memory", _DIM
            )


def _verdict(found: list[Problem]) -> Iterator[Line]:
    sick = sum(problem.severity == "problem" for problem in found)
    for problem in found:
        is_problem = problem.severity == "problem"
        yield Line(f"{'✗' if is_problem else '·'} {problem.what}", _BAD if is_problem else _POOR)
        yield Line(f"  → {problem.next_step}")
    remarks = len(found) - sick
    if found:
        yield Line("")
    if sick:
        needs = "needs" if sick == 1 else "need"
        more = f", and {amount(remarks, 'remark')}" if remarks else ""
        yield Line(f"{amount(sick, 'problem')} {needs} you{more}.", _BAD)
    else:
        yield Line("Nothing needs you.", _GOOD)


def _style(is_well: bool, facts: Facts) -> str:
    return "" if is_well or not (facts.devices and facts.devices.total) else _BAD


# --- for programs ---------------------------------------------------------------------------------


def _data(facts: Facts, found: list[Problem], code: int) -> dict[str, Any]:
    devices = facts.devices
    return {
        "is_well": not code,
        "exit_code": code,
        "at": facts.now,
        "settings": msgspec.to_builtins(facts.settings),
        "unreachable": facts.unreachable or None,
        "redis": _redis_data(facts.redis),
        "collectors": None
        if facts.collectors is None
        else [msgspec.to_builtins(one) | {"is_alive": one.is_alive} for one in facts.collectors],
        "devices": None
        if devices is None
        else {
            **msgspec.to_builtins(devices),
            "offline": len(devices.offline),
            "offline_devices": msgspec.to_builtins(devices.offline[:LISTED]),
            "sensors": devices.sensors[:LISTED],
            "far": devices.far[:LISTED],
            "unscheduled": devices.unscheduled[:LISTED],
            "open": devices.open[:LISTED],
            "unclaimed": devices.unclaimed[:LISTED],
            "denied": msgspec.to_builtins(devices.denied[:LISTED]),
            "safe_mode": devices.safe_mode[:LISTED],
            "trial": devices.trial[:LISTED],
            "slowed": msgspec.to_builtins(devices.slowed[:LISTED]),
        },
        "update": msgspec.to_builtins(facts.update),
        "passwords": None if facts.passwords is None else _passwords_data(facts.passwords),
        "refusals": None
        if facts.refusals is None
        else msgspec.to_builtins(facts.refusals[:LISTED]),
        "queue": None
        if facts.queue is None
        else msgspec.to_builtins(facts.queue)
        | {"max_samples": facts.settings.max_samples, "max_bytes": facts.settings.max_bytes},
        "sinks": None
        if facts.sinks is None
        else {sink.name: _sink_data(sink, facts.now) for sink in facts.sinks},
        "history": msgspec.to_builtins(facts.history),
        "problems": msgspec.to_builtins(found),
    }


def _passwords_data(passwords: Passwords) -> dict[str, Any]:
    closed = dict(list(passwords.closed.items())[:LISTED])
    return {**msgspec.to_builtins(passwords), "closed": closed}


def _redis_data(redis: Redis | None) -> dict[str, Any] | None:
    if redis is None:
        return None
    health = msgspec.to_builtins(redis.health)
    rest = {"kind": redis.kind, "skew_s": redis.skew_s, "passed_over": redis.passed_over}
    watch = msgspec.to_builtins(redis.watch)
    return {"url": redis.url, **rest, "watch": watch, **health}


def _sink_data(sink: Sink, now: float) -> dict[str, Any]:
    state = sink.state
    return {
        **msgspec.to_builtins(sink.books),
        "is_balanced": sink.books.is_balanced,
        "is_chosen": sink.is_chosen,
        "waits_s": sink.waits_s,
        "state": state.state if state else None,
        "said_s_ago": now - state.at if state else None,
        **{
            name: getattr(state, name, None)
            for name in ("since", "uploader", "reason", "status", "ok_at", "retry_at", "skew_s")
        },
    }
