"""Damage of every kind to the files by which a board boots: it boots, and it can be repaired over the air."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from espnet import firmware
from espnet.firmware import Release
from espnet.simulator import Fleet
from espnet.simulator.fleet import Board

from .firmware_client import FIRMWARE, ask, until
from .updating import act, record, release, stage, state, switch

OWN = firmware.build(FIRMWARE)
RECORD = {"slot": "a", "trial": None, "previous": None, "tries": 0, "short": 0, "boots": 17, "minutes": 10,
          "wanted": None, "undone": {"build": "0123456789ab", "version": "9", "why": "no good"}}  # fmt: skip
DEEP = "[" * 400 + "]" * 400
VALUES: list[Any] = [None, True, -1, -(10**9), 10**12, 10**40, 1.5, "", "a", "b", "c", [], [[[]]], {},
                     {"a": {}}, {"build": 7, "version": [], "why": {}}, {"why": "x" * 3000}]  # fmt: skip


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return release(tmp_path_factory.mktemp("newer") / "esp32")


@pytest.fixture(scope="module")
def board() -> Iterator[Board]:
    with Fleet(1) as fleet:
        yield fleet[0]


def booted(board: Board, raw: bytes | str) -> dict[str, Any]:
    """What the board says of its versions after it booted twice with this record."""
    board.power(False)
    (board.flash / "boot.json").write_bytes(raw.encode() if isinstance(raw, str) else raw)
    # Not `power`, which has the simulator rewrite the record.
    board.reset(counted=True)
    assert ask(board, "GET", "/").status == 200
    assert ask(board, "GET", "/details").status == 200
    answer = ask(board, "GET", "/update")
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json
    undone = found["undone"]
    if undone is not None:
        assert all(isinstance(undone[name], str) for name in ("build", "version", "why"))
    assert 1 <= found["minutes"] <= 60
    assert (found["build"], found["slot"], found["trial_s"]) == (OWN.build, "a", None)
    assert isinstance(record(board)["boots"], int)
    return found


def test_a_record_that_is_cut_off_anywhere(board: Board) -> None:
    """Of the record may be left whatever there is."""
    raw = json.dumps(RECORD)
    for at in range(0, len(raw), 3):
        booted(board, raw[:at])


@pytest.mark.parametrize("member", [*RECORD, "why"])
def test_a_record_with_a_wrong_member(board: Board, member: str) -> None:
    """Any member may be of any type and size."""
    for value in VALUES:
        booted(board, json.dumps({**RECORD, member: value}))


@pytest.mark.parametrize(
    "raw",
    [
        '{"x": ' + DEEP + "}",
        '{"undone": {"build": ' + DEEP + "}}",
        '{"undone": {"why": ' + DEEP + "}}",
        '{"slot": "a", "wanted": ' + DEEP + "}",
        DEEP,
        "[" * 5000,
        " " * 200_000,
        '"' + "x" * 200_000,
        '{"x": "' + "x" * 200_000 + '"}',
        "{" + ",".join(f'"{n}": {n}' for n in range(5000)) + "}",
        b"\0" * 4096,
        b"\xff" * 4096,
        '{1: 2, "slot": "a"}',
        "{[]: 1}",
        '{"short": -1000000000}',
        '{"slot": "a", "short": 2, "boots": 9999999999999999999999}',
    ],
    ids=lambda raw: repr(raw)[:24],
)
def test_a_record_of_another_kind(board: Board, raw: bytes | str) -> None:
    """Nested, huge, binary: the board boots what is whole."""
    booted(board, raw)


@pytest.mark.parametrize("seed", range(4))
def test_random_records(board: Board, seed: int) -> None:
    """Bytes of the record that fell over change nothing of that."""
    chance = random.Random(seed)
    for _ in range(20):
        raw = bytearray(json.dumps(RECORD).encode())
        for _ in range(chance.randrange(1, 10)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        booted(board, bytes(raw))


def test_a_trial_of_what_runs_ends_without_harm(board: Board) -> None:
    """A record that puts the one release there is on trial does not cost it its manifest."""
    raw = json.dumps({**RECORD, "trial": "a", "tries": 2})
    booted(board, raw)
    assert (board.flash / "a" / "manifest").exists()


def test_the_switch_may_be_gone(make_board, newer: Release) -> None:
    """Without a switch that works the slot that is whole boots, whichever it is, with a watchdog; and a
    release that ends restarts the board all the same."""
    board = make_board()
    stage(board, newer)
    switch(board, newer)
    assert act(board, "confirm", newer).status == 200
    (board.flash / "a" / "manifest").unlink()
    (board.flash / "switch.py").write_text("1 // 0\n")
    board.reset()
    assert ask(board, "GET", "/").json["version"] == newer.version
    (board.flash / "b" / "app.mpy").write_bytes(b"")
    board.set(speed=60)
    boots = board.boots
    board.reset(wait=False)
    until(lambda: board.boots > boots + 2, 30)


def test_a_release_cannot_replace_the_switch(make_board, tmp_path: Any) -> None:
    """A file of a release that has the switch's name is not taken for it."""
    board = make_board()
    broken = {"app.py": [("    boots.begin(choice)\n", "    raise SystemExit\n")]}
    made = release(tmp_path / "bad", broken)
    files = {**made.files, "switch.mpy": made.files["clock.mpy"]}
    manifest = firmware.make_manifest(made.version, files)
    made = Release(made.version, firmware.build_of(manifest), manifest, files)
    stage(board, made)
    assert act(board, "switch", made).status == 200
    until(lambda: board.boots == 4 and board.phase == "ready", 60)
    found = state(board)
    assert found["build"] != made.build
    assert "SystemExit" in found["undone"]["why"]


def test_damaged_settings_can_be_replaced_over_the_air(make_board) -> None:
    """Whatever `settings.json` holds, new settings are taken; only its passwords are not known any more."""
    board = make_board()
    new = {"hostname": "new", "wifi": [{"ssid": "home", "password": "correct horse"}]}
    for raw in (
        '{"wifi": 7}',
        '{"wifi": ["home"]}',
        '{"wifi": [{"ssid": 7}], "ap": 7}',
        '{"wifi": {"ssid": []}}',
        '{"hostname": "' + "x" * 300_000 + '"}',
        "[" * 4000,
        "\0" * 100,
        "",
    ):
        board.power(False)
        (board.flash / "settings.json").write_text(raw)
        board.power(True)
        again = {**new, "wifi": [{"ssid": "home", "password": True}]}
        assert ask(board, "POST", "/settings", again).status == 422, raw[:40]
        assert ask(board, "POST", "/settings", new).status == 200, raw[:40]
        assert json.loads((board.flash / "settings.json").read_text()) == new


@pytest.mark.parametrize("name", ["claim.json", "host.json", "crash.json", "settings.good.json"])
@pytest.mark.parametrize(
    "raw", ["", "{", "7", "[" * 4000, '{"ha1": {}}', '"' + "x" * 200_000, "\0" * 5000]
)
def test_any_other_file_boots(make_board, name: str, raw: str) -> None:
    """Damage to what else a board keeps: it answers, and a damaged claim closes it rather than opens it."""
    board = make_board()
    board.power(False)
    (board.flash / name).write_text(raw)
    board.power(True)
    closed = name == "claim.json"
    for path in ("/", "/details", "/update"):
        assert ask(board, "GET", path).status == (401 if closed else 200), path
    assert ask(board, "POST", "/gpio", b"pin=4&value=0").status == (401 if closed else 200)
