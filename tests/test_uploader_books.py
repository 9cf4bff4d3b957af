"""Several sinks on one stream, the bounds, and dead letters."""

from collections.abc import Iterator
from typing import Any

import pytest
from far_end import BUSY, DENIED, FarEnd, Rig, Say

from espnet.samples import Books, DeadLetter, Queue, Sample
from espnet.sinks import Verdict
from espnet.store import Entry, Fate
from espnet.uploader import SUSPICIOUS, Drained


@pytest.fixture
def rig(redis_url: str) -> Iterator[Rig]:
    rig = Rig(redis_url)
    yield rig
    rig.close()


# --- several sinks --------------------------------------------------------------------------------


def test_an_entry_leaves_when_the_last_sink_settled_it(rig: Rig) -> None:
    """Two sinks, each with books of its own: what one has, stays for the other, and then goes."""
    values = rig.queue(5)
    one, two = FarEnd(name="one"), FarEnd(name="two")
    first, second = rig.uploader(one), rig.uploader(two)
    rig.store.join("two", 0)
    rig.drain(first)
    assert rig.raw.xlen("espnet:samples") == 5
    assert rig.books("one") == Books(collected=15, accepted=15)
    assert rig.books("two") == Books(collected=15, queued=15)
    rig.drain(second)
    assert rig.raw.xlen("espnet:samples") == 0
    assert one.order == two.order == values
    assert rig.store.ledger().queue == Queue(collected=15)


def test_a_sink_that_fails_for_ever_does_not_disturb_the_other(rig: Rig) -> None:
    """One is away, one refuses some, one is denied: the fourth has everything at once, and the books of
    each are its own."""
    sinks = [
        FarEnd(name="away", always=BUSY),
        FarEnd(name="denied", always=DENIED),
        FarEnd(name="choosy"),
        FarEnd(name="well"),
    ]
    uploaders = [rig.uploader(sink) for sink in sinks]
    collected = 0
    for round_ in range(6):
        values = rig.queue(4)
        sinks[2].guilty.add(values[round_])
        collected += 12
        for uploader in uploaders:
            uploader.drain(rig.clock.now())
            rig.audit()
        assert rig.books("well") == Books(collected=collected, accepted=collected)
        rig.clock.advance(10)
    assert rig.books("away") == rig.books("denied") == Books(collected=72, queued=72)
    assert rig.books("choosy") == Books(collected=72, accepted=66, dead=6)
    assert rig.raw.xlen("espnet:samples") == 24


def test_a_sink_that_joins_late_has_what_is_there(rig: Rig) -> None:
    """It is to have what waits in the stream, and what comes; what left before is not its own."""
    one, two = FarEnd(name="one"), FarEnd(name="two")
    first, second = rig.uploader(one), rig.uploader(two)
    rig.queue(2)
    rig.drain(first)
    one.answers.append(BUSY._replace(taken=4))
    waiting = rig.queue(2)
    rig.drain(first)
    assert rig.books("one") == Books(collected=12, accepted=10, queued=2)
    rig.drain(second)
    coming = rig.queue(1)
    rig.drain(second)
    rig.drain(first)
    assert two.order == waiting[3:] + coming
    assert rig.books("two") == Books(collected=6, accepted=6)
    assert rig.books("one") == Books(collected=15, accepted=15)


def test_a_sink_that_is_forgotten_lets_go(rig: Rig) -> None:
    """What only it waited for leaves, what another waits for stays; its books, its letters and its state
    are gone, and when it comes again it is new."""
    one, two = FarEnd(name="one"), FarEnd(name="two")
    first, second = rig.uploader(one), rig.uploader(two)
    rig.store.join("two", 0)
    values = rig.queue(3)
    one.guilty.add(values[5])
    rig.drain(first)
    rig.drain(second)
    one.answers.append(BUSY._replace(taken=1))
    rig.queue(2)
    rig.drain(first)
    assert rig.books("one") == Books(collected=15, accepted=9, dead=1, queued=5)
    assert rig.store.forget_sink("one")
    rig.audit()
    assert rig.raw.xlen("espnet:samples") == 2
    assert not rig.store.letters()
    assert not rig.raw.keys("espnet:*:one")
    assert not rig.store.forget_sink("one")
    # Its uploader knows nothing of it, and does no harm to the next one's books.
    rig.drain(first)
    assert rig.books("one") == Books(collected=6, accepted=6)


