"""The uploader between a real Redis and an obedient sink: what goes, in which order, and whose it is."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import RedisProcess
from far_end import BUSY, FarEnd, Rig, Say, batch_of, commit
from structlog.testing import capture_logs

from espnet.errors import StoreUnavailable
from espnet.samples import Books, SampleBatch
from espnet.sinks import Outcome, Verdict
from espnet.store import Grant, Poll, Store
from espnet.uploader import Drained, Uploader


@pytest.fixture
def rig(redis_url: str) -> Iterator[Rig]:
    rig = Rig(redis_url)
    yield rig
    rig.close()


def test_what_was_queued_before_the_first_uploader_is_delivered(rig: Rig) -> None:
    """Nothing is skipped: a sink begins where the stream does; all of it goes, in order."""
    values = rig.queue(5)
    sink = FarEnd()
    assert rig.drain(rig.uploader(sink)) == Drained(15)
    assert sink.order == values
    assert rig.books() == Books(collected=15, accepted=15)
    assert not rig.raw.exists("espnet:samples") or not rig.raw.xlen("espnet:samples")


def test_an_empty_stream_is_no_work(rig: Rig) -> None:
    """Nothing queued: nothing sent, nothing said."""
    sink = FarEnd()
    with capture_logs() as logs:
        assert rig.drain(rig.uploader(sink)) == Drained()
    assert not sink.sends
    assert not logs


def test_a_poll_without_samples_queues_nothing(rig: Rig) -> None:
    """A batch of no points is no entry, and so no empty request."""
    commit(rig.store, [SampleBatch(0.0, (), ())])
    assert rig.raw.xlen("espnet:samples") == 0
    rig.drain(rig.uploader(FarEnd()))


def test_a_backlog_goes_page_by_page(rig: Rig) -> None:
    """However long the stream, one send holds a bounded number of entries; order is kept."""
    values = rig.queue(10)
    sink = FarEnd()
    rig.drain(rig.uploader(sink, entries=4))
    assert [len(send) for send in sink.sends] == [12, 12, 6]
    assert sink.order == values


def test_a_drain_ends_although_samples_keep_coming(rig: Rig) -> None:
    """What arrives during a drain's last page waits for the next drain."""
    rig.queue(2)
    sink = FarEnd()
    sink.after = lambda: rig.queue(1)
    assert rig.drain(rig.uploader(sink)).accepted == 6
    assert rig.books().queued == 3


def test_a_drain_ends_in_time(rig: Rig) -> None:
    """However much waits and however slow the sink, a drain ends after a quarter of a minute and says that
    there is more: what is too old is judged by a time that is the present."""
    rig.queue(10)
    sink = FarEnd()
    sink.before = lambda: rig.clock.advance(8)
    uploader = rig.uploader(sink, entries=2)
    assert rig.drain(uploader) == Drained(12, is_done=False)
    assert rig.drain(uploader) == Drained(12, is_done=False)
    assert rig.drain(uploader) == Drained(6)


def test_a_time_that_ends_within_a_page_gives_the_rest_back(rig: Rig) -> None:
    """What was not sent in time is not lost, not counted as sent, and anybody may have it at once."""
    values = rig.queue(4)
    slow = FarEnd(*[Say(Verdict.TOO_LARGE)] * 2)
    slow.before = lambda: rig.clock.advance(6)
    drained = rig.drain(rig.uploader(slow))
    assert drained == Drained(3, is_done=False)
    other = FarEnd()
    assert rig.drain(rig.uploader(other, "two")) == Drained(9)
    assert slow.order + other.order == values
    assert rig.books() == Books(collected=12, accepted=12)


def test_a_sink_that_used_up_its_time_did_not_fail(rig: Rig) -> None:
    """A send that took a part and tried nothing more is progress: the rest goes with the next send."""
    values = rig.queue(2)

    class Slow(FarEnd):
        def send(self, samples):  # type: ignore[no-untyped-def]
            if len(samples) == 6:
                self._take([sample.value for sample in samples[:2]])
                return Outcome(2, Verdict.BUSY, "It took two in the time there was.")
            return super().send(samples)

    sink = Slow()
    assert rig.drain(rig.uploader(sink)) == Drained(6)
    assert sink.order == values


@pytest.mark.parametrize("taken", range(12))
def test_a_part_is_booked_and_never_sent_again(rig: Rig, taken: int) -> None:
    """Wherever the sink stops, also within a poll's samples: each sample arrives exactly once, and the books
    say so at once."""
    values = rig.queue(4)
    sink = FarEnd(BUSY._replace(taken=taken))
    uploader = rig.uploader(sink)
    assert rig.drain(uploader).accepted == taken
    assert rig.books() == Books(collected=12, accepted=taken, queued=12 - taken)
    assert rig.drain(uploader) == Drained(12 - taken)
    assert sorted(sink.order) == values
    assert rig.books() == Books(collected=12, accepted=12)


