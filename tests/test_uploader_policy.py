"""What the uploader makes of a sink's answers: who is sent again, when, in which order, and who is not."""

import math
import random
from collections.abc import Iterator, Sequence

import pytest
from far_end import BUSY, DENIED, FarEnd, Rig, Say
from structlog.testing import capture_logs

from espnet.samples import Books, Sample
from espnet.sinks import Outcome, Verdict
from espnet.uploader import SUSPICIOUS, Drained

UNSURE = Say(Verdict.BUSY, is_unsure=True)


@pytest.fixture
def rig(redis_url: str) -> Iterator[Rig]:
    rig = Rig(redis_url)
    yield rig
    rig.close()


# --- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("say", "books"),
    [
        (Say(), Books(collected=9, accepted=9)),
        (BUSY, Books(collected=9, queued=9)),
        (DENIED, Books(collected=9, queued=9)),
        (UNSURE, Books(collected=9, queued=9, repeated=9)),
        (BUSY._replace(taken=4), Books(collected=9, accepted=4, queued=5)),
        (DENIED._replace(taken=4), Books(collected=9, accepted=4, queued=5)),
        (UNSURE._replace(taken=4), Books(collected=9, accepted=4, queued=5, repeated=5)),
        # Halved, and then nothing is wrong with the halves.
        (Say(Verdict.BAD), Books(collected=9, accepted=9)),
        (Say(Verdict.TOO_LARGE), Books(collected=9, accepted=9)),
        (Say(Verdict.BAD, taken=4), Books(collected=9, accepted=9)),
        (Say(Verdict.TOO_LARGE, taken=7), Books(collected=9, accepted=9)),
        # Nine refusals: one of nine, of four, of two, and then a single one is guilty.
        (Say(Verdict.BAD, taken=8), Books(collected=9, accepted=8, dead=1)),
    ],
)
def test_what_an_answer_makes_of_the_samples(rig: Rig, say: Say, books: Books) -> None:
    """Each verdict has its consequence in the books, with what was accepted before it, too; whatever
    stays is sent again and nothing else is."""
    values = rig.queue(3)
    sink = FarEnd(say)
    uploader = rig.uploader(sink)
    rig.drain(uploader)
    assert rig.books() == books
    rig.drain(uploader)
    assert sorted(sink.order) == [value for value in values if sink.got[value]]
    assert sink.got.total() == 9 - books.dead
    assert rig.books() == Books(
        collected=9, accepted=9 - books.dead, dead=books.dead, repeated=books.repeated
    )


@pytest.mark.parametrize("place", range(12))
@pytest.mark.parametrize("kind", ["guilty", "huge"])
def test_the_guilty_one_alone_is_a_dead_letter(rig: Rig, place: int, kind: str) -> None:
    """Wherever it is, it is found by halving and kept with the answer; all others arrive, once each."""
    values = rig.queue(4)
    sink = FarEnd(**{kind: [values[place]]})  # type: ignore[arg-type]
    assert rig.drain(rig.uploader(sink)) == Drained(11, dead=1)
    assert sink.order == values[:place] + values[place + 1 :]
    (letter,) = rig.store.letters()
    assert (letter.sink, letter.letter.sample.value) == ("sink", values[place])
    assert letter.letter.reason == ("It is bad." if kind == "guilty" else "It is too large.")
    assert rig.books() == Books(collected=12, accepted=11, dead=1)
    # It halves down, and then it grows again.
    assert len(sink.sends) <= 3 * math.log2(12) + 2


@pytest.mark.parametrize("places", [(0, 1), (0, 11), (5, 6), (3, 4, 5), (0, 4, 8, 11), range(12)])
def test_several_guilty_ones_are_found(rig: Rig, places: tuple[int, ...]) -> None:
    """Neighbours, both ends, a whole poll, or all of them: each guilty one is a letter, the rest arrive."""
    values = rig.queue(4)
    guilty = [values[place] for place in places]
    sink = FarEnd(guilty=guilty)
    assert rig.drain(rig.uploader(sink)) == Drained(12 - len(guilty), dead=len(guilty))
    assert sink.order == [value for value in values if value not in guilty]
    assert [letter.letter.sample.value for letter in rig.store.letters()] == guilty


