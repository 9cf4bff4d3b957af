"""Laws of `espcli doctor` about what boards run, and what became of the latest update: by facts."""

import json
from typing import Any

import pytest
from test_doctor import WELL, but, devices_with

from espnet.cli.doctor import report
from espnet.cli.facts import Facts, Update
from espnet.cli.health import problems

ONE = {"0.2.0 aaaaaaaaaaaa": 3}
TWO = {"0.2.0 aaaaaaaaaaaa": 2, "0.3.0 bbbbbbbbbbbb": 1}


def updated(state: str, reason: str = "", *, is_driven: bool = False, **devices: Any) -> Facts:
    update = Update("0.3.0", state, reason, {"done": 1}, ("d1",), is_driven)
    return but(devices_with(**devices), update=update)


@pytest.mark.parametrize(
    ("facts", "severity", "what", "next_step"),
    [
        (
            devices_with(safe_mode=("d1",)),
            *("problem", "d1 is in safe mode", "`espcli update d1`"),
        ),
        (
            devices_with(safe_mode=("d1", "d2")),
            *("problem", "d1, d2 are in safe mode", "`espcli update d1`"),
        ),
        (
            updated("halted", "d2 went back to version 0.2.0: it crashed"),
            *("problem", "to 0.3.0 is halted: d2 went back to version", "update resume"),
        ),
        (
            but(updated("running"), collectors=()),
            *("problem", "nobody goes on with it", "`espcli run`"),
        ),
        (devices_with(trial=("d1",)), "remark", "d1 tries a version", "update status"),
        (devices_with(versions=TWO), "remark", "0.3.0 bbbbbbbbbbbb on 1 board", "update --all"),
        (updated("stopped", versions=TWO), "remark", "different versions", "update --all"),
    ],
)
def test_what_needs_somebody_is_said(
    facts: Facts, severity: str, what: str, next_step: str
) -> None:
    """One problem or remark, with what to do about it."""
    found = [one for one in problems(facts) if what in one.what]
    assert [one.severity for one in found] == [severity], problems(facts)
    assert next_step in found[0].next_step


@pytest.mark.parametrize(
    "facts",
    [
        devices_with(versions=ONE),
        devices_with(versions={"0.2.0 aaaaaaaaaaaa": 2, "0.1.0": 1, "unknown": 1}),
        updated("running", versions=TWO),
        updated("done", versions=ONE),
        updated("running", is_driven=True, trial=("d1",)),
        WELL,
    ],
)
def test_what_goes_its_way_is_not_said(facts: Facts) -> None:
    """An update under way, boards that try what it gave them, a fleet of one version, boards of 2021."""
    assert problems(facts) == []


def test_the_page_and_the_object_have_it(capsys: pytest.CaptureFixture[str]) -> None:
    """What boards run, and how far the update is."""
    shown = report(updated("halted", "d1 crashed", versions=TWO, safe_mode=("d1",)))
    lines = [line.text for part in shown.parts for line in getattr(part, "lines", ())]
    assert any("0.2.0 aaaaaaaaaaaa on 2" in line for line in lines)
    assert any("update to 0.3.0: halted" in line for line in lines)
    data = json.loads(json.dumps(shown.data))
    assert data["update"]["state"] == "halted"
    assert data["devices"]["versions"] == TWO
    assert data["devices"]["safe_mode"] == ["d1"]
