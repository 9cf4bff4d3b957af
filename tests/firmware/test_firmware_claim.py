"""Claiming a board, giving it another credential, and what a power cut leaves of either."""

import contextlib
import http.client
import json
from dataclasses import replace

import pytest

from espnet.simulator.fleet import Board

from .digest_client import PATIENT, Person, challenge, claim_by_hand, ha1_of, sha256
from .firmware_client import Answer, ask, connect, levels, until

OLD, NEW = "the old one", "the new one"


def sealed(board_id: str, old: str, new: str, nonce: str, nc: str, private: str) -> dict[str, str]:
    """The fields of a rotation, as docs/board.md has them. ``private``: true or false, as it will be."""
    known = f"{old}:{nonce}:{nc}"
    pad = sha256(f"{known}:rotate")
    return {
        "sealed": f"{int(new, 16) ^ int(pad, 16):064x}",
        "check": sha256(f"{known}:check:{new}:{private}"),
    }


def rotate(person: Person, new: str, **more: object) -> Answer:
    """A rotation to the HA1 ``new``, after which ``person`` still has the old one."""
    digest = person.digest
    nc = next(digest.counts)
    private = str(more.get("private", "false")).lower()
    body: dict[str, object] = sealed(
        person.board.id, digest.ha1, new, digest.nonce, f"{nc:08x}", private
    )
    return person.ask("POST", "/claim", {**body, **more}, nc)


def opens(board: Board, password: str) -> bool:
    return Person(board, password).ask("POST", "/adc").status == 400


@pytest.mark.parametrize("private", [None, False, True, "true", "false"])
def test_claim(make_board, private: object) -> None:
    """An open board takes the first HA1; from then on, over resets too, only its password controls."""
    board = make_board()
    body = {"ha1": ha1_of(board.id, NEW)} | ({} if private is None else {"private": private})
    answer = ask(board, "POST", "/claim", body)
    assert answer.status == 200
    assert answer.json == {"id": board.id, "status": "OK"}
    closed = private in (True, "true")
    for _ in range(2):
        assert ask(board, "POST", "/gpio", b"pin=4&value=1").status == 401
        assert ask(board, "GET", "/").status == (401 if closed else 200)
        owner = Person(board, NEW)
        status = owner.ask("GET", "/").json
        assert (status["claimed"], status["private"]) == (True, closed)
        assert owner.ask("POST", "/gpio", b"pin=4&value=1").status == 200
        assert not opens(board, OLD)
        board.reset()
    kept = json.loads((board.flash / "claim.json").read_text())
    assert kept == {"ha1": ha1_of(board.id, NEW), "private": closed}
    (board.flash / "claim.json").unlink()
    board.reset()
    assert ask(board, "POST", "/gpio", b"pin=4&value=1").status == 200


def test_who_comes_second(make_board) -> None:
    """A claimed board tells a second claimant so with 409, and stays with the first."""
    board = make_board()
    first, second = ({"ha1": ha1_of(board.id, password)} for password in (OLD, NEW))
    assert ask(board, "POST", "/claim", first).status == 200
    for body in (second, first, {}):
        answer = ask(board, "POST", "/claim", body)
        assert answer.status == 409
        assert challenge(answer)["realm"] == f"EspNet {board.id}"
    assert opens(board, OLD)
    assert not opens(board, NEW)


BAD_CLAIMS = [
    ({}, 400),
    ({"ha1": None}, 422),
    ({"ha1": 5}, 422),
    ({"ha1": ""}, 422),
    ({"ha1": "a" * 63}, 422),
    ({"ha1": "a" * 65}, 422),
    ({"ha1": "A" * 64}, 422),
    ({"ha1": "0x" + "a" * 62}, 422),
    ({"ha1": "g" * 64}, 422),
    ({"ha1": ["a" * 64]}, 422),
    ({"sealed": "a" * 64, "check": "a" * 64}, 400),
    ({"ha1": "a" * 64, "private": "yes"}, 400),
    ({"ha1": "a" * 64, "private": None}, 400),
    ({"ha1": "a" * 64, "private": [True]}, 400),
    ({"ha1": "a" * 64, "private": 2}, 400),
    ({"ha1": "a" * 64, "fence": 0}, 422),
]


