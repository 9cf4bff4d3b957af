"""Jobs end to end: pins that are decided, and safe when everything fails.

Real firmware, real `espcli run` processes. Windows are in UTC, which has no days of 23 hours.
"""

import json
import math
import signal
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from board_2021 import Board2021
from conftest import RedisProcess

from espnet.simulator import Board
from espnet.simulator.state import Request

from .world import World, gaps, polls, wait_for

INTERVAL_S, TIMEOUT_S = 0.5, 0.4
LOCK_TTL_S = 3 * TIMEOUT_S + 5
#: The shortest lease.
LEASE_S = 15
#: What a busy machine may add to anything, in seconds.
SLACK_S = 1.5
PIN, DHT = 2, 4
ALWAYS = ("00:00", "24")
UTC = ("--zone", "UTC")
AIR = "porch.dht22.air.temp"


@pytest.fixture
def fresh(boards: list[Board]) -> list[Board]:
    """Boards that were just reset: pins low, no lease, no fence, nothing plugged in."""
    for board in boards[:4]:
        board.set(room=None, dht={DHT: None})
        board.reset()
        board.forget_requests()
    return boards


def _air(board: Board, celsius: float | None) -> None:
    board.set(dht={DHT: None if celsius is None else (celsius, 40)})


def _set_up(world: World, board: Board, name: str, celsius: float) -> None:
    """Registers a board with a sensor."""
    _air(board, celsius)
    world.espcli("register", board.address, name)
    world.espcli("device", name, "add_dht22", "air", str(DHT))


def _timer(world: World, name: str, job: str, pin: int, *options: str) -> None:
    world.espcli("device", name, "add_timer_job", job, str(pin), *ALWAYS, *UTC, *options)


def _heat(
    world: World, name: str, source: str, *options: str, job: str = "heater", pin: int = PIN
) -> None:
    """A job that holds 20 by that input."""
    words = ("add_threshold_job", job, str(pin), *ALWAYS, "0", source, "20", *UTC, *options)
    world.espcli("device", name, *words)


def _wait_level(board: Board, level: int, pin: int = PIN, within_s: float = 10.0) -> None:
    wait_for(
        f"pin {pin} at {level}", lambda: board.pin(pin).level == level, within_s, every_s=0.005
    )


def _wait_polls(board: Board, count: int = 1) -> None:
    """Returns after so many more polls were answered."""
    since_s = time.monotonic()
    # The last one may be under way still, the ones before it are over.
    wait_for("polls", lambda: len(polls(board, since_s)) > count)


def _writes(board: Board, since_s: float = 0.0) -> list[Request]:
    asked = ("POST", "/gpio")
    return [r for r in board.requests if (r.method, r.path) == asked and r.at_s >= since_s]


def _ask(board: Board, **form: int) -> dict[str, Any]:
    """What the board says to a person: to `GET /`, or to a write of a pin."""
    data = urllib.parse.urlencode(form).encode() if form else None
    url = f"http://{board.address}/" + ("gpio" if form else "")
    with urllib.request.urlopen(url, data, timeout=5) as answer:
        told: dict[str, Any] = json.load(answer)
        return told


def _why(world: World, name: str, pin: int = PIN) -> dict[str, Any]:
    told: dict[str, Any] = world.json("why", name, str(pin))
    return told


def _jobs(world: World, name: str) -> dict[str, dict[str, Any]]:
    return {row["job"]: row for row in world.json("device", name, "jobs")}