@pytest.mark.parametrize("taken", range(12))
def test_a_part_survives_the_uploader(rig: Rig, taken: int) -> None:
    """What one uploader delivered of a poll is not sent again by the next one, which may go on at once."""
    values = rig.queue(4)
    first, second = FarEnd(BUSY._replace(taken=taken)), FarEnd()
    rig.drain(rig.uploader(first))
    rig.drain(rig.uploader(second, "two"))
    assert first.order + second.order == values
    assert rig.books() == Books(collected=12, accepted=12)


def test_a_sink_may_stop_again_and_again_in_one_entry(rig: Rig) -> None:
    """Progress within a poll's samples is kept from drain to drain, whoever drains."""
    values = rig.queue(2, points=6)
    sink = FarEnd(*(BUSY._replace(taken=taken) for taken in (1, 1, 2, 3, 0, 4)))
    uploaders = [rig.uploader(sink, name) for name in ("one", "two")]
    for i in range(12):
        rig.drain(uploaders[i % 2])
    assert sorted(sink.order) == values
    assert rig.books() == Books(collected=12, accepted=12)


# --- whose it is ----------------------------------------------------------------------------------


def died(rig: Rig, sink: FarEnd, consumer: str, when: str) -> None:
    """An uploader that died before the far end saw its first request, or after it had answered."""

    class Died(BaseException):
        pass

    def die() -> None:
        raise Died

    setattr(sink, when, die)
    with pytest.raises(Died):
        rig.drain(rig.uploader(sink, consumer))
    setattr(sink, when, lambda: None)
    rig.audit()


def test_what_a_dead_uploader_held_is_taken_over_after_a_minute(rig: Rig) -> None:
    """Another consumer's entries are left alone for 60 s, and then they are everybody's."""
    values = rig.queue(6)
    rig.store.join("sink", 0)
    assert len(rig.store.take("sink", "dead", 4)) == 4
    sink = FarEnd()
    uploader = rig.uploader(sink, entries=3)
    rig.drain(uploader)
    assert sink.order == values[12:]
    rig.grow_old(59)
    rig.drain(uploader)
    assert sink.order == values[12:]
    rig.grow_old(60)
    rig.drain(uploader)
    assert sorted(sink.order) == values
    assert rig.books() == Books(collected=18, accepted=18)


@pytest.mark.parametrize("heir", ["one", "two"])
def test_who_died_before_sending_repeats_nothing(rig: Rig, heir: str) -> None:
    """Read, and died: the others, or the same name after a restart, send it for the first time."""
    values = rig.queue(3)
    rig.store.join("sink", 0)
    assert len(rig.store.take("sink", "one", 4)) == 3
    rig.grow_old(60)
    sink = FarEnd()
    rig.drain(rig.uploader(sink, heir))
    assert sink.order == values
    assert rig.books() == Books(collected=9, accepted=9)


@pytest.mark.parametrize("heir", ["one", "two"])
def test_who_died_while_sending_is_counted_once(rig: Rig, heir: str) -> None:
    """The sink had it all, and nobody lived to say so: it is sent again, and `repeated` says how many;
    also where several heirs die before they send anything."""
    values = rig.queue(3)
    sink = FarEnd()
    died(rig, sink, "one", "after")
    assert sink.order == values
    assert rig.books() == Books(collected=9, queued=9)
    for consumer in ("three", "four"):
        rig.grow_old(60)
        assert len(rig.store.take_over("sink", consumer, 4)) == 3
        assert rig.books() == Books(collected=9, queued=9, repeated=9)
    rig.grow_old(60)
    rig.drain(rig.uploader(sink, heir))
    assert sink.order == values * 2
    assert rig.books() == Books(collected=9, accepted=9, repeated=9)


def test_only_what_was_open_is_counted_as_repeated(rig: Rig) -> None:
    """Of a half-delivered poll only the open half is sent again after a crash, and counted."""
    values = rig.queue(1, points=6)
    sink = FarEnd(BUSY._replace(taken=2))
    rig.drain(rig.uploader(sink))
    died(rig, sink, "two", "after")
    rig.grow_old(60)
    rig.drain(rig.uploader(sink, "three"))
    assert sink.order == values + values[2:]
    assert rig.books() == Books(collected=6, accepted=6, repeated=4)


def test_an_orderly_stop_hands_back_at_once(rig: Rig) -> None:
    """After `close` nobody waits a minute, and the consumer is forgotten."""
    values = rig.queue(2)
    first = rig.uploader(FarEnd(BUSY))
    rig.drain(first)
    first.close()
    second = FarEnd()
    rig.drain(rig.uploader(second, "two"))
    assert second.order == values
    consumers = rig.raw.xinfo_consumers("espnet:samples", "sink")
    assert b"one" not in {row["name"] for row in consumers}