@pytest.mark.parametrize(("body", "status"), BAD_CLAIMS)
def test_bad_claims(board: Board, body: dict[str, object], status: int) -> None:
    """What is not a credential is refused, and the board stays open."""
    answer = ask(board, "POST", "/claim", body)
    assert answer.status == status
    assert ask(board, "GET", "/").json["claimed"] is False
    assert not (board.flash / "claim.json").exists()


def test_rotation(make_board) -> None:
    """The owner changes the credential, sealed; the same connection's nonce goes on with the new one."""
    board = make_board()
    claim_by_hand(board, OLD)
    owner = Person(board, OLD)
    for password in (NEW, OLD, OLD, NEW):  # to the same one as well
        answer = rotate(owner, ha1_of(board.id, password), private=password == NEW)
        assert answer.status == 200, answer
        owner.digest.ha1 = ha1_of(board.id, password)
        status = owner.ask("GET", "/").json
        assert status["private"] is (password == NEW)
        other = OLD if password == NEW else NEW
        assert opens(board, password)
        assert not opens(board, other)
        board.reset()
        assert opens(board, password)
        owner = Person(board, password)
    assert rotate(owner, ha1_of(board.id, OLD), private="true").status == 200
    assert Person(board, OLD).ask("GET", "/").json["private"] is True


def test_a_rotation_keeps_what_it_does_not_name(make_board) -> None:
    """Without the field, `private` stays as it is, and the check is over what it is."""
    board = make_board()
    claim_by_hand(board, OLD, private=True)
    owner = Person(board, OLD)
    digest = owner.digest
    body = sealed(board.id, digest.ha1, ha1_of(board.id, NEW), digest.nonce, "00000005", "true")
    assert owner.ask("POST", "/claim", dict(body), nc=5).status == 200
    assert Person(board, NEW).ask("GET", "/").json["private"] is True


def test_spoilt_rotations(make_board) -> None:
    """A seal that does not fit, or an HA1 in clear, changes nothing and locks nobody out."""
    board = make_board({"auth.py": [PATIENT]})
    claim_by_hand(board, OLD)
    owner = Person(board, OLD)
    new = ha1_of(board.id, NEW)
    spoilt: list[tuple[dict[str, object], int]] = [
        ({"sealed": "0" * 64}, 422),
        ({"check": "0" * 64}, 422),
        ({"check": None}, 422),
        ({"check": ""}, 422),
        ({"check": 5}, 422),
        ({"sealed": "0" * 63}, 422),
        ({"sealed": None}, 422),
        ({"private": "maybe"}, 400),
        (
            {
                "sealed": sealed(board.id, new, new, owner.digest.nonce, "00000001", "false")[
                    "sealed"
                ]
            },
            422,
        ),
    ]
    before = (board.flash / "claim.json").read_bytes()
    for more, status in spoilt:
        assert rotate(owner, new, **more).status == status, more
    assert owner.ask("POST", "/claim", {"ha1": new}).status == 400
    # A listener that turns `private` round in a request that was made for false.
    digest = owner.digest
    digest.qop = "auth"  # or the change would be noticed before
    fields = digest.fields("POST", "/claim")
    body: dict[str, object] = sealed(board.id, digest.ha1, new, digest.nonce, fields["nc"], "false")
    header = digest.header("POST", "/claim", int(fields["nc"], 16))
    answer = ask(board, "POST", "/claim", {**body, "private": True}, Authorization=header)
    assert answer.status == 422
    assert (board.flash / "claim.json").read_bytes() == before
    assert opens(board, OLD)
    assert ask(board, "POST", "/claim", body).status == 409


def test_an_impostor_cannot_confirm(make_board) -> None:
    """The answer to a rotation is the board's own, proven with the old HA1 and over its body."""
    board = make_board({"auth.py": [PATIENT]})
    claim_by_hand(board, OLD)
    owner = Person(board, OLD)
    for private, status in (("maybe", 400), (False, 200)):
        answer = rotate(owner, ha1_of(board.id, NEW), private=private)
        assert answer.status == status
        assert owner.proves(answer)
        assert not owner.proves(replace(answer, body=b'{"id": "x", "status": "OK"}'))
        stranger = replace(owner.digest, ha1="", password=NEW)
        assert not stranger.is_proven(answer, owner.sent)
    assert opens(board, NEW)


