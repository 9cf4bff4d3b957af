"""Laws of `espcli doctor` in worlds that are really broken, and in those that are well."""

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from board_wire import status_body
from conftest import RedisProcess
from test_cli import on_terminal, plain

from espnet import server
from espnet.cli import main
from espnet.cli.doctor import report
from espnet.cli.facts import (
    gather,
)
from espnet.cli.health import problems
from espnet.cli.session import Session
from espnet.credential import new_password
from espnet.model import Device, Memory, Pace, Reading, Timer, Write, encode
from espnet.samples import Books, DeadLetter, Sample, SampleBatch, SinkState
from espnet.store import Fate, Poll, Store

COLLECTOR = "collector@pi:812:3fa1b2"


class World:
    """An EspNet in a private Redis, as its collector and its uploader would have left it just now."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store = Store(url)
        self.raw = redis.Redis.from_url(url)
        self.now = time.time()

    def add(self, name: str, *, at: float | None = None, **more: Any) -> Device:
        """A device with a reading, by default a fresh one; it is due in ten seconds."""
        device = Device(id=f"id-{name}", name=name, address=f"{name}.lan", **more)
        reading = self.reading(device, at)
        self.store.add_password(device.id, new_password())
        return self.store.add(device, reading, first_due=self.now + 10, has_password=True)

    def reading(self, device: Device, at: float | None = None, **more: Any) -> Reading:
        return Reading(
            at=self.now if at is None else at,
            poll_s=0.02,
            interval_s=10.0,
            collector=COLLECTOR,
            status=msgspec.Raw(status_body(device.id, claimed=True, private=False)),
            **more,
        )

    def schedule(self, device_id: str, at: float | None) -> None:
        """The device is due at ``at``, or never, whoever has it."""
        for queue in self.raw.scan_iter("espnet:due*"):
            if self.raw.zrem(queue, device_id) and at is not None:
                self.raw.zadd(queue, {device_id: at})

    def collector(self, age_s: float = 1.0) -> None:
        """A collector that found nothing to do."""
        self.store.claim(self.now - age_s, 1, COLLECTOR, ttl_s=5)

    def samples(self, device: Device, count: int, age_s: float = 0.0) -> None:
        """So many samples of one poll on the stream."""
        points = tuple(("esp32.up", 1.0, (f"n:{i}",)) for i in range(count))
        with self.store.hold(device, "here", ttl_s=5, wait_s=5) as grant:
            batch = SampleBatch(self.now - age_s, (), points)
            self.store.commit([Poll(grant, self.now + 10, self.reading(device), batch=batch)])

    def note(self, sink: str, **how: Any) -> None:
        known = {"state": "ok", "at": self.now, "since": self.now, "uploader": "u"}
        self.store.note_sink(sink, SinkState(**known | how))

    def close(self) -> None:
        self.raw.config_set("save", "")  # a server whose snapshots fail does not end
        self.store.close()
        self.raw.close()


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("ESPNET_", "DATADOG_", "DD_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ESPNET_DATA", str(tmp_path))


@pytest.fixture
def world(own_redis: RedisProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Three boards that are well, a collector, a sink that has had its samples."""
    monkeypatch.setenv("REDIS_URL", own_redis.url)
    monkeypatch.setenv("ESPNET_SINKS", "datadog")
    made = World(own_redis.url)
    with closing(made):
        devices = [made.add(name) for name in ("porch", "attic", "shed")]
        made.collector()
        made.store.join("datadog", made.now)
        made.samples(devices[0], 5)
        entries = made.store.take("datadog", "me", 9)
        made.store.settle(
            "datadog", "me", [Fate(entry, accepted=entry.samples) for entry in entries]
        )
        made.note("datadog", ok_at=made.now)
        yield made


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """What `espcli doctor --json` says, and that it ends with ``code``."""

    def run(code: int) -> Any:
        capsys.readouterr()
        assert main(["doctor", "--json"]) == code
        captured = capsys.readouterr()
        assert not captured.err
        return json.loads(captured.out)

    return run


def whats(data: Any) -> str:
    return "\n".join(problem["what"] for problem in data["problems"])


