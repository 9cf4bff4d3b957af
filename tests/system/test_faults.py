"""A board that fails costs only itself: every fault of the simulator's own table, one after another."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from conftest import RedisProcess

from espnet.simulator import Board
from espnet.simulator.state import FAULTS
from espnet.store import Store

from .world import Run, World, gaps, polls, wait_for

INTERVAL_S, TIMEOUT_S = 0.2, 0.8
#: What each fault of a board may look like from here (`BoardError.kind`).
KINDS = {
    "hang": {"timeout"},
    "hang_body": {"timeout"},
    "slow": {"timeout"},
    "http_500": {"http"},
    "not_json": {"not_json"},
    "truncated": {"not_json"},
    "wrong_id": {"wrong_id"},
    "missing_keys": {"bad_answer"},
    "cut": {"closed"},
    "rst": {"closed"},
    # While it boots nobody listens.
    "reset": {"closed", "refused", "timeout"},
    "refuse": {"refused"},
}
#: Faults that a board survives without being away.
HARMLESS = {"sensor"}


class House(NamedTuple):
    """Three boards under one collector; the flaky one has a DHT22 on pin 4."""

    world: World
    store: Store
    run: Run
    healthy: list[Board]
    flaky: Board


@pytest.fixture(scope="module")
def shared_house(redis_server: RedisProcess, many_boards: list[Board]) -> Iterator[House]:
    """One for all faults: what a fault leaves behind would spoil the next one's test."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    folder = Path(tempfile.mkdtemp(prefix="espnet-", dir="/tmp"))
    world = World(
        folder, redis_server.url, ESPNET_INTERVAL=str(INTERVAL_S), ESPNET_TIMEOUT=str(TIMEOUT_S)
    )
    porch, attic, flaky = many_boards[:3]
    for board in many_boards:
        board.clear()
        board.unclaim()
    flaky.set(dht={4: (21.5, 40)})
    world.register(porch, attic, flaky, names="porch attic flaky")
    world.espcli("device", "flaky", "add_dht22", "air", "4")
    try:
        run = world.start("20")
        with world.store() as store:
            yield House(world, store, run, [porch, attic], flaky)
        assert run.stop() == 0
        run.require_good_log()
    finally:
        world.end()
        flaky.clear()
        shutil.rmtree(folder)


@pytest.fixture
def house(shared_house: House) -> Iterator[House]:
    """All three boards are online, and will be again."""
    yield _online(shared_house)
    shared_house.flaky.clear()


def _online(house: House) -> House:
    for name in ("porch", "attic", "flaky"):
        wait_for(
            f"{name} online", lambda name=name: house.world.state(house.store, name) == "online"
        )
        # A board that was slow to answer is spared for some polls.
        wait_for(f"{name} at its pace", lambda name=name: house.store.view(name).pace is None)
    return house


def _wait_until_lost(house: House, name: str) -> None:
    def is_lost() -> bool:
        view = house.store.view(name)
        # These intervals are so short that a reading grows old before the first request times out.
        return view.state(time.time()) == "offline" and view.fault is not None

    wait_for(f"{name} offline", is_lost)


def _samples(house: House, since: float) -> list[tuple[str, float]]:
    """What was sampled of the flaky board since then (Unix seconds)."""
    return [
        (metric, value)
        for batch in house.world.samples()
        if "name:flaky" in batch.tags and batch.at >= since
        for metric, value, _ in batch.points
    ]


