"""Boards whose settings, network and time a test scripts."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from espnet.simulator.fleet import Board

from .firmware_client import ask, until

HOME = {"ssid": "home", "password": "correct horse"}
GARDEN = {"ssid": "garden", "password": "battery staple"}
SECRETS = (HOME["password"], GARDEN["password"], "not the right one", "for the phone")


def put(board: Board, settings: Any, name: str = "settings.json") -> None:
    """Puts a file of settings onto the board's flash, as a cable does; bytes and text as they are."""
    file = Path(board.flash) / name
    if isinstance(settings, bytes):
        file.write_bytes(settings)
    else:
        file.write_text(settings if isinstance(settings, str) else json.dumps(settings))


def on_flash(board: Board, name: str) -> Any:
    """What a file on the board's flash holds; None when there is none."""
    file = Path(board.flash) / name
    return json.loads(file.read_text()) if file.exists() else None


def joined(board: Board, ssid: str, limit_s: float = 20) -> None:
    until(lambda: board.network["ssid"] == ssid, limit_s)


def pass_time(board: Board, minutes: float, speed: float = 600) -> None:
    """Lets so many minutes of the board's time pass, quickly."""
    board.set(speed=speed)
    ends_s = board.time_s + minutes * 60
    while board.time_s < ends_s:
        time.sleep(0.02)
    board.set(speed=1)


def passing(board: Board, what: Callable[[], object], speed: float = 60) -> None:
    """Lets the board's time pass quickly until this is true: its process may not run while it passes."""
    board.set(speed=speed)
    until(what)
    board.set(speed=1)


def tells_no_secret(board: Board) -> None:
    """No password is in what the board prints, shows or keeps of a crash."""
    found = board.console + str(board.network)
    for path in ("/", "/details", "/settings", "/update"):
        found += ask(board, "GET", path).body.decode()
    found += str(on_flash(board, "crash.json"))
    for secret in SECRETS:
        assert secret not in found
