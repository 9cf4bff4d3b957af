"""EspNet's own trip, in its variants: `bench.trip` in a process of its own."""

import json
import platform
import subprocess
import sys

import msgspec

import espnet
from bench.processes import running
from bench.stage import PACED_EVERY_S, PACED_WINDOWS, WARM_POLLS, Boards, Figures, Stopwatch

#: How long a process polls before and after it is watched, in seconds.
AROUND_S = 1.0


class EspNet:
    """One variant. ``jobs`` is how many jobs each device has; all boards are polled each ``every_s``, or as
    fast as they can be."""

    uses_redis = True

    def __init__(
        self,
        name: str,
        title: str,
        does: str,
        boards: str = "",
        jobs: int = 0,
        every_s: float | None = None,
    ) -> None:
        self.name, self.title, self.does, self._jobs = name, title, does, jobs
        self.boards = ("changing", *boards.split())
        self._every_s = every_s

    def available(self) -> str | None:
        return None

    def version(self) -> str:
        return f"EspNet {espnet.__version__}, Python {platform.python_version()}"

    def run(self, crowd: Boards, redis_url: str, seconds: float) -> Figures:
        access = "claimed" if "claimed" in self.boards else "open"
        around_s = AROUND_S
        if self._every_s is not None:
            seconds *= PACED_WINDOWS
            around_s += WARM_POLLS * self._every_s
        command = [sys.executable, "-m", "bench.trip", redis_url, str(seconds + around_s)]
        command += [str(self._jobs), access, *map(str, crowd.ports)]
        if self._every_s is not None:
            command.append(f"every={self._every_s}")
        with running(command, stdout=subprocess.PIPE) as process:
            figures = Stopwatch(crowd, redis_url).measure(process, seconds)
            told, _ = process.communicate()
        # Redis reads a long command in pieces; the process knows how many round trips it made.
        round_trips = json.loads(told)["redis_round_trips_per_poll"] * figures.polls
        return msgspec.structs.replace(figures, redis_reads=round_trips)


#: The one that others are compared with, and the one for those that are asked for a thousand polls a second.
HEADLINE, PACED = "espnet_with_two_jobs", "espnet_at_1000"
VARIANTS = (
    EspNet(
        HEADLINE,
        "EspNet, two jobs a device",
        "the whole trip of `espcli run`: claim with lock and fence, HTTP with kept connections, JSON, a "
        "thermostat and a timer decided, then reading, samples, schedule and lock in one script a batch. "
        "The collector's `tick` with a clock that is set by hand, so that all boards are due all the time; "
        "without the history and the uploads, which are processes or threads of their own",
        jobs=2,
    ),
    EspNet("espnet_with_one_job", "EspNet, one job", "the same with the thermostat only", jobs=1),
    EspNet("espnet", "EspNet, no jobs", "the same without jobs"),
    EspNet(
        "espnet_without_keep_alive",
        "EspNet, no keep-alive",
        "boards close each connection, as 2021 firmware does; no jobs",
        boards="close",
    ),
    EspNet(
        "espnet_fenced",
        "EspNet, boards with leases",
        "boards know leases and fences, so that each poll carries one; no jobs",
        boards="fenced",
    ),
    EspNet(
        "espnet_claimed",
        "EspNet, boards with a password",
        "each request is signed and each board's proof is checked; no jobs",
        boards="claimed",
    ),
    EspNet(
        PACED,
        "EspNet, at 1,000 polls a second",
        "the same with two jobs a device, all 100 boards each 100 ms",
        jobs=2,
        every_s=PACED_EVERY_S,
    ),
)
