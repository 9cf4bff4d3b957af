"""A claimed board: what its password protects, and that nothing else opens it."""

import contextlib
import random
import statistics
import threading

import pytest

from espnet.simulator import Fleet
from espnet.simulator.fleet import Board

from .digest_client import (
    PATIENT,
    Digest,
    Person,
    challenge,
    claim_by_hand,
    ha1_of,
    new_nonce,
    parameters,
    written,
)
from .firmware_client import FIRMWARE, Answer, ask, free_bytes, raw


@pytest.fixture
def board(claimed_fleet: Fleet) -> Board:
    """A claimed board that other tests use as well; its pins are low and it counts no wrongs."""
    claimed_fleet[0].reset()
    return claimed_fleet[0]


def test_an_open_board_asks_for_nothing(claimed_fleet: Fleet, shared_board: Board) -> None:
    """Unclaimed: every call works without a password, and with any; the status says so."""
    status = ask(shared_board, "GET", "/").json
    assert (status["claimed"], status["private"]) == (False, False)
    for header in (
        "Digest x",
        "Basic eDp5",
        "",
        Digest(shared_board.id, "0" * 44).header("POST", "/gpio"),
    ):
        answer = ask(shared_board, "POST", "/gpio", b"pin=4&value=0", Authorization=header)
        assert answer.status == 200
        assert "www-authenticate" not in answer.headers
    assert ask(claimed_fleet[0], "GET", "/").json["claimed"] is True


def test_counts_only_grow(board: Board) -> None:
    """A nonce serves any number of requests, each with a higher count; the rest is stale."""
    digest = Digest(board.id, new_nonce(board))

    def status(nc: int) -> tuple[int, bool]:
        header = digest.header("GET", "/?fence=1", nc)
        answer = ask(board, "GET", "/?fence=1", Authorization=header)
        stale = answer.status == 401 and challenge(answer).get("stale") == "true"
        return answer.status, stale

    refused = (401, True)
    assert status(0) == refused
    assert [status(nc) for nc in (1, 2, 9)] == [(200, False)] * 3
    assert [status(nc) for nc in (9, 3, 1, 0)] == [refused] * 4
    assert status(0xFFFFFFFF) == (200, False)
    assert status(0xFFFFFFFF) == refused
    assert status(10) == refused


def test_a_forgotten_nonce_is_never_good_again(board: Board) -> None:
    """With more nonces in use than the board remembers, no old request is accepted anew."""
    digests = [Digest(board.id, new_nonce(board)) for _ in range(60)]
    unused = digests[::7]
    sent = []
    for digest in digests:
        if digest not in unused:
            header = digest.header("GET", "/?fence=1")
            assert ask(board, "GET", "/?fence=1", Authorization=header).status == 200
            sent.append(header)
    for header in sent:
        assert ask(board, "GET", "/?fence=1", Authorization=header).status == 401
    late = [
        ask(board, "GET", "/?fence=1", Authorization=d.header("GET", "/?fence=1")) for d in unused
    ]
    assert {answer.status for answer in late if challenge_or_none(answer) != "true"} <= {200}
    for digest in unused:
        header = digest.header("GET", "/?fence=1", nc=1)
        assert ask(board, "GET", "/?fence=1", Authorization=header).status == 401
    assert Person(board).ask("POST", "/gpio", b"pin=4&value=1").status == 200


def challenge_or_none(answer: Answer) -> str | None:
    return challenge(answer).get("stale") if answer.status == 401 else None


def test_a_flood_of_challenges_forgets_nobody(board: Board) -> None:
    """Challenges handed out, and wrong digests, do not push a nonce out that is in use."""
    owner = Person(board)
    assert owner.ask("GET", "/?fence=1").status == 200
    for _ in range(300):
        nonce = new_nonce(board)
        wrong = Digest(board.id, nonce, "wrong").header("POST", "/gpio")
        assert ask(board, "POST", "/gpio", Authorization=wrong).status in (401, 429)
    assert owner.ask("GET", "/?fence=1").status == 200


