"""Digest as clients of boards speak it, against the formulas of RFC 7616 written a second time."""

import copy
import hashlib
import json
import pickle
import re
import traceback

import msgspec
import pytest

from espnet.board.digest import Login, OddChallenge
from espnet.credential import Password, new_password, problem_with_password

ID = "a1b2c3d4e5f6"
GOOD, OLD, OTHER = (Password(f"{word} long password") for word in ("good", "old", "other"))
NONCES = [f"{n:044x}" for n in range(20)]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def challenge(nonce: str = NONCES[0], stale: bool = False, **spoilt: str) -> bytes:
    fields = {"realm": f"EspNet {ID}", "nonce": nonce, "qop": "auth,auth-int"} | spoilt
    text = ", ".join(f'{name}="{value}"' for name, value in fields.items())
    return f"Digest {text}, algorithm=SHA-256{', stale=true' if stale else ''}".encode()


def fields_of(header: bytes) -> dict[str, str]:
    assert header.startswith(b"Digest ")
    return {a: b or c for a, b, c in re.findall(r'(\w+)=(?:"([^"]*)"|([^ ,]+))', header.decode())}


def is_right(header: bytes, password: Password, method: str, body: bytes = b"") -> bool:
    f = fields_of(header)
    ha1 = sha256(f"{f['username']}:{f['realm']}:{password.reveal()}")
    asked = f"{method}:{f['uri']}"
    if f["qop"] == "auth-int":
        asked += f":{hashlib.sha256(body).hexdigest()}"
    want = sha256(f"{ha1}:{f['nonce']}:{f['nc']}:{f['cnonce']}:{f['qop']}:{sha256(asked)}")
    return f["response"] == want


def proof(header: bytes, password: Password, body: bytes, more: str = "") -> bytes:
    """What a board that knows the password says with its answer."""
    f = fields_of(header)
    ha1 = sha256(f"{f['username']}:{f['realm']}:{password.reveal()}")
    answered = f":{f['uri']}"
    if f["qop"] == "auth-int":
        answered += f":{hashlib.sha256(body).hexdigest()}"
    text = f"{ha1}:{f['nonce']}:{f['nc']}:{f['cnonce']}:{f['qop']}:{sha256(answered)}"
    return f'rspauth="{sha256(text)}"{more}'.encode()


def logged_in(*passwords: Password) -> Login:
    """A login that was challenged once."""
    login = Login(ID, lambda _: passwords or (GOOD,))
    assert login.sign(b"GET", b"/?fence=1") == b""
    assert login.answered(401, challenge(), b"", b"")
    return login


def test_nothing_is_signed_before_a_challenge_and_everything_after_it() -> None:
    """One challenge, then each request is signed for itself: method, target, body, and a growing count."""
    login = logged_in()
    seen = []
    for n, (method, target, body) in enumerate(
        [(b"GET", b"/?fence=7", b""), (b"POST", b"/gpio", b"pin=4&value=1"), (b"GET", b"/", b"")], 1
    ):
        header = login.sign(method, target, body)
        assert is_right(header, GOOD, method.decode(), body)
        fields = fields_of(header)
        assert (fields["nc"], fields["uri"], fields["qop"]) == (
            f"{n:08x}",
            target.decode(),
            "auth-int",
        )
        seen.append(fields["response"])
        assert not login.answered(200, b"", proof(header, GOOD, b"{}"), b"{}")
        assert login.is_proved
    assert len(set(seen)) == 3
    assert not is_right(login.sign(b"POST", b"/gpio", b"pin=4"), GOOD, "POST", b"pin=5")


@pytest.mark.parametrize(
    "info",
    [
        b"",
        b'rspauth="' + b"0" * 64 + b'"',
        b"rspauth=x",
        b'nextnonce="' + NONCES[9].encode() + b'"',
        b"\xff\x00",
    ],
)
def test_an_answer_without_the_right_proof_proves_nothing(info: bytes) -> None:
    """Neither does it offer a nonce: an impostor may not choose what is hashed next."""
    login = logged_in()
    header = login.sign(b"GET", b"/")
    before = fields_of(header)["nonce"]
    assert not login.answered(200, b"", info, b"{}")
    assert not login.is_proved
    assert fields_of(login.sign(b"GET", b"/"))["nonce"] == before


def test_a_proof_of_another_body_or_password_is_none() -> None:
    """Who sits on the way and changes an answer is found out."""
    for password, body in ((GOOD, b'{"f":1}'), (OLD, b"{}")):
        login = logged_in()
        header = login.sign(b"GET", b"/")
        assert not login.answered(200, b"", proof(header, password, body), b"{}")
        assert not login.is_proved


def test_the_next_nonce_is_followed_from_its_first_count() -> None:
    """So a client that asks in time is never challenged again."""
    login = logged_in()
    for nonce in NONCES[1:5]:
        header = login.sign(b"GET", b"/")
        info = proof(header, GOOD, b"{}", f', nextnonce="{nonce}"')
        assert not login.answered(200, b"", info, b"{}")
        fields = fields_of(login.sign(b"GET", b"/"))
        assert (fields["nonce"], fields["nc"]) == (nonce, "00000001")


def test_a_stale_nonce_costs_one_more_request_and_no_password() -> None:
    """`stale=true` says that the password was right."""
    login = logged_in()
    login.sign(b"GET", b"/")
    assert login.answered(401, challenge(NONCES[1], stale=True), b"", b"")
    header = login.sign(b"GET", b"/")
    assert is_right(header, GOOD, "GET")
    assert fields_of(header)["nonce"] == NONCES[1]


