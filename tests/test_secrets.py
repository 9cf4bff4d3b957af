"""Laws of secrets: nothing that EspNet prints, logs, stores in the open or passes on shows one."""

import ast
import functools
import json
import logging
import pickle
import queue
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from board_wire import eventually
from claiming import Cli, fields, flash
from firmware.digest_client import ha1_of

import espnet
from espnet.cli import main
from espnet.cli.help import help_for
from espnet.config import from_environment
from espnet.credential import Credential, Password, new_password
from espnet.simulator import Board, Fleet
from espnet.store import Store
from espnet.store.sealing import Seals

ROOT = Path(espnet.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
KEY = "kOEwFzbWJpeKzfyRS0FFRMDwcKUtVqVBxlRpBeKuM5I="
OLD_KEY = "b2xkIGtleSBvZiAzMiBieXRlcyBmb3IgYSB0ZXN0ISE="

pytestmark = pytest.mark.usefixtures("settings")


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(2, seed=32, compiled=True) as fleet:
        yield fleet


@pytest.fixture
def boards(fleet: Fleet) -> list[Board]:
    for board in fleet:
        board.clear()
        board.unclaim()
    return list(fleet)


@pytest.fixture
def espcli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(capsys, monkeypatch)


class Monitor:
    """Everything that Redis is told while this is open (MONITOR)."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._lines: queue.Queue[str] = queue.Queue()
        self._end = "the end of what is listened to"

    def __enter__(self) -> "Monitor":
        self._monitor = self._client.monitor().__enter__()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        return self

    def _listen(self) -> None:
        for told in self._monitor.listen():
            self._lines.put(told["command"])
            if self._end in told["command"]:
                return

    def __exit__(self, *_: object) -> None:
        self._client.echo(self._end)
        self._thread.join(10)
        self._monitor.__exit__(None, None, None)
        self._client.close()

    @property
    def text(self) -> str:
        return "\n".join(self._lines.queue)


def secrets_of(store: Store) -> list[str]:
    """Every password that is kept, and what every board knows of it."""
    found = []
    for board_id, credential in store.all_credentials().items():
        assert not credential.problem
        for password in credential.passwords:
            found += [password.reveal(), ha1_of(board_id, password.reveal())]
    return found


READING = [
    "devices", "ids", "device porch", "device porch credentials", "device porch lock", "is_online porch",
    "device porch get_f", "device porch list_dht22", "device porch jobs", "device porch history temp",
    "device porch requests get_basic", "device porch update", "plan porch", "why porch 2",
    "xinfo", "xpending", "sinks", "dead_letters", "cardinality", "redis", "doctor", "device porch --help",
    "device porch credentials rotate", "device porch requests set_gpio 2 1", "seal", "device attic",
    "device porch credentials claim", "device attic update", "help register", "--version",
]  # fmt: skip


@pytest.mark.parametrize("as_json", [False, True], ids=["people", "programs"])
def test_no_command_shows_a_password(
    as_json: bool,
    boards: list[Board],
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A whole session, of claimed and private boards and of one that refuses us: no password, no HA1 and no
    key is on the terminal, in the log, or in what Redis is told. `credentials show` is the exception."""
    monkeypatch.setenv("ESPNET_SECRET_KEY", f"{KEY},{OLD_KEY}")
    store = Store(redis_url, secret_keys=from_environment().secret_keys)
    said = []
    with Monitor(redis_url) as monitor:
        commands = [
            f"register {boards[0].address} porch",
            f"register {boards[1].address} attic --private",
        ]
        for command in [*commands, *READING, "unregister attic", "register 127.0.0.1:9 gone"]:
            main([*command.split(), *(["--json"] if as_json else [])])
            said.append("".join(capfd.readouterr()))
            assert "Traceback" not in said[-1], said[-1]
        secrets = [*secrets_of(store), KEY, OLD_KEY]
        assert main(["device", "porch", "credentials", "show", "--json"]) == 2
        said.append("".join(capfd.readouterr()))
        assert main(["device", "porch", "credentials", "show"]) == 0
        shown = fields(capfd.readouterr().out)
    assert len(secrets) >= 8
    assert shown["password"] in secrets
    assert "HSET" in monitor.text
    for board in boards:
        assert (flash(board) or {})["ha1"] in secrets
    for secret in secrets:
        assert secret not in monitor.text
        for text in said:
            assert secret not in text
    store.close()


def test_a_log_shows_no_password(
    boards: list[Board],
    espcli: Cli,
    redis_url: str,
    raw: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Of a collector that is refused, and of one whose key is another one, for people and for machines; nor
    do the words and the names of any process."""
    monkeypatch.setenv("ESPNET_SECRET_KEY", KEY)
    monkeypatch.setenv("ESPNET_INTERVAL", "0.3")
    espcli("register", boards[0].address, "porch")
    espcli("register", boards[1].address, "attic", "--private")
    store = Store(redis_url, secret_keys=(KEY,))
    secrets = secrets_of(store)
    raw.hdel("espnet:credentials", boards[1].id)
    store.add_password(boards[1].id, new_password())
    secrets += [*secrets_of(store), KEY, OLD_KEY]
    for log_format, key in (("text", KEY), ("json", OLD_KEY)):
        monkeypatch.setenv("ESPNET_SECRET_KEY", key)
        log = tmp_path / "log"
        with log.open("wb") as file:
            run = subprocess.Popen(
                [ROOT.parent / "espcli", "run", "10", "--anyway", "--log_format", log_format],
                stdout=file,
                stderr=file,
            )
        try:
            eventually(functools.partial(has_trouble, log), 20)
            words = [path.read_bytes() for path in processes()]
        finally:
            run.terminate()
            assert run.wait(20) == 0
        text = log.read_text()
        assert ("board.lost" in text) == (key == KEY)
        assert ("passwords.closed" in text) == (key == OLD_KEY)
        for secret in secrets:
            assert secret not in text
            assert not any(secret.encode() in one for one in words)
    store.close()


def has_trouble(log: Path) -> bool:
    return bool(re.search(r"board\.lost|passwords\.closed", log.read_text()))


def processes() -> Iterator[Path]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            for name in ("cmdline", "comm"):
                try:
                    (entry / name).read_bytes()
                except OSError:
                    continue
                yield entry / name


def test_no_representation_shows_a_password(redis_url: str) -> None:
    """Neither of what holds one, nor a log line that is made of it, nor a traceback with a frame's values,
    nor any codec."""
    text = "secret-of-this-test"
    password = Password(text)
    credential = Credential((password,))
    store = Store(redis_url, secret_keys=(KEY,))
    store.add_password("b1", password)
    config = from_environment({"ESPNET_SECRET_KEY": KEY, "REDIS_URL": "redis://:secret-of@host"})
    for thing in (password, credential, store, store.credential("b1"), Seals((KEY,)), config):
        for shown in (repr(thing), str(thing), f"{thing}", f"{thing!r}", "%s" % (thing,)):  # noqa: UP031
            assert "secret-of" not in shown
            assert KEY not in shown
    record = logging.LogRecord("x", 20, "", 1, "%s %r", (password, credential), None)
    assert text not in record.getMessage()
    encoders: list[Any] = [json.dumps, msgspec.json.encode, msgspec.msgpack.encode, pickle.dumps]
    for encode in encoders:
        for thing in (password, credential):
            with pytest.raises(TypeError) as caught:
                encode(thing)
            assert text not in str(caught.value)
    try:
        raise ValueError(credential)
    except ValueError:
        frames = traceback.TracebackException(*sys.exc_info(), capture_locals=True)  # type: ignore[arg-type]
    shown = "".join(line for line in frames.format() if " = " not in line or "text = " not in line)
    assert "Password(…)" in shown
    assert "secret-of" not in re.sub(r"\n +(text|shown|frames) = .*", "", shown)
    with pytest.raises(TypeError):
        hash(password)
    store.close()


def test_help_speaks_of_passwords_and_has_none() -> None:
    """What it shows is the same everywhere."""
    assert "password" in str(help_for(["device", "porch", "credentials"]))


# --- by reading the program -----------------------------------------------------------------------


def uses(name: str) -> set[tuple[str, str]]:
    """Every file that mentions an attribute or a method of this name, with the function it is in."""
    found = set()
    for path, function in functions():
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute) and node.attr == name:
                found.add((path, function.name))
    return found


@functools.cache
def functions() -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of the program, with its file."""
    return [
        (str(path.relative_to(ROOT)), node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_passwords_are_read_and_written_in_one_file() -> None:
    """The key's name is made where all are; nothing but `Credentials` uses it, and `remove`, which erases;
    only `_read` reads it."""
    key = uses("_credentials")
    assert {file for file, _ in key} == {
        f"store/{room}.py" for room in ("connection", "credentials", "registry")
    }
    source = (ROOT / "store" / "registry.py").read_text()
    assert re.findall(r".*self\._credentials.*", source) == [
        " " * 16 + "pipe.hdel(self._credentials, device.id)"
    ]
    assert [function for file, function in key if file == "store/connection.py"] == ["__init__"]
    reads = {
        "hget",
        "hgetall",
        "hmget",
        "hvals",
        "hscan",
        "hscan_iter",
        "hrandfield",
        "dump",
        "sort",
    }
    for path, function in functions():
        if path == "store/credentials.py" and function.name != "_read":
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    of_key = any(ast.unparse(arg) == "self._credentials" for arg in node.args)
                    if of_key and node.func.attr in reads:
                        # It looks whether one is sealed, and takes nothing else from it.
                        assert function.name == "_others_are_sealed", ast.unparse(node)
    words = [path for path in FILES if re.search(r"""["']credentials["']""", path.read_text())]
    assert [str(path.relative_to(ROOT)) for path in words] == ["store/connection.py"]
    for script in (ROOT / "lua").iterdir():
        assert "credential" not in script.read_text()


def test_a_password_s_text_is_asked_for_in_three_places() -> None:
    """To check what a person chose, to show it to one who asked, to seal it."""
    assert uses("reveal") == {
        ("cli/claiming.py", "claim"),
        ("cli/credentials.py", "show"),
        ("store/credentials.py", "_secrets"),
    }
    assert uses("_text") == {
        ("credential.py", name) for name in ("__init__", "reveal", "ha1", "__eq__")
    }


def test_nothing_but_the_digest_and_the_claim_makes_an_ha1() -> None:
    """It opens the board as well as the password does, so it is nowhere kept and nowhere printed."""
    assert uses("ha1") == {
        ("board/digest.py", "_challenged"),
        ("cli/claiming.py", "claim"),
        ("cli/claiming.py", "rotate"),
    }