def test_a_heater_holds_its_temperature_for_a_day(world: World, fresh: list[Board]) -> None:
    """For a day of the room the temperature stays within the target's band and what the room can move
    between two polls; the heater starts and stops several times, and no lease runs out."""
    board = fresh[0]
    interval_s, speed, band, hours = 0.2, 5400.0, 0.5, 24.0
    outside, power, constant_h = 5.0, 4.0, 8.0
    _set_up(world, board, "porch", 20)
    world.espcli("device", "porch", "interval", str(interval_s))
    _heat(world, "porch", AIR, "--band", str(band), "--stale", "off")
    run = world.start("50")
    _wait_polls(board)
    board.set(
        room={
            "outside_c": outside,
            "start_c": 20,
            "time_constant_h": constant_h,
            "heater_c_per_h": power,
            "heater_pin": PIN,
            "dht_pin": DHT,
            "speed": speed,
        }
    )
    began_s = time.monotonic()
    board.forget_requests()
    seen, levels = [], [0]

    def look() -> bool:
        room = board.room
        assert room is not None
        seen.append(room["celsius"])
        if (level := board.pin(PIN).level) != levels[-1]:
            levels.append(level)
        return time.monotonic() - began_s >= hours * 3600 / speed

    wait_for("a day", look, hours * 3600 / speed + 5)
    ended_s = time.monotonic()
    # The sensor shows the room 20 times a second; reading it and writing the pin take their time.
    blind_s = max(gaps(board, began_s, ended_s)) + 0.05 + 0.1
    fastest = max(power - (19 - outside) / constant_h, (21 - outside) / constant_h)
    margin = band + fastest * blind_s * speed / 3600
    assert margin < 3, f"the machine was too busy to tell anything: blind for {blind_s:.2f} s"
    assert 20 - margin <= min(seen) < 20 - band / 2, (min(seen), margin)
    assert 20 + band / 2 < max(seen) <= 20 + margin, (max(seen), margin)
    assert levels.count(1) >= 4, levels
    assert _ask(board)["leases_expired"] == 0
    board.set(room=None)
    assert run.stop() == 0
    assert len(run.events("pin.set")) >= 2 * levels.count(1) - 1
    assert not run.events("pin.refused", "board.lost")


def test_a_sensor_that_fails_leads_to_what_was_configured(world: World, fresh: list[Board]) -> None:
    """A sensor that is unplugged is stale at the next poll: the pin goes off, goes on, or stays as it
    is, as its job says, within one interval. So does the pin whose input's device is away, as soon as
    its reading is older than the job allows, and not before. Plugged in again, all is right again."""
    names = ("goes-off", "goes-on", "holds")
    off, on, hold, away = fresh[:4]
    for name, board in zip(names, fresh, strict=False):
        _set_up(world, board, name, 18)
    _set_up(world, away, "away", 18)
    for name, stale in zip(names, ("off", "on", "hold"), strict=True):
        _heat(world, name, f"{name}.dht22.air.temp", "--stale", stale)
    options = ("--stale", "off", "--max_age", "2")
    _heat(world, "holds", "away.dht22.air.temp", *options, job="other", pin=5)
    run = world.start("20")
    for board in (off, on, hold):
        _wait_level(board, 1)
    _wait_level(hold, 1, 5)
    _air(on, 25)
    _wait_level(on, 0)

    for board in (off, on, hold):
        _air(board, None)
    # A poll, and the time that a sensor takes to say nothing.
    _wait_level(off, 0, within_s=INTERVAL_S + TIMEOUT_S + SLACK_S)
    _wait_level(on, 1, within_s=INTERVAL_S + TIMEOUT_S + SLACK_S)
    _wait_polls(hold)
    assert hold.pin(PIN).level == 1
    told = _why(world, "goes-off")
    assert (told["level"], told["wanted"], told["winner"]["rank"]) == (0, 0, "fail-safe")
    assert "stale means off" in told["winner"]["why"]
    told = _why(world, "holds")
    assert (told["wanted"], told["winner"]["rank"]) == (1, "on")

    away.power(False)
    gone_s = time.monotonic()
    last_s = polls(away)[-1].at_s
    _wait_level(hold, 0, 5, within_s=2 + INTERVAL_S + SLACK_S)
    assert time.monotonic() - last_s >= 2 - 0.1, (gone_s, last_s)
    assert "at most 2 s are allowed" in _why(world, "holds", 5)["winner"]["why"]
    away.power(True)
    for board in (off, on, hold):
        _air(board, 25)
    for board in (off, on, hold):
        _wait_level(board, 0)
    for board in (off, on, hold):
        _air(board, 18)
    for board in (off, on, hold):
        _wait_level(board, 1)
    _wait_level(hold, 1, 5)
    assert run.stop() == 0
    assert not run.events("pin.refused")


def test_a_board_that_was_reset_is_right_after_one_poll(world: World, fresh: list[Board]) -> None:
    """A reset switches everything off; the first poll that the board answers puts it right."""
    board = fresh[0]
    _set_up(world, board, "porch", 18)
    _heat(world, "porch", AIR, "--stale", "off")
    _timer(world, "porch", "lamp", 5)
    run = world.start("20")
    for cause in ("hard", "watchdog", "power"):
        _wait_level(board, 1)
        _wait_level(board, 1, 5)
        reset_s = time.monotonic()
        board.reset(cause)
        wait_for("a write", partial(_writes, board, reset_s))
        _wait_level(board, 1)
        _wait_level(board, 1, 5)
        answered = [
            r.path.split("?")[0] for r in board.requests if r.at_s > reset_s if r.answered_s
        ]
        assert answered[: answered.index("/gpio")].count("/") == 1, answered
        assert answered.count("/gpio") == 1, "both pins go on in one call"
        assert set(_ask(board)["leases"]) == {str(PIN), "5"}
    assert run.stop() == 0


