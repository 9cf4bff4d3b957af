"""A client that sees what is on a simulated board's wire, and patience with a deadline."""

import json
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from espnet.simulator import Board

PROBE = Path(__file__).with_name("probe")


class Client:
    """One keep-alive connection to a board."""

    def __init__(self, board: Board, timeout_s: float = 3.0) -> None:
        self.http = HTTPConnection("127.0.0.1", board.port, timeout=timeout_s)

    def ask(self, path: str = "/", body: str | None = None) -> tuple[int, bytes]:
        self.http.request("GET" if body is None else "POST", path, body)
        response = self.http.getresponse()
        return response.status, response.read()

    def exec(self, program: str) -> Any:
        """Runs a program on the board and returns what it put into ``r``."""
        answer = json.loads(self.ask("/exec", program)[1])
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["r"]

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def until(condition: Callable[[], Any], what: str, timeout_s: float = 10.0) -> Any:
    """Polls ``condition`` until it is true, and returns what it returned."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)
    return result
