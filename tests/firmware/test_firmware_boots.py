"""Never lost: the switch, safe mode, the watchdog, and power cuts at any moment."""

import contextlib
import http.client
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from espnet import firmware
from espnet.firmware import Release
from espnet.simulator import Fleet
from espnet.simulator.fleet import Board

from .firmware_client import FIRMWARE, ask, raw, until
from .updating import Changes, act, record, release, stage, state, switch

#: A minute that makes a boot a good one takes two seconds.
SOON_GOOD = {"boots.py": [("_GOOD_S = const(60)", "_GOOD_S = const(2)")]}
HASTY = {"app.py": [("WATCHDOG_MS = const(30000)", "WATCHDOG_MS = const(1000)")]}


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return release(tmp_path_factory.mktemp("newer") / "esp32")


# Safe mode


def test_three_short_boots_lead_into_safe_mode_and_a_good_minute_out(make_board) -> None:
    """The fourth boot moves no pin; when it has lasted, it serves all calls again, without a reset."""
    board = make_board(SOON_GOOD)
    for boot in range(4):
        assert ask(board, "GET", "/").json["safe_mode"] is (boot == 3)
        if boot < 3:
            board.reset(counted=True)
    for path, body in (
        ("/gpio", b"pin=4&value=1"),
        ("/adc", b"read_pin=36"),
        ("/dht22", b"read_pin=15"),
    ):
        answer = ask(board, "POST", path, body)
        assert answer.status == 503
        assert "safe mode" in answer.json["error"]
    assert board.pin(4).level == 0
    assert ask(board, "GET", "/ui").status == 200
    assert any("Safe mode" in notice for notice in ask(board, "GET", "/details").json["notices"])
    assert state(board)["safe_mode"] is True
    until(lambda: ask(board, "GET", "/").json["safe_mode"] is False)
    assert ask(board, "POST", "/gpio", b"pin=4&value=1").status == 200
    assert board.boots == 4
    board.reset(counted=True)
    assert ask(board, "GET", "/").json["safe_mode"] is False


def test_good_minutes_between_keep_out_of_safe_mode(make_board) -> None:
    """Resets that are minutes apart, however many, are nobody's death."""
    board = make_board(SOON_GOOD)
    for _ in range(5):
        until(lambda: record(board)["short"] == 0)
        board.reset(counted=True)
        assert ask(board, "GET", "/").json["safe_mode"] is False
    assert ask(board, "GET", "/").json["boots"] == 6


def test_a_restart_that_was_asked_for_is_no_death(make_board) -> None:
    """However often somebody has a board restarted, that is no reason for safe mode."""
    board = make_board()
    for _ in range(5):
        boots = board.boots
        assert ask(board, "POST", "/restart").status == 200
        until(lambda boots=boots: board.boots > boots and board.phase == "ready")
        assert ask(board, "GET", "/").json["safe_mode"] is False
    assert record(board)["short"] == 1


def test_a_restart_happens_even_when_its_task_is_lost(make_board) -> None:
    """A board that has said that it restarts does so, or it would refuse every update for ever."""
    lost = ("    await asyncio.sleep_ms(500)\n", "    await asyncio.sleep_ms(10**8)\n")
    board = make_board({"boots.py": [lost]})
    assert ask(board, "POST", "/restart").status == 200
    until(lambda: board.boots == 2 and board.phase == "ready", 20)


def test_a_board_in_safe_mode_can_be_updated(make_board, newer: Release) -> None:
    """That is what safe mode is for."""
    board = make_board()
    for _ in range(3):
        board.reset(counted=True)
    assert state(board)["safe_mode"] is True
    stage(board, newer)
    switch(board, newer)
    assert ask(board, "GET", "/").json["safe_mode"] is False
    assert act(board, "confirm", newer).status == 200
    assert state(board)["build"] == newer.build


# The watchdog


def test_the_watchdog_resets_a_board_that_hangs(make_board) -> None:
    """A loop that lets nobody else run, with a bare `except` around it, ends by a reset that says so."""
    start = "    async def restart(self, request):\n"
    hang = """
        while True:
            try:
                pass
            except:
                pass
"""
    board = make_board({"calls.py": [(start, start + hang[1:])], **HASTY})
    with pytest.raises(ConnectionError):
        ask(board, "POST", "/restart")
    until(lambda: board.boots == 2 and board.phase == "ready")
    assert ask(board, "GET", "/").json["reset_cause"] == "watchdog"