def test_when_nobody_is_there_the_board_decides(
    world: World, own_redis: RedisProcess, short_path: Path, fresh: list[Board]
) -> None:
    """When the collector is killed, or Redis is away for longer than the lease, the board switches its
    pin off by itself when the lease is over, counts that, and not before. When they are back, the pin
    is right again."""
    killed, lonely = fresh[:2]
    _set_up(world, killed, "porch", 18)
    _heat(world, "porch", AIR, "--stale", "off")
    run = world.start("20")
    folder = short_path / "second"
    folder.mkdir()
    with ExitStack() as stack:
        second = World(folder, own_redis.url, ESPNET_INTERVAL="0.5", ESPNET_TIMEOUT="0.4")
        stack.callback(second.end)
        _set_up(second, lonely, "porch", 18)
        _heat(second, "porch", AIR, "--stale", "off")
        other = second.start("20")
        for board in (killed, lonely):
            _wait_level(board, 1)
            _wait_polls(board)
            assert _ask(board)["leases_expired"] == 0

        run.process.kill()
        own_redis.stop()
        gone_s = time.monotonic()
        off_s: dict[Board, float] = {}

        def look() -> bool:
            for board in (killed, lonely):
                if not board.pin(PIN).level:
                    off_s.setdefault(board, time.monotonic())
            return len(off_s) == 2

        wait_for("both are off", look, LEASE_S + SLACK_S + 2)
        for board in (killed, lonely):
            # It was renewed by the last poll that was answered.
            last_s = polls(board)[-1].at_s
            assert LEASE_S - 0.1 <= off_s[board] - last_s <= LEASE_S + SLACK_S
            assert last_s <= gone_s + SLACK_S
            told = _ask(board)
            assert (told["leases_expired"], told["leases"]) == (1, {})

        own_redis.start()
        again = world.start("20")
        for board in (killed, lonely):
            _wait_level(board, 1)
            _wait_polls(board, 1)
            told = _ask(board)
            assert (told["leases_expired"], told["leases"][str(PIN)]["safe"]) == (1, "low")
        assert _why(world, "porch")["last_write"]["problem"] == ""
        assert again.stop() == 0
        assert other.stop() == 0
        assert not again.events("pin.refused")
        assert not other.events("pin.refused")


def test_a_collector_that_comes_too_late_is_refused(world: World, fresh: list[Board]) -> None:
    """A collector that was stopped (SIGSTOP) between its reading and its write, and goes on when its
    lock went to another one, writes in vain: the board answers 409, and the pin stays as the other
    one decided."""
    board = fresh[0]
    _set_up(world, board, "porch", 25)
    _heat(world, "porch", AIR, "--stale", "on")
    late = world.start("20")

    def freeze() -> bool:
        """Stops it while it waits for the sensor, after it read that the pin is off."""
        _wait_level(board, 0)
        wait_for("a calm poll", lambda: polls(board) and not board.pin(PIN).level)
        board.fault("hang", path="/dht22", count=1)

        def is_waiting() -> bool:
            last = board.requests[-1]
            return last.path == "/dht22" and last.fault == "hang"

        wait_for("it waits", is_waiting, every_s=0.002)
        late.send(signal.SIGSTOP)
        asked_s = board.requests[-1].at_s
        if is_waiting() and time.monotonic() - asked_s < TIMEOUT_S - 0.1:
            return True
        late.send(signal.SIGCONT)
        _wait_polls(board)
        return False

    wait_for("it is stopped in the middle", freeze)
    stopped_s = time.monotonic()
    other = world.start("20")
    wait_for("the other one's polls", lambda: len(polls(board, stopped_s)) >= 2, LOCK_TTL_S + 5)
    assert board.pin(PIN).level == 0
    fence = _ask(board)["fence"]
    woken_s = time.monotonic()
    late.send(signal.SIGCONT)
    refused = wait_for("it is refused", lambda: late.events("pin.refused"))
    assert len(refused) == 1
    assert "outdated" in refused[0]["reason"], refused
    late.wait_for_event("poll.void")
    writes = _writes(board, woken_s)
    assert [write.status for write in writes] == [409]
    assert board.pin(PIN).level == 0
    _wait_polls(board)
    assert [write.status for write in _writes(board, woken_s)] == [409]
    assert board.pin(PIN).level == 0
    told = _why(world, "porch")
    # What the late one thought is not believed either.
    assert (told["level"], told["wanted"], told["winner"]["rank"]) == (0, 0, "off")
    assert _ask(board)["fence"] > fence
    assert [late.stop(), other.stop()] == [0, 0]


