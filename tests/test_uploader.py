"""The uploader between a real Redis and sinks: real ones over sockets, and obedient ones."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
import redis
from conftest import RedisProcess
from structlog.testing import capture_logs

from espnet.errors import StoreUnavailable
from espnet.model import Books, Device, Reading, Sample, SampleBatch
from espnet.simulator.intake import Answer, Intake
from espnet.sinks import Outcome
from espnet.sinks.datadog import Datadog
from espnet.store import Poll, Store
from espnet.uploader import Drained, Uploader

BOARD = Device(id="a", name="porch", address="127.0.0.1")
SINK = "datadog"


class Obedient:
    """A sink that does as its plan says and remembers what it accepted.

    The plan says of each `send` how many samples it takes; past its end it takes all.
    """

    def __init__(self, *plan: int, then: Callable[[], None] = lambda: None) -> None:
        self.plan = list(plan)
        self.then = then
        self.accepted: list[float] = []
        self.sends: list[int] = []

    def send(self, samples: Sequence[Sample]) -> Outcome:
        taken = min(self.plan.pop(0), len(samples)) if self.plan else len(samples)
        self.sends.append(len(samples))
        self.accepted += [sample.value for sample in samples[:taken]]
        self.then()
        return Outcome(taken, "" if taken == len(samples) else "It is full.")


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = Store(redis_url)
    yield store
    store.close()


_values = itertools.count()


def queue(store: Store, polls: int, points: int = 3) -> list[float]:
    """Queues that many polls as a collector does; returns the values, no two alike, in order."""
    queued = []
    for _ in range(polls):
        values = [float(next(_values)) for _ in range(points)]
        batch = SampleBatch(time.time(), ("id:a",), tuple(("esp32.f", v, ()) for v in values))
        with store.hold(BOARD, "test", ttl_s=5, wait_s=1) as grant:
            store.commit([Poll(grant, 0.0, batch=batch)])
        queued += values
    return queued


def books_agree(store: Store) -> Books:
    books = store.books()
    assert books.collected == books.accepted + books.dropped + books.queued
    return books


def grow_old(store: Store, seconds: float) -> None:
    """As if whoever was given entries had said nothing for so long."""
    with redis.Redis.from_url(store.url) as client:
        for row in client.xpending_range("espnet:samples", SINK, "-", "+", 10_000):
            client.xclaim(
                "espnet:samples",
                SINK,
                row["consumer"],
                0,
                [row["message_id"]],
                idle=int(seconds * 1000),
                justid=True,
            )


def test_what_was_queued_before_the_first_uploader_is_delivered(store: Store) -> None:
    """Nothing is skipped: the group begins where the stream does; all of it goes, in order."""
    values = queue(store, 5)
    sink = Obedient()
    assert Uploader(store, SINK, sink, "one").drain(0) == Drained(15, 15, 0, "")
    assert sink.accepted == values
    assert books_agree(store) == Books(collected=15, accepted=15)


def test_an_empty_stream_is_no_work(store: Store) -> None:
    """Nothing queued: nothing sent, nothing said."""
    sink = Obedient()
    with capture_logs() as logs:
        assert Uploader(store, SINK, sink, "one").drain(0) == Drained()
    assert not sink.sends
    assert not logs


def test_a_backlog_goes_page_by_page(store: Store) -> None:
    """However long the stream, one send holds a bounded number of entries; order is kept."""
    values = queue(store, 10)
    sink = Obedient()
    Uploader(store, SINK, sink, "one", entries=4).drain(0)
    assert sink.sends == [12, 12, 6]
    assert sink.accepted == values


def test_a_drain_ends_although_samples_keep_coming(store: Store) -> None:
    """What arrives during a drain's last page waits for the next drain."""
    queue(store, 2)
    sink = Obedient(then=lambda: queue(store, 1) and None)
    assert Uploader(store, SINK, sink, "one").drain(0).accepted == 6
    assert books_agree(store).queued == 3


