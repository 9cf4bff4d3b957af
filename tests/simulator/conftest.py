"""Boards that run the probe firmware."""

from collections.abc import Iterator

import pytest

from espnet.simulator import Board, Fleet

from .probing import PROBE, Client, until


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(2, firmware=PROBE, seed=11, heap="160K") as fleet:
        yield fleet


@pytest.fixture
def board(fleet: Fleet) -> Iterator[Board]:
    """The fleet's first board, without faults before and after."""
    board = fleet[0]
    board.wait_ready()
    until(lambda: board.describe()["connections"] == 0, "earlier tests' connections are closed")
    board.forget_requests()
    yield board
    board.clear()
    board.power(True)


@pytest.fixture
def client(board: Board) -> Iterator[Client]:
    with Client(board) as client:
        yield client