def test_a_well_world_is_well(world: World, doctor: Callable[..., Any]) -> None:
    """Exit code 0, no problem, and every number where a program looks for it."""
    data = doctor(0)
    assert data["problems"] == []
    assert data["redis"]["kind"] == "external"
    assert data["redis"]["policy"] == "noeviction"
    assert data["redis"]["is_aof"] is True
    assert [(c["name"], c["devices"], c["is_alive"]) for c in data["collectors"]] == [
        (COLLECTOR, 3, True)
    ]
    assert (data["devices"]["total"], data["devices"]["online"]) == (3, 3)
    sink = data["sinks"]["datadog"]
    assert {key: sink[key] for key in Books.__struct_fields__} == {
        "collected": 5,
        "accepted": 5,
        "expired": 0,
        "dead": 0,
        "dropped": 0,
        "queued": 0,
        "repeated": 0,
    }
    assert sink["is_balanced"] is True
    assert data["queue"]["collected"] == 5


def test_the_page_prints_the_books(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """collected = accepted + expired + dead + dropped + queued, as such."""
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert "5 collected = 5 accepted + 0 expired + 0 dead + 0 dropped + 0 queued" in page
    assert page.endswith("Nothing needs you.\n")
    assert "\x1b" not in page
    assert page.splitlines()[0].startswith("Redis       Valkey")


def a_volatile_policy(world: World) -> None:
    world.raw.config_set("maxmemory-policy", "volatile-lru")


def no_memory(world: World) -> None:
    world.raw.config_set("maxmemory", 1)


def nearly_no_memory(world: World) -> None:
    world.raw.setrange("somebody", 50_000_000, b"x")  # much more than a connection takes
    world.raw.config_set("maxmemory", int(world.raw.info()["used_memory"] * 1.05))


def a_replica(world: World) -> None:
    world.raw.replicaof("127.0.0.1", "1")


def too_few_replicas(world: World) -> None:
    world.raw.config_set("min-replicas-to-write", 1)


def nothing_on_disk(world: World) -> None:
    world.raw.config_set("appendonly", "no")


def a_disk_that_fails(world: World) -> None:
    world.raw.config_set("appendonly", "no")
    world.raw.config_set("save", "3600 1")
    folder = Path(world.raw.config_get("dir")["dir"])
    (folder / world.raw.config_get("dbfilename")["dbfilename"]).mkdir()
    world.raw.bgsave()
    while world.raw.info("persistence")["rdb_last_bgsave_status"] == "ok":
        time.sleep(0.01)


def no_collector(world: World) -> None:
    world.raw.delete("espnet:collectors")


def a_collector_that_stopped(world: World) -> None:
    world.raw.zadd("espnet:collectors", {COLLECTOR: world.now - 600})


def a_collector_ahead(world: World) -> None:
    world.raw.zadd("espnet:collectors", {"collector@elsewhere": world.now + 600})


def an_offline_device(world: World) -> None:
    world.raw.hset(
        "espnet:readings", "id-shed", encode(world.reading(world.store.device("shed"), at=5.0))
    )


def a_clock_that_was_set_back(world: World) -> None:
    world.schedule("id-porch", world.now + 86_400)


def a_backlog(world: World) -> None:
    world.schedule("id-porch", world.now - 600)
    world.schedule("id-attic", world.now - 500)


def a_lost_date(world: World) -> None:
    world.schedule("id-attic", None)


def books_changed_by_hand(world: World) -> None:
    world.raw.hincrby("espnet:books:datadog", "accepted", -1)


def a_paused_sink(world: World) -> None:
    world.note("datadog", state="paused", status=403, reason="The key is wrong.")


def nobody_uploads(world: World) -> None:
    world.samples(world.store.device("porch"), 3, age_s=900)
    world.note("datadog", at=world.now - 900)


def a_forgotten_sink(world: World) -> None:
    world.store.join("file", world.now)
    world.samples(world.store.device("porch"), 3, age_s=900)
    entries = world.store.take("datadog", "me", 9)
    world.store.settle("datadog", "me", [Fate(entry, accepted=entry.samples) for entry in entries])


def a_dead_letter(world: World) -> None:
    world.samples(world.store.device("porch"), 1)
    (entry,) = world.store.take("datadog", "me", 9)
    letter = DeadLetter(Sample("esp32.up", 1.0, 5.0, ()), "It is no good.", world.now)
    world.store.settle("datadog", "me", [Fate(entry, letters=(letter,))])


def an_intake_with_another_time(world: World) -> None:
    world.note("datadog", skew_s=-900.0)


def a_pin_that_the_board_refuses(world: World) -> None:
    job = Timer(name="lamp", pin=5, start="06:00", hours=2, zone="UTC")
    world.store.change_jobs("porch", lambda _, __: (job,), now=world.now + 10)
    memory = Memory(writes={5: Write(world.now - 5, 1, "does not let it be written")})
    world.raw.hset("espnet:memory", "id-porch", encode(memory))


def a_sink_that_never_began(world: World) -> None:
    world.store.forget_sink("datadog")


BROKEN: dict[Callable[[World], None], str] = {
    a_volatile_policy: "maxmemory-policy volatile-lru",
    no_memory: "its memory is full",
    nearly_no_memory: "of its memory",
    a_replica: "a replica that only reads",
    too_few_replicas: "NOREPLICAS",
    nothing_on_disk: "keeps nothing on disk",
    a_disk_that_fails: "cannot write to its disk",
    no_collector: "No collector runs",
    a_collector_that_stopped: "The last one was collector@pi:812:3fa1b2, 10 min ago.",
    a_collector_ahead: "The clock of collector@elsewhere is 10 min ahead",
    an_offline_device: "1 device is offline: shed",
    a_clock_that_was_set_back: "porch is to be polled further in the future",
    a_backlog: "2 polls are overdue, the oldest by 10 min",
    a_lost_date: "attic has no date",
    books_changed_by_hand: "5 collected ≠ 4 accepted",
    a_paused_sink: "datadog has been paused for 0 s: The key is wrong.",
    nobody_uploads: "Nobody uploads to datadog: 3 samples are waiting, the oldest for 15 min",
    a_forgotten_sink: "Nobody uploads to file, which is not chosen here",
    a_dead_letter: "datadog would never accept 1 sample",
    an_intake_with_another_time: "15 min ahead of that of datadog. Points so far off are refused.",
    a_pin_that_the_board_refuses: "porch pin 5 (does not let it be written)",
    a_sink_that_never_began: "The sink datadog is chosen here, but",
}


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda breaks: breaks.__name__)
def test_a_broken_world_is_recognized(
    breaks: Callable[[World], None], world: World, doctor: Callable[..., Any]
) -> None:
    """What is wrong with it is said, with a next step, and ends with exit code 1."""
    breaks(world)
    data = doctor(1)
    assert BROKEN[breaks] in whats(data)
    assert all(problem["next_step"] for problem in data["problems"])
    # One cause, one problem; a failing disk also fails its snapshots, a sink that went has a remark.
    sick = [p["what"] for p in data["problems"] if p["severity"] == "problem"]
    assert len(sick) <= 1 + (breaks is a_disk_that_fails), sick


