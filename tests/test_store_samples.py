"""Laws of the sample stream: who has an entry, when it leaves, and the books about it."""

import random
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
import redis
from test_store import NOW, queue

from espnet.samples import Books, DeadLetter, Queue, Sample
from espnet.store import HELD_S, Entry, Fate, Store

STREAM = "espnet:samples"
#: What an entry takes in the stream beside its batch, in bytes.


def weight(size: int) -> int:
    """What the books say of an entry whose batch has so many bytes (lua/sinks.lua)."""
    return size * 4 // 3 + 64


def sizes(entries: Iterable[Entry]) -> list[int]:
    return [entry.samples for entry in entries]


def accepted(*entries: Entry) -> list[Fate]:
    return [Fate(entry, accepted=entry.samples) for entry in entries]


def letter(number: int = 0, reason: str = "It is not liked.") -> DeadLetter:
    return DeadLetter(Sample("esp32.up", float(number), NOW, ("name:x",)), reason, NOW)


def grow_old(raw: redis.Redis, sink: str, *entries: Entry, idle_s: float = HELD_S) -> None:
    """As if their takers had said nothing for so long."""
    client: Any = raw
    for entry in entries:
        (row,) = client.xpending_range(STREAM, sink, entry.id, entry.id, 1)
        idle_ms, times = int(idle_s * 1000), row["times_delivered"]
        who = row["consumer"]
        client.xclaim(STREAM, sink, who, 0, [entry.id], idle=idle_ms, retrycount=times, justid=True)


def books(store: Store, sink: str = "dd") -> Books:
    return store.ledger().books(sink)


# --- the bounds -----------------------------------------------------------------------------------


def test_past_the_bound_the_oldest_samples_go_and_are_counted(
    new_store: Callable[..., Store],
) -> None:
    """The stream never holds more than its bound, and what left is in all books."""
    store = new_store(max_samples=10)
    store.join("dd", NOW)
    queue(store, 4, 3, 3)
    assert books(store) == Books(collected=10, queued=10)
    queue(store, 2)
    assert books(store) == Books(collected=12, dropped=4, queued=8)
    queue(store, 11)
    assert books(store) == Books(collected=23, dropped=23)
    queue(store, 5)
    assert sizes(store.take("dd", "me", 99)) == [5]
    totals = store.ledger().queue
    assert (totals.collected, totals.dropped, totals.queued) == (28, 23, 5)


def test_a_poll_is_one_entry(store: Store, raw: redis.Redis) -> None:
    """However many samples a poll makes; two polls are two."""
    queue(store, 7, 1)
    assert [int(fields[b"n"]) for _, fields in raw.xrange(STREAM)] == [7, 1]


def test_the_bound_in_bytes_is_as_good_as_the_one_in_samples(
    new_store: Callable[..., Store],
) -> None:
    """Whichever is met first; the bytes are those of the batches, and something for each entry."""
    store = new_store()
    queue(store, 1, 2)
    (one, two) = store._redis.xrange(STREAM)
    small, large = len(one[1][b"batch"]), len(two[1][b"batch"])
    assert store.ledger().queue.bytes == weight(small) + weight(large)
    store = new_store(max_bytes=2 * weight(small))
    queue(store, 1)
    assert store.ledger().queue == Queue(
        collected=4, queued=2, dropped=2, bytes=2 * weight(small)
    ) or store.ledger().queue == Queue(collected=4, queued=1, dropped=3, bytes=weight(small))


def test_the_bound_does_not_take_from_an_uploaders_hands(new_store: Callable[..., Store]) -> None:
    """What is being sent stays until a quarter past the bound; of the others the oldest go."""
    store = new_store(max_samples=20)
    store.join("dd", NOW)
    queue(store, 8, 8)
    held = store.take("dd", "me", 9)
    queue(store, 4)
    queue(store, 3)
    assert books(store) == Books(collected=23, dropped=4, queued=19)
    queue(store, 5)
    assert books(store) == Books(collected=28, dropped=7, queued=21)
    assert store.read_pending("dd", "me", 9) == held
    assert sizes(store.take("dd", "you", 9)) == [5]


def test_an_uploader_that_holds_everything_does_not_undo_the_bound(
    new_store: Callable[..., Store],
) -> None:
    """Beyond a quarter more, the oldest go from anybody's hands."""
    store = new_store(max_samples=20)
    store.join("dd", NOW)
    queue(store, 10, 10)
    one, two = store.take("dd", "me", 9)
    queue(store, 5)
    (three,) = store.take("dd", "me", 9)
    assert books(store).queued == 25
    queue(store, 1)
    assert books(store) == Books(collected=26, dropped=10, queued=16)
    assert store.settle("dd", "me", accepted(one)) == 0
    assert store.read_pending("dd", "me", 9) == [two, three]
    assert books(store) == Books(collected=26, dropped=10, queued=16)


