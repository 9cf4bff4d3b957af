"""What tests of the sinks share: keys, times, samples, and what every reason looks like."""

from espnet.clock import ManualClock
from espnet.samples import Sample
from espnet.simulator.intake import Intake
from espnet.sinks import Outcome
from espnet.sinks.datadog import Datadog

KEY = "0123456789abcdef0123456789abcdef"
APP_KEY = "fedcba9876543210"
OK = b'{"status": "ok"}'
CLOCK = ManualClock()
#: What a busy machine may add to a time-out.
SLACK_S = 3.0


def an_intake() -> Intake:
    """One that forgets nothing, at `CLOCK`'s time."""
    return Intake(KEY, clock=CLOCK, points_each=1_000_000, most_series=1_000_000)


def sink_to(intake: Intake, timeout_s: float = 10.0, **more: float) -> Datadog:
    return Datadog(KEY, APP_KEY, intake.url, timeout_s=timeout_s, **more)


def samples(count: int = 1, tags: tuple[str, ...] = ("id:a", "name:porch")) -> list[Sample]:
    return [Sample("esp32.f", 20.0 + n, CLOCK.now() - n, tags) for n in range(count)]


def heavy(count: int) -> list[Sample]:
    """Samples of which some fifty fill a request: each has other tags, and a lot of them."""
    return [s for n in range(count) for s in samples(1, (f"n:{n}", *(["t:" + "x" * 190] * 90)))]


def is_sentence(outcome: Outcome, url: str) -> None:
    assert outcome.reason.startswith(f"Datadog at {url} ")
    assert outcome.reason.endswith(".")
    assert outcome.reason.isprintable()
    assert " object at 0x" not in outcome.reason
    assert len(outcome.reason) < 400
