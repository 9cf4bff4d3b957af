"""Boards for the firmware's tests: the files of `esp32/`, run by the simulator.

`board` is shared by tests that leave it alive; every test finds its outputs low and no faults.
`make_board` starts one that a test may treat badly, also with parts of its source replaced.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet.simulator import Fleet
from espnet.simulator.fleet import Board

from .digest_client import claim_by_hand
from .firmware_client import FIRMWARE, WRITABLE, ask

MakeBoard = Callable[..., Board]


@pytest.fixture
def make_board(tmp_path: Path) -> Iterator[MakeBoard]:
    """``make_board(replace={"web.py": [(old, new)]}, before_main="…", heap="112K", …)``."""
    with contextlib.ExitStack() as stack:
        made = 0

        def make(
            replace: dict[str, list[tuple[str, str]]] | None = None,
            before_main: str = "",
            **options: Any,
        ) -> Board:
            nonlocal made
            made += 1
            folder = tmp_path / f"firmware{made}"
            shutil.copytree(FIRMWARE, folder, ignore=shutil.ignore_patterns("__pycache__"))
            for name, changes in (replace or {}).items():
                text = (folder / name).read_text()
                for old, new in changes:
                    assert old in text, f"{name} has no {old!r} any more"
                    text = text.replace(old, new)
                (folder / name).write_text(text)
            app = (folder / "app.py").read_text()
            (folder / "app.py").write_text(before_main + "\n" + app)
            fleet = stack.enter_context(Fleet(1, firmware=folder, **options))
            return fleet[0]

        yield make


@pytest.fixture(scope="session")
def shared_board() -> Iterator[Board]:
    # Compiled, as `make put` brings it: in the end it has been asked everything, so all is loaded.
    with Fleet(1, compiled=True) as fleet:
        yield fleet[0]


@pytest.fixture
def board(shared_board: Board) -> Board:
    """The shared board: alive, all outputs low, without faults; nothing may have reset it."""
    assert shared_board.boots == 1, shared_board.console
    shared_board.clear()
    pins = ",".join(map(str, WRITABLE))
    assert ask(shared_board, "POST", "/gpio", f"pin={pins}&value=0".encode()).status == 200
    return shared_board


@pytest.fixture(scope="session")
def claimed_fleet() -> Iterator[Fleet]:
    """Two boards that are claimed, compiled as `make put` brings them; tests may reset them."""
    with Fleet(2, compiled=True) as fleet:
        for board in fleet:
            claim_by_hand(board)
        yield fleet