def test_the_last_sink_leaves_samples_to_the_next(rig: Rig) -> None:
    """Nothing is thrown away while there is no sink."""
    rig.drain(rig.uploader(FarEnd(BUSY, name="one")))
    values = rig.queue(3)
    rig.store.forget_sink("one")
    two = FarEnd(name="two")
    rig.drain(rig.uploader(two))
    assert two.order == values


def test_what_is_settled_for_a_sink_that_was_forgotten_meanwhile_is_nothing(rig: Rig) -> None:
    """Forgotten during its request: no book of it comes back."""
    rig.queue(2)
    sink = FarEnd(BUSY._replace(taken=2, is_unsure=True))
    sink.after = lambda: rig.store.forget_sink("sink")
    rig.uploader(sink).drain(rig.clock.now())
    rig.audit()
    assert not rig.raw.exists("espnet:books:sink")
    sink.after = lambda: None
    rig.drain(rig.uploader(sink, "two"))
    assert rig.books() == Books(collected=6, accepted=6)


def test_a_sink_that_comes_again_begins_with_empty_books(rig: Rig) -> None:
    """Forgotten while its letters were sent again: what was booked afterwards is not the new one's."""
    sink = FarEnd()
    letters_of(rig, sink)
    sink.after = lambda: rig.store.forget_sink("sink")
    rig.uploader(sink).retry(rig.store.letters(), rig.clock.now())
    sink.after = lambda: None
    rig.queue(1)
    rig.drain(rig.uploader(sink, "two"))
    assert rig.books() == Books(collected=3, accepted=3)


def test_what_is_given_back_with_its_mark_is_counted(rig: Rig) -> None:
    """A mark is taken away only by who knows what came of it, not by an orderly stop."""
    rig.queue(2)
    store = rig.store
    store.join("sink", 0)
    entries = store.take("sink", "one", 2)
    store.mark_sent("sink", "one", [entries[0].id])
    store.leave("sink", "one")
    rig.drain(rig.uploader(FarEnd(), "two"))
    assert rig.books() == Books(collected=6, accepted=6, repeated=3)


def test_the_history_alone_uses_nothing_up(rig: Rig) -> None:
    """With the history as the only reader, samples are kept for a sink to come; then they go."""
    values = rig.queue(3)
    store = rig.store
    store.join("history", 0)
    entries = store.take("history", "one", 10)
    fates = [Fate(entry, accepted=entry.samples) for entry in entries]
    assert store.settle("history", "one", fates) == 3
    assert rig.raw.xlen("espnet:samples") == 3
    rig.audit()
    sink = FarEnd()
    rig.drain(rig.uploader(sink))
    assert sink.order == values
    assert rig.raw.xlen("espnet:samples") == 0


# --- bounds ---------------------------------------------------------------------------------------


def test_the_bound_in_samples_drops_the_oldest(redis_url: str) -> None:
    """Past it the oldest go, for all sinks at once, and are counted for each that waited for them."""
    rig = Rig(redis_url, max_samples=30)
    rig.store.join("late", 0)
    sink = FarEnd()
    uploader = rig.uploader(sink)
    rig.drain(uploader)
    rig.queue(4)
    rig.drain(uploader)
    values = [value for _ in range(10) for value in rig.queue(2)]
    assert rig.store.ledger().queue == Queue(
        collected=72, queued=30, dropped=42, bytes=rig.store.ledger().queue.bytes
    )
    rig.drain(uploader)
    assert sink.order[12:] == values[-30:]
    assert rig.books() == Books(collected=72, accepted=42, dropped=30)
    assert rig.books("late") == Books(collected=72, dropped=42, queued=30)
    rig.close()