def test_wrong_passwords_slow_down_and_right_ones_do_not(board: Board) -> None:
    """After some wrong digests the next ones get 429; right ones are served all the time.

    Calls without a digest, malformed ones and outdated ones count for nothing.
    """
    replayed = Digest(board.id, new_nonce(board)).header("GET", "/?fence=1")
    assert ask(board, "GET", "/?fence=1", Authorization=replayed).status == 200
    for header in ("Digest x", "Basic eDp5", replayed) * 5:
        assert ask(board, "GET", "/?fence=1", Authorization=header).status == 401
    owner = Person(board)
    stop = threading.Event()
    seen: list[int] = []

    def guess() -> None:
        digest = Digest(board.id, new_nonce(board), "wrong")
        while not stop.is_set():
            with contextlib.suppress(OSError):
                header = digest.header("POST", "/gpio")
                answer = ask(board, "POST", "/gpio", b"pin=4&value=1", Authorization=header)
                seen.append(answer.status)
                assert answer.status != 429 or 1 <= int(answer.headers["retry-after"]) <= 60

    guessers = [threading.Thread(target=guess) for _ in range(4)]
    for guesser in guessers:
        guesser.start()
    try:
        for number in range(200):
            assert owner.ask("GET", "/?fence=1").status == 200, number
        for _ in range(20):  # and newcomers get in as well
            assert Person(board).ask("GET", "/?fence=1").status == 200
    finally:
        stop.set()
        for guesser in guessers:
            guesser.join()
    assert 5 <= seen.count(401) <= 8  # five, and one for every ten seconds that this took
    assert seen.count(429) > 50
    assert board.pin(4).level == 0


def test_the_slow_down_ends(make_board) -> None:
    """However many wrong ones there were, after a moment's rest one gets its 401 again."""
    names = {"_WRONG_MS": (10000, 1000), "_WRONG_MAX_MS": (50000, 5000)}
    changes = [(f"{n} = const({a})", f"{n} = const({b})") for n, (a, b) in names.items()]
    board = make_board({"auth.py": changes})
    claim_by_hand(board)
    digest = Digest(board.id, new_nonce(board), "wrong")

    def wrong() -> int:
        return ask(board, "POST", "/gpio", Authorization=digest.header("POST", "/gpio")).status

    first = [wrong() for _ in range(100)]
    assert first[:5] == [401] * 5
    assert 429 in first
    start = ask(board, "GET", "/").json["uptime_s"]
    while ask(board, "GET", "/").json["uptime_s"] < start + 3:
        pass
    assert wrong() == 401


def test_a_nonce_is_renewed_on_the_way(make_board) -> None:
    """Past half its life an answer brings the next nonce, so that a caller is never challenged."""
    board = make_board({"auth.py": [("_LIFE_MS = const(600000)", "_LIFE_MS = const(2000)")]})
    claim_by_hand(board)
    owner = Person(board)
    renewals = 0
    start = ask(board, "GET", "/").json["uptime_s"]
    while (answer := owner.ask("GET", "/?fence=1")).json["uptime_s"] < start + 6:
        assert answer.status == 200
        if info := answer.headers.get("authentication-info"):
            fields = parameters(info)
            assert list(fields)[:4] == ["rspauth", "qop", "nc", "cnonce"]
            if "nextnonce" not in fields:
                continue
            owner.digest = Digest(board.id, fields["nextnonce"], qop="auth-int")
            renewals += 1
    assert 4 <= renewals <= 8
    stale = owner.ask("POST", "/gpio", b"pin=34&value=1")  # a refusal can bring one too
    assert stale.status == 403


def test_a_restart_makes_every_nonce_stale(board: Board) -> None:
    """Nonces of an earlier boot are stale, not wrong: the caller knows that its password is good."""
    owner = Person(board)
    board.reset()
    answer = owner.ask("GET", "/?fence=1")
    assert challenge(answer)["stale"] == "true"


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"null", b'{"ha1": 5}', b'{"ha1": "00"}', b"\xff\0"]
)
def test_a_damaged_credential_closes_the_board(make_board, damage: bytes) -> None:
    """A credential that cannot be read lets nobody in, and keeps reads closed; removing it opens."""
    board = make_board()
    (board.flash / "claim.json").write_bytes(damage)
    board.reset()
    assert ask(board, "GET", "/").status == 401
    nonce = new_nonce(board)
    for ha1 in ("", "True", "False", "None", ha1_of(board.id, "")):
        digest = Digest(board.id, nonce)
        digest.ha1 = ha1
        for method, path in (("POST", "/gpio"), ("GET", "/")):
            header = digest.header(method, path)
            assert ask(board, method, path, Authorization=header).status in (401, 429)
    (board.flash / "claim.json").unlink()
    board.reset()
    assert ask(board, "POST", "/gpio", b"pin=4&value=1").status == 200


