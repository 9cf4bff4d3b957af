"""Laws of what is next in an update of several boards."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet.model import Climate, Reading
from espnet.rollout import (
    HEAP_FLOOR,
    RETRY_S,
    UNDER_WAY,
    Before,
    Progress,
    Rollout,
    before_of,
    decide,
    is_idle,
    problem_with,
    resumed,
    wave_sizes,
)

NOW = 1_750_000_000.0
ROLLOUT = Rollout(id="r1", build="b" * 12, version="2", minutes=10, settle_s=60, at=NOW)


def boards(*states: str, wave: int = 0) -> list[Progress]:
    return [
        Progress(id=f"id{n}", name=f"n{n}", number=n, state=state, wave=wave, since=NOW)  # type: ignore[arg-type]
        for n, state in enumerate(states)
    ]


def changed(board: Progress, **more: Any) -> Progress:
    return msgspec.structs.replace(board, **more)


# --- waves ----------------------------------------------------------------------------------------


def test_waves_are_one_a_tenth_and_the_rest() -> None:
    """And the tenth is one at least."""
    assert wave_sizes(1)[:2] == wave_sizes(9)[:2] == wave_sizes(19)[:2] == (1, 1)
    assert wave_sizes(20)[:2] == (1, 2)
    assert wave_sizes(5000) == (1, 500, math.inf)


def test_one_board_is_begun_first() -> None:
    """However many may be under way at once."""
    step = decide(ROLLOUT, boards(*["queued"] * 40), now=NOW, most=8)
    assert (step.begin, step.wave, step.state) == (("id0",), 1, None)


def test_a_wave_waits_for_the_one_before() -> None:
    """Nothing is begun while one board of it is on its way; then a tenth, then as many as may be."""
    fleet = boards(*["queued"] * 30)
    for state in UNDER_WAY:
        fleet[0] = changed(fleet[0], state=state, wave=1)
        assert decide(ROLLOUT, fleet, now=NOW, most=8).begin == ()
    fleet[0] = changed(fleet[0], state="done")
    step = decide(ROLLOUT, fleet, now=NOW, most=8)
    assert (step.begin, step.wave) == (("id1", "id2", "id3"), 2)
    for n in (1, 2, 3):
        fleet[n] = changed(fleet[n], state="done", wave=2)
    fleet[3] = changed(fleet[3], state="trial")
    assert decide(ROLLOUT, fleet, now=NOW, most=8).begin == ()
    fleet[3] = changed(fleet[3], state="done")
    step = decide(ROLLOUT, fleet, now=NOW, most=8)
    assert step.wave == 3
    assert len(step.begin) == 8


def test_a_board_that_failed_in_its_wave_halts_all() -> None:
    """With its name and its reason; what is under way is not begun anew, and no other board is begun."""
    fleet = boards("failed", "trial", "queued", "offline")
    fleet[0] = changed(fleet[0], wave=2, reason="went back to version 1: it crashed")
    fleet[1] = changed(fleet[1], wave=2)
    step = decide(ROLLOUT, fleet, now=NOW, most=8, back={"id3"})
    assert (step.state, step.begin) == ("halted", ())
    assert step.reason == "n0 went back to version 1: it crashed"
    halted = msgspec.structs.replace(ROLLOUT, state="halted")
    assert decide(halted, fleet, now=NOW, most=8) == ((), 0, None, "")
    assert not is_idle(halted, fleet)
    fleet[1] = changed(fleet[1], state="done")
    assert is_idle(halted, fleet)


def test_a_board_that_cannot_be_updated_halts_nothing() -> None:
    """Old firmware, too little flash: that says nothing of the new version, and stands in no wave."""
    fleet = boards("failed", "queued")
    assert decide(ROLLOUT, fleet, now=NOW, most=8).begin == ("id1",)
    assert decide(ROLLOUT, boards("failed", "skipped"), now=NOW, most=8).state == "done"


def test_a_board_that_is_away_waits_and_is_tried_when_it_was_heard_of() -> None:
    """Or after a while; until then the rollout goes on, and is not over."""
    fleet = boards("offline", "done")
    fleet[1] = changed(fleet[1], wave=1)
    assert decide(ROLLOUT, fleet, now=NOW + 1, most=8) == ((), 2, None, "")
    assert is_idle(ROLLOUT, fleet)
    assert decide(ROLLOUT, fleet, now=NOW + 1, most=8, back={"id0"}).begin == ("id0",)
    assert decide(ROLLOUT, fleet, now=NOW + RETRY_S, most=8).begin == ("id0",)


def test_who_resumes_leaves_behind_what_failed() -> None:
    """Boards that failed are out of their wave: another one is the first; or are tried again."""
    fleet = boards("failed", "queued", "queued")
    fleet[0] = changed(fleet[0], wave=1, reason="did not come back")
    halted = msgspec.structs.replace(ROLLOUT, state="halted", reason="n0 did not come back")
    rollout, after = resumed(halted, fleet, again=False)
    assert (rollout.state, rollout.reason) == ("running", "")
    assert after[0].reason == "did not come back"
    step = decide(rollout, after, now=NOW, most=8)
    assert (step.begin, step.wave) == (("id1",), 1)
    rollout, after = resumed(halted, fleet, again=True)
    assert (after[0].state, after[0].reason) == ("queued", "")
    assert decide(rollout, after, now=NOW, most=8).begin == ("id0",)


@settings(max_examples=300)
@given(
    count=st.integers(1, 60),
    most=st.integers(1, 10),
    fates=st.lists(
        st.sampled_from(["done", "done", "done", "done", "skipped", "away", "refused", "failed"]),
        min_size=200,
        max_size=200,
    ),
    order=st.randoms(use_true_random=False),
)
def test_whatever_becomes_of_boards_waves_hold(
    count: int, most: int, fates: list[str], order: Any
) -> None:
    """Never more at once than may be; no wave before the one before it is done; nothing after a failure;
    every board comes to an end, and so does the rollout."""
    fleet = {board.id: board for board in boards(*["queued"] * count)}
    rollout, luck, now = ROLLOUT, iter(fates), NOW
    sizes, tries = wave_sizes(count), 0
    while rollout.state == "running":
        tries += 1
        assert tries < 2000
        now += RETRY_S
        step = decide(rollout, list(fleet.values()), now=now, most=most)
        if step.state is not None:
            assert not step.begin
            rollout = msgspec.structs.replace(rollout, state=step.state)
            break
        for board_id in step.begin:
            assert fleet[board_id].state in ("queued", "offline")
            fleet[board_id] = changed(fleet[board_id], state="sending", wave=step.wave)
        under_way = [board for board in fleet.values() if board.state in UNDER_WAY]
        assert len(under_way) <= most
        waves = {board.wave for board in under_way}
        assert len(waves) <= 1
        for board in fleet.values():
            if waves and 0 < board.wave < max(waves):
                assert board.state == "done"
        for number, most_of_wave in enumerate(sizes, 1):
            assert sum(board.wave == number for board in fleet.values()) <= most_of_wave
        assert under_way, "it waits for nobody"
        board = order.choice(under_way)
        if board.state == "sending" and order.random() < 0.5:
            fleet[board.id] = changed(board, state="trial")
            continue
        fate = next(luck, "done")
        end = {
            "done": {"state": "done"},
            "skipped": {"state": "skipped", "wave": 0},
            "away": {"state": "offline", "wave": 0, "since": now},
            "refused": {"state": "failed", "wave": 0},
            "failed": {"state": "failed"},
        }[fate]
        fleet[board.id] = changed(board, **end)
    bad = any(board.state == "failed" and board.wave for board in fleet.values())
    assert rollout.state == ("halted" if bad else "done")
    if not bad:
        assert all(b.state in ("done", "skipped", "failed") for b in fleet.values())


# --- does it work ---------------------------------------------------------------------------------


def reading(build: str = "b" * 12, **more: Any) -> Reading:
    status = {
        "id": "id0",
        "f": 98.6,
        "gpio": {"2": 0, "4": 1},
        "mem_free": 40_000,
        "build": build,
        "trial": True,
        "safe_mode": False,
        **more.pop("status", {}),
    }
    return Reading(
        at=NOW,
        poll_s=0.1,
        interval_s=10,
        collector="me",
        status=msgspec.Raw(json.dumps(status).encode()),
        **{"dht22": {"air": Climate(20.0, 40.0)}, "adc": {36: 2000.0}, **more},
    )


BEFORE = before_of(reading("a" * 12))


def test_what_works_as_before_has_no_problem() -> None:
    """Nor has what works better: a sensor that came back, more heap, another pin."""
    assert BEFORE.build == "a" * 12
    assert problem_with(BEFORE, reading(), "b" * 12) == ""
    more = {"mem_free": 80_000, "gpio": {"2": 1, "4": 0, "5": 0}}
    assert problem_with(BEFORE, reading(status=more), "b" * 12) == ""
    assert problem_with(Before(), reading(), "b" * 12) == ""


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (reading("a" * 12), "runs aaaaaaaaaaaa, not bbbbbbbbbbbb"),
        (reading(status={"build": None}), "runs a version without a build, not bbbbbbbbbbbb"),
        (reading(status={"safe_mode": True}), "is in safe mode"),
        (reading(status={"f": None}), "no longer tells its temperature"),
        (reading(status={"gpio": {"2": 0}}), "no longer has pin 4"),
        (reading(status={"mem_free": 19_999}), "has 19999 bytes of heap free, of 40000 before"),
        (reading(dht22={}, dht22_errors={"air": "timed out"}), "its DHT22 air: it timed out"),
        (reading(adc={}, adc_errors={36: "was not read"}), "the ADC of pin 36: it was not read"),
        (reading(denied="does not take our password"), "does not take our password"),
    ],
)
def test_what_no_longer_works_is_said(after: Reading, said: str) -> None:
    """Each as the end of a sentence about the board."""
    assert problem_with(BEFORE, after, "b" * 12).endswith(said)


def test_what_a_person_took_away_is_no_problem() -> None:
    """A sensor that is asked for no longer is among neither the readings nor the errors."""
    assert problem_with(BEFORE, reading(dht22={}, adc={}), "b" * 12) == ""


def test_what_did_not_work_before_need_not_work() -> None:
    """A board without a chip thermometer, with a broken sensor, with little heap."""
    before = before_of(
        reading(status={"f": None, "mem_free": 6000}, dht22={}, dht22_errors={"air": "silent"})
    )
    after = reading(
        status={"f": None, "mem_free": HEAP_FLOOR}, dht22={}, dht22_errors={"air": "silent"}
    )
    assert problem_with(before, after, "b" * 12) == ""
    lower = reading(status={"mem_free": HEAP_FLOOR - 1})
    assert "heap" in problem_with(before, lower, "b" * 12)