def test_the_bound_in_bytes_drops_the_oldest(redis_url: str) -> None:
    """Long tags count: the bytes of the stream are bounded as well as its samples."""
    rig = Rig(redis_url, max_bytes=5_000)
    sink = FarEnd()
    uploader = rig.uploader(sink)
    rig.drain(uploader)
    for _ in range(10):
        rig.queue(5, device="x" * 100)
        assert rig.store.ledger().queue.bytes <= 5_000
    rig.drain(uploader)
    books = rig.books()
    assert books.accepted == sink.got.total() < books.collected == 150
    assert books.dropped == 150 - books.accepted
    rig.close()


def test_the_bound_spares_what_is_being_sent(redis_url: str) -> None:
    """What an uploader has in its hands is dropped only when the bound is exceeded by a quarter; what goes
    under its hands is dropped in the books, whatever the sink said meanwhile."""
    rig = Rig(redis_url, max_samples=40)
    values = rig.queue(4)
    sink = FarEnd()
    sink.after = lambda: rig.queue(10)
    uploader = rig.uploader(sink, stop=lambda: bool(sink.sends))
    rig.drain(uploader)
    assert sink.order == values
    assert rig.books() == Books(collected=42, accepted=12, queued=30)

    sink = FarEnd(name="other")
    sink.after = lambda: [rig.queue(5) for _ in range(4)]
    uploader = rig.uploader(sink, stop=lambda: bool(sink.sends))
    rig.drain(uploader)
    assert len(sink.order) == 12
    assert rig.books("other").accepted == 0
    assert rig.books("other").queued <= 40
    rig.close()


def test_a_half_delivered_entry_is_dropped_by_half(redis_url: str) -> None:
    """What the sink has of it stays accepted; only the rest is dropped."""
    rig = Rig(redis_url, max_samples=10)
    rig.queue(1, points=8)
    sink = FarEnd(BUSY._replace(taken=5))
    uploader = rig.uploader(sink)
    rig.drain(uploader)
    rig.queue(1, points=8)
    assert rig.books() == Books(collected=16, accepted=5, dropped=3, queued=8)
    rig.drain(uploader)
    assert rig.books() == Books(collected=16, accepted=13, dropped=3)
    rig.close()


# --- dead letters ---------------------------------------------------------------------------------


def letters_of(rig: Rig, sink: FarEnd, polls: int = 4) -> list[float]:
    """Some polls, all of whose samples are refused; they are refused no more afterwards."""
    values = rig.queue(polls)
    sink.guilty.update(values)
    assert rig.drain(rig.uploader(sink)).dead == len(values)
    sink.guilty.clear()
    return values


def test_a_retry_ends_what_is_taken_now(rig: Rig) -> None:
    """Letters that the sink takes are accepted, those that it refuses again stay, those that are too old by
    now are expired, and those that are still in the future stay."""
    sink = FarEnd()
    rig.queue(1, ago_s=-700)
    rig.drain(rig.uploader(sink))
    old = letters_of(rig, sink, 1)
    rig.clock.advance(50)
    young = letters_of(rig, sink, 2)
    rig.clock.advance(3590)
    sink.guilty.add(young[2])
    sink.future_s = -3000.0  # as if the first poll were still ahead
    del old
    sink.future_s = 600.0
    done = rig.uploader(sink).retry(rig.store.letters(), rig.clock.now())
    rig.audit()
    assert done == Drained(accepted=8, expired=3, dead=1)
    assert rig.books() == Books(collected=12, accepted=8, expired=3, dead=1)


def test_a_retry_leaves_the_future_alone(rig: Rig) -> None:
    """A letter that is from the future still is not sent: the far end would lose it."""
    sink = FarEnd()
    rig.queue(1, ago_s=-700)
    rig.drain(rig.uploader(sink))
    uploader = rig.uploader(sink)
    assert uploader.retry(rig.store.letters(), rig.clock.now()) == Drained(dead=3)
    assert not sink.sends
    rig.clock.advance(100)
    assert uploader.retry(rig.store.letters(), rig.clock.now()) == Drained(3)
    rig.audit()
    assert rig.books() == Books(collected=3, accepted=3)


