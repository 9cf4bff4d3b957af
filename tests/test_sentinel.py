"""Laws of `espnet.server.sentinel`: which URLs name sentinels; the primary is found, lost and found anew."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sentinels import NAME, House, Server, guarded, wait_until

from espnet import server
from espnet.cli import main
from espnet.errors import StoreUnavailable, UsageError
from espnet.model import Device, Reading
from espnet.server import sentinel, urls
from espnet.store import Store

# --- URLs -----------------------------------------------------------------------------------------

WRONG_URLS = """
redis+sentinel://
redis+sentinel:///house
redis+sentinel://host
redis+sentinel://host/
redis+sentinel://host,/house
redis+sentinel://,host/house
redis+sentinel://h1,,h2/house
redis+sentinel://:pa55word@/house
redis+sentinel://host:0/house
redis+sentinel://host:99999/house
redis+sentinel://host:/house
redis+sentinel://host:-1/house
redis+sentinel://host:pa55word/house
redis+sentinel://h1:26379:26380/house
redis+sentinel://::1/house
redis+sentinel://[::1/house
redis+sentinel://[::zz]/house
redis+sentinel://[pa55word]/house
redis+sentinel://[::1]x/house
redis+sentinel://hö5t/house
redis+sentinel://ho st/house
redis+sentinel://host/hou$e
redis+sentinel://host/house/zero
redis+sentinel://host/house/-1
redis+sentinel://host/house/0/1
redis+sentinel://host/house#pa55word
redis+sentinel://:pa55#word@host/house
redis+sentinel://:pa55/word@host/house
redis+sentinel://:pa55?word@host/house
redis+sentinel://host/house?db=one
redis+sentinel://host/house?pa55word=1
redis+sentinel://host/house?protocol=9
redis+sentinel://host/house?socket_timeout=pa55
rediss+sentinel://host
rediss+sentinel://host/house?ssl_cert_reqs=pa55word
redis+sentinels://host/house
redis-sentinel://host/house
sentinel://:pa55word@host/house
""".strip().splitlines()


@pytest.mark.parametrize("url", WRONG_URLS)
def test_wrong_url_is_refused_by_name_only(url: str, tmp_path: Path) -> None:
    """What cannot be right is a usage error: one sentence that shows the form, and quotes no secret."""
    with pytest.raises(UsageError) as error:
        server.find(url, tmp_path)
    message = str(error.value)
    assert message.startswith("REDIS_URL ")
    assert "redis+sentinel://" in message or "redis-py" in message
    assert "55" not in message
    assert "\n" not in message


def test_a_url_says_who_watches_what() -> None:
    """Hosts with and without ports, IPv6 in brackets, the name, the database, credentials, options."""
    url = "redis+sentinel://me:p%40ss@h1,h2:26380,[::1]:5,[fe80::1]/my.house-1_a/3?socket_timeout=9"
    named = sentinel.parse(url)
    assert [str(one) for one in named.sentinels] == [
        "h1:26379",
        "h2:26380",
        "[::1]:5",
        "[fe80::1]:26379",
    ]
    assert named.name == "my.house-1_a"
    assert named.options == {"username": "me", "password": "p@ss", "db": 3, "socket_timeout": 9.0}
    assert named.sentinel_options == {}
    assert "p@ss" not in repr(named)
    tls = sentinel.parse("rediss+sentinel://h/n/?ssl_ca_certs=/ca&sentinel_password=a%26b&db=1")
    assert tls.options == {"ssl": True, "ssl_ca_certs": "/ca", "db": 1}
    assert tls.sentinel_options == {"ssl": True, "ssl_ca_certs": "/ca", "password": "a&b"}


def test_no_secret_of_a_url_is_shown() -> None:
    """Neither Redis' password nor the sentinels' own."""
    url = "redis+sentinel://me:pa55@h1,h2/house/1?sentinel_username=me&sentinel_password=pa55&db=1"
    assert urls.redacted(url) == (
        "redis+sentinel://***@h1,h2/house/1?sentinel_username=***&sentinel_password=***&db=1"
    )


# --- finding the primary --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared() -> Iterator[House]:
    """A primary, a replica and three sentinels, with passwords; ask for `house` instead of this."""
    with guarded(password="pa55word", sentinel_password="s3cret55") as house:
        yield house


@pytest.fixture
def house(shared: House) -> House:
    """Empty and whole; the tests leave it so, with whatever server as the primary."""
    primary: Server = wait_until("the sentinels agree", shared.primary)
    with primary.client() as client:
        client.flushall()
    return shared


def away(error: StoreUnavailable) -> None:
    """One sentence, exit code 3, no secret."""
    assert error.exit_code == 3
    assert "\n" not in str(error)
    assert "55" not in str(error).replace("127.0.0.1:", "").translate(
        str.maketrans("", "", "0123469")
    )


def registered(store: Store, name: str) -> None:
    """One device, which may be claimed at once and again and again."""
    reading = Reading(at=0.0, poll_s=0.0, interval_s=1.0, collector="test", status=b"{}")
    store.add(Device(id=name, name=name, address="127.0.0.1:1"), reading, first_due=0.0)


def claimed(store: Store) -> int:
    """The fence of one more claim; raises what the store raises."""
    now = time.time() + 1e6
    while not (claims := store.claim(now, 1, "collector", ttl_s=0.001)):
        now += 10  # its last lock is not over yet
    return claims[0].grant.fence


def test_redis_and_doctor_say_which_primary_and_through_whom(
    house: House,
    settings: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both name the primary and every sentinel, say who does not answer, and show no secret."""
    monkeypatch.setenv("REDIS_URL", house.url)
    primary = house.primary()
    assert primary is not None
    assert main(["redis"]) == 0
    told = capsys.readouterr().out
    assert primary.address in told
    assert all(one.address in told for one in house.sentinels)
    assert main(["redis", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["primary"] == primary.address
    assert data["sentinels"] == {one.address: "" for one in house.sentinels}
    assert main(["doctor", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["redis"]["watch"]["primary"] == primary.address
    assert data["redis"]["watch"]["replicas"] == 1
    assert data["redis"]["min_replicas"] == 0

    nobody = "127.0.0.1:1"
    monkeypatch.setenv("REDIS_URL", house.url.replace(house.sentinels[0].address, nobody))
    assert main(["doctor"]) == 0
    told = " ".join(capsys.readouterr().out.split())  # lines end where the terminal does
    assert f"primary {primary.address}, 1 replica" in told
    assert f"1 sentinel of 3 cannot be used: {nobody}" in told
    assert "pa55word" not in told
    assert "s3cret55" not in told


def test_sentinels_that_do_not_help_are_told_apart(house: House, tmp_path: Path) -> None:
    """Nobody answers; they do not know the name; they want another password: a sentence each, soon."""
    hosts = house.url.rpartition("@")[2].partition("/")[0]
    for url, words in (
        (house.url.replace(hosts, "127.0.0.1:1,127.0.0.1:2"), "127.0.0.1:2 says"),
        (house.url.replace(f"/{NAME}", "/barn"), "knows no primary called barn"),
        (house.url.replace("s3cret55", "other55"), "(?i)password"),
        (house.url.replace("pa55word", "other55"), "(?i)password"),
    ):
        with pytest.raises(StoreUnavailable, match=words) as error:
            server.find(url, tmp_path)
        assert "other55" not in str(error.value)
        assert "pa55word" not in str(error.value)
    with closing(Store(house.url.replace(hosts, f"127.0.0.1:1,{hosts}"))) as store:
        store.ping()


def test_doctor_says_what_to_do_when_no_primary_is_found(
    house: House,
    settings: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 3, the sentinels' own words, and a next step that fits them."""
    for url, step in (
        ("redis+sentinel://127.0.0.1:1/house?sentinel_password=pa55word", "start the sentinels"),
        (house.url.replace("pa55word", "other55"), "put Redis' password into REDIS_URL"),
    ):
        monkeypatch.setenv("REDIS_URL", url)
        assert main(["doctor", "--json"]) == 3
        told = capsys.readouterr().out
        (problem,) = json.loads(told)["problems"]
        assert problem["next_step"].startswith(step)
        assert not re.search("pa55word|other55|s3cret55", told)
        assert main(["doctor", "--here"]) == 3
        capsys.readouterr()


def test_a_store_finds_the_next_primary_by_itself(house: House) -> None:
    """When the primary is killed, commands fail until another one is there, each with one sentence; then the
    same store goes on: scripts are loaded there, and fences go on growing."""
    old = house.primary()
    assert old is not None
    with closing(Store(house.url)) as store:
        registered(store, "porch")
        before = claimed(store)
        with old.client() as client:
            assert client.wait(1, 5000) == 1
        old.kill()
        with pytest.raises(StoreUnavailable) as error:
            claimed(store)
        assert "pa55word" not in str(error.value)

        def goes_on() -> int:
            try:
                return claimed(store)
            except StoreUnavailable:
                return 0

        with house.in_haste():
            assert wait_until("another primary", goes_on) > before
            assert [device.name for device in store.devices()] == ["porch"]
            new = house.wait_for_another(old)
        assert sentinel.primary_of(store._redis) == new.address
        old.start()  # it comes back as a replica
        house.wait_whole()
        assert claimed(store) > before


def test_a_primary_that_became_a_replica_is_let_go(house: House) -> None:
    """Its connections are alive and answer READONLY: that counts as away, and the primary is found anew."""
    old = house.primary()
    assert old is not None
    (other,) = (one for one in house.servers if one is not old)
    with closing(Store(house.url)) as store:
        registered(store, "barn")
        claimed(store)
        with old.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", other.port)
        with pytest.raises(StoreUnavailable):
            claimed(store)

        def goes_on() -> int:
            try:
                return claimed(store)
            except StoreUnavailable:
                return 0

        with house.in_haste():
            wait_until("a primary", goes_on)
            house.wait_whole()


def test_a_sentinel_behind_the_times_is_not_believed(house: House, tmp_path: Path) -> None:
    """One that names a replica, or a server that is gone, is passed over: the next one is asked at once."""
    primary = house.primary()
    assert primary is not None
    hosts = house.url.rpartition("@")[2].partition("/")[0]
    # Not a replica of the house: by that one it would hear from the other sentinels, and learn.
    replica = Server(tmp_path / "replica", "server", ["requirepass pa55word"], "pa55word")
    lines = [f"sentinel down-after-milliseconds {NAME} 60000", "requirepass s3cret55"]
    lines += [f"sentinel auth-pass {NAME} pa55word"]
    stale = Server(tmp_path / "stale", "sentinel", [], "s3cret55")
    try:
        replica.write()
        replica.lines.append("replicaof 127.0.0.1 1")
        replica.start()
        stale.write()
        stale.lines = [f"sentinel monitor {NAME} 127.0.0.1 {replica.port} 1", *lines]
        stale.start()
        url = house.url.replace(hosts, f"{stale.address},{hosts}")
        for reason in ("is a replica", "says"):
            assert server.find(url, tmp_path).url == url
            told = server.watch(url)
            assert told is not None
            assert told.sentinels[stale.address] == f"still names {replica.address}"
            assert told.primary == primary.address
            with closing(Store(house.url.replace(hosts, stale.address))) as store:
                words = f"names {replica.address}, which {reason}"
                with pytest.raises(StoreUnavailable, match=words) as error:
                    store.ping()
                assert "pa55word" not in str(error.value)
            replica.kill()
    finally:
        stale.kill()
        replica.kill()


def test_the_settings_of_the_page_are_settings(tmp_path: Path) -> None:
    """docs/scale.md: a server and a sentinel start with what it says."""
    page = (Path(__file__).parent.parent / "docs" / "scale.md").read_text()
    blocks = re.findall(r"```conf\n# \w+\.conf\n(.*?)```", page, re.DOTALL)
    lines = [block.replace(" red 6379", " 127.0.0.1 6379").splitlines() for block in blocks]
    assert len(lines) == 2
    for kind, block, password in zip(("server", "sentinel"), lines, ("PASSWORD", ""), strict=True):
        one = Server(tmp_path / kind, kind, block, password)
        one.write()
        try:
            one.start()
        finally:
            one.kill()
