"""Laws of `espcli register` and its kin about whose board it is: real boards, a real Redis."""

import contextlib
import io
import json
import os
import pty
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis
from board_2021 import Board2021
from board_wire import Say, Wire, answer, status_body
from claiming import (
    Cli,
    everything,
    flash,
    is_controlled_by,
    is_open,
    switch,
)
from firmware import firmware_client
from firmware.digest_client import claim_by_hand

from espnet.cli import claiming
from espnet.cli.session import Session
from espnet.errors import EspNetError
from espnet.model import Device
from espnet.simulator import Board, Fleet
from espnet.store import Store

pytestmark = pytest.mark.usefixtures("settings")

ESPCLI = Path(__file__).parents[1] / "espcli"
OWN = "a password of somebody"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(2, seed=31, compiled=True) as fleet:
        yield fleet


@pytest.fixture
def board(fleet: Fleet) -> Board:
    """A board as it comes out of the box."""
    for board in fleet:
        board.clear()
        board.unclaim()
        board.forget_requests()
    return fleet[0]


@pytest.fixture
def espcli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(capsys, monkeypatch)


# --- fresh boards -----------------------------------------------------------------------------------


def test_a_fresh_board_is_claimed(espcli: Cli, board: Board) -> None:
    """It says so itself; the password is kept; who has it controls the board, and nobody else does."""
    told = json.loads(espcli("--json", "register", board.address, "porch"))
    assert (told["claimed"], told["credential"] > 0) == (True, True)
    status = firmware_client.ask(board, "GET", "/").json
    assert (status["claimed"], status["private"]) == (True, False)
    assert is_controlled_by(board, espcli.password("porch"))
    assert espcli.access("porch") == "claimed"
    assert "claimed" in espcli("devices")
    overview = json.loads(espcli("--json", "device", "porch", "credentials"))
    assert overview == {"access": "claimed", "password_kept": "yes", "sealed": False}
    espcli("device", "porch", "requests", "set_gpio", "2", "1")
    assert board.pin(2).level == 1


def test_every_board_gets_a_password_of_its_own(espcli: Cli, fleet: Fleet, board: Board) -> None:
    """What opens one is worth nothing at another."""
    for one, name in zip(fleet, ("porch", "attic"), strict=True):
        espcli("register", one.address, name)
    first, second = espcli.password("porch"), espcli.password("attic")
    assert first != second
    assert switch(board, second) == 401
    assert is_controlled_by(board, first)


def test_a_board_may_be_claimed_with_a_person_s_password(espcli: Cli, board: Board) -> None:
    """--ask: the first line of standard input, and nothing else of it."""
    espcli("register", board.address, "porch", "--ask", stdin=f"{OWN}\nanother line\n")
    assert espcli.password("porch") == OWN
    assert is_controlled_by(board, OWN)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "No password was given"),
        ("\n", "No password was given"),
        ("short\n", "12 to 64 characters"),
        ("elevenchars\n", "12 to 64 characters"),
        ("x" * 65 + "\n", "12 to 64 characters"),
        ("Schlüssel-zum-Haus\n", "printable ASCII"),
        ("tab\tin the middle\n", "printable ASCII"),
        ("nul\0in the middle\n", "printable ASCII"),
    ],
)
def test_a_password_that_is_none_claims_nothing(
    typed: str, said: str, espcli: Cli, board: Board, raw: redis.Redis
) -> None:
    """A usage error that does not repeat it; the board stays open and nothing is stored."""
    sentence = espcli("register", board.address, "porch", "--ask", code=2, stdin=typed)
    assert said in sentence
    assert not typed.strip() or typed.strip() not in sentence
    assert is_open(board)
    assert everything(raw) == {}


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_bytes_that_are_no_text_are_no_password(
    errors: str, espcli: Cli, board: Board, raw: redis.Redis
) -> None:
    """One sentence, whatever the terminal's language: no traceback, which could show it."""
    typed = io.TextIOWrapper(io.BytesIO(b"secret-\xff\xfe-bytes\n"), "utf-8", errors)
    sentence = espcli("register", board.address, "porch", "--ask", code=2, stdin=typed)
    assert "secret" not in sentence
    assert is_open(board)
    assert everything(raw) == {}


