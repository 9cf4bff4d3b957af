"""Laws of `espnet.store`: the registry and the schedule.

The others are in test_locks, test_store_jobs, test_store_samples and test_store_outages.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Any

import fakeredis
import msgspec
import pytest
import redis
from board_wire import status_body
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from espnet.errors import RegistryConflict, UnknownDevice
from espnet.model import Device, Fault, Reading
from espnet.samples import Queue, SampleBatch
from espnet.store import BATCH, Claim, Grant, Poll, Store

NOW = 1_750_000_000.0


def board(number: int, name: str | None = None, **more: Any) -> Device:
    more = {"address": f"10.0.0.{number}", "registered_at": NOW} | more
    return Device(id=f"id{number}", name=f"name{number}" if name is None else name, **more)


def reading(at: float = NOW, board_id: str = "b1") -> Reading:
    status = msgspec.Raw(status_body(board_id))
    return Reading(at=at, poll_s=0.01, interval_s=10.0, collector="here", status=status)


def fault(failures: int = 1) -> Fault:
    return Fault(kind="timeout", what="was silent", failures=failures, since=NOW, at=NOW)


def batch(points: int) -> SampleBatch:
    return SampleBatch(NOW, ("name:x",), tuple(("esp32.up", float(n), ()) for n in range(points)))


def register(store: Store, count: int, *, due: float = NOW) -> list[Device]:
    """``count`` devices, the first due first, a millisecond apart."""
    return [
        store.add(board(number), reading(), first_due=due + number / 1000)
        for number in range(1, count + 1)
    ]


def poll(grant: Grant, **more: Any) -> Poll:
    return Poll(grant, **{"next_due": NOW + 10, "reading": reading()} | more)


def queue(store: Store, *sizes: int) -> None:
    """One poll of one device for each size, committed in this order."""
    for size in sizes:
        store.add(board(99), reading(), first_due=NOW, replace=True)
        (claim,) = store.claim(NOW, 1, "here", ttl_s=9)
        assert store.commit([poll(claim.grant, batch=batch(size))]) == set()


@pytest.fixture
def registry() -> Iterator[Store]:
    """For laws without scripts, without a server."""
    with closing(Store("redis://fake", client=fakeredis.FakeRedis())) as store:
        yield store


def test_no_room_of_the_store_takes_another_s_word(registry: Store) -> None:
    """The store is one object made of several classes: what one sets on it, no other has as a method."""
    rooms = [vars(room) for room in Store.__mro__[:-1]]
    methods = [name for room in rooms for name in room if name[:2] != "__"]
    assert len(methods) == len(set(methods))
    assert not set(methods) & set(vars(registry))


# --- registry -----------------------------------------------------------------------------------


def test_a_registered_board_is_found_by_its_name(registry: Store) -> None:
    """What was registered is listed, with its first reading and without a fault, until it is removed."""
    one, two = board(1, "porch", tags=("room:out",)), board(2, "attic")
    assert registry.add(one, reading(), first_due=NOW) == one
    registry.add(two, reading(), first_due=NOW)
    assert registry.devices() == [two, one]
    assert registry.device("porch") == one
    view = registry.view("porch")
    assert (view.device, view.fault, view.state(NOW)) == (one, None, "online")
    assert [v.device.name for v in registry.views()] == ["attic", "porch"]
    with pytest.raises(UnknownDevice, match="'cellar'"):
        registry.view("cellar")


@pytest.mark.parametrize(
    "name", ["1", "1.10", "True", "None", "1e3", "Küche", "温室", "a:b", "*", "[a]"]
)
def test_any_name_is_only_a_name(registry: Store, name: str) -> None:
    """Nothing in a name is ever taken for a number, a pattern or a part of a key."""
    registry.add(board(1, "other"), reading(), first_due=NOW)
    registry.add(board(2, name), reading(), first_due=NOW)
    assert registry.device(name).id == "id2"
    assert registry.change(name, lambda d: d, now=NOW).name == name
    assert registry.remove(name).id == "id2"
    assert [d.name for d in registry.devices()] == ["other"]


def test_the_same_board_comes_back_under_its_name(registry: Store) -> None:
    """A new address is taken, settings are kept, tags are replaced only by new ones, faults are over."""
    old = board(1, interval_s=60.0, tags=("room:out",), dht22={"air": 4}, report_pins=(2,))
    registry.add(old, reading(), first_due=NOW)
    moved = registry.add(board(1, address="10.9.9.9"), reading(NOW + 5), first_due=NOW + 7)
    assert moved == msgspec.structs.replace(old, address="10.9.9.9")
    assert registry.view("name1").reading == reading(NOW + 5)
    retagged = registry.add(board(1, tags=("a:b",)), reading(), first_due=NOW)
    assert retagged.tags == ("a:b",)
    assert retagged.dht22 == {"air": 4}


CONFLICTS = {
    "the same board under another name": (board(1, "new"), "already registered as 'name1'"),
    "a taken name": (board(9, "name1"), "belongs to another board .id id1"),
    "an address with another board": (
        board(9, "new", address="10.0.0.1"),
        "is registered for 'name1'",
    ),
    "the name of one and the id of another": (board(2, "name1"), "already registered as 'name2'"),
    "its own name at another's address": (
        board(2, address="10.0.0.1"),
        "is registered for 'name1'",
    ),
}


@pytest.mark.parametrize(("device", "words"), CONFLICTS.values(), ids=CONFLICTS.keys())
def test_contradictions_are_refused_and_change_nothing(
    registry: Store, device: Device, words: str
) -> None:
    """Every meeting of names, ids and addresses says what to do, and leaves both boards as they were."""
    before = register(registry, 2)
    with pytest.raises(RegistryConflict, match=words) as caught:
        registry.add(device, reading(), first_due=NOW)
    assert "--replace" in str(caught.value)
    assert registry.devices() == before
    assert [v.reading for v in registry.views()] == [reading()] * 2


@pytest.mark.parametrize("forgotten", [b"10.0.0.1 id1", None], ids=["one", "all"])
def test_who_was_registered_before_addresses_were_indexed_has_his_address(
    registry: Store, forgotten: bytes | None
) -> None:
    """Some devices, or all, may be from an EspNet that kept no index: conflicts are found all the same."""
    register(registry, 3)
    client = registry._redis
    before = client.zrange("espnet:addresses", 0, -1)
    if forgotten:
        client.zrem("espnet:addresses", forgotten)
    else:
        client.delete("espnet:addresses")
    with pytest.raises(RegistryConflict, match="is registered for 'name1'"):
        registry.check(board(9, "new", address="10.0.0.1"))
    assert client.zrange("espnet:addresses", 0, -1) == before


def test_who_registers_beside_others_looks_at_his_own_only(
    new_store: Callable[..., Store], raw: redis.Redis
) -> None:
    """What a board costs does not grow with their number: nobody takes what another one has just registered
    for a gap in the index of addresses, and reads them all."""
    stores = [new_store() for _ in range(4)]
    start = threading.Barrier(4)

    def enroll(store: Store, first: int) -> None:
        start.wait()
        for number in range(first, first + 50):
            assert store.check(board(number)) is None
            store.add(board(number), reading(), first_due=NOW)

    raw.config_resetstat()
    threads = [
        threading.Thread(target=enroll, args=(store, 50 * n)) for n, store in enumerate(stores)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "cmdstat_hvals" not in raw.info("commandstats")
    assert raw.zcard("espnet:addresses") == len(stores[0].devices()) == 200


def test_an_address_is_no_beginning_of_another_one(registry: Store) -> None:
    """Who is at 10.0.0.1:8 is neither at 10.0.0.1 nor at 10.0.0.1:80, nor is one of them there."""
    for number, address in enumerate(("10.0.0.1", "10.0.0.1:8", "10.0.0.1:80", "[fe80::1]:8")):
        registry.add(board(number, address=address), reading(), first_due=NOW)
    for number, address in enumerate(("10.0.0.1", "10.0.0.1:8", "10.0.0.1:80", "[fe80::1]:8")):
        with pytest.raises(RegistryConflict, match=f"'name{number}' .id id{number}"):
            registry.check(board(9, address=address))
    registry.check(board(9, address="10.0.0.1:800"))


REPLACEMENTS = {
    "the same board under another name": (board(1, "new"), {"new": "id1", "name2": "id2"}),
    "a taken name": (board(9, "name1"), {"name1": "id9", "name2": "id2"}),
    "an address with another board": (
        board(9, "new", address="10.0.0.1"),
        {"new": "id9", "name1": "id1", "name2": "id2"},
    ),
    "the name of one and the id of another": (board(2, "name1"), {"name1": "id2"}),
    "its own name at another's address": (
        board(2, address="10.0.0.1"),
        {"name1": "id1", "name2": "id2"},
    ),
}


@pytest.mark.parametrize(("device", "left"), REPLACEMENTS.values(), ids=REPLACEMENTS.keys())
def test_replace_moves_the_name_with_its_settings(
    registry: Store, device: Device, left: dict[str, str]
) -> None:
    """The name goes to the board that answered; what only shares its address stays registered."""
    register(registry, 2)
    registry.change("name1", lambda d: msgspec.structs.replace(d, interval_s=77.0), now=NOW)
    stored = registry.add(device, reading(), first_due=NOW, replace=True)
    assert {d.name: d.id for d in registry.devices()} == left
    assert (stored.id, stored.name, stored.address) == (device.id, device.name, device.address)
    assert registry.device(device.name) == stored
    inherits = device.id == "id1" or device.name == "name1"
    assert stored.interval_s == (77.0 if inherits else None)


def test_a_rename_frees_the_old_name_and_takes_no_other_s(registry: Store) -> None:
    """Names are unique at every moment, and a rename changes nothing but the name."""
    register(registry, 2)
    with pytest.raises(RegistryConflict, match="'name2' is taken"):
        registry.change("name1", lambda d: msgspec.structs.replace(d, name="name2"), now=NOW)
    renamed = registry.change("name1", lambda d: msgspec.structs.replace(d, name="x"), now=NOW)
    assert renamed == board(1, "x")
    assert registry.view("x").reading == reading()
    with pytest.raises(UnknownDevice):
        registry.device("name1")
    registry.add(board(3, "name1"), reading(), first_due=NOW)


def test_nothing_is_left_of_a_removed_device(store: Store, raw: redis.Redis) -> None:
    """No key, field or member names it: reading, fault, lock and schedule go with it."""
    register(store, 1)
    unaware = {key: contents(raw, key) for key in raw.scan_iter()}
    store.add(board(77, "gone"), reading(board_id="id77"), first_due=NOW)
    (claim,) = [c for c in store.claim(NOW + 1, 9, "here", ttl_s=60) if c.device.id == "id77"]
    store.commit([poll(claim.grant, reading=None, fault=fault())])
    store.claim(NOW + 20, 9, "here", ttl_s=60)
    assert raw.exists("espnet:lock:id77")
    assert any("77" in contents(raw, key) for key in raw.scan_iter())
    store.remove("gone")
    left = {key: contents(raw, key) for key in raw.scan_iter()}
    assert not [key for key, held in left.items() if b"77" in key or "77" in held or "gone" in held]
    ours = {b"espnet:fence", b"espnet:collectors", b"espnet:presence", b"espnet:lock:id1"}
    assert set(left) == set(unaware) - {b"espnet:due"} | ours | {b"espnet:due:here"}
    with pytest.raises(UnknownDevice):
        store.remove("gone")


def contents(raw: Any, key: bytes) -> str:
    read = {b"hash": raw.hgetall, b"zset": partial(raw.zrange, start=0, end=-1), b"string": raw.get}
    return "" if key == b"espnet:fence" else str(read[raw.type(key)](key))


def test_a_shorter_interval_does_not_wait_for_the_old_date(store: Store) -> None:
    """A device that was to be polled in an hour and now every second is due at once; others are not."""
    register(store, 2, due=NOW + 3600)
    store.change("name1", lambda d: msgspec.structs.replace(d, interval_s=1.0), now=NOW)
    store.change("name2", lambda d: msgspec.structs.replace(d, tags=("a",)), now=NOW)
    assert [c.device.id for c in store.claim(NOW, 9, "here", ttl_s=9)] == ["id1"]


def test_two_who_register_one_name_at_once_do_not_both_win(new_store: Callable[..., Store]) -> None:
    """Of two boards that want a name in the same moment, one gets it and one is told."""
    stores = [new_store(), new_store()]
    for turn in range(20):
        outcomes: list[str] = []
        together = threading.Barrier(2)

        def take(
            number: int, turn: int = turn, together: Any = together, outcomes: Any = outcomes
        ) -> None:
            together.wait()
            try:
                stores[number].add(board(10 * turn + number, f"n{turn}"), reading(), first_due=NOW)
                outcomes.append("won")
            except RegistryConflict:
                outcomes.append("told")

        in_threads(partial(take, 0), partial(take, 1))
        assert sorted(outcomes) == ["told", "won"]
    assert len(stores[0].devices()) == 20


def in_threads(*works: Callable[[], None]) -> None:
    """Runs works at the same time; what one raises is raised here."""
    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


class RegistryMachine(RuleBasedStateMachine):
    """Whatever is registered, renamed and removed in whatever order: the indexes agree."""

    names = Bundle("names")

    def __init__(self) -> None:
        super().__init__()
        self.redis = fakeredis.FakeRedis()
        self.store = Store("redis://fake", client=self.redis)

    def teardown(self) -> None:
        self.store.close()

    @rule(
        target=names,
        number=st.integers(1, 4),
        address=st.integers(1, 4),
        name=st.sampled_from("abcd"),
        replace=st.booleans(),
    )
    def add(self, number: int, address: int, name: str, replace: bool) -> str:
        device = board(number, name, address=f"10.0.0.{address}")
        with suppress(RegistryConflict):
            self.store.add(device, reading(), first_due=NOW, replace=replace)
        return name

    @rule(old=names, new=st.sampled_from("abcd"))
    def rename(self, old: str, new: str) -> None:
        with suppress(RegistryConflict, UnknownDevice):
            self.store.change(old, lambda d: msgspec.structs.replace(d, name=new), now=NOW)

    @rule(name=names, address=st.integers(1, 4))
    def move(self, name: str, address: int) -> None:
        with suppress(UnknownDevice):
            device = self.store.device(name)
            assert self.store.move(device, f"10.0.0.{address}", now=NOW)

    @rule(name=names, address=st.integers(1, 4))
    def readdress(self, name: str, address: int) -> None:
        with suppress(UnknownDevice):
            self.store.change(
                name, lambda d: msgspec.structs.replace(d, address=f"10.0.0.{address}"), now=NOW
            )

    @rule(name=names)
    def remove(self, name: str) -> None:
        with suppress(UnknownDevice):
            self.store.remove(name)

    @invariant()
    def indexes_agree(self) -> None:
        devices = self.store.devices()
        names = {
            name.decode(): i.decode() for name, i in self.redis.hgetall("espnet:names").items()
        }
        assert names == {d.name: d.id for d in devices}
        assert len(names) == len(devices) == len({d.id for d in devices})
        ids = {d.id.encode() for d in devices}
        places = self.redis.zrange("espnet:addresses", 0, -1)
        assert set(places) == {f"{d.address} {d.id}".encode() for d in devices}
        assert set(self.redis.zrange("espnet:due", 0, -1)) == ids
        assert set(self.redis.hkeys("espnet:readings")) == ids
        assert set(self.redis.hkeys("espnet:devices")) == ids


RegistryMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestRegistry = RegistryMachine.TestCase


# --- claim and commit ---------------------------------------------------------------------------


def ids(claims: list[Claim]) -> list[str]:
    return [claim.device.id for claim in claims]


def test_what_is_due_longest_is_claimed_first(store: Store) -> None:
    """Claims come in the order of their dates, up to the limit, and none before its date."""
    register(store, 5)
    assert ids(store.claim(NOW, 9, "here", ttl_s=9)) == []
    first = store.claim(NOW + 0.003, 2, "here", ttl_s=9)
    assert ids(first) == ["id1", "id2"]
    assert [claim.due for claim in first] == pytest.approx([NOW + 0.001, NOW + 0.002], abs=1e-6)
    assert ids(store.claim(NOW + 0.003, 9, "here", ttl_s=9)) == ["id3"]
    assert ids(store.claim(NOW + 1, 9, "here", ttl_s=9)) == ["id4", "id5"]
    assert ids(store.claim(NOW + 1, 0, "here", ttl_s=9)) == []


def test_a_large_fleet_is_claimed_in_batches_and_committed_at_once(store: Store) -> None:
    """More devices than one script takes are no different: each once, none left out."""
    count = 2 * BATCH + 7
    register(store, count)
    claims: list[Claim] = []
    while got := store.claim(NOW + 10, count, "here", ttl_s=60):
        assert len(got) <= BATCH
        claims += got
    assert sorted(ids(claims)) == sorted(f"id{n}" for n in range(1, count + 1))
    assert store.commit([poll(c.grant, batch=batch(2)) for c in claims]) == set()
    queue = store.ledger().queue
    assert (queue.collected, queue.queued) == (2 * count, 2 * count)
    assert store.claim(NOW + 9.9, count, "here", ttl_s=60) == []
    assert len(store.claim(NOW + 10, 9, "here", ttl_s=60)) == 9


def test_a_commit_stores_the_reading_and_the_next_date(store: Store) -> None:
    """A success replaces the reading and ends the fault; a failure leaves the reading as it was."""
    register(store, 1)
    (claim,) = store.claim(NOW + 1, 9, "here", ttl_s=9)
    assert claim.fault is None
    store.commit([poll(claim.grant, reading=None, fault=fault(), next_due=NOW + 2)])
    assert store.view("name1").reading == reading()
    assert store.view("name1").fault == fault()
    (claim,) = store.claim(NOW + 2, 9, "here", ttl_s=9)
    assert claim.fault == fault()
    store.commit([poll(claim.grant, reading=reading(NOW + 2), healed=True, refused=3)])
    assert store.view("name1").reading == reading(NOW + 2)
    assert store.view("name1").fault is None
    assert store.ledger().queue == Queue(refused=3)


def test_a_poll_that_was_given_up_frees_its_device(store: Store) -> None:
    """With neither a reading nor a fault, only the date and the lock change."""
    (device,) = register(store, 1)
    (claim,) = store.claim(NOW + 1, 9, "here", ttl_s=9)
    assert store.commit([Poll(claim.grant, NOW + 1)]) == set()
    assert store.lock_state(device) is None
    assert store.view("name1").reading == reading()
    assert ids(store.claim(NOW + 1, 9, "here", ttl_s=9)) == ["id1"]


def test_the_same_record_is_the_same_object(store: Store) -> None:
    """A device that did not change is decoded once; one that changed is seen at its next claim."""
    register(store, 1)
    seen = []
    for turn in range(3):
        (claim,) = store.claim(NOW + 1, 9, "here", ttl_s=9)
        seen.append(claim.device)
        store.commit([Poll(claim.grant, NOW + 1)])
        if turn == 1:
            store.change("name1", lambda d: msgspec.structs.replace(d, address="x"), now=NOW)
    assert seen[0] is seen[1]
    assert seen[2].address == "x"


def test_a_commit_whose_answer_was_lost_counts_once(store: Store) -> None:
    """Whoever repeats a commit because no answer came changes nothing by it."""
    register(store, 3)
    polls = [poll(c.grant, batch=batch(2)) for c in store.claim(NOW + 1, 9, "here", ttl_s=9)]
    assert store.commit(polls) == set()
    assert store.commit(polls) == {"id1", "id2", "id3"}
    assert store.ledger().queue.collected == store.ledger().queue.queued == 6
    assert store.stream_info()["length"] == 3


def test_a_device_that_was_removed_under_a_poll_is_not_resurrected(
    store: Store, raw: redis.Redis
) -> None:
    """The poll of an unregistered device is void: no reading, no date, no sample."""
    register(store, 2)
    one, two = store.claim(NOW + 1, 9, "here", ttl_s=9)
    store.remove("name1")
    assert store.commit([poll(one.grant, batch=batch(2)), poll(two.grant, batch=batch(2))]) == {
        "id1"
    }
    assert [d.id for d in store.devices()] == ["id2"]
    assert raw.hkeys("espnet:readings") == [b"id2"]
    assert list(store.schedule()) == ["id2"]
    assert store.ledger().queue.collected == store.ledger().queue.queued == 2


def test_a_date_without_a_device_is_cleared_away(store: Store, raw: redis.Redis) -> None:
    """A schedule that names nobody costs one look, not one a second for ever."""
    register(store, 1)
    raw.zadd("espnet:due", {"ghost": NOW - 5})
    assert ids(store.claim(NOW + 1, 1, "here", ttl_s=9)) == ["id1"]
    assert list(store.schedule()) == ["id1"]


def test_an_empty_redis_in_the_middle_of_a_poll_voids_it(store: Store, raw: redis.Redis) -> None:
    """Whoever flushes Redis loses the registry; polls under way do not bring parts of it back."""
    register(store, 2)
    claims = store.claim(NOW + 1, 9, "here", ttl_s=9)
    raw.flushall()
    assert store.commit([poll(c.grant, batch=batch(1)) for c in claims]) == {"id1", "id2"}
    assert raw.keys() == []
    assert store.views() == []
    assert store.claim(NOW + 99, 9, "here", ttl_s=9) == []


def test_collectors_that_claim_are_listed_and_forgotten(store: Store) -> None:
    """A collector is who claimed lately; one that went away is not listed for ever."""
    store.claim(NOW, 9, "a", ttl_s=9)
    store.claim(NOW + 50, 9, "b", ttl_s=9)
    assert store.collectors(NOW + 50, 60) == ["a", "b"]
    assert store.collectors(NOW + 61, 60) == ["b"]
    store.claim(NOW + 4000, 9, "b", ttl_s=9)
    assert store.collectors(NOW + 4000, 1e9) == ["b"]
