"""Laws of `espnet.store`: the registry, the schedule, the stream and its books (locks: test_locks)."""

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Any

import fakeredis
import msgspec
import pytest
import redis
from board_wire import eventually, status_body
from conftest import RedisProcess
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from espnet.errors import EspNetError, RegistryConflict, StoreUnavailable, UnknownDevice
from espnet.model import Books, Device, Fault, Reading, SampleBatch
from espnet.store import BATCH, Claim, Entry, Grant, Poll, Store
from espnet.store.history import Packing, Row, State

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


def balanced(books: Books) -> bool:
    return books.collected == books.accepted + books.dropped + books.queued


@pytest.fixture
def registry() -> Iterator[Store]:
    """For laws without scripts, without a server."""
    with closing(Store("redis://fake", client=fakeredis.FakeRedis())) as store:
        yield store


@pytest.fixture
def raw(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def new_store(redis_url: str) -> Iterator[Callable[..., Store]]:
    stores: list[Store] = []

    def new(**more: Any) -> Store:
        stores.append(Store(redis_url, **more))
        return stores[-1]

    yield new
    for store in stores:
        store.close()


@pytest.fixture
def store(new_store: Callable[..., Store]) -> Store:
    return new_store()


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
    assert set(left) == set(unaware) | {b"espnet:fence", b"espnet:collectors", b"espnet:lock:id1"}
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
    assert store.books() == Books(collected=2 * count, queued=2 * count)
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
    assert store.books() == Books(refused=3)


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
    assert store.books() == Books(collected=6, queued=6)
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
    assert raw.hkeys("espnet:readings") == raw.zrange("espnet:due", 0, -1) == [b"id2"]
    assert store.books() == Books(collected=2, queued=2)


def test_a_date_without_a_device_is_cleared_away(store: Store, raw: redis.Redis) -> None:
    """A schedule that names nobody costs one look, not one a second for ever."""
    register(store, 1)
    raw.zadd("espnet:due", {"ghost": NOW - 5})
    assert ids(store.claim(NOW + 1, 1, "here", ttl_s=9)) == ["id1"]
    assert raw.zrange("espnet:due", 0, -1) == [b"id1"]


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


# --- samples ------------------------------------------------------------------------------------


def queue(store: Store, *sizes: int) -> None:
    """One poll of a fresh device for each size, committed in this order."""
    for size in sizes:
        store.add(board(99), reading(), first_due=NOW, replace=True)
        (claim,) = store.claim(NOW, 1, "here", ttl_s=9)
        assert store.commit([poll(claim.grant, batch=batch(size))]) == set()


def sizes(entries: list[Entry]) -> list[int]:
    return [len(entry.batch.points) for entry in entries]


def test_past_the_bound_the_oldest_samples_go_and_are_counted(
    new_store: Callable[..., Store],
) -> None:
    """The stream never holds more than its bound, and what left is in the books."""
    store = new_store(max_samples=10)
    store.create_group("dd")
    queue(store, 4, 3, 3)
    assert store.books() == Books(collected=10, queued=10)
    queue(store, 2)
    assert store.books() == Books(collected=12, dropped=4, queued=8)
    queue(store, 11)
    assert store.books() == Books(collected=23, dropped=23)
    queue(store, 5)
    assert sizes(store.read_new("dd", "me", 99)) == [5]


def test_a_new_sink_gets_what_was_queued_before_it(store: Store) -> None:
    """A group begins at the stream's beginning, and making it twice is no mistake."""
    queue(store, 1, 2)
    assert store.create_group("dd")
    assert not store.create_group("dd")
    assert sizes(store.read_new("dd", "me", 1)) == [1]
    assert sizes(store.read_new("dd", "you", 9)) == [2]
    assert store.read_new("dd", "me", 9) == []


def test_an_entry_leaves_only_when_it_was_accepted(store: Store) -> None:
    """What was read stays with its reader until it is accepted, once, whoever says so again."""
    store.create_group("dd")
    queue(store, 1, 2, 3)
    one, two, three = store.read_new("dd", "me", 9)
    assert store.accept("dd", []) == 0
    assert store.accept("dd", [two]) == 2
    assert store.read_pending("dd", "me", 9) == [one, three]
    assert store.read_pending("dd", "me", 9, after=one.id) == [three]
    assert store.accept("dd", [one, two, three]) == 4
    assert store.accept("dd", [one, two, three]) == 0
    assert store.books() == Books(collected=6, accepted=6)
    assert store.read_pending("dd", "me", 9) == []
    assert store.stream_info()["length"] == 0


def test_entries_that_the_bound_dropped_while_they_were_sent_stay_dropped(
    new_store: Callable[..., Store],
) -> None:
    """Accepting what was dropped meanwhile counts nothing twice, and nobody holds it any more."""
    store = new_store(max_samples=5)
    store.create_group("dd")
    queue(store, 2, 3)
    gone, kept = store.read_new("dd", "me", 9)
    queue(store, 1)
    assert store.accept("dd", [gone]) == 0
    assert store.books() == Books(collected=6, dropped=2, queued=4)
    assert store.read_pending("dd", "me", 9) == [kept]
    queue(store, 5)
    assert store.read_pending("dd", "me", 9) == []
    assert store.take_over("dd", "me", 0, 9) == []
    assert store.stream_info()["groups"][0]["pending"] == 0


def test_abandoned_entries_are_taken_over_and_handed_back_ones_at_once(store: Store) -> None:
    """Who dies is replaced after a while; who leaves in order, at once. Nobody takes from the living."""
    store.create_group("dd")
    queue(store, 1, 2)
    entries = store.read_new("dd", "gone", 9)
    assert store.take_over("dd", "me", 60, 9) == []
    assert store.hand_back("dd", "gone") == 2
    assert store.hand_back("dd", "nobody") == 0
    assert store.take_over("dd", "me", 60, 9) == entries
    assert store.read_pending("dd", "gone", 9) == []
    assert store.take_over("dd", "you", 60, 9) == []
    assert store.accept("dd", entries) == 3


def test_the_stream_describes_itself(store: Store) -> None:
    """Before the first sample, too."""
    assert store.stream_info() == {"length": 0, "groups": []}
    store.create_group("dd")
    assert store.stream_info()["length"] == 0
    queue(store, 1, 2)
    (entry, _) = store.read_new("dd", "me", 9)
    info = store.stream_info()
    assert (info["length"], info["first"]) == (2, entry.id.decode())
    assert (info["groups"][0]["name"], info["groups"][0]["pending"]) == ("dd", 2)


@pytest.mark.parametrize("seed", range(5))
def test_the_books_balance_after_every_step(new_store: Callable[..., Store], seed: int) -> None:
    """collected == accepted + dropped + queued, and queued is what the stream holds, always."""
    luck = random.Random(seed)
    store = new_store(max_samples=25)
    store.create_group("dd")
    held: list[Entry] = []
    total = 0
    for _ in range(150):
        step = luck.random()
        if step < 0.5:
            size = luck.randrange(8)
            queue(store, size)
            total += size
        elif step < 0.7:
            held += store.read_new("dd", luck.choice("ab"), luck.randint(1, 4))
        elif step < 0.8:
            held += store.take_over("dd", luck.choice("ab"), 0, luck.randint(1, 4))
        elif step < 0.9:
            held += store.read_pending("dd", luck.choice("ab"), luck.randint(1, 4))
        else:
            luck.shuffle(held)
            done, held = held[:3], held[3:]
            store.accept("dd", done)
        books = store.books()
        assert balanced(books)
        assert books.collected == total
        assert books.queued <= 25
        in_stream = store._redis.xrange("espnet:samples")
        assert books.queued == sum(int(fields[b"n"]) for _, fields in in_stream)


# --- Redis is not there, or not well --------------------------------------------------------------

DEVICE = board(1)
GRANT = Grant("id1", "here:1", 1)


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
    "change": lambda s: s.change("name1", lambda d: msgspec.structs.replace(d, name="x"), now=NOW),
    "remove": lambda s: s.remove("name1"),
    "jobs": lambda s: s.jobs(DEVICE),
    "memory": lambda s: s.memory(DEVICE),
    "all_jobs": Store.all_jobs,
    "change_jobs": lambda s: s.change_jobs("name1", lambda _, jobs: jobs, now=NOW),
    "readings": lambda s: s.readings(["name1"]),
    "foreign": lambda s: s.foreign([("outside", "")]),
    "lift_fence": lambda s: s.lift_fence(GRANT, 9),
    "wake": lambda s: s.wake(["id1"], NOW),
    "claim_under": lambda s: s.claim_under(GRANT, "name1", NOW),
    "hold": _hold,
    "lock_state": lambda s: s.lock_state(DEVICE),
    "claim": lambda s: s.claim(NOW + 9, 9, "here", ttl_s=9),
    "commit": lambda s: s.commit([poll(GRANT, batch=batch(2), refused=1)]),
    "collectors": lambda s: s.collectors(NOW, 60),
    "books": Store.books,
    "create_group": lambda s: s.create_group("new"),
    "read_pending": lambda s: s.read_pending("dd", "me", 9),
    "read_new": lambda s: s.read_new("dd", "me", 9),
    "take_over": lambda s: s.take_over("dd", "me", 0, 9),
    "accept": lambda s: s.accept("dd", [Entry(b"1-1", batch(1))]),
    "hand_back": lambda s: s.hand_back("dd", "me"),
    "stream_info": Store.stream_info,
    "device_count": Store.device_count,
    "append_history": lambda s: s.append_history([Row(Entry(b"1-1", batch(1)), "id1", NOW, {}, 9)]),
    "tails": lambda s: s.tails(["id1"]),
    "seal": lambda s: s.seal([Packing("id1", State(b""), 9)], NOW),
    "past": lambda s: s.past("id1"),
    "history_states": lambda s: s.history_states(0, 9),
    "history_reach": lambda s: s.history_reach(NOW),
}


def test_every_operation_is_held_to_these_laws() -> None:
    """A new method of the store is added to the list above, or this fails."""
    public = {name for name in dir(Store) if not name.startswith("_")}
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
    if operation in ("ping", "server_info", "foreign"):  # foreign keys may hold anything
        return
    keys = ("devices", "names", "due", "readings", "faults", "fence", "collectors", "samples")
    for key in (*keys, "books", "lock:id1", "jobs", "memory", "jobs_version", "history"):
        raw.lpush(f"espnet:{key}", "not ours")
    if operation == "commit":
        raw.set("espnet:lock:id1", GRANT.token)
    assert "refused a command" in refused_by(store, operation)


WRITES = ("add", "claim", "create_group", "hold")


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
    with closing(Store(own_redis.url, timeout_s=0.1)) as store:
        register(store, 1)
        own_redis.pause()
        for operation in ("claim", "views", "add", "hold"):
            assert "does not answer" in refused_by(store, operation)
        own_redis.resume()
        eventually(lambda: len(store.views()) == 1)


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