def test_an_open_board_may_stay_open(espcli: Cli, board: Board, redis_url: str) -> None:
    """--open claims nothing, today and when the board is registered again; --ask then claims it."""
    assert "It is open" in espcli("register", board.address, "porch", "--open")
    assert is_open(board)
    assert espcli.access("porch") == "open"
    assert "It is open" in espcli("register", board.address, "porch")
    assert is_open(board)
    assert "has no password for porch" in espcli("device", "porch", "credentials", "show", code=1)
    espcli("register", board.address, "porch", "--ask", stdin=OWN)
    assert is_controlled_by(board, OWN)
    assert espcli.access("porch") == "claimed"


def test_a_board_that_was_left_open_is_claimed_when_it_is_to_be_private(
    espcli: Cli, board: Board
) -> None:
    """--private wants a password, so registering anew with it claims."""
    espcli("register", board.address, "porch", "--open")
    espcli("register", board.address, "porch", "--private")
    assert is_controlled_by(board, espcli.password("porch"))
    assert espcli.access("porch") == "private"


def test_a_board_that_was_left_open_is_claimed_by_its_own_word(espcli: Cli, board: Board) -> None:
    """`credentials claim`, which says so only when it is true; once more, it changes nothing."""
    espcli("register", board.address, "porch", "--open")
    espcli("device", "porch", "credentials", "claim")
    password = espcli.password("porch")
    assert is_controlled_by(board, password)
    espcli("device", "porch", "credentials", "claim")
    assert espcli.password("porch") == password
    espcli("device", "porch", "update")
    assert espcli.access("porch") == "claimed"


def test_a_private_board_is_read_with_the_password_only(espcli: Cli, board: Board) -> None:
    """--private: registered, polled and moved as any other; to all others it says nothing."""
    espcli("register", board.address, "porch", "--private")
    assert firmware_client.ask(board, "GET", "/").status == 401
    assert is_controlled_by(board, espcli.password("porch"))
    assert espcli.access("porch") == "private"
    espcli("device", "porch", "update")
    espcli("register", board.address, "porch")
    assert (flash(board) or {})["private"] is True
    espcli("device", "porch", "credentials", "rotate", "--private", "no")
    assert firmware_client.ask(board, "GET", "/").status == 200
    assert is_controlled_by(board, espcli.password("porch"))


def test_a_private_board_that_is_somebody_else_s_is_refused_as_such(
    espcli: Cli, board: Board, raw: redis.Redis
) -> None:
    """Also when it cannot even be asked who it is; with its password it is registered, and stays private."""
    claim_by_hand(board, OWN, private=True)
    sentence = espcli("register", board.address, "porch", code=1)
    assert "--ask" in sentence
    assert everything(raw) == {}
    espcli("register", board.address, "porch", "--ask", stdin=OWN)
    assert espcli.access("porch") == "private"
    assert is_controlled_by(board, OWN)


# --- boards that are somebody's -------------------------------------------------------------------


def test_a_board_that_is_somebody_else_s_is_refused(
    espcli: Cli, board: Board, raw: redis.Redis
) -> None:
    """What to do is said; nothing is stored and the board is as it was; with its password it is ours."""
    claim_by_hand(board, OWN)
    before = flash(board)
    for words, typed in (((), ""), (("--ask",), OWN[:-1] + "!"), (("--ask",), "short, wrong")):
        sentence = espcli("register", board.address, "porch", *words, code=1, stdin=typed)
        said = "the password that you gave" if words else f"register {board.address} NAME --ask"
        assert said in sentence
        assert "mpremote fs rm :claim.json" in sentence
        assert everything(raw) == {}
    assert flash(board) == before
    assert is_controlled_by(board, OWN)
    espcli("register", board.address, "porch", "--ask", stdin=OWN)
    assert espcli.password("porch") == OWN


