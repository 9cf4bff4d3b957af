"""What the tests of the cable act with: tools as a person runs them, and a board's answers."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from espnet.simulator import Board

ROOT = Path(__file__).resolve().parents[2]
#: How long anything that is not under test may take on a busy machine, in seconds.
PATIENCE_S = 60.0


def tool(*words: object, told: str = "") -> "subprocess.CompletedProcess[str]":
    """Runs one of this Python's tools (`esptool`, `mpremote`) as a program of its own."""
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(
        command,
        cwd=ROOT,
        input=told,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def esptool(board: Board, *words: object) -> "subprocess.CompletedProcess[str]":
    return tool("esptool", "--port", board.serial, *words)


def mpremote(board: Board, *words: object) -> str:
    """What mpremote printed; it must have succeeded."""
    done = tool("mpremote", "connect", board.serial, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def until(what: str, look: Callable[[], Any]) -> Any:
    """What ``look`` returned as soon as that was true; fails at the deadline."""
    deadline = time.monotonic() + PATIENCE_S
    while not (seen := look()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.01)
    return seen


def status(board: Board) -> dict[str, Any]:
    """What the board answers to ``GET /``."""
    answer = requests.get(f"http://{board.address}/", timeout=PATIENCE_S)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found
