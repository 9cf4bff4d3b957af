"""Prometheus' page, over real sockets, by `promtool` and by a real Prometheus."""

import gzip
import json
import math
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from espnet import __version__
from espnet.clock import ManualClock
from espnet.errors import SinkError, StoreUnavailable
from espnet.model import Climate, Device, Fault, Pace, Reading, View
from espnet.samples import Books
from espnet.sinks.prometheus import (
    CLIENT_S,
    MOST_CLIENTS,
    WAIT_S,
    CollectorState,
    Exposition,
    Fleet,
    JobState,
    SinkState,
    StreamState,
)

NOW = 1_750_000_000.0
SLOWED = Pace(2, "free heap 5.1 kB", NOW - 60, NOW - 60)
PORCH = {"device": "porch", "id": "a0"}
Page = dict[tuple[str, frozenset[tuple[str, str]]], float]


def view(
    name: str = "porch",
    id: str = "a0",
    *,
    age_s: float = 1.0,
    tags: tuple[str, ...] = ("room:attic",),
    is_failing: bool = False,
    pace: Pace | None = None,
    **status: Any,
) -> View:
    """A device with four pins, a DHT22 and a light sensor, polled every 10 s."""
    answer = {"id": id, "f": 100.4, "gpio": {"2": 0, "4": 1, "5": 0, "18": 1}}
    answer |= {"uptime_s": 3600.5, "mem_free": 123_456, "version": "1.0"}
    answer |= {"idf_free": 61_000, "idf_largest": 31_000} | status
    reading = Reading(
        at=NOW - age_s,
        poll_s=0.08,
        interval_s=10,
        collector="c",
        status=msgspec.Raw(json.dumps(answer).encode()),
        dht22={"air": Climate(21.5, 45.0)},
        adc={34: 2047.5},
        wrote={2: 1},
        pace=pace,
    )
    fault = Fault(kind="timeout", what="is slow", failures=1, since=NOW, at=NOW)
    device = Device(id=id, name=name, address="10.0.0.7", tags=tags)
    return View(device, reading, fault if is_failing else None)


def whole_fleet(*views: View) -> Fleet:
    """Something of everything that a page can show."""
    return Fleet(
        NOW,
        views or (view(pace=SLOWED),),
        {"a0": (JobState("lamp", "timer", 2, 1, True), JobState("heat", "threshold", 2, 0, False))},
        (CollectorState("c", 2.5),),
        (
            SinkState("datadog", "ok", Books(100, 80, 1, 2, 3, 14, 5), NOW - 9),
            SinkState("file", "new"),
        ),
        StreamState(7, 70, 7000, 4),
    )


def get(exposition: Exposition, path: str = "/metrics", **headers: str) -> tuple[int, str]:
    port = urllib.parse.urlsplit(exposition.url).port
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        return answer.status, body.decode()
    finally:
        connection.close()


def page_of(text: str) -> Page:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(fleet: Fleet) -> Page:
    with Exposition(lambda: fleet, "0") as exposition:
        status, text = get(exposition)
    assert status == 200
    return page_of(text)


def value(page: Page, name: str, /, **labels: str) -> float:
    return page[f"espnet_{name}", frozenset(labels.items())]


def about(page: Page, id: str) -> set[str]:
    """The names of all metrics that a device has on the page."""
    return {name for name, labels in page if ("id", id) in labels}


