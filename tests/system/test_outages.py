"""Redis goes away under a running collector, in every way, and the collector goes on afterwards."""

import os
import shutil
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from conftest import RedisProcess

from espnet.simulator import Board
from espnet.simulator.intake import Intake

from .governing import (
    DHT,
    LEASE_S,
    PIN,
    SLACK_S,
    add_heat,
    air,
    ask,
    wait_level,
    wait_polls,
    why,
)
from .world import KEY, World, polls, to_intake, wait_for


class Place:
    """A Redis of its own, with a collector and its boards, the first of which heats, where asked for."""

    def __init__(self, stack: ExitStack, boards: list[Board], *, heats: bool = False) -> None:
        folder = Path(tempfile.mkdtemp(prefix="espnet-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder)
        self.boards = boards
        self.intake = stack.enter_context(Intake(KEY))
        self.redis = RedisProcess(folder, durable=True)
        stack.callback(self.redis.stop)
        self.redis.start()
        self.world = World(
            folder,
            self.redis.url,
            ESPNET_INTERVAL="0.3",
            ESPNET_TIMEOUT="0.4",
            ESPNET_UPLOAD_INTERVAL="0.3",
            **to_intake(self.intake.url),
        )
        stack.callback(self.world.end)
        self.names = self.world.register(*boards)
        self.heater = boards[0]
        if heats:
            self.world.espcli("device", "b0", "add_dht22", "air", str(DHT))
            add_heat(self.world, "b0", "b0.dht22.air.temp", "--stale", "off")
        self.run = self.world.start("10")
        wait_for("samples are accepted", lambda: self.intake.accepted > 5)

    def is_polled_since(self, since_s: float) -> bool:
        return all(polls(board, since_s) for board in self.boards)

    def require_recovered(self) -> None:
        """It was said once, everything goes on, nothing is lost, and it ends in order."""
        run, world = self.run, self.world
        run.wait_for_event("redis.back")
        now_s, accepted = time.monotonic(), self.intake.accepted
        wait_for("polls", lambda: self.is_polled_since(now_s))
        wait_for("uploads", lambda: self.intake.accepted > accepted)
        with world.store() as store:
            for name in self.names:
                wait_for("online", lambda name=name: world.state(store, name) == "online")
        assert run.stop() == 0, run.log
        assert [e["event"] for e in run.events("redis.lost", "redis.back")] == [
            "redis.lost",
            "redis.back",
        ]
        assert not run.events("redis.not_started", "upload.failed", "upload.paused", "pin.refused")
        run.require_good_log()
        books = world.require_balance()
        # What was accepted just before the connection broke may have been sent again.
        assert self.intake.accepted >= books["accepted"] > 0
        assert books["dropped"] == 0
        assert world.locks() == []


def test_redis_and_collectors_are_away_for_longer_than_a_lease(fresh: list[Board]) -> None:
    """Redis that is stopped, or that keeps its connections and answers nothing, for a quarter of a minute:
    it is said once that it is gone and once that it is back, polls and uploads go on, nothing crashed.
    Who is told to stop meanwhile (SIGTERM) stops in order, within its time-outs.

    Boards decide for themselves meanwhile, and also when their collector is killed: each switches its
    pin off when the lease is over, counts that, and not before. Afterwards the pin is right again."""
    for board in fresh[0], fresh[2], fresh[6]:
        air(board, 18)
    with ExitStack() as stack:
        stopped = Place(stack, fresh[:2], heats=True)
        hung = Place(stack, fresh[2:4], heats=True)
        leaving = [Place(stack, [board]) for board in fresh[4:6]]
        killed = Place(stack, fresh[6:7], heats=True)
        heaters = [place.heater for place in (stopped, hung, killed)]
        for board in heaters:
            wait_level(board, 1)
            wait_polls(board)
            assert ask(board)["leases_expired"] == 0

        for place in (stopped, leaving[0]):
            place.redis.stop()
        for place in (hung, leaving[1]):
            place.redis.pause()
        killed.run.process.kill()
        gone_s = time.monotonic()
        for place in (stopped, hung, *leaving):
            place.run.wait_for_event("redis.lost")
        for place in leaving:
            place.run.send(signal.SIGTERM)
        _require_leases_end(heaters, gone_s)
        # A person learns it too, with the exit code that says so.
        assert "Redis" in stopped.world.espcli("devices", code=3)
        for place in (stopped, hung):
            assert place.run.process.poll() is None
            assert not place.run.events("redis.back")
        for place in leaving:
            # The locks' time, and a Redis time-out for each thing that is still to be said to Redis.
            left_s = gone_s + 2 * 0.4 + 5 + 3 * 5 - time.monotonic()
            assert place.run.process.wait(max(left_s, 1)) == 0, place.run.log
            assert len(place.run.events("redis.lost")) == 1
            place.run.require_good_log()

        stopped.redis.start()
        hung.redis.resume()
        killed.run = killed.world.start("10")
        for place in (stopped, hung, killed):
            wait_level(place.heater, 1)
            wait_polls(place.heater)
            told = ask(place.heater)
            assert (told["leases_expired"], told["leases"][str(PIN)]["safe"]) == (1, "low")
            assert why(place.world, "b0")["last_write"]["problem"] == ""
        for place in (stopped, hung):
            place.require_recovered()
        assert killed.run.stop() == 0
        assert not killed.run.events("pin.refused")


def _require_leases_end(heaters: list[Board], gone_s: float) -> None:
    """Each pin goes off when its lease is over, and not before."""
    off_s: dict[Board, float] = {}

    def look() -> bool:
        for board in heaters:
            if not board.pin(PIN).level:
                off_s.setdefault(board, time.monotonic())
        return len(off_s) == len(heaters)

    wait_for("all are off", look, LEASE_S + SLACK_S + 2)
    for board in heaters:
        # It was renewed by the last poll that was answered.
        last_s = polls(board)[-1].at_s
        assert LEASE_S - 0.1 <= off_s[board] - last_s <= LEASE_S + SLACK_S
        assert last_s <= gone_s + SLACK_S
        told = ask(board)
        assert (told["leases_expired"], told["leases"]) == (1, {})


def test_the_embedded_server_is_started_again_when_it_is_killed(
    embedded_world: World, boards: list[Board]
) -> None:
    """``kill -9`` of the embedded server under two running collectors: one of them starts it again on
    the same data, both go on, and each says once that it was gone and once that it is back."""
    world = embedded_world
    world.register(*boards[:3])
    runs = [world.start("10"), world.start("9")]
    # The append-only file is synced every second.
    wait_for("four polls", lambda: all(len(polls(board)) > 4 for board in boards[:3]))
    pid = world.json("redis")["pid"]
    os.kill(pid, signal.SIGKILL)
    killed_s = time.monotonic()
    for run in runs:
        run.wait_for_event("redis.back")
    wait_for("polls", lambda: all(polls(board, killed_s + 1) for board in boards[:3]))
    assert world.json("redis")["pid"] != pid
    assert [row["name"] for row in world.json("devices")] == ["b0", "b1", "b2"]
    assert [run.stop() for run in runs] == [0, 0]
    for run in runs:
        said = [event["event"] for event in run.events("redis.lost", "redis.back")]
        assert said == ["redis.lost", "redis.back"]
        assert not run.events("redis.not_started")