def test_a_stop_without_a_beginning_says_nothing_to_redis(rig: Rig) -> None:
    """An uploader that never drained has nothing to give back, and makes no group."""
    rig.uploader(FarEnd()).close()
    assert not rig.raw.keys("*")


def test_uploaders_share_a_sink(rig: Rig) -> None:
    """Two uploaders at the same time: every sample is delivered by exactly one of them."""
    values = rig.queue(20)
    here, there = FarEnd(), FarEnd()
    other = rig.uploader(there, "two", entries=3)
    here.after = lambda: rig.drain(other)
    rig.drain(rig.uploader(here, "one", entries=3))
    assert here.order
    assert there.order
    assert sorted(here.order + there.order) == values
    assert rig.books() == Books(collected=60, accepted=60)


def test_who_slept_too_long_has_no_say(rig: Rig) -> None:
    """An uploader that hangs for more than a minute while it sends: its entries are another's, who books
    what becomes of them; the sleeper's word changes nothing, and sends nothing more."""
    values = rig.queue(2)
    here, there = FarEnd(BUSY._replace(taken=5)), FarEnd()

    def sleep() -> None:
        here.after = lambda: None
        rig.clock.advance(61)
        rig.grow_old(61)
        rig.drain(rig.uploader(there, "two"))

    here.after = sleep
    rig.drain(rig.uploader(here))
    assert (here.order, there.order) == (values[:5], values)
    assert rig.books() == Books(collected=6, accepted=6, repeated=6)


def test_what_was_lost_while_it_slept_is_not_sent(rig: Rig) -> None:
    """An uploader that hangs between taking and sending sends nothing that is another's by then."""
    rig.queue(2)
    sink = FarEnd()
    store = rig.store
    store.join("sink", 0)
    assert len(store.take("sink", "one", 4)) == 2
    rig.grow_old(61)
    ids = [entry.id for entry in store.take_over("sink", "two", 1)]
    assert len(ids) == 1
    assert store.mark_sent("sink", "one", ids) == set()
    assert store.mark_sent("sink", "two", ids) == set(ids)
    rig.drain(rig.uploader(sink, "one"))
    assert len(sink.order) == 3


def test_stop_ends_a_drain_after_the_request_under_way(rig: Rig) -> None:
    """Asked to stop: what was sent is booked, nothing more is sent."""
    values = rig.queue(10)
    sink = FarEnd()
    uploader = rig.uploader(sink, stop=lambda: bool(sink.sends))
    assert rig.drain(uploader) == Drained(12, is_done=False)
    assert sink.order == values[:12]
    assert rig.books() == Books(collected=30, accepted=12, queued=18)
    assert rig.drain(uploader) == Drained(is_done=False)


# --- when Redis fails -----------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [12, 5])
def test_redis_dying_after_the_sink_accepted_repeats_nothing(
    own_redis: RedisProcess, taken: int
) -> None:
    """Settling failed: it raises, and the next drain settles without sending again, parts included."""
    rig = Rig(own_redis.url)
    values = rig.queue(4)
    sink = FarEnd(*([BUSY._replace(taken=taken)] if taken < 12 else []))
    sink.after = own_redis.kill
    uploader = rig.uploader(sink)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            uploader.drain(rig.clock.now())
    own_redis.start()
    assert rig.books() == Books(collected=12, queued=12)
    sink.after = lambda: None
    rig.drain(uploader)
    assert sink.order == values
    assert rig.books() == Books(collected=12, accepted=12)
    rig.close()


def test_what_it_could_not_settle_is_told_at_the_end(own_redis: RedisProcess) -> None:
    """The sink had it, Redis did not hear of it, and then it stopped in order: it says so before it goes,
    and nobody sends it again."""
    rig = Rig(own_redis.url)
    values = rig.queue(2)
    sink = FarEnd()
    sink.after = own_redis.kill
    uploader = rig.uploader(sink)
    with pytest.raises(StoreUnavailable):
        uploader.drain(rig.clock.now())
    own_redis.start()
    uploader.close()
    rig.audit()
    sink.after = lambda: None
    rig.drain(rig.uploader(sink, "two"))
    assert sink.order == values
    assert rig.books() == Books(collected=6, accepted=6)
    rig.close()


class Deaf(Store):
    """A store that does not hear what Redis answers to the first calls, or whom Redis does not hear."""

    def __init__(self, url: str, call: str, *, is_done: bool, times: int = 1) -> None:
        super().__init__(url)
        right, left = getattr(self, call), itertools.repeat(None, times)

        def deaf(*args: Any, **options: Any) -> Any:
            is_deaf = next(left, "no") is None
            answer = right(*args, **options) if is_done or not is_deaf else None
            if is_deaf:
                raise StoreUnavailable("Redis does not answer.")
            return answer

        setattr(self, call, deaf)


