"""Updates over the air, end to end: the real firmware, changed, onto simulated boards."""

import contextlib
import itertools
import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from board_wire import Say, Wire, answer, board_id
from conftest import RedisProcess
from firmware import firmware_client

from espnet import firmware
from espnet.simulator import Board, Fleet

from . import updating
from .governing import PIN, add_timer, wait_level
from .updating import (
    QUICK,
    UPDATE_S,
    Way,
    build_of,
    on_board,
    status,
    version_of,
    wait_state,
)
from .world import ESPCLI, World, wait_for

_seeds = itertools.count(600)


@pytest.fixture
def own_boards() -> Iterator[Callable[[int], list[Board]]]:
    """Boards of this test alone: what it does to their flash is nobody else's."""
    fleets: list[Fleet] = []

    def start(count: int) -> list[Board]:
        fleets.append(Fleet(count, seed=next(_seeds), compiled=True).start())
        return list(fleets[-1])

    yield start
    for fleet in fleets:
        fleet.stop()


Boards = Callable[[int], list[Board]]


def told(board: Board) -> dict[str, object]:
    """What the board says of itself."""
    heard = firmware_client.ask(board, "GET", "/update")
    assert heard.status == 200, heard
    return dict(heard.json)


class Command:
    """An `espcli` that runs beside the test."""

    def __init__(self, world: World, *words: str) -> None:
        self.process = subprocess.Popen(
            [str(ESPCLI), *words],
            env=world.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def wait(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=UPDATE_S)
        return self.process.returncode, out, err

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        self.process.send_signal(number)
        return self.wait()


@pytest.fixture
def commands() -> Iterator[Callable[..., Command]]:
    """Makes commands that are gone when the test is over."""
    with contextlib.ExitStack() as stack:
        yield lambda *words: stack.enter_context(Command(*words))


# --- all is well ----------------------------------------------------------------------------------


@pytest.mark.parametrize("claims", [[], ["--open"]], ids=["claimed", "open"])
def test_a_board_is_updated_and_confirmed(
    world: World, own_boards: Boards, tmp_path: Path, claims: list[str]
) -> None:
    """It runs the new build for good, has restarted once, and keeps its settings and its password."""
    (board,) = own_boards(1)
    world.espcli("register", board.address, "porch", *claims)
    new = version_of(tmp_path, "7.0", all_files=True)
    before = world.device("porch")
    world.espcli("update", "porch", "--to", str(new), *QUICK)
    found = status(world)
    porch = found["boards"]["porch"]
    assert found["state"] == "done"
    assert (porch["state"], porch["reason"], porch["wave"]) == ("done", "", 1)
    assert (porch["version_before"], porch["version"]) == (before["version"], "7.0")
    assert (porch["build_before"], porch["build"]) == (before["build"], build_of(new))
    after = world.device("porch")
    assert (after["build"], after["trial"], after["safe_mode"]) == (build_of(new), False, False)
    assert after["boots"] == before["boots"] + 1
    assert after["access"] == before["access"]
    said = told(board)
    assert (said["trial_s"], said["undone"], said["staged"]) == (None, None, None)
    world.espcli("device", "porch", "requests", "set_gpio", "2", "1")
    assert world.espcli("update", "porch", "--to", "7.0", *QUICK).count("skipped") == 2
    # And back, by the version's name.
    world.espcli("update", "porch", "--to", str(firmware.find()), *QUICK)
    assert world.device("porch")["build"] == before["build"]


def test_twelve_boards_go_in_waves(world: World, own_boards: Boards, tmp_path: Path) -> None:
    """One, then one (a tenth), then the rest; no wave begins before the one before it is done."""
    boards = own_boards(12)
    names = world.register(*boards)
    new = version_of(tmp_path, "7.0")
    world.espcli("update", "--all", "--to", str(new), *QUICK)
    rows = status(world)["boards"]
    assert sorted(row["wave"] for row in rows.values()) == [1, 2, *[3] * 10]
    assert {row["state"] for row in rows.values()} == {"done"}
    for wave in (2, 3):
        began = min(row["switched_at"] for row in rows.values() if row["wave"] == wave)
        ended = max(row["since"] for row in rows.values() if row["wave"] == wave - 1)
        assert ended <= began
    assert {on_board(board) for board in boards} == {build_of(new)}
    assert {world.device(name)["boots"] for name in names} == {2}


def test_a_board_that_is_away_is_updated_when_it_is_back(
    world: World, own_boards: Boards, tmp_path: Path
) -> None:
    """The command ends well without it; a collector does the rest, without anybody's doing."""
    here, away = own_boards(2)
    world.register(here, away, names="here away")
    away.power(False)
    new = version_of(tmp_path, "7.0")
    world.espcli("update", "away", "here", "--to", str(new), *QUICK)
    found = status(world)
    assert found["state"] == "running"
    assert {n: row["state"] for n, row in found["boards"].items()} == {
        "here": "done",
        "away": "offline",
    }
    run = world.start()
    away.power(True)
    wait_state(world, "away", "done")
    assert on_board(away) == build_of(new)
    run.wait_for_event("update.over")
    assert status(world)["state"] == "done"


def test_two_collectors_update_a_board_once(
    world: World, own_boards: Boards, tmp_path: Path
) -> None:
    """One of them drives; every board restarts once."""
    boards = own_boards(3)
    names = world.register(*boards)
    world.start()
    world.start()
    new = version_of(tmp_path, "7.0")
    world.espcli("update", "--all", "--detach", "--to", str(new), *QUICK)
    for name in names:
        wait_state(world, name, "done")
    assert [world.device(name)["boots"] for name in names] == [2, 2, 2]


def test_a_heater_keeps_its_lease_while_a_version_is_sent(
    world: World, own_boards: Boards, tmp_path: Path
) -> None:
    """The collector's polls come in between: the board holds its pin until it restarts, and then again."""
    (board,) = own_boards(1)
    world.register(board, names="porch")
    add_timer(world, "porch", "heater", PIN)
    world.start()
    wait_level(board, 1)
    new = version_of(tmp_path, "7.0", all_files=True)
    world.espcli("update", "porch", "--detach", "--to", str(new), *QUICK)
    wait_state(world, "porch", "sending", "trial")
    polled = []
    while (row := status(world)["boards"]["porch"])["state"] == "sending":
        heard = firmware_client.ask(board, "GET", "/")
        said = heard.json
        if heard.status == 200 and said["boots"] == 1:  # 503: it has no memory to spare for us
            assert board.pin(PIN).level == 1
            assert said["leases_expired"] == 0
            polled.append(said["leases"][str(PIN)]["left_s"])
    assert min(polled) >= 13
    assert wait_state(world, "porch", "done", "failed")["state"] == "done", row
    wait_level(board, 1)


# --- all is not well ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (updating.raises_at_import, "no luck today"),
        (updating.hangs_at_start, "watchdog"),
        (updating.fails_its_poll, "HTTP 500"),
        (updating.eats_the_heap, "memory"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_version_is_rolled_back_and_halts_the_fleet(
    world: World,
    own_boards: Boards,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    reason: str,
) -> None:
    """One board has it for a moment, goes back by itself, and works; the others never hear of it."""
    boards = own_boards(3)
    names = world.register(*boards)
    old = on_board(boards[0])
    bad = version_of(tmp_path, "6.6.6")
    spoil(bad)
    # What only the board's own patience ends: its watchdog's, and that of a trial in which it has no memory
    # left to be told that it is over.
    speed = {updating.hangs_at_start: 30, updating.eats_the_heap: 6}.get(spoil, 1)
    boots = [board.boots for board in boards]

    def hurry() -> None:
        wait_for("a restart", lambda: [board.boots for board in boards] != boots, UPDATE_S)
        for board in boards:
            board.set(speed=speed)

    with ThreadPoolExecutor(1) as beside:
        hurried = beside.submit(hurry)
        err = world.espcli("update", "--all", "--to", str(bad), *QUICK, code=1)
        hurried.result()
    assert "went back" in err
    found = status(world)
    assert found["state"] == "halted"
    states = [row["state"] for row in found["boards"].values()]
    assert sorted(states) == ["failed", "queued", "queued"]
    (failed,) = [row for row in found["boards"].values() if row["state"] == "failed"]
    assert reason in failed["reason"].replace("bytes of heap free", "memory")
    assert failed["reason"] in found["reason"]
    assert failed["reason"] in " ".join(world.espcli("update", "status").split())
    assert {on_board(board) for board in boards} == {old}
    for board in boards:
        board.set(speed=1)
    for name, board in zip(names, boards, strict=True):
        world.espcli("device", name, "update")
        assert world.device(name)["build"] == old
        assert told(board)["trial_s"] is None
    if spoil is not updating.raises_at_import:
        return
    # The repaired version: that one was halted is not in its way.
    good = version_of(tmp_path, "6.6.7")
    world.espcli("update", "--all", "--to", str(good), *QUICK)
    assert {on_board(board) for board in boards} == {build_of(good)}


def test_a_bad_version_is_stopped_at_the_second_wave_too(
    world: World, own_boards: Boards, tmp_path: Path
) -> None:
    """A board on which another thing is wrong than on the first one halts the rest; `resume` goes on
    without it."""
    boards = own_boards(3)
    names = world.register(*boards)
    new = version_of(tmp_path, "7.0")
    # What only one board has, and the new version does not read any more.
    boards[1].set(dht={4: (20.0, 40.0)})
    world.espcli("device", "b1", "add_dht22", "air", "4")
    updating.change(new, "measure.py", "def dht22(", "def dht(")
    # Boards that were not heard of for three intervals would be the last, in whatever order they are named.
    for name in names:
        world.espcli("device", name, "interval", "60")
        world.espcli("device", name, "update")
    err = world.espcli("update", *names, "--to", str(new), *QUICK, code=1)
    assert "DHT22 air" in err
    found = status(world)
    assert found["state"] == "halted"
    assert {n: row["state"] for n, row in found["boards"].items()} == {
        "b0": "done",
        "b1": "failed",
        "b2": "queued",
    }
    world.espcli("update", "resume", code=1)
    found = status(world)
    assert found["state"] == "done"
    assert [row["state"] for row in found["boards"].values()] == ["done", "failed", "done"]


def wait_for_pieces(way: Way) -> None:
    """Until the board has been sent some pieces of a version."""
    wait_for("pieces", lambda: sum(b"file=" in line for line in way.asked) > 5, UPDATE_S)


def in_the_middle(world: World, way: Way, new: Path, commands: Callable[..., Command]) -> Command:
    """A command that updates the board `porch`, and is in the middle of the transfer."""
    world.espcli("register", way.address, "porch")
    command = commands(world, "update", "porch", "--to", str(new), *QUICK)
    wait_for_pieces(way)
    return command


def test_who_drove_and_was_killed_is_replaced(
    world: World, own_boards: Boards, tmp_path: Path, commands: Callable[..., Command]
) -> None:
    """A collector goes on in the middle of the transfer; nobody has to say anything."""
    (board,) = own_boards(1)
    with Way(board) as way:
        new = version_of(tmp_path, "7.0", all_files=True)
        command = in_the_middle(world, way, new, commands)
        command.end(signal.SIGKILL)
        row = status(world)["boards"]["porch"]
        assert row["state"] == "sending"
        world.start()
        wait_state(world, "porch", "done")
        assert on_board(board) == build_of(new)


def test_who_interrupts_it_is_told_and_can_go_on(
    world: World, own_boards: Boards, tmp_path: Path, commands: Callable[..., Command]
) -> None:
    """Ctrl-C in the middle of the transfer: exit code 130, one sentence; `resume` ends it well."""
    (board,) = own_boards(1)
    with Way(board) as way:
        new = version_of(tmp_path, "7.0", all_files=True)
        command = in_the_middle(world, way, new, commands)
        code, out, err = command.end(signal.SIGINT)
        assert (code, out) == (130, "")
        assert "`espcli update resume` goes on" in err.splitlines()[-1]
        assert status(world)["boards"]["porch"]["state"] == "sending"
        world.espcli("update", "resume")
        assert on_board(board) == build_of(new)


def test_a_stopped_update_ends_before_the_switch(
    world: World, own_boards: Boards, tmp_path: Path, commands: Callable[..., Command]
) -> None:
    """The board that is being sent to goes on with its old version, and is updated by `resume`."""
    (board,) = own_boards(1)
    old = on_board(board)
    with Way(board) as way:
        new = version_of(tmp_path, "7.0", all_files=True)
        command = in_the_middle(world, way, new, commands)
        world.espcli("update", "stop")
        assert command.wait()[0] == 0
        assert "stop" in world.espcli("update", "stop", code=1)
        found = status(world)
        assert (found["state"], found["boards"]["porch"]["state"]) == ("stopped", "queued")
        assert on_board(board) == old
        world.espcli("update", "resume")
        assert on_board(board) == build_of(new)


@pytest.mark.parametrize(
    "lost", [b"do=switch", b"do=confirm", b"PUT /update?fence", b"PUT /update?file"]
)
def test_answers_that_are_lost_change_nothing(
    world: World, own_boards: Boards, tmp_path: Path, lost: bytes
) -> None:
    """Of each order: the board did it, nobody heard of it, and it is done all the same, once."""
    (board,) = own_boards(1)
    with Way(board) as way:
        world.espcli("register", way.address, "porch")
        new = version_of(tmp_path, "7.0", all_files=True)
        way.lose(lost, 2)
        world.espcli("update", "porch", "--to", str(new), *QUICK)
        assert way.losses < 2
    assert on_board(board) == build_of(new)
    assert told(board)["boots"] == 2


@pytest.mark.parametrize(
    "late", [b"GET /update", b"PUT /update?fence", b"PUT /update?file", b"do=switch", b"do=confirm"]
)
def test_a_board_that_did_not_hear_us_out_has_not_said_no(
    world: World, own_boards: Boards, tmp_path: Path, late: bytes
) -> None:
    """A request may take so long on a bad line that the board answers 408: it is made again."""
    (board,) = own_boards(1)
    with Way(board) as way:
        world.espcli("register", way.address, "porch")
        new = version_of(tmp_path, "7.0", all_files=True)
        board.set(speed=10)  # or it would wait for 5 s
        way.delay(late)
        world.espcli("update", "porch", "--to", str(new), "--minutes", "5", "--settle", "1")
        assert way.delays == 0
    assert any(request.status == 408 for request in board.requests)
    assert on_board(board) == build_of(new)
    assert told(board)["boots"] == 2


def test_a_power_cut_at_the_board_is_survived(
    world: World, own_boards: Boards, tmp_path: Path
) -> None:
    """In the transfer, it goes on with what is there; in the trial, the second try is confirmed."""
    (board,) = own_boards(1)
    with Way(board) as way:
        world.espcli("register", way.address, "porch")
        new = version_of(tmp_path, "7.0", all_files=True)
        cuts = {b"file=9&at=0": 1, b"do=confirm": 1}

        def cut(request: bytes) -> None:
            for what, times in cuts.items():
                if times and what in request:
                    cuts[what] = 0
                    threading.Thread(target=board.reset, args=("power",), daemon=True).start()

        way.on_request = cut
        world.espcli("update", "porch", "--to", str(new), *QUICK)
        assert set(cuts.values()) == {0}
    assert on_board(board) == build_of(new)
    assert told(board)["trial_s"] is None


@pytest.mark.parametrize("got_as_far_as", ["staged", "manifest"])
def test_a_power_cut_before_the_trial_begins_is_no_failed_trial(
    world: World, own_boards: Boards, tmp_path: Path, got_as_far_as: str
) -> None:
    """A board that restarts while it verifies, or just before it has written down its trial, has tried
    nothing: nobody says that it went back, and the update goes on."""
    (board,) = own_boards(1)
    with Way(board) as way:
        world.espcli("register", way.address, "porch")
        new = version_of(tmp_path, "7.0")
        cuts = [1]

        def cut(request: bytes) -> None:
            if b"do=switch" in request and cuts:
                cuts.clear()
                board.power(False)
                (board.flash / "b" / "staged").rename(board.flash / "b" / got_as_far_as)
                board.power(True)

        way.on_request = cut
        world.espcli("update", "porch", "--to", str(new), *QUICK)
        assert not cuts
    assert status(world)["boards"]["porch"]["state"] == "done"
    assert on_board(board) == build_of(new)


def test_a_board_that_moves_in_the_middle_is_followed(
    world: World, own_boards: Boards, tmp_path: Path, commands: Callable[..., Command]
) -> None:
    """Its record says where it is now, and that is looked at before each call."""
    (board,) = own_boards(1)
    with Way(board) as first, Way(board) as second:
        new = version_of(tmp_path, "7.0", all_files=True)
        command = in_the_middle(world, first, new, commands)
        first.port = 1  # where nobody listens
        world.espcli("register", second.address, "porch")
        assert command.wait()[0] == 0
        assert any(b"do=" in line or b"POST /update" in line for line in second.asked)
    assert on_board(board) == build_of(new)


def test_progress_is_one_line_a_change_where_there_is_no_terminal(
    world: World, own_boards: Boards, tmp_path: Path
) -> None:
    """On stderr; stdout has the table, or the JSON, and nothing else."""
    (board,) = own_boards(1)
    world.register(board, names="porch")
    new = version_of(tmp_path, "7.0")
    with Command(world, "--json", "update", "porch", "--to", str(new), *QUICK) as command:
        code, out, err = command.wait()
    assert code == 0
    assert json.loads(out)["state"] == "done"
    assert err.splitlines() == ["porch: sending", "porch: trial", "porch: done"]


def test_a_terminal_gets_bars(world: World, own_boards: Boards, tmp_path: Path) -> None:
    """On stderr, whatever a board is called; stdout has the table and nothing else."""
    (board,) = own_boards(1)
    world.register(board, names="[/red]")
    new = version_of(tmp_path, "7.0")
    master, slave = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(master, 65536):
                seen.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        done = subprocess.run(
            [str(ESPCLI), "update", "--all", "--to", str(new), *QUICK],
            env=world.environ | {"TERM": "xterm", "COLUMNS": "100"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=slave,
            timeout=UPDATE_S,
        )
    finally:
        os.close(slave)
        reader.join(10)
        os.close(master)
    text = b"".join(seen).decode()
    assert done.returncode == 0, text
    assert "1 of 1 done" in text
    assert "[/red]" in text
    assert done.stdout.decode().startswith("Update")
    assert b"\x1b" not in done.stdout


def test_redis_that_goes_away_in_the_middle_is_waited_for(
    own_redis: RedisProcess, own_boards: Boards, tmp_path: Path
) -> None:
    """Killed and started again while a version is sent: the command goes on where it was."""
    (board,) = own_boards(1)
    folder = tmp_path / "world"
    folder.mkdir()
    world = World(folder, own_redis.url, ESPNET_INTERVAL="0.3", ESPNET_TIMEOUT="0.4")
    with Way(board) as way:
        world.espcli("register", way.address, "porch")
        new = version_of(tmp_path, "7.0", all_files=True)
        with Command(world, "update", "porch", "--to", str(new), *QUICK) as command:
            wait_for_pieces(way)
            own_redis.kill()
            own_redis.start()
            assert command.wait()[0] == 0
    assert on_board(board) == build_of(new)


def test_boards_that_cannot_be_updated_are_said_and_halt_nothing(
    world: World, own_boards: Boards, tmp_path: Path
) -> None:
    """Too little flash, firmware of before updates: a sentence each, nothing is sent, and the others are
    updated."""
    (board,) = own_boards(1)
    slots = {"version": "1", "build": "a" * 12, "boots": 1, "block": 4096, "free": 8192}

    def answers(host: str, request: bytes) -> Say:
        status = {"id": board_id(host), "f": 1.0, "gpio": {}}
        if request.startswith(b"GET /update") and host == "127.0.0.7":
            return answer(json.dumps(status | slots).encode())
        if request.startswith(b"GET /update"):
            return answer(b'{"error": "no such call"}', status="404 Not Found")
        assert not request.startswith(b"PUT"), request
        return answer(json.dumps(status).encode())

    with Wire() as wire:
        wire.default = answers
        for host, name in (("127.0.0.7", "small"), ("127.0.0.8", "old")):
            world.espcli("register", wire.address(host), name)
        world.register(board, names="porch")
        new = version_of(tmp_path, "7.0")
        world.espcli("update", "--all", "--to", str(new), *QUICK, code=1)
        found = status(world)
        assert found["state"] == "done"
        rows = found["boards"]
        assert rows["porch"]["state"] == "done"
        assert (rows["small"]["state"], rows["old"]["state"]) == ("failed", "failed")
        assert "too little flash" in rows["small"]["reason"]
        assert "cable" in rows["old"]["reason"]
        assert (rows["small"]["wave"], rows["old"]["wave"]) == (0, 0)
