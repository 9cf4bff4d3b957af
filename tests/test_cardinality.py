"""Laws of `espcli cardinality`: what is counted, what a change would cost, and what `run` makes of it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import msgspec
import pytest
import redis
from board_wire import status_body

from espnet.cli import main
from espnet.cli.cardinality import Member, count
from espnet.model import (
    Adc,
    Climate,
    Device,
    Job,
    Override,
    Reading,
    Timer,
    View,
    decode_status,
    encode,
)
from espnet.series import series_of, shown_of, tags_of
from espnet.sinks.prometheus import Fleet, JobState, families
from espnet.store import Store

pytestmark = pytest.mark.usefixtures("settings")

NOW = 1_750_000_000.0
LAMP = Timer(name="lamp", pin=4, start="06:00", hours=2, zone="UTC")
STATUS = decode_status(status_body())

Say = Callable[..., str]


def board(name: str, **more: Any) -> Device:
    return Device(id=f"id-{name}", name=name, address=f"{name}.lan", **more)


def reading(device: Device, body: bytes | None = None, **more: Any) -> Reading:
    return Reading(
        at=NOW,
        poll_s=0.02,
        interval_s=10.0,
        collector="here",
        status=msgspec.Raw(body or status_body(device.id)),
        **more,
    )


# --- counting -------------------------------------------------------------------------------------


def test_every_series_is_counted_once() -> None:
    """The sum over metrics is the number of different (metric, all tags) of the whole fleet."""
    fleet = [
        Member(board("porch", report_pins=(2,), dht22={"air": 4}, tags=("room:a",)), (), STATUS),
        Member(board("attic", adc={36: Adc()}, tags=("room:a", "room:b", "old")), (LAMP,), STATUS),
        Member(board("shed"), (), None),
    ]
    counted = count(fleet, NOW)
    everything = {
        (metric, *own, *tags_of(device))
        for device, jobs, status, _ in fleet
        for metric, own in series_of(device, jobs, NOW, status)
    }
    assert counted.series == len(everything) == 14
    assert counted.of("datadog") == counted.of("dogstatsd") == counted.of("file") == 14
    assert counted.metrics["esp32.gpio"] == 2
    assert counted.tags == {
        "id": (3, 14),
        "name": (3, 14),
        "old": (1, 5),
        "pin": (3, 3),
        "room": (2, 11),
        "sensor": (1, 2),
    }


def test_many_boards_like_one_count_as_if_they_were_there() -> None:
    """Each has a name and an id of its own, and the same pins and sensors."""
    porch = board("porch", report_pins=(2,), dht22={"air": 4})
    jobs: tuple[Job, ...] = (LAMP,)
    planned = count([Member(porch, jobs, STATUS), Member(porch, jobs, STATUS, 9)], NOW)
    real = count(
        [
            Member(msgspec.structs.replace(porch, name=f"p{i}", id=f"i{i}"), jobs, STATUS)
            for i in range(10)
        ],
        NOW,
    )
    assert planned == real


def test_the_page_for_prometheus_is_counted_as_it_is_written() -> None:
    """As many series of devices as `espnet.sinks.prometheus` puts on it."""
    now = NOW
    body = status_body("b", uptime_s=5.0, mem_free=9_000, idf_free=60_000, idf_largest=30_000)
    jobs: tuple[Job, ...] = (
        LAMP,
        msgspec.structs.replace(LAMP, name="off", enabled=False),
        Override(pin=2, level=1, since=NOW, until=NOW + 60),
        Override(pin=9, level=1, since=NOW, until=NOW),
    )
    devices = [
        (board("a"), (), status_body("a")),
        (board("b", report_pins=(2,), dht22={"air": 4}, adc={36: Adc(), 39: Adc()}), jobs, body),
        (board("c", tags=("room:x",)), (), status_body("c", f=None)),
    ]
    views, states = [], {}
    for device, own, raw in devices:
        climates = dict.fromkeys(device.dht22, Climate(20.0, 40.0))
        adc = dict.fromkeys(device.adc, 1.0)
        views.append(View(device, reading(device, raw, dht22=climates, adc=adc), None))
        states[device.id] = [
            JobState(f"j{i}", "timer", job.pin, 0, True)
            for i, job in enumerate(own)
            if (now < job.until if isinstance(job, Override) else job.enabled)
        ]
    page = families(Fleet(now, views, states))
    written = sum("device" in sample.labels for family in page for sample in family.samples)
    counted = sum(shown_of(d, own, now, decode_status(raw)) for d, own, raw in devices)
    assert counted == written


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    """porch: pin 2, a DHT22, a lamp on pin 4. attic: nothing but itself."""
    with closing(Store(redis_url)) as made:
        for device in (
            board("porch", report_pins=(2,), dht22={"air": 4}, tags=("room:out",)),
            board("attic", adc={36: Adc()}),
        ):
            made.add(device, reading(device), first_due=NOW)
        made.change_jobs("porch", lambda _, __: (LAMP,), now=NOW)
        yield made


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def run(line: str, code: int = 0) -> str:
        capsys.readouterr()
        assert main(line.split()) == code, capsys.readouterr()
        captured = capsys.readouterr()
        return captured.err if code == 2 else captured.out

    return run


def datadog(say: Say, line: str, code: int = 0) -> dict[str, Any]:
    return json.loads(say(f"cardinality --json {line}", code))["sinks"]["datadog"]


def test_the_present_fleet(store: Store, say: Say) -> None:
    """What each sink gets, by metric and by tag; nothing of a future that nobody asked for."""
    data = json.loads(say("cardinality --json"))
    assert data["devices"] == {"now": 2}
    assert data["sinks"] == {"datadog": {"series": 11, "billed": True}}
    assert data["metrics"] == [
        {"metric": metric, "series": series}
        for metric, series in (
            ("esp32.up", 2),
            ("esp32.poll_seconds", 2),
            ("esp32.f", 2),
            ("esp32.adc", 1),
            ("esp32.gpio", 2),
            ("esp32.dht22.temp", 1),
            ("esp32.dht22.humidity", 1),
        )
    ]
    assert {"tag": "room", "values": 1, "series": 7} in data["tags"]
    assert (data["max_metrics"], data["is_over"]) == (None, False)
    assert "change" not in say("cardinality")


@pytest.mark.parametrize(
    ("words", "change", "note"),
    [
        ("--add gpio:attic:2", 1, ""),
        ("--add gpio:attic:2,gpio:attic:4", 2, ""),
        ("--add gpio:attic:2,gpio:attic:2", 1, "attic samples pin 2 already."),
        ("--add gpio:porch:2", 0, "porch samples pin 2 already."),
        ("--add gpio:porch:4", 0, "porch samples pin 4 already."),
        ("--remove gpio:porch:2", -1, ""),
        ("--remove gpio:porch:4", 0, "sampled all the same: a job governs it."),
        ("--remove gpio:porch:2 --add gpio:porch:2", 0, ""),
        ("--add dht22:porch:soil", 2, ""),
        ("--add dht22:porch:air", 0, "porch has the DHT22 air already."),
        ("--add dht22:porch:a:b", 2, ""),
        ("--remove dht22:porch:air", -2, ""),
        ("--remove adc:attic:36", -1, ""),
        ("--add adc:attic:36", 0, "attic reads the ADC of pin 36 already."),
        ("--add boards:attic:10", 40, ""),
        ("--add gpio:attic:2,boards:attic:10", 51, ""),
        ("--add boards:attic:1000000", 4_000_000, ""),
        ("--remove device:porch", -7, ""),
        ("--remove device:porch,device:attic", -11, ""),
        ("--add tag:porch:room:attic", 0, "makes no more series"),
        ("--remove tag:porch:room:out", 0, "makes no more series"),
        ("--add tag:porch:room:out", 0, "porch has the tag room:out already."),
    ],
)
def test_what_a_change_would_cost(
    store: Store, say: Say, words: str, change: int, note: str
) -> None:
    """Before, after and the difference; a change that costs nothing says why. Nothing is changed."""
    before = [encode(device) for device in store.devices()]
    data = json.loads(say(f"cardinality --json {words}"))
    sink = data["sinks"]["datadog"]
    assert (sink["series"], sink["after"], sink["change"]) == (11, 11 + change, change)
    assert sum(row["change"] for row in data["metrics"]) == change
    assert note in " ".join(data["notes"])
    assert [encode(device) for device in store.devices()] == before
    assert str(sink["after"]) in say(f"cardinality {words}")


def test_a_pin_that_the_board_does_not_report_costs_nothing_yet_and_is_refused(
    store: Store, say: Say
) -> None:
    """As it is where the pin is really added."""
    assert "attic has no pin 9; it reports 2, 4." in say("cardinality --add gpio:attic:9", 2)


def test_names_may_hold_colons(store: Store, say: Say) -> None:
    """The longest name that fits is meant."""
    store.add(board("porch:2"), reading(board("porch:2")), first_due=NOW)
    assert datadog(say, "--add gpio:porch:2:4")["change"] == 1
    assert datadog(say, "--remove device:porch:2")["change"] == -3


def test_devices_that_are_gone_do_not_count(store: Store, say: Say, redis_url: str) -> None:
    """What a device left behind is no device."""
    with redis.Redis.from_url(redis_url) as raw:
        raw.hdel("espnet:devices", "id-porch")
    assert datadog(say, "")["series"] == 4


def test_each_sink_is_counted_for_itself(
    store: Store, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prometheus has a page of its own; what costs nothing says so; one's own sink may cost something."""
    monkeypatch.setenv("ESPNET_SINKS", "datadog,dogstatsd,prometheus,file,console,mine:Sink")
    sinks = json.loads(say("cardinality --json"))["sinks"]
    assert {name: row["billed"] for name, row in sinks.items()} == {
        "datadog": True,
        "dogstatsd": True,
        "prometheus": False,
        "file": False,
        "console": False,
        "mine:Sink": True,
    }
    assert {row["series"] for name, row in sinks.items() if name != "prometheus"} == {11}
    assert sinks["prometheus"]["series"] == 15
    page = say("cardinality")
    assert "no: it shows them" in page
    assert "yes, as custom metrics" in page


