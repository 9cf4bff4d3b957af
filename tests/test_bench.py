"""The bench measures what it says: boards count, peers poll, and who is not there is skipped with a line."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from bench import collectors, debian, growth, picture, rounds, soak, stage, table
from bench.boards import PINS, board_id
from bench.growth import Growth, Place, Watcher
from bench.peers import Unfit, everybody
from bench.peers.espnet import HEADLINE
from bench.peers.espnet2021 import EspNet2021
from bench.peers.naive import Naive
from bench.processes import Tree, running
from bench.rounds import Result
from bench.stage import Boards, Figures

DEADLINE_S = 20.0


class Ready:
    """A peer that is there, and always does as much."""

    name, title, boards, does, uses_redis = "ready", "Ready", (), "nothing", True

    def available(self) -> str | None:
        return None

    def version(self) -> str:
        return "1"

    def run(self, crowd: Boards, redis_url: str, seconds: float) -> Figures:
        return Figures(
            boards=len(crowd.ports),
            polls=1_000,
            wall_s=seconds,
            cpu_s=0.5,
            boards_cpu_s=0.1,
            rss_kb=1_024,
            redis_cpu_s=0.01,
            redis_reads=20,
            redis_commands=2_000,
            redis_bytes=500_000,
        )


class Absent(Ready):
    name, title = "absent", "Absent"

    def available(self) -> str | None:
        return "nobody has it"


class Broken(Ready):
    name, title = "broken", "Broken"

    def run(self, crowd: Boards, redis_url: str, seconds: float) -> Figures:
        raise Unfit("it wrote nothing")


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    return rounds.measure([Ready(), Absent(), Broken()], 2, 0.01, lambda _: None)


def test_every_result_has_the_same_keys(results: dict[str, Result]) -> None:
    """Whoever reads results.json finds each system under its name, with the same keys, skipped or not."""
    told = json.loads(msgspec.json.encode(results))
    assert list(told) == ["ready", "absent", "broken"]
    assert len({tuple(system) for system in told.values()}) == 1
    assert told["ready"]["polls_per_cpu_s"] == 2_000
    assert told["ready"]["polls_per_cpu_s_each_round"] == [2_000, 2_000]
    assert told["ready"]["redis_commands_per_poll"] == 2
    assert told["absent"]["polls_per_cpu_s"] is None


def test_who_is_missing_or_does_not_do_the_work_is_skipped_with_a_line() -> None:
    """The others are measured all the same, and the line says why."""
    said: list[str] = []
    found = rounds.measure([Absent(), Broken(), Ready()], 1, 0.01, said.append)
    assert said[0] == "Absent is skipped: nobody has it."
    assert "Broken is skipped: it wrote nothing." in said
    assert found["absent"].skipped == "nobody has it"
    assert found["broken"].skipped == "it wrote nothing"
    assert found["ready"].skipped is None


def result(name: str, polls_per_cpu_s: float, **more: object) -> Result:
    known = {
        "title": name.title(),
        "does": f"what {name} does",
        "measured_on": "a machine",
        "boards": 100,
        "rounds": 5,
        "polls_per_cpu_s": polls_per_cpu_s,
        "polls_per_cpu_s_each_round": [polls_per_cpu_s],
    }
    return Result(name=name, **{**known, **more})  # type: ignore[arg-type]


def test_the_table_says_how_many_times_as_much_and_whether_that_is_enough() -> None:
    """A ratio that is not reached says no; who was skipped has a line and no row."""
    text = table.markdown(
        {
            HEADLINE: result(HEADLINE, 30_000, redis_round_trips_per_poll=0.02),
            "prometheus": result("prometheus", 10_000),
            "collectd": result("collectd", 1_000),
            "old": result("old", 240, title="The 2021 design"),
            "naive": Result(name="naive", title="Naive", does="x", measured_on="", skipped="why"),
        }
    )
    assert "| Prometheus | 10,000 | 3 × |" in text
    assert "| The 2021 design | 240 | 125 × |" in text
    assert "| times Prometheus | ≥ 3.5 | 3.0 | **no** |" in text
    assert "| times Collectd | ≥ 8 | 30.0 | yes |" in text
    assert "| Redis round trips a poll | ≤ 0.05 | 0.02 | yes |" in text
    assert "- Naive was skipped: why." in text
    assert "| Naive |" not in text
    assert "what collectd does" in text


def test_only_what_is_between_the_markers_is_replaced(
    results: dict[str, Result], tmp_path: Path
) -> None:
    """The page around the table is people's."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    table.write("bench", table.markdown(results), page)
    text = page.read_text()
    assert text.startswith("before\n<!-- bench -->\n")
    assert text.endswith("<!-- /bench -->\nafter\n")
    assert "old" not in text
    assert table.markdown(results) in text
    page.write_text("no markers\n")
    with pytest.raises(ValueError, match="has no lines"):
        table.write("bench", "", page)


