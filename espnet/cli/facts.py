"""What is known of all of it at one moment: Redis, collectors, devices, queue, sinks.

Invariants: no secret is in here, and no list is longer than its fleet. Asking goes on until Redis says no
more; what was found out until then is kept.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from espnet import outlets, server
from espnet.cli.describe import access, is_denied, is_unclaimed, problem_of, slowed
from espnet.cli.session import Session
from espnet.config import shard_of
from espnet.credential import Credential
from espnet.errors import StoreUnavailable
from espnet.model import FRESH_INTERVALS, Memory, Reading, View
from espnet.samples import Books, Queue, SinkState
from espnet.store import COLLECTOR_FORGOTTEN_S, HISTORY, Health, Store, Turn
from espnet.trip import MAX_BACKOFF_S

#: A collector that has not claimed for so long is gone: the slowest heartbeat is one in 100 s.
ALIVE_S = 120.0
#: A claimed device is due again when its lock ends: after so long at most, with the longest time-outs.
LOCK_S = 200.0


class Redis(msgspec.Struct, frozen=True, kw_only=True):
    """The Redis that is used. ``url`` holds no secret; ``skew_s`` is how far its clock is ahead of ours.

    ``passed_over`` are servers that would have come first, with what was in the way. ``watch`` is what the
    sentinels say, where it is found through some.
    """

    url: str
    kind: str
    health: Health
    skew_s: float | None = None
    passed_over: dict[str, str] = {}
    watch: server.Watch | None = None


class Collector(msgspec.Struct, frozen=True):
    """A collector: how long ago it claimed, and how many devices are its share; None: it never did, so it is
    a person's command, and these are the devices that it polled last, of those with a fresh reading."""

    name: str
    age_s: float | None
    devices: int

    @property
    def is_alive(self) -> bool:
        return self.age_s is not None and self.age_s <= ALIVE_S


class Lost(msgspec.Struct, frozen=True):
    """A device that is offline: what its polls end with, and how long ago it was seen."""

    name: str
    what: str
    age_s: float | None


class Slowed(msgspec.Struct, frozen=True):
    """A board that struggles: it is polled every ``every_s`` instead of ``asked_s`` seconds, and why."""

    name: str
    what: str
    every_s: float
    asked_s: float


