"""SIGKILL for real uploader processes at the worst moments, and what their heirs make of it."""

import os
import queue
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from far_end import Rig

from espnet.clock import SystemClock
from espnet.samples import Books
from espnet.simulator.intake import Intake
from espnet.sinks.datadog import Datadog
from espnet.uploader import Drained, Uploader

from .world import ESPCLI, KEY, PATIENCE_S, ROOT, World, to_intake

DRIVER = Path(__file__).with_name("uploading.py")


class KillingIntake(Intake):
    """Ingests a request, and before the answer leaves, the client is dead."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.victims: queue.Queue[int] = queue.Queue()
        self.is_deadly = True

    def _ingest(self, payload: Any) -> None:
        super()._ingest(payload)
        if self.is_deadly:
            self.is_deadly = False
            os.kill(self.victims.get(timeout=PATIENCE_S), signal.SIGKILL)


@pytest.fixture
def rig(redis_url: str) -> Iterator[Rig]:
    """Ten polls wait, taken just now."""
    rig = Rig(redis_url)
    yield rig
    rig.close()


def fill(rig: Rig) -> "Counter[float]":
    return Counter(rig.queue(10, ago_s=rig.clock.now() - time.time()))


def ingested(intake: Intake) -> "Counter[float]":
    return Counter(value for _, value in intake.points("esp32.f"))


def inherit(rig: Rig, intake: Intake) -> Drained:
    """Another uploader goes on, after the entries lay about for a minute."""
    rig.audit()
    clock = SystemClock()
    heir = Uploader(rig.store, Datadog(KEY, host=intake.url), "heir", clock)
    assert heir.drain(clock.now()) == Drained(), "they are the dead one's for a minute"
    rig.grow_old(60, "datadog")
    drained = heir.drain(clock.now())
    heir.close()
    rig.audit()
    return drained


@pytest.mark.parametrize(
    ("when", "repeated", "arrivals"),
    [("taken", 0, 1), ("marked", 30, 1), ("answered", 30, 2), ("settled", 0, 1)],
)
def test_killed_at_a_chosen_point(
    rig: Rig, intake: Intake, when: str, repeated: int, arrivals: int
) -> None:
    """Between reading and sending nothing is lost and nothing repeated; between the intake's yes and the
    acknowledgement all comes twice, and is counted, exactly. Who died on the brink of sending may have
    sent: that is counted, too."""
    values = fill(rig)
    died = subprocess.run(
        [sys.executable, str(DRIVER), rig.url, intake.url, KEY, when],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=PATIENCE_S,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL
    assert ingested(intake) == (values if when in ("answered", "settled") else Counter())
    assert rig.books("datadog").accepted == (30 if when == "settled" else 0)
    assert inherit(rig, intake).accepted == (0 if when == "settled" else 30)
    assert ingested(intake) == Counter(dict.fromkeys(values, arrivals))
    assert rig.books("datadog") == Books(collected=30, accepted=30, repeated=repeated)


def test_the_program_is_killed_when_the_intake_has_it(rig: Rig, world: World) -> None:
    """`espcli` itself, killed when the intake has ingested and not yet answered: it comes twice, and that is
    counted."""
    values = fill(rig)
    with KillingIntake(KEY) as intake:
        program = subprocess.Popen(
            [str(ESPCLI), "upload_queued_metrics"],
            env={**world.environ, **to_intake(intake.url)},
            start_new_session=True,
        )
        intake.victims.put(program.pid)
        assert program.wait(PATIENCE_S) == -signal.SIGKILL
        assert ingested(intake) == values
        assert rig.books("datadog") == Books(collected=30, queued=30)
        assert inherit(rig, intake).accepted == 30
        assert ingested(intake) == values + values
    assert rig.books("datadog") == Books(collected=30, accepted=30, repeated=30)
