"""Who may do what: the whole table of routes, methods and credentials.

The routes come from the running firmware's own table, so a new one cannot be forgotten here.
"""

import ast

import pytest

from espnet.simulator import Fleet
from espnet.simulator.fleet import Board

from .digest_client import PATIENT, Digest, challenge, claim_by_hand, new_nonce, written
from .firmware_client import Answer, ask, levels, until

METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]
#: A body with which each call does something, wherever one is needed; of PUT /update, no manifest.
BODIES = {
    "/gpio": b"pin=4&value=1&lease_s=60&fence=9",
    "/adc": b"read_pin=36&power_pin=5&fence=9",
    "/dht22": b"read_pin=15&fence=9",
    "/set_host": b"ip=10.9.8.7&fence=9",
    "/claim": b"sealed=" + b"0" * 64 + b"&check=" + b"0" * 64 + b"&fence=9",
    "/update": b"do=undo&fence=9",
    "/restart": b"fence=10",
    "/settings": b'{"hostname": "porch"}',
}
SHORT_LIFE = ("_LIFE_MS = const(600000)", "_LIFE_MS = const(1000)")
PRINT_ROUTES = (
    "auth.admit)\n",
    "auth.admit)\n    print('ROUTES', [route[:3] for route in server.routes], 'END')\n",
)


def routes_of(board: Board) -> list[tuple[str, str, str]]:
    """(method, path, access) of every route, as the running firmware has them."""
    text = board.console.split("ROUTES")[1].split("END")[0]
    return [(m.decode(), p.decode(), access) for m, p, access in ast.literal_eval(text.strip())]


CREDENTIALS = [
    "none",
    "empty",
    "wrong",
    "prefix",
    "empty response",
    "longer",
    "upper case",
    "replayed",
    "expired",
    "other board's",
    "other realm",
]


def spoilt(kind: str, board: Board, other: Board, method: str, target: str, old: str) -> str | None:
    """An Authorization header that must open nothing; None: no such header."""
    if kind == "none":
        return None
    if kind == "empty":
        return ""
    if kind == "other board's":
        foreign = challenge(ask(other, "POST", "/gpio"))["nonce"]
        return Digest(other.id, foreign).header(method, target)
    if kind == "expired":
        return Digest(board.id, old).header(method, target)
    digest = Digest(board.id, new_nonce(board))
    right = digest.fields(method, target)
    response = right["response"]
    changes = {
        "wrong": {"response": Digest(board.id, digest.nonce, "x").fields(method, target, 1)["response"]},
        "prefix": {"response": response[:63]},
        "empty response": {"response": ""},
        "longer": {"response": response + "0"},
        "upper case": {"response": response.upper()},
        "other realm": {"realm": "EspNet " + other.id},
        "replayed": {},
    }[kind]  # fmt: skip
    if kind == "replayed":
        used = digest.header("POST", "/dht22", nc=7)
        assert ask(board, "POST", "/dht22", b"read_pin=1", Authorization=used).status == 403
        return digest.header(method, target, nc=7)
    return written({**right, **changes})


@pytest.mark.parametrize("private", [False, True], ids=["open reads", "private"])
def test_every_route_and_credential(make_board, claimed_fleet: Fleet, private: bool) -> None:
    """Each route × method × credential gives only what the route's access word allows.

    Nothing changes without `control`: pins, leases, fence and flash are the same before and after.
    """
    changes = {"app.py": [PRINT_ROUTES], "auth.py": [SHORT_LIFE, PATIENT]}
    board = make_board(changes)
    other = claimed_fleet[1]
    board.set(dht={15: (20, 50)})
    claim_by_hand(board, private=private)
    routes = routes_of(board)
    assert {(method, path) for method, path, _ in routes} >= {("GET", "/"), ("POST", "/gpio")}
    assert {access for _, _, access in routes} == {"public", "read", "control"}
    table = {(method, path): access for method, path, access in routes}
    paths = [*dict.fromkeys(path for _, path, _ in routes), "/?fence=9", "/nothing"]
    old = new_nonce(board)

    def owner_ask(method: str, path: str, body: bytes | None = None) -> Answer:
        header = Digest(board.id, new_nonce(board)).header(method, path)
        return ask(board, method, path, body, Authorization=header)

    def state() -> dict[str, object]:
        status = owner_ask("GET", "/").json
        files = [path for path in board.flash.rglob("*") if path.is_file()]
        # The switch's record changes by itself, after a good minute.
        kept = {path: path.read_bytes() for path in files if path.name != "boot.json"}
        names = ("gpio", "leases", "fence", "espnet_host", "claimed", "private", "boot")
        return {"kept": kept, "levels": levels(board)} | {name: status[name] for name in names}

    before = state()
    uptime = owner_ask("GET", "/").json["uptime_s"]
    while owner_ask("GET", "/").json["uptime_s"] < uptime + 3:
        pass  # until the old nonce is past its life, by the board's own clock
    for path in paths:
        for method in METHODS:
            access = table.get((method, path))
            if (method, path) == ("GET", "/?fence=9"):
                access = "control"
            bare = path.split("?")[0]
            known = any(other_path == bare for _, other_path in table)
            for kind in CREDENTIALS:
                header = spoilt(kind, board, other, method, path, old)
                headers = {} if header is None else {"Authorization": header}
                body = BODIES.get(path) if method in ("POST", "PUT") else None
                answer = ask(board, method, path, body, **headers)
                found = (method, path, kind, answer)
                if access is None:
                    assert answer.status == (405 if known else 404), found
                elif access == "public" or (access == "read" and not private):
                    assert answer.status == 200, found
                elif path == "/claim" and kind in ("none", "empty"):
                    assert answer.status == 409, found
                else:
                    assert answer.status == 401, found
                    assert challenge(answer)["realm"] == f"EspNet {board.id}"
                    stale = challenge(answer).get("stale") == "true"
                    assert stale == (kind in ("replayed", "expired")), found
                    assert answer.json["error"]
                if answer.status == 401 and method != "HEAD":
                    assert set(answer.json) == {"error", "field"}
    assert state() == before
    # What restarts the board comes last.
    for (method, path), access in sorted(table.items(), key=lambda item: item[0][1] == "/restart"):
        if path == "/restart":
            assert owner_ask("GET", "/?fence=10").json["fence"] == 10, path
            assert board.pin(4).level == 1
        answer = owner_ask(method, path, BODIES.get(path) if access == "control" else None)
        # A seal of zeros, and what is no manifest, are understood and refused.
        is_refused = path == "/claim" or method == "PUT"
        assert answer.status == (422 if is_refused else 200), (path, answer)
    until(lambda: board.boots == 2)
    assert "Traceback" not in board.console


@pytest.mark.parametrize("claimed", [False, True])
def test_a_route_with_another_word_is_refused(make_board, claimed: bool) -> None:
    """Default-deny: an access word that the guard does not know lets nobody in, not even the owner."""
    board = make_board(
        {"calls.py": [('(b"POST", b"/gpio", CONTROL', '(b"POST", b"/gpio", "contorl"')]}
    )
    headers = {}
    if claimed:
        claim_by_hand(board)
        nonce = challenge(ask(board, "POST", "/adc"))["nonce"]
        headers = {"Authorization": Digest(board.id, nonce).header("POST", "/gpio")}
    assert ask(board, "POST", "/gpio", b"pin=4&value=1", **headers).status == 403
    assert board.pin(4).level == 0
