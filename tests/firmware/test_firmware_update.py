"""Updates over the air, the board's side: staged, verified, on trial, confirmed or undone."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from espnet import firmware
from espnet.firmware import Release, make_manifest, read_manifest
from espnet.simulator.fleet import Board

from .firmware_client import FIRMWARE, ask, until
from .updating import act, pieces, put_manifest, record, release, stage, state, switch


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return release(tmp_path_factory.mktemp("newer") / "esp32")


def tree(board: Board, slot: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (board.flash / slot).iterdir()}


def test_an_update_from_end_to_end(make_board, newer: Release) -> None:
    """Staged, on trial, confirmed: the new release runs, over resets too, and the old one is still there."""
    board = make_board()
    before = state(board)
    assert (before["slot"], before["staged"]) == ("a", None)
    assert (before["trial_s"], before["undone"], before["safe_mode"]) == (None, None, False)
    manifest = (board.flash / "a" / "manifest").read_bytes()
    assert ask(board, "GET", "/").json["build"] == before["build"] == firmware.build_of(manifest)
    running = tree(board, "a")
    stage(board, newer)
    assert state(board)["staged"] == newer.build
    assert ask(board, "GET", "/").json["build"] == before["build"]
    switch(board, newer, minutes=3)
    status = ask(board, "GET", "/").json
    assert (status["version"], status["build"]) == (newer.version, newer.build)
    assert (status["trial"], status["safe_mode"], status["boots"]) == (True, False, 2)
    during = state(board)
    assert during["slot"] == "b"
    assert 0 < during["trial_s"] <= 180
    assert act(board, "confirm", newer).status == 200
    assert ask(board, "GET", "/").json["trial"] is False
    for _ in range(3):
        board.reset()
    after = state(board)
    assert (after["build"], after["slot"], after["trial_s"]) == (newer.build, "b", None)
    assert tree(board, "a") == running
    assert tree(board, "b") == newer.files | {"manifest": newer.manifest}


def test_back_and_forth(make_board, newer: Release) -> None:
    """Each update goes into the other slot; the one before is what the next one overwrites."""
    board = make_board()
    own = firmware.build(FIRMWARE)
    for made, slot in ((newer, "b"), (own, "a"), (newer, "b")):
        stage(board, made)
        switch(board, made)
        assert act(board, "confirm", made).status == 200
        found = state(board)
        assert (found["build"], found["slot"]) == (made.build, slot)


def test_a_release_that_shares_nothing(make_board, tmp_path: Path) -> None:
    """Every file is sent, in pieces; what is the same is copied on the board and never sent again."""
    folder = tmp_path / "source"
    shutil.copytree(FIRMWARE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    made = firmware.build(folder, compiled=False)
    made = Release(made.version, made.build, made.manifest, made.files)
    board = make_board(heap="188K")
    sent = stage(board, made)
    assert sent > 50
    assert put_manifest(board, made).json["missing"] == []
    assert tree(board, "b") == made.files | {"staged": made.manifest}


def test_two_resets_end_a_trial(make_board, newer: Release) -> None:
    """A trial gets two boots; then the release before runs, and `undone` says why, until the next update."""
    board = make_board()
    own = state(board)["build"]
    stage(board, newer)
    switch(board, newer)
    board.reset()
    assert state(board)["build"] == newer.build
    board.reset()
    found = state(board)
    assert (found["build"], found["trial_s"]) == (own, None)
    assert found["undone"] == {
        "build": newer.build,
        "version": newer.version,
        "why": "it was restarted twice before it was confirmed",
    }
    # What failed is not whole any more, and its files are still of use.
    assert "manifest" not in tree(board, "b")
    assert put_manifest(board, newer).json["missing"] == []
    switch(board, newer)
    assert act(board, "confirm", newer).status == 200
    assert state(board)["undone"] is None


def test_undo_ends_a_trial_at_once(make_board, newer: Release) -> None:
    """`undo` restarts into the release before, with what the caller said as the reason."""
    board = make_board()
    own = state(board)["build"]
    stage(board, newer)
    switch(board, newer)
    boots = board.boots
    assert act(board, "undo", why="its sensor says nothing").status == 200
    until(lambda: board.boots > boots and board.phase == "ready")
    found = state(board)
    assert found["build"] == own
    assert found["undone"]["why"] == "its sensor says nothing"


def test_undo_throws_away_what_is_staged(make_board, newer: Release) -> None:
    """Without a trial, `undo` forgets what was put; nothing restarts."""
    board = make_board()
    stage(board, newer)
    assert act(board, "undo").status == 200
    assert state(board)["staged"] is None
    assert act(board, "switch", newer).status == 409
    assert board.boots == 1


def test_calls_may_be_repeated(make_board, newer: Release) -> None:
    """Whoever missed an answer asks again: every call of an update may come twice."""
    board = make_board()
    for _ in range(2):
        missing = put_manifest(board, newer).json["missing"]
    for target, body in pieces(newer, missing):
        assert ask(board, "PUT", target, body).status == 200
    assert put_manifest(board, newer).json["missing"] == []
    assert act(board, "switch", newer).status == 200
    assert act(board, "switch", newer).status == 200  # before it restarts
    until(lambda: board.boots == 2 and board.phase == "ready")
    assert act(board, "switch", newer).status == 200  # it runs on trial
    for _ in range(2):
        assert act(board, "confirm", newer).status == 200
    assert board.boots == 2


def test_what_is_wrong_is_refused_and_changes_nothing(make_board, newer: Release) -> None:
    """No manifest that is none, no piece that does not fit, no switch to what is not whole."""
    board = make_board()
    own = state(board)["build"]
    entries = read_manifest(newer.manifest)[1]
    lines = newer.manifest.splitlines(keepends=True)
    wrong = [
        b"",
        b"nothing",
        lines[0],
        b"espnet-manifest 2 1.0\n" + b"".join(lines[1:]),
        newer.manifest[:-1],
        newer.manifest.replace(b" app.mpy", b" ../app.mpy"),
        newer.manifest.replace(b" app.mpy", b" .app.mpy"),
        newer.manifest.replace(b" app.mpy", b" app"),
        newer.manifest.replace(b" app.mpy", b" apq.mpy"),
        newer.manifest.replace(b" app.mpy", b" app.mpy x"),
        newer.manifest.replace(b" app.mpy", b" auth.mpy"),
        newer.manifest.replace(b" auth.mpy", b" auth\0mpy"),
        newer.manifest.replace(b" auth.mpy", b" auth\xff.mpy"),
        newer.manifest.replace(b" auth.mpy", b" manifest"),
        newer.manifest + b"x" * 64 + b" 3 x.mpy\n",
        newer.manifest + b"0" * 63 + b" 3 x.mpy\n",
        newer.manifest + b"0" * 64 + b" -3 x.mpy\n",
        newer.manifest + b"0" * 64 + b" 3000000 x.mpy\n",
        newer.manifest + b"\n",
        lines[0] + b"".join(b"0" * 64 + b" 1 f%d.mpy\n" % n for n in range(50)) + lines[1],
    ]
    for body in wrong:
        answer = ask(board, "PUT", "/update", body)
        assert answer.status in (413, 422), (answer, body[-100:])
        assert state(board)["staged"] is None, body
    assert not list((board.flash / "b").iterdir())
    assert ask(board, "PUT", "/update?file=0&at=0", b"x").status == 409
    missing = put_manifest(board, newer).json["missing"]
    index = next(n for n in missing if entries[n].name == "version.mpy")
    data = newer.files["version.mpy"]
    for target, status in (
        ("file=99&at=0", 409),
        (f"file={index}&at=1", 409),
        (f"file={index}", 400),
        ("file=&at=0", 400),
        ("file=x&at=0", 400),
        (f"file={index}&at=-1", 400),
        (f"file={index}&at=0&at=0", 400),
        (f"file={index}&file={index}&at=0", 400),
        (f"file={index}&at=0&fence=x", 400),
    ):
        assert ask(board, "PUT", f"/update?{target}", data).status == status, target
    assert ask(board, "PUT", f"/update?file={index}&at=0", data + b"x").status == 422
    assert ask(board, "PUT", f"/update?file={index}&at=0", b"y" * len(data)).status == 422
    assert act(board, "switch", newer).status == 409
    assert ask(board, "PUT", f"/update?file={index}&at=0", data[:10]).status == 200
    answer = ask(board, "PUT", f"/update?file={index}&at=0", data[:20])
    assert answer.json["at"] == 20
    answer = ask(board, "PUT", f"/update?file={index}&at=10", data[10:])
    assert (answer.status, answer.json["at"]) == (409, 20)
    assert ask(board, "PUT", f"/update?file={index}&at=20", data[20:]).status == 200
    stage(board, newer)
    for body, status in (
        ({}, 422),
        ({"do": "explode"}, 422),
        ({"do": "switch"}, 400),
        ({"do": "switch", "build": "0" * 12}, 409),
        ({"do": "switch", "build": 5}, 400),
        ({"do": "switch", "build": newer.build, "minutes": 0}, 422),
        ({"do": "switch", "build": newer.build, "minutes": 61}, 422),
        ({"do": "switch", "build": newer.build, "minutes": "soon"}, 400),
        ({"do": "confirm", "build": newer.build}, 409),
        ({"do": "undo", "why": "x" * 101}, 422),
    ):
        answer = ask(board, "POST", "/update", body)
        assert answer.status == status, (body, answer)
    # Spoilt on flash after it was put: found before it runs.
    (board.flash / "b" / "web.mpy").write_bytes(b"M\x06\0\x1f")
    assert "web.mpy" in act(board, "switch", newer).json["error"]
    assert board.boots == 1
    assert "trial" not in record(board) or record(board)["trial"] is None
    assert ask(board, "GET", "/").json["build"] == own


def test_nothing_is_put_during_a_trial(make_board, newer: Release) -> None:
    """A trial must end before another release is staged: its other slot is the way back."""
    board = make_board()
    stage(board, newer)
    switch(board, newer)
    assert put_manifest(board, firmware.build(FIRMWARE)).status == 409
    assert act(board, "confirm", newer).status == 200
    assert put_manifest(board, firmware.build(FIRMWARE)).status == 200


def test_a_flash_that_is_too_small_says_so_first(make_board, newer: Release) -> None:
    """507 with both figures, before anything is staged; what lies in the other slot counts as room."""
    small = ("    return room[0], room[0] * room[3]", "    return 4096, 4096 * 10")
    board = make_board({"update.py": [small]})
    answer = put_manifest(board, newer)
    assert answer.status == 507
    needed, free = answer.json["needed"], answer.json["free"]
    blocks = sum(-(-len(data) // 4096) for data in newer.files.values())
    assert needed == (blocks + 8) * 4096
    assert free == 4096 * 10
    assert str(needed) in answer.json["error"]
    assert str(free) in answer.json["error"]
    assert state(board)["free"] == free
    assert state(board)["staged"] is None
    for name, data in newer.files.items():
        (board.flash / "b" / name).write_bytes(data)
    assert put_manifest(board, newer).status == 200
    assert put_manifest(board, newer).json["missing"] == []


def test_a_claimed_board_takes_an_update_from_its_owner_only(make_board, newer: Release) -> None:
    """Without the password nothing of an update is taken, not even a manifest."""
    from .digest_client import Person, claim_by_hand

    board = make_board()
    claim_by_hand(board)
    assert put_manifest(board, newer).status == 401
    assert act(board, "switch", newer).status == 401
    assert ask(board, "POST", "/restart").status == 401
    assert not (board.flash / "b").exists()
    owner = Person(board)
    answer = owner.ask("PUT", "/update", newer.manifest)
    assert answer.status == 200
    for target, body in pieces(newer, answer.json["missing"]):
        assert owner.ask("PUT", target, body).status == 200
    body = json.dumps({"do": "switch", "build": newer.build}).encode()
    assert owner.ask("POST", "/update", body).status == 200
    until(lambda: board.boots == 2 and board.phase == "ready")
    assert act(board, "confirm", newer).status == 401


def test_an_outdated_fence_changes_nothing(make_board, newer: Release) -> None:
    """A controller that lost its lock can neither put nor switch."""
    board = make_board()
    assert ask(board, "POST", "/gpio", {"pin": 4, "value": 0, "fence": 7}).status == 200
    assert ask(board, "PUT", "/update?fence=6", newer.manifest).status == 409
    assert act(board, "switch", newer, fence=6).status == 409
    assert ask(board, "POST", "/restart", {"fence": 6}).status == 409
    assert ask(board, "PUT", "/update?fence=7", newer.manifest).status == 200
    assert board.boots == 1


def test_restart(make_board) -> None:
    """POST /restart answers, then restarts; pins let go."""
    board = make_board()
    assert ask(board, "POST", "/gpio", {"pin": 4, "value": 1}).status == 200
    assert ask(board, "POST", "/restart").json["status"] == "OK"
    until(lambda: board.boots == 2 and board.phase == "ready")
    assert board.pin(4).level == 0


def test_a_manifest_says_what_the_files_are(newer: Release) -> None:
    """Build and hashes follow from the bytes alone."""
    assert make_manifest(newer.version, newer.files) == newer.manifest
    assert hashlib.sha256(newer.manifest).hexdigest().startswith(newer.build)