def test_a_far_end_with_a_smaller_bound_is_found_out(rig: Rig) -> None:
    """413 to everything above two samples: halved until it fits, all arrives, nothing is a letter."""
    values = rig.queue(4)
    sink = FarEnd(most=2)
    assert rig.drain(rig.uploader(sink)) == Drained(12)
    assert sink.order == values


def test_how_small_a_request_must_be_is_not_forgotten(rig: Rig) -> None:
    """A far end that takes little and is away now and then: the next round begins with what fitted."""
    rig.queue(4)
    sink = FarEnd(Say(Verdict.BAD), Say(Verdict.BAD), BUSY)
    uploader = rig.uploader(sink)
    rig.drain(uploader)
    assert [len(send) for send in sink.sends] == [12, 6, 3]
    rig.drain(uploader)
    assert [len(send) for send in sink.sends[3:]] == [3, 6, 3]


class SlowLine(FarEnd):
    """Takes four samples within its time; of more, nobody hears in time what became."""

    def send(self, samples: Sequence[Sample]) -> Outcome:
        if len(samples) <= 4:
            return super().send(samples)
        self.sends.append([sample.value for sample in samples])
        return Outcome(0, Verdict.BUSY, "It did not answer.", len(samples), is_unsure=True)


def test_a_line_that_is_too_slow_for_a_page_gets_less_at_a_time(rig: Rig) -> None:
    """What times out is halved from round to round until it passes: all is delivered in the end."""
    values = rig.queue(8)
    sink = SlowLine()
    uploader = rig.uploader(sink)
    for _ in range(20):
        rig.drain(uploader)
        rig.clock.advance(70)
        if rig.books().accepted == 24:
            break
    assert sorted(sink.order) == values
    assert rig.books().queued == 0
    assert rig.books().repeated == sum(len(send) for send in sink.sends if len(send) > 4)


def test_letters_survive_an_end_within_their_poll(rig: Rig) -> None:
    """A letter that was found before the far end went away is booked at once, and not sent again."""
    values = rig.queue(1, points=4)
    sink = FarEnd(Say(Verdict.BAD, taken=3), BUSY, guilty=[values[3]])
    sink = FarEnd(Say(), BUSY, guilty=[values[0]])
    uploader = rig.uploader(sink)
    assert rig.drain(uploader) == Drained(0, stopped=_stopped(sink, 2))
    sink.answers.extend([Say(), Say(), BUSY])
    assert rig.drain(uploader).dead == 1
    assert rig.books() == Books(collected=4, dead=1, queued=3)
    assert rig.drain(rig.uploader(sink, "two")) == Drained(3)
    assert sink.order == values[1:]
    assert len(rig.store.letters()) == 1


def _stopped(sink: FarEnd, tried: int):  # type: ignore[no-untyped-def]
    return sink._no(Verdict.BUSY, [0.0] * tried)


# --- when to ask again ----------------------------------------------------------------------------


def waits(rig: Rig, sink: FarEnd, rounds: int, luck: float = 0.0) -> list[float]:
    uploader = rig.uploader(sink, luck=lambda: luck)
    found = []
    for _ in range(rounds):
        rig.drain(uploader)
        found.append(uploader.wait_s)
    return found


def test_busy_is_asked_again_after_2_to_64_s(rig: Rig) -> None:
    """Each failure in a row doubles the wait; up to a quarter of it is up to luck."""
    rig.queue(3)
    assert waits(rig, FarEnd(always=BUSY), 8) == [2, 4, 8, 16, 32, 64, 64, 64]
    lucky = waits(rig, FarEnd(always=BUSY), 8, luck=1.0)
    assert lucky == [1.5, 3, 6, 12, 24, 48, 48, 48]


def test_denied_is_asked_again_every_minute(rig: Rig) -> None:
    """A paused sink is asked once a minute, with one entry, however often it says no."""
    rig.queue(9)
    sink = FarEnd(always=DENIED)
    assert waits(rig, sink, 4) == [60, 60, 60, 60]
    assert [len(send) for send in sink.sends] == [12, 3, 3, 3]


