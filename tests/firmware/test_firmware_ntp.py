"""The board's clock: set by the network when that can be, wrong when not, and never in the way."""

import pytest

from espnet.simulator import network
from espnet.simulator.fleet import Board

from .firmware_client import ask, until
from .networking import HOME, joined, pass_time, put

GARBAGE = [name for name in network.NTP if name not in ("good", "none")]


def start(make_board, servers: dict[str, str], **settings: object) -> Board:
    board: Board = make_board()
    board.power(False)
    put(board, {"wifi": [HOME], **settings})
    board.set(wifi=[HOME], **servers)
    board.power(True)
    joined(board, "home")
    return board


def offset_s(board: Board) -> int:
    return int(board.describe()["rtc_offset_s"])


def test_the_clock_is_set_in_utc(make_board) -> None:
    """A chip's clock begins in 2000; a server's answer sets it, at once and again after twelve hours."""
    board = start(make_board, {"ntp": "good"})
    until(lambda: abs(offset_s(board)) <= 2)
    asked = board.network["ntp_asked"]
    pass_time(board, 60 * 11, speed=3600)
    assert board.network["ntp_asked"] == asked
    pass_time(board, 90, speed=3600)
    until(lambda: board.network["ntp_asked"] > asked)


@pytest.mark.parametrize("kind", GARBAGE)
def test_what_is_no_time_is_refused(make_board, kind: str) -> None:
    """An answer that is not one to our question, or not from a good clock, or of an impossible year, does
    not touch the clock, and the board serves on."""
    board = start(make_board, {"ntp": kind})
    before = offset_s(board)
    assert before < -600_000_000
    board.set(speed=20)
    until(lambda: "no time to be had" in board.console)
    board.set(speed=1)
    assert board.network["ntp_asked"] >= 2
    assert offset_s(board) == before
    assert ask(board, "GET", "/").status == 200
    assert "Traceback" not in board.console


@pytest.mark.parametrize("kind", [name for name in network.DNS if name != "good"])
def test_without_a_name_there_is_no_time(make_board, kind: str) -> None:
    """A DNS server that is silent, wrong or does not know the name costs the time, and nothing else."""
    board = start(make_board, {"dns": kind})
    board.set(speed=20)
    until(lambda: "no time to be had" in board.console)
    board.set(speed=1)
    assert board.network["dns_asked"] >= 1
    assert board.network["ntp_asked"] == 0
    assert ask(board, "GET", "/").status == 200


def test_who_needs_no_name_asks_for_none(make_board) -> None:
    """A server named by its address is asked without DNS; "" asks nobody."""
    board = start(make_board, {"dns": "none"}, ntp="127.0.0.5")
    until(lambda: abs(offset_s(board)) <= 2)
    assert board.network["dns_asked"] == 0
    board.power(False)
    put(board, {"wifi": [HOME], "ntp": ""})
    board.power(True)
    joined(board, "home")
    asked = board.network["ntp_asked"]
    pass_time(board, 30)
    assert (board.network["dns_asked"], board.network["ntp_asked"]) == (0, asked)


def test_requests_are_served_while_nobody_answers(make_board) -> None:
    """While the board waits for a server that says nothing, requests are served as ever."""
    board = start(make_board, {"ntp": "none"})
    until(lambda: board.network["ntp_asked"] == 1)
    for _ in range(20):
        assert ask(board, "GET", "/").status == 200
    assert "no time to be had" not in board.console
