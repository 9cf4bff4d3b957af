"""The uploader, Datadog's sink and a real intake over sockets, which answers anything.

Whatever the intake says, and whoever dies meanwhile: the set of points that it ingested and the books agree.
"""

import random
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from far_end import Rig

from espnet.samples import Books, Sample
from espnet.simulator.intake import Answer, Intake
from espnet.sinks import Outcome, Verdict
from espnet.sinks.datadog import Datadog

KEY = "a-key-of-no-value"
HTML = "text/html"
OK = b'{"status": "ok"}'
#: What an intake, or whatever stands before it, may say, and how often.
ANSWERS = {
    Answer(): 60,
    Answer(close="before"): 2,  # it has them, and says nothing
    Answer(close="midway"): 2,
    Answer(delay_s=600): 1,
    Answer(202, b"{}"): 1,
    Answer(202, b"<html>Welcome to the hotel</html>", HTML): 1,
    Answer(202, OK, close="midway"): 1,
    Answer(200, b"", close="before"): 1,
    Answer(301, b"", headers=(("Location", "http://127.0.0.1:9/"),)): 1,
    Answer(400, b'{"errors": ["Payload is not in the expected format"]}'): 3,
    Answer(400, b"<html>Bad</html>", HTML): 1,
    Answer(401, b"{}"): 1,
    Answer(403, b"<html>Forbidden</html>", HTML): 1,
    Answer(408): 1,
    Answer(413, b'{"errors": ["Payload too large"]}'): 3,
    Answer(413, b"<html>Too large</html>", HTML): 1,
    Answer(429, b'{"errors": ["Slow down"]}', headers=(("Retry-After", "7"),)): 1,
    Answer(429, b"{}", headers=(("X-RateLimit-Reset", "9"),)): 1,
    Answer(500): 1,
    Answer(502, b"<html>Bad gateway</html>", HTML): 1,
    Answer(503, headers=(("Retry-After", "5"),)): 1,
    Answer(503, b"<html>" + b"x" * 100_000, HTML): 1,
}


class Died(BaseException):
    """The process is gone."""


class Deadly:
    """Datadog's sink in a process that may end before a request or after its answer."""

    name = "datadog"

    def __init__(self, sink: Datadog, rng: random.Random) -> None:
        self._sink, self._rng = sink, rng
        self.window_s, self.future_s = sink.window_s, sink.future_s
        self.is_calm = False
        self.unsure = 0

    def send(self, samples: Sequence[Sample]) -> Outcome:
        death = 1.0 if self.is_calm else self._rng.random()
        if death < 0.01:
            raise Died
        outcome = self._sink.send(samples)
        if death < 0.02:
            raise Died
        return outcome


@pytest.fixture
def rig(redis_url: str) -> Iterator[Rig]:
    rig = Rig(redis_url)
    yield rig
    rig.close()


@pytest.fixture
def intake(rig: Rig) -> Iterator[Intake]:
    with Intake(KEY, clock=rig.clock, points_each=1_000_000) as intake:
        yield intake