def test_two_jobs_on_one_pin_and_none(world: World, fresh: list[Board]) -> None:
    """A pin is on while one of its jobs says so, and off when the last one ends. A pin without a job is
    never touched."""
    board = fresh[0]
    world.espcli("register", board.address, "porch")
    _ask(board, pin=18, value=1)
    _ask(board, pin=19, value=0)
    run = world.start("20")
    board.forget_requests()
    now = time.time()
    began = time.strftime("%H:%M:%S", time.gmtime(now - 60))
    ends = {"short": math.floor(now) + 5, "long": math.floor(now) + 8}
    for job, end in ends.items():
        hours = str((end - math.floor(now) + 60) / 3600)
        world.espcli("device", "porch", "add_timer_job", job, str(PIN), began, hours, *UTC)
    assert time.time() < ends["short"], "the machine is too slow for this test"
    _wait_level(board, 1)
    wait_for("the first one ends", lambda: time.time() > ends["short"] + INTERVAL_S)
    _wait_polls(board, 1)
    assert board.pin(PIN).level == 1
    told = _why(world, "porch")
    assert time.time() < ends["long"], "the machine is too slow for this test"
    assert (told["winner"]["job"], told["losers"][0]["job"]) == ("long", "short")
    assert told["next_change"]["level"] == 0
    assert abs(told["next_change"]["at"] - ends["long"]) < 1
    rows = _jobs(world, "porch")
    assert (rows["long"]["wins"], rows["short"]["wins"]) == (True, False)
    assert (rows["long"]["says"], rows["short"]["says"]) == ("on", "off")
    _wait_level(board, 0)
    assert -0.1 < time.time() - ends["long"] < INTERVAL_S + SLACK_S
    _wait_polls(board)
    assert len(_writes(board)) == 2, "on and off"
    assert (board.pin(18).level, board.pin(19).level) == (1, 0)
    told = _why(world, "porch", 18)
    assert (told["level"], told["wanted"], told["winner"]) == (1, None, None)
    assert run.stop() == 0


def test_jobs_leave_as_they_are_told(world: World, fresh: list[Board]) -> None:
    """A job that is disabled or removed leaves its pin as it is, or off with ``--off``; one that is
    enabled decides again. A board that replaces another takes over its jobs; an unregistered one
    leaves nothing behind."""
    board, spare = fresh[:2]
    world.espcli("register", board.address, "porch")
    _timer(world, "porch", "lamp", PIN)
    run = world.start("20")
    _wait_level(board, 1)
    world.espcli("device", "porch", "disable_job", "lamp")
    _wait_polls(board)
    assert board.pin(PIN).level == 1
    assert _jobs(world, "porch")["lamp"]["state"] == "disabled"
    _ask(board, pin=PIN, value=0)
    _wait_polls(board)
    assert board.pin(PIN).level == 0, "nobody has a say any more"
    world.espcli("device", "porch", "enable_job", "lamp")
    _wait_level(board, 1)
    world.espcli("device", "porch", "disable_job", "lamp", "--off")
    assert board.pin(PIN).level == 0
    world.espcli("device", "porch", "enable_job", "lamp")
    _wait_level(board, 1)
    # An override that has ended is no reason to leave a pin on.
    world.espcli("device", "porch", "override", str(PIN), "on", "--for", "1s")
    ended = time.time() + 1
    wait_for("the override ends", lambda: time.time() > ended)
    world.espcli("device", "porch", "remove_job", "lamp", "--off")
    assert board.pin(PIN).level == 0
    _wait_polls(board)
    assert board.pin(PIN).level == 0
    assert _jobs(world, "porch") == {}

    _timer(world, "porch", "lamp", PIN)
    _wait_level(board, 1)
    world.espcli("register", spare.address, "porch", "--replace")
    _wait_level(spare, 1)
    assert _jobs(world, "porch")["lamp"]["wins"]
    with world.client() as client:
        assert client.hkeys("espnet:jobs") == [spare.id.encode()]
        world.espcli("unregister", "porch")
        assert not client.exists("espnet:jobs")
        assert not client.exists("espnet:memory")
    assert run.stop() == 0
    assert not run.events("pin.refused")