def test_fuzzed_authorization(make_board) -> None:
    """No mutant of a right header is accepted, and none makes the board fail."""
    board = make_board({"auth.py": [PATIENT]})
    claim_by_hand(board)
    rng = random.Random(5)
    digest = Digest(board.id, new_nonce(board))
    spice = [",", '"', "=", "\\", " ", "\t", ", ,", "nc=00000001", 'username="espnet"', "\xe9"]
    spice += ["a" * 300, "%", ";", "Digest ", "stale=true", "0x", "_", "+"]
    for number in range(1500):
        fields = digest.fields("POST", "/gpio", nc=1)
        name = rng.choice(list(fields))
        kind = rng.randrange(5)
        if kind == 0:
            del fields[name]
            header = written(fields)
        elif kind == 1:
            header = written(fields) + f", {name}={rng.choice(['x', fields[name]])}"
        elif kind == 2:
            value = fields[name]
            at = rng.randrange(len(value) + 1)
            fields[name] = (
                value[:at] + rng.choice([*spice, value[at : at + 1] * 2]) + value[at + 1 :]
            )
            header = written(fields)
        else:
            header = written(fields)
            at = rng.randrange(7, len(header))
            header = header[:at] + rng.choice(spice) + header[at + rng.choice([1, 2, 20]) :]
        right = written(digest.fields("POST", "/gpio", nc=1))
        if header.replace(" ", "").replace("\t", "") == right.replace(" ", ""):
            continue
        line = f"POST /gpio HTTP/1.1\r\nAuthorization: {header}\r\nContent-Length: 13\r\n\r\npin=4&value=1"
        answer = raw(board, line.encode("latin-1"))
        # "cnonce" is the client's own, and unknown parameters are ignored: neither opens anything,
        # because the right response to what was sent is another one.
        accepted = answer[9:12] == b"200"
        assert not accepted, (number, header)
        assert answer[9:12] in (b"401", b"400", b"431"), (number, header, answer)
    assert board.pin(4).level == 0
    assert "Traceback" not in board.console


@pytest.mark.parametrize(
    "head",
    ["Authorization: {0}\r\nAuthorization: {0}", "Authorization: {0}\r\nauthorization: Basic x"],
)
def test_two_authorization_headers(board: Board, head: str) -> None:
    """Of two Authorization headers neither counts."""
    header = Digest(board.id, new_nonce(board)).header("GET", "/?fence=1")
    answer = raw(board, f"GET /?fence=1 HTTP/1.1\r\n{head.format(header)}\r\n\r\n".encode())
    assert answer[9:12] == b"400"


def test_what_authentication_costs(make_board) -> None:
    """At most 6 KB of heap with its table full, and 1 ms for each request, whose body is covered."""
    stub = 'json = \'"claimed":true,"private":false\'\ndef admit(request, access):\n    pass\n'
    bare = make_board({"auth.py": [((FIRMWARE / "auth.py").read_text(), stub)]}, compiled=True)
    board = make_board(compiled=True)
    claim_by_hand(board)
    for _ in range(20):
        assert Person(board).ask("GET", "/?fence=1").status == 200
    for _ in range(40):
        assert ask(bare, "GET", "/?fence=1").status == 200
    cost = free_bytes(bare) - free_bytes(board)
    owner = Person(board)
    took_ms = []
    for one in (bare, board):
        one.forget_requests()
        for _ in range(300):
            answer = ask(bare, "GET", "/?fence=1") if one is bare else owner.ask("GET", "/?fence=1")
            assert answer.status == 200
        took_ms.append(statistics.median(r.answered_s or 9 for r in one.requests) * 1000)
    took_more_ms = took_ms[1] - took_ms[0]
    print(f"auth.py takes {cost} bytes of heap, {took_more_ms:.3f} ms a request")
    assert owner.digest.qop == "auth-int"
    assert cost <= 6144
    assert took_more_ms <= 1