@pytest.mark.parametrize("password", ["short", "mit Ümlaut und mehr", "x" * 200])
def test_a_password_that_others_chose_is_taken_as_it_is(
    password: str, espcli: Cli, board: Board
) -> None:
    """What EspNet would not choose still opens a board that has it."""
    claim_by_hand(board, password)
    espcli("register", board.address, "porch", "--ask", stdin=password + "\n")
    assert espcli.password("porch") == password
    espcli("device", "porch", "credentials", "rotate")
    assert is_controlled_by(board, espcli.password("porch"))


def test_a_board_that_is_somebody_else_s_may_be_read(espcli: Cli, board: Board) -> None:
    """--open: it is registered, shown as denied, not touched; its password makes it ours later."""
    claim_by_hand(board, OWN)
    assert "read, not controlled" in espcli("register", board.address, "porch", "--open")
    assert espcli.access("porch") == "denied"
    sentence = espcli("device", "porch", "requests", "set_gpio", "2", "1", code=1)
    assert "--ask" in sentence
    espcli("device", "porch", "credentials", "claim", code=1)
    espcli("device", "porch", "credentials", "claim", "--ask", stdin=OWN)
    espcli("device", "porch", "update")
    assert espcli.access("porch") == "claimed"
    espcli("device", "porch", "requests", "set_gpio", "2", "0")


def test_a_conflict_of_names_is_found_before_the_board_is_touched(
    espcli: Cli, fleet: Fleet, board: Board, redis_url: str
) -> None:
    """A board that is not registered is not claimed, and no password is kept for it."""
    espcli("register", fleet[1].address, "porch")
    assert "belongs to another board" in espcli("register", board.address, "porch", code=1)
    assert is_open(board)
    store = Store(redis_url)
    assert set(store.all_credentials()) == {fleet[1].id}
    store.close()
    espcli("register", board.address, "porch", "--replace")
    assert is_controlled_by(board, espcli.password("porch"))


# --- boards that come back ------------------------------------------------------------------------


def test_a_board_that_comes_back_finds_its_password(espcli: Cli, board: Board) -> None:
    """Registered again, or unregistered meanwhile, at another address or under another name."""
    espcli("register", board.address, "porch")
    password = espcli.password("porch")
    espcli("register", board.address.replace("127.0.0.1", "localhost"), "porch")
    assert espcli.password("porch") == password
    assert "Its password is kept" in espcli("unregister", "porch")
    espcli("register", board.address, "attic")
    assert espcli.password("attic") == password
    assert is_controlled_by(board, password)


def test_a_board_that_was_registered_to_be_read_is_controlled_when_it_is_claimed(
    espcli: Cli, board: Board
) -> None:
    """Its password was kept all the time: from then on polls use it."""
    espcli("register", board.address, "porch")
    espcli("unregister", "porch")
    espcli("register", board.address, "porch", "--open")
    espcli("device", "porch", "credentials", "claim")
    board.forget_requests()
    for _ in range(2):
        espcli("device", "porch", "update")
    assert espcli.access("porch") == "claimed"
    assert "/?fence=" in board.requests[-1].path
    assert board.requests[-1].status == 200


def test_a_forgotten_password_is_gone_for_good(espcli: Cli, board: Board, redis_url: str) -> None:
    """--forget locks everybody out who did not note it, until a cable opens the board."""
    espcli("register", board.address, "porch")
    noted = espcli.password("porch")
    assert "gone, too" in espcli("unregister", "porch", "--forget")
    assert "--ask" in espcli("register", board.address, "porch", code=1)
    espcli("register", board.address, "porch", "--ask", stdin=noted)
    espcli("unregister", "porch", "--forget")
    board.unclaim()
    espcli("register", board.address, "porch")
    assert espcli.password("porch") != noted
    assert is_controlled_by(board, espcli.password("porch"))