def test_two_retries_at_once_are_counted(rig: Rig) -> None:
    """Both send all letters: each letter is accepted once in the books, and repeated once."""
    sink = FarEnd()
    values = letters_of(rig, sink)
    letters = rig.store.letters()
    other: Any = rig.uploader(sink, "two")

    def meanwhile() -> None:
        sink.after = lambda: None
        assert other.retry(letters, rig.clock.now()) == Drained(12)

    sink.after = meanwhile
    assert rig.uploader(sink).retry(letters, rig.clock.now()) == Drained()
    assert sink.order == values * 2
    assert rig.books() == Books(collected=12, accepted=12, repeated=12)
    rig.audit()


def test_a_retry_that_fails_keeps_the_letters(rig: Rig) -> None:
    """Not now, or unsure: the letters stay; only what may have arrived is counted."""
    sink = FarEnd()
    letters_of(rig, sink)
    sink.answers.append(Say(Verdict.BUSY, taken=2, is_unsure=True))
    done = rig.uploader(sink).retry(rig.store.letters(), rig.clock.now())
    rig.audit()
    assert (done.accepted, done.stopped.verdict) == (2, Verdict.BUSY)
    assert rig.books() == Books(collected=12, accepted=2, dead=10, repeated=10)


def test_a_retry_that_dies_is_counted(rig: Rig) -> None:
    """Killed after the sink had them: the letters are there, and may come twice."""
    sink = FarEnd()
    letters_of(rig, sink)

    class Died(BaseException):
        pass

    def die() -> None:
        raise Died

    sink.after = die
    with pytest.raises(Died):
        rig.uploader(sink).retry(rig.store.letters(), rig.clock.now())
    sink.after = lambda: None
    assert rig.uploader(sink).retry(rig.store.letters(), rig.clock.now()) == Drained(12)
    assert max(sink.got.values()) == 2
    assert rig.books() == Books(collected=12, accepted=12, repeated=12)


def test_a_retry_of_what_is_refused_for_ever_ends(rig: Rig) -> None:
    """A sink that refuses all of many letters is not asked about each one."""
    sink = FarEnd()
    letters_of(rig, sink, 5)
    letters_of(rig, sink, 5)
    sink.always = Say(Verdict.BAD)
    sink.sends.clear()
    done = rig.uploader(sink).retry(rig.store.letters(), rig.clock.now())
    assert done.stopped.verdict is Verdict.BUSY
    assert len(sink.sends) <= SUSPICIOUS + 10
    assert rig.books() == Books(collected=30, dead=30)


def test_too_many_letters_push_out_the_oldest(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound of the letters: the oldest go, and are dropped in the book of the sink whose they were."""
    monkeypatch.setattr("espnet.store.samples.MAX_LETTERS", 10)
    one, two = FarEnd(name="one"), FarEnd(name="two")
    rig.store.join("two", 0)
    values = rig.queue(2)
    one.guilty.update(values)
    two.guilty.update(values[:5])
    rig.drain(rig.uploader(one))
    rig.drain(rig.uploader(two))
    assert rig.books("one") == Books(collected=6, dead=5, dropped=1)
    assert rig.books("two") == Books(collected=6, dead=5, accepted=1)
    kept = [letter.letter.sample.value for letter in rig.store.letters()]
    assert kept == values[1:] + values[:5]


def test_letters_that_are_given_up_are_dropped(rig: Rig) -> None:
    """A person's word: dropped, once, whoever says it twice."""
    sink = FarEnd()
    letters_of(rig, sink, 2)
    ids = [letter.id for letter in rig.store.letters()]
    assert rig.store.bury("dropped", ids[:4]) == 4
    assert rig.store.bury("dropped", ids) == 2
    rig.audit()
    assert rig.books() == Books(collected=6, dropped=6)


def test_a_letter_is_told_as_it_was(rig: Rig) -> None:
    """What a letter holds is the sample and the answer."""
    rig.store.join("sink", 0)
    rig.queue(1, points=1)
    (entry,) = rig.store.take("sink", "one", 1)
    assert isinstance(entry, Entry)
    letter = DeadLetter(Sample("m", 1.0, 2.0, ("a:b",)), "why", 3.0)
    rig.store.settle("sink", "one", [Fate(entry, letters=(letter,))])
    rig.audit()
    assert [row.letter for row in rig.store.letters()] == [letter]
