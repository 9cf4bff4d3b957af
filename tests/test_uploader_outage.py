"""A day without an intake: the bounds hold, the books agree, Redis stays small, and the newest go first."""

import pytest
from far_end import BUSY, FarEnd, Rig, Say, batch_of, commit

from espnet.uploader import ENTRIES

DAY_S, STEP_S = 86_400, 120
DEVICES, POINTS = 20, 10
#: What every device says of itself.
TAGS = tuple(f"{key}:{'x' * 12}" for key in ("name", "room", "floor", "building", "team"))


def polls(rig: Rig, first: int) -> list[float]:
    """One poll of every device; the values of all."""
    batches = []
    for device in range(DEVICES):
        start = first + device * POINTS
        batch = batch_of(range(start, start + POINTS), rig.clock.now(), f"24:6f:28:{device:06x}")
        batches.append(type(batch)(batch.at, batch.tags + TAGS, batch.points))
    commit(rig.store, batches)
    return [float(value) for value in range(first, first + DEVICES * POINTS)]


@pytest.mark.parametrize(
    ("max_samples", "max_bytes"), [(20_000, 4_000_000), (1_000_000, 1_000_000)]
)
def test_a_day_without_an_intake(redis_url: str, max_samples: int, max_bytes: int) -> None:
    """24 hours of a fleet that makes many times what the bounds allow: never more than them, in samples, in
    counted bytes and in Redis's own memory, with few ranges; then what is young enough arrives, the newest
    first, the rest is expired, and not one sample is without its place."""
    rig = Rig(redis_url, max_samples=max_samples, max_bytes=max_bytes)
    sink = FarEnd(always=BUSY)
    uploader = rig.uploader(sink, entries=ENTRIES, luck=lambda: 0.5)
    rig.drain(uploader)
    at: dict[float, float] = {}
    most_memory = 0
    for step in range(DAY_S // STEP_S):
        at.update(dict.fromkeys(polls(rig, len(at)), rig.clock.now()))
        if not uploader.wait_s:
            uploader.drain(rig.clock.now())
        queue, ((_, books, _),) = rig.store.ledger()
        assert queue.queued <= max_samples
        assert queue.bytes <= max_bytes
        assert books.is_balanced
        assert books.collected == queue.collected == len(at)
        assert rig.ranges() <= 2 + 24
        if step % 30 == 0:
            rig.audit()
            most_memory = max(most_memory, rig.raw.memory_usage("espnet:samples", samples=0))
        rig.clock.advance(STEP_S)
    assert most_memory <= max_bytes
    before = rig.books()
    assert before.accepted == 0
    assert before.dropped > 5 * before.queued, "the bound was exceeded many times"

    sink.always = Say()
    sink.sends.clear()
    rig.clock.advance(max(uploader.wait_s, 0))
    recovered_at = rig.clock.now()
    while rig.books().queued:
        rig.drain(uploader)
    books, times = rig.books(), [[at[value] for value in send] for send in sink.sends]
    # One entry asked whether it is back: the newest of those that were asked with before.
    assert len(times[0]) == POINTS
    assert times[0][0] >= recovered_at - 3600
    # Then the newest, and behind them the backlog, backwards; at last what was held.
    assert max(times[1]) == max(at.values())
    backlog = [max(send) for send in times[1:] if len(send) > ENTRIES]
    assert backlog == sorted(backlog, reverse=True)
    young = [value for value in at if recovered_at - at[value] <= 3600]
    assert set(sink.order) <= set(young)
    assert sink.got.total() == len(sink.got) == books.accepted
    assert books.collected == len(at)
    assert books.accepted + books.expired + books.dropped == len(at)
    assert before.dropped == books.dropped
    assert rig.ranges() == 1
    assert rig.raw.xlen("espnet:samples") == 0
    rig.close()
