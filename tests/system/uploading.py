"""An uploader in a process of its own, which ends itself with SIGKILL at a chosen point of its first round.

    python tests/system/uploading.py REDIS_URL INTAKE_URL KEY taken|marked|answered|settled

``taken``: it has read from the stream, and nobody was told that it would send. ``marked``: it was about to
send. ``answered``: the intake said yes, and nothing is acknowledged. ``settled``: all is done.
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from espnet.clock import SystemClock
from espnet.samples import Sample
from espnet.sinks import Outcome
from espnet.sinks.datadog import Datadog
from espnet.store import Store
from espnet.uploader import Uploader


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class MortalStore(Store):
    """Dies before it marks, or after it has settled."""

    when = ""

    def mark_sent(self, *args: Any) -> Any:
        if self.when == "taken":
            die()
        return super().mark_sent(*args)

    def settle(self, *args: Any, **options: Any) -> Any:
        settled = super().settle(*args, **options)
        if self.when == "settled":
            die()
        return settled


class MortalSink(Datadog):
    """Dies before it sends, or when it has its answer."""

    when = ""

    def send(self, samples: Sequence[Sample]) -> Outcome:
        if self.when == "marked":
            die()
        outcome = super().send(samples)
        if self.when == "answered":
            die()
        return outcome


if __name__ == "__main__":
    redis_url, intake_url, key, when = sys.argv[1:]
    clock = SystemClock()
    store, sink = MortalStore(redis_url), MortalSink(key, host=intake_url)
    store.when = sink.when = when
    Uploader(store, sink, "mortal", clock).drain(clock.now())
    raise SystemExit("it should have died")