def test_a_board_that_is_slowed_is_worth_knowing_and_no_problem(
    world: World, doctor: Callable[..., Any]
) -> None:
    """By name, with both intervals and the reason; one that is offline is that and nothing else."""
    pace = Pace(2, "free heap 5.1 kB", world.now - 60, world.now)
    for name, at in (("porch", world.now), ("shed", 5.0)):
        slowed = world.reading(world.store.device(name), at, pace=pace)
        slowed = msgspec.structs.replace(slowed, interval_s=20.0)
        world.raw.hset("espnet:readings", f"id-{name}", encode(slowed))
    data = doctor(1)
    assert data["devices"]["slowed"] == [
        {"name": "porch", "what": "free heap 5.1 kB", "every_s": 20.0, "asked_s": 10.0}
    ]
    told = {problem["what"]: problem["severity"] for problem in data["problems"]}
    wanted = (
        "1 board is polled slower than asked: porch (free heap 5.1 kB; every 20 s, 10 s asked)."
    )
    assert told[wanted] == "remark"


def test_looking_changes_nothing(world: World, doctor: Callable[..., Any]) -> None:
    """Not a key, not a date, not a byte: the doctor may look as often as it likes."""
    world.samples(world.store.device("porch"), 4)

    def dump() -> dict[bytes, object]:
        found = {}
        for key in sorted(world.raw.keys()):
            kind = world.raw.type(key)
            found[key] = world.raw.xinfo_stream(key) if kind == b"stream" else world.raw.dump(key)
        return found

    before = dump()
    for _ in range(3):
        doctor(0)
    assert dump() == before


