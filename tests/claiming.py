"""How tests see who may control a board: from the network, from its flash, and from Redis.

The digest is not EspNet's own: `requests`' where there is a password, that of the firmware's tests where
there is only HA1.
"""

import io
import json
from typing import TextIO

import pytest
import redis
import requests
from firmware import firmware_client
from firmware.digest_client import ha1_of
from requests.auth import HTTPDigestAuth

from espnet.cli import main
from espnet.credential import USER
from espnet.simulator import Board
from espnet.store import Store

PIN = 2


class Cli:
    """Runs commands in this process; what they printed, and their exit codes."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, *words: str, code: int = 0, stdin: str | TextIO | None = "") -> str:
        """What a command said: on stdout when all was well, else its one sentence on stderr."""
        typed = io.StringIO(stdin) if isinstance(stdin, str) else stdin
        self._monkeypatch.setattr("sys.stdin", typed)
        self._capsys.readouterr()
        ended = main(words)
        out, err = self._capsys.readouterr()
        assert ended == code, (words, ended, out, err)
        if code == 0:
            return str(out)
        assert not out, (words, out)
        assert err.startswith("espcli: "), err
        assert err.count("\n") == 1, err
        return str(err)

    def password(self, name: str) -> str:
        """What a person is shown."""
        return fields(self("device", name, "credentials", "show"))["password"]

    def access(self, name: str) -> str | None:
        told: str | None = json.loads(self("--json", "device", name))["access"]
        return told


def fields(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines())


def everything(raw: "redis.Redis") -> dict[bytes, object]:
    """All that Redis has, apart from locks and the counter that grows with each of them."""
    found: dict[bytes, object] = {}
    for key in raw.scan_iter("*"):
        if b":lock:" not in key and not key.endswith(b":fence"):
            found[key] = raw.dump(key)
    return found


def flash(board: Board) -> dict[str, object] | None:
    """The credential on a board's flash; None where it is open."""
    file = board.flash / "claim.json"
    told: dict[str, object] | None = json.loads(file.read_text()) if file.exists() else None
    return told


def switch(board: Board, password: str | None, level: int = 1) -> int:
    """Switches a pin as another program would; the status that it gets."""
    auth = HTTPDigestAuth(USER, password) if password is not None else None
    url, form = f"http://{board.address}/gpio", {"pin": str(PIN), "value": str(level)}
    return requests.post(url, form, auth=auth, timeout=5).status_code


def is_controlled_by(board: Board, password: str) -> bool:
    """Whether this password switches the board, and nothing else does."""
    for level in (1, 0):
        if switch(board, password, level) != 200 or board.pin(PIN).level != level:
            return False
    return (
        switch(board, None) == 401
        and switch(board, password[:-1] + "!") in (401, 429)
        and board.pin(PIN).level == 0
        and flash(board) is not None
    )


def is_open(board: Board) -> bool:
    """Whether everybody may switch the board."""
    told = firmware_client.ask(board, "GET", "/").json
    return (
        told["claimed"] is False
        and flash(board) is None
        and [switch(board, None, level) for level in (1, 0)] == [200, 200]
    )


def place_of(board: Board, store: Store) -> int:
    """Where the board's password is among those that are kept, which it must be; -1 for an open board.

    What the board has, Redis has: whatever was cut off, the board can be controlled.
    """
    claim = flash(board)
    if claim is None:
        return -1
    kept = [one.reveal() for one in store.credential(board.id).passwords]
    return [ha1_of(board.id, password) for password in kept].index(str(claim["ha1"]))