def test_nothing_happens_while_a_sink_is_left_alone(rig: Rig) -> None:
    """Between two tries `drain` does nothing, and `wait_s` says for how long."""
    rig.queue(3)
    sink = FarEnd(BUSY, DENIED)
    uploader = rig.uploader(sink)
    uploader.drain(rig.clock.now())
    for seconds, sends in ((1.9, 1), (0.2, 2), (59.8, 2), (0.3, 3)):
        rig.clock.advance(seconds)
        uploader.drain(rig.clock.now())
        assert len(sink.sends) >= sends
        assert (len(sink.sends) > sends) == (sends == 3)
    assert rig.books().accepted == 9


def test_progress_begins_the_waits_anew(rig: Rig) -> None:
    """A far end that took something is not away: the first wait comes again."""
    rig.queue(3)
    sink = FarEnd(BUSY, BUSY, BUSY._replace(taken=1), BUSY)
    assert waits(rig, sink, 5) == [2, 4, 2, 4, 0]


@pytest.mark.parametrize(("asked_s", "wait_s"), [(0.0, 2), (1.0, 2), (30.0, 30), (900.0, 900)])
def test_a_far_end_may_ask_for_more_time(rig: Rig, asked_s: float, wait_s: float) -> None:
    """Retry-After is honoured where it is longer than what would be waited anyway."""
    rig.queue(3)
    assert waits(rig, FarEnd(BUSY._replace(retry_after_s=asked_s)), 1) == [wait_s]


def test_states_are_said_once_and_written_down(rig: Rig) -> None:
    """One line when it begins to fail, one when it fails differently, one when it works again; Redis has
    the state, since when, and when it is asked again."""
    rig.queue(1)
    sink = FarEnd(BUSY, BUSY, DENIED, DENIED, BUSY._replace(taken=1))
    uploader = rig.uploader(sink)
    began = rig.clock.now()
    states = []
    with capture_logs() as logs:
        for _ in range(7):
            rig.drain(uploader)
            (row,) = rig.store.ledger().sinks
            assert row.state is not None
            state = row.state
            until = state.retry_at - rig.clock.now() if state.retry_at else None
            ok = state.ok_at - began if state.ok_at else None
            states.append((state.state, state.since - began, until, ok))
    assert [(log["event"], log.get("reason"), log.get("after_s")) for log in logs] == [
        ("upload.failed", "It is busy.", None),
        ("upload.paused", "It is denied.", None),
        ("upload.failed", "It is busy.", None),
        ("upload.ok_again", None, 2),
    ]
    assert states == [
        ("failing", 0, 2, None),
        ("failing", 0, 4, None),
        ("paused", 6, 60, None),
        ("paused", 6, 60, None),
        ("failing", 126, 2, 126),
        ("ok", 128, None, 128),
        ("ok", 128, None, 128),
    ]


def test_a_sink_is_back_when_it_took_something(rig: Rig) -> None:
    """A drain that ends before it asked, or that has nothing to ask with, does not say that a failing sink
    works again."""
    rig.queue(1)
    sink, is_stopping = FarEnd(BUSY), False
    uploader = rig.uploader(sink, stop=lambda: is_stopping)
    rig.drain(uploader)
    with capture_logs() as logs:
        is_stopping = True
        rig.drain(uploader)
        is_stopping = False
        rig.clock.advance(3601)
        assert rig.drain(uploader).expired == 3
        (row,) = rig.store.ledger().sinks
        assert row.state is not None
        assert row.state.state == "failing"
        assert not logs
        rig.queue(1)
        rig.drain(uploader)
    assert [log["event"] for log in logs] == ["upload.ok_again"]


def test_unsure_is_counted_each_time(rig: Rig) -> None:
    """Whether it arrived or not, nobody knows: it is sent again, and counted each time."""
    (value,) = rig.queue(1, points=1)
    sink = FarEnd(UNSURE, UNSURE._replace(has_arrived=True))
    uploader = rig.uploader(sink)
    for _ in range(3):
        rig.drain(uploader)
    assert sink.got == {value: 2}
    assert rig.books() == Books(collected=1, accepted=1, repeated=2)