def test_an_empty_installation_is_not_sick(
    own_redis: RedisProcess, doctor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what to do first. Devices without a collector are another matter."""
    monkeypatch.setenv("REDIS_URL", own_redis.url)
    (remark,) = doctor(0)["problems"]
    assert remark["severity"] == "remark"
    assert "espcli register" in remark["next_step"]
    with closing(World(own_redis.url)) as world:
        world.add("porch")
        assert "No collector runs" in whats(doctor(1))


def test_a_redis_that_is_away_is_exit_code_3_and_no_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which server was tried, and the settings, are said all the same; no password, no key."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("REDIS_URL", f"redis://me:s3cret@127.0.0.1:{port}/0")
    monkeypatch.setenv("DATADOG_API_KEY", "k3y")
    for words in (["doctor"], ["doctor", "--json"]):
        assert main(words) == 3
        shown = capsys.readouterr().out
        assert f"127.0.0.1:{port}" in shown
        assert "datadog" in shown
        assert "s3cret" not in shown
        assert "k3y" not in shown
    data = json.loads(shown)
    assert (data["redis"], data["devices"], data["sinks"]) == (None, None, None)


def test_a_redis_that_says_no_more_leaves_what_it_said(
    world: World, doctor: Callable[..., Any]
) -> None:
    """The fleet is shown where the books cannot be read."""
    world.raw.set("espnet:books", "not ours")
    data = doctor(3)
    assert data["devices"]["online"] == 3
    assert data["sinks"] is None
    assert "refused a command" in data["unreachable"]


def test_a_redis_that_wants_a_password_is_not_taken_for_an_empty_one(
    own_redis: RedisProcess, doctor: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No password in the URL: exit code 3, and where it belongs."""
    with redis.Redis.from_url(own_redis.url) as raw:
        raw.config_set("requirepass", "s3cret")
    monkeypatch.setenv("REDIS_URL", own_redis.url)
    (problem,) = doctor(3)["problems"]
    assert "authenticate" in problem["what"]
    assert "put the password into REDIS_URL" in problem["next_step"]


def test_a_redis_that_was_passed_over_is_named(
    own_redis: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A default socket that wants a password, while EspNet's own Redis is used."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    with redis.Redis.from_url(own_redis.url) as raw:
        raw.config_set("requirepass", "s3cret")
    assert server.passed_over((own_redis.socket,)) == {own_redis.socket: "it wants a password"}
    assert server.passed_over((tmp_path / "nobody",)) == {}
    session = Session()
    try:
        session.server = server.find(None, tmp_path, ())
        facts = gather(session, (own_redis.socket,))
    finally:
        server.stop(tmp_path)
    assert facts.redis.kind == "embedded"
    assert any("wants a password" in problem.what for problem in problems(facts))


def answers(raw: redis.Redis) -> bool:
    try:
        return bool(raw.ping())
    except redis.ConnectionError:
        return False


@pytest.mark.parametrize(
    ("arguments", "is_open"),
    [
        (["--bind", "0.0.0.0", "--protected-mode", "no"], True),
        (["--bind", "0.0.0.0", "--protected-mode", "yes"], False),
        (["--bind", "127.0.0.1", "--protected-mode", "no"], False),
        (["--bind", "0.0.0.0", "--protected-mode", "no", "--requirepass", "s3cret"], False),
        (["--bind", "0.0.0.0", "--protected-mode", "no", "--rename-command", "CONFIG", ""], None),
    ],
)
def test_an_open_redis_is_recognized(
    arguments: list[str], is_open: bool | None, short_path: Path
) -> None:
    """Beyond this machine, unprotected, without a password; where CONFIG is forbidden, nobody knows."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = ["--port", str(port), "--unixsocket", str(short_path / "r.sock"), "--save", ""]
    process = subprocess.Popen(
        [server.binary(), *where, "--dir", str(short_path), *arguments], stdout=subprocess.DEVNULL
    )
    password = ":s3cret@" if "s3cret" in arguments else ""
    try:
        url = f"unix://{password}{short_path}/r.sock"
        with closing(Store(url)) as store, redis.Redis.from_url(url) as raw:
            # The file of a socket is there before anybody listens on it.
            deadline = time.monotonic() + 10
            while not answers(raw):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert store.health().is_open is is_open
    finally:
        process.terminate()
        process.wait(10)


WRONG = (
    "doctor now",
    "doctor --jsn",
    "doctor --json=1",
    "doctor porch datadog",
    "doctor --anyway",
    "doctor - now",
    "doctor --help=1",
    "doctor None",
    "docter",
    "doctor.run",
    "doctor __class__",
    "doctor --no-json",
    "doctor --",
    "doctor -x",
    "doctor --verbose 1",
    "doctor 1e3",
    "doctor --add gpio:porch:2",
    "doctor show",
    "doctor -v",
    "doctor --sinks datadog",
)


@pytest.mark.parametrize("line", WRONG)
def test_wrong_words_are_a_usage_error(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence, exit code 2, and Redis is not even asked."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("espcli: ")


def test_settings_that_make_no_sense_are_a_usage_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable is named."""
    monkeypatch.setenv("ESPNET_MAX_SAMPLES", "many")
    assert main(["doctor"]) == 2
    assert "ESPNET_MAX_SAMPLES" in capsys.readouterr().err


def test_the_page_fits_a_terminal(world: World, own_redis: RedisProcess) -> None:
    """80 columns or 40: nothing is cut, nothing goes on at the margin, and red is what needs a person."""
    for breaks in (a_volatile_policy, an_offline_device, a_paused_sink, a_dead_letter):
        breaks(world)
    for columns in (80, 40):
        shown = on_terminal(columns, "doctor", code=1, ESPNET_SINKS="datadog")
        lines = plain(shown).splitlines()
        assert max(map(len, lines)) <= columns
        page = re.sub(r"\s+", " ", " ".join(lines))
        assert "EspNet's are among them." in page
        assert "4 problems need you." in page
        assert "\x1b[1;31m" in shown


def test_a_shard_without_a_collector_is_named(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """A collector that polls other devices does not hide that nobody polls these."""
    world.add("porch")
    world.add("stable", tags=("shard:barn",))
    world.collector()
    assert main(["doctor"]) == 1
    told = capsys.readouterr().out
    assert "No collector polls the shard barn: stable." in " ".join(told.split())
    assert "`espcli run --shard barn`" in " ".join(told.split())
    world.store.claim(world.now, 1, "collector/barn@shed:1:a", ttl_s=5)
    main(["doctor"])
    assert "No collector polls" not in capsys.readouterr().out


def test_ten_thousand_devices_take_less_than_a_second(own_redis: RedisProcess) -> None:
    """Also when all of them are offline."""
    with closing(World(own_redis.url)) as world:
        device = Device(id="x", name="x", address="x")
        gpio = {str(pin): 0 for pin in range(34)}
        body = msgspec.Raw(status_body("x", gpio=gpio))
        reading = encode(msgspec.structs.replace(world.reading(device), status=body))
        ids = [f"{number:012x}" for number in range(10_000)]
        devices = {
            one: encode(msgspec.structs.replace(device, id=one, name=f"board{one}")) for one in ids
        }
        world.raw.hset("espnet:devices", mapping=devices)
        world.raw.hset("espnet:readings", mapping=dict.fromkeys(ids, reading))
        world.raw.hset("espnet:memory", mapping=dict.fromkeys(ids, encode(Memory())))
        world.raw.zadd("espnet:due", dict.fromkeys(ids, world.now))
    session = Session()
    session.config = msgspec.structs.replace(session.config, redis_url=own_redis.url)
    began = time.process_time()
    report(gather(session, ()))
    assert time.process_time() - began < 1.0