def test_the_watchdog_resets_a_board_that_lets_nobody_in(make_board) -> None:
    """While the rest runs on, but no client can be let in any more, nobody feeds the watchdog."""
    admit = "                    self._admit(listener.accept()[0])\n"
    deaf = [
        (admit, admit.replace("self._admit(", "self._admit(self.served > 3 or ")),
        ("_HOPELESS = const(500)", "_HOPELESS = const(20)"),
    ]
    board = make_board({"web.py": deaf, **HASTY})

    def is_reset() -> bool:
        with contextlib.suppress(OSError):
            raw(board, b"GET / HTTP/1.1\r\n\r\n", timeout_s=1)
        return board.reset_cause == "watchdog"

    until(is_reset)


def test_a_board_that_starves_is_reset(make_board) -> None:
    """Ten minutes without memory, however well the rest runs, end by a reset; nine of them do not."""
    eater = """
async def eat():
    await asyncio.sleep_ms(300)
    chain = None
    while True:  # again and again: what others give back is eaten, too
        try:
            while True:
                chain = (chain, bytearray(512))
        except MemoryError:
            pass
        for _ in range(4):
            chain = chain[0]
        print("eaten")
        await asyncio.sleep_ms(5000)


async def tick():"""
    changes = [
        ("async def tick():", eater[1:]),
        ("starts = (tick,", "starts = (tick, eat,"),
        ("WATCHDOG_MS = const(30000)", "WATCHDOG_MS = const(10000)"),
    ]
    began = time.monotonic()
    board = make_board({"app.py": changes}, speed=60)
    until(lambda: "eaten" in board.console)
    with contextlib.suppress(OSError):  # a board that nobody asks does not even look at its memory
        raw(board, b"GET / HTTP/1.1\r\n\r\n")
    until(lambda: board.reset_cause == "watchdog", 40)
    assert time.monotonic() - began > 540 / 60


def test_an_idle_board_is_not_reset(make_board) -> None:
    """Nobody has to ask anything of a board for its watchdog to be fed."""
    board = make_board(HASTY)
    at_first = ask(board, "GET", "/").json["boot"]
    until(lambda: ask(board, "GET", "/").json["uptime_s"] >= 3)
    assert ask(board, "GET", "/").json["boot"] == at_first


# Bad releases