def test_a_person_has_the_last_word_for_a_while(world: World, fresh: list[Board]) -> None:
    """An override acts within a heartbeat, however long the device's interval is; it ends when it is
    cleared, and by itself. What somebody changes by hand is corrected by the next poll. `why` and
    `jobs` say so."""
    board = fresh[0]
    world.espcli("register", board.address, "porch")
    _timer(world, "porch", "lamp", PIN)
    run = world.start("20")
    _wait_level(board, 1)
    before = len(polls(board))
    world.espcli("device", "porch", "interval", "60")
    wait_for("the last poll for a minute", lambda: len(polls(board)) > before)
    words = ("device", "porch", "override", str(PIN))
    world.espcli(*words, "off", "--for", "1h", "--why", "painting")
    _wait_level(board, 0, within_s=SLACK_S)
    wait_for("it is known", lambda: _why(world, "porch")["level"] == 0)
    told = _why(world, "porch")
    assert (told["wanted"], told["winner"]["rank"]) == (0, "override")
    assert "painting" in told["winner"]["why"]
    assert [loser["job"] for loser in told["losers"]] == ["lamp"]
    assert abs(told["next_change"]["at"] - time.time() - 3600) < 60
    rows = _jobs(world, "porch")
    assert (rows["override"]["wins"], rows["lamp"]["wins"], rows["lamp"]["says"]) == (
        True,
        False,
        "on",
    )
    world.espcli(*words, "clear")
    _wait_level(board, 1, within_s=SLACK_S)
    assert "override" not in _jobs(world, "porch")

    world.espcli("device", "porch", "interval", "default")
    world.espcli("device", "porch", "disable_job", "lamp", "--off")
    world.espcli("device", "porch", "add_timer_job", "never", str(PIN), *ALWAYS, "--invert", *UTC)
    began = time.time()
    world.espcli(*words, "on", "--for", "3s")
    given = time.time()
    _wait_level(board, 1, within_s=SLACK_S)
    _wait_level(board, 0)
    assert began + 3 <= time.time() <= given + 3 + INTERVAL_S + SLACK_S
    assert _why(world, "porch")["winner"]["job"] == "never"

    _ask(board, pin=PIN, value=1)
    changed_s = time.monotonic()
    _wait_level(board, 0, within_s=INTERVAL_S + SLACK_S)
    assert len(polls(board, changed_s)) <= 2
    assert run.stop() == 0


def test_a_reading_of_another_device_acts_at_once(world: World, fresh: list[Board]) -> None:
    """When a device's reading changes sides, what depends on it is decided at once, long before its own
    next poll; the dependent device needs no poll for as long as nothing changes."""
    near, far = fresh[:2]
    _set_up(world, near, "porch", 18)
    world.espcli("register", far.address, "shed")
    world.espcli("device", "shed", "interval", "120")
    _heat(world, "shed", AIR, "--stale", "off", "--band", "0.5")
    run = world.start("20")
    _wait_level(far, 1)
    _wait_polls(near)
    for celsius, level in ((25, 0), (18, 1), (None, 0)):
        before = len(polls(far))
        _air(near, celsius)
        _wait_level(far, level, within_s=INTERVAL_S + TIMEOUT_S + SLACK_S)
        _wait_polls(near)
        assert len(polls(far)) == before + 1
    assert run.stop() == 0


