"""Laws of `espnet.store` while Redis is not there, or not well: one sentence, and on it goes."""

import socket
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import msgspec
import pytest
import redis
from board_wire import eventually
from conftest import RedisProcess
from test_store import NOW, batch, board, poll, queue, reading, register

from espnet.credential import Password
from espnet.errors import EspNetError, StoreUnavailable
from espnet.firmware import Release, make_manifest
from espnet.rollout import Progress, Rollout
from espnet.samples import Books, DeadLetter, Sample, SinkState
from espnet.store import Entry, Fate, Grant, Store
from espnet.store.history import Packing, Row, State

DEVICE = board(1)
GRANT = Grant("id1", "here:1", 1)
ENTRY = Entry(b"1-1", 1, 9, batch(1))
LETTER = DeadLetter(Sample("esp32.up", 1.0, NOW, ()), "It is not liked.", NOW)
STATE = SinkState(state="ok", at=NOW, since=NOW, uploader="me")
RELEASE = Release("1.0", "0123456789ab", make_manifest("1.0", {"app.mpy": b"x"}), {"app.mpy": b"x"})
ROLLOUT = Rollout(id="r1", build=RELEASE.build, version="1.0", minutes=10, settle_s=60, at=NOW)
PROGRESS = Progress(id="id1", name="name1", number=0)


def _hold(store: Store) -> None:
    with store.hold(DEVICE, "me", ttl_s=9, wait_s=0):
        pass


OPERATIONS: dict[str, Callable[[Store], Any]] = {
    "ping": Store.ping,
    "server_info": Store.server_info,
    "devices": Store.devices,
    "device": lambda s: s.device("name1"),
    "views": Store.views,
    "view": lambda s: s.view("name1"),
    "add": lambda s: s.add(board(2), reading(), first_due=NOW),
    "check": lambda s: s.check(board(2)),
    "change": lambda s: s.change("name1", lambda d: msgspec.structs.replace(d, name="x"), now=NOW),
    "remove": lambda s: s.remove("name1"),
    "jobs": lambda s: s.jobs(DEVICE),
    "memory": lambda s: s.memory(DEVICE),
    "memories": Store.memories,
    "all_jobs": Store.all_jobs,
    "change_jobs": lambda s: s.change_jobs("name1", lambda _, jobs: jobs, now=NOW),
    "readings": lambda s: s.readings(["name1"]),
    "foreign": lambda s: s.foreign([("outside", "")]),
    "lift_fence": lambda s: s.lift_fence(GRANT, 9, 99),
    "wake": lambda s: s.wake(["id1"], NOW),
    "claim_under": lambda s: s.claim_under(GRANT, "name1", NOW),
    "hold": _hold,
    "lock_state": lambda s: s.lock_state(DEVICE),
    "claim": lambda s: s.claim(NOW + 9, 9, "here", ttl_s=9),
    "commit": lambda s: s.commit([poll(GRANT, batch=batch(2), refused=1)]),
    "collectors": lambda s: s.collectors(NOW, 60),
    "collectors_seen": lambda s: s.collectors_seen(NOW, 60),
    "sign_off": lambda s: s.sign_off("here"),
    "join": lambda s: s.join("new", NOW),
    "take": lambda s: s.take("dd", "me", 9),
    "oldest_waiting": lambda s: s.oldest_waiting("dd"),
    "read_pending": lambda s: s.read_pending("dd", "me", 9),
    "take_over": lambda s: s.take_over("dd", "me", 9),
    "mark_sent": lambda s: s.mark_sent("dd", "me", [b"1-1"]),
    "settle": lambda s: s.settle("dd", "me", [Fate(ENTRY, letters=(LETTER,))]),
    "leave": lambda s: s.leave("dd", "me"),
    "count_repeated": lambda s: s.count_repeated("dd", 2),
    "letters": Store.letters,
    "bury": lambda s: s.bury("dropped", ["1-1"]),
    "ledger": Store.ledger,
    "note_sink": lambda s: s.note_sink("dd", STATE),
    "forget_sink": lambda s: s.forget_sink("dd"),
    "pending": lambda s: s.pending("dd"),
    "stream_info": Store.stream_info,
    "health": Store.health,
    "schedule": Store.schedule,
    "device_count": Store.device_count,
    "append_history": lambda s: s.append_history([Row(ENTRY, "id1", NOW, (), (), 9)]),
    "tails": lambda s: s.tails(["id1"]),
    "seal": lambda s: s.seal([Packing("id1", State(b""), 9)], NOW),
    "past": lambda s: s.past("id1"),
    "history_states": lambda s: s.history_states(0, 9),
    "credentials": lambda s: s.credentials(["id1"]),
    "credential": lambda s: s.credential("id1"),
    "all_credentials": Store.all_credentials,
    "add_password": lambda s: s.add_password("id1", Password("a long password")),
    "add_passwords": lambda s: s.add_passwords({"id1": Password("a long password")}),
    "prefer_password": lambda s: s.prefer_password("id1", Password("a long password")),
    "reseal": lambda s: s.reseal("id1"),
    "history_reach": lambda s: s.history_reach(NOW),
    "device_of": lambda s: s.device_of("id1"),
    "failing": Store.failing,
    "faults": lambda s: s.faults(["id1"]),
    "move": lambda s: s.move(DEVICE, "10.0.0.9", now=NOW),
    "due_of": lambda s: s.due_of("id1"),
    "add_release": lambda s: s.add_release(RELEASE, NOW),
    "release": lambda s: s.release(RELEASE.build),
    "releases": Store.releases,
    "prune_releases": lambda s: s.prune_releases([]),
    "rollout": Store.rollout,
    "begin_rollout": lambda s: s.begin_rollout(ROLLOUT, [PROGRESS]),
    "change_rollout": lambda s: s.change_rollout(lambda *both: both),
    "driver": Store.driver,
    "drive": lambda s: s.drive("me:1", 9),
    "stop_driving": lambda s: s.stop_driving("me:1"),
    "note": lambda s: s.note("me:1", ROLLOUT.id, PROGRESS),
    "move_rollout": lambda s: s.move_rollout("me:1", ROLLOUT, ROLLOUT),
    "rollout_state": lambda s: s.rollout_state(ROLLOUT.id),
}


