"""Many boards: who they are, that they do not collide, and that nothing of them is left."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from espnet.errors import FirmwareError
from espnet.simulator import Fleet, Simulator, SimulatorError, flash, simulate
from espnet.simulator.ids import board_ids

from .probing import PROBE, Client, until

FIRMWARE = Path(__file__).resolve().parents[2] / "esp32"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may end while it is looked at
        return False


def test_power_that_goes_while_a_board_starts_is_off():
    """Whenever in a start the power goes: it is off then, and not just about to be."""
    with Fleet(1) as fleet:
        board = fleet[0]
        for number in range(60):
            board.reset(wait=False)
            time.sleep(0.1 + 0.002 * number)  # a start takes about so long
            board.power(False)
            assert board.phase == "off"
            board.power(True)


def test_ids_are_the_seed_s_and_some_look_like_numbers():
    """The same seed gives the same ids; no two are equal; type guessers would mangle the first."""
    ids = board_ids(7, 1000)
    assert ids == board_ids(7, 1000)
    assert ids[:3] == board_ids(7, 3)
    assert len(set(ids)) == 1000
    assert all(re.fullmatch("[0-9a-f]{12}", board_id) for board_id in ids)
    assert re.fullmatch(r"2e\d{10}", ids[0])
    assert re.fullmatch(r"\d{12}", ids[1])
    assert re.fullmatch(r"1e\d{10}", ids[2])
    assert not set(board_ids(8, 1000)) & set(ids)


def test_two_fleets_at_once_share_nothing():
    """Even with the same seed: own ports, own sockets, own pins; each board answers for itself."""
    with Fleet(2, firmware=PROBE, seed=1) as a, Fleet(2, firmware=PROBE, seed=1) as b:
        assert [board.id for board in a] == [board.id for board in b]
        assert len({board.address for board in (*a, *b)}) == 4
        assert len({board.control for board in (*a, *b)}) == 4
        with Client(a[0]) as one, Client(b[0]) as other:
            one.exec("machine.Pin(2, machine.Pin.OUT, value=1)")
            assert (a[0].pin(2).level, b[0].pin(2).level) == (1, 0)
            assert one.exec("r = machine.unique_id().hex()") == a[0].id
            assert other.exec("r = machine.unique_id().hex()") == b[0].id


def test_stopping_leaves_nothing():
    """No process, no folder, no port."""
    with Fleet(3, firmware=PROBE) as fleet:
        pids = [board.pid for board in fleet]
        folder = Path(fleet[0].control).parent
        boards = list(fleet)
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)
    assert not folder.exists()
    with pytest.raises(ConnectionRefusedError):
        Client(boards[0]).ask()
    fleet.stop()


PARENT = """
import signal, sys, threading, time
sys.path.insert(0, {root!r})
from pathlib import Path
from espnet.simulator import Fleet
fleet = Fleet(3, firmware=Path({probe!r}))
def run():
    fleet.start()
    print(*[board.pid for board in fleet], fleet[0].control, flush=True)
{how}
"""


def parent(how: str) -> tuple[subprocess.Popen[str], list[int], Path]:
    """Another program with three boards, its boards' process ids, and its folder."""
    code = PARENT.format(root=str(FIRMWARE.parent), probe=str(PROBE), how=how)
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    *pids, control = program.stdout.readline().split()
    assert len(pids) == 3
    return program, [int(pid) for pid in pids], Path(control).parent


@pytest.mark.parametrize(
    "how",
    [
        "run()\ntime.sleep(60)",
        "thread = threading.Thread(target=run)\nthread.start()\nthread.join()\ntime.sleep(60)",
    ],
    ids=["main thread", "a thread that ended"],
)
def test_a_killed_parent_leaves_no_orphan(how: str):
    """SIGKILL cannot be handled, and still every board goes; the next start removes the folder."""
    program, pids, folder = parent(how)
    with program:
        assert all(alive(pid) for pid in pids)
        program.kill()
        program.wait()
    until(lambda: not any(alive(pid) for pid in pids), "all boards are gone")
    with Fleet(1, firmware=PROBE):  # another program's start may have removed it before
        assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_parent_stops_its_boards(number: signal.Signals):
    """Ctrl-C and SIGTERM end the boards too, and Ctrl-C reaches the parent only."""
    program, pids, folder = parent(
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nrun()\ntime.sleep(60)"
    )
    with program:
        program.send_signal(number)
        program.wait(10)
    until(lambda: not any(alive(pid) for pid in pids), "all boards are gone")
    assert not folder.exists()


def test_a_program_that_just_ends_stops_its_boards():
    """Who forgets to stop a fleet leaves nothing."""
    program, pids, folder = parent("run()")
    with program:
        assert program.wait(10) == 0
    until(lambda: not any(alive(pid) for pid in pids), "all boards are gone")
    assert not folder.exists()


def test_a_board_that_is_killed_is_reported_and_comes_back():
    """As after a watchdog reset, and the others do not notice."""
    with Fleet(2, firmware=PROBE) as fleet:
        board, other = fleet[0], fleet[1].pid
        with Client(board) as client:
            client.exec("machine.Pin(2, machine.Pin.OUT, value=1)")
        os.kill(board.pid, signal.SIGKILL)
        until(lambda: board.boots == 2, "a new boot")
        board.wait_ready()
        assert (board.id, "died", "signal 9") in fleet.events
        assert board.reset_cause == "watchdog"
        assert board.pin(2).level == 0
        assert fleet[1].pid == other
        with Client(board) as client:
            assert client.ask()[0] == 200


