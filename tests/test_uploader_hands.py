"""What people do to Redis by hand, and what nobody can read: no obstacle, and in the books."""

from collections.abc import Iterator

import pytest
from far_end import BUSY, FarEnd, Rig, Say, batch_of, commit, weight
from structlog.testing import capture_logs

from espnet.samples import Books


@pytest.fixture
def rig(redis_url: str) -> Iterator[Rig]:
    rig = Rig(redis_url)
    yield rig
    rig.close()


@pytest.mark.parametrize("batch", [b"", b"{}", b"[1]", b"\xff\x00"])
def test_what_cannot_be_read_is_dropped_and_said(rig: Rig, batch: bytes) -> None:
    """An entry of ours that is no batch any more: dropped, said once, no obstacle to its neighbours."""
    values = rig.queue(1)
    (row_id, fields), *_ = rig.raw.xrange("espnet:samples")
    rig.raw.xdel("espnet:samples", row_id)
    rig.raw.hincrby("espnet:books", "bytes", weight(batch) - weight(fields[b"batch"]))
    rig.raw.xadd("espnet:samples", {"n": 3, "batch": batch})
    values = rig.queue(1)
    sink = FarEnd()
    uploader = rig.uploader(sink)
    with capture_logs() as logs:
        rig.drain(uploader)
        rig.drain(uploader)
    assert [log["event"] for log in logs] == ["upload.unreadable"]
    assert sink.order == values
    assert rig.books() == Books(collected=6, accepted=3, dropped=3)


@pytest.mark.parametrize(
    "fields", [{"x": "y"}, {"n": "many", "batch": "{}"}, {"a": "b", "c": "d", "e": "f"}]
)
def test_what_nobody_queued_does_no_harm(redis_url: str, fields: dict[str, str]) -> None:
    """Entries that a person added: neither the uploader nor the bound trips over them, nor forgetting."""
    rig = Rig(redis_url, max_samples=6)
    sink, other = FarEnd(), FarEnd(name="other")
    uploader = rig.uploader(sink)
    uploader.drain(rig.clock.now())
    rig.uploader(other).drain(rig.clock.now())
    for _ in range(3):
        rig.raw.xadd("espnet:samples", fields)
    values = [float(i) for i in range(6)]
    commit(
        rig.store, [batch_of(values[:3], rig.clock.now()), batch_of(values[3:], rig.clock.now())]
    )
    with capture_logs():
        uploader.drain(rig.clock.now())
    assert sink.order == values
    assert rig.books() == Books(collected=6, accepted=6)
    rig.raw.xadd("espnet:samples", fields)
    commit(rig.store, [batch_of([7.0] * 6, rig.clock.now())])  # the bound looks at all of them
    rig.store.forget_sink("other")
    with capture_logs():
        uploader.drain(rig.clock.now())
    rig.drain(uploader)
    assert rig.books() == Books(collected=12, accepted=12)
    rig.close()


def test_a_redis_that_came_back_empty_is_no_end(rig: Rig) -> None:
    """Everything vanished: the next samples are delivered all the same, and the books begin anew."""
    sink = FarEnd(Say(), BUSY)
    uploader = rig.uploader(sink)
    rig.queue(1)
    rig.drain(uploader)
    rig.queue(1)
    rig.drain(uploader)
    rig.raw.flushall()
    values = rig.queue(1)
    rig.drain(uploader)
    assert sink.order[3:] == values
    assert rig.books() == Books(collected=3, accepted=3)


@pytest.mark.parametrize("is_seen", [True, False])
def test_a_stream_that_was_deleted_is_dropped(rig: Rig, is_seen: bool) -> None:
    """`DEL samples`: what was in it is dropped, for each sink; what comes afterwards is delivered, whether
    or not an uploader looked in between."""
    sink, other = FarEnd(BUSY._replace(taken=2)), FarEnd(name="other")
    uploader = rig.uploader(sink)
    rig.store.join("other", 0)
    rig.queue(3)
    rig.drain(uploader)
    rig.raw.delete("espnet:samples")
    if is_seen:
        rig.drain(uploader)
    values = rig.queue(2)
    rig.drain(uploader)
    rig.drain(rig.uploader(other))
    assert sorted(sink.order[2:]) == other.order == values
    assert rig.books() == Books(collected=15, accepted=8, dropped=7)
    assert rig.books("other") == Books(collected=15, accepted=6, dropped=9)


def test_a_stream_that_was_emptied_is_dropped(rig: Rig) -> None:
    """`XTRIM`, or `XDEL` of all: what is gone is dropped as soon as somebody looks."""
    sink = FarEnd(BUSY._replace(taken=2))
    uploader = rig.uploader(sink)
    rig.queue(6)
    rig.drain(uploader)
    rig.raw.xtrim("espnet:samples", maxlen=0)
    rig.drain(uploader)
    assert rig.books() == Books(collected=18, accepted=2, dropped=16)
    values = rig.queue(1)
    rig.drain(uploader)
    assert sink.order[2:] == values


def test_an_entry_that_was_deleted_is_dropped_when_all_others_are_gone(rig: Rig) -> None:
    """`XDEL` of one that is held and of one that waits: no obstacle, and in the end in the books."""
    sink = FarEnd(BUSY)
    uploader = rig.uploader(sink, entries=2)
    rig.queue(4)
    rig.drain(uploader)
    rows = rig.raw.xrange("espnet:samples")
    rig.raw.xdel("espnet:samples", rows[0][0], rows[3][0])
    rig.clock.advance(2)
    uploader.drain(rig.clock.now())
    rig.drain(uploader)
    assert rig.books() == Books(collected=12, accepted=6, dropped=6)


def test_a_group_that_was_destroyed_gets_all_again(rig: Rig) -> None:
    """`XGROUP DESTROY`: what is in the stream goes again, all of it, and is counted as repeated; nothing is
    lost, and the other sink notices nothing."""
    sink, other = FarEnd(), FarEnd(name="other", always=BUSY)
    uploader, second = rig.uploader(sink, entries=2), rig.uploader(other)
    rig.store.join("other", 0)
    values = rig.queue(4)
    rig.drain(second)
    sink.answers.extend([Say(), BUSY._replace(taken=2)])
    rig.drain(uploader)
    rig.raw.xgroup_destroy("espnet:samples", "sink")
    rig.clock.advance(2)
    uploader.drain(rig.clock.now())
    rig.audit()
    assert set(sink.order) == set(values)
    books = rig.books()
    assert books == Books(collected=12 + 8, accepted=8 + 12, repeated=12)
    assert sink.got.total() - len(values) <= books.repeated
    assert rig.books("other") == Books(collected=12, queued=12)