def test_each_password_is_tried_once_and_the_one_that_is_taken_is_kept() -> None:
    """401 and 429 both mean: not this one. When all were refused it is over, until the next request."""
    login = logged_in(OLD, OTHER, GOOD)
    assert is_right(login.sign(b"GET", b"/"), OLD, "GET")
    assert login.answered(401, challenge(NONCES[1]), b"", b"")
    assert is_right(login.sign(b"GET", b"/"), OTHER, "GET")
    assert login.answered(429, b"", b"", b"")
    header = login.sign(b"GET", b"/")
    assert is_right(header, GOOD, "GET")
    assert not login.answered(200, b"", proof(header, GOOD, b""), b"")
    assert login.password == GOOD
    # Its next refusal begins a new round, from here.
    assert is_right(login.sign(b"GET", b"/"), GOOD, "GET")
    assert login.answered(401, challenge(NONCES[2]), b"", b"")
    assert is_right(login.sign(b"GET", b"/"), OLD, "GET")
    assert login.answered(401, challenge(NONCES[3]), b"", b"")
    assert is_right(login.sign(b"GET", b"/"), OTHER, "GET")
    assert not login.answered(401, challenge(NONCES[4]), b"", b"")
    assert login.sign(b"GET", b"/") == b""
    assert login.password is None


def test_no_count_is_used_twice_with_one_nonce() -> None:
    """Even where a board offers the nonce again that is in use: what a new password is sealed under must
    never come back."""
    login = logged_in()
    known = {login.coming()}
    login.sign(b"POST", b"/claim", b"1")
    assert login.answered(401, challenge(NONCES[0], stale=True), b"", b"")
    known.add(login.coming())
    login.sign(b"POST", b"/claim", b"2")
    known.add(login.coming())
    assert len(known) == 3
    assert {text.split(":")[1] for text in known} == {NONCES[0]}


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"Basic realm=x",
        b"Digest",
        b"Digest realm",
        b"\xff\xfe",
        challenge(algorithm_="MD5").replace(b"SHA-256", b"MD5"),
        challenge(qop="auth-conf"),
        challenge(qop="auth"),
        challenge(qop=""),
        challenge(nonce=""),
        challenge(nonce="f" * 43),
        challenge(nonce="F" * 44),
        challenge(nonce="f" * 43 + ":"),
        challenge(nonce='f" , x="'),
        challenge(realm="EspNet"),
        challenge(realm="Router"),
        challenge(realm="EspNet 000000000000"),
        challenge(realm="EspNet a1 b2"),
        challenge(realm='EspNet a1", uri="/'),
        b"Digest " + b"x" * 100_000,
    ],
)
def test_an_odd_challenge_is_never_answered(odd: bytes) -> None:
    """Nothing that a board invents gets into a header, and no other board is told of our password."""
    login = Login(ID, lambda _: (GOOD,))
    login.sign(b"GET", b"/")
    if odd == b"":
        assert not login.answered(401, odd, b"", b"")
    else:
        with pytest.raises(OddChallenge):
            login.answered(401, odd, b"", b"")
    assert login.sign(b"GET", b"/") == b""


def test_who_answers_may_say_which_board_it_is_but_not_what_goes_into_a_header() -> None:
    """Where no id was expected, the realm's is asked for, once."""
    asked = []

    def find(board_id: str) -> tuple[Password, ...]:
        asked.append(board_id)
        return (GOOD,) if board_id == ID else ()

    login = Login(None, find)
    login.sign(b"GET", b"/")
    assert login.answered(401, challenge(), b"", b"")
    assert is_right(login.sign(b"GET", b"/"), GOOD, "GET")
    stranger = Login(None, find)
    stranger.sign(b"GET", b"/")
    assert not stranger.answered(401, challenge(realm="EspNet ffff"), b"", b"")
    assert asked == [ID, "ffff"]


def test_a_password_is_seen_only_by_who_asks_for_it() -> None:
    """Not in a repr, a format, a record, a copy, a pickle or a traceback."""
    secret = "tops3cret-tops3cret"
    password = Password(secret)
    login = Login(ID, lambda _: (password,))
    shown = f"{password} {password!r} {(password,)} {login} {vars(login)} {password.__doc__}"
    assert secret not in shown
    assert password.reveal() == secret
    for spread in (json.dumps, pickle.dumps, copy.copy, copy.deepcopy, msgspec.json.encode):
        with pytest.raises(TypeError) as caught:
            spread(password)  # type: ignore[operator]
        assert secret not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(TypeError):
        hash(password)
    assert password == Password(secret)
    assert password != Password("another-one-of-20")


def test_new_passwords_are_random_and_easy_to_type() -> None:
    """20 of 32 letters that nobody mixes up, in groups; never one twice."""
    texts = {new_password().reveal() for _ in range(500)}
    assert len(texts) == 500
    letters = set("".join(texts))
    assert letters == set("0123456789abcdefghjkmnpqrstvwxyz-")
    assert all(re.fullmatch(r"(\w{5}-){3}\w{5}", text) for text in texts)
    assert not any(problem_with_password(text) for text in texts)
    assert problem_with_password("short")
    assert problem_with_password("ünïcode ünïcode")
    assert problem_with_password("x" * 65)
    assert problem_with_password("a\nb" * 8)
