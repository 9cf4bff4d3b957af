"""The beacon: who listens learns of each board, what it is and where, soon and again and again."""

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from espnet.simulator import Fleet

from .firmware_client import ask
from .networking import HOME, joined, put


class Ear:
    """Who listens to beacons on loopback."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.255.255.255", 0))
        self.socket.settimeout(20)
        self.port = int(self.socket.getsockname()[1])

    def hear(self) -> dict[str, Any]:
        data = self.socket.recv(2048)
        assert len(data) <= 400
        found: dict[str, Any] = json.loads(data)
        return found

    def forget(self) -> None:
        """Takes in what has come already."""
        self.socket.settimeout(0.01)
        with contextlib.suppress(TimeoutError):
            while True:
                self.hear()
        self.socket.settimeout(20)


@pytest.fixture
def ear() -> Iterator[Ear]:
    ear = Ear()
    with ear.socket:
        yield ear


def test_what_a_beacon_says(ear: Ear) -> None:
    """Id, name, address, port, version and boot, as the board itself says them."""
    with Fleet(1, beacon_port=ear.port) as fleet:
        board = fleet[0]
        status = ask(board, "GET", "/").json
        assert ear.hear() == {
            "espnet": 1,
            "id": board.id,
            "name": "",
            "address": "127.0.0.1",
            "port": board.port,
            "version": status["version"],
            "boot": status["boot"],
        }


def test_a_beacon_a_minute_and_on_a_new_address(ear: Ear) -> None:
    """A beacon comes every minute of the board's time, and soon after its address has changed; without a
    network there is none."""
    with Fleet(1, beacon_port=ear.port, speed=30) as fleet:
        board = fleet[0]
        board.power(False)
        put(board, {"hostname": "porch", "wifi": [HOME]})
        board.power(True)
        heard = [ear.hear() for _ in range(3)]
        assert {beacon["address"] for beacon in heard} == {"127.0.0.1"}
        board.set(address="127.0.0.77")
        while heard[-1]["address"] == "127.0.0.1":
            heard.append(ear.hear())
        assert heard[-1]["address"] == "127.0.0.77"
        assert {beacon["name"] for beacon in heard[-2:]} == {"porch"}
        board.set(wifi=False, speed=1)
        board.reset()
        ear.forget()
        assert board.network["ssid"] is None
        board.set(wifi=True)
        joined(board, "home")
        assert ear.hear()["address"] == "127.0.0.77"


def test_who_has_no_beacon_port_sends_none(make_board) -> None:
    """Nothing leaves a simulated board that was not told where to."""
    board = make_board()
    board.power(False)
    put(board, {"wifi": [HOME]})
    board.power(True)
    joined(board, "home")
    assert "beacon" not in board.console
