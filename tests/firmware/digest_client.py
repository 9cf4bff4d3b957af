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


def sha256(text: str | bytes) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


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
    fields = parameters(header)
    assert fields["algorithm"] == "SHA-256"
    assert fields["qop"] == "auth,auth-int"
    return fields


def parameters(header: str) -> dict[str, str]:
    return {name: a or b for name, a, b in re.findall(r'(\w+)=(?:"([^"]*)"|([^ ,]+))', header)}


def new_nonce(board: Board) -> str:
    """A nonce that nobody has used, from a call that needs a password."""
    answer = ask(board, "POST", "/gpio")
    assert answer.status == 401
    return challenge(answer)["nonce"]


@dataclass
class Digest:
    """Makes Authorization headers; every part of them can be spoilt. ``ha1`` wins over password.

    ``body`` counts with ``qop`` auth-int only.
    """

    board_id: str
    nonce: str
    password: str = PASSWORD
    ha1: str = ""
    qop: str = "auth"

    def __post_init__(self) -> None:
        self.ha1 = self.ha1 or ha1_of(self.board_id, self.password)
        self.counts = itertools.count(1)

    def proof(self, count: str, covered: str, body: bytes) -> str:
        if self.qop == "auth-int":
            covered += f":{sha256(body)}"
        return sha256(f"{self.ha1}:{self.nonce}:{count}:c0ffee:{self.qop}:{sha256(covered)}")

    def fields(
        self, method: str, target: str, nc: int | None = None, body: bytes = b""
    ) -> dict[str, str]:
        count = f"{next(self.counts) if nc is None else nc:08x}"
        return {
            "username": "espnet",
            "realm": f"EspNet {self.board_id}",
            "nonce": self.nonce,
            "uri": target,
            "response": self.proof(count, f"{method}:{target}", body),
            "algorithm": "SHA-256",
            "qop": self.qop,
            "nc": count,
            "cnonce": "c0ffee",
        }

    def header(
        self, method: str, target: str, nc: int | None = None, body: bytes = b"", **spoilt: str
    ) -> str:
        return written({**self.fields(method, target, nc, body), **spoilt})

    def is_proven(self, answer: Answer, sent: dict[str, str]) -> bool:
        """Whether an answer comes from one who knows HA1, and is to the request with these fields."""
        found = parameters(answer.headers.get("authentication-info", ""))
        return found.get("rspauth") == self.proof(sent["nc"], f":{sent['uri']}", answer.body) and (
            all(found[name] == sent[name] for name in ("qop", "nc", "cnonce"))
        )


def written(fields: dict[str, str]) -> str:
    bare = ("algorithm", "qop", "nc")
    parts = [f"{k}={v}" if k in bare else f'{k}="{v}"' for k, v in fields.items()]
    return "Digest " + ", ".join(parts)


class Person:
    """Somebody who knows the password: asks, is challenged, answers; keeps the nonce.

    Bodies are covered, unless ``qop`` is auth. Every proof that a board gives must be right.
    """

    def __init__(
        self, board: Board, password: str = PASSWORD, ha1: str = "", qop: str = "auth-int"
    ) -> None:
        self.board = board
        nonce = challenge(ask(board, "GET", "/?fence=1"))["nonce"]
        self.digest = Digest(board.id, nonce, password, ha1, qop)
        self.sent: dict[str, str] = {}

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | dict[str, object] | None = None,
        nc: int | None = None,
    ) -> Answer:
        headers = {}
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            headers["Content_Type"] = "application/json"
        self.sent = self.digest.fields(method, path, nc, body or b"")
        headers["Authorization"] = written(self.sent)
        answer = ask(self.board, method, path, body, **headers)
        assert "authentication-info" not in answer.headers or self.proves(answer)
        return answer

    def proves(self, answer: Answer) -> bool:
        """Whether an answer to the last request is the board's own."""
        return self.digest.is_proven(answer, self.sent)
