"""Jobs end to end: pins that are decided.

Real firmware, real `espcli run` processes.
"""

import json
import math
import time
from functools import partial

from board_2021 import Board2021

from espnet.simulator import Board

from .governing import (
    AIR,
    ALWAYS,
    DHT,
    INTERVAL_S,
    PIN,
    SLACK_S,
    TIMEOUT_S,
    UTC,
    add_heat,
    add_timer,
    air,
    ask,
    job_rows,
    set_up,
    wait_level,
    wait_polls,
    why,
    writes_of,
)
from .world import World, gaps, polls, wait_for


def test_a_heater_holds_its_temperature_for_a_day(world: World, fresh: list[Board]) -> None:
    """For a day of the room the temperature stays within the target's band and what the room can move
    between two polls; the heater starts and stops several times, and no lease runs out."""
    board = fresh[0]
    interval_s, speed, band, hours = 0.1, 4320.0, 0.5, 24.0
    outside, power, constant_h = 5.0, 4.0, 8.0
    set_up(world, board, "porch", 20)
    world.espcli("device", "porch", "interval", str(interval_s))
    add_heat(world, "porch", AIR, "--band", str(band), "--stale", "off")
    run = world.start("50")
    wait_polls(board)
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
    assert ask(board)["leases_expired"] == 0
    board.set(room=None)
    assert run.stop() == 0
    assert len(run.events("pin.set")) >= 2 * levels.count(1) - 1
    assert not run.events("pin.refused", "board.lost")


def test_two_jobs_on_one_pin_and_none(world: World, fresh: list[Board]) -> None:
    """A pin is on while one of its jobs says so, and off when the last one ends. A pin without a job is
    never touched."""
    board = fresh[0]
    world.espcli("register", board.address, "porch")
    ask(board, pin=18, value=1)
    ask(board, pin=19, value=0)
    run = world.start("20")
    board.forget_requests()
    now = time.time()
    began = time.strftime("%H:%M:%S", time.gmtime(now - 60))
    ends = {"short": math.floor(now) + 3, "long": math.floor(now) + 5}
    for job, end in ends.items():
        hours = str((end - math.floor(now) + 60) / 3600)
        world.espcli("device", "porch", "add_timer_job", job, str(PIN), began, hours, *UTC)
    assert time.time() < ends["short"], "the machine is too slow for this test"
    wait_level(board, 1)
    wait_for("the first one ends", lambda: time.time() > ends["short"] + INTERVAL_S)
    wait_polls(board, 1)
    assert board.pin(PIN).level == 1
    told = why(world, "porch")
    assert time.time() < ends["long"], "the machine is too slow for this test"
    assert (told["winner"]["job"], told["losers"][0]["job"]) == ("long", "short")
    assert told["next_change"]["level"] == 0
    assert abs(told["next_change"]["at"] - ends["long"]) < 1
    rows = job_rows(world, "porch")
    assert (rows["long"]["wins"], rows["short"]["wins"]) == (True, False)
    assert (rows["long"]["says"], rows["short"]["says"]) == ("on", "off")
    wait_level(board, 0)
    assert -0.1 < time.time() - ends["long"] < INTERVAL_S + SLACK_S
    wait_polls(board)
    assert len(writes_of(board)) == 2, "on and off"
    assert (board.pin(18).level, board.pin(19).level) == (1, 0)
    told = why(world, "porch", 18)
    assert (told["level"], told["wanted"], told["winner"]) == (1, None, None)
    assert run.stop() == 0


def test_jobs_leave_as_they_are_told(world: World, fresh: list[Board]) -> None:
    """A job that is disabled or removed leaves its pin as it is, or off with ``--off``; one that is
    enabled decides again. A board that replaces another takes over its jobs; an unregistered one
    leaves nothing behind."""
    board, spare = fresh[:2]
    world.espcli("register", board.address, "porch")
    add_timer(world, "porch", "lamp", PIN)
    run = world.start("20")
    wait_level(board, 1)
    world.espcli("device", "porch", "disable_job", "lamp")
    wait_polls(board)
    assert board.pin(PIN).level == 1
    assert job_rows(world, "porch")["lamp"]["state"] == "disabled"
    ask(board, pin=PIN, value=0)
    wait_polls(board)
    assert board.pin(PIN).level == 0, "nobody has a say any more"
    world.espcli("device", "porch", "enable_job", "lamp")
    wait_level(board, 1)
    world.espcli("device", "porch", "disable_job", "lamp", "--off")
    assert board.pin(PIN).level == 0
    world.espcli("device", "porch", "enable_job", "lamp")
    wait_level(board, 1)
    # An override that has ended is no reason to leave a pin on.
    world.espcli("device", "porch", "override", str(PIN), "on", "--for", "1s")
    ended = time.time() + 1
    wait_for("the override ends", lambda: time.time() > ended)
    world.espcli("device", "porch", "remove_job", "lamp", "--off")
    assert board.pin(PIN).level == 0
    wait_polls(board)
    assert board.pin(PIN).level == 0
    assert job_rows(world, "porch") == {}

    add_timer(world, "porch", "lamp", PIN)
    wait_level(board, 1)
    world.espcli("register", spare.address, "porch", "--replace")
    wait_level(spare, 1)
    assert job_rows(world, "porch")["lamp"]["wins"]
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
    add_timer(world, "porch", "lamp", PIN)
    run = world.start("20")
    wait_level(board, 1)
    before = len(polls(board))
    world.espcli("device", "porch", "interval", "60")
    wait_for("the last poll for a minute", lambda: len(polls(board)) > before)
    words = ("device", "porch", "override", str(PIN))
    world.espcli(*words, "off", "--for", "1h", "--why", "painting")
    wait_level(board, 0, within_s=SLACK_S)
    wait_for("it is known", lambda: why(world, "porch")["level"] == 0)
    told = why(world, "porch")
    assert (told["wanted"], told["winner"]["rank"]) == (0, "override")
    assert "painting" in told["winner"]["why"]
    assert [loser["job"] for loser in told["losers"]] == ["lamp"]
    assert abs(told["next_change"]["at"] - time.time() - 3600) < 60
    rows = job_rows(world, "porch")
    assert (rows["override"]["wins"], rows["lamp"]["wins"], rows["lamp"]["says"]) == (
        True,
        False,
        "on",
    )
    world.espcli(*words, "clear")
    wait_level(board, 1, within_s=SLACK_S)
    assert "override" not in job_rows(world, "porch")

    world.espcli("device", "porch", "interval", "default")
    world.espcli("device", "porch", "disable_job", "lamp", "--off")
    world.espcli("device", "porch", "add_timer_job", "never", str(PIN), *ALWAYS, "--invert", *UTC)
    began = time.time()
    world.espcli(*words, "on", "--for", "2s")
    given = time.time()
    wait_level(board, 1, within_s=SLACK_S)
    wait_level(board, 0)
    assert began + 2 <= time.time() <= given + 2 + INTERVAL_S + SLACK_S
    assert why(world, "porch")["winner"]["job"] == "never"

    ask(board, pin=PIN, value=1)
    changed_s = time.monotonic()
    wait_level(board, 0, within_s=INTERVAL_S + SLACK_S)
    assert len(polls(board, changed_s)) <= 2
    assert run.stop() == 0


