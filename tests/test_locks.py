"""Laws of the locks: one holder at a time, whoever takes them and however they end.

A lock may be taken by the claim script (the collector), by `Store.hold` (a person) and by anybody else's
redis-py `Lock`; all on a real server.
"""

import random
import threading
import time
from collections.abc import Callable

import pytest
import redis
from board_wire import eventually
from redis.lock import Lock
from test_store import NOW, board, in_threads, poll, reading, register

from espnet.errors import BoardError, DeviceBusy, DeviceLockLost
from espnet.model import Device
from espnet.store import BATCH, Poll, Store

KEY = "espnet:lock:id1"


@pytest.fixture
def device(store: Store) -> Device:
    return register(store, 1)[0]


def claimed(store: Store, now: float = NOW + 1, *, ttl_s: float = 60) -> list[str]:
    return [claim.device.id for claim in store.claim(now, BATCH, "collector", ttl_s=ttl_s)]


def is_left(left_s: float, ttl_s: float, began: float) -> bool:
    """Whether a lock taken since ``began`` has left what it must, to Redis's own rounding."""
    return ttl_s - (time.monotonic() - began) - 0.01 <= left_s <= ttl_s


# --- who excludes whom --------------------------------------------------------------------------


def test_a_claimed_device_is_busy_for_everybody(
    store: Store, raw: redis.Redis, device: Device
) -> None:
    """Neither a person nor redis-py's own lock gets what a collector has, until it is committed."""
    (claim,) = store.claim(NOW + 1, 9, "collector", ttl_s=60)
    assert claimed(store) == []
    assert not Lock(raw, KEY, timeout=9).acquire(blocking=False)
    with (
        pytest.raises(DeviceBusy, match="name1 is locked by collector for up to"),
        store.hold(device, "me", ttl_s=9, wait_s=0),
    ):
        pytest.fail("two holders")
    store.commit([poll(claim.grant, next_due=NOW + 1)])
    assert Lock(raw, KEY, timeout=9).acquire(blocking=False)


def test_a_held_device_is_not_claimed(store: Store, raw: redis.Redis, device: Device) -> None:
    """What a person holds, no collector polls; it is looked at again within a second."""
    with store.hold(device, "me", ttl_s=9, wait_s=0):
        assert claimed(store) == []
        assert not Lock(raw, KEY, timeout=9).acquire(blocking=False)
        assert store.schedule()["id1"].at == pytest.approx(NOW + 2)
    assert claimed(store, NOW + 1.9) == []
    assert claimed(store, NOW + 2) == ["id1"]


def test_redis_py_s_own_lock_excludes_both(store: Store, raw: redis.Redis, device: Device) -> None:
    """A lock that another tool took by redis-py counts like ours, and its holder is shown."""
    foreign = Lock(raw, KEY, timeout=9)
    assert foreign.acquire(token="backup-tool")
    assert claimed(store) == []
    with (
        pytest.raises(DeviceBusy, match="backup-tool"),
        store.hold(device, "me", ttl_s=9, wait_s=0.1),
    ):
        pytest.fail("two holders")
    foreign.release()
    assert claimed(store, NOW + 2) == ["id1"]


def test_a_lock_says_who_and_how_long(store: Store, raw: redis.Redis, device: Device) -> None:
    """The holder's whole name, colons and all, and the seconds that are left at most."""
    assert store.lock_state(device) is None
    began = time.monotonic()
    with store.hold(device, "me@host:1", ttl_s=9, wait_s=0):
        state = store.lock_state(device)
        assert state is not None
        assert state.holder == "me@host:1"
        assert is_left(state.left_s, 9, began)
    raw.set(KEY, b"\xff")
    state = store.lock_state(device)
    assert state is not None
    assert (state.holder, state.left_s) == ("\ufffd", 0)


def test_every_lock_ends_by_itself(store: Store, raw: redis.Redis, device: Device) -> None:
    """No grant of any kind is without a time to live."""
    began = time.monotonic()
    store.claim(NOW + 1, 9, "collector", ttl_s=7)
    assert is_left(raw.pttl(KEY) / 1000, 7, began)
    raw.delete(KEY)
    began = time.monotonic()
    with store.hold(device, "me", ttl_s=5, wait_s=0):
        assert is_left(raw.pttl(KEY) / 1000, 5, began)


def test_a_lock_without_an_end_is_not_looked_at_all_the_time(
    store: Store, raw: redis.Redis, device: Device
) -> None:
    """What somebody locked by hand for ever costs one look a second."""
    raw.set(KEY, "by-hand")
    assert claimed(store) == []
    assert store.schedule()["id1"].at == pytest.approx(NOW + 2)