def test_no_call_opens_a_claimed_board(espcli: Cli, board: Board, redis_url: str) -> None:
    """Not even one that is signed: what is lost in Redis is opened by a cable, and by nothing else."""
    espcli("register", board.address, "porch")
    with redis.Redis.from_url(redis_url) as client:
        client.delete("espnet:credentials")
    before = flash(board)
    for method in ("POST", "PUT", "DELETE", "PATCH", "GET"):
        for path in ("/claim", "/unclaim", "/claim.json", "/reset", "/gpio?claim=", "/set_host"):
            for body in (b"", b"ha1=" + b"0" * 64, b"ha1=", b"private=false", b"claimed=false"):
                status = firmware_client.ask(
                    board, method, path, body, Content_Type="application/x-www-form-urlencoded"
                ).status
                assert status in (400, 401, 404, 405, 409), (method, path, body)
    assert flash(board) == before
    espcli("device", "porch", "requests", "set_gpio", "2", "1", code=1)
    espcli("device", "porch", "credentials", "rotate", code=1)
    espcli("device", "porch", "credentials", "claim", code=1)
    espcli("device", "porch", "update", code=1)
    assert espcli.access("porch") == "denied"
    board.unclaim()
    espcli("device", "porch", "credentials", "claim")
    assert is_controlled_by(board, espcli.password("porch"))


def test_a_board_of_2021_is_registered_as_open(espcli: Cli) -> None:
    """It knows no passwords, and works on; what is about one is refused."""
    with Board2021() as board:
        for words in (("--private",), ("--ask",)):
            sentence = espcli("register", board.address, "old", *words, code=2, stdin=OWN)
            assert "knows no passwords" in sentence
        assert json.loads(espcli("--json", "devices")) == []
        for _ in range(2):
            assert "knows no passwords" in espcli("register", board.address, "old")
        espcli("device", "old", "update")
        (row,) = json.loads(espcli("--json", "devices"))
        assert (row["access"], row["online"]) == ("open", True)
        assert "open" in espcli("devices").splitlines()[1].split()
        espcli("device", "old", "requests", "set_gpio", "2", "1")
        assert board.gpio[2] == 1
        assert "too old" in espcli("device", "old", "credentials", "claim", code=1)
        assert "is open" in espcli("device", "old", "credentials", "rotate", code=1)
        assert {path for _, path, _ in board.requests} == {"/", "/gpio"}


def test_two_who_register_one_board_at_once_give_it_one_password(
    espcli: Cli, board: Board, redis_url: str
) -> None:
    """Under one name both succeed; under two, one of them is told that it has a name already."""

    def register(name: str) -> Device | EspNetError:
        try:
            stored, _ = claiming.register(
                Session(),
                board.address,
                name,
                (),
                claiming.How(again=True),
                replace=False,
                leave_open=False,
            )
        except EspNetError as error:
            return error
        return stored

    for names in (("porch", "porch"), ("attic", "shed")):
        board.unclaim()
        with ThreadPoolExecutor(2) as threads:
            ends = list(threads.map(register, names))
        (name,) = {end.name for end in ends if isinstance(end, Device)}
        errors = [end for end in ends if isinstance(end, EspNetError)]
        assert len(errors) == len(set(names)) - 1
        assert all("already registered" in str(error) for error in errors)
        assert is_controlled_by(board, espcli.password(name))
        store = Store(redis_url)
        assert len(store.credential(board.id).passwords) == 1
        store.close()
        espcli("unregister", name, "--forget")


def test_a_board_that_somebody_else_claims_first_is_refused_with_what_to_do(
    espcli: Cli, raw: redis.Redis
) -> None:
    """Two EspNets at once: the later one hears it from the board, and registers nothing."""
    is_open = answer(status_body("b1", claimed=False, private=False))
    refusal = answer(b'{"error": "the board is claimed"}', status="409 Conflict")
    with Wire(is_open, is_open, refusal) as wire:
        sentence = espcli("register", wire.address(), "porch", code=1)
    assert "is claimed" in sentence
    assert "--ask" in sentence
    assert json.loads(espcli("--json", "devices")) == []


# --- what is no board -----------------------------------------------------------------------------

