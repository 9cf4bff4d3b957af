"""Laws of what `espnet.store` keeps of jobs: changes, renames, replacements, fences, inputs."""

import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
import pytest
import redis
from board_wire import status_body

from espnet.model import Device, Job, Memory, PinMemory, Reading, Threshold, Timer
from espnet.store import Poll, Store

NOW = 1_750_000_000.0


def board(number: int, name: str | None = None, **more: Any) -> Device:
    more = {"address": f"10.0.0.{number}"} | more
    return Device(id=f"id{number}", name=name or f"name{number}", **more)


def reading(at: float = NOW) -> Reading:
    status = msgspec.Raw(status_body())
    return Reading(at=at, poll_s=0.01, interval_s=10.0, collector="here", status=status)


def timer(name: str, pin: int = 4) -> Timer:
    return Timer(name=name, pin=pin, start="07:00", hours=2, zone="UTC")


def heater(source: str, name: str = "heater") -> Threshold:
    return Threshold(
        name=name, pin=5, start="00:00", hours=24, zone="UTC", input=source, target=20, stale="off"
    )


def put(store: Store, name: str, *jobs: Job) -> None:
    store.change_jobs(name, lambda device, old: jobs, now=NOW)


def version(store: Store) -> bytes:
    store.claim(0.0, 1, "here", ttl_s=1)
    return store.jobs_version


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    with closing(Store(redis_url)) as store:
        for number in (1, 2, 3):
            store.add(board(number), reading(), first_due=NOW + 100 + number)
        yield store


def test_many_changers_at_once_lose_nothing(store: Store, redis_url: str) -> None:
    """Each change is made to what the one before it left."""

    def change(number: int) -> None:
        with closing(Store(redis_url)) as other:
            for part in range(5):
                job = timer(f"{number}-{part}")
                other.change_jobs("name1", lambda d, old: (*old, job), now=NOW)  # noqa: B023

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert {job.name for job in store.jobs(store.device("name1"))} == {
        f"{number}-{part}" for number in range(4) for part in range(5)
    }


def test_a_change_that_is_refused_changes_nothing(store: Store, raw: redis.Redis) -> None:
    """Whatever the changer raises passes through."""

    def refuse(device: Device, jobs: tuple[Job, ...]) -> tuple[Job, ...]:
        raise ValueError("no")

    put(store, "name1", timer("lamp"))
    before = {key: raw.dump(key) for key in raw.scan_iter()}
    with pytest.raises(ValueError, match="no"):
        store.change_jobs("name1", refuse, now=NOW)
    assert {key: raw.dump(key) for key in raw.scan_iter()} == before


def test_the_version_grows_when_jobs_change_and_only_then(store: Store) -> None:
    """What collectors learn anew costs them a look at all jobs."""
    assert version(store) == b""
    put(store, "name1", timer("lamp"))
    assert version(store) == b"1"
    put(store, "name1", timer("lamp"))
    put(store, "name2")
    store.change("name1", lambda d: msgspec.structs.replace(d, tags=("a:b",)), now=NOW)
    store.change("name1", lambda d: msgspec.structs.replace(d, name="other"), now=NOW)
    store.remove("name3")
    assert version(store) == b"1"
    store.remove("other")
    assert version(store) == b"2"


def test_a_change_is_due_at_once(store: Store) -> None:
    """Its device is claimed with the new jobs; the others wait."""
    assert store.claim(NOW, 9, "here", ttl_s=9) == []
    put(store, "name2", timer("lamp"))
    (claim,) = store.claim(NOW, 9, "here", ttl_s=9)
    assert (claim.device.name, claim.jobs) == ("name2", (timer("lamp"),))


def test_a_rename_takes_the_inputs_along(store: Store) -> None:
    """On every device, in the same step; collectors are told that jobs changed."""
    put(store, "name1", heater("name1.f"), timer("lamp"))
    put(store, "name2", heater("name1.dht22.name1.temp"), heater("name3.f", "b"))
    put(store, "name3", heater("name10.f"), heater("redis:name1.f", "b"))
    before = version(store)
    store.change("name1", lambda d: msgspec.structs.replace(d, name="x.y"), now=NOW)
    assert store.jobs(store.device("x.y")) == (heater("x.y.f"), timer("lamp"))
    assert store.jobs(store.device("name2")) == (
        heater("x.y.dht22.name1.temp"),
        heater("name3.f", "b"),
    )
    assert store.jobs(store.device("name3")) == (heater("name10.f"), heater("redis:name1.f", "b"))
    assert version(store) > before


