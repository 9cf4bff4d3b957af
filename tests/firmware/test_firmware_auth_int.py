"""Bodies that the digest covers (qop=auth-int), and answers that prove to be the board's own."""

from dataclasses import replace

import pytest

from espnet.simulator import Fleet
from espnet.simulator.fleet import Board

from .digest_client import PATIENT, Digest, Person, challenge, claim_by_hand, new_nonce, written
from .firmware_client import Answer, ask, levels

INFO = "authentication-info"
JSON = "application/json"
#: (method, path, body, Content-Type, the answer's status)
REQUESTS = [
    ("GET", "/?fence=7", b"", "", 200),
    ("GET", "/?fence=6&x=a:b,%22c", b"", "", 200),  # what the target holds is covered as it is
    ("POST", "/gpio", b"pin=4,5&value=1", "application/x-www-form-urlencoded", 200),
    ("POST", "/gpio", b'{"pin": [4, 5], "value": 0, "fence": 7}', JSON, 200),
    ("POST", "/gpio", b'{"pin": 4,' + b" " * 8166 + b'"value": 0}', JSON, 200),
    ("POST", "/gpio", b"", "", 400),
    ("POST", "/gpio", b"pin=4&value=3", "", 422),
    ("POST", "/gpio", b"pin=34&value=1", "", 403),
    ("POST", "/gpio", b'{"pin": 4, "value": 1, "fence": 6}', JSON, 409),
    ("POST", "/dht22", b"read_pin=16", "", 503),  # no sensor is there
    ("POST", "/adc", b"read_pin=36&samples=1", "", 200),
    ("POST", "/adc", b"read_pin=36&samples=50", "", 200),
]


@pytest.fixture
def board(claimed_fleet: Fleet) -> Board:
    """A claimed board that other tests use as well; its pins are low and it counts no wrongs."""
    claimed_fleet[0].reset()
    return claimed_fleet[0]


def sent(
    board: Board, method: str, path: str, body: bytes, kind: str, fields: dict[str, str]
) -> Answer:
    headers = {"Content_Type": kind} if kind else {}
    return ask(board, method, path, body or None, Authorization=written(fields), **headers)


@pytest.mark.parametrize("qop", ["auth", "auth-int"])
def test_every_answer_proves_itself(board: Board, qop: str) -> None:
    """Whatever it says, an answer proves to come from the board, and under auth-int so does its body.

    It is the answer to this request and to none before, and proves nothing under another password.
    """
    digest = Digest(board.id, new_nonce(board), qop=qop)
    stranger = Digest(board.id, digest.nonce, "wrong", qop=qop)
    before: dict[str, str] = {}
    for method, path, body, kind, status in REQUESTS:
        fields = digest.fields(method, path, body=body)
        answer = sent(board, method, path, body, kind, fields)
        found = (path, body[:50], answer)
        assert answer.status == status, found
        assert digest.is_proven(answer, fields), found
        assert list(answer.headers).count(INFO) == 1
        assert not stranger.is_proven(answer, fields)
        assert not before or not digest.is_proven(answer, before)
        for changed in (answer.body[:-1], b"", answer.body + b" ", b"{}"):
            other = replace(answer, body=changed)
            assert digest.is_proven(other, fields) == (qop == "auth"), found
        before = fields


def test_a_body_exchanged_on_the_way(make_board) -> None:
    """Under a right auth-int digest every other body is refused, and changes and costs nothing."""
    board = make_board({"auth.py": [PATIENT]})
    claim_by_hand(board)
    digest = Digest(board.id, new_nonce(board), qop="auth-int")
    before = levels(board)
    for method, path, body, kind, status in REQUESTS:
        fields = digest.fields(method, path, body=body)
        others = [b"pin=4&value=1", b'{"pin": 4, "value": 1}', body[:-1], body + b" ", b"\0", b""]
        for other in others:
            if other != body:
                answer = sent(board, method, path, other, kind, fields)
                assert answer.status == 401, (path, body[:50], other[:50])
                assert "stale" not in challenge(answer)
                assert INFO not in answer.headers
        if status == 200 and path == "/gpio":
            assert levels(board) == before
        assert sent(board, method, path, body, kind, fields).status == status
        before = levels(board)
    assert ask(board, "GET", "/").json["fence"] == 7
    assert "Traceback" not in board.console


@pytest.mark.parametrize(("qop", "other"), [("auth", "auth-int"), ("auth-int", "auth")])
def test_a_digest_is_of_one_kind(board: Board, qop: str, other: str) -> None:
    """What was made for one kind of protection is not right for the other, nor for none."""
    digest = Digest(board.id, new_nonce(board), qop=qop)
    body = b"pin=4&value=1"
    right = digest.fields("POST", "/gpio", body=body)
    for name in (other, "auth,auth-int", "AUTH", "auth-in", ""):
        answer = sent(board, "POST", "/gpio", body, "", {**right, "qop": name})
        assert answer.status == 401, name
    assert board.pin(4).level == 0
    assert sent(board, "POST", "/gpio", body, "", right).status == 200


def test_replays(board: Board) -> None:
    """A covered request that was accepted is never accepted again, whether it was granted or not."""
    owner = Person(board)
    for body, status in ((b"pin=4&value=2", 200), (b"pin=4&value=3", 422)):
        assert owner.ask("POST", "/gpio", body).status == status
        for _ in range(2):
            answer = sent(board, "POST", "/gpio", body, "", owner.sent)
            assert answer.status == 401
            assert challenge(answer)["stale"] == "true"
            assert INFO not in answer.headers
    assert board.pin(4).level == 1


def test_who_has_proven_nothing_gets_no_proof(board: Board) -> None:
    """Without a digest that is right and looked at, no answer carries anything made with HA1."""
    digest = Digest(board.id, new_nonce(board), "wrong", qop="auth-int")
    right = Digest(board.id, digest.nonce, qop="auth-int")
    seen = set()
    for _ in range(9):
        answer = ask(board, "POST", "/gpio", Authorization=digest.header("POST", "/gpio"))
        seen.add(answer.status)
        assert INFO not in answer.headers
    assert seen == {401, 429}
    for path, status in (("/", 200), ("/ui", 200), ("/nothing", 404), ("/gpio", 405)):
        answer = ask(board, "GET", path, Authorization=right.header("GET", path))
        assert answer.status == status
        assert INFO not in answer.headers
    assert INFO not in ask(board, "POST", "/claim").headers


def test_a_bug_is_the_boards_own_word(make_board) -> None:
    """Even a 500 proves to be the board's; a private status proves to be it, too."""
    failing = ('        host = fields.ipv4(body, "ip")', "        raise ValueError")
    board = make_board({"calls.py": [failing]})
    claim_by_hand(board, private=True)
    owner = Person(board)
    for method, path, status in (("POST", "/set_host", 500), ("GET", "/", 200)):
        answer = owner.ask(method, path)
        assert answer.status == status
        assert owner.proves(answer)
