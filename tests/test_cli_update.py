"""Laws of `espcli update`: wrong words do nothing, and what it says of an update is what Redis has."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from claiming import Cli, everything

from espnet import firmware
from espnet.cli.updating import ORDERS
from espnet.model import Device, Reading
from espnet.rollout import Before, Progress, Rollout
from espnet.store import Store

pytestmark = pytest.mark.usefixtures("settings")

NOW = 1_000_000.0
STATUS = b'{"id":"b1","f":98.6,"gpio":{"2":1}}'


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(capsys, monkeypatch)


def register(store: Store, name: str, number: int, *tags: str) -> None:
    device = Device(id=f"b{number}", name=name, address=f"127.0.0.1:{number}", tags=tags)
    reading = Reading(at=NOW, poll_s=0.1, interval_s=10, collector="me", status=msgspec.Raw(STATUS))
    store.add(device, reading, first_due=NOW)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "Which boards"),
        ("porch --all", "two ways"),
        ("--all --tag room=attic", "two ways"),
        ("porch --tag room=attic", "two ways"),
        ("porch --device attic", "two ways"),
        ("--all=yes", "takes no value"),
        ("--tag", "needs a value"),
        ("--tag 1=2", "tag"),
        ("--all --to", "needs a value"),
        ("--all --to 99.99", "update releases"),
        ("--all --to /nowhere/at/all", "no folder"),
        ("--all --minutes 0", "--minutes"),
        ("--all --minutes 61", "--minutes"),
        ("--all --minutes 1.5", "--minutes"),
        ("--all --minutes ten", "--minutes"),
        ("--all --settle -1s", "--settle"),
        ("--all --settle 1h", "--settle"),
        ("--all --minutes 1 --settle 31", "half"),
        ("--all --detach=1", "takes no value"),
        ("--all --again", "resume"),
        ("status --all", "--device status"),
        ("status --to 1", "--device status"),
        ("stop --detach", "--device stop"),
        ("releases --minutes 5", "--device releases"),
        ("resume --settle 5", "--device resume"),
        ("--all --wave 2", "no option"),
        ("-a", "no option"),
        ("porch porch --to a --to b", "twice"),
    ],
)
def test_wrong_words_do_nothing(
    cli: Cli, store: Store, raw: redis.Redis, words: str, said: str
) -> None:
    """One sentence, exit code 2, and Redis is what it was."""
    register(store, "porch", 1)
    before = everything(raw)
    assert said in cli("update", *words.split(), code=2)
    assert everything(raw) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("attic", "No device is named 'attic'"),
        ("porch attic", "No device is named 'attic'"),
        ("--device status", "No device is named 'status'"),
        ("status porch", "No device is named 'status'"),
        ("--tag room=cellar", "room:cellar"),
        ("status", "update --all"),
        ("resume", "update --all"),
        ("stop", "update --all"),
        ("porch --to FOLDER", "main.py"),
    ],
)
def test_what_is_not_there_is_said(
    cli: Cli, store: Store, raw: redis.Redis, tmp_path: Path, words: str, said: str
) -> None:
    """One sentence, exit code 1, and Redis is what it was."""
    register(store, "porch", 1, "room:attic")
    before = everything(raw)
    assert said in cli("update", *words.replace("FOLDER", str(tmp_path)).split(), code=1)
    assert everything(raw) == before


def test_without_devices_there_is_nothing_to_update(cli: Cli) -> None:
    """That is said, and nothing is kept."""
    assert "register" in cli("update", "--all", code=1)


def test_a_device_may_be_called_as_an_order_is(cli: Cli, store: Store) -> None:
    """`--device` updates it; among other names it is one, too."""
    for number, name in enumerate(ORDERS, 1):
        register(store, name, number)
    cli("update", "--device", "status", "--detach")
    assert names_of(store) == ["status"]
    cli("update", "stop")
    cli("update", "status", "stop", "--detach")
    assert names_of(store) == ["status", "stop"]


def names_of(store: Store) -> list[str]:
    found = store.rollout()
    assert found is not None
    return [board.name for board in found[1]]


@pytest.mark.parametrize("tag", ["room=attic", "room:attic"])
def test_boards_are_chosen_by_their_tag(cli: Cli, store: Store, tag: str) -> None:
    """Those that have it, and no others."""
    register(store, "porch", 1, "room:attic", "floor:2")
    register(store, "cellar", 2, "room:cellar")
    cli("update", "--tag", tag, "--detach")
    assert names_of(store) == ["porch"]


def test_what_is_left_to_the_collector_is_kept(cli: Cli, store: Store) -> None:
    """`--detach` ends at once; the release is in Redis, whole, for whichever machine it is."""
    register(store, "porch", 1)
    told = json.loads(cli("--json", "update", "porch", "--detach", "--minutes", "5"))
    own = firmware.build(firmware.find())
    assert (told["build"], told["version"], told["minutes"]) == (own.build, own.version, 5)
    assert store.release(own.build).files == own.files
    assert "not over" in cli("update", "porch", "--detach", code=1)
    (kept,) = json.loads(cli("--json", "update", "releases"))
    assert (kept["build"], kept["version"]) == (own.build, own.version)


def test_the_status_says_it_all(cli: Cli, store: Store, new_board: Callable[..., Progress]) -> None:
    """Each board with its state, its versions and its reason; for people and for programs."""
    rollout = Rollout(
        id="r",
        build="b" * 12,
        version="2.0",
        minutes=10,
        settle_s=60,
        at=NOW,
        state="halted",
        reason="porch went back to version 1.0: it crashed",
    )
    before = Before(version="1.0", build="a" * 12)
    store.begin_rollout(
        rollout,
        [
            new_board(0, "porch", "failed", before=before, reason="went back to version 1.0"),
            new_board(1, "attic", "done", before=before, sent=10, total=10),
            new_board(2, "cellar", "queued"),
        ],
    )
    text = cli("update", "status")
    for part in ("halted", "it crashed", "porch", "went back", "1.0 aaaaaaaaaaaa", "2.0 bbbb"):
        assert part in text
    told = json.loads(cli("--json", "update", "status"))
    assert told["state"] == "halted"
    assert [(b["name"], b["state"], b["version_before"], b["version"]) for b in told["boards"]] == [
        ("porch", "failed", "1.0", "1.0"),
        ("attic", "done", "1.0", "2.0"),
        ("cellar", "queued", None, None),
    ]


@pytest.fixture
def new_board() -> Callable[..., Progress]:
    def new(number: int, name: str, state: Any, **more: Any) -> Progress:
        return Progress(id=f"b{number}", name=name, number=number, state=state, **more)

    return new


def test_stopping_and_going_on_need_something_to_stop(cli: Cli, store: Store) -> None:
    """Twice stopped is an error; so is going on where all are done."""
    register(store, "porch", 1)
    cli("update", "porch", "--detach")
    assert "resume" in cli("update", "stop")
    assert "stopped" in cli("update", "stop", code=1)
    cli("update", "resume", "--detach")
    assert store.rollout_state(str(rollout_of(store).id)) == "running"
    store.change_rollout(
        lambda old, them: (old, [msgspec.structs.replace(b, state="failed") for b in them])
    )
    assert "--again" in cli("update", "resume", "--detach", code=1)
    cli("update", "resume", "--again", "--detach")
    assert [b.state for b in (store.rollout() or (None, []))[1]] == ["queued"]


def rollout_of(store: Store) -> Rollout:
    found = store.rollout()
    assert found is not None
    return found[0]
