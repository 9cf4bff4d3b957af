"""Boards on a serial line: one fresh from the box, one that runs the firmware; and a private espcli."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from espnet.simulator import Board, Fleet

from .cabling import tool

#: Runs `espcli` with these words; ``told`` is its standard input.
Espcli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def fresh() -> Iterator[Board]:
    """A board on which nothing is."""
    with Fleet(1, seed=21, serial=True) as fleet:
        yield fleet[0]


@pytest.fixture(scope="module")
def module_board() -> Iterator[Board]:
    with Fleet(1, seed=22, serial=True, holds="firmware", compiled=True) as fleet:
        yield fleet[0]


@pytest.fixture
def board(module_board: Board) -> Board:
    """A board that runs the firmware, and answers."""
    module_board.reset("power")
    return module_board


@pytest.fixture
def espcli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Espcli:
    monkeypatch.setenv("ESPNET_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("REDIS_URL", "unix:///nowhere/redis.sock")  # no command here needs it
    return lambda *words, told="": tool("espnet.cli", *words, told=told)