def test_a_refusal_keeps_everything_and_ends_the_drain(store: Store) -> None:
    """Refused: acknowledged nothing, asked no second time, said why; the next drain begins there."""
    values = queue(store, 10)
    sink = Obedient(0)
    uploader = Uploader(store, SINK, sink, "one", entries=4)
    assert uploader.drain(0) == Drained(12, 0, 12, "It is full.")
    assert sink.sends == [12]
    assert books_agree(store).queued == 30
    assert uploader.drain(0) == Drained(30, 30, 0, "")
    assert sink.accepted == values
    assert books_agree(store).accepted == 30


@pytest.mark.parametrize("taken", range(13))
def test_partial_success_acknowledges_whole_entries_and_repeats_nothing(
    store: Store, taken: int
) -> None:
    """Wherever the sink stops, also within a poll's samples: each sample arrives exactly once."""
    values = queue(store, 4)
    sink = Obedient(taken)
    uploader = Uploader(store, SINK, sink, "one")
    drained = uploader.drain(0)
    assert (drained.accepted, drained.kept) == (taken, 12 - taken)
    assert books_agree(store).accepted == taken // 3 * 3
    uploader.drain(0)
    assert sink.accepted == values
    assert books_agree(store).accepted == 12


def test_a_sink_may_stop_again_and_again_in_one_entry(store: Store) -> None:
    """Progress within a poll's samples is kept from drain to drain."""
    values = queue(store, 2, points=6)
    sink = Obedient(1, 1, 2, 3, 0, 4)
    uploader = Uploader(store, SINK, sink, "one")
    for _ in range(7):
        uploader.drain(0)
    assert sink.accepted == values
    assert books_agree(store).accepted == 12


def test_a_restarted_uploader_begins_with_what_it_left(store: Store) -> None:
    """Read and not acknowledged when the process died: the same consumer sends that first."""
    values = queue(store, 6)
    store.create_group(SINK)
    assert len(store.read_new(SINK, "one", 4)) == 4  # and then it died
    sink = Obedient()
    Uploader(store, SINK, sink, "one").drain(0)
    assert sink.sends == [12, 6]
    assert sink.accepted == values


def test_what_a_dead_uploader_held_is_taken_over_after_a_minute(store: Store) -> None:
    """Another consumer's entries are left alone for 60 s, and then they are everybody's."""
    values = queue(store, 6)
    store.create_group(SINK)
    assert len(store.read_new(SINK, "dead", 4)) == 4
    sink = Obedient()
    uploader = Uploader(store, SINK, sink, "one", entries=3)
    uploader.drain(0)
    assert sink.accepted == values[12:]
    grow_old(store, 59)
    uploader.drain(0)
    assert sink.accepted == values[12:]
    grow_old(store, 60)
    uploader.drain(0)
    assert sorted(sink.accepted) == values
    assert books_agree(store).accepted == 18


def test_an_orderly_stop_hands_back_at_once(store: Store) -> None:
    """After `close` nobody waits a minute."""
    values = queue(store, 2)
    first = Uploader(store, SINK, Obedient(0), "one")
    first.drain(0)
    first.close()
    second = Obedient()
    Uploader(store, SINK, second, "two").drain(0)
    assert second.accepted == values


def test_uploaders_share_a_sink(store: Store) -> None:
    """Two uploaders at the same time: every sample is delivered by exactly one of them."""
    values = queue(store, 20)
    here, there = Obedient(), Obedient()
    other = Uploader(store, SINK, there, "two", entries=3)
    here.then = lambda: other.drain(0) and None
    Uploader(store, SINK, here, "one", entries=3).drain(0)
    assert here.accepted
    assert there.accepted
    assert sorted(here.accepted + there.accepted) == values
    assert books_agree(store).accepted == 60


def test_stop_ends_a_drain_after_the_page_under_way(store: Store) -> None:
    """Asked to stop: what was sent is acknowledged, nothing more is read."""
    values = queue(store, 10)
    sink = Obedient()
    uploader = Uploader(store, SINK, sink, "one", entries=4, stop=lambda: bool(sink.sends))
    assert uploader.drain(0) == Drained(12, 12, 0, "")
    assert sink.accepted == values[:12]
    assert books_agree(store).queued == 18
    assert uploader.drain(0) == Drained()