def test_every_operation_is_held_to_these_laws() -> None:
    """A new method of the store is added to the list above, or this fails."""
    public = {n for n in dir(Store) if not n.startswith("_") and callable(getattr(Store, n))}
    assert public - {"close"} == set(OPERATIONS)


def refused_by(store: Store, name: str) -> str:
    """The sentence that an operation ends with."""
    with pytest.raises(StoreUnavailable) as caught:
        OPERATIONS[name](store)
    assert caught.value.exit_code == 3
    assert "espcli redis" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_redis_that_is_not_there_is_one_sentence(operation: str) -> None:
    """Refused connections end as StoreUnavailable, whatever was wanted, and name no password."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url in (f"redis://me:s3cret@127.0.0.1:{port}/0", "unix:///nowhere/s.sock?password=s3cret"):
        with closing(Store(url)) as store:
            sentence = refused_by(store, operation)
            assert "does not answer" in sentence
            assert "s3cret" not in sentence


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_key_of_another_type_is_one_sentence(
    store: Store, raw: redis.Redis, operation: str
) -> None:
    """Somebody else's data under our keys is a refusal of Redis, not a bug of ours."""
    if operation in ("ping", "server_info", "health", "foreign"):  # foreign keys may hold anything
        return
    if operation in ("mark_sent", "leave"):  # of what was taken, and nothing was
        return
    keys = ("devices", "names", "due", "readings", "faults", "fence", "collectors", "samples")
    sinks = ("books", "sinks", "sink_states", "waiting:dd", "parts:dd", "books:dd", "dead")
    others = ("lock:id1", "jobs", "memory", "jobs_version", "history", "credentials")
    others += (
        "rollout",
        "rollout:boards",
        "rollout:driver",
        "releases",
        f"release:{RELEASE.build}",
    )
    for key in (*keys, *sinks, *others):
        raw.lpush(f"espnet:{key}", "not ours")
    if operation == "commit":
        raw.set("espnet:lock:id1", GRANT.token)
    assert "refused a command" in refused_by(store, operation)


WRITES = ("add", "claim", "hold", "count_repeated", "note_sink")


