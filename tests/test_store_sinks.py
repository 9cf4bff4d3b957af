"""Laws of the sinks' books, dead letters and states: what is told of them, and how they end."""

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis
from test_store import NOW, queue
from test_store_samples import STREAM, accepted, books, grow_old, letter, sizes, weight

from espnet.samples import Books, Queue, SinkState
from espnet.store import HISTORY, MAX_LETTERS, Entry, Fate, SinkBooks, Store


def bury_one(store: Store, reason: str = "It is not liked.", sink: str = "dd") -> None:
    """One sample queued, and made a dead letter."""
    store.join(sink, NOW)
    queue(store, 1)
    (entry,) = store.take(sink, "me", 9)
    store.settle(sink, "me", [Fate(entry, letters=(letter(reason=reason),))])


# --- what is told ---------------------------------------------------------------------------------


def test_the_stream_describes_itself(store: Store) -> None:
    """Before the first sample, too."""
    assert store.stream_info() == {"length": 0, "groups": []}
    assert store.ledger() == (Queue(), ())
    assert store.ledger().books("dd") == Books()
    assert store.oldest_waiting("dd") is None
    store.join("dd", NOW)
    assert store.pending("dd") == []
    assert store.stream_info()["length"] == 0
    queue(store, 1, 2)
    (entry,) = store.take("dd", "me", 1)
    info = store.stream_info()
    assert (info["length"], info["first"]) == (2, entry.id.decode())
    assert (info["groups"][0]["name"], info["groups"][0]["pending"]) == ("dd", 1)


def test_the_ledger_names_every_sink_with_its_state(store: Store) -> None:
    """By name; a sink that never said anything has no state."""
    state = SinkState(
        state="paused", at=NOW, since=NOW - 5, uploader="me", reason="403", status=403
    )
    store.join("file", NOW)
    store.join("dd", NOW)
    store.note_sink("dd", state)
    store.count_repeated("dd", 2)
    assert store.ledger().sinks == (
        SinkBooks("dd", Books(repeated=2), state),
        SinkBooks("file", Books(), None),
    )
    ok = SinkState(state="ok", at=NOW + 1, since=NOW + 1, uploader="you", ok_at=NOW, skew_s=-2.5)
    store.note_sink("dd", ok)
    assert store.ledger().sinks[0].state == ok


def test_what_is_no_number_was_never_collected(store: Store) -> None:
    """A poll without samples is no entry, and nobody's books know of it."""
    store.join("dd", NOW)
    queue(store, 0)
    assert store.stream_info()["length"] == 0
    assert books(store) == Books()


# --- dead letters ---------------------------------------------------------------------------------


def test_a_dead_letter_is_kept_with_the_answer(store: Store) -> None:
    """Oldest first, of all sinks, with what each sink said; the entry itself is settled."""
    bury_one(store, "one")
    bury_one(store, "two", sink="file")
    found = store.letters()
    assert [(row.sink, row.letter) for row in found] == [
        ("dd", letter(reason="one")),
        ("file", letter(reason="two")),
    ]
    assert books(store).dead == books(store, "file").dead == 1
    assert books(store).is_balanced


@pytest.mark.parametrize("fate", ["accepted", "expired", "dropped"])
def test_a_dead_letter_ends_once(store: Store, fate: Any) -> None:
    """It leaves the books' dead for what became of it, whoever else ends it at the same time."""
    bury_one(store)
    bury_one(store)
    one, two = store.letters()
    assert store.bury(fate, []) == 0
    assert store.bury(fate, [one.id, one.id, "1-1"]) == 1
    assert store.bury(fate, [one.id]) == 0
    assert store.letters() == [two]
    assert getattr(books(store), fate) == books(store).dead == 1
    assert books(store).is_balanced


def test_past_their_bound_the_oldest_dead_letters_go_and_are_counted(store: Store) -> None:
    """A sink that refuses everything for ever does not fill Redis."""
    bury_one(store, "old", sink="file")
    store.join("dd", NOW)
    queue(store, MAX_LETTERS + 1)
    (entry,) = store.take("dd", "me", 9)
    assert entry.batch is not None
    store.settle("dd", "me", [Fate(entry, letters=tuple(letter(n) for n in range(entry.samples)))])
    found = store.letters()
    assert len(found) == MAX_LETTERS
    assert (found[0].sink, found[0].letter) == ("dd", letter(1))
    assert books(store, "file").dropped == 1
    assert (books(store).dead, books(store).dropped) == (MAX_LETTERS, 1)
    assert books(store).is_balanced


