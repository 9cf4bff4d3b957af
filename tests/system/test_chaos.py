"""Three collectors, three hundred boards, and everything that can fail, by a seed (`chaos.py`)."""

import os
from pathlib import Path

import pytest
from conftest import RedisProcess

from espnet.simulator.light import LightFleet

from .chaos import INTERVAL_S, TIMEOUT_S, Chaos
from .world import World

BOARDS, CLAIMED = 300, 60


def live_through(redis: RedisProcess, folder: Path, seed: int, seconds: float) -> None:
    with LightFleet(BOARDS, seed=seed, log=int(200 + 4 * seconds)) as fleet:
        world = World(
            folder,
            redis.url,
            ESPNET_INTERVAL=str(INTERVAL_S),
            ESPNET_TIMEOUT=str(TIMEOUT_S),
            ESPNET_UPLOAD_INTERVAL="1",
            ESPNET_SINKS="file",
        )
        try:
            chaos = Chaos(world, redis, fleet, seed, CLAIMED)
            chaos.furnish()
            chaos.start()
            chaos.run(seconds)
            for run in world.runs:
                run.require_good_log()
            overlaps = chaos.overlaps()
            assert not overlaps, "\n".join(overlaps)
            gaps = chaos.gaps()
            assert not gaps, "\n".join(gaps)
            assert chaos.wrong_pins() == []
            books = world.require_balance("file")
            assert books["accepted"] > 0
            # Who was killed between writing and saying so has written it for somebody else to write again.
            in_doubt = books["repeated"] + books["queued"]
            assert books["accepted"] <= written(folder) <= books["accepted"] + in_doubt, books
        finally:
            world.end()


def written(folder: Path) -> int:
    """Samples in the files of all collectors."""
    files = [path.read_bytes() for path in folder.glob("samples*.jsonl")]
    return sum(data.count(b"\n") for data in files)


def test_a_minute_of_chaos(own_redis: RedisProcess, short_path: Path) -> None:
    """No two requests overlap on one board; no board waits longer for its poll than an interval and a
    lock, unless a reason is in the log; no pin is wrong for longer than that; the books balance."""
    live_through(own_redis, short_path, seed=20_261_122, seconds=45)


@pytest.mark.soak
def test_ten_minutes_of_chaos(own_redis: RedisProcess, short_path: Path) -> None:
    """The same, nightly, with a seed of its own each time (ESPNET_SEED repeats one)."""
    seed = int(os.environ.get("ESPNET_SEED") or int.from_bytes(os.urandom(4), "big"))
    print(f"ESPNET_SEED={seed}")
    live_through(own_redis, short_path, seed=seed, seconds=600)