@pytest.mark.parametrize("operation", WRITES)
def test_a_full_redis_is_one_sentence(own_redis: RedisProcess, operation: str) -> None:
    """Out of memory, Redis refuses writes; reads go on, and so do writes when there is room again."""
    with redis.Redis.from_url(own_redis.url) as raw, closing(Store(own_redis.url)) as store:
        register(store, 1)
        raw.config_set("maxmemory", 1)
        assert "refused a command" in refused_by(store, operation)
        assert len(store.views()) == 1
        raw.config_set("maxmemory", 0)
        OPERATIONS[operation](store)


def test_a_full_redis_can_still_be_emptied(own_redis: RedisProcess) -> None:
    """What waits is delivered, which makes room, also by who reads the stream since long ago; what a sink
    took in part, refused or may have twice is remembered."""
    with redis.Redis.from_url(own_redis.url) as raw, closing(Store(own_redis.url)) as store:
        queue(store, 2, 3, 1)
        store.join("dd", NOW)
        raw.config_set("maxmemory", 1)
        assert not store.join("dd", NOW)
        one, two, three = store.take("dd", "me", 9)
        assert store.mark_sent("dd", "me", [one.id]) == {one.id}
        assert store.settle("dd", "me", [Fate(one, accepted=2)]) == 1
        store.leave("dd", "me")
        assert store.take_over("dd", "you", 9) == [two, three]
        store.settle("dd", "you", [Fate(two, accepted=1, fates=b"\1\0\0")], repeated=2)
        assert store.ledger().books("dd") == Books(collected=6, accepted=3, queued=3, repeated=2)
        assert store.settle("dd", "you", [Fate(three, letters=(LETTER,))]) == 1
        assert [row.fates for row in store.take_over("dd", "you", 9)] == [b"\1\0\0"]
        assert store.settle("dd", "you", [Fate(two, accepted=2)]) == 1
        store.leave("dd", "you")
        assert store.ledger().books("dd") == Books(collected=6, accepted=5, dead=1, repeated=2)


@pytest.mark.parametrize("operation", WRITES)
def test_a_read_only_replica_is_one_sentence(own_redis: RedisProcess, operation: str) -> None:
    """After a failover, the old primary takes no writes: that is said, and nothing is half done."""
    with redis.Redis.from_url(own_redis.url) as raw, closing(Store(own_redis.url)) as store:
        register(store, 1)
        raw.replicaof("127.0.0.1", 9)
        refused_by(store, operation)
        raw.replicaof("NO", "ONE")
        OPERATIONS[operation](store)


def test_a_redis_that_hangs_ends_with_the_time_out(own_redis: RedisProcess) -> None:
    """A server that takes connections and says nothing does not hold anybody for ever."""
    with closing(Store(own_redis.url)) as patient:
        register(patient, 1)  # that takes as long as the disk does
    with closing(Store(own_redis.url, timeout_s=0.1)) as store:

        def answers() -> bool:
            with suppress(StoreUnavailable):  # Redis may wait longer than that for its turn
                return len(store.views()) == 1
            return False

        eventually(answers)
        own_redis.pause()
        for operation in ("claim", "views", "add", "hold"):
            assert "does not answer" in refused_by(store, operation)
        own_redis.resume()
        eventually(answers)


def test_a_wrong_password_is_one_sentence_without_it(own_redis: RedisProcess) -> None:
    """Credentials never show in what people paste into bug reports."""
    with redis.Redis.from_url(own_redis.url) as raw:
        raw.config_set("requirepass", "right")
    for url in (own_redis.url, own_redis.url + "?password=s3cret"):
        with closing(Store(url)) as store:
            assert "s3cret" not in refused_by(store, "devices")
    with closing(Store(own_redis.url + "?password=right")) as store:
        assert store.devices() == []


def test_a_redis_that_restarts_is_used_again(own_redis: RedisProcess) -> None:
    """Connections and scripts that a restart took away are made anew by the first command after it."""
    with closing(Store(own_redis.url)) as store:
        register(store, 3)
        (one, *_) = store.claim(NOW + 1, 1, "here", ttl_s=60)
        own_redis.kill()
        with pytest.raises(EspNetError):
            store.commit([poll(one.grant)])
        own_redis.start()
        assert store.commit([poll(one.grant, batch=batch(1))]) == set()
        assert len(store.claim(NOW + 1, 9, "here", ttl_s=60)) == 2