# --- age ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ago_s", "fate"),
    [
        (3601, "expired"),
        (3600, "accepted"),
        (0, "accepted"),
        (-600, "accepted"),
        (-601, "dead"),
    ],
)
def test_what_is_outside_of_the_window_is_not_sent(rig: Rig, ago_s: float, fate: str) -> None:
    """Too old: expired. Too far in the future: a dead letter that says so. The edges are inside."""
    rig.queue(2, ago_s=ago_s)
    sink = FarEnd()
    rig.drain(rig.uploader(sink))
    assert rig.books() == Books(**{"collected": 6, fate: 6})
    assert bool(sink.sends) == (fate == "accepted")
    assert {letter.letter.reason for letter in rig.store.letters()} == (
        {"It is 601 s in the future: was a clock set back?"} if fate == "dead" else set()
    )


def test_a_sink_without_a_window_takes_any_age(rig: Rig) -> None:
    """A file keeps what is a year old, and what a wrong clock said."""
    rig.queue(1, ago_s=365 * 86_400.0)
    rig.queue(1, ago_s=-86_400.0)
    sink = FarEnd()
    sink.window_s = sink.future_s = None
    assert rig.drain(rig.uploader(sink)) == Drained(6)


def test_the_rest_of_a_half_delivered_poll_expires(rig: Rig) -> None:
    """What was accepted stays accepted, what is a letter stays one; only what is open is too old."""
    values = rig.queue(1, points=6)
    sink = FarEnd(Say(), Say(), Say(), Say(), BUSY, guilty=[values[0]])
    uploader = rig.uploader(sink)
    rig.drain(uploader)
    assert rig.books() == Books(collected=6, accepted=1, dead=1, queued=4)
    rig.clock.advance(3601)
    assert rig.drain(uploader) == Drained(expired=4)
    assert rig.books() == Books(collected=6, accepted=1, dead=1, expired=4)


# --- order after an outage ------------------------------------------------------------------------


def test_after_an_outage_the_newest_go_first(rig: Rig) -> None:
    """The oldest waits longer than two minutes: the newest page first, then the ones before it, and what
    was held since the outage began last. Within a request time goes forward."""
    sink = FarEnd(always=BUSY)
    uploader = rig.uploader(sink, entries=3)
    polls = []
    for _ in range(20):
        polls.append(rig.queue(1))
        if not uploader.wait_s:
            rig.drain(uploader)
        rig.clock.advance(10)
    held = {value for send in sink.sends for value in send}
    sink.always = Say()
    rig.drain(uploader)
    # The probe was the newest of those that it held.
    assert sink.order[:3] == polls[[p[0] in held for p in polls].index(False) - 1]
    pages = [send for send in sink.sends[-20:] if len(send) > 3]
    assert pages[0] == [value for poll in polls[-3:] for value in poll]
    assert pages[1] == [value for poll in polls[-6:-3] for value in poll]
    assert sorted(sink.order) == [value for poll in polls for value in poll]
    assert all(send == sorted(send) for send in sink.sends)


def test_in_ordinary_times_the_oldest_go_first(rig: Rig) -> None:
    """Up to two minutes of waiting are no outage."""
    old, new = rig.queue(5, ago_s=120), rig.queue(5)
    sink = FarEnd()
    rig.drain(rig.uploader(sink))
    assert sink.order == old + new


def test_a_backlog_is_asked_about_with_one_entry(rig: Rig) -> None:
    """While a sink fails, each try is one poll, and not a page that would go in vain."""
    rig.queue(9, ago_s=300)
    sink = FarEnd(always=BUSY)
    uploader = rig.uploader(sink)
    for _ in range(5):
        rig.drain(uploader)
    assert [len(send) for send in sink.sends] == [12, 3, 3, 3, 3]
    assert sink.sends[1] == sink.sends[4]