def test_a_letter_of_a_settled_entry_is_nobodys_twice(store: Store) -> None:
    """Two that settle the same entry leave one letter."""
    store.join("dd", NOW)
    queue(store, 1)
    (entry,) = store.take("dd", "me", 9)
    fates = [Fate(entry, letters=(letter(),))]
    assert [store.settle("dd", "me", fates), store.settle("dd", "me", fates)] == [1, 0]
    assert [row.letter for row in store.letters()] == [letter()]


# --- ends -----------------------------------------------------------------------------------------


def test_a_forgotten_sink_leaves_nothing_behind(store: Store, raw: redis.Redis) -> None:
    """Books, state, dead letters, what it held and what only it waited for: no key names it any more."""
    store.join("dd", NOW)
    queue(store, 1, 2, 3)
    store.join("file", NOW)
    one, two, _ = store.take("file", "me", 2) + store.take("dd", "me", 1)
    store.settle("file", "me", [Fate(one, letters=(letter(),))])
    store.settle("file", "me", [Fate(two, accepted=1, fates=b"\1\0")])
    store.note_sink("file", SinkState(state="ok", at=NOW, since=NOW, uploader="me"))
    assert store.forget_sink("file")
    assert not store.forget_sink("file")
    assert store.letters() == []
    assert [sink.name for sink in store.ledger().sinks] == ["dd"]
    assert not [key for key in raw.scan_iter() if b"file" in key]
    assert not raw.hexists("espnet:sink_states", "file")
    assert books(store) == Books(collected=6, queued=6)
    assert store.stream_info()["length"] == 3


def test_what_only_a_forgotten_sink_waited_for_goes_with_it(store: Store, raw: redis.Redis) -> None:
    """However much it is; what others still want stays, and the queue's own books are right."""
    store.join("dd", NOW)
    store.join("file", NOW)
    queue(store, *[1] * 501, 2)
    entries = store.take("dd", "me", 999)
    store.settle("dd", "me", accepted(*entries[:-1]))
    assert store.stream_info()["length"] == 502
    assert store.forget_sink("file")
    assert store.stream_info()["length"] == 1
    assert store.read_pending("dd", "me", 9) == entries[-1:]
    left = store.ledger().queue
    assert (left.collected, left.queued) == (503, 2)
    assert left.bytes == weight(entries[-1].size)


def test_the_last_sink_that_is_forgotten_leaves_the_samples(store: Store) -> None:
    """The next one gets them: nobody's word alone throws a queue away."""
    store.join("dd", NOW)
    queue(store, 1, 2)
    (entry,) = store.take("dd", "me", 1)
    store.settle("dd", "me", accepted(entry))
    assert store.forget_sink("dd")
    assert store.ledger() == (store.ledger().queue, ())
    assert store.ledger().queue.queued == 2
    assert store.join("other", NOW)
    assert books(store, "other") == Books(collected=2, queued=2)
    assert sizes(store.take("other", "me", 9)) == [2]


def test_the_history_alone_does_not_use_samples_up(store: Store) -> None:
    """With no sink that sends them anywhere they are kept for one to come, unless nobody wants that."""
    store.join(HISTORY, NOW)
    queue(store, 1, 2)
    one, two = store.take(HISTORY, "me", 9)
    assert store.settle(HISTORY, "me", accepted(one)) == 1
    assert store.stream_info()["length"] == 2
    assert store.settle(HISTORY, "me", accepted(two), keep=False) == 1
    assert store.stream_info()["length"] == 1
    store.join("dd", NOW)
    assert books(store) == Books(collected=1, queued=1)
    queue(store, 3)
    store.settle("dd", "me", accepted(*store.take("dd", "me", 9)))
    assert sizes(store.take(HISTORY, "me", 9)) == [3]
    assert store.forget_sink("dd")
    assert store.stream_info()["length"] == 1


def test_a_stream_that_was_taken_away_is_in_the_books_as_dropped(
    store: Store, raw: redis.Redis
) -> None:
    """Whoever deletes the key loses what was in it: that is counted, and everything goes on."""
    store.join("dd", NOW)
    queue(store, 1, 2)
    store.take("dd", "me", 1)
    raw.delete(STREAM)
    assert not store.join("dd", NOW)
    assert books(store) == Books(collected=3, dropped=3)
    assert (store.ledger().queue.queued, store.ledger().queue.bytes) == (0, 0)
    queue(store, 4)
    assert books(store) == Books(collected=7, dropped=3, queued=4)
    assert sizes(store.take("dd", "me", 9)) == [4]


# --- at every instant -----------------------------------------------------------------------------