@pytest.fixture
def nowhere() -> Iterator[str]:
    """A URL at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def sink_to(url: str, timeout_s: float = 10.0) -> Datadog:
    return Datadog(KEY, host=url, timeout_s=timeout_s)


def ingested(intake: Intake) -> "Counter[float]":
    return Counter(value for _, value in intake.points("esp32.f"))


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (Answer(), "ok"),
        (Answer(202, b"{}"), "failing"),
        (Answer(202, b"<html>", HTML), "failing"),
        (Answer(401), "paused"),
        (Answer(403, b"<html>", HTML), "paused"),
        (Answer(408), "failing"),
        (Answer(429), "failing"),
        (Answer(500), "failing"),
        (Answer(503, b"<html>", HTML), "failing"),
        (Answer(delay_s=600), "failing"),
        (Answer(500, close="before"), "failing"),
        (Answer(503, b"{}" * 9, close="midway"), "failing"),
        # Halved, and the halves are taken.
        (Answer(400, b"<html>", HTML), "ok"),
        (Answer(413), "ok"),
    ],
    ids=str,
)
def test_each_answer_of_an_intake(rig: Rig, intake: Intake, answer: Answer, state: str) -> None:
    """Only 202 with ok moves samples out of the queue; all of them arrive with the answers after it, once,
    because none of these has what it did not say yes to."""
    values = rig.queue(4)
    # Only silence is meant to meet a time-out; a busy machine must not.
    uploader = rig.uploader(sink_to(intake.url, 2.0 if answer.delay_s else 10.0))
    intake.script([answer])
    rig.drain(uploader)
    (sink,) = rig.store.ledger().sinks
    assert sink.state is not None
    assert sink.state.state == state
    assert sink.books.accepted == (12 if state == "ok" else 0)
    rig.drain(uploader)
    assert ingested(intake) == Counter(values)
    books = rig.books("datadog")
    assert books == Books(collected=12, accepted=12, repeated=books.repeated)


def test_nobody_listens(rig: Rig, intake: Intake, nowhere: str) -> None:
    """Refused: kept, and it goes when somebody does."""
    values = rig.queue(4)
    drained = rig.drain(rig.uploader(sink_to(nowhere)))
    assert drained.stopped.verdict is Verdict.BUSY
    rig.drain(rig.uploader(sink_to(intake.url), "two"))
    assert ingested(intake) == Counter(values)


def run(rig: Rig, intake: Intake, nowhere: str, seed: int, answers: int) -> None:
    rng = random.Random(seed)
    intake.script(rng.choices(list(ANSWERS), list(ANSWERS.values()), k=answers))
    values: list[float] = []
    uploaders: list[Any] = []
    started = 0
    while sum(intake.statuses.values()) < answers:
        if len(uploaders) < 3:
            started += 1
            url = nowhere if rng.random() < 0.1 else intake.url
            # Late answers are part of the luck here, so that waiting for them may be short.
            sink = Deadly(sink_to(url, 0.1), rng)
            uploaders.append(
                rig.uploader(sink, f"u{started}", entries=rng.choice((2, 10)), luck=rng.random)
            )
        if rng.random() < 0.5:
            values += rig.queue(rng.randrange(1, 5), points=rng.randrange(1, 8))
        uploader = rng.choice(uploaders)
        try:
            rig.drain(uploader)
        except Died:
            uploaders.remove(uploader)
            rig.audit()
            rig.grow_old(61, "datadog")
        else:
            if rng.random() < 0.05:
                uploader.close()
                uploaders.remove(uploader)
    for uploader in uploaders:
        uploader.close()
    rig.grow_old(61, "datadog")
    rig.drain(rig.uploader(sink_to(intake.url), "last"))

    books, got = rig.books("datadog"), ingested(intake)
    assert (books.collected, books.queued, books.dropped) == (len(values), 0, 0)
    assert set(got) <= set(values)
    assert books.accepted <= len(got), "nothing is acknowledged that did not arrive"
    missing = len(values) - len(got)
    assert missing <= books.dead + books.expired, "nothing is lost that is not in the books"
    assert 0 < got.total() - len(got) <= books.repeated, "what came twice is in the books"
    assert intake.not_ingested == 0, "nothing is sent that the intake would silently ignore"


def test_a_thousand_answers(rig: Rig, intake: Intake, nowhere: str) -> None:
    """Every answer in any order, processes that end around requests, and three uploaders that share the
    sink: none lost, none acknowledged early, what came twice was counted."""
    run(rig, intake, nowhere, 1, 1_000)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_tens_of_thousands_of_answers(rig: Rig, intake: Intake, nowhere: str, seed: int) -> None:
    """The same for long."""
    run(rig, intake, nowhere, seed, 10_000)