def test_the_pages_table_is_where_the_bench_writes_it() -> None:
    """What `--write` writes finds its place in docs/performance.md."""
    text = table.PAGE.read_text(encoding="utf-8")
    for name in ("bench", "growth", "soak", "collectors"):
        assert text.count(f"<!-- {name} -->\n") == text.count(f"<!-- /{name} -->\n") == 1


def test_everybody_says_what_it_does() -> None:
    """Names are unique, and no figure stands in the table without what it holds."""
    peers = everybody()
    assert len({peer.name for peer in peers}) == len(peers)
    assert all(peer.does and peer.title for peer in peers)
    assert HEADLINE in {peer.name for peer in peers}


def test_boards_count_what_they_tell() -> None:
    """JSON and text alike, and both hold the same values."""
    import requests

    with stage.boards(("1",)) as crowd:
        before, _ = crowd.told()
        root = f"http://127.0.0.1:{crowd.ports[0]}"
        status = requests.get(f"{root}/", timeout=5).json()
        lines = requests.get(f"{root}/metrics", timeout=5).text.splitlines()
        told, cpu_s = crowd.told()
    assert told - before == 2
    assert cpu_s > 0
    assert lines[0] == f"espnet_f {status['f']}"
    assert lines[1:] == [f'espnet_gpio{{pin="{pin}"}} 0' for pin in PINS]


@contextlib.contextmanager
def polling(module: str, url: str, crowd: Boards) -> Iterator[None]:
    command = [sys.executable, "-m", module, url, *map(str, crowd.ports)]
    with running(command) as process:
        deadline = time.monotonic() + DEADLINE_S
        while crowd.told()[0] < 20:
            assert process.poll() is None, f"{module} ended by itself"
            assert time.monotonic() < deadline, f"{module} polls nobody"
            time.sleep(0.01)
        yield


def test_the_2021_design_polls_properly(redis_url: str) -> None:
    """Its hash has a field a pin and expires, its stream grows, and it locks each device it asks."""
    with stage.boards(("2",)) as crowd, redis.Redis.from_url(redis_url) as client:
        with polling("bench.peers.espnet2021", redis_url, crowd):
            for number in range(2):
                key = f"design2021:device:{board_id(number)}"
                assert client.hlen(key) == len(PINS) + 1
                assert 0 < client.ttl(key) <= 15
            assert client.xlen("design2021:samples") >= 10
        assert EspNet2021().available() is None


def test_the_naive_trip_polls_properly(redis_url: str) -> None:
    """Reading, stream and schedule are written, a pipeline at a time."""
    peer = Naive()
    if reason := peer.available():
        pytest.skip(reason)
    with (
        stage.boards(("2", "changing")) as crowd,
        redis.Redis.from_url(redis_url) as client,
        polling("bench.peers.naive", redis_url, crowd),
    ):
        deadline = time.monotonic() + DEADLINE_S
        while not client.exists("naive:due"):
            assert time.monotonic() < deadline, "it wrote nothing"
            time.sleep(0.01)
        assert client.zcard("naive:due") == 2
        assert client.xlen("naive:samples") >= 2
        reading = json.loads(client.get(f"naive:reading:{board_id(1)}"))  # type: ignore[arg-type]
        assert reading["id"] == board_id(1)