def test_what_was_abandoned_is_in_nobodys_hands(
    new_store: Callable[..., Store], raw: redis.Redis
) -> None:
    """The bound drops what a dead uploader had, and the rest of what it had sent in part is counted."""
    store = new_store(max_samples=20)
    store.join("dd", NOW)
    queue(store, 10, 10)
    one, two = store.take("dd", "gone", 9)
    store.settle("dd", "gone", [Fate(one, accepted=4, fates=b"\1" * 4 + bytes(6))])
    grow_old(raw, "dd", one, two)
    queue(store, 1)
    assert books(store) == Books(collected=21, accepted=4, dropped=6, queued=11)
    assert store.take_over("dd", "me", 9) == [two]


# --- readers --------------------------------------------------------------------------------------


def test_a_new_sink_gets_what_was_queued_before_it(store: Store) -> None:
    """A sink begins at the stream's beginning, and joining twice is no mistake."""
    queue(store, 1, 2)
    assert store.join("dd", NOW)
    assert not store.join("dd", NOW + 1)
    assert books(store) == Books(collected=3, queued=3)
    assert sizes(store.take("dd", "me", 1)) == [1]
    assert sizes(store.take("dd", "you", 9)) == [2]
    assert store.take("dd", "me", 9) == []
    queue(store, 3)
    assert sizes(store.take("dd", "me", 9)) == [3]


def test_the_newest_may_be_taken_first_and_then_the_oldest(store: Store) -> None:
    """A page from either end is in the stream's order, and what lies between them is still there."""
    store.join("dd", NOW)
    queue(store, *range(1, 9))
    assert sizes(store.take("dd", "me", 2, newest_first=True)) == [7, 8]
    queue(store, 9)
    assert sizes(store.take("dd", "me", 2, newest_first=True)) == [6, 9]
    oldest = store.oldest_waiting("dd")
    assert oldest is not None
    assert sizes([oldest]) == [1]
    assert sizes(store.take("dd", "you", 3)) == [1, 2, 3]
    assert sizes(store.take("dd", "me", 9, newest_first=True)) == [4, 5]
    assert store.oldest_waiting("dd") is None
    assert store.take("dd", "me", 9) == []


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_order_each_entry_is_taken_once(store: Store, seed: int) -> None:
    """However many holes are cut into what waits, at both ends, while more comes: none is lost."""
    luck = random.Random(seed)
    store.join("dd", NOW)
    taken: list[int] = []
    queued = 0
    for _ in range(200):
        if luck.random() < 0.4:
            queued += 1
            queue(store, queued)
        else:
            page = store.take(
                "dd", luck.choice("ab"), luck.randint(1, 3), newest_first=luck.random() < 0.8
            )
            assert sizes(page) == sorted(sizes(page))
            taken += sizes(page)
    taken += sizes(store.take("dd", "a", 999))
    assert sorted(taken) == list(range(1, queued + 1))
    assert sorted(
        sizes(store.read_pending("dd", "a", 999) + store.read_pending("dd", "b", 999))
    ) == (sorted(taken))


def test_the_list_of_what_waits_stays_short(store: Store, raw: redis.Redis) -> None:
    """A probe out of the middle leaves one range more; however many there are, their number is bounded."""
    store.join("dd", NOW)
    queue(store, 1)
    for _ in range(100):
        queue(store, 1, 1)
        store.take("dd", "me", 1, newest_first=True)
    assert raw.llen("espnet:waiting:dd") <= 66
    assert len(store.take("dd", "me", 999)) == 101
    assert raw.llen("espnet:waiting:dd") == 1


def test_an_entry_leaves_only_when_it_was_settled(store: Store) -> None:
    """What was taken stays with its taker until it is settled, once, whoever says so again."""
    store.join("dd", NOW)
    queue(store, 1, 2, 3)
    one, two, three = store.take("dd", "me", 9)
    assert store.settle("dd", "me", []) == 0
    assert store.settle("dd", "me", accepted(two)) == 1
    assert store.read_pending("dd", "me", 9) == [one, three]
    assert store.read_pending("dd", "me", 9, after=one.id) == [three]
    assert store.settle("dd", "me", [*accepted(one, two), Fate(three, expired=3)]) == 2
    assert store.settle("dd", "me", accepted(one, two, three)) == 0
    assert books(store) == Books(collected=6, accepted=3, expired=3)
    assert store.read_pending("dd", "me", 9) == []
    assert store.ledger().queue == Queue(collected=6)
    assert store.stream_info()["length"] == 0