CALLS = ("join", "oldest_waiting", "take", "mark_sent", "settle", "note_sink")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("is_done", [True, False])
def test_an_answer_of_redis_that_got_lost_repeats_nothing(
    rig: Rig, call: str, is_done: bool
) -> None:
    """Whichever step failed, and whether or not it was done: the same uploader goes on with the next drain,
    each sample arrives once, and none is counted as repeated."""
    values = rig.queue(4)
    sink = FarEnd(BUSY._replace(taken=5))
    store = Deaf(rig.url, call, is_done=is_done)
    uploader = rig.uploader(sink, store=store)
    with pytest.raises(StoreUnavailable):
        uploader.drain(rig.clock.now())
    rig.audit()
    for _ in range(2):
        rig.drain(uploader)
    assert sorted(sink.order) == values
    assert rig.books() == Books(collected=12, accepted=12)
    store.close()


@pytest.mark.parametrize("is_done", [True, False])
def test_what_redis_did_not_hear_goes_before_the_sink_is_asked(rig: Rig, is_done: bool) -> None:
    """What was delivered and not settled is told first, also while the sink is away: another uploader that
    takes over after a minute must not send it again."""
    values = rig.queue(2)
    sink = FarEnd(BUSY._replace(taken=5), always=BUSY)
    store = Deaf(rig.url, "settle", is_done=is_done)
    uploader = rig.uploader(sink, store=store)
    with pytest.raises(StoreUnavailable):
        uploader.drain(rig.clock.now())
    rig.drain(uploader)
    assert rig.books() == Books(collected=6, accepted=5, queued=1)
    heir = FarEnd()
    rig.drain(rig.uploader(heir, "two"))
    assert heir.order == values[5:]
    assert rig.books() == Books(collected=6, accepted=6)
    store.close()


def test_a_sink_that_is_forgotten_meanwhile_is_left_without_a_word(rig: Rig) -> None:
    """Redis did not hear what was delivered, and then a person forgot the sink: stopping is no error."""
    rig.queue(2)
    store = Deaf(rig.url, "settle", is_done=False)
    uploader = rig.uploader(FarEnd(), store=store)
    with pytest.raises(StoreUnavailable):
        uploader.drain(rig.clock.now())
    rig.store.forget_sink("sink")
    uploader.close()
    rig.audit()
    assert not rig.raw.exists("espnet:books:sink")
    store.close()


def test_who_dies_before_it_could_tell_is_counted(rig: Rig) -> None:
    """Redis did not hear what was delivered, not at the second time either, and then the process died."""
    values = rig.queue(2)
    sink = FarEnd()
    store = Deaf(rig.url, "settle", is_done=False, times=2)
    uploader = rig.uploader(sink, store=store)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            uploader.drain(rig.clock.now())
    rig.grow_old(60)
    rig.drain(rig.uploader(sink, "two"))
    assert sink.order == values * 2
    assert rig.books() == Books(collected=6, accepted=6, repeated=6)
    store.close()


def test_what_was_taken_over_before_it_was_marked_is_not_sent(rig: Rig) -> None:
    """An uploader that hangs for more than a minute between taking and sending leaves it to the other."""
    values = rig.queue(3)
    here, there = FarEnd(), FarEnd()

    class Sleepy(Store):
        def mark_sent(self, *args: Any) -> Any:
            rig.grow_old(61)
            rig.drain(rig.uploader(there, "two", entries=2))
            return super().mark_sent(*args)

    store = Sleepy(rig.url)
    assert rig.drain(rig.uploader(here, store=store)) == Drained()
    assert (here.order, there.order) == ([], values)
    assert rig.books() == Books(collected=9, accepted=9)
    store.close()


def test_a_reading_of_the_books_is_of_one_instant(rig: Rig) -> None:
    """A poll whose lock is gone queues nothing, in no book."""
    rig.store.join("sink", 0)
    poll = Poll(Grant("a", "gone:1", 0), 0.0, batch=batch_of([1.0], 0.0))
    assert rig.store.commit([poll]) == {"a"}
    rig.audit()
    assert rig.books() == Books()


def test_an_uploader_is_only_as_good_as_its_sink(rig: Rig) -> None:
    """A sink that says OK and took less is a bug, and ends the program instead of losing samples."""
    rig.queue(1)

    class Liar(FarEnd):
        def send(self, samples):  # type: ignore[no-untyped-def]
            return Outcome(1)

    uploader: Uploader = rig.uploader(Liar())
    with pytest.raises(AssertionError):
        uploader.drain(rig.clock.now())
    rig.audit()
    assert rig.books().queued == 3