def test_numbers_that_others_keep_in_redis(world: World, fresh: list[Board]) -> None:
    """A job follows a string, a hash's field and a JSON object's field. Missing, not a number, or of
    another type they are stale, and so is one that is older than its job allows."""
    board = fresh[0]
    world.espcli("register", board.address, "porch")
    pins = {"string": 13, "hash": 14, "json": 15, "dated": 16}
    sources = ("redis:house", "redis:hall#t", "redis:attic#t", "redis:cellar#t")
    for (job, pin), source in zip(pins.items(), sources, strict=True):
        options = ("--max_age", "2") if job == "dated" else ()
        _heat(world, "porch", source, "--stale", "off", *options, job=job, pin=pin)
    run = world.start("20")

    def wait_levels(*levels: int) -> None:
        for pin, level in zip(pins.values(), levels, strict=False):
            _wait_level(board, level, pin, INTERVAL_S + SLACK_S)

    with world.client() as client:

        def put(value: str) -> None:
            client.delete("house", "hall", "attic")
            client.set("house", value)
            client.hset("hall", "t", value)
            client.set("attic", json.dumps({"t": value}))

        _wait_polls(board)
        assert not _writes(board), "never seen is stale, and the pins are off already"
        put("18")
        client.set("attic", '{"t": 18}')
        wait_levels(1, 1, 1)
        for bad in ("nan", "warm"):
            put(bad)
            wait_levels(0, 0, 0)
            put("18.5")
            wait_levels(1, 1, 1)
        client.delete("house", "hall", "attic")
        wait_levels(0, 0, 0)
        told = _why(world, "porch", pins["hash"])
        assert (told["winner"]["rank"], told["winner"]["level"]) == ("fail-safe", 0)
        assert "no hall#t" in told["winner"]["why"]
        put("18")
        wait_levels(1, 1, 1)
        client.delete("house", "hall", "attic")
        for key in ("house", "hall", "attic"):
            client.rpush(key, "18")
        wait_levels(0, 0, 0)

        client.hset("cellar", "t", "18")
        _wait_polls(board)
        assert board.pin(pins["dated"]).level == 0, "of unknown age"
        at = time.time()
        client.hset("cellar", "at", str(at))
        _wait_level(board, 1, pins["dated"])
        _wait_level(board, 0, pins["dated"])
        assert 2 <= time.time() - at <= 2 + INTERVAL_S + SLACK_S
    assert run.stop() == 0
    assert not run.events("board.lost", "pin.refused")


def test_a_board_of_2021_is_governed_too(world: World) -> None:
    """Its pins follow their jobs; it is never shown a lease or a fence, which it does not know."""
    with Board2021() as board:
        board.climate = (18.0, 40.0)
        world.espcli("register", board.address, "porch")
        world.espcli("device", "porch", "add_dht22", "air", str(DHT))
        _heat(world, "porch", AIR, "--stale", "off")
        run = world.start("20")

        def follows(level: int) -> bool:
            return board.gpio[PIN] == level

        for celsius, level in ((18.0, 1), (25.0, 0), (18.0, 1)):
            board.climate = (celsius, 40.0)
            wait_for("its pin", partial(follows, level))
        board.gpio[PIN] = 0  # as by a reset
        wait_for("its pin is right again", partial(follows, 1))
        told = _why(world, "porch")
        assert (told["wanted"], told["lease"]) == (1, None)
        assert run.stop() == 0
        assert not run.events("pin.refused", "board.lost")
        assert {path for _, path, _ in board.requests} == {"/", "/dht22", "/gpio"}
        writes = [form for _, path, form in board.requests if path == "/gpio"]
        on, off = {"pin": str(PIN), "value": "1"}, {"pin": str(PIN), "value": "0"}
        assert writes == [on, off, on, on]


def test_writes_work_again_after_redis_forgot_everything(world: World, fresh: list[Board]) -> None:
    """A board that has seen higher fences than Redis now knows is governed as before, at the first
    poll: nothing is refused, leases are given and renewed."""
    board = fresh[0]
    world.espcli("register", board.address, "porch")
    _timer(world, "porch", "lamp", PIN)
    run = world.start("20")
    _wait_level(board, 1)
    with world.client() as client:
        # As after a year of grants.
        client.set("espnet:fence", 1_000_000)
        wait_for("the board has seen it", lambda: _ask(board)["fence"] > 1_000_000)
        client.flushall()
    board.forget_requests()
    world.espcli("register", board.address, "porch")
    _timer(world, "porch", "fan", 5)
    _wait_level(board, 1, 5)
    _wait_polls(board)
    fence = _ask(board)["fence"]
    assert fence > 1_000_000
    assert [write.status for write in _writes(board)] == [200]
    _wait_polls(board)
    told = _ask(board)
    assert told["fence"] > fence
    assert told["leases"]["5"]["left_s"] > LEASE_S - 2 * INTERVAL_S - 1
    world.espcli("device", "porch", "remove_job", "fan", "--off")
    assert board.pin(5).level == 0
    assert run.stop() == 0
    assert not run.events("pin.refused")
