"""Laws of what Redis keeps of updates: releases, the rollout, and who drives it."""

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis
from board_wire import eventually

from espnet.errors import EspNetError, FirmwareError, RolloutBusy
from espnet.firmware import Release, build_of, make_manifest
from espnet.rollout import Progress, Rollout
from espnet.store import Store
from espnet.store.releases import KEPT

NOW = 1_750_000_000.0


def release(version: str, **files: bytes) -> Release:
    named = {f"{name}.mpy": data for name, data in (files or {"app": version.encode()}).items()}
    manifest = make_manifest(version, named)
    return Release(version, build_of(manifest), manifest, named)


def rollout(number: int = 1, **more: Any) -> Rollout:
    fields = {"build": "b" * 12, "version": "2", "minutes": 10, "settle_s": 60.0, "at": NOW}
    return Rollout(id=f"r{number}", **{**fields, **more})


def boards(*states: str) -> list[Progress]:
    return [Progress(id=f"id{n}", name=f"n{n}", number=n, state=s) for n, s in enumerate(states)]  # type: ignore[arg-type]


# --- releases -------------------------------------------------------------------------------------


def test_a_release_comes_back_as_it_was(store: Store) -> None:
    """Byte for byte, with its version and its build; the latest first in the list."""
    one, two = release("1", app=bytes(range(256)), empty=b""), release("2")
    store.add_release(one, NOW)
    store.add_release(two, NOW + 1)
    assert store.release(one.build) == one
    assert [(kept.version, kept.files) for kept in store.releases()] == [("2", 1), ("1", 2)]
    store.add_release(one, NOW + 2)
    assert [kept.version for kept in store.releases()] == ["1", "2"]


def test_a_release_that_is_not_whole_is_not_given_out(store: Store, raw: redis.Redis) -> None:
    """Whoever damaged it, and however: an error, never other bytes."""
    one = release("1", app=b"app", web=b"web")
    key = f"espnet:release:{one.build}"
    for spoil in (
        lambda: raw.hset(key, "app.mpy", "apq"),
        lambda: raw.hdel(key, "web.mpy"),
        lambda: raw.hset(key, "manifest", release("3").manifest),
        lambda: raw.delete(key),
    ):
        store.add_release(one, NOW)
        spoil()
        with pytest.raises(FirmwareError, match=one.build):
            store.release(one.build)


def test_old_releases_go_unless_somebody_needs_them(store: Store, raw: redis.Redis) -> None:
    """The last few stay to go back to; what a board runs stays, too."""
    every = [release(str(number)) for number in range(KEPT + 3)]
    for number, one in enumerate(every):
        store.add_release(one, NOW + number)
    gone = store.prune_releases({every[1].build})
    assert gone == [every[2].build, every[0].build]
    assert len(store.releases()) == KEPT + 1
    assert len(list(raw.scan_iter("espnet:release:*"))) == KEPT + 1
    assert store.release(every[1].build) == every[1]


# --- one rollout at a time ------------------------------------------------------------------------


def test_a_rollout_comes_back_in_its_order(store: Store) -> None:
    """With every board; None before the first one."""
    assert store.rollout() is None
    many = [Progress(id=f"id{n}", name=f"n{n}", number=n) for n in range(50)]
    store.begin_rollout(rollout(), many)
    assert store.rollout() == (rollout(), many)


@pytest.mark.parametrize(
    ("state", "states"),
    [
        ("running", ["queued"]),
        ("running", ["done", "sending"]),
        ("halted", ["failed", "trial"]),
        ("stopped", ["trial"]),
    ],
)
def test_nothing_takes_the_place_of_what_is_under_way(
    store: Store, state: Any, states: list[str]
) -> None:
    """A board in somebody's hands, or one that will be by itself: RolloutBusy, and nothing is changed."""
    store.begin_rollout(rollout(state=state), boards(*states))
    before = store.rollout()
    with pytest.raises(RolloutBusy, match="update stop"):
        store.begin_rollout(rollout(2), boards("queued"))
    assert store.rollout() == before


@pytest.mark.parametrize("state", ["halted", "stopped", "done"])
def test_a_new_rollout_takes_the_place_of_one_that_is_over(store: Store, state: Any) -> None:
    """Also of one that was halted: that is how the repaired version comes onto the boards."""
    store.begin_rollout(rollout(state=state), boards("failed", "queued"))
    assert store.begin_rollout(rollout(2, build="c" * 12), boards("queued")) == []
    assert store.rollout() == (rollout(2, build="c" * 12), boards("queued"))