def test_a_reading_of_another_device_acts_at_once(world: World, fresh: list[Board]) -> None:
    """When a device's reading changes sides, what depends on it is decided at once, long before its own
    next poll; the dependent device needs no poll for as long as nothing changes."""
    near, far = fresh[:2]
    set_up(world, near, "porch", 18)
    world.espcli("register", far.address, "shed")
    world.espcli("device", "shed", "interval", "120")
    add_heat(world, "shed", AIR, "--stale", "off", "--band", "0.5")
    run = world.start("20")
    wait_level(far, 1)
    wait_polls(near)
    for celsius, level in ((25, 0), (18, 1), (None, 0)):
        before = len(polls(far))
        air(near, celsius)
        wait_level(far, level, within_s=INTERVAL_S + TIMEOUT_S + SLACK_S)
        wait_polls(near)
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
        add_heat(world, "porch", source, "--stale", "off", *options, job=job, pin=pin)
    run = world.start("20")

    def wait_levels(*levels: int) -> None:
        for pin, level in zip(pins.values(), levels, strict=False):
            wait_level(board, level, pin, INTERVAL_S + SLACK_S)

    with world.client() as client:

        def put(value: str) -> None:
            client.delete("house", "hall", "attic")
            client.set("house", value)
            client.hset("hall", "t", value)
            client.set("attic", json.dumps({"t": value}))

        wait_polls(board)
        assert not writes_of(board), "never seen is stale, and the pins are off already"
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
        told = why(world, "porch", pins["hash"])
        assert (told["winner"]["rank"], told["winner"]["level"]) == ("fail-safe", 0)
        assert "no hall#t" in told["winner"]["why"]
        put("18")
        wait_levels(1, 1, 1)
        client.delete("house", "hall", "attic")
        for key in ("house", "hall", "attic"):
            client.rpush(key, "18")
        wait_levels(0, 0, 0)

        client.hset("cellar", "t", "18")
        wait_polls(board)
        assert board.pin(pins["dated"]).level == 0, "of unknown age"
        at = time.time()
        client.hset("cellar", "at", str(at))
        wait_level(board, 1, pins["dated"])
        wait_level(board, 0, pins["dated"])
        assert 2 <= time.time() - at <= 2 + INTERVAL_S + SLACK_S
    assert run.stop() == 0
    assert not run.events("board.lost", "pin.refused")


def test_a_board_of_2021_is_governed_too(world: World) -> None:
    """Its pins follow their jobs; it is never shown a lease or a fence, which it does not know."""
    with Board2021() as board:
        board.climate = (18.0, 40.0)
        world.espcli("register", board.address, "porch")
        world.espcli("device", "porch", "add_dht22", "air", str(DHT))
        add_heat(world, "porch", AIR, "--stale", "off")
        run = world.start("20")

        def follows(level: int) -> bool:
            return board.gpio[PIN] == level

        for celsius, level in ((18.0, 1), (25.0, 0), (18.0, 1)):
            board.climate = (celsius, 40.0)
            wait_for("its pin", partial(follows, level))
        board.gpio[PIN] = 0  # as by a reset
        wait_for("its pin is right again", partial(follows, 1))
        told = why(world, "porch")
        assert (told["wanted"], told["lease"]) == (1, None)
        assert run.stop() == 0
        assert not run.events("pin.refused", "board.lost")
        assert {path for _, path, _ in board.requests} == {"/", "/dht22", "/gpio"}
        writes = [form for _, path, form in board.requests if path == "/gpio"]
        on, off = {"pin": str(PIN), "value": "1"}, {"pin": str(PIN), "value": "0"}
        assert writes == [on, off, on, on]