def runs(pid: int) -> bool:
    """Whether it is there, and not only its number, which stays till its parent has looked."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_tree_is_all_that_a_process_started() -> None:
    """CPU of children counts, also of those that ended; and all of them end with it."""
    burn = "sum(range(10_000_000))"
    code = (
        "import subprocess, sys, time\n"
        f"subprocess.run([sys.executable, '-c', {burn!r}])\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "time.sleep(60)\n"
    )
    with running([sys.executable, "-c", code]) as process:
        tree = Tree(process.pid)
        deadline = time.monotonic() + DEADLINE_S
        while not (tree.cpu_s() > 0.05 and len(tree.pids()) == 2 and tree.rss_kb() > 10_000):
            assert time.monotonic() < deadline, "the tree was never whole"
            time.sleep(0.01)
        pids = tree.pids()
    while any(map(runs, pids)):
        assert time.monotonic() < deadline, "somebody outlived the process"
        time.sleep(0.01)


def test_a_missing_apt_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where Debian's packages cannot be had, the reason is a clause for the line that says so."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(debian.NotThere, match="there is no apt-get on this system"):
        debian.unpack("prometheus")


def test_lateness_is_counted_from_each_devices_own_dates(redis_url: str) -> None:
    """A poll that began after its date is late by that; a date without a poll before the next is missed."""
    with Watcher(redis_url, {"a": 100.0, "b": 105.0}, 10.0) as watcher:
        watcher.begun = {"a": {100.5, 110.2, 120.9, 130.0}, "b": {105.1, 125.3}}
        late, missed = watcher.lateness(100.0, 130.0)
    assert missed == 1
    assert sorted(round(each, 3) for each in late) == [0.1, 0.2, 0.5, 0.9]


def test_a_slope_is_a_rise_a_minute() -> None:
    """Of the straight line through what was seen, whatever the distances between the looks."""
    assert soak.slope([(0, 100), (5, 105), (60, 160), (90, 190)]) == 60
    assert soak.slope([(0, 7), (30, 7), (31, 7)]) == 0
    assert soak.slope([(0, 7)]) == 0


def test_the_past_is_told_apart_from_the_rest(redis_url: str) -> None:
    """What grows to its bounds is the stream and the history's keys; no other key is counted in."""
    with redis.Redis.from_url(redis_url) as client:
        assert soak.past_bytes(client) == 0
        client.hset("espnet:devices", "id", "x" * 1_000)
        assert soak.past_bytes(client) == 0
        client.xadd("espnet:samples", {"n": 1, "batch": "x" * 1_000})
        client.rpush("espnet:history:id:tail", "y" * 1_000)
        assert 2_000 < soak.past_bytes(client) < 9_000


def test_every_poll_is_told_in_its_time() -> None:
    """A column of the picture holds the polls whose dates lie within it, before the window too."""
    late = [(-3.0, 0.1), (1.0, 0.4), (9.0, 0.2), (10.0, 0.3)]
    assert [(some.at_s, some.most_s) for some in soak.in_bins(late)] == [
        (-10.0, 0.1),
        (0.0, 0.4),
        (10.0, 0.3),
    ]


def test_a_soak_sees_memory_and_polls() -> None:
    """A few boards for a moment: each is polled at its dates, and what is taken is told."""
    run = soak.soak(5, 0.5, minutes=0.05, warm_up=1.0, static=True)
    assert run.polls + run.missed > 0
    assert run.looks == () or run.looks[0].rss_kb > 10_000
    assert run.rss_kb > run.empty_rss_kb / 2
    assert "| missed deadlines |" in soak.markdown({"it": run})