# --- how they end -------------------------------------------------------------------------------


def test_who_waits_gets_the_lock_when_it_is_free(
    store: Store, new_store: Callable[..., Store], device: Device
) -> None:
    """A person waits for a poll that is under way rather than being sent away."""
    (claim,) = store.claim(NOW + 1, 9, "collector", ttl_s=60)
    waits = threading.Event()

    def wait() -> None:
        other = new_store()
        waits.set()
        with other.hold(device, "me", ttl_s=9, wait_s=20) as grant:
            fences.append(grant.fence)

    fences = [claim.grant.fence]
    waiter = threading.Thread(target=wait)
    waiter.start()
    assert waits.wait(10)
    store.commit([poll(claim.grant)])
    waiter.join(20)
    assert len(fences) == 2
    assert store.lock_state(device) is None


def test_the_devices_of_a_collector_that_died_are_due_when_its_locks_end(
    store: Store, device: Device
) -> None:
    """Nothing is lost and nothing has to be cleaned up: the date of a claim is the end of its lock. Before
    the collector is thought dead, nobody else looks at its devices."""
    (dead,) = store.claim(NOW + 1, 9, "dead", ttl_s=0.05, present_s=0.04)
    assert claimed(store, NOW + 1.04) == []
    eventually(lambda: store.lock_state(device) is None)
    assert claimed(store, NOW + 1.045) == []
    assert claimed(store, NOW + 1.05) == ["id1"]
    assert store.commit([poll(dead.grant)]) == {"id1"}


def test_a_commit_without_its_lock_changes_nothing(store: Store, device: Device) -> None:
    """Whoever lost the lock has no say any more: not on the reading, not on the date, not on the lock."""
    (late,) = store.claim(NOW + 1, 9, "late", ttl_s=0.05, present_s=0.5)
    eventually(lambda: store.lock_state(device) is None)
    (now,) = store.claim(NOW + 2, 9, "now", ttl_s=60)
    assert store.commit([poll(late.grant, reading=reading(NOW + 1))]) == {"id1"}
    state = store.lock_state(device)
    assert state is not None
    assert state.holder == "now"
    assert store.view("name1").reading == reading()
    assert store.commit([poll(now.grant, reading=reading(NOW + 2))]) == set()
    assert store.view("name1").reading == reading(NOW + 2)


def test_a_hold_that_took_too_long_says_so_and_frees_nobody_s_lock(
    store: Store, raw: redis.Redis, device: Device
) -> None:
    """An expired, flushed or taken lock ends with DeviceLockLost; the new holder keeps it."""

    def outlive() -> None:
        with store.hold(device, "me", ttl_s=0.05, wait_s=0):
            eventually(lambda: store.lock_state(device) is None)
            assert claimed(store) == ["id1"]

    with pytest.raises(DeviceLockLost, match="name1"):
        outlive()
    state = store.lock_state(device)
    assert state is not None
    assert state.holder == "collector"
    raw.flushall()
    with pytest.raises(DeviceLockLost), store.hold(device, "me", ttl_s=9, wait_s=0):
        raw.flushall()


def test_what_went_wrong_under_a_hold_is_not_hidden_by_its_end(
    store: Store, raw: redis.Redis, device: Device
) -> None:
    """The block's own error leaves, also when the lock is gone by then; a lock that is left is freed."""

    def fail(is_lost: bool) -> None:
        with store.hold(device, "me", ttl_s=9, wait_s=0):
            if is_lost:
                raw.delete(KEY)
            raise BoardError("10.0.0.1", "timeout", "did not answer")

    for is_lost in (False, True):
        with pytest.raises(BoardError):
            fail(is_lost)
        assert store.lock_state(device) is None


def test_a_hold_that_was_committed_is_over(store: Store, device: Device) -> None:
    """The commit frees the lock; the end of the block neither complains nor takes the next one's."""
    with store.hold(device, "me", ttl_s=9, wait_s=0) as grant:
        assert store.commit([Poll(grant, NOW)]) == set()
        assert claimed(store) == ["id1"]
    assert store.lock_state(device) is not None


# --- fences -------------------------------------------------------------------------------------


def test_fences_grow_with_every_grant_whoever_takes_it(store: Store, device: Device) -> None:
    """A board that refuses a lower number than it has seen refuses only those who came too late."""
    fences = []
    for turn in range(10):
        if turn % 3:
            (claim,) = store.claim(NOW + 10 * turn, 9, "collector", ttl_s=60)
            fences.append(claim.grant.fence)
            store.commit([poll(claim.grant, next_due=NOW)])
        else:
            with store.hold(device, "me", ttl_s=9, wait_s=0) as grant:
                fences.append(grant.fence)
    assert fences == sorted(set(fences))


