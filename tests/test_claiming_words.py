"""Laws of words about passwords that make no sense, or cannot be done: one sentence, the right exit code, and
nothing is changed."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis
from board_wire import Wire, answer, status_body
from claiming import Cli, everything

from espnet.cli import main
from espnet.credential import Password
from espnet.model import Device, Reading
from espnet.store import Store

pytestmark = pytest.mark.usefixtures("settings")

KEY, OTHER_KEY, THIRD_KEY = (base64.b64encode(bytes([n]) * 32).decode() for n in (251, 2, 3))
NOW = 1_750_000_000.0
NOBODY = "127.0.0.1:1"


@pytest.fixture
def espcli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(capsys, monkeypatch)


@pytest.fixture
def fleet(redis_url: str) -> Iterator[Store]:
    """Two devices whose boards have gone: one whose password is kept, one without."""
    store = Store(redis_url)
    status = msgspec.Raw(status_body("b1", claimed=True))
    reading = Reading(at=NOW, poll_s=0.1, interval_s=10, collector="c", status=status)
    for number, name in ((1, "porch"), (2, "attic")):
        device = Device(
            id=f"b{number}", name=name, address=f"127.0.0.1:{number}", registered_at=NOW
        )
        store.add(device, reading, first_due=NOW, has_password=number == 1)
    store.add_password("b1", Password("the-password-of-porch"))
    yield store
    store.close()


WRONG = {
    # the options of `register`
    "register 127.0.0.1:1 shed --open --ask": (2, "--open goes alone"),
    "register 127.0.0.1:1 shed --open --private": (2, "--open goes alone"),
    "register 127.0.0.1:1 shed --ask": (2, "No password was given"),
    "register 127.0.0.1:1 shed --ask=hunter2hunter2": (2, "takes no value"),
    "register 127.0.0.1:1 shed --ask hunter2hunter2": (2, "no place for"),
    "register 127.0.0.1:1 shed --private=yes": (2, "takes no value"),
    "register 127.0.0.1:1 shed --private --private": (2, "stands there twice"),
    "register 127.0.0.1:1 shed --password hunter2hunter2": (2, "no option '--password'"),
    "register 127.0.0.1:1 shed --opne": (2, "no option '--opne'"),
    "register 127.0.0.1:1 shed": (1, "refused the connection"),
    "register 127.0.0.1:1 shed --open": (1, "refused the connection"),
    # the end
    "unregister nobody --forget": (1, "No device is named 'nobody'"),
    "unregister porch --forget=yes": (2, "takes no value"),
    "unregister porch --forget --forget": (2, "stands there twice"),
    "unregister --forget": (2, "NAME is missing"),
    "unregister porch attic --forget": (2, "no place for"),
    # credentials
    "device nobody credentials": (1, "No device is named 'nobody'"),
    "device nobody credentials show": (1, "No device is named"),
    "device nobody credentials claim": (1, "No device is named"),
    "device nobody credentials rotate": (1, "No device is named"),
    "device porch credentials hide": (2, "no command 'hide'"),
    "device porch credentials show --ask": (2, "no option '--ask'"),
    "device porch credentials show me": (2, "no place for"),
    "device porch credentials show --json": (2, "not shown as JSON"),
    "device attic credentials show": (1, "no password for attic"),
    "device attic credentials claim": (1, "refused the connection"),
    "device porch credentials claim --ask": (2, "No password was given"),
    "device porch credentials claim --private=no": (2, "takes no value"),
    "device porch credentials rotate": (1, "refused the connection"),
    "device porch credentials rotate --private": (2, "needs a value"),
    "device porch credentials rotate --private maybe": (2, "must be yes or no"),
    "device porch credentials rotate --private=True": (2, "must be yes or no"),
    "device porch credentials rotate --password x": (2, "no option '--password'"),
    "device porch credentials rotate now": (2, "no place for"),
    # seals
    "seal": (1, "ESPNET_SECRET_KEY"),
    "seal porch": (2, "no place for"),
    "seal --key abc": (2, "no option '--key'"),
    "device porch seal": (2, "no command 'seal'"),
}


@pytest.mark.parametrize("line", WRONG)
def test_what_cannot_be_done_changes_nothing(
    line: str, espcli: Cli, fleet: Store, raw: redis.Redis
) -> None:
    """Neither a record nor a password, and the one that is kept is not told."""
    before = everything(raw)
    code, said = WRONG[line]
    sentence = espcli(*line.split(), code=code)
    assert said in sentence, sentence
    assert "the-password-of-porch" not in sentence
    assert everything(raw) == before


@pytest.mark.parametrize(
    "key",
    [
        "x", "secret-key-of-mine", KEY[:-4], KEY + KEY, f"{KEY},", f",{KEY}", f"{KEY};{KEY}", "ñ" * 43,
        f"{KEY},secret-key-of-mine", base64.b64encode(b"s" * 31).decode(), "=" * 44, " ",
    ],
)  # fmt: skip
def test_a_key_that_is_none_is_a_usage_error_that_does_not_show_it(
    key: str, espcli: Cli, fleet: Store, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every command: none goes on without the seal that was asked for."""
    monkeypatch.setenv("ESPNET_SECRET_KEY", key)
    before = everything(raw)
    for words in (["seal"], ["register", NOBODY, "shed"], ["devices"], ["run"], ["doctor"]):
        sentence = espcli(*words, code=2)
        assert "ESPNET_SECRET_KEY must be 32 random bytes" in sentence
        assert not key.strip() or key.strip() not in sentence
        assert "secret" not in sentence.replace("ESPNET_SECRET_KEY", "")
    assert everything(raw) == before