def test_an_outdated_controller_cannot_claim(make_board) -> None:
    """`/claim` takes the fence like every other call."""
    board = make_board()
    assert ask(board, "GET", "/?fence=5").json["fence"] == 5
    body = {"ha1": ha1_of(board.id, NEW), "fence": 4}
    assert ask(board, "POST", "/claim", body).status == 409
    assert ask(board, "GET", "/").json["claimed"] is False
    assert ask(board, "POST", "/claim", {**body, "fence": 5}).status == 200


OPEN, DUMP, RENAME = 'with open(beside, "w")', "json.dump(value, file)", "os.rename(beside, name)"
#: Where the power goes, in flash.save.
CUTS = {
    "before it is written": (OPEN, f"CUT\n    {OPEN}"),
    "half written": (DUMP, "file.write(json.dumps(value)[:40]); file.flush(); CUT"),
    "before it counts": (RENAME, f"CUT; {RENAME}"),
    "after it counts": (RENAME, f"{RENAME}; CUT"),
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("claimed", [False, True])
def test_power_cut(make_board, cut: str, claimed: bool) -> None:
    """Whenever the power goes, the board boots with the credential before or the one after, whole."""
    old, new = CUTS[cut]
    board = make_board({"flash.py": [(old, new.replace("CUT", "__import__('machine').reset()"))]})
    if claimed:
        claim_by_hand(board, OLD)
    boots = board.boots
    with contextlib.suppress(OSError, http.client.HTTPException):
        if claimed:
            rotate(Person(board, OLD), ha1_of(board.id, NEW))
        else:
            ask(board, "POST", "/claim", {"ha1": ha1_of(board.id, NEW)})
        pytest.fail("the power did not go")
    until(lambda: board.boots > boots)
    board.wait_ready()
    assert board.boots == boots + 1
    if cut == "after it counts":
        assert opens(board, NEW)
        assert not opens(board, OLD)
    elif claimed:
        assert opens(board, OLD)
        assert not opens(board, NEW)
    else:
        assert ask(board, "GET", "/").json["claimed"] is False
        assert ask(board, "POST", "/gpio", b"pin=4&value=1").status == 200


def test_a_full_flash(make_board) -> None:
    """When the credential cannot be kept, the answer is 503 and the old one holds, or none."""
    failing = ("    os.rename(beside, name)", "    raise OSError(28)")
    board = make_board({"flash.py": [failing]})
    assert ask(board, "POST", "/claim", {"ha1": ha1_of(board.id, NEW)}).status == 503
    assert ask(board, "GET", "/").json["claimed"] is False
    claim_by_hand(board, OLD)
    assert rotate(Person(board, OLD), ha1_of(board.id, NEW)).status == 503
    assert opens(board, OLD)


def test_two_claims_at_once(make_board) -> None:
    """Of two that claim at the same time, one gets 200 and holds the board, the other gets 409."""
    board = make_board()
    with connect(board) as one, connect(board) as two:
        for client, password in ((one, OLD), (two, NEW)):
            body = b"ha1=" + ha1_of(board.id, password).encode()
            client.sendall(
                b"POST /claim HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            )
        found = [client.recv(4096)[9:12] for client in (one, two)]
    assert sorted(found) == [b"200", b"409"]
    assert opens(board, OLD if found[0] == b"200" else NEW)
    assert not any(levels(board).values())


def test_secrets_stay_on_the_board(make_board) -> None:
    """Neither an answer nor the console ever holds the credential."""
    board = make_board()
    secret = ha1_of(board.id, NEW)
    answers = [ask(board, "POST", "/claim", {"ha1": secret})]
    owner = Person(board, NEW)
    answers += [owner.ask("GET", "/"), owner.ask("POST", "/claim", {"ha1": secret})]
    answers += [ask(board, "GET", path) for path in ("/", "/claim.json", "/ui", "/../claim.json")]
    for answer in answers:
        assert secret.encode() not in answer.body
        assert secret not in str(answer.headers)
    assert secret not in board.console