def test_no_sink_is_nothing_billed(store: Store, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none is wanted nothing is; where nobody said anything, it is what Datadog would bill."""
    assert "what Datadog would bill" in say("cardinality")
    monkeypatch.setenv("ESPNET_SINKS", "none")
    assert json.loads(say("cardinality --json"))["sinks"] == {}
    assert "nothing billed" in say("cardinality")


def test_an_empty_fleet_costs_nothing(say: Say) -> None:
    """It says how to begin."""
    assert datadog(say, "") == {"series": 0, "billed": True}
    assert "No devices are registered yet" in say("cardinality")


@pytest.mark.parametrize(
    ("most", "words", "code", "says"),
    [
        ("11", "", 0, ""),
        ("10", "", 1, "datadog: 11 series are more than ESPNET_MAX_METRICS (10)."),
        ("11", "--add gpio:attic:2", 1, "datadog: 12 series would be more than"),
        ("10", "--remove device:porch", 1, "will not start without --anyway"),
        ("12", "--add gpio:attic:2", 0, ""),
    ],
)
def test_more_than_allowed_is_exit_code_1(
    store: Store,
    say: Say,
    monkeypatch: pytest.MonkeyPatch,
    most: str,
    words: str,
    code: int,
    says: str,
) -> None:
    """Now or after the change, with a line that says which."""
    monkeypatch.setenv("ESPNET_MAX_METRICS", most)
    page = say(f"cardinality {words}", code)
    assert says in page
    assert ("ESPNET_MAX_METRICS" in page) == bool(code)
    assert json.loads(say(f"cardinality --json {words}", code))["is_over"] == bool(code)


def test_what_costs_nothing_has_no_limit(
    store: Store, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file may hold as many series as there are."""
    monkeypatch.setenv("ESPNET_MAX_METRICS", "1")
    monkeypatch.setenv("ESPNET_SINKS", "file,prometheus")
    say("cardinality")


def test_run_does_not_start_above_the_limit(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence, exit code 1, and nothing was polled."""
    monkeypatch.setenv("ESPNET_MAX_METRICS", "10")
    monkeypatch.setenv("DATADOG_API_KEY", "k3y")
    assert main(["run"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "11 custom metrics, more than ESPNET_MAX_METRICS (10)" in captured.err
    assert "--anyway" in captured.err
    assert not store.collectors(time.time(), 60)


@pytest.mark.parametrize(
    ("most", "sinks", "words"),
    [("10", "file", []), ("11", "datadog", []), ("10", "datadog", ["--anyway"])],
)
def test_run_starts_within_the_limit_without_a_bill_or_anyway(
    store: Store, monkeypatch: pytest.MonkeyPatch, most: str, sinks: str, words: list[str]
) -> None:
    """The collector begins, and ends in order when it is told to."""
    monkeypatch.setenv("ESPNET_MAX_METRICS", most)
    monkeypatch.setenv("ESPNET_SINKS", sinks)
    monkeypatch.setenv("DATADOG_API_KEY", "k3y")
    monkeypatch.setenv("DATADOG_HOST", "http://127.0.0.1:1")
    command = [sys.executable, "-m", "espnet.cli", "run", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "collector.started" in process.stderr.readline()
        finally:
            process.terminate()
            process.communicate(timeout=30)
    assert process.returncode == 0


WRONG = (
    "--add gpio:porch",
    "--add gpio:porch:",
    "--add gpio:porch:99",
    "--add gpio:porch:two",
    "--add gpio:porch:2:3",
    "--add gpio",
    "--add gpoi:porch:2",
    "--add device:porch",
    "--add boards:porch:0",
    "--add boards:porch:1e3",
    "--add boards:porch:1000001",
    "--add boards:",
    "--add adc:porch:2",
    "--add adc:porch:35",
    "--add tag:porch:1:2",
    "--add tag:porch",
    "--add dht22:porch",
    "--add",
    "--add= --remove=",
    "--add gpio:porch:2 --add gpio:porch:4",
    "--remove boards:porch:1",
    "--remove gpio:porch:9",
    "--remove adc:porch:36",
    "--remove dht22:porch:soil",
    "--remove tag:porch:room:in",
    "--remove device:porch:now",
    "--remove device",
    "gpio:porch:2",
    "--by tag",
    "--add ,",
)


def test_a_device_that_is_not_there_is_named(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, as everywhere."""
    for words in ("--add gpio:porsch:2", "--add boards:10", "--remove device:porch2"):
        assert main(["cardinality", *words.split()]) == 1
        assert "No device is named" in capsys.readouterr().err


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words_are_a_usage_error(store: Store, say: Say, words: str) -> None:
    """One sentence that says what is wrong."""
    sentence = say(f"cardinality {words}", 2)
    assert sentence.startswith("espcli: ")
    assert sentence.count("\n") == 1


def test_ten_thousand_devices_take_less_than_a_second() -> None:
    """`run` counts them before it starts."""
    gpio = {str(pin): 0 for pin in range(34)}
    status = decode_status(status_body("x", gpio=gpio))
    fleet = [
        Member(board(f"b{i}", report_pins=(2, 4), dht22={"air": 4}), (LAMP,), status)
        for i in range(10_000)
    ]
    began = time.process_time()
    assert count(fleet, NOW).series == 70_000
    assert time.process_time() - began < 1.0