def eventually(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


# --- what is on the page ------------------------------------------------------------------------


def test_a_device_shows_its_reading_in_base_units() -> None:
    """Celsius, seconds, bytes and ratios; a pin's level is the one that the poll left behind."""
    page = scrape(whole_fleet())
    assert value(page, "up", **PORCH) == 1
    assert value(page, "board_temperature_celsius", **PORCH) == pytest.approx(38)
    assert value(page, "board_uptime_seconds", **PORCH) == 3600.5
    assert value(page, "board_free_memory_bytes", **PORCH) == 123_456
    assert value(page, "board_idf_free_bytes", **PORCH) == 61_000
    assert value(page, "board_idf_largest_bytes", **PORCH) == 31_000
    levels = {pin: value(page, "pin_level", **PORCH, pin=pin) for pin in ("2", "4", "5", "18")}
    assert levels == {"2": 1, "4": 1, "5": 0, "18": 1}
    assert value(page, "dht22_temperature_celsius", **PORCH, sensor="air") == 21.5
    assert value(page, "dht22_humidity_ratio", **PORCH, sensor="air") == 0.45
    assert value(page, "adc_raw", **PORCH, pin="34") == 2047.5


def test_jobs_sinks_collectors_and_stream_are_shown() -> None:
    """What a job wants and whether it decides; each sink's books by fate; who polls; what waits."""
    page = scrape(whole_fleet())
    lamp = PORCH | {"job_name": "lamp", "kind": "timer", "pin": "2"}
    heat = PORCH | {"job_name": "heat", "kind": "threshold", "pin": "2"}
    assert [value(page, "job_wanted_level", **job) for job in (lamp, heat)] == [1, 0]
    assert [value(page, "job_wins", **job) for job in (lamp, heat)] == [1, 0]
    assert value(page, "collector_seen_timestamp_seconds", collector="c") == NOW - 2.5
    datadog = {"sink": "datadog"}
    assert value(page, "sink_state", **datadog, state="ok") == 1
    assert value(page, "sink_ok_timestamp_seconds", **datadog) == NOW - 9
    settled = sum(
        value(page, "sink_settled_samples_total", **datadog, fate=fate)
        for fate in ("accepted", "expired", "dead", "dropped")
    )
    queued = value(page, "sink_queued_samples", **datadog)
    assert settled + queued == value(page, "sink_collected_samples_total", **datadog) == 100
    assert value(page, "sink_repeated_samples_total", **datadog) == 5
    assert ("espnet_sink_ok_timestamp_seconds", frozenset({("sink", "file")})) not in page
    stream = [value(page, f"stream_{what}") for what in ("entries", "samples", "bytes")]
    assert [*stream, value(page, "refused_samples_total")] == [7, 70, 7000, 4]
    assert value(page, "build_info", version=__version__) == 1


@pytest.mark.parametrize("age_s", [30.1, 3600, 1e9])
def test_an_old_reading_is_not_shown(age_s: float) -> None:
    """Beyond three intervals a device is down and has no values, no jobs either."""
    page = scrape(whole_fleet(view(age_s=age_s)))
    assert about(page, "a0") == {"espnet_up", "espnet_device_info"}
    assert value(page, "up", **PORCH) == 0


def test_only_a_board_that_is_slowed_says_so() -> None:
    """While its reading is fresh; a board that is polled as asked, or still watched, has no such line."""
    name = "espnet_poll_slowdown_ratio"
    assert value(scrape(whole_fleet()), "poll_slowdown_ratio", **PORCH) == 2
    for other in (view(), view(pace=Pace(1, "", NOW)), view(pace=SLOWED, age_s=31)):
        assert name not in about(scrape(whole_fleet(other)), "a0")


def test_a_device_that_fails_is_down_while_its_reading_is_fresh() -> None:
    """The latest poll failed: down at once, and the values stay for three intervals."""
    page = scrape(whole_fleet(view(is_failing=True)))
    assert value(page, "up", **PORCH) == 0
    assert value(page, "dht22_temperature_celsius", **PORCH, sensor="air") == 21.5


def test_a_device_that_was_never_polled_is_down() -> None:
    """Registered is not up."""
    page = scrape(Fleet(NOW, [View(view().device, None, None)]))
    assert about(page, "a0") == {"espnet_up", "espnet_device_info"}
    assert value(page, "up", **PORCH) == 0


def test_a_removed_device_is_gone_at_the_next_scrape() -> None:
    """Nothing of it is remembered here."""
    views = [view(), view("cellar", "b1")]
    with Exposition(lambda: whole_fleet(*views), "0") as exposition:
        assert about(page_of(get(exposition)[1]), "b1")
        del views[1]
        assert not about(page_of(get(exposition)[1]), "b1")


def test_what_a_board_does_not_know_is_not_shown() -> None:
    """A board of 2021 has no uptime and no memory, a chip without a sensor no temperature: no zeros."""
    gone = dict.fromkeys(("uptime_s", "mem_free", "idf_free", "idf_largest", "version"))
    old = view(f=None, **gone)
    names = about(scrape(Fleet(NOW, [old])), "a0")
    assert not {name for name in names if name.startswith("espnet_board_")}
    assert "espnet_pin_level" in names


def test_tags_are_said_once() -> None:
    """Each tag is a label of ``espnet_device_info`` and of nothing else, with a name that can be one."""
    tags = ("room:attic", "room:2", "spare", "a-b:1", "a.b:2", "höhe:3")
    page = scrape(whole_fleet(view(tags=tags)))
    labels = {"address": "10.0.0.7", "version": "1.0", "tag_room": "2,attic", "tag_spare": "true"}
    assert value(page, "device_info", **PORCH, **labels, tag_a_b="1,2", tag_h_he="3") == 1
    assert not [name for name, found in page if any(key == "tag_room" for key, _ in found)][1:]


@pytest.mark.parametrize("name", ['"', "\\", "\\n", 'a"} 1\nx 2', "µ–日本", "{}", "\u2028"])
def test_names_are_escaped(name: str) -> None:
    """Whatever a device is called, it is one label's value, and the page has as many lines as ever."""
    page = scrape(Fleet(NOW, [view(name)]))
    assert value(page, "up", device=name, id="a0") == 1
    assert len(page) == len(scrape(Fleet(NOW, [view()])))


def test_polls_are_counted_by_duration() -> None:
    """Every observation of every thread is in the histogram, once."""
    with Exposition(lambda: Fleet(NOW, ()), "0") as exposition:

        def observe() -> None:
            for _ in range(5_000):
                exposition.observe(0.08)
                exposition.observe(99.0)

        threads = [threading.Thread(target=observe) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        page = page_of(get(exposition)[1])
    bucket = "poll_duration_seconds_bucket"
    assert [value(page, bucket, le=le) for le in ("0.05", "0.1", "10.0")] == [0, 20_000, 20_000]
    assert value(page, bucket, le="+Inf") == 40_000
    assert value(page, "poll_duration_seconds_count") == 40_000
    total = value(page, "poll_duration_seconds_sum")
    assert math.isclose(total, 20_000 * 99.08, rel_tol=1e-9)


def test_the_process_is_on_the_page_and_nothing_else_is() -> None:
    """This process' processor time and memory by their usual names; no metric of any other library."""
    names = {name for name, _ in scrape(whole_fleet())}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes"} <= names
    assert all(name.startswith(("espnet_", "process_")) for name in names)
    assert not [name for name in names if name.endswith("_created")]


def test_the_documentation_lists_every_metric() -> None:
    """The table in docs/sinks.md is the page: each name with its type, and no other name."""
    with Exposition(whole_fleet, "0") as exposition:
        text = get(exposition)[1]
    exposed = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    page = (Path(__file__).parent.parent / "docs" / "sinks.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| (gauge|counter|histogram) \|", page, re.MULTILINE))
    ours = {name: kind for name, kind in exposed.items() if name.startswith("espnet_")}
    assert listed == ours
    for name, labels in re.findall(r"^\| `(\w+)` \| \w+ \| ([^|]*) \|", page, re.MULTILINE):
        found = re.search(rf"^{name}(?:_bucket)?(?:{{(.*?)}})? ", text, re.MULTILINE)
        assert found, name
        if name != "espnet_device_info":
            assert set(re.findall(r'(\w+)="', found[1] or "")) == set(re.findall(r"\w+", labels))


# --- the server ---------------------------------------------------------------------------------


def test_without_the_store_the_scrape_fails() -> None:
    """No page is better than an old one or half of one: 503 with the reason; then it works again."""
    problems = [StoreUnavailable("Redis at unix:///x cannot be reached; start it.")]

    def look() -> Fleet:
        if problems:
            raise problems[0]
        return whole_fleet()

    with Exposition(look, "0") as exposition:
        assert get(exposition) == (503, "Redis at unix:///x cannot be reached; start it.\n")
        problems.clear()
        assert get(exposition)[0] == 200


def test_only_the_page_is_served() -> None:
    """Another path is 404, another method 501, and neither looks at the fleet."""

    def look() -> Fleet:
        raise AssertionError("nobody asked for the page")

    with Exposition(look, "0") as exposition:
        assert get(exposition, "/")[0] == 404
        assert get(exposition, "/metrics/x")[0] == 404
        with connected(exposition) as client:
            client.sendall(b"POST /metrics HTTP/1.1\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.0 501")


def test_a_page_is_compressed_for_who_asks() -> None:
    """Both ways it is the same page."""
    with Exposition(whole_fleet, "0") as exposition:
        plain = page_of(get(exposition)[1])
        for header in ("gzip", "deflate, gzip;q=0.5", "gzip;q=0", "identity"):
            status, text = get(exposition, **{"Accept-Encoding": header})
            assert status == 200
            assert page_of(text).keys() == plain.keys()


def test_it_listens_on_loopback_unless_told_otherwise() -> None:
    """A port alone is one of this machine's own; IPv6 is written in brackets."""
    for address in ("0", ":0", "127.0.0.1:0", "localhost:0"):
        with Exposition(whole_fleet, address) as exposition:
            assert re.fullmatch(r"http://(127.0.0.1|localhost):[1-9]\d*/metrics", exposition.url)
            assert get(exposition)[0] == 200
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        with Exposition(whole_fleet, "[::1]:0") as exposition:
            assert exposition.url.startswith("http://[::1]:")


@pytest.mark.parametrize("address", ["", "x", "127.0.0.1", "h:", "h:65536", "h:-1", "::1:9", "h:٣"])
def test_what_is_no_address_is_said(address: str) -> None:
    """One sentence with an example, before anything is bound."""
    with pytest.raises(SinkError, match=r"must be HOST:PORT, such as 127\.0\.0\.1:9469\.$"):
        Exposition(whole_fleet, address)


def test_an_address_that_cannot_be_had_is_said() -> None:
    """A taken port, another machine's address, a name that leads nowhere (RFC 6761)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for address in (f"127.0.0.1:{port}", "192.0.2.1:0", "x.invalid:0", f"{'x' * 64}.y:0"):
            exposition = Exposition(whole_fleet, address)
            with pytest.raises(SinkError, match="cannot be served at") as caught:
                exposition.start()
            assert address in str(caught.value)
            assert str(caught.value).endswith("name another address with --prometheus HOST:PORT.")
            exposition.stop()


def connected(exposition: Exposition) -> socket.socket:
    port = urllib.parse.urlsplit(exposition.url).port
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def mine() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread is not threading.main_thread()]


def test_stopping_leaves_nothing_behind() -> None:
    """Threads, socket and port are free, with silent clients as well; then it can be started again."""
    before = mine()
    exposition = Exposition(whole_fleet, "0")
    exposition.stop()
    exposition.start()
    port = urllib.parse.urlsplit(exposition.url).port
    with connected(exposition) as silent, connected(exposition) as half:
        half.sendall(b"GET /met")
        assert get(exposition)[0] == 200
        began = time.monotonic()
        exposition.stop()
        exposition.stop()
        assert time.monotonic() - began < 3
        assert silent.recv(10) == half.recv(10) == b""
    assert mine() == before
    with socket.create_server(("127.0.0.1", port or 0)):
        pass
    with exposition:
        assert get(exposition)[0] == 200
    assert mine() == before


def test_connections_are_bounded() -> None:
    """One too many is closed at once; whoever leaves makes room."""
    with Exposition(whole_fleet, "0") as exposition:
        silent = [connected(exposition) for _ in range(MOST_CLIENTS)]
        began = time.monotonic()
        with connected(exposition) as one_more:
            assert one_more.recv(10) == b""
        assert time.monotonic() - began < WAIT_S - 1
        for client in silent:
            client.close()
        eventually(lambda: answers(exposition))


def answers(exposition: Exposition) -> bool:
    try:
        return get(exposition)[0] == 200
    except (OSError, EOFError):
        return False


def test_a_client_that_drips_is_hung_up_on() -> None:
    """However it keeps its connection alive, it has it for a bounded time."""
    clock = ManualClock()
    with Exposition(whole_fleet, "0", clock=clock) as exposition, connected(exposition) as slow:
        slow.sendall(b"GET /")
        assert get(exposition)[0] == 200
        began = time.monotonic()
        clock.advance(CLIENT_S + 1)
        assert slow.recv(10) == b""
        assert time.monotonic() - began < WAIT_S - 1


def test_a_client_that_leaves_is_nobodys_concern(capsys: pytest.CaptureFixture[str]) -> None:
    """Gone before its page was written: no traceback, and the next one is served."""
    gone = threading.Event()

    def look() -> Fleet:
        gone.wait(10)
        return whole_fleet(*[view(id=f"{n:x}") for n in range(500)])

    with Exposition(look, "0") as exposition:
        with connected(exposition) as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        gone.set()
        assert get(exposition)[0] == 200
    assert capsys.readouterr().err == ""


# --- Prometheus itself --------------------------------------------------------------------------


def tool(name: str) -> str:
    found = shutil.which(name)
    if not found:
        assert not os.environ.get("CI"), f"{name} is missing: apt-get install prometheus"
        pytest.skip(f"{name} is not installed")
    return found


def test_promtool_has_nothing_to_complain_of() -> None:
    """Names, units, types and help keep to Prometheus' conventions: not a word, exit code 0."""
    with Exposition(whole_fleet, "0") as exposition:
        exposition.observe(0.08)
        text = get(exposition)[1]
    command = [tool("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_documented_rules_and_settings_are_valid(tmp_path: Path) -> None:
    """What docs/sinks.md gives Prometheus to read, it reads."""
    page = (Path(__file__).parent.parent / "docs" / "sinks.md").read_text(encoding="utf-8")
    settings, rules = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    for kind, text in (("config", settings), ("rules", rules)):
        (tmp_path / kind).write_text(text)
        command = [tool("promtool"), "check", kind, str(tmp_path / kind)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stdout + done.stderr


class Prometheus:
    """A real server that scrapes one page five times a second."""

    def __init__(self, folder: Path, target: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        config = {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
            "scrape_configs": [{"job_name": "espnet", "static_configs": [{"targets": [target]}]}],
        }
        # JSON is YAML.
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self._log = folder / "prometheus.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    tool("prometheus"),
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log,
                stderr=log,
            )

    def query(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """The series of an instant query, with their values; none while the server is not ready."""
        assert self._process.poll() is None, self._log.read_text()
        connection = HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/api/v1/query?" + urllib.parse.urlencode({"query": promql}))
            answer = connection.getresponse()
            body = answer.read()
        except ConnectionRefusedError:
            return []
        finally:
            connection.close()
        if answer.status != 200:
            return []
        found = json.loads(body)["data"]["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise


@pytest.fixture
def start_prometheus(short_path: Path) -> Iterator[Callable[[str], Prometheus]]:
    running = []

    def start(target: str) -> Prometheus:
        running.append(Prometheus(short_path, target))
        return running[-1]

    yield start
    for server in running:
        server.stop()


def test_prometheus_has_what_was_exposed(start_prometheus: Callable[[str], Prometheus]) -> None:
    """A real server: the target is up, every value is the page's, and labels have our names. A device that
    grows old is gone from it but for ``up``; without the store the target is down."""
    name = 'porch "µ"\\'
    views = [view(name)]
    is_away = threading.Event()

    def look() -> Fleet:
        if is_away.is_set():
            raise StoreUnavailable("Redis is away.")
        return whole_fleet(*views)

    with Exposition(look, "0") as exposition:
        exposition.observe(0.08)
        prometheus = start_prometheus(urllib.parse.urlsplit(exposition.url).netloc)

        def stored() -> dict[object, float]:
            found: dict[object, float] = {}
            for labels, number in prometheus.query('{__name__=~"espnet_.*"}'):
                own = labels.items() - {("job", "espnet"), ("instance", labels["instance"])}
                own -= {("__name__", labels["__name__"])}
                found[labels["__name__"], frozenset(own)] = number
            return found

        page = page_of(get(exposition)[1])
        ours = {key: v for key, v in page.items() if key[0].startswith("espnet_")}
        # One scrape that a busy machine makes late, and the target is down and has no series until
        # the next: what belongs together is asked for together.
        eventually(
            lambda: [v for _, v in prometheus.query('up{job="espnet"}')] == [1] and stored() == ours
        )
        assert (name, 21.5) in [
            (dict(labels)["device"], number)
            for (metric, labels), number in ours.items()
            if metric == "espnet_dht22_temperature_celsius"
        ]
        views[:] = [view(name, age_s=3600)]
        both = '{__name__=~"espnet_up|espnet_dht22_temperature_celsius"}'
        eventually(
            lambda: (
                [(labels["__name__"], v) for labels, v in prometheus.query(both)]
                == [("espnet_up", 0)]
            )
        )
        is_away.set()
        eventually(lambda: [v for _, v in prometheus.query("up")] == [0])
        assert prometheus.query("espnet_up") == []