def test_who_waited_for_a_lock_has_a_higher_fence_than_those_before(
    store: Store, new_store: Callable[..., Store], device: Device
) -> None:
    """The fence is of the grant, not of the wish: whoever came first and got it last is the latest."""
    (first,) = store.claim(NOW + 1, 9, "collector", ttl_s=60)
    grants = []
    waits = threading.Event()

    def wait() -> None:
        other = new_store()
        waits.set()
        with other.hold(device, "patient", ttl_s=9, wait_s=20) as grant:
            grants.append(grant)

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert waits.wait(10)
    fence = first.grant.fence
    eventually(lambda: int(store._redis.get("espnet:fence")) > fence)  # it has tried
    for _ in range(3):  # others come and go meanwhile
        store._redis.incrby("espnet:fence", 100)
    latest = int(store._redis.get("espnet:fence"))
    store.commit([poll(first.grant)])
    waiter.join(20)
    assert grants[0].fence > latest


def test_tokens_are_never_the_same(store: Store, raw: redis.Redis, device: Device) -> None:
    """Also after Redis lost its counter, an old grant does not pass for a new one."""
    (old,) = store.claim(NOW + 1, 9, "collector", ttl_s=60)
    record = raw.hget("espnet:devices", "id1")
    raw.flushall()
    raw.hset("espnet:devices", "id1", record)
    with store.hold(device, "collector", ttl_s=9, wait_s=0) as grant:
        assert grant.token != old.grant.token
        assert store.commit([poll(old.grant)]) == {"id1"}


# --- many at once -------------------------------------------------------------------------------


def test_two_collectors_and_a_person_never_share_a_device(
    store: Store, new_store: Callable[..., Store]
) -> None:
    """Whatever they do at the same time, a device has one holder, and none is forgotten."""
    devices = register(store, 8)
    guard, holders, fences = threading.Lock(), {}, {}
    polled: dict[str, int] = {}

    def take(device_id: str, who: str, fence: int) -> None:
        with guard:
            assert device_id not in holders, f"{who} and {holders[device_id]} have {device_id}"
            holders[device_id] = who
            assert fence > fences.get(device_id, 0)
            fences[device_id] = fence
            polled[device_id] = polled.get(device_id, 0) + 1

    def give(device_id: str) -> None:
        with guard:
            del holders[device_id]

    def collect(who: str, seed: int) -> None:
        own, luck = new_store(), random.Random(seed)
        for turn in range(150):
            now = NOW + 10 * turn + 10
            claims = own.claim(now, luck.randint(1, 5), who, ttl_s=60)
            for claim in claims:
                take(claim.device.id, who, claim.grant.fence)
            if luck.random() < 0.3:
                time.sleep(0.001)
            for claim in claims:
                give(claim.device.id)
            assert own.commit([poll(c.grant, next_due=NOW) for c in claims]) == set()

    def change(seed: int) -> None:
        own, luck = new_store(), random.Random(seed)
        for _ in range(60):
            device = luck.choice(devices)
            with own.hold(device, "me", ttl_s=60, wait_s=30) as grant:
                take(device.id, "me", grant.fence)
                give(device.id)

    in_threads(
        lambda: collect("a", 1), lambda: collect("b", 2), lambda: collect("c", 3), lambda: change(4)
    )
    assert holders == {}
    assert set(polled) == {device.id for device in devices}


def test_locked_devices_do_not_stand_in_the_way(store: Store, raw: redis.Redis) -> None:
    """However many devices others hold, one claim still fills its limit from the rest."""
    register(store, BATCH + 40)
    for number in range(1, BATCH + 21):
        raw.set(f"espnet:lock:id{number}", "other:1", px=60_000)
    assert claimed(store) == [f"id{number}" for number in range(BATCH + 21, BATCH + 41)]
    assert claimed(store, NOW + 1.5) == []


def test_an_unregistered_device_s_lock_is_free_for_its_next_life(
    store: Store, device: Device
) -> None:
    """Unregister and register again, in the middle of a poll: the new life is polled, the old is void."""
    (old,) = store.claim(NOW + 1, 9, "collector", ttl_s=60)
    store.remove("name1")
    store.add(board(1), reading(NOW + 2), first_due=NOW + 2)
    (new,) = store.claim(NOW + 2, 9, "collector", ttl_s=60)
    assert new.grant.fence > old.grant.fence
    assert store.commit([poll(old.grant, reading=reading(NOW + 9))]) == {"id1"}
    assert store.view("name1").reading == reading(NOW + 2)
    assert store.commit([poll(new.grant)]) == set()