DIGEST = (
    'WWW-Authenticate: Digest realm="EspNet {id}", nonce="{n}", algorithm=SHA-256, qop="{q}"\r\n'
)
NONCE = "0" * 44


def claimed(**more: object) -> Say:
    return answer(status_body("b1", claimed=True, private=False, fence=0, leases={}, **more))


def challenging(board_id: str = "b1", qop: str = "auth,auth-int", status: str = "401 No") -> Say:
    return answer(
        b'{"error": "no"}', status=status, headers=DIGEST.format(id=board_id, n=NONCE, q=qop)
    )


IMPOSTORS: dict[str, list[Say]] = {
    "says that it is claimed and asks nobody": [claimed()],
    "takes any password": [claimed(), claimed(), challenging(), claimed()],
    "offers less than auth-int": [claimed(), claimed(), challenging(qop="auth")],
    "asks for another board's password": [claimed(), claimed(), challenging("b2")],
    "is another board after the first look": [
        claimed(),
        answer(status_body("b2", claimed=True, private=False)),
    ],
    "asks for the password of one and says that it is another": [challenging("b2"), claimed()],
    "challenges without end": [challenging()],
    "never takes the password": [claimed(), claimed(), challenging()],
    "speaks of something else": [
        answer(b"", status="401 No", headers='WWW-Authenticate: Basic realm="EspNet b1"\r\n')
    ],
    "goes away in the middle": [claimed(), claimed(), Say((), "reset")],
}


@pytest.mark.parametrize("name", IMPOSTORS)
def test_who_does_not_prove_that_he_knows_the_password_is_no_board_of_ours(
    name: str, espcli: Cli, raw: redis.Redis
) -> None:
    """An impostor would take any; nothing is stored, and one sentence says what he does."""
    with Wire(*IMPOSTORS[name]) as wire:
        sentence = espcli("register", wire.address(), "porch", "--ask", code=1, stdin=OWN)
        assert sentence.startswith(f"espcli: The board at {wire.address()} ")
        assert OWN not in sentence
        assert everything(raw) == {}
        assert sum(map(len, wire.requests.values())) <= 14
        assert not any(OWN.encode() in said for said in wire.requests["127.0.0.1"])


def test_who_takes_a_claim_and_proves_nothing_is_no_board_of_ours(
    espcli: Cli, raw: redis.Redis
) -> None:
    """What he was told is kept, because a board that answers so may have it; no device is registered."""
    is_open = answer(status_body("b1", claimed=False, private=False))
    taken = answer(b'{"id": "b1", "status": "OK"}')
    with Wire(is_open, is_open, taken, claimed()) as wire:
        espcli("register", wire.address(), "porch", code=1)
        assert set(everything(raw)) == {b"espnet:credentials"}
        told = b"".join(wire.requests["127.0.0.1"])
        assert b"ha1=" in told
        assert json.loads(raw.hget("espnet:credentials", "b1"))["passwords"][0].encode() not in told


# --- at a terminal --------------------------------------------------------------------------------


def at_a_terminal(*words: str, typed: bytes) -> tuple[int, bytes]:
    """Types into a command at a terminal of its own; its exit code, and what the terminal showed."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", ESPCLI, *words], stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the command has ended
            while piece := os.read(ours, 4096):
                shown += piece
                if b"password: " in shown and typed:
                    os.write(ours, typed)
                    typed = b""
    os.close(ours)
    return process.returncode, shown


def test_a_password_that_is_typed_is_not_shown(board: Board, espcli: Cli) -> None:
    """Nor is the end of input (Ctrl-D) one: then nothing happens."""
    words = ("register", board.address, "porch", "--ask")
    code, shown = at_a_terminal(*words, typed=b"\x04")
    assert (code, b"No password was given" in shown, b"Traceback" in shown) == (2, True, False)
    assert is_open(board)
    code, shown = at_a_terminal(*words, typed=OWN.encode() + b"\n")
    assert code == 0, shown
    assert OWN.encode() not in shown
    assert is_controlled_by(board, OWN)
