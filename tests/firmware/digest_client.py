"""HTTP Digest written a second time, from RFC 7616 and docs/board.md, to test the board's."""

import hashlib
import itertools
import json
import re
from dataclasses import dataclass

from espnet.simulator.fleet import Board

from .firmware_client import Answer, ask

PASSWORD = "correct horse"
#: For `make_board`: a board that lets any number of wrong passwords pass without slowing down.
PATIENT = ("_WRONG_MAX_MS = const(50000)", "_WRONG_MAX_MS = const(1000000000)")


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def ha1_of(board_id: str, password: str = PASSWORD) -> str:
    return sha256(f"espnet:EspNet {board_id}:{password}")


def claim_by_hand(board: Board, password: str = PASSWORD, private: bool = False) -> None:
    """Puts a credential onto the board's flash, as a claim would, and restarts it."""
    record = {"ha1": ha1_of(board.id, password), "private": private}
    (board.flash / "claim.json").write_text(json.dumps(record))
    board.reset()


def challenge(answer: Answer) -> dict[str, str]:
    """The parameters of a challenge, which must be one of the right kind."""
    header = answer.headers["www-authenticate"]
    assert header.startswith("Digest ")
    fields = {name: a or b for name, a, b in re.findall(r'(\w+)=(?:"([^"]*)"|([^ ,]+))', header)}
    assert fields["algorithm"] == "SHA-256"
    assert fields["qop"] == "auth"
    return fields


def new_nonce(board: Board) -> str:
    """A nonce that nobody has used, from a call that needs a password."""
    answer = ask(board, "POST", "/gpio")
    assert answer.status == 401
    return challenge(answer)["nonce"]


@dataclass
class Digest:
    """Makes Authorization headers; every part of them can be spoilt. ``ha1`` wins over password."""

    board_id: str
    nonce: str
    password: str = PASSWORD
    ha1: str = ""

    def __post_init__(self) -> None:
        self.ha1 = self.ha1 or ha1_of(self.board_id, self.password)
        self.counts = itertools.count(1)

    def fields(self, method: str, target: str, nc: int | None = None) -> dict[str, str]:
        count = f"{next(self.counts) if nc is None else nc:08x}"
        asked = sha256(f"{method}:{target}")
        return {
            "username": "espnet",
            "realm": f"EspNet {self.board_id}",
            "nonce": self.nonce,
            "uri": target,
            "response": sha256(f"{self.ha1}:{self.nonce}:{count}:c0ffee:auth:{asked}"),
            "algorithm": "SHA-256",
            "qop": "auth",
            "nc": count,
            "cnonce": "c0ffee",
        }

    def header(self, method: str, target: str, nc: int | None = None, **spoilt: str) -> str:
        return written({**self.fields(method, target, nc), **spoilt})


def written(fields: dict[str, str]) -> str:
    bare = ("algorithm", "qop", "nc")
    parts = [f"{k}={v}" if k in bare else f'{k}="{v}"' for k, v in fields.items()]
    return "Digest " + ", ".join(parts)


class Person:
    """Somebody who knows the password: asks, is challenged, answers; keeps the nonce."""

    def __init__(self, board: Board, password: str = PASSWORD, ha1: str = "") -> None:
        self.board = board
        nonce = challenge(ask(board, "GET", "/?fence=1"))["nonce"]
        self.digest = Digest(board.id, nonce, password, ha1)

    def ask(self, method: str, path: str, body: bytes | dict[str, object] | None = None) -> Answer:
        header = self.digest.header(method, path)
        return ask(self.board, method, path, body, Authorization=header)