BAD: dict[str, tuple[Changes, str]] = {
    "raises at import": (
        {"web.py": [('"""A small HTTP/1.1', '1 // 0\n"""A small HTTP/1.1')]},
        "it ended with ZeroDivisionError",
    ),
    "does not even parse its parts": (
        {"app.py": [("import auth\n", "import auth\nimport nothing_like_that\n")]},
        "it ended with ImportError",
    ),
    "ends": ({"app.py": [("    boots.begin(choice)\n", "    raise SystemExit\n")]}, "SystemExit"),
    "returns": (
        {"app.py": [("    boots.begin(choice)\n", "    return\n    boots.begin(choice)\n")]},
        "it ended",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_release_is_undone(make_board, tmp_path: Path, kind: str) -> None:
    """It has its two boots, then the release before is back, and says why; the traceback is kept."""
    changes, why = BAD[kind]
    board = make_board()
    before = state(board)["build"]
    made = release(tmp_path / "bad", changes)
    stage(board, made)
    assert act(board, "switch", made).status == 200
    until(lambda: board.boots == 4 and board.phase == "ready", 60)
    found = state(board)
    assert (found["build"], found["trial_s"]) == (before, None)
    assert found["undone"]["build"] == made.build
    assert why in found["undone"]["why"]


def test_a_release_that_hangs_at_its_start_is_undone(make_board, tmp_path: Path) -> None:
    """The watchdog runs before the release does."""
    hang = {"app.py": [("    boots.begin(choice)\n", "    while True:\n        pass\n")]}
    board = make_board()
    before = state(board)["build"]
    made = release(tmp_path / "bad", hang)
    stage(board, made)
    assert act(board, "switch", made).status == 200
    board.set(speed=20)
    until(lambda: board.boots == 4 and board.phase == "ready", 60)
    found = state(board)
    assert found["build"] == before
    assert "watchdog" in found["undone"]["why"]


def test_a_trial_that_nobody_confirms_is_undone(make_board, newer: Release) -> None:
    """After its minutes, by the board's own clock, without anybody asking."""
    board = make_board()
    before = state(board)["build"]
    stage(board, newer)
    switch(board, newer, minutes=2)
    assert state(board)["build"] == newer.build
    board.set(speed=20)
    until(lambda: board.boots == 3 and board.phase == "ready", 30)
    found = state(board)
    assert (found["build"], found["undone"]["build"]) == (before, newer.build)
    assert found["undone"]["why"] == "it was not confirmed within 2 minutes"


def test_a_release_that_forgets_its_trial_is_undone(make_board, tmp_path: Path) -> None:
    """One that neither ends its trial nor lets anybody else do so: the switch does, by a timer of its own."""
    stuck = {
        "boots.py": [
            (
                "    if trial:\n        if uptime_s >= minutes * 60:\n",
                "    if trial:\n        if 0:\n",
            )
        ],
        "update.py": [
            ("async def act(board_id, body):\n", "async def act(board_id, body):\n    1 // 0\n")
        ],
    }
    board = make_board()
    before = state(board)["build"]
    made = release(tmp_path / "bad", stuck)
    stage(board, made)
    switch(board, made, minutes=1)
    assert act(board, "confirm", made).status == 500
    assert act(board, "undo").status == 500
    board.set(speed=20)
    until(lambda: board.boots == 3 and board.phase == "ready", 60)
    found = state(board)
    assert (found["build"], found["undone"]["build"]) == (before, made.build)
    assert "its time was over" in found["undone"]["why"]


def test_a_confirmed_release_runs_on(make_board, newer: Release) -> None:
    """The switch's timer does not end what was confirmed."""
    board = make_board()
    stage(board, newer)
    switch(board, newer, minutes=1)
    assert act(board, "confirm", newer).status == 200
    board.set(speed=20)
    # At this speed a request may have come too slowly for the board: then it is asked again.
    until(lambda: ask(board, "GET", "/").json.get("uptime_s", 0) > 200, 30)
    assert (board.boots, state(board)["build"]) == (2, newer.build)


def test_a_damaged_release_gives_way_to_the_one_before(make_board, newer: Release) -> None:
    """When what runs no longer starts, the confirmed release before it has its turn."""
    board = make_board()
    before = state(board)["build"]
    stage(board, newer)
    switch(board, newer)
    assert act(board, "confirm", newer).status == 200
    (board.flash / "b" / "calls.mpy").write_bytes(b"")
    board.set(speed=20)
    board.reset(wait=False)

    def is_back() -> bool:
        with contextlib.suppress(OSError):  # it restarts again and again
            return bool(state(board)["build"] == before)
        return False

    until(is_back, 60)
    assert "the release before" in state(board)["undone"]["why"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', '{"slot": "c"}', '{"trial": 7, "tries": []}',
                                  '{"slot": "b"}', '{"slot": "a", "trial": "b", "tries": 0}'])  # fmt: skip
def test_any_record_boots(make_board, text: str) -> None:
    """The switch's record may say anything: what lies whole on the flash runs."""
    board = make_board()
    (board.flash / "boot.json").write_text(text)
    board.reset()
    board.reset()
    board.reset()
    assert ask(board, "GET", "/").status == 200
    assert state(board)["slot"] == "a"


def test_a_full_flash_boots(make_board) -> None:
    """A boot that cannot be counted is not begun on trial, and is begun all the same."""
    board = make_board()
    (board.flash / "boot.json.new").mkdir()  # nothing can be written there any more
    board.reset()
    assert ask(board, "GET", "/").status == 200
    (board.flash / "boot.json").write_text(json.dumps({"slot": "a", "trial": "b", "tries": 0}))
    (board.flash / "b").mkdir()
    (board.flash / "b" / "manifest").write_text("")
    board.reset()
    assert state(board)["slot"] == "a"


def test_without_the_switch_the_release_still_runs(make_board) -> None:
    """main.py comes up with the first slot, whatever became of switch.py."""
    board = make_board()
    (board.flash / "switch.py").write_text("1 // 0\n")
    board.reset()
    assert ask(board, "GET", "/").status == 200


# The switch's rule, as a machine of states


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """switch.py in this Python; what it asks of the chip is a number."""
    chip = ModuleType("machine")
    monkeypatch.setitem(sys.modules, "machine", chip)
    monkeypatch.chdir(tmp_path)
    module = ModuleType("switch")
    exec(compile((FIRMWARE / "switch.py").read_text(), "switch.py", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("seed", range(20))
def test_the_rule_never_boots_what_is_not_whole(rule: Any, seed: int) -> None:
    """Whatever happens in whatever order: a whole slot runs, a trial has two boots at most, and a release
    that failed its trial never runs again."""
    chance = random.Random(seed)
    whole = {"a"}
    for slot in ("a", "b"):
        os.mkdir(slot)
    Path("a/manifest").touch()
    failed: set[str] = set()
    on_trial = 0
    for _ in range(200):
        shown = rule.load()
        slot, safe = rule.decide(shown, chance.random() < 0.3, chance.random() < 0.3)
        rule.save(shown)
        whole = {name for name in ("a", "b") if Path(name, "manifest").exists()}
        assert slot in whole
        assert slot not in failed
        if shown["trial"] == slot:
            on_trial += 1
            assert on_trial <= 2
            assert not safe
        elif on_trial:
            other = "b" if slot == "a" else "a"
            assert other not in whole
            on_trial = 0
        assert safe == (shown["short"] > 3 and shown["trial"] is None)
        event = chance.choice(["dies", "dies", "good minute", "update", "confirm"])
        shown = rule.load()
        other = "b" if slot == "a" else "a"
        if event == "good minute" and not on_trial:
            shown["short"] = 0
        elif event == "update" and not on_trial:
            Path(other, "manifest").touch()
            failed.discard(other)
            shown.update(slot=slot, trial=other, tries=0, previous=None, wanted={"build": "x"})
        elif event == "confirm" and on_trial:
            shown.update(slot=slot, trial=None, tries=0, short=0, previous=other)
            on_trial = 0
        rule.save(shown)


# Power cuts


def cut_at_random(board: Board, newer: Release, own: Release, cuts: int, seed: int) -> Counter[str]:
    """Updates the board again and again, while its power goes at random moments; counts what ran after."""
    chance = random.Random(seed)
    seen: Counter[str] = Counter()
    target, other = newer, own
    span_s = 0.4  # about what an update takes; measured below
    for _ in range(cuts):
        is_off = threading.Event()

        def cut(is_off: threading.Event = is_off) -> None:
            is_off.set()
            board.power(False)

        began = time.monotonic()
        timer = threading.Timer(chance.uniform(0, span_s), cut)
        timer.start()
        error: Exception | None = None
        try:
            stage(board, target)
            assert act(board, "switch", target).status == 200
            span_s = 0.9 * span_s + 0.1 * (time.monotonic() - began + 0.7)
        except (OSError, http.client.HTTPException, AssertionError, KeyError, ValueError) as found:
            error = found
        if error is not None and not is_off.is_set():
            raise error
        timer.join()
        board.power(True)
        running = state(board)
        assert running["build"] in (own.build, newer.build)
        seen[running["build"]] += 1
        if running["trial_s"] is None:
            continue
        if chance.random() < 0.7:
            assert act(board, "confirm", target).status == 200
            target, other = other, target
        else:
            boots = board.boots
            assert act(board, "undo").status == 200
            until(lambda boots=boots: board.boots > boots and board.phase == "ready")
    return seen


def test_power_cuts_during_updates(newer: Release) -> None:
    """The power goes at 200 random moments of updates: each time the old or the new release boots, whole, and
    in the end an update completes."""
    own = firmware.build(FIRMWARE)
    with Fleet(4) as fleet, ThreadPoolExecutor(4) as pool:
        work = [
            pool.submit(cut_at_random, board, newer, own, 50, seed)
            for seed, board in enumerate(fleet)
        ]
        seen = [each.result() for each in work]
        for board in fleet:
            target = own if state(board)["build"] == newer.build else newer
            if state(board)["trial_s"] is not None:
                act(board, "confirm", newer if target is own else own)
            stage(board, target)
            switch(board, target)
            assert act(board, "confirm", target).status == 200
            assert state(board)["build"] == target.build
    total = sum(seen, Counter())
    assert total.total() == 200
    assert min(total.values()) > 20, "the cuts did not fall into the updates"


def set_up_in_the_dark(board: Board, cuts: int, seed: int) -> Counter[str]:
    """Gives the board new settings again and again, while its power goes at random moments; counts the
    host names that hold afterwards."""
    chance = random.Random(seed)
    seen: Counter[str] = Counter()
    now = "before"
    began = time.monotonic()
    settings = {"hostname": now, "wifi": [{"ssid": "home", "password": "x" * 63}] * 8}
    assert ask(board, "POST", "/settings", settings).status == 200
    span_s = max(2 * (time.monotonic() - began), 0.02)
    for number in range(cuts):
        wanted = f"name{number}"
        timer = threading.Timer(chance.uniform(0, span_s), board.power, (False,))
        timer.start()
        with contextlib.suppress(OSError, http.client.HTTPException):
            time.sleep(chance.uniform(0, span_s / 2))
            ask(board, "POST", "/settings", {**settings, "hostname": wanted})
        timer.join()
        kept = json.loads((board.flash / "settings.json").read_text())
        assert kept["hostname"] in (now, wanted)
        seen["new" if kept["hostname"] == wanted else "old"] += 1
        now = kept["hostname"]
        board.power(True)
        assert ask(board, "GET", "/details").json["name"] == now
    return seen


def test_power_cuts_during_settings(tmp_path: Path) -> None:
    """The power goes at 200 random moments around a write of settings: the old ones hold, or the new ones."""
    with Fleet(4) as fleet, ThreadPoolExecutor(4) as pool:
        for board in fleet:
            (board.flash / "settings.json").write_text('{"hostname": "before"}')
        work = [
            pool.submit(set_up_in_the_dark, board, 50, seed) for seed, board in enumerate(fleet)
        ]
        seen = sum((each.result() for each in work), Counter())
    assert seen.total() == 200
    assert min(seen["old"], seen["new"]) > 20, "the cuts did not fall around the writes"
