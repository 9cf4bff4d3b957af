"""Laws of `espcli doctor`: what is a problem, and what is shown of it. Pure: facts in, page out."""

import json
from typing import Any

import msgspec
import pytest

from espnet.cli.doctor import report
from espnet.cli.facts import (
    Collector,
    Devices,
    Facts,
    Lost,
    Reach,
    Redis,
    Refusal,
    Settings,
    Sink,
    Slowed,
)
from espnet.cli.health import problems
from espnet.samples import Books, Queue, SinkState
from espnet.store import Health

NOW = 1_750_000_000.0

# --- the table: facts → problems ------------------------------------------------------------------

HEALTH = Health(
    version="7.0.15",
    uptime_s=7_000,
    time=NOW,
    is_aof=True,
    saves="3600 1",
    memory_bytes=10_000_000,
    max_bytes=100_000_000,
    policy="noeviction",
    is_open=False,
)
OK = SinkState(state="ok", at=NOW - 5, since=NOW - 900, uploader="u", ok_at=NOW - 5, skew_s=0.4)
BOOKS = Books(collected=100, accepted=90, queued=10)
SINK = Sink(name="datadog", is_chosen=True, books=BOOKS, state=OK, waits_s=5)
WELL = Facts(
    now=NOW,
    settings=Settings(
        redis="redis://example:7777/0",
        data="/data",
        prefix="espnet:",
        sinks=("datadog",),
        is_sinks_chosen=False,
        upload_interval_s=15,
        max_samples=1_000_000,
        max_bytes=256_000_000,
    ),
    redis=Redis(url="redis://example:7777/0", kind="external", health=HEALTH, skew_s=0.01),
    collectors=(Collector("collector@pi:1:a", 1.0, 3),),
    devices=Devices(total=3, online=3),
    refusals=(),
    queue=Queue(collected=100, queued=10, bytes=2_000),
    sinks=(SINK,),
)


