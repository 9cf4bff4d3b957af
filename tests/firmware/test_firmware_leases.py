"""Leases and fences: what a board does by itself, and whom it obeys."""

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from .firmware_client import FIRMWARE, WRITABLE, Board, ask, levels, until


def lease(board: Board, pin: int | str, lease_s: int, **more: Any) -> None:
    answer = ask(board, "POST", "/gpio", {"pin": pin, "value": 1, "lease_s": lease_s, **more})
    assert answer.status == 200, answer.body


def status(board: Board, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = ask(board, "GET", "/" + query).json
    return found


def test_a_lease_is_shown(board: Board) -> None:
    """GET / shows the time left, rounded up, and the safe level of each leased pin."""
    lease(board, "4,5", 30)
    lease(board, 12, 60, safe="hold")
    assert status(board)["leases"] == {
        "4": {"left_s": 30, "safe": "low"},
        "5": {"left_s": 30, "safe": "low"},
        "12": {"left_s": 60, "safe": "hold"},
    }
    form = b"pin=13&value=1&lease_s=15&safe=high"
    assert ask(board, "POST", "/gpio", form).status == 200
    assert status(board)["leases"]["13"] == {"left_s": 15, "safe": "high"}


def test_a_lease_that_runs_out(make_board) -> None:
    """Within a second after its end the pin is at its safe level, low unless another one was given, and
    the end was counted once."""
    board = make_board()
    started = time.monotonic()
    safe = {4: {"safe": "low"}, 5: {"safe": "high"}, 12: {"safe": "hold"}, 13: {}}
    for pin, given in safe.items():
        lease(board, pin, 1, **given)
    assert [board.pin(pin).level for pin in safe] == [1] * 4
    leased = time.monotonic()
    until(lambda: len(status(board)["leases"]) < 4, limit_s=4)
    assert time.monotonic() - started > 0.9
    until(lambda: not status(board)["leases"], limit_s=4)
    assert time.monotonic() - leased < 2.2
    assert [board.pin(pin).level for pin in safe] == [0, 1, 1, 0]
    assert status(board)["leases_expired"] == 4


def test_only_a_fence_renews(make_board) -> None:
    """A poll with the fence in charge renews all leases; one without, or outdated, does not."""
    board = make_board()
    assert status(board)["fence"] == 0
    lease(board, 4, 1, fence=7)
    lease(board, 5, 1)
    granted = time.monotonic()
    while time.monotonic() - granted < 2:  # twice as long as they last
        assert set(status(board, "?fence=7")["leases"]) == {"4", "5"}
        time.sleep(0.1)
    assert board.pin(4).level == board.pin(5).level == 1

    def expired() -> bool:
        status(board)
        return int(status(board, "?fence=6")["leases_expired"]) == 2

    until(expired, limit_s=4)
    assert not any(levels(board).values())
    assert status(board)["fence"] == 7


def test_a_poll_raises_the_fence(make_board) -> None:
    """GET / with a higher fence is the newest controller; the older one is refused from then on."""
    board = make_board()
    assert status(board, "?a=b&fence=41&c")["fence"] == 41
    answer = ask(board, "POST", "/gpio", {"pin": 4, "value": 1, "fence": 40})
    assert answer.status == 409
    assert answer.json["field"] == "fence"
    assert answer.json["fence"] == 41
    assert not board.pin(4).level


def test_an_outdated_fence_changes_nothing(make_board) -> None:
    """Every state-changing call refuses a lower fence with 409 and tells the highest one."""
    board = make_board()
    lease(board, 4, 30, fence=10**15)
    before = status(board)
    for path, body in [
        ("/gpio", {"pin": 4, "value": 0}),
        ("/gpio", {"pin": 5, "value": 1, "lease_s": 60}),
        ("/adc", {"read_pin": 36, "power_pin": 5, "samples": 1}),
        ("/dht22", {"read_pin": 15}),
        ("/set_host", {"ip": "10.9.9.9"}),
    ]:
        answer = ask(board, "POST", path, {**body, "fence": 10**15 - 1})
        assert answer.status == 409, path
        assert answer.json["fence"] == 10**15
    after = status(board)
    for field in ("gpio", "leases", "espnet_host", "fence"):
        assert after[field] == before[field]
    assert levels(board)[5] == 0


def test_equal_and_absent_fences_pass(make_board) -> None:
    """The controller in charge goes on with its number; a person needs none."""
    board = make_board()
    for body in ({"fence": 5}, {"fence": 5}, {}, {"fence": "6"}, {}):
        assert ask(board, "POST", "/gpio", {"pin": 4, "value": 2, **body}).status == 200
    assert ask(board, "POST", "/gpio", b"pin=4&value=0&fence=7").status == 200
    assert status(board)["fence"] == 7


def test_a_refused_request_leaves_the_fence(make_board) -> None:
    """A fence is remembered only with a request that is right in everything else."""
    board = make_board()
    assert ask(board, "POST", "/gpio", {"pin": 34, "value": 1, "fence": 9}).status == 403
    assert ask(board, "POST", "/gpio", {"pin": 4, "value": 3, "fence": 9}).status == 422
    assert status(board)["fence"] == 0


@pytest.mark.parametrize("fence", ["x", "", "-1", "1.5", "0x1", "1&fence=2"])
def test_a_malformed_fence_in_a_query(board: Board, fence: str) -> None:
    """A fence that is not one number is refused, not ignored."""
    answer = ask(board, "GET", "/?fence=" + fence)
    assert (answer.status, answer.json["field"]) == (400, "fence")


BAD_LEASES = [
    ({"value": 0, "lease_s": 30}, 422, "lease_s"),
    ({"value": 2, "lease_s": 30}, 422, "lease_s"),
    ({"value": 1, "lease_s": 0}, 422, "lease_s"),
    ({"value": 1, "lease_s": 86401}, 422, "lease_s"),
    ({"value": 1, "lease_s": 1.5}, 400, "lease_s"),
    ({"value": 1, "lease_s": None}, 400, "lease_s"),
    ({"value": 1, "lease_s": True}, 400, "lease_s"),
    ({"value": 1, "lease_s": 30, "safe": "off"}, 422, "safe"),
    ({"value": 1, "lease_s": 30, "safe": 0}, 400, "safe"),
    ({"value": 1, "safe": "low"}, 422, "safe"),
    ({"value": 1, "fence": 0}, 422, "fence"),
    ({"value": 1, "fence": -5}, 422, "fence"),
    ({"value": 1, "fence": "latest"}, 400, "fence"),
    ({"value": 1, "fence": 10**15 + 1}, 422, "fence"),
]


@pytest.mark.parametrize(("body", "code", "field"), BAD_LEASES)
def test_bad_leases_and_fences(board: Board, body: dict[str, Any], code: int, field: str) -> None:
    """A lease that is not exactly right leases and switches nothing."""
    answer = ask(board, "POST", "/gpio", {"pin": 4, **body})
    assert (answer.status, answer.json["field"]) == (code, field)
    assert not board.pin(4).level
    assert status(board)["leases"] == {}


@pytest.mark.parametrize("value", [0, 1, 2])
def test_a_write_without_a_lease_ends_it(board: Board, value: int) -> None:
    """The last write decides: by hand a pin stays as it was put, and only that pin."""
    lease(board, "4,5", 30)
    ask(board, "POST", "/gpio", {"pin": 4, "value": value})
    found = status(board)
    assert list(found["leases"]) == ["5"]
    assert found["gpio"]["4"] == (value == 1)


def test_a_new_lease_replaces_the_old_one(board: Board) -> None:
    """A later lease may be shorter and have another safe level."""
    lease(board, 4, 60)
    lease(board, 4, 20, safe="high")
    assert status(board)["leases"] == {"4": {"left_s": 20, "safe": "high"}}


def test_measuring_respects_leases(board: Board) -> None:
    """A leased pin is not borrowed for a measurement."""
    lease(board, "4,33", 30)
    for path, body, field in [
        ("/adc", {"read_pin": 36, "power_pin": 4}, "power_pin"),
        ("/adc", {"read_pin": 33}, "read_pin"),
        ("/dht22", {"read_pin": 4}, "read_pin"),
    ]:
        answer = ask(board, "POST", path, body)
        assert (answer.status, answer.json["field"]) == (403, field)
    assert board.pin(4).level == board.pin(33).level == 1


def test_a_failed_write_grants_no_lease(make_board) -> None:
    """When the hardware refuses, leases are as they were before."""
    broken = """
import hardware
drive = hardware.drive
def refuse(pin, level):
    if pin == 21 and level:
        raise OSError(5)
    drive(pin, level)
hardware.drive = refuse
"""
    board = make_board(before_main=broken)
    lease(board, 4, 30)
    body = {"pin": "4,5,21", "value": 1, "lease_s": 60}
    assert ask(board, "POST", "/gpio", body).status == 503
    assert status(board)["leases"] == {"4": {"left_s": 30, "safe": "low"}}


def test_a_reset_ends_leases(make_board) -> None:
    """After a reset there are no leases, no fence, and the pins are low."""
    board = make_board()
    lease(board, 4, 30, fence=3, safe="high")
    board.reset()
    found = status(board)
    assert (found["leases"], found["leases_expired"], found["fence"]) == ({}, 0, 0)
    assert not any(levels(board).values())


def test_the_program_ends_with_safe_levels(make_board) -> None:
    """When the program is interrupted, as mpremote does, leased pins go to their safe levels."""
    interrupt = """
import asyncio
async def _interrupt():
    await asyncio.sleep_ms(800)
    raise KeyboardInterrupt
asyncio.create_task(_interrupt())
"""
    board = make_board(before_main=interrupt)
    lease(board, 4, 300)
    lease(board, 5, 300, safe="hold")
    until(lambda: board.phase == "halted")
    assert (board.pin(4).level, board.pin(5).level) == (0, 1)


def test_every_pin_can_be_leased_at_once(board: Board) -> None:
    """All writable pins under lease: GET / is whole, and renewing them all works."""
    lease(board, ",".join(map(str, WRITABLE)), 30, fence=2)
    found = status(board, "?fence=2")
    assert sorted(map(int, found["leases"])) == WRITABLE
    assert all(found["gpio"][str(pin)] for pin in WRITABLE)


def run_on_micropython(program: str) -> Any:
    """What a program prints as JSON, run by MicroPython with the firmware's folder as its path."""
    micropython = Path(sys.executable).with_name("micropython")
    source = f"import sys\nsys.path.insert(0, {str(FIRMWARE)!r})\n" + textwrap.dedent(program)
    run = subprocess.run(
        [micropython, "-c", source], capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout)


TICKS = """
import json
from clock import Clock
from leases import Leases

PERIOD = 1 << 30  # of an ESP32's ticks_ms: 12.4 days
ticks = PERIOD - START_BEFORE_WRAP
def ticks_ms():
    return ticks
def ticks_diff(a, b):
    return ((a - b + PERIOD // 2) & (PERIOD - 1)) - PERIOD // 2
def advance(ms):
    global ticks
    ticks = (ticks + ms) & (PERIOD - 1)
"""


def test_the_clock_survives_the_wrap() -> None:
    """Over five wraps of ticks_ms the time only grows, by exactly what went by."""
    program = """
    clock = Clock(ticks_ms, ticks_diff)
    total = 0
    for step in range(400):
        ms = (step * 7919 * 7919) % (PERIOD // 2 - 1) if step % 3 else 500
        advance(ms)
        total += ms
        assert clock.now_ms() == total
        assert clock.uptime_s() == total // 1000
    assert total > 5 * PERIOD
    print(json.dumps(total > 0))
    """
    ticks = TICKS.replace("START_BEFORE_WRAP", "1")
    assert run_on_micropython(ticks + textwrap.dedent(program)) is True


@pytest.mark.parametrize("before_wrap", [1, 400, 999, 1000, 15_000, 29_999])
def test_leases_survive_the_wrap(before_wrap: int) -> None:
    """A lease that spans the wrap of ticks_ms, renewed or not, ends on time and not before."""
    program = """
    driven = []
    clock = Clock(ticks_ms, ticks_diff)
    leases = Leases(clock, lambda pin, level: driven.append([pin, level]))
    leases.adopt(leases.planned([4], 15, "low"))
    leases.adopt(leases.planned([5], 30, "high"))
    advance(14999)
    leases.expire()
    first = list(driven)
    leases.renew()
    advance(14999)
    leases.expire()
    second = list(driven)
    advance(1)
    leases.expire()
    third = list(driven)
    advance(15000)
    leases.expire()
    print(json.dumps([first, second, third, driven, leases.expired, leases.json()]))
    """
    ticks = TICKS.replace("START_BEFORE_WRAP", str(before_wrap))
    found = run_on_micropython(ticks + textwrap.dedent(program))
    assert found == [[], [], [[4, 0]], [[4, 0], [5, 1]], 2, "{}"]


def test_a_pin_that_cannot_be_set_is_tried_again() -> None:
    """A lease whose pin fails at its end stays until the pin is at its safe level."""
    program = """
    driven = []
    fails = 2
    def drive(pin, level):
        global fails
        if pin == 4 and fails:
            fails -= 1
            raise OSError(5)
        driven.append([pin, level])
    clock = Clock(ticks_ms, ticks_diff)
    leases = Leases(clock, drive)
    leases.adopt(leases.planned([4, 5], 1, "low"))
    import sys
    found = []
    builtins_print, print_ = print, lambda *a: None
    import builtins
    builtins.print = print_
    for _ in range(3):
        advance(1000)
        leases.expire()
        found.append([list(driven), leases.expired])
    builtins.print = builtins_print
    print(json.dumps(found))
    """
    ticks = TICKS.replace("START_BEFORE_WRAP", "1")
    assert run_on_micropython(ticks + textwrap.dedent(program)) == [
        [[[5, 0]], 1],
        [[[5, 0]], 1],
        [[[5, 0], [4, 0]], 2],
    ]
