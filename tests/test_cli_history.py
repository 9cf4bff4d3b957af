"""Laws of the word `history`: what is shown is what was read, and a wrong word is one sentence."""

import csv
import io
import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import redis
from board_wire import status_body
from conftest import RedisProcess

from espnet.cli import main
from espnet.cli.plot import _marks
from espnet.clock import SystemClock
from espnet.historian import Historian
from espnet.model import Device, Reading, encode
from espnet.samples import SampleBatch
from espnet.series import tags_of
from espnet.store import Store

#: Sunday 2026-10-25, 12:00 in Vienna: nine hours before, the clocks went back there.
NOW = 1_792_926_000.0
PORCH = Device(id="b1", name="porch", address="127.0.0.1:1")
Say = Callable[..., str]


def fahrenheit(celsius: float) -> float:
    return celsius * 9 / 5 + 32


def poll(at: float, celsius: float | None, *, up: int = 1) -> SampleBatch:
    points: list[tuple[str, float, tuple[str, ...]]] = [("esp32.up", up, ())]
    if up:
        points.append(("esp32.gpio", int(at // 600) % 2, ("pin:4",)))
    if celsius is not None:
        points.append(("esp32.dht22.temp", fahrenheit(celsius), ("sensor:air",)))
    return SampleBatch(at, tags_of(PORCH), tuple(points))


def polls() -> Iterator[SampleBatch]:
    """Twelve hours of a poll in 10 s: a ramp of 0.1 °C in 5 minutes. At 08:00 the board says nothing
    for 20 minutes, at 10:00 nobody asks for half an hour; one reading of the sensor fails at 11:50."""
    for n in range(12 * 360):
        at = NOW - 12 * 3_600 + 10 * n
        hour = (at - NOW) / 3_600 + 12
        if 8 <= hour < 8 + 1 / 3:
            if n % 6 == 0:
                yield poll(at, None, up=0)
        elif not 10 <= hour < 10.5:
            failed = at == NOW - 600
            yield poll(at, None if failed else round(18 + n // 30 / 10, 1))


def add_porch(store: Store) -> None:
    status = msgspec.Raw(status_body("b1"))
    reading = Reading(at=NOW, poll_s=0.1, interval_s=10, collector="x", status=status)
    store.add(PORCH, reading, first_due=NOW + 9)


@pytest.fixture
def store(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    for name in [name for name in os.environ if name.startswith(("ESPNET_", "DATADOG_", "DD_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("ESPNET_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ESPNET_ZONE", "Europe/Vienna")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SystemClock, "now", lambda self: NOW)
    with closing(Store(redis_url)) as store:
        add_porch(store)
        yield store


@pytest.fixture(scope="module")
def history(redis_server: RedisProcess) -> dict[bytes, bytes]:
    """What Redis holds when `polls` have become history: its keys, and them as it dumps them."""
    with redis.Redis.from_url(redis_server.url) as raw, closing(Store(redis_server.url)) as store:
        raw.flushall()
        add_porch(store)
        pipe = raw.pipeline()
        for one in polls():
            pipe.xadd("espnet:samples", {"n": len(one.points), "batch": encode(one)})
        pipe.execute()
        here = Historian(store, "here", budget_bytes=2**24)
        assert here.drain(NOW) == len(list(polls()))
        assert {raw.ttl(key) for key in raw.scan_iter()} == {-1}, "a dump would lose it"
        return {key: raw.dump(key) for key in raw.scan_iter()}


@pytest.fixture
def kept(store: Store, redis_url: str, history: dict[bytes, bytes]) -> Store:
    """A store with the history of `polls`."""
    with redis.Redis.from_url(redis_url) as raw:
        for key, dumped in history.items():
            raw.restore(key, 0, dumped, replace=True)
    return store


@pytest.fixture
def say(store: Store, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs `device porch history …`, which must end with ``code``; returns what it printed."""

    def run(line: str | list[str] = "", code: int = 0) -> str:
        capsys.readouterr()
        words = line.split() if isinstance(line, str) else line
        ended = main(["device", "porch", "history", *words])
        captured = capsys.readouterr()
        assert ended == code, captured
        if code:
            assert not captured.out
            assert captured.err.count("\n") == 1, captured.err
            return captured.err
        return captured.out

    return run


def table(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_last_hour_is_shown_line_by_line(kept: Store, say: Say) -> None:
    """Each reading is a line, local time, a column a value; a sensor that failed is a dash there."""
    head, *lines = say().splitlines()
    assert head.split() == ["time", "up", "gpio.4", "dht22.air.temp"]
    assert len(lines) == 360
    assert lines[0].split() == ["2026-10-25", "11:00:00", "1", "0", "31.2"]
    (failed,) = [line for line in lines if "11:50:00" in line]
    assert failed.split() == ["2026-10-25", "11:50:00", "1", "1", "–"]


def test_one_value_with_minimum_mean_and_maximum(kept: Store, say: Say) -> None:
    """Buckets tell how many readings they hold and what those were."""
    head, *lines = table(say("dht22.air.temp --last 1h --every 10m"))
    assert head == ["time", "readings", "min", "mean", "max"]
    assert lines[0] == ["2026-10-25", "11:00:00", "60", "31.2", "31.25", "31.3"]
    assert lines[-1] == ["2026-10-25", "11:50:00", "59", "32.2", "32.251", "32.3"]
    assert len(lines) == 6


def test_gaps_stay_gaps(kept: Store, say: Say) -> None:
    """Where nobody asked there is one empty line; where the board was silent it was down."""
    lines = table(say("--last 12h"))
    empty = [line for line in lines if line[2:] == ["–", "–", "–"]]
    assert empty == [["2026-10-25", "10:00:00+01:00", "–", "–", "–"]]
    down = [line for line in lines if line[2:] == ["0", "–", "–"]]
    assert [line[1] for line in down] == [f"08:{minute:02}:00+01:00" for minute in range(20)]
    buckets = table(say("--last 12h --every 5m"))
    empty = [line[:2] for line in buckets if line[2:] == ["–", "–", "–"]]
    assert empty == [["2026-10-25", "10:00:00+01:00"]]
    single = table(say("dht22.air.temp --last 12h"))
    assert [line[1] for line in single if line[2:] == ["–"]] == [
        f"{when}:00+01:00" for when in ("08:00", "10:00", "11:50")
    ]


def test_the_hour_that_came_twice_is_told_apart(kept: Store, say: Say) -> None:
    """Where the clocks were set back on the way, times carry their offset."""
    told = [line[:2] for line in table(say("up --last 12h --every 1h"))[1:]]
    assert ["2026-10-25", "02:00:00+02:00"] in told
    assert ["2026-10-25", "02:00:00+01:00"] in told
    assert len(told) == 12


@pytest.mark.parametrize("every", ["", "1m", "5m", "1h"])
def test_every_form_tells_the_same(kept: Store, say: Say, every: str) -> None:
    """`--json` and `--csv` hold all digits of the same rows, with the time as a number too."""
    how = f"--last 12h --every {every}" if every else "--last 12h"
    objects = json.loads(say(how + " --json"))
    found = list(csv.DictReader(io.StringIO(say(how + " --csv"))))
    assert len(objects) == len(found) == len(say(how).splitlines()) - 1
    for one, other in zip(objects, found, strict=True):
        assert {key: "" if value is None else str(value) for key, value in one.items()} == other
    truth = {one.at: one for one in polls()}
    if not every:
        assert {row["at"] for row in objects if row["up"] is not None} == set(truth)
    else:
        assert sum(row["readings"] for row in objects) == len(truth)
    assert json.loads(say(how + " --json --csv")) == objects
    assert json.loads(say(how + " --json --plot")) == objects


def test_a_coarser_level_answers_where_full_rate_is_gone(
    kept: Store, say: Say, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """And it is said that these are other values than those asked for."""
    here = Historian(kept, "here", budget_bytes=2_000)
    here.drain(NOW)
    assert kept.history_reach(NOW)[0].short == 1
    main(["device", "porch", "history", "--last", "12h"])
    captured = capsys.readouterr()
    assert "These are 5-minute values" in captured.err
    assert len(captured.out.splitlines()) == 12 * 12 + 1 - 5
    main(["device", "porch", "history", "--last", "12h", "--every", "7m"])
    assert "10m instead of 7m" in capsys.readouterr().err
    main(["device", "porch", "history", "up", "--last", "12h", "--every", "1h", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert sum(row["readings"] for row in rows) == len(list(polls()))
    assert len(say("--last 5m").splitlines()) == 31


@pytest.mark.parametrize("width", [34, 40, 60, 80, 120])
def test_no_terminal_cuts_a_value(kept: Store, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room titles break, then columns are left out, by their names; each value that
    is shown has the digits that a pipe gets."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    words = ["device", "porch", "history", "--last", "12h", "--every", "1h"]
    assert main(words) == 0
    whole = out.getvalue().splitlines()
    out.seek(0)
    out.truncate()
    monkeypatch.setattr(out, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(words) == 0
    shown = [line for line in out.getvalue().splitlines() if line.startswith("2026-")]
    left_out = re.search(r"No room here for (.*); --json has everything", err.getvalue())
    missing = len(left_out[1].split(", ")) if left_out else 0
    assert missing or width >= 60
    assert not missing or width < 80
    rows = [re.split(" {2,}", line) for line in whole[1:]]
    kept_rows = [row[: len(row) - missing] for row in rows]
    assert [re.split(" {2,}", line) for line in shown] == kept_rows


# --- pictures -------------------------------------------------------------------------------------


def test_the_terminal_shows_the_line_and_its_gaps(kept: Store, say: Say) -> None:
    """The ramp goes up to the right, hours are local, and where nothing was read nothing is drawn."""
    lines = say("dht22.air.temp --last 6h --plot").splitlines()
    assert "porch dht22.air.temp (°C)" in lines[0]
    assert max(map(len, lines)) <= 80
    assert "07:00" in lines[-2] or "08:00" in lines[-2]
    body = [line.partition("┤")[2] or line.partition("│")[2] for line in lines[2:-3]]
    columns = [
        {row[x] for row in body if x < len(row)} - set(" │") for x in range(len(body[0]) - 1)
    ]
    drawn = [bool(column) for column in columns]
    gaps = "".join("#" if there else " " for there in drawn).strip().split("#")
    assert sum(len(gap) > 2 for gap in gaps) == 2
    tops = [next((y for y, row in enumerate(body) if row[x] not in " │"), None) for x in (1, -4)]
    assert None not in tops
    assert tops[0] > tops[1]  # type: ignore[operator]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_marks_stand_within_what_is_drawn(count: int) -> None:
    """Two at least and not many more than asked for, in even steps, between the lowest and the highest
    value: who reads the axis knows the size of things. Around the value where nothing changes."""
    luck = random.Random(count)
    for _ in range(2_000):
        low = luck.uniform(-1, 1) * 10 ** luck.randint(-3, 5)
        high = low + luck.uniform(0.1, 10) * 10 ** luck.randint(-3, 5)
        marks = _marks(low, high, count)
        span = high - low
        assert 2 <= len(marks) <= 2 * count + 2
        assert low - span * 1e-6 <= marks[0] < marks[-1] <= high + span * 1e-6
        steps = [b - a for a, b in pairwise(marks)]
        assert max(steps) - min(steps) < max(steps) * 1e-3
    assert _marks(113, 113, count) == [100, 120]


def test_all_values_are_drawn_below_each_other(kept: Store, say: Say) -> None:
    """Without FIELD there is a drawing a value; colours are for terminals only."""
    text = say("--last 12h --every 5m --plot")
    assert [f in text for f in ("porch up", "porch gpio.4", "porch dht22.air.temp (°C)")] == [
        True
    ] * 3
    assert "\x1b" not in text


@pytest.mark.parametrize("how", ["", "--every 30m", "--last 12h", "up --last 90s"])
def test_a_png_is_a_picture(kept: Store, say: Say, how: str, tmp_path: Path) -> None:
    """It is written without a display, and without anything left in the home directory."""
    pytest.importorskip("matplotlib")
    assert "picture.png" in say(f"{how} --png picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize(
    "values", [[5.0], [5.0, 5.0], [0.0, 0.0], [1e-7, 3e-7], [-1e12, 1e12], [1 / 3]]
)
def test_any_numbers_can_be_drawn(
    store: Store, say: Say, redis_url: str, values: list[float]
) -> None:
    """One point, a flat line, tiny and huge numbers, and a name that means something elsewhere."""
    store.change("porch", lambda d: d.__class__(id="b1", name="$x_1$<b>温室", address="x"), now=NOW)
    with redis.Redis.from_url(redis_url) as raw:
        for n, value in enumerate(values):
            one = SampleBatch(NOW - 60 + 10 * n, ("id:b1",), (("odd.$metric$", value, ()),))
            raw.xadd("espnet:samples", {"n": 1, "batch": encode(one)})
    Historian(store, "here", budget_bytes=2**20).drain(NOW)
    for how in (["--plot"], ["--png", "x.png"], ["odd.$metric$", "--every", "10s", "--plot"]):
        assert main(["device", "$x_1$<b>温室", "history", *how]) == 0


# --- wrong words ----------------------------------------------------------------------------------

WRONG = {
    "humidity": "has no history of 'humidity'; it has: up, gpio.4, dht22.air.temp",
    "F": "has no history of 'F'",
    "up more": "no place for 'more'",
    "--last": "needs a value",
    "--last 0": "--last must be",
    "--last nonsense": "--last must be",
    "--last 1w": "--last must be",
    "--last 24H": "--last must be",
    "--last 2000d": "--last must be",
    "--last nan": "--last must be",
    "--last 1e400": "--last must be",
    "--every 2h": "longer than --last",
    "--every 0": "--every must be",
    "--every 0.1s": "--every must be",
    "--every 1.5s": "whole seconds",
    "--every 5min": "--every must be",
    "--last 366d --every 1s": "lines; at most 100,000",
    "--every -5": "needs a value|--every must be",
    "--plot --csv": "choose one",
    "--plot --png x.png": "choose one",
    "--plot=yes": "takes no value",
    "--last 1h --last 2h": "stands there twice",
    "--png": "needs a value",
    "--png /nowhere/x.png": "cannot be written",
    "--png .": "cannot be written",
    "--png /dev/full/x": "cannot be written",
    "--days 3": "has no option",
    "--from yesterday": "has no option",
}


@pytest.mark.parametrize(("line", "words"), WRONG.items(), ids=WRONG.keys())
def test_wrong_words_are_one_sentence(kept: Store, say: Say, line: str, words: str) -> None:
    """Exit code 2, nothing on stdout, and what to say instead."""
    told = say(line, 2)
    assert any(part in told for part in words.split("|")), told


def test_nothing_to_show_is_said(
    store: Store, say: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    """No history yet, no such device, nothing in the time asked: each is one sentence."""
    assert "no history yet; it is kept while `espcli run` is running" in say("", 1)
    assert "no history yet" in say("f --plot", 1)
    assert main(["device", "nobody", "history"]) == 1
    assert "No device is named 'nobody'" in capsys.readouterr().err


def test_a_time_without_readings_is_said(
    kept: Store, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how to ask for more."""
    monkeypatch.setattr(SystemClock, "now", lambda self: NOW + 7_200)
    assert "porch was not read in the last 1h; ask for more with --last" in say("", 1)
    assert "up of porch was not read" in say("up --csv", 1)


def test_without_matplotlib_it_is_said_how_to_get_it(
    kept: Store, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence with the command; nothing else needs it."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install matplotlib" in say("--png x.png", 1)
    assert say("up --last 5m --plot")