def test_losing_the_forking_process_loses_the_boards_for_a_moment():
    """The boards end with it, are reported, and come back from a new one."""
    with Fleet(2, firmware=PROBE) as fleet:
        zygote = int(Path(f"/proc/{fleet[0].pid}/stat").read_text().rpartition(")")[2].split()[1])
        pids = [board.pid for board in fleet]
        os.kill(zygote, signal.SIGKILL)
        until(lambda: all(board.boots >= 2 for board in fleet), "new boots")
        for board in fleet:
            board.wait_ready()
            with Client(board) as client:
                assert client.ask()[0] == 200
        assert not any(alive(pid) for pid in pids)


def test_a_board_that_keeps_dying_is_restarted_ever_more_slowly():
    """A boot loop does not become a fork bomb."""
    with Fleet(1, firmware=PROBE) as fleet:
        board = fleet[0]
        (board.flash / "main.py").write_text("import machine\nmachine.reset()\n")
        board.reset(wait=False)
        until(lambda: board.boots >= 4, "several boots")
        assert board.boots < 8


def test_a_firmware_that_does_not_start_is_an_error_with_its_traceback(tmp_path: Path):
    """Who starts a broken firmware reads why, at once, and nothing is left."""
    (tmp_path / "main.py").write_text("import nothing_like_that\n")
    with pytest.raises(SimulatorError, match="nothing_like_that"):
        Fleet(2, firmware=tmp_path).start()
    with pytest.raises(SimulatorError, match=r"main\.py"):
        Fleet(1, firmware=tmp_path / "absent").start()


def test_firmware_that_does_not_compile_is_an_error_that_names_the_file(tmp_path: Path):
    """mpy-cross's own words, with the file's name."""
    (tmp_path / "main.py").write_text("import part\n")
    (tmp_path / "part.py").write_text("match 1:\n    case 1: pass\n")
    with pytest.raises(FirmwareError, match=r"part\.py"):
        Fleet(1, firmware=tmp_path, compiled=True).start()


def test_a_kept_directory_keeps_the_boards_flash(tmp_path: Path):
    """With a directory, what a board wrote is there next time; two at once are refused."""
    home = tmp_path / "boards"
    with Fleet(1, firmware=PROBE, directory=home) as fleet:
        with Client(fleet[0]) as client:
            client.exec("with open('diary', 'w') as f: f.write('day 1')")
        with pytest.raises(SimulatorError, match="Another simulator"):
            Fleet(1, firmware=PROBE, directory=home).start()
    with Fleet(1, firmware=PROBE, directory=home) as fleet, Client(fleet[0]) as client:
        assert client.exec("r = open('diary').read()") == "day 1"


def test_ports_may_be_chosen_and_a_taken_one_is_an_error():
    """Consecutive ports from the first one."""
    with Fleet(1, firmware=PROBE) as fleet:
        free = fleet[0].port
        with pytest.raises(SimulatorError, match=f"Port {free}"):
            Fleet(1, firmware=PROBE, port=free).start()
    with Fleet(1, firmware=PROBE, port=free) as fleet:
        assert fleet[0].address == f"127.0.0.1:{free}"


def test_no_boards_is_an_error():
    """At least one."""
    with pytest.raises(SimulatorError):
        Fleet(0).start()


def test_the_async_core_runs_until_it_is_cancelled():
    """`simulate` reports each board once it answers, and ends cleanly."""

    async def main() -> list[str]:
        seen: list[str] = []
        work = asyncio.create_task(
            simulate(3, firmware=PROBE, on_ready=lambda board: seen.append(board.address))
        )
        async with asyncio.timeout(20):
            while len(seen) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        return seen

    for address in asyncio.run(main()):
        host, port = address.split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=1)


def test_cancelling_a_start_leaves_nothing():
    """Ctrl-C while the boards start."""

    async def main() -> list[int]:
        simulator = Simulator(20, firmware=PROBE)
        work = asyncio.create_task(simulator.start())
        while not any(board.pid for board in simulator.boards):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        pids = [board.pid for board in simulator.boards if board.pid]
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        return pids

    assert not any(alive(pid) for pid in asyncio.run(main()))


def test_the_real_firmware_runs_within_its_heap_budget():
    """esp32/, compiled, answers `GET /` for what it is, 100 times over several connections."""
    with Fleet(2, seed=5, compiled=True) as fleet, ThreadPoolExecutor(4) as pool:
        for board in fleet:
            assert (board.flash / "main.py").read_bytes() == (FIRMWARE / "main.py").read_bytes()

            def ask(_: int, board=board) -> dict:
                with Client(board) as client:
                    return json.loads(client.ask()[1])

            for answer in pool.map(ask, range(100)):
                assert answer["id"] == board.id
                assert {"f", "gpio"} <= set(answer)
            assert board.boots == 1


def test_the_stand_ins_leave_the_budget_to_the_firmware(tmp_path: Path):
    """The stand-in modules and asyncio cost at most 32 KB of heap, asyncio itself 4 of them."""
    (tmp_path / "main.py").write_text(
        "import gc, asyncio\ngc.collect()\nprint('taken', gc.mem_alloc())\n"
    )
    with pytest.raises(SimulatorError) as caught:
        Fleet(1, firmware=tmp_path).start()
    taken = int(re.search(r"taken (\d+)", str(caught.value)).group(1))  # type: ignore[union-attr]
    assert taken < 34_500


def test_folders_of_living_simulators_are_left_alone():
    """A start removes stale folders only."""
    with Fleet(1, firmware=PROBE) as fleet:
        folder, lock = flash.runtime_folder(1)
        lock.close()
        assert Path(fleet[0].control).exists()
        with Fleet(1, firmware=PROBE):
            assert not folder.exists()
            assert Path(fleet[0].control).exists()
