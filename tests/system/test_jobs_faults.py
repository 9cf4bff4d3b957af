"""Jobs end to end when things fail: sensors, boards, collectors, Redis.

Real firmware, real `espcli run` processes.
"""

import signal
import time

from espnet.simulator import Board

from .governing import (
    AIR,
    INTERVAL_S,
    LEASE_S,
    PIN,
    SLACK_S,
    TIMEOUT_S,
    add_heat,
    add_timer,
    air,
    ask,
    set_up,
    wait_level,
    wait_polls,
    why,
    writes_of,
)
from .world import World, polls, wait_for

LOCK_TTL_S = 3 * TIMEOUT_S + 5


def test_a_sensor_that_fails_leads_to_what_was_configured(world: World, fresh: list[Board]) -> None:
    """A sensor that is unplugged is stale at the next poll: the pin goes off, goes on, or stays as it
    is, as its job says, within one interval. So does the pin whose input's device is away, as soon as
    its reading is older than the job allows, and not before. Plugged in again, all is right again."""
    names = ("goes-off", "goes-on", "holds")
    off, on, hold, away = fresh[:4]
    for name, board in zip(names, fresh, strict=False):
        set_up(world, board, name, 18)
    set_up(world, away, "away", 18)
    for name, stale in zip(names, ("off", "on", "hold"), strict=True):
        add_heat(world, name, f"{name}.dht22.air.temp", "--stale", stale)
    options = ("--stale", "off", "--max_age", "2")
    add_heat(world, "holds", "away.dht22.air.temp", *options, job="other", pin=5)
    run = world.start("20")
    for board in (off, on, hold):
        wait_level(board, 1)
    wait_level(hold, 1, 5)
    air(on, 25)
    wait_level(on, 0)

    for board in (off, on, hold):
        air(board, None)
    # A poll, and the time that a sensor takes to say nothing.
    wait_level(off, 0, within_s=INTERVAL_S + TIMEOUT_S + SLACK_S)
    wait_level(on, 1, within_s=INTERVAL_S + TIMEOUT_S + SLACK_S)
    wait_polls(hold)
    assert hold.pin(PIN).level == 1
    told = why(world, "goes-off")
    assert (told["level"], told["wanted"], told["winner"]["rank"]) == (0, 0, "fail-safe")
    assert "stale means off" in told["winner"]["why"]
    told = why(world, "holds")
    assert (told["wanted"], told["winner"]["rank"]) == (1, "on")

    away.power(False)
    gone_s = time.monotonic()
    last_s = polls(away)[-1].at_s
    wait_level(hold, 0, 5, within_s=2 + INTERVAL_S + SLACK_S)
    assert time.monotonic() - last_s >= 2 - 0.1, (gone_s, last_s)
    assert "at most 2 s are allowed" in why(world, "holds", 5)["winner"]["why"]
    away.power(True)
    for board in (off, on, hold):
        air(board, 25)
    for board in (off, on, hold):
        wait_level(board, 0)
    for board in (off, on, hold):
        air(board, 18)
    for board in (off, on, hold):
        wait_level(board, 1)
    wait_level(hold, 1, 5)
    assert run.stop() == 0
    assert not run.events("pin.refused")


def test_a_board_that_was_reset_is_right_after_one_poll(world: World, fresh: list[Board]) -> None:
    """A reset switches everything off; the first poll that the board answers puts it right."""
    board = fresh[0]
    set_up(world, board, "porch", 18)
    add_heat(world, "porch", AIR, "--stale", "off")
    add_timer(world, "porch", "lamp", 5)
    run = world.start("20")
    for cause in ("hard", "watchdog", "power"):
        wait_level(board, 1)
        wait_level(board, 1, 5)
        reset_s = time.monotonic()
        board.reset(cause)
        # A pin is on before the board has answered.
        wait_for("a write", lambda: any(w.answered_s for w in writes_of(board, reset_s)))  # noqa: B023
        wait_level(board, 1)
        wait_level(board, 1, 5)
        answered = [
            r.path.split("?")[0]
            for r in board.requests
            if r.at_s > reset_s and r.answered_s and r.status != 401
        ]
        assert answered[: answered.index("/gpio")].count("/") == 1, answered
        assert answered.count("/gpio") == 1, "both pins go on in one call"
        assert set(ask(board)["leases"]) == {str(PIN), "5"}
    assert run.stop() == 0


def test_a_collector_that_comes_too_late_writes_nothing(world: World, fresh: list[Board]) -> None:
    """A collector that was stopped (SIGSTOP) between its reading and its write, and goes on when its
    lock went to another one, knows how late it is: the pin stays as the other one decided. (Would it
    write, the board would refuse the lower fence: `test_visit`, and the firmware's own tests.)"""
    board = fresh[0]
    set_up(world, board, "porch", 25)
    add_heat(world, "porch", AIR, "--stale", "on")
    late = world.start("20")

    def freeze() -> bool:
        """Stops it while it waits for the sensor, after it read that the pin is off."""
        wait_level(board, 0)
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
        wait_polls(board)
        return False

    wait_for("it is stopped in the middle", freeze)
    stopped_s = time.monotonic()
    other = world.start("20")
    wait_for("the other one's polls", lambda: len(polls(board, stopped_s)) >= 2, LOCK_TTL_S + 5)
    assert board.pin(PIN).level == 0
    fence = ask(board)["fence"]
    woken_s = time.monotonic()
    late.send(signal.SIGCONT)
    late.wait_for_event("poll.void")
    wait_polls(board)
    assert writes_of(board, woken_s) == []
    assert not late.events("pin.refused")
    assert board.pin(PIN).level == 0
    told = why(world, "porch")
    # What the late one thought is not believed either.
    assert (told["level"], told["wanted"], told["winner"]["rank"]) == (0, 0, "off")
    assert ask(board)["fence"] > fence
    assert [late.stop(), other.stop()] == [0, 0]


def test_writes_work_again_after_redis_forgot_everything(world: World, fresh: list[Board]) -> None:
    """A board that has seen higher fences than Redis now knows is governed as before, at the first
    poll: nothing is refused, leases are given and renewed."""
    board = fresh[0]
    world.espcli("register", board.address, "porch", "--open")
    add_timer(world, "porch", "lamp", PIN)
    run = world.start("20")
    wait_level(board, 1)
    with world.client() as client:
        # As after a year of grants.
        client.set("espnet:fence", 1_000_000)
        wait_for("the board has seen it", lambda: ask(board)["fence"] > 1_000_000)
        client.flushall()
    board.forget_requests()
    world.espcli("register", board.address, "porch", "--open")
    add_timer(world, "porch", "fan", 5)
    wait_level(board, 1, 5)
    wait_polls(board)
    fence = ask(board)["fence"]
    assert fence > 1_000_000
    assert [write.status for write in writes_of(board)] == [200]
    wait_polls(board)
    told = ask(board)
    assert told["fence"] > fence
    assert told["leases"]["5"]["left_s"] > LEASE_S - 2 * INTERVAL_S - 1
    world.espcli("device", "porch", "remove_job", "fan", "--off")
    assert board.pin(5).level == 0
    assert run.stop() == 0
    assert not run.events("pin.refused")