def test_both_kinds_of_base64_are_one_key(
    espcli: Cli, fleet: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `openssl` makes, and what Python makes of the same bytes."""
    url_safe = KEY.replace("+", "-").replace("/", "_")
    assert url_safe != KEY
    monkeypatch.setenv("ESPNET_SECRET_KEY", KEY)
    assert espcli("seal") == "Sealed 1 password; sealed already: 0.\n"
    monkeypatch.setenv("ESPNET_SECRET_KEY", f" {url_safe} ")
    assert espcli("seal") == "Sealed 0 passwords; sealed already: 1.\n"


def test_seals_are_changed_by_two_words(
    espcli: Cli, fleet: Store, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NEW,OLD, `seal`, NEW; what no key opens is named, stays as it is, and ends with exit code 1."""
    monkeypatch.setenv("ESPNET_SECRET_KEY", OTHER_KEY)
    espcli("seal")
    assert "the-password" in espcli("device", "porch", "credentials", "show")
    raw.hdel("espnet:credentials", "b2")
    monkeypatch.setenv("ESPNET_SECRET_KEY", KEY)
    before = everything(raw)
    sentence = espcli("seal", code=1)
    assert "1 password cannot be opened" in sentence
    assert "board b1" in sentence
    assert "NEW,OLD" in sentence
    for words in (["show"], ["claim"], ["rotate"]):
        sentence = espcli("device", "porch", "credentials", *words, code=1)
        assert "another ESPNET_SECRET_KEY" in sentence
    assert everything(raw) == before
    monkeypatch.setenv("ESPNET_SECRET_KEY", f"{KEY},{THIRD_KEY},{OTHER_KEY}")
    assert json.loads(espcli("seal", "--json")) == {"sealed": 1, "already": 0, "closed": []}
    monkeypatch.setenv("ESPNET_SECRET_KEY", KEY)
    told = json.loads(espcli("--json", "device", "porch", "credentials"))
    assert (told["password_kept"], told["sealed"]) == ("yes", True)
    assert "the-password" in espcli("device", "porch", "credentials", "show")


def test_a_closed_standard_input_has_no_password(
    espcli: Cli, fleet: Store, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `espcli … --ask <&-`, and in services."""
    before = everything(raw)
    sentence = espcli("device", "porch", "credentials", "claim", "--ask", code=2, stdin=None)
    assert "No password was given" in sentence
    assert everything(raw) == before


def test_a_board_that_is_claimed_is_not_made_private_by_registering_it(
    espcli: Cli, raw: redis.Redis
) -> None:
    """The word that does so is said."""
    with Wire(answer(status_body("b1", claimed=True, private=False))) as wire:
        words = ("register", wire.address(), "shed", "--private", "--ask")
        sentence = espcli(*words, code=2, stdin="a password of somebody")
        assert "credentials rotate --private yes" in sentence
        assert everything(raw) == {}
        assert {r.partition(b" HTTP")[0] for r in wire.requests["127.0.0.1"]} == {b"GET /"}


def test_a_password_that_is_closed_here_is_not_replaced(
    espcli: Cli, fleet: Store, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A board that says that it is open is not claimed where its kept password cannot be read."""
    monkeypatch.setenv("ESPNET_SECRET_KEY", OTHER_KEY)
    espcli("seal")
    monkeypatch.setenv("ESPNET_SECRET_KEY", KEY)
    with Wire(answer(status_body("b1", claimed=False, private=False))) as wire:
        before = everything(raw)
        sentence = espcli("register", wire.address(), "porch", code=1)
        assert "another ESPNET_SECRET_KEY" in sentence
        assert everything(raw) == before
        assert not [r for r in wire.requests["127.0.0.1"] if r.startswith(b"POST")]


def test_forgetting_is_said_and_done(espcli: Cli, fleet: Store, raw: redis.Redis) -> None:
    """`unregister` keeps the password and says so, --forget does not; without one there is nothing to say."""
    assert espcli("unregister", "attic") == "Unregistered attic (board b2).\n"
    kept: Any = raw.hgetall("espnet:credentials")
    assert "Its password is kept" in espcli("unregister", "porch")
    assert raw.hgetall("espnet:credentials") == kept
    assert main(["unregister", "porch", "--forget"]) == 1
    assert raw.hgetall("espnet:credentials") == kept