def _require_steady(house: House, since_s: float) -> None:
    """The healthy boards were polled at their interval since then (monotonic seconds)."""
    until_s = time.monotonic()
    for board in house.healthy:
        # Had the faulty board held anybody up, it had been for its time-out.
        assert max(gaps(board, since_s, until_s)) < TIMEOUT_S
        expected = (until_s - since_s) / INTERVAL_S
        assert 0.7 * expected - 1 <= len(polls(board, since_s)) <= expected + 2
        assert board.most_requests == 1


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind not in HARMLESS])
def test_a_faulty_board_is_offline_with_its_reason_and_comes_back_by_itself(
    house: House, kind: str
) -> None:
    """For every fault: the other boards' polls go on at their interval, the faulty one shows offline
    with the reason, ``esp32.up`` 0 is sampled, and it is online again once the fault is over."""
    world, flaky = house.world, house.flaky
    began, began_s = time.time(), time.monotonic()
    flaky.fault(kind)
    _wait_until_lost(house, "flaky")

    told = world.device("flaky")
    assert (told["state"], told["online"]) == ("offline", False)
    assert told["fault"]["kind"] in KINDS[kind]
    assert told["problem"] == told["fault"]["what"] != ""
    rows = {row["name"]: row for row in world.json("devices")}
    assert rows["flaky"]["problem"]
    assert not rows["flaky"]["online"]
    assert [rows[name]["state"] for name in ("porch", "attic")] == ["online", "online"]
    assert ("esp32.up", 0) in _samples(house, began)
    assert house.run.events("board.lost")[-1]["name"] == "flaky"

    flaky.clear()
    if kind == "reset":
        flaky.reset()  # how often it died is another test's
    cleared = time.time()
    wait_for("online", lambda: world.state(house.store, "flaky") == "online")
    wait_for("no problem", lambda: world.device("flaky")["problem"] is None)
    told = world.device("flaky")
    assert told["online"]
    assert told["last_seen"] > began
    assert ("esp32.up", 1) in _samples(house, cleared)
    assert house.run.events("board.lost", "board.back")[-1]["event"] == "board.back"
    _require_steady(house, began_s)


def test_a_faulty_sensor_costs_only_its_own_reading(house: House) -> None:
    """A sensor that fails leaves its board online and its other values sampled; the error is told."""
    world, flaky = house.world, house.flaky
    wait_for("a climate", lambda: house.store.view("flaky").reading.dht22)  # type: ignore[union-attr]
    began_s = time.monotonic()
    flaky.fault("sensor", pin=4)
    wait_for("an error", lambda: house.store.view("flaky").reading.dht22_errors)  # type: ignore[union-attr]
    failing = time.time()
    told = world.device("flaky")
    assert told["state"] == "online"
    assert told["problem"] is None
    assert list(told["reading_errors"]) == ["air"]
    assert told["readings"] == {}
    assert told["reading_errors"]["air"]
    wait_for("two polls more", lambda: len(_samples(house, failing)) >= 6)
    assert {name for name, _ in _samples(house, failing)} == {
        "esp32.up",
        "esp32.poll_seconds",
        "esp32.f",
    }
    assert "air" in world.espcli("device", "flaky", "get_dht22", "air", code=1)

    flaky.clear()
    wait_for("a climate", lambda: house.store.view("flaky").reading.dht22)  # type: ignore[union-attr]
    assert world.device("flaky")["readings"] == {"air": {"temp": 21.5, "humidity": 40.0}}
    _require_steady(house, began_s)


def test_every_fault_of_the_simulator_is_known_here() -> None:
    """A fault that the simulator learns must be proved here too."""
    assert set(FAULTS) == set(KINDS) | HARMLESS


def test_five_faults_at_once_cost_the_healthy_boards_nothing(
    house: House, many_boards: list[Board]
) -> None:
    """A fleet most of which hangs is polled as evenly as one that is well."""
    hanging = many_boards[3:7]
    names = house.world.register(*hanging)
    for board in hanging:
        board.fault("hang")
    try:
        for name in names:
            _wait_until_lost(house, name)
        began_s = time.monotonic()
        house.flaky.fault("slow")
        _wait_until_lost(house, "flaky")
        wait_for("some time", lambda: time.monotonic() - began_s > 2)
        _require_steady(house, began_s)
    finally:
        for board, name in zip(hanging, names, strict=True):
            house.world.espcli("unregister", name)
            board.clear()