def test_two_sinks_do_not_wait_for_each_other(store: Store, raw: redis.Redis) -> None:
    """Each has its own place in the stream and its own books; an entry leaves when both have settled it."""
    store.join("dd", NOW)
    queue(store, 1, 2)
    store.join("file", NOW)
    entries = store.take("dd", "me", 9)
    store.settle("dd", "me", accepted(*entries))
    assert (books(store).accepted, books(store, "file").queued) == (3, 3)
    assert store.stream_info()["length"] == 2
    one, two = store.take("file", "me", 9)
    store.settle("file", "me", [Fate(one, dropped=1)])
    assert sizes(store.read_pending("file", "me", 9)) == [2]
    assert store.stream_info()["length"] == 1
    store.settle("file", "me", accepted(two))
    assert books(store) == Books(collected=3, accepted=3)
    assert books(store, "file") == Books(collected=3, accepted=2, dropped=1)
    assert store.stream_info()["length"] == raw.xlen(STREAM) == 0


def test_an_unfinished_entry_remembers_what_became_of_its_samples(store: Store) -> None:
    """Whoever has it next sends only what is open, and everything is in the books once."""
    store.join("dd", NOW)
    queue(store, 4)
    (entry,) = store.take("dd", "me", 9)
    dead = letter(1)
    assert (
        store.settle("dd", "me", [Fate(entry, accepted=1, letters=(dead,), fates=b"\1\2\0\0")]) == 0
    )
    assert books(store) == Books(collected=4, accepted=1, dead=1, queued=2)
    store.leave("dd", "me")
    (again,) = store.take_over("dd", "you", 9)
    assert again.fates == b"\1\2\0\0"
    assert store.read_pending("dd", "you", 9) == [again]
    assert store.settle("dd", "you", [Fate(again, accepted=2)]) == 1
    assert books(store) == Books(collected=4, accepted=3, dead=1)
    assert store.stream_info()["length"] == 0
    assert not store._redis.exists("espnet:parts:dd")


def test_entries_that_the_bound_dropped_while_they_were_sent_stay_dropped(
    new_store: Callable[..., Store],
) -> None:
    """Settling what was dropped meanwhile counts nothing twice, and nobody holds it any more."""
    store = new_store(max_samples=5)
    store.join("dd", NOW)
    queue(store, 2, 3)
    gone, kept = store.take("dd", "me", 9)
    queue(store, 2)
    assert store.settle("dd", "me", accepted(gone)) == 0
    assert books(store) == Books(collected=7, dropped=2, queued=5)
    assert store.read_pending("dd", "me", 9) == [kept]
    queue(store, 5, 5)
    assert store.read_pending("dd", "me", 9) == []
    assert store.take_over("dd", "me", 9) == []
    assert store.pending("dd") == []


def test_what_cannot_be_read_is_still_an_entry(store: Store, raw: redis.Redis) -> None:
    """Bytes that are no batch, or another number of samples than they say: whoever takes it can end it."""
    store.join("dd", NOW)
    queue(store, 1)
    for number, text in (
        (3, b"rubbish"),
        (2, msgspec.json.encode({"at": 0, "tags": [], "points": []})),
    ):
        raw.xadd(STREAM, {"n": number, "batch": text})
    good, bad, odd = store.take("dd", "me", 9)
    assert (good.batch is None, bad.batch, odd.batch) == (False, None, None)
    assert sizes([bad, odd]) == [3, 2]
    assert (
        store.settle("dd", "me", [Fate(bad, dropped=3), Fate(odd, dropped=2), *accepted(good)]) == 3
    )
    assert store.stream_info()["length"] == 0


def test_entries_that_somebody_deleted_by_hand_are_skipped(store: Store, raw: redis.Redis) -> None:
    """Whatever a person does to the stream, nobody gets an entry that is not there."""
    store.join("dd", NOW)
    queue(store, 1, 2, 3)
    one, two, three = store.take("dd", "me", 9)
    raw.xdel(STREAM, one.id, two.id)
    assert store.read_pending("dd", "me", 1) == [three]
    raw.xdel(STREAM, three.id)
    grow_old(raw, "dd", three)
    assert store.take_over("dd", "you", 9) == []
    assert store.read_pending("dd", "me", 9) == []
    assert store.pending("dd") == []


# --- hands ----------------------------------------------------------------------------------------