def test_collectors_are_compared_round_by_round() -> None:
    """The sum of what each makes of a CPU-second, to what one alone made of it in the same round."""
    one = collectors.Window(1, 1.0, [1_000], [0.1], 0.1, [10])
    two = collectors.Window(2, 1.0, [900, 1_000], [0.1, 0.1], 0.1, [5, 5])
    slow = msgspec.structs.replace(one, cpu_s=[0.2])
    result = collectors.Result([one, two, slow, two], [one, two])
    assert collectors.sums(result)[2] == pytest.approx([1.9, 3.8])
    assert collectors.unevenness([90, 100, 110]) == pytest.approx(0.1)
    assert "| 2 | 9,500 | 2.85 × (1.90 to 3.80) |" in collectors.markdown(result, 10)


def test_two_collectors_of_the_bench_share_the_boards() -> None:
    """Both poll, and both have as many devices."""
    with stage.boards(("changing", "20")) as crowd:
        places = [Place(board_id(n), f"127.0.0.1:{port}") for n, port in enumerate(crowd.ports)]
        # So long that one of them may wait for a CPU meanwhile, and polls all the same.
        found = collectors.window(places, 2, collectors.ALWAYS_S, 1.0)
    assert found.devices == [10, 10]
    assert all(found.polls)
    assert all(found.cpu_s)


def test_running_boards_are_found_in_what_a_simulator_prints(tmp_path: Path) -> None:
    """Rows or records, in which other addresses stand too; each board is asked who it is."""
    page = tmp_path / "boards.txt"
    with stage.boards(("2", "7")) as crowd:
        addresses = [f"127.0.0.1:{port}" for port in crowd.ports]
        page.write_text("".join(f"board  {address}  ok\n" for address in addresses))
        rows = growth.running_already(page)
        told = [{"id": "x", "address": address, "control": "127.0.0.1:1"} for address in addresses]
        page.write_text("".join(f"{json.dumps(each)}\n" for each in told))
        records = growth.running_already(page)
    expected = [Place(board_id(7 + number), address) for number, address in enumerate(addresses)]
    assert rows == records == expected


def test_pictures_are_drawn(results: dict[str, Result], tmp_path: Path) -> None:
    """Of whatever was measured: one size, one system, with Redis and without."""
    pytest.importorskip("matplotlib")
    picture.draw(results, tmp_path / "bench.png")
    one = Growth(
        boards=100,
        interval_s=10,
        window_s=30,
        heartbeat_hz=1,
        polls=300,
        missed=0,
        cpu=0.01,
        redis_cpu=0.01,
        rss_kb=50_000,
        redis_bytes_per_device=1_700,
        late_p50_s=0.5,
        late_p99_s=1.0,
        late_most_s=1.1,
    )
    growth.draw([one], tmp_path / "growth.png")
    looks = (soak.Look(-5, 50_000, 10**6, 10**7), soak.Look(5, 50_000, 10**6, 10**7, 10**5))
    run = soak.Soak(
        boards=10,
        is_static=True,
        interval_s=5,
        warm_up_s=60,
        minutes=10,
        queue_mb=None,
        history_mb=None,
        polls=1_200,
        missed=0,
        slowed=0,
        faults=0,
        late_p50_s=0.5,
        late_p99_s=1.0,
        late_most_s=1.1,
        cpu=0.01,
        redis_cpu=0.01,
        load=0.5,
        rss_kb=50_000,
        empty_rss_kb=45_000,
        redis_bytes_per_device=1_700,
        rss_slope=1.0,
        redis_slope=1.0,
        rest_slope=1.0,
        past_slope=1.0,
        looks=looks,
        late=(soak.Late(0, 0.5, 1.0, 1.1),),
    )
    soak.draw({"one": run}, tmp_path / "soak.png")
    for name in ("bench.png", "growth.png", "soak.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "0 of 300" in growth.markdown([one])