def test_boards_that_are_away_are_said_or_go_on_waiting(store: Store) -> None:
    """For another build they wait no more, and are named; for the same one they do."""
    store.begin_rollout(rollout(), boards("done", "offline"))
    store.begin_rollout(rollout(2), boards("queued"))
    found = store.rollout()
    assert found is not None
    assert [(b.id, b.state, b.number) for b in found[1]] == [
        ("id0", "queued", 0),
        ("id1", "offline", 1),
    ]
    store.change_rollout(
        lambda old, them: (old, [msgspec.structs.replace(b, state="offline") for b in them])
    )
    left = store.begin_rollout(rollout(3, build="c" * 12), boards("queued"))
    assert [board.id for board in left] == ["id1"]


def test_a_person_changes_what_is_there(store: Store) -> None:
    """The rollout, and the boards that differ; where there is none, that is said."""
    with pytest.raises(EspNetError, match="update --all"):
        store.change_rollout(lambda old, them: (old, them))
    store.begin_rollout(rollout(), boards("queued", "failed"))
    stopped, after = store.change_rollout(
        lambda old, them: (
            msgspec.structs.replace(old, state="stopped"),
            [them[0], msgspec.structs.replace(them[1], state="queued")],
        )
    )
    assert store.rollout() == (stopped, after)
    assert store.rollout_state("r1") == "stopped"
    assert store.rollout_state("r2") is None


# --- who drives -----------------------------------------------------------------------------------


def test_one_drives_until_its_lease_ends(store: Store) -> None:
    """It is renewed by who has it, refused to others, and free when it ended or was given back."""
    assert store.driver() is None
    assert store.drive("a@host:1:1", 60) == ""
    assert store.drive("a@host:1:1", 60) == ""
    assert store.drive("b@host:2:2", 60) == "a@host:1"
    driver = store.driver()
    assert driver is not None
    assert (driver.holder, 0 < driver.left_s <= 60) == ("a@host:1", True)
    store.stop_driving("b@host:2:2")
    assert store.driver() is not None
    store.stop_driving("a@host:1:1")
    assert store.drive("b@host:2:2", 0.05) == ""
    eventually(lambda: store.driver() is None)
    assert store.drive("a@host:1:1", 60) == ""


def test_only_the_driver_writes_and_only_into_its_rollout(store: Store) -> None:
    """Who lost the lease, or works for a rollout of before, changes nothing and is told so."""
    store.begin_rollout(rollout(), boards("queued"))
    (board,) = boards("trial")
    assert not store.note("a:1", "r1", board)
    assert store.drive("a:1", 60) == ""
    assert store.note("a:1", "r1", board)
    assert not store.note("b:2", "r1", board)
    assert not store.note("a:1", "r2", board)
    found = store.rollout()
    assert found is not None
    assert found[1] == [board]


def test_what_a_person_said_is_not_written_over(store: Store) -> None:
    """Who stops a rollout in the very moment in which its driver finds it done: it is stopped."""
    old = rollout()
    store.begin_rollout(old, boards("done"))
    store.drive("a:1", 60)
    store.change_rollout(lambda r, them: (msgspec.structs.replace(r, state="stopped"), them))
    assert not store.move_rollout("a:1", old, msgspec.structs.replace(old, state="done"))
    assert store.rollout_state("r1") == "stopped"
    now = msgspec.structs.replace(old, state="stopped")
    assert store.move_rollout("a:1", now, msgspec.structs.replace(old, state="done"))
    assert store.rollout_state("r1") == "done"


def test_many_who_want_to_drive_are_never_two(new_store: Callable[..., Store]) -> None:
    """Of any number at once, one has it at a time, and each gets its turns."""
    guard, driving, most, turns = threading.Lock(), set(), [0], [0] * 4
    until_s = time.monotonic() + 30

    def drive(number: int) -> None:
        store, token = new_store(), f"d{number}:{number}"
        while turns[number] < 25 and time.monotonic() < until_s:
            if store.drive(token, 60) == "":
                with guard:
                    driving.add(number)
                    most[0] = max(most[0], len(driving))
                    turns[number] += 1
                with guard:
                    driving.discard(number)
                store.stop_driving(token)

    threads = [threading.Thread(target=drive, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert turns == [25] * 4


def test_a_device_is_found_by_its_id_wherever_it_is(store: Store, raw: redis.Redis) -> None:
    """A board that moved, or was renamed, in the middle of its update is still that board."""
    assert store.device_of("id1") is None
    assert store.due_of("id1") is None
    raw.hset("espnet:devices", "id1", b'{"id":"id1","name":"veranda","address":"10.0.0.9"}')
    raw.zadd("espnet:due", {"id1": NOW})
    device = store.device_of("id1")
    assert device is not None
    assert (device.name, device.address, store.due_of("id1")) == ("veranda", "10.0.0.9", NOW)