def test_a_board_registered_anew_under_another_name_takes_its_inputs_along(store: Store) -> None:
    """That is a rename too; but where it takes another board's place, its old name is gone."""
    put(store, "name1", heater("name1.f"))
    put(store, "name2", heater("name1.f"))
    store.add(board(1, "deck"), reading(), first_due=NOW, replace=True)
    assert store.jobs(store.device("deck")) == (heater("deck.f"),)
    assert store.jobs(store.device("name2")) == (heater("deck.f"),)
    store.add(board(1, "name3"), reading(), first_due=NOW, replace=True)
    assert store.jobs(store.device("name3")) == ()
    assert store.jobs(store.device("name2")) == (heater("deck.f"),)


def test_a_board_that_replaces_another_takes_its_jobs_and_not_its_memory(store: Store) -> None:
    """Pins of another board were seen at another board."""
    put(store, "name1", heater("name1.f"))
    (claim,) = store.claim(NOW, 1, "here", ttl_s=9)
    memory = Memory({5: PinMemory(1, NOW)}, {})
    store.commit([Poll(claim.grant, NOW + 10, reading(), memory=memory)])
    assert store.memory(store.device("name1")) == memory
    store.add(board(1, "name1", address="10.0.0.9"), reading(), first_due=NOW)
    assert store.memory(store.device("name1")) == memory
    new = store.add(board(9, "name1"), reading(), first_due=NOW, replace=True)
    assert store.jobs(new) == (heater("name1.f"),)
    assert store.memory(new) == Memory()
    assert set(store.all_jobs()) == {"id9"}


def test_a_removed_device_leaves_nothing(store: Store, raw: redis.Redis) -> None:
    """No key and no field of any hash holds its id; the last job takes the memory along."""
    put(store, "name1", timer("lamp"))
    (claim,) = store.claim(NOW, 1, "here", ttl_s=9)
    memory = Memory({4: PinMemory(1, NOW)}, {})
    store.commit([Poll(claim.grant, NOW + 10, reading(), memory=memory)])
    put(store, "name1")
    assert store.memory(store.device("name1")) == Memory()
    put(store, "name1", timer("lamp"))
    store.remove("name1")
    for key in raw.scan_iter():
        assert b"id1" not in key
        if raw.type(key) == b"hash":
            assert not any(b"id1" in part for item in raw.hgetall(key).items() for part in item)
        elif raw.type(key) == b"zset":
            assert raw.zscore(key, "id1") is None


def test_only_a_lock_s_holder_is_given_a_higher_fence(store: Store, raw: redis.Redis) -> None:
    """Above what the board has seen, also after Redis forgot; later grants are above it again."""
    put(store, "name1", timer("lamp"))
    (claim,) = store.claim(NOW, 1, "here", ttl_s=9)
    lifted = store.lift_fence(claim.grant, 1000, 10**12)
    assert lifted is not None
    assert (lifted.token, lifted.fence) == (claim.grant.token, 1001)
    again = store.lift_fence(claim.grant, 5, 10**12)
    assert again is not None
    assert again.fence == 1002
    store.wake(["id2"], NOW)
    assert store.claim(NOW, 1, "here", ttl_s=9)[0].grant.fence > 1002
    before = raw.get("espnet:fence")
    raw.set("espnet:lock:id1", "somebody:1")
    assert store.lift_fence(claim.grant, 5000, 10**12) is None
    raw.delete("espnet:lock:id1")
    assert store.lift_fence(claim.grant, 5000, 10**12) is None
    assert raw.get("espnet:fence") == before


def test_to_wake_makes_nobody_later_and_nobody_new(store: Store) -> None:
    """An earlier date stays, and an id that is not registered is no device."""
    store.wake(["id1", "nobody"], NOW)
    store.wake(["id1"], NOW + 50)
    store.wake([], NOW)
    assert [claim.device.name for claim in store.claim(NOW, 9, "here", ttl_s=9)] == ["name1"]


def test_readings_and_foreign_values_are_found_in_their_order(
    store: Store, raw: redis.Redis
) -> None:
    """What is not there, and what is of another type, has its place too."""
    assert store.readings([]) == {}
    found = store.readings(["name2", "nobody", "name1"])
    assert list(found) == ["name2", "nobody", "name1"]
    assert (found["nobody"], found["name1"]) == (None, reading())
    raw.set("text", "21")
    raw.hset("hash", mapping={"t": "22", "at": "5"})
    raw.lpush("list", "x")
    text, hash_, list_, none = store.foreign(
        [("text", ""), ("hash", "t"), ("list", "t"), ("none", "t")]
    )
    assert text[0] == b"21"
    assert isinstance(hash_[0], Exception)
    assert hash_[1] == [b"22", b"5"]
    assert all(isinstance(part, Exception) for part in list_)
    assert none == (None, [None, None])