def but(record: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(record, **changes)


def redis_with(**changes: Any) -> Facts:
    return but(WELL, redis=but(WELL.redis, health=but(HEALTH, **changes)))


def devices_with(**changes: Any) -> Facts:
    return but(WELL, devices=but(WELL.devices, **changes))


def settings_with(**changes: Any) -> Facts:
    return but(WELL, settings=but(WELL.settings, **changes))


def sink_with(**changes: Any) -> Facts:
    return but(WELL, sinks=(but(SINK, **changes),))


def state_with(**changes: Any) -> Facts:
    return sink_with(state=but(OK, **changes))


OFFLINE = tuple(Lost(f"d{i}", "refused the connection", 700.0) for i in range(7))
SILENT = {"waits_s": 500, "state": but(OK, at=NOW - 500)}
DEAD_COLLECTOR = (Collector("collector@pi:1:a", 900.0, 0),)

#: (facts, the one problem or remark that they are, what it says, what its next step says)
TABLE: dict[str, tuple[Facts, str, str, str]] = {
    "unreachable": (
        but(WELL, redis=None, unreachable="Redis does not answer."),
        "problem", "Redis does not answer.", "REDIS_URL",
    ),
    "unreachable embedded": (
        but(
            settings_with(redis=""), redis=None, unreachable="It cannot start."
        ),
        "problem", "cannot start", "/data/redis/server.log",
    ),
    "locked": (
        but(WELL, redis=None, unreachable="Redis says: Authentication required."),
        "problem", "Authentication required", "put the password into REDIS_URL",
    ),
    "loading": (
        redis_with(is_loading=True, loading_s=12, refusal="other"),
        "problem", "about 12 s more", "wait",
    ),
    "memory full": (
        redis_with(refusal="memory", memory_bytes=100_000_001),
        "problem", "100 MB of 100 MB", "maxmemory",
    ),
    "replica": (redis_with(refusal="replica"), "problem", "only reads", "INFO replication"),
    "misconf": (redis_with(refusal="persistence"), "problem", "cannot write to its disk", "BGSAVE"),
    "no rights": (
        redis_with(refusal="permission", refused="no perm"), "problem", "no perm", "ACL SETUSER",
    ),
    "other refusal": (
        redis_with(refusal="other", refused="NOREPLICAS too few."),
        "problem", "NOREPLICAS too few.", "log",
    ),
    "eviction": (
        redis_with(policy="allkeys-lru", evicted=1_234),
        "problem", "allkeys-lru): EspNet's are among them. It has thrown away 1,234 keys",
        "redis-cli -h example -p 7777 CONFIG SET maxmemory-policy noeviction",
    ),
    "volatile eviction": (
        redis_with(policy="volatile-ttl", max_bytes=0), "problem", "volatile-ttl", "noeviction",
    ),
    "memory nearly full": (
        redis_with(memory_bytes=90_000_000), "problem", "90% of its memory", "ESPNET_QUEUE_MB",
    ),
    "append-only file": (
        redis_with(aof_problem="err"), "problem", "append-only file", "make room",
    ),
    "snapshot": (redis_with(snapshot_problem="err"), "problem", "last snapshot", "BGSAVE"),
    "no persistence": (
        redis_with(is_aof=False, saves=""), "problem", "nothing on disk", "appendonly yes",
    ),
    "old version": (redis_with(version="6.0.16"), "problem", "6.0.16 is too old", "update"),
    "open to all": (redis_with(is_open=True), "problem", "Anybody on the network", "requirepass"),
    "redis clock": (
        but(WELL, redis=but(WELL.redis, skew_s=-90.0)),
        "problem", "90 s behind this one's", "NTP",
    ),
    "passed over": (
        but(WELL, redis=but(WELL.redis, passed_over={"/run/r.sock": "it wants a password"})),
        "remark", "/run/r.sock was passed over: it wants a password",
        "REDIS_URL=unix://:PASSWORD@/run/r.sock",
    ),
    "passed over for now": (
        but(WELL, redis=but(WELL.redis, passed_over={"/run/r.sock": "it says LOADING Redis is"})),
        "problem", "passed over: it says LOADING Redis is", "REDIS_URL=unix:///run/r.sock",
    ),
    "no collector": (
        but(WELL, collectors=DEAD_COLLECTOR),
        "problem", "nobody polls the 3 devices, and no job acts. The last one was collector@pi:1:a, "
        "15 min ago", "espcli run",
    ),
    "no collector for one board": (
        but(devices_with(total=1), collectors=DEAD_COLLECTOR),
        "problem", "nobody polls the device, and no job acts.", "espcli run",
    ),
    "never a collector": (
        but(WELL, collectors=(Collector("cli@pi:1:a", None, 1),)),
        "problem", "No collector runs", "espcli run",
    ),
    "collector's clock": (
        but(WELL, collectors=(Collector("collector@pi:1:a", -400.0, 3),)),
        "problem", "collector@pi:1:a is 7 min ahead", "NTP",
    ),
    "nothing registered": (
        but(WELL, devices=Devices(), collectors=(), sinks=()),
        "remark", "No devices are registered", "espcli register",
    ),
    "one offline": (
        devices_with(offline=OFFLINE[:1]),
        "problem", "1 device is offline: d0 (refused the connection).", "espcli device d0 update",
    ),
    "many offline": (
        devices_with(offline=OFFLINE), "problem", "7 devices are offline", "Wi-Fi",
    ),
    "overdue": (
        devices_with(overdue=40, oldest_overdue_s=300.0),
        "problem", "40 polls are overdue, the oldest by 5 min", "one more machine",
    ),
    "slowed": (
        devices_with(slowed=(Slowed("porch", "free heap 5.1 kB", 20, 10),)),
        "remark", "1 board is polled slower than asked: porch (free heap 5.1 kB; every 20 s, 10 s asked).",
        "espcli device porch interval",
    ),
    "slowed, many": (
        devices_with(slowed=tuple(Slowed(f"d{i}", "answers take 1.3 s", 0.4, 0.1) for i in range(7))),
        "remark", "7 boards are polled slower than asked: d0 (answers take 1.3 s; every 0.4 s, 0.1 s asked)",
        "espcli device d0 interval",
    ),
    "far": (devices_with(far=("d1",)), "problem", "d1 is to be polled further", "device d1 update"),
    "unscheduled": (
        devices_with(unscheduled=("d1", "d2")), "problem", "d1, d2 have no date", "device d1 update",
    ),
    "silent sensor": (
        devices_with(sensors=("d1 air (no answer)",)),
        "remark", "1 sensor is silent: d1 air (no answer)", "wires",
    ),
    "refused write": (
        but(WELL, refusals=(Refusal("d1", 4, "does not let pin 4 be written"),)),
        "problem", "1 pin could not be set as decided: d1 pin 4 (does not", "espcli why d1 4",
    ),
    "full by samples": (
        but(WELL, queue=Queue(queued=950_000)), "problem", "95% full", "ESPNET_MAX_SAMPLES",
    ),
    "full by bytes": (
        but(WELL, queue=Queue(bytes=256_000_000)), "problem", "100% full", "ESPNET_QUEUE_MB",
    ),
    "full without a sink": (
        but(
            settings_with(sinks=(), is_sinks_chosen=True),
            sinks=(), queue=Queue(queued=1_000_000),
        ),
        "remark", "100% full", "forget",
    ),
    "uploads off": (
        but(settings_with(sinks=()), sinks=()), "remark", "No sink is chosen", "DATADOG_API_KEY",
    ),
    "chosen and never joined": (
        settings_with(sinks=("datadog", "file")), "problem", "sink file is chosen here", "espcli run",
    ),
    "unbalanced": (
        sink_with(books=but(BOOKS, queued=9)),
        "problem", "100 collected ≠ 90 accepted + 0 expired + 0 dead + 0 dropped + 9 queued", "xinfo",
    ),
    "silence": (
        sink_with(**SILENT),
        "problem", "Nobody uploads to datadog: 10 samples are waiting, the oldest for 8 min",
        "espcli sinks forget datadog",
    ),
    "silence of a sink that is not chosen": (
        sink_with(**SILENT, is_chosen=False), "problem", "not chosen here", "forget datadog",
    ),
    "silence from the beginning": (
        sink_with(waits_s=500, state=None), "problem", "Nobody uploads", "espcli run",
    ),
    "history is not kept": (
        but(WELL, sinks=(SINK, but(SINK, name="history", waits_s=500, state=None))),
        "problem", "Nobody uploads to history", "ESPNET_HISTORY_MB",
    ),
    "too little history": (
        but(settings_with(history_bytes=1_990_000), devices=Devices(total=1_000, online=1_000)),
        "remark", "1.99 kB for each of 1,000 devices", "set ESPNET_HISTORY_MB to 2 or more",
    ),
    "paused": (
        state_with(state="paused", since=NOW - 600, reason="Wrong key.", status=403),
        "problem", "datadog has been paused for 10 min: Wrong key.", "DATADOG_API_KEY",
    ),
    "failing": (
        state_with(state="failing", since=NOW - 600, reason="It is away."),
        "problem", "datadog has failed for 10 min: It is away.", "nothing is lost",
    ),
    "failing just now": (
        state_with(state="failing", since=NOW - 60, reason=""),
        "remark", "has failed for 60 s: it did not say why", "nothing is lost",
    ),
    "intake's clock": (
        state_with(skew_s=90.0), "problem", "clock is 90 s behind that of datadog.", "NTP",
    ),
    "intake's clock, far": (
        state_with(skew_s=-700.0), "problem", "12 min ahead of that of datadog. Points so far", "NTP",
    ),
    "dead letters": (
        sink_with(books=Books(collected=100, accepted=99, dead=1)),
        "problem", "datadog would never accept 1 sample", "espcli dead_letters show datadog",
    ),
}  # fmt: skip


def is_one_problem(facts: Facts, severity: str, what: str, next_step: str) -> None:
    (problem,) = problems(facts)
    assert problem.severity == severity
    assert what in problem.what
    assert next_step in problem.next_step
    assert "\n" not in problem.what + problem.next_step


@pytest.mark.parametrize("name", TABLE)
def test_a_fact_that_is_wrong_is_one_problem_with_a_next_step(name: str) -> None:
    """Each by itself: its severity, what it says, what to do; and nothing besides."""
    is_one_problem(*TABLE[name])


def test_a_world_that_is_well_has_no_problems() -> None:
    """Nor does one whose figures are just within what is allowed."""
    assert problems(WELL) == []
    for facts in (
        redis_with(memory_bytes=89_000_000),
        redis_with(max_bytes=0),
        settings_with(history_bytes=6_000),
        redis_with(version="6.2.0"),
        redis_with(name="Valkey", version="9.1.2"),
        redis_with(is_aof=False),  # snapshots are something
        redis_with(is_aof=False, saves=None),  # it does not say
        redis_with(saves="", snapshot_problem="err"),  # of long ago
        redis_with(policy=None, max_bytes=None, memory_bytes=None, is_open=None, version=None),
        devices_with(overdue=3, oldest_overdue_s=100.0),
        devices_with(late=1, online=2),
        settings_with(sinks=("datadog", "prometheus")),
        settings_with(sinks=()),  # somebody else's collector has the key
        sink_with(waits_s=500),  # an uploader is at it
        sink_with(waits_s=None, state=but(OK, at=NOW - 9_000)),  # nothing waits
        sink_with(**SILENT | {"state": but(OK, at=NOW - 500, retry_at=NOW + 60)}),
        settings_with(upload_interval_s=3_600),
        state_with(skew_s=-59.0),
    ):
        assert problems(facts) == []


def test_a_rare_uploader_is_not_silent() -> None:
    """Whoever uploads every hour may be quiet for three."""
    slow = but(sink_with(**SILENT), settings=but(WELL.settings, upload_interval_s=3_600))
    assert problems(slow) == []


def test_what_follows_from_another_problem_is_not_said_once_more() -> None:
    """Without a collector every board is offline, every poll overdue, every sink silent in time."""
    facts = but(
        WELL,
        collectors=DEAD_COLLECTOR,
        devices=but(WELL.devices, offline=OFFLINE, overdue=9, oldest_overdue_s=1e6),
        refusals=(Refusal("d1", 4, "no"),),
        settings=but(WELL.settings, sinks=("datadog", "file")),
    )
    assert [problem.what[:20] for problem in problems(facts)] == ["No collector runs: n"]


def test_problems_come_before_remarks() -> None:
    """What needs a person is read first, in the order in which to look at it."""
    facts = but(
        redis_with(policy="allkeys-lru"),
        devices=but(WELL.devices, sensors=("d1 air (x)",), offline=OFFLINE),
    )
    assert [p.severity for p in problems(facts)] == ["problem", "problem", "remark"]


def test_long_lists_are_cut() -> None:
    """A fleet of thousands that is offline is one sentence that fits a screen."""
    many = tuple(Lost(f"board{i}", "is silent", None) for i in range(5_000))
    (problem,) = problems(devices_with(offline=many, total=5_000))
    assert "and 4,995 more" in problem.what
    assert len(problem.what) < 300
    data = report(devices_with(offline=many, total=5_000)).data
    assert data["devices"]["offline"] == 5_000
    assert len(data["devices"]["offline_devices"]) == 100


@pytest.mark.parametrize("name", TABLE)
def test_the_exit_code_says_whether_a_person_is_needed(name: str) -> None:
    """0 with remarks only, 1 with a problem, 3 where Redis cannot be used."""
    facts, severity, *_ = TABLE[name]
    expected = 0 if severity == "remark" else 1
    if facts.unreachable or facts.redis.health.is_loading:
        expected = 3
    shown = report(facts)
    assert shown.code == shown.data["exit_code"] == expected
    assert shown.data["is_well"] == (expected == 0)
    json.dumps(shown.data)


def test_the_history_has_its_place() -> None:
    """How far back each level reaches, where somebody says it."""
    levels = (Reach("full rate", NOW - 86_400, 1_000_000), Reach("hourly", None, 0))
    shown = report(but(WELL, history=levels))
    section = next(part for part in shown.parts if part.title == "History")
    assert [line.text for line in section.lines] == [
        "full rate: 24 h back, 1 MB",
        "hourly: no block yet, 0 B",
    ]
    assert shown.data["history"][0] == {
        "level": "full rate",
        "since": NOW - 86_400,
        "bytes": 10**6,
        "short": 0,
        "least_s": None,
    }
