"""`espcli simulate` as a process, most of it with many boards: from its first line to its end."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from firmware.firmware_client import until

from espnet.cli import main
from espnet.simulator import Control

ESPCLI = f"exec {sys.executable} -m espnet.cli"


@contextlib.contextmanager
def simulating(words: str, limit: str = "") -> Iterator["subprocess.Popen[str]"]:
    """`espcli simulate` with these words, in a shell with this limit; ended if it has not."""
    with subprocess.Popen(
        ["sh", "-c", f"{limit} {ESPCLI} simulate {words} --json --beacons off"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: "subprocess.Popen[str]", count: int) -> list[dict[str, str]]:
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def is_closed(address: str) -> bool:
    try:
        requests.get(f"http://{address}/", timeout=1)
    except requests.ConnectionError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_light_boards_run_until_they_are_stopped(number: signal.Signals) -> None:
    """A line a board; every one answers and can be handled; at the end nothing is left."""
    with simulating("5 --static") as process:
        told = lines(process, 5)
        for board in told:
            assert (
                requests.get(f"http://{board['address']}/", timeout=5).json()["id"] == board["id"]
            )
        with Control(told[0]["control"], board=told[0]["id"]) as control:
            assert len(control.get("requests")) == 1
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert not Path(told[0]["control"]).parent.exists()
    assert all(is_closed(board["address"]) for board in told)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_where_files_are_few_boards_are_shared_among_processes(number: signal.Signals) -> None:
    """All boards of the seed are there, with a control socket a process; they end with the first one."""
    with simulating("100 --static", "ulimit -n 200;") as process:
        told = lines(process, 100)
        assert len({board["id"] for board in told}) == len({b["address"] for b in told}) == 100
        assert len({board["control"] for board in told}) == 2
        for board in told[::20]:
            assert (
                requests.get(f"http://{board['address']}/", timeout=5).json()["id"] == board["id"]
            )
        process.send_signal(number)
        assert process.wait(10) == (-number if number == signal.SIGKILL else 0)
        until(lambda: all(is_closed(board["address"]) for board in told[::20]))


def test_when_a_share_is_lost_all_end() -> None:
    """Half a fleet is none: the others say so and end."""
    with simulating("100 --static", "ulimit -n 200;") as process:
        told = lines(process, 100)
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        subprocess.run(["kill", "-9", child], check=True)
        assert process.wait(10) == 1
        assert process.stderr is not None
        assert "share of the boards has ended" in process.stderr.read()
    assert all(is_closed(board["address"]) for board in told[::20])


def test_limits_are_told_before_the_first_board() -> None:
    """Boards that run the firmware need files; the error says how many, and nothing was started."""
    with simulating("40", "ulimit -n 100;") as process:
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out) == (1, "")
        assert "40 boards need" in err
        assert "ulimit -Hn" in err


@pytest.mark.parametrize("words", ["--serial", "--heap 188K", "--keep boards"])
def test_what_light_boards_lack_cannot_be_asked_for(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """--static goes without a heap, a serial line and files."""
    assert main(["simulate", "1", "--static", *words.split()]) == 2
    assert "--static goes alone" in capsys.readouterr().err


def test_a_thousand_light_boards_are_there_in_seconds() -> None:
    """They start fast enough to be used in a test, and end at once."""
    began_s = time.monotonic()
    with simulating("1000 --static") as process:
        assert len(lines(process, 1000)) == 1000
        process.terminate()
        assert process.wait(30) == 0
    assert time.monotonic() - began_s < 60


def test_boards_that_are_kept_know_what_they_knew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next start with the same folder has the same boards with what was stored on them; two starts at
    once, and a folder that cannot be, are refused in one sentence."""
    kept = tmp_path / "boards"
    for known in ("", "192.0.2.7"):
        with simulating(f"1 --keep {kept}") as process:
            (told,) = lines(process, 1)
            home = f"http://{told['address']}"
            assert requests.get(f"{home}/", timeout=5).json()["espnet_host"] == known
            stored = requests.post(f"{home}/set_host", data={"ip": "192.0.2.7"}, timeout=5)
            assert stored.status_code == 200
            assert main(["simulate", "1", "--keep", str(kept)]) == 1
            assert "Another simulator uses" in capsys.readouterr().err
            process.terminate()
            assert process.wait(20) == 0
    (tmp_path / "file").touch()
    assert main(["simulate", "1", "--keep", str(tmp_path / "file" / "boards")]) == 1
    assert "name another folder" in capsys.readouterr().err