class Model:
    """What should be true of one sink: the open samples of each entry that it waits for."""

    def __init__(self, store: Store, sink: str) -> None:
        self.store, self.sink = store, sink
        self.open: dict[bytes, int] = {}
        self.books = dict.fromkeys(("collected", "accepted", "expired", "dead", "dropped"), 0)
        self.held: dict[bytes, tuple[str, Entry]] = {}

    def queued(self, entry_id: bytes, samples: int) -> None:
        self.open[entry_id] = samples
        self.books["collected"] += samples

    def hold(self, who: str, entries: list[Entry]) -> None:
        for entry in entries:
            assert (entry.fates or bytes(entry.samples)).count(0) == self.open[entry.id]
            self.held[entry.id] = (who, entry)

    def leave(self, who: str) -> None:
        self.store.leave(self.sink, who)
        self.held = {key: held for key, held in self.held.items() if held[0] != who}

    def settle(self, luck: random.Random, who: str, entry: Entry) -> None:
        """Some or all of what is open gets a fate, at random."""
        known = bytearray(entry.fates or bytes(entry.samples))
        places = [place for place, fate in enumerate(known) if not fate]
        some = places[: luck.randint(0, len(places))] if luck.random() < 0.4 else places
        counts = {"accepted": 0, "expired": 0, "dropped": 0, "dead": 0}
        for place in some:
            end = luck.choice([*counts])
            counts[end] += 1
            known[place] = 2 if end == "dead" else 1
        letters = tuple(letter(n) for n in range(counts.pop("dead")))
        fates = bytes(known) if 0 in known else b""
        fate = Fate(entry, **counts, letters=letters, fates=fates)
        done = self.store.settle(self.sink, who, [fate])
        if entry.id not in self.open:  # the bound has dropped it
            assert not done
            return
        assert done == (not fates)
        for name, count in {**counts, "dead": len(letters)}.items():
            self.books[name] += count
        self.open[entry.id] -= len(some)
        if not fates:
            del self.open[entry.id]
        else:
            self.held[entry.id] = (who, msgspec.structs.replace(entry, fates=fates))

    def check(self, in_stream: set[bytes]) -> None:
        for entry_id in set(self.open) - in_stream:
            self.books["dropped"] += self.open.pop(entry_id)
        expected = Books(**self.books, queued=sum(self.open.values()))
        assert expected.is_balanced
        assert self.store.ledger().books(self.sink) == expected


@pytest.mark.parametrize("seed", range(6))
def test_the_books_balance_after_every_step(
    new_store: Callable[..., Store], raw: redis.Redis, seed: int
) -> None:
    """Two sinks, two uploaders each, a small bound: after each step each sink's books are exactly what
    became of its samples, and the queue's are what lies in the stream."""
    luck = random.Random(seed)
    store = new_store(max_samples=60)
    models = {sink: Model(store, sink) for sink in ("dd", "file")}
    for sink in models:
        store.join(sink, NOW)
    collected = 0
    for _ in range(250):
        model, who = models[luck.choice(["dd", "file"])], luck.choice("ab")
        match luck.choice(["queue"] * 4 + ["take"] * 3 + ["settle"] * 5 + ["other"] * 2):
            case "queue":
                size = luck.randrange(8)
                before = {row[0] for row in raw.xrange(STREAM)}
                queue(store, size)
                for entry_id, fields in raw.xrange(STREAM):
                    if entry_id not in before:
                        for each in models.values():
                            each.queued(entry_id, int(fields[b"n"]))
                collected += size
            case "take":
                is_newest = luck.random() < 0.5
                found = store.take(model.sink, who, luck.randint(1, 4), newest_first=is_newest)
                model.hold(who, found)
            case "settle" if model.held:
                model.settle(luck, *model.held.pop(luck.choice([*model.held])))
            case "other":
                match luck.randrange(4):
                    case 0:
                        model.hold(who, store.read_pending(model.sink, who, 9))
                    case 1:
                        model.hold(who, store.take_over(model.sink, who, 9))
                    case 2:
                        model.leave(who)
                    case _:
                        rows = store._redis.xpending_range(STREAM, model.sink, "-", "+", 9)
                        gone = [
                            e
                            for _, e in model.held.values()
                            if e.id in {r["message_id"] for r in rows}
                        ]
                        grow_old(raw, model.sink, *gone)
        rows = raw.xrange(STREAM)
        for each in models.values():
            each.check({row[0] for row in rows})
        totals = store.ledger().queue
        assert totals.collected == collected
        assert totals.queued == sum(int(fields[b"n"]) for _, fields in rows) <= 1.25 * 60
        assert totals.bytes == sum(weight(len(fields[b"batch"])) for _, fields in rows)