def test_what_was_abandoned_is_taken_over_after_its_time(store: Store, raw: redis.Redis) -> None:
    """Nobody takes from the living; a minute after its last word a consumer's entries are anybody's."""
    store.join("dd", NOW)
    queue(store, 1, 2)
    one, two = store.take("dd", "gone", 9)
    assert store.take_over("dd", "me", 9) == []
    grow_old(raw, "dd", one, two, idle_s=HELD_S - 5)
    assert store.take_over("dd", "me", 9) == []
    grow_old(raw, "dd", one, two)
    assert store.take_over("dd", "me", 9) == [one, two]
    assert store.read_pending("dd", "gone", 9) == []
    assert store.take_over("dd", "you", 9) == []
    assert store.settle("dd", "me", accepted(one, two)) == 2


def test_who_reads_on_is_not_replaced(store: Store, raw: redis.Redis) -> None:
    """Reading what one holds, and saying that it is about to be sent, makes it one's own anew."""
    store.join("dd", NOW)
    queue(store, 1, 2)
    one, two = store.take("dd", "me", 9)
    grow_old(raw, "dd", one, two)
    assert store.read_pending("dd", "me", 1) == [one]
    assert store.mark_sent("dd", "me", [two.id]) == {two.id}
    assert store.take_over("dd", "you", 9) == []


def test_what_may_have_been_sent_says_so_to_whoever_takes_it_over(
    store: Store, raw: redis.Redis
) -> None:
    """Between taking and sending nothing can have arrived; between sending and settling it can."""
    store.join("dd", NOW)
    queue(store, 1, 2, 3)
    entries = store.take("dd", "gone", 9)
    assert store.mark_sent("dd", "gone", []) == set()
    assert store.mark_sent("dd", "gone", [entries[1].id]) == {entries[1].id}
    grow_old(raw, "dd", *entries)
    assert store.take_over("dd", "me", 9) == entries
    assert books(store).repeated == 2
    assert store.read_pending("dd", "me", 9) == entries
    assert books(store).repeated == 2


def test_only_whose_an_entry_is_may_send_it(store: Store, raw: redis.Redis) -> None:
    """Who was too slow, or whose entry was dropped or settled, is told so before it sends."""
    store.join("dd", NOW)
    queue(store, 1, 2, 3)
    one, two, three = store.take("dd", "slow", 9)
    grow_old(raw, "dd", one)
    store.take_over("dd", "me", 9)
    assert store.settle("dd", "slow", accepted(one, two)) == 1
    assert store.mark_sent("dd", "slow", [one.id, two.id, three.id]) == {three.id}
    assert store.mark_sent("dd", "me", [one.id]) == {one.id}


def test_what_came_to_nothing_is_anybodys_and_was_not_sent(store: Store) -> None:
    """An uploader whose sink refused everything leaves nothing in doubt, and may have it again itself."""
    store.join("dd", NOW)
    queue(store, 1, 2)
    one, two = store.take("dd", "me", 9)
    store.mark_sent("dd", "me", [one.id, two.id])
    assert store.settle("dd", "me", [Fate(one, fates=bytes(1))]) == 0
    assert store.read_pending("dd", "me", 9, known=[two.id]) == [one, two]
    assert store.settle("dd", "me", [Fate(one, fates=bytes(1))]) == 0
    assert store.take_over("dd", "you", 9) == [one]
    assert books(store).repeated == 0


def test_who_leaves_in_order_is_replaced_at_once_and_forgotten(store: Store) -> None:
    """All that it held, more than one step takes, is free; its name is no longer in the group."""
    store.join("dd", NOW)
    queue(store, *[1] * 501)
    held = store.take("dd", "me", 999)
    store.leave("dd", "me")
    store.leave("dd", "never")
    (row,) = store.pending("dd")
    assert (row["consumer"], row["entries"]) == ("nobody", 501)
    assert row["idle_s"] > 86_000
    assert store.take_over("dd", "you", 999) == held
    assert {row["name"] for row in store._redis.xinfo_consumers(STREAM, "dd")} >= {b"you"}
    assert b"me" not in {row["name"] for row in store._redis.xinfo_consumers(STREAM, "dd")}


def test_who_holds_what_is_told(store: Store) -> None:
    """Each consumer with its entries, however many; before a sink has joined, nobody."""
    store.join("dd", NOW)
    queue(store, *[1] * 3)
    store.take("dd", "me", 1)
    store.take("dd", "you", 2)
    assert [(row["consumer"], row["entries"]) for row in store.pending("dd")] == [
        ("me", 1),
        ("you", 2),
    ]
    assert all(0 <= row["idle_s"] < HELD_S for row in store.pending("dd"))
