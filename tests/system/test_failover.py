"""The primary of Redis dies under load: sentinels name another one, and everything goes on there.

What may be lost is what had not reached the replica, and polls that were under way; both are counted here.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sentinels import House, Server, guarded

from espnet.simulator import Board
from espnet.simulator.intake import Intake

from .conftest import until_its_end
from .governing import DHT, add_heat, air, ask, wait_level
from .world import Run, World, polls, to_intake, wait_for

TIMEOUT_S = 0.4
#: As the collector computes it: three times the time-out and its margin.
LOCK_TTL_S = 3 * TIMEOUT_S + 5
#: How long the store's connections wait for a server that says nothing, in seconds.
HUNG_S = 5.0


@pytest.fixture
def house() -> Iterator[House]:
    with guarded() as house:
        yield house


@pytest.fixture
def world(house: House, intake: Intake, short_path: Path) -> Iterator[World]:
    """Intervals of 0.3 s, patience of 0.4 s, samples to the intake; Redis is behind sentinels."""
    world = World(
        short_path,
        house.url,
        ESPNET_INTERVAL="0.3",
        ESPNET_TIMEOUT=str(TIMEOUT_S),
        ESPNET_UPLOAD_INTERVAL="0.2",
        **to_intake(intake.url),
    )
    yield from until_its_end(world)


class Load:
    """Two collectors that poll boards, the first of which heats, and upload what they see."""

    def __init__(self, house: House, world: World, boards: list[Board], intake: Intake) -> None:
        self.house, self.world, self.boards, self.intake = house, world, boards, intake
        air(boards[0], 18)
        world.register(*boards)
        world.espcli("device", "b0", "add_dht22", "air", str(DHT))
        add_heat(world, "b0", "b0.dht22.air.temp", "--stale", "off")
        self.runs: list[Run] = [world.start("10"), world.start("9")]
        wait_level(boards[0], 1)
        self.wait_for_work()

    def wait_for_work(self) -> None:
        """Returns when every board was polled since now, and something more was accepted."""
        now_s, accepted = time.monotonic(), self.intake.accepted
        wait_for("polls", lambda: all(polls(board, now_s) for board in self.boards))
        wait_for("uploads", lambda: self.intake.accepted > accepted)

    def fail_over(self, how: Callable[[Server], object]) -> tuple[Server, Server]:
        """The old primary and the new one, after everybody noticed, and works again."""
        old = self.house.primary()
        assert old is not None
        lost = [len(run.events("redis.lost")) for run in self.runs]
        how(old)
        with self.house.in_haste():
            new = self.house.wait_for_another(old)
        for run, before in zip(self.runs, lost, strict=True):
            wait_for("redis.lost", lambda r=run, n=before: len(r.events("redis.lost")) > n)
            wait_for(
                "redis.back",
                lambda r=run: len(r.events("redis.lost")) == len(r.events("redis.back")),
                timeout_s=LOCK_TTL_S + HUNG_S + 10,
            )
        self.wait_for_work()
        return old, new

    def end(self) -> dict[str, int]:
        """Stops all of it in order; the books, which balance."""
        assert [run.stop() for run in self.runs] == [0, 0]
        for run in self.runs:
            assert not run.events("redis.not_started", "upload.paused")
            run.require_good_log()
        return self.world.require_balance()

    def uncounted(self) -> int:
        """The polls that came to nothing, and say so."""
        void = sum(event["polls"] for run in self.runs for event in run.events("poll.void"))
        return void + sum(e["polls"] for run in self.runs for e in run.events("polls.dropped"))


def require_fences_grow(world: World, boards: list[Board]) -> None:
    """No board has seen a fence that Redis does not know."""
    with world.client() as client:
        fence = int(client.get("espnet:fence") or 0)
    assert max(ask(board)["fence"] or 0 for board in boards) <= fence


def kept_polls(load: Load) -> set[tuple[str, float]]:
    """The polls (device, time) whose samples the intake has, or still wait: each of them once."""
    kept = set()
    for number in range(len(load.boards)):
        name = f"b{number}"
        kept |= {(name, at) for at, _ in load.intake.points("esp32.up", f"name:{name}")}
    for batch in load.world.samples():
        (name,) = (tag.removeprefix("name:") for tag in batch.tags if tag.startswith("name:"))
        kept.add((name, batch.at))
    return kept


def test_a_primary_is_killed_under_load(
    house: House, world: World, fresh: list[Board], intake: Intake
) -> None:
    """``kill -9`` of the primary while two collectors poll and upload: each says once that Redis is gone, and
    once that it is back. Every board is polled again, the pin that a job holds stays as it is, the books
    balance, and no more is missing in them than the polls that are counted, were under way, or were on their
    way to the replica. Fences go on growing. `espcli redis` and `doctor` show the other primary."""
    load = Load(house, world, fresh[:4], intake)
    old, new = load.fail_over(Server.kill)
    told = world.json("redis")
    assert told["primary"] == new.address != old.address
    old.start()
    house.wait_whole()
    shown = world.json("doctor", code=0)
    assert (shown["redis"]["watch"]["replicas"], shown["redis"]["watch"]["problem"]) == (1, "")
    books = load.end()
    for run in load.runs:
        assert len(run.events("redis.lost")) == len(run.events("redis.back")) == 1
    # The intake has whatever the books say that it accepted; what was settled last may have been sent twice.
    assert intake.accepted >= books["accepted"] > 0
    assert books["dropped"] == books["dead"] == 0
    answered = sum(len(polls(board)) for board in load.boards)
    under_way = 2 * len(load.boards)
    assert len(kept_polls(load)) >= answered - load.uncounted() - under_way
    assert load.boards[0].pin(2).level == 1
    assert not any(run.events("pin.refused") for run in load.runs)
    require_fences_grow(world, load.boards)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_the_same_again_and_again(
    house: House, world: World, fresh: list[Board], intake: Intake, seed: int
) -> None:
    """Primaries die, or hang and come back to life later, six times in a row, once with a sentinel less: each
    time everything goes on at the next one, and what is missing in the end is bounded as above."""
    luck = random.Random(seed)
    load = Load(house, world, fresh[:4], intake)
    for turn in range(6):
        hangs = luck.random() < 0.5
        if turn == 3:
            luck.choice(house.sentinels).kill()
        old, _ = load.fail_over(
            (lambda one: one.signal(signal.SIGSTOP)) if hangs else Server.kill,
        )
        if hangs:
            old.signal(signal.SIGCONT)
        else:
            old.start()
        house.wait_whole()
        time.sleep(luck.random())
        load.wait_for_work()
    books = load.end()
    answered = sum(len(polls(board)) for board in load.boards)
    missing = answered - len(kept_polls(load)) - load.uncounted()
    assert missing <= 6 * 2 * len(load.boards)
    assert books["dropped"] == books["dead"] == 0
    assert intake.accepted >= books["accepted"]
    require_fences_grow(world, load.boards)