@pytest.mark.parametrize("always", [BUSY, DENIED, Say(Verdict.BAD)])
def test_a_day_of_failing_leaves_few_ranges(rig: Rig, always: Say) -> None:
    """However often it is asked in vain, the list of what nobody took stays short; and all that is left
    is found afterwards."""
    sink = FarEnd(always=always)
    sink.window_s = None if always.verdict is Verdict.BAD else 3600.0
    uploader = rig.uploader(sink)
    end = rig.clock.now() + 86_400
    while rig.clock.now() < end:
        rig.clock.advance(max(600, uploader.wait_s))
        rig.queue(1, points=1)
        rig.drain(uploader)
        assert rig.ranges() <= (65 if always.verdict is Verdict.BAD else 30)
    sink.always = Say()
    rig.drain(uploader)
    books = rig.books()
    assert books.queued == 0
    assert books.accepted == sink.got.total() == len(sink.got)
    assert rig.ranges() == 1


# --- a sink that refuses all ----------------------------------------------------------------------


def test_a_proxy_that_refuses_everything_makes_few_letters(rig: Rig) -> None:
    """Sixteen refused in a row, with none accepted between them, and the one that is furthest is refused,
    too: it is not their fault. No more letters, the rest is kept, and goes when the proxy is gone."""
    rig.queue(20)
    sink = FarEnd(always=Say(Verdict.BAD))
    uploader = rig.uploader(sink, entries=20)
    for _ in range(5):
        drained = rig.drain(uploader)
        assert drained.stopped.verdict is Verdict.BUSY
        assert "refuses all" in drained.stopped.reason
    assert rig.books() == Books(collected=60, dead=SUSPICIOUS, queued=60 - SUSPICIOUS)
    sink.always = Say()
    assert rig.drain(uploader).accepted == 60 - SUSPICIOUS
    assert len(rig.store.letters()) == SUSPICIOUS


def test_many_guilty_ones_are_not_a_proxy(rig: Rig) -> None:
    """A sink that takes the sample furthest from those that it refused is only choosy."""
    values = rig.queue(20)
    sink = FarEnd(guilty=values[:50])
    assert rig.drain(rig.uploader(sink, entries=20)) == Drained(10, dead=50)
    assert sorted(sink.order) == values[50:]


def test_one_bad_board_does_not_stop_the_others(rig: Rig) -> None:
    """All that one board sends is refused, and a page may hold nothing else: the other board's samples
    arrive all the same, and none of them is a letter."""
    bad, good = [], []
    sink = FarEnd()
    uploader = rig.uploader(sink, luck=lambda: 0.5)
    for i in range(100):
        values = rig.queue(1, points=20)
        (bad if i % 7 else good).extend(values)
        sink.guilty.update(bad)
        rig.clock.advance(10)
        if not uploader.wait_s:
            rig.drain(uploader)
    for _ in range(300):
        rig.drain(uploader)
    books = rig.books()
    assert sorted(sink.order) == good
    assert books.accepted == len(good)
    assert {letter.letter.sample.value for letter in rig.store.letters()} <= set(bad)
    assert books.dead + books.queued + books.expired == len(bad)


@pytest.mark.parametrize("say", [DENIED, BUSY, UNSURE])
def test_what_the_doubtful_sink_says_counts(rig: Rig, say: Say) -> None:
    """The sample that is asked about may get any answer: a pause is a pause, and unsure is counted."""
    values = rig.queue(20)
    sink = FarEnd(guilty=values[:50])
    refusals = 0

    def count() -> None:
        nonlocal refusals
        refusals += len(sink.sends[-1]) == 1 and sink.sends[-1][0] in sink.guilty
        if refusals > SUSPICIOUS and sink.sends[-1] == values[-1:]:
            sink.answers.append(say)

    sink.before = count
    uploader = rig.uploader(sink, entries=20, luck=random.Random(1).random)
    drained = rig.drain(uploader)
    assert drained.stopped.verdict is say.verdict
    assert rig.books().repeated == (1 if say.is_unsure else 0)
    sink.before = lambda: None
    for _ in range(30):
        rig.drain(uploader)
    assert rig.books() == Books(collected=60, accepted=10, dead=50, repeated=rig.books().repeated)