def test_without_a_sink_nothing_is_read(store: Store) -> None:
    """No key: samples wait, unread, for the day there is one."""
    queue(store, 2)
    uploader = Uploader(store, SINK, None, "one")
    assert uploader.drain(0) == Drained()
    uploader.close()
    assert store.stream_info()["groups"] == []
    assert books_agree(store).queued == 6


def test_failure_and_recovery_are_said_once_each(store: Store) -> None:
    """One line when it begins to fail, one when the reason changes, one when it works again."""
    queue(store, 1)
    sink = Obedient(0, 0, 1)
    uploader = Uploader(store, SINK, sink, "one")
    with capture_logs() as logs:
        for now in (100, 110, 120, 130, 140):
            uploader.drain(now)
    assert logs == [
        {
            "event": "upload.failed",
            "log_level": "warning",
            "sink": SINK,
            "reason": "It is full.",
            "kept": 3,
        },
        {
            "event": "upload.ok_again",
            "log_level": "info",
            "sink": SINK,
            "after_s": 30,
            "accepted": 2,
        },
    ]


def test_redis_dying_after_the_sink_accepted_repeats_nothing(
    own_redis: RedisProcess, short_path: Path
) -> None:
    """The acknowledgement failed: it raises, and the next drain acknowledges without sending again."""
    store = Store(own_redis.url)
    values = queue(store, 4)
    sink = Obedient(then=own_redis.kill)
    uploader = Uploader(store, SINK, sink, "one")
    with pytest.raises(StoreUnavailable):
        uploader.drain(0)
    with pytest.raises(StoreUnavailable):
        uploader.drain(0)
    own_redis.start()
    assert books_agree(store).queued == 12
    sink.then = lambda: None
    uploader.drain(0)
    assert sink.accepted == values
    assert books_agree(store) == Books(collected=12, accepted=12)
    store.close()


def test_a_redis_that_came_back_empty_is_no_end(store: Store) -> None:
    """The group vanished with everything else: the next samples are delivered all the same."""
    queue(store, 1)
    sink = Obedient()
    uploader = Uploader(store, SINK, sink, "one")
    uploader.drain(0)
    with redis.Redis.from_url(store.url) as client:
        client.flushall()
    values = queue(store, 1)
    uploader.drain(0)
    assert sink.accepted[3:] == values


def test_entries_that_the_bound_dropped_are_let_go(redis_url: str) -> None:
    """Dropped while they were kept here: counted as dropped, and no obstacle to the others."""
    store = Store(redis_url, max_samples=9)
    queue(store, 3)
    sink = Obedient(0)
    uploader = Uploader(store, SINK, sink, "one")
    uploader.drain(0)
    values = queue(store, 2)
    uploader.drain(0)
    assert sink.accepted[-6:] == values
    assert books_agree(store) == Books(collected=15, accepted=9, dropped=6)
    store.close()


def test_with_the_real_sink_the_intake_and_the_books_agree(store: Store) -> None:
    """Datadog's library and a scripted intake: only 202 with ok moves samples out of the queue."""
    values = queue(store, 20)
    with Intake("key") as intake:
        uploader = Uploader(store, SINK, Datadog("key", host=intake.url, timeout_s=0.2), "one")
        bad = [Answer(403, b"{}"), Answer(202, b"{}"), Answer(500), Answer(delay_s=600)]
        intake.script([*bad, Answer(status=429, body=b'{"errors": ["Slow down"]}')])
        for _ in range(5):
            assert uploader.drain(0).accepted == 0
            assert books_agree(store).queued == 60
        assert uploader.drain(0) == Drained(60, 60, 0, "")
        assert sorted(value for _, value in intake.points("esp32.f")) == values
        assert books_agree(store).accepted == intake.accepted == 60


def test_a_reading_without_samples_queues_nothing(store: Store) -> None:
    """A batch of no points is no entry, and so no empty request."""
    reading = Reading(at=0, poll_s=0, interval_s=1, collector="test", status=msgspec.Raw(b"{}"))
    with store.hold(BOARD, "test", ttl_s=5, wait_s=1) as grant:
        store.commit([Poll(grant, 0.0, reading=reading, batch=SampleBatch(0.0, (), ()))])
    sink = Obedient()
    Uploader(store, SINK, sink, "one").drain(0)
    assert not sink.sends
