"""Laws of `espcli doctor` about who may control the boards: by facts, and at real boards."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis
from claiming import Cli
from firmware.digest_client import claim_by_hand
from test_doctor import WELL, but, devices_with, is_one_problem

from espnet.cli.doctor import LISTED, report
from espnet.cli.facts import Facts, Lost, Passwords, Refusal
from espnet.cli.health import problems
from espnet.simulator import Board, Fleet

KEPT = Passwords(total=3, closed={}, unsealed=0)
KEY, OTHER_KEY = "A" * 43 + "=", "B" * 42 + "A="
REFUSED = Lost("d1", "does not take EspNet's password", None)


def access(kept: Passwords = KEPT, has_key: bool = False, **devices: Any) -> Facts:
    settings = but(WELL.settings, has_secret_key=has_key)
    return but(devices_with(**devices), passwords=kept, settings=settings)


TABLE: dict[str, tuple[Facts, str, str, str]] = {
    "open": (access(open=("d1",)), "remark", "d1 is open: everybody on the", "d1 credentials claim"),
    "several open": (
        access(open=("d1", "d2")), "remark", "d1, d2 are open: everybody", "d1 credentials claim",
    ),
    "unclaimed": (
        access(unclaimed=("d1",)),
        "problem", "d1 is open, though EspNet gave a password", "d1 credentials claim --again`",
    ),
    "denied": (
        access(denied=(REFUSED,)),
        "problem", "may not control d1 (does not take EspNet's password)", "d1 credentials claim --ask",
    ),
    "denied without a password": (
        access(denied=(Lost("d1", "", None),)),
        "problem", "may not control d1 (no password is kept)", "rm :claim.json + reset",
    ),
    "denied and silent": (
        access(denied=(REFUSED,), offline=(REFUSED,)),
        "problem", "may not control d1 (does not take", "d1 credentials claim --ask",
    ),
    "denied, so no pin is set": (
        but(access(denied=(REFUSED,)), refusals=(Refusal("d1", 4, REFUSED.what),)),
        "problem", "may not control d1", "--ask",
    ),
    "closed": (
        access(but(KEPT, closed={"d1": "is sealed, and there is no key"})),
        "problem", "EspNet's password for d1 is sealed, and there is no key.", "NEW,OLD",
    ),
    "closed, so denied": (
        access(but(KEPT, closed={"d1": "is damaged"}), denied=(REFUSED,)),
        "problem", "EspNet's password for d1 is damaged.", "ESPNET_SECRET_KEY",
    ),
    "unsealed": (
        access(but(KEPT, unsealed=2), has_key=True),
        "remark", "2 passwords are not sealed under ESPNET_SECRET_KEY", "`espcli seal`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_who_may_not_control_is_one_problem_with_a_next_step(name: str) -> None:
    """Each by itself; what follows from it (offline, pins that are not set) is not said once more."""
    is_one_problem(*TABLE[name])


def test_boards_that_are_claimed_are_no_problem() -> None:
    """Nor are plain passwords where nobody has chosen a key."""
    for facts in (access(), access(but(KEPT, unsealed=3)), access(KEPT, has_key=True)):
        assert problems(facts) == []


def test_what_programs_get_is_bounded_and_complete() -> None:
    """Counts and names of a fleet of thousands."""
    names = tuple(f"d{n}" for n in range(5000))
    every = dict.fromkeys(names, "is damaged")
    denied = tuple(Lost(name, "", None) for name in names)
    facts = access(Passwords(5000, every, 7), open=names, unclaimed=names, denied=denied)
    data: Any = report(facts).data
    for word in ("open", "unclaimed", "denied"):
        assert len(data["devices"][word]) == LISTED
    passwords = data["passwords"]
    assert (passwords["total"], passwords["unsealed"]) == (5000, 7)
    assert len(passwords["closed"]) == LISTED
    assert len(json.dumps(data)) < 50_000


# --- at real boards -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(1, seed=35, compiled=True) as fleet:
        yield fleet


@pytest.fixture
def board(fleet: Fleet) -> Board:
    fleet[0].unclaim()
    return fleet[0]


@pytest.fixture
def espcli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, settings: None
) -> Cli:
    return Cli(capsys, monkeypatch)


def about_access(espcli: Cli, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What the doctor says of who may control: severities, by the beginning of the sentence."""
    from espnet.cli import main

    capsys.readouterr()
    main(["doctor", "--json"])
    data = json.loads(capsys.readouterr().out)
    words = ("open", "control", "password")
    return {
        problem["what"]: problem["severity"]
        for problem in data["problems"]
        if any(word in problem["what"] for word in words)
    }


def test_the_doctor_knows_each_state_of_a_board(
    espcli: Cli,
    board: Board,
    raw: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Claimed, unsealed, closed, unclaimed by a cable, somebody else's, and open."""

    def says(what: str, severity: str) -> None:
        ((said, is_so),) = about_access(espcli, capsys).items()
        assert (what in said, is_so) == (True, severity), said

    espcli("register", board.address, "porch")
    assert about_access(espcli, capsys) == {}
    monkeypatch.setenv("ESPNET_SECRET_KEY", KEY)
    says("1 password is not sealed", "remark")
    assert espcli("seal") == "Sealed 1 password; sealed already: 0.\n"
    assert about_access(espcli, capsys) == {}
    monkeypatch.setenv("ESPNET_SECRET_KEY", OTHER_KEY)
    says("EspNet's password for porch was sealed under another", "problem")
    espcli("device", "porch", "update", code=1)
    says("EspNet's password for porch was sealed under another", "problem")
    monkeypatch.setenv("ESPNET_SECRET_KEY", KEY)
    espcli("device", "porch", "update")
    assert about_access(espcli, capsys) == {}
    board.unclaim()
    espcli("device", "porch", "update", code=1)
    says("porch is open, though EspNet gave a password", "problem")
    claim_by_hand(board, "a password of somebody")
    espcli("device", "porch", "update", code=1)
    says("may not control porch (does not take EspNet's password)", "problem")
    claim_by_hand(board, "a password of somebody", private=True)
    espcli("device", "porch", "update", code=1)
    says("may not control porch (does not take EspNet's password)", "problem")
    board.unclaim()
    espcli("unregister", "porch", "--forget")
    espcli("register", board.address, "porch", "--open")
    says("porch is open: everybody on the network", "remark")
    assert msgspec.json.decode(espcli("--json", "device", "porch"))["access"] == "open"