class Devices(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet by state, and its schedule: how many polls are overdue, the oldest by how much, the devices
    whose next date is further away than any interval, and those that have none.

    ``sensors`` are those that did not answer in the latest polls. ``open`` are the devices that everybody on
    their network can control; ``unclaimed`` say that they are open, though EspNet has a password for them;
    ``denied`` are those that do not take what EspNet has. ``versions`` counts the boards by what they run,
    ``safe_mode`` are those that do nothing but serve, ``trial`` those whose version nobody has confirmed,
    ``slowed`` those that are polled slower than asked. ``unserved`` are those of shards that no collector
    polls, by the shard, "" for none.
    """

    total: int = 0
    online: int = 0
    late: int = 0
    new: int = 0
    offline: tuple[Lost, ...] = ()
    sensors: tuple[str, ...] = ()
    overdue: int = 0
    oldest_overdue_s: float = 0.0
    far: tuple[str, ...] = ()
    unscheduled: tuple[str, ...] = ()
    open: tuple[str, ...] = ()
    unclaimed: tuple[str, ...] = ()
    denied: tuple[Lost, ...] = ()
    versions: dict[str, int] = {}
    safe_mode: tuple[str, ...] = ()
    trial: tuple[str, ...] = ()
    unserved: dict[str, tuple[str, ...]] = {}
    slowed: tuple[Slowed, ...] = ()


class Passwords(msgspec.Struct, frozen=True):
    """The boards' passwords that Redis keeps: how many boards have one, those whose seal does not open here
    (board → why), and how many are not sealed under the key in force."""

    total: int
    closed: dict[str, str]
    unsealed: int


class Refusal(msgspec.Struct, frozen=True):
    """A write of the latest polls that the board did not do, and what it said."""

    device: str
    pin: int
    what: str


class Update(msgspec.Struct, frozen=True):
    """The latest update of boards: its state, what it says, and how many boards are how far. ``trial`` are
    those that try the new version; ``is_driven``: somebody sees to it."""

    version: str
    state: str
    reason: str
    boards: dict[str, int]
    trial: tuple[str, ...] = ()
    is_driven: bool = False


class Sink(msgspec.Struct, frozen=True, kw_only=True):
    """A reader of the stream. ``waits_s`` is how long its oldest sample waits that nobody took."""

    name: str
    is_chosen: bool
    books: Books
    state: SinkState | None = None
    waits_s: float | None = None


class Reach(msgspec.Struct, frozen=True):
    """How far back a level of the history goes: since when it is kept (Unix seconds; None: nothing yet), and
    what it takes. ``short`` devices have lost something that should still be there; ``least_s`` is
    the shortest time that is left whole to one of them.
    """

    level: str
    since: float | None
    bytes: int
    short: int = 0
    least_s: float | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What this shell is set to; a collector elsewhere may be set to something else."""

    redis: str
    data: str
    prefix: str
    sinks: tuple[str, ...]
    is_sinks_chosen: bool
    upload_interval_s: float
    max_samples: int
    max_bytes: int
    history_bytes: int = 0
    has_secret_key: bool = False


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known at ``now`` (Unix seconds). What comes after ``unreachable`` is what was found out
    before Redis said no more; None where it was not asked.
    """

    now: float
    settings: Settings
    unreachable: str = ""
    redis: Redis | None = None
    collectors: tuple[Collector, ...] | None = None
    devices: Devices | None = None
    passwords: Passwords | None = None
    refusals: tuple[Refusal, ...] | None = None
    update: Update | None = None
    queue: Queue | None = None
    sinks: tuple[Sink, ...] | None = None
    history: tuple[Reach, ...] | None = None

    @property
    def alive(self) -> list[Collector]:
        return [collector for collector in self.collectors or () if collector.is_alive]


def gather(session: Session, default_sockets: tuple[Path, ...] = server.DEFAULT_SOCKETS) -> Facts:
    """Asks Redis for everything; no board is asked, and nothing is changed.

    Starts the embedded server when there is no other. Raises `UsageError` for settings that make no sense.
    """
    config = session.config
    chosen = outlets.chosen(config)
    known = Facts(
        now=session.now,
        settings=Settings(
            redis=server.redacted(config.redis_url or ""),
            data=str(config.data_dir),
            prefix=config.prefix,
            sinks=chosen,
            is_sinks_chosen=config.sinks is not None,
            upload_interval_s=config.upload_interval_s,
            max_samples=config.max_samples,
            max_bytes=config.max_bytes,
            history_bytes=config.history_bytes,
            has_secret_key=bool(config.secret_keys),
        ),
    )
    try:
        url, kind = session.server.url, session.server.kind
    except StoreUnavailable as error:
        known = _with(known, unreachable=str(error))
        if config.redis_url is None:
            return known
        # One that loads its data, or whose disk is full, refuses even a PING, and still says why.
        url, kind = config.redis_url, "external"
    with closing(Store(url, prefix=config.prefix, secret_keys=config.secret_keys)) as store:
        try:
            redis = _redis(store, session, kind, default_sockets)
            known = _with(known, redis=redis, unreachable="")
            if redis.health.is_loading:
                return known
            known = _with(known, **_fleet(store, session))
            known = _with(known, **_samples(store, known))
            return _with(known, history=_history(store, known.now))
        except StoreUnavailable as error:
            return _with(known, unreachable=known.unreachable or str(error))


def _redis(store: Store, session: Session, kind: str, default_sockets: tuple[Path, ...]) -> Redis:
    before = session.now
    health = store.health()
    after = session.now
    skew_s = None
    if health.time is not None:
        # It looked at its clock somewhere in between.
        early, late = health.time - after, health.time - before
        skew_s = 0.0 if early <= 0.0 <= late else min(early, late, key=abs)
    passed = server.passed_over(default_sockets) if kind == "embedded" else {}
    return Redis(
        url=server.redacted(store.url),
        kind=kind,
        health=health,
        skew_s=skew_s,
        passed_over={str(path): why for path, why in passed.items()},
        watch=server.watch(store.url),
    )


def _fleet(store: Store, session: Session) -> dict[str, Any]:
    claims = store.collectors_seen(session.now, COLLECTOR_FORGOTTEN_S)
    views, schedule, memories = store.views(), store.schedule(), store.memories()
    now, interval_s = session.now, session.config.interval_s
    return {
        "collectors": _collectors(claims, schedule, views, now),
        "devices": _devices(views, schedule, _unserved(claims, views, now), now, interval_s),
        "passwords": _passwords(
            store.all_credentials(), {v.device.id: v.device.name for v in views}
        ),
        "refusals": _refusals(views, memories, now),
        "update": _update(store),
    }


def _history(store: Store, now: float) -> tuple[Reach, ...]:
    return tuple(
        Reach(reach.level, reach.oldest or None, reach.bytes, reach.short, reach.least_s)
        for reach in store.history_reach(now)
    )


def _collectors(
    claims: dict[str, float], schedule: dict[str, Turn], views: list[View], now: float
) -> tuple[Collector, ...]:
    """Those that claimed of late, by their names; then others who polled, such as `update`."""
    shares = Counter(turn.collector for turn in schedule.values())
    polled = Counter(
        view.reading.collector for view in views if view.reading and view.reading.is_fresh(now)
    )
    return (
        *(Collector(name, now - claims[name], shares[name]) for name in sorted(claims)),
        *(Collector(name, None, polled[name]) for name in sorted(polled.keys() - claims.keys())),
    )


def _unserved(
    claims: dict[str, float], views: list[View], now: float
) -> dict[str, tuple[str, ...]]:
    served = {shard_of(name) for name, at in claims.items() if now - at <= ALIVE_S}
    found: dict[str, tuple[str, ...]] = {}
    for view in views:
        if (shard := view.device.shard) not in served:
            found[shard] = (*found.get(shard, ()), view.device.name)
    return found


def _devices(
    views: list[View],
    schedule: dict[str, Turn],
    unserved: dict[str, tuple[str, ...]],
    now: float,
    interval_s: float,
) -> Devices:
    states = Counter(view.state(now) for view in views)
    far, unscheduled, sensors, late_s = [], [], [], []
    versions: Counter[str] = Counter()
    safe_mode, trial = [], []
    for view in views:
        device, reading = view.device, view.reading
        date = schedule[device.id].at if device.id in schedule else None
        every_s = (view.asked_s or interval_s) * (view.pace.factor if view.pace else 1)
        if date is None:
            unscheduled.append(device.name)
        elif date - now > 2 * max(every_s, MAX_BACKOFF_S) + LOCK_S:
            far.append(device.name)
        elif date <= now:
            late_s.append(now - date)
        if reading is not None:
            status = reading.decoded()
            versions[f"{status.version or 'unknown'} {status.build or ''}".rstrip()] += 1
            safe_mode += [device.name] if status.safe_mode else []
            trial += [device.name] if status.trial else []
        if reading is not None and reading.is_fresh(now):
            sensors += [f"{device.name} {name} ({what})" for name, what in _silent(reading)]
    return Devices(
        total=len(views),
        online=states["online"],
        late=states["late"],
        new=states["new"],
        offline=tuple(_lost(view, now) for view in views if view.state(now) == "offline"),
        sensors=tuple(sensors),
        overdue=len(late_s),
        oldest_overdue_s=max(late_s, default=0.0),
        far=tuple(far),
        unscheduled=tuple(unscheduled),
        open=tuple(view.device.name for view in views if access(view) == "open"),
        unclaimed=tuple(view.device.name for view in views if is_unclaimed(view)),
        denied=tuple(
            Lost(view.device.name, problem_of(view), None)
            for view in views
            if is_denied(view) and not is_unclaimed(view)
        ),
        versions=dict(versions),
        safe_mode=tuple(safe_mode),
        trial=tuple(trial),
        unserved=unserved,
        slowed=tuple(_slowed(views, now)),
    )


def _slowed(views: list[View], now: float) -> Iterator[Slowed]:
    for view in views:
        found, asked_s = slowed(view), view.asked_s
        if found is not None and asked_s is not None and view.state(now) != "offline":
            yield Slowed(view.device.name, found["why"], found["every_s"], asked_s)


def _update(store: Store) -> Update | None:
    found = store.rollout()
    if found is None:
        return None
    rollout, boards = found
    return Update(
        rollout.version,
        rollout.state,
        rollout.reason,
        dict(Counter(board.state for board in boards)),
        tuple(board.name for board in boards if board.state == "trial"),
        store.driver() is not None,
    )


def _passwords(kept: dict[str, Credential], names: dict[str, str]) -> Passwords:
    closed = {names.get(i, f"board {i}"): one.problem for i, one in kept.items() if one.problem}
    unsealed = sum(not one.is_current and not one.problem for one in kept.values())
    return Passwords(len(kept), closed, unsealed)


def _silent(reading: Reading) -> Iterator[tuple[str, str]]:
    yield from reading.dht22_errors.items()
    for pin, what in reading.adc_errors.items():
        yield f"ADC {pin}", what


def _lost(view: View, now: float) -> Lost:
    fault, reading = view.fault, view.reading
    return Lost(
        view.device.name, fault.what if fault else "", now - reading.at if reading else None
    )


def _refusals(views: list[View], memories: dict[str, Memory], now: float) -> tuple[Refusal, ...]:
    """The writes that failed at the latest polls. A write is tried at every poll that finds the pin wrong, so
    one that failed long before is no longer wanted."""
    return tuple(
        Refusal(view.device.name, pin, write.problem)
        for view in views
        if view.reading and view.reading.is_fresh(now) and view.device.id in memories
        for pin, write in memories[view.device.id].writes.items()
        if write.problem and now - write.at <= FRESH_INTERVALS * view.reading.interval_s
    )


def _samples(store: Store, known: Facts) -> dict[str, Any]:
    ledger = store.ledger()
    sinks = []
    for name, books, state in ledger.sinks:
        oldest = store.oldest_waiting(name)
        at = oldest.batch.at if oldest and oldest.batch else None
        waits_s = known.now - at if at is not None else None
        is_chosen = name == HISTORY or name in known.settings.sinks
        sinks.append(
            Sink(name=name, is_chosen=is_chosen, books=books, state=state, waits_s=waits_s)
        )
    return {"queue": ledger.queue, "sinks": tuple(sinks)}


def _with(facts: Facts, **changes: Any) -> Facts:
    return msgspec.structs.replace(facts, **changes)
