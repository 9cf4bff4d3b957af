"""Laws of the words about jobs: wrong ones change nothing, and what is shown is true."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from espnet.cli import main
from espnet.clock import SystemClock
from espnet.model import (
    Device,
    Memory,
    Override,
    Pace,
    PinMemory,
    Reading,
    Threshold,
    Timer,
    Write,
)
from espnet.store import Poll, Store

#: Friday 2026-03-27, 12:00 in Vienna; the clocks go forward there on Sunday.
NOW = 1_774_609_200.0
Say = Callable[..., str]
LAMP = "add_timer_job lamp 4 07:00 2"
HEATER = "add_threshold_job heater 5 00:00 24 60 porch.f 90"


def status(**more: Any) -> msgspec.Raw:
    pins = (1, 2, 3, 4, 5, 6, 12, 34)
    body = {"id": "b1", "f": 80.0, "gpio": {str(pin): int(pin == 5) for pin in pins}} | more
    return msgspec.Raw(json.dumps(body).encode())


def reading(at: float = NOW - 5, **more: Any) -> Reading:
    return Reading(at=at, poll_s=0.1, interval_s=10.0, collector="here", status=status(), **more)


@pytest.fixture
def store(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    """A registry with a board that nobody can call; it is noon in Vienna."""
    for name in [name for name in os.environ if name.startswith(("ESPNET_", "DATADOG_", "DD_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("ESPNET_DATA", str(tmp_path))
    monkeypatch.setenv("ESPNET_ZONE", "Europe/Vienna")
    monkeypatch.setenv("ESPNET_TIMEOUT", "0.2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SystemClock, "now", lambda self: NOW)
    with closing(Store(redis_url)) as store:
        porch = Device(id="b1", name="porch", address="127.0.0.1:1")
        store.add(porch, reading(), first_due=NOW + 100)
        yield store


@pytest.fixture
def say(store: Store, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command that must end with ``code``; returns what it printed."""

    def run(line: str | list[str], code: int = 0) -> str:
        capsys.readouterr()
        ended = main(line.split() if isinstance(line, str) else line)
        captured = capsys.readouterr()
        assert ended == code, captured
        if code:
            assert not captured.out
            return captured.err
        return captured.out

    return run


def everything(redis_url: str) -> dict[bytes, bytes]:
    with redis.Redis.from_url(redis_url) as client:
        return {key: client.dump(key) for key in client.scan_iter()}


# --- wrong words --------------------------------------------------------------------------------

TIMES = ["", "7", "7:0", "24:00", "23:60", "12:00:60", "-1:00", "noon", "٠٧:٠٠", "07:00Z", "07.00", " 07:00",
         "sunrise", "sunset-01:00", "sunrise+13:00", "sunrise+1", "sunup"]  # fmt: skip
HOURS = ["", "0", "-1", "25", "24.01", "nan", "inf", "1e400", "two", "1_0", "2h", "٢"]
PINS = ["", "abc", "-1", "55", "4,5", "٣", "4.0", "34", "39", "6", "11", "1", "3", "13", "9" * 500]
NAMES = ["", "-1", "a b", "a\tb", "\x1b[31m", "x" * 65, "override"]
NUMBERS = ["", "abc", "nan", "inf", "1e400", "1_000", "٣", "0x10", "1,5"]
DURATIONS = [*NUMBERS, "-1", "2w", "h", "1h30m", "2 h", "9999d", "1e99"]
ZONES = [
    "Nowhere",
    "europe/vienna",
    "../../etc/passwd",
    "/etc/localtime",
    "localtime",
    "GMT+25",
    "Europe",
]
DAYS = ["someday", "mon,", ",", "mon;tue", "8", "monday", "weekday"]
INPUTS = [
    "porch",
    "porch.gpio.99",
    "porch.dht22.temp",
    "redis:",
    "redis:espnet:devices",
    "a b.f",
    "nan",
]


def wrong() -> Iterator[list[str]]:
    timer = ["add_timer_job", "lamp", "4", "07:00", "2"]
    heat = ["add_threshold_job", "heater", "5", "00:00", "24", "60", "porch.f", "90"]
    sure = [*heat, "--stale", "off"]
    for places in (
        (timer, 1, NAMES), (timer, 2, PINS), (timer, 3, TIMES), (timer, 4, HOURS),
        (heat, 1, NAMES), (heat, 2, PINS), (heat, 3, TIMES), (heat, 4, HOURS), (heat, 5, DURATIONS),
        (heat, 6, INPUTS), (heat, 7, NUMBERS),
    ):  # fmt: skip
        words, place, instead = places
        yield from ([*words[:place], other, *words[place + 1 :]] for other in instead)
    for words in (timer, heat):
        yield from (words[:count] for count in range(1, len(words)))
        yield [*words, "more"]
        for option in ("--nonsense", "-n", "--", "--enabled", "--name=x", "--pin", "--json=1"):
            yield [*words, option]
    for words in (timer, sure):
        yield from ([*words, "--zone", zone] for zone in ZONES)
        yield from ([*words, "--days", days] for days in DAYS)
        for place in ("--lat", "--lon"):
            yield from ([*words, place, text] for text in ("181", "-181", "nan", "north"))
        for option in ("--zone", "--days", "--lat", "--no_lease=1", "--anyway=no"):
            yield [*words, option]
        yield [*words, "--days", "mon", "--days", "tue"]
    yield from ([*timer, "--window", text] for text in ("-1", "721", "nan", "ten", "5m"))
    yield from ([*timer, "--invert", "1"], [*timer, "--stale", "off"], [*timer, "--band", "1"])
    yield from ([*sure, "--band", text] for text in ("-1", "nan", "inf", "a", "1_0"))
    yield from ([*sure, "--mode", text] for text in ("", "HEAT", "warm", "cool,heat"))
    yield from ([*sure, "--unit", text] for text in ("", "k", "C", "°C"))
    yield from ([*heat, "--stale", text] for text in ("", "on,off", "OFF", "low", "1"))
    for option in ("--min_on", "--min_off", "--max_age"):
        yield from ([*sure, option, text] for text in DURATIONS)
    yield from ([*sure, "--max_age", "0"], [*sure, "--invert"], [*sure, "--window", "5"])
    gpio = [*heat[:6], "porch.gpio.4", *heat[7:]]
    yield [*gpio, "--stale", "off", "--unit", "c"]
    for option, value in (
        ("--mode", "heat"), ("--band", "0.5"), ("--min_on", "60"), ("--min_off", "60"),
        ("--max_age", "60"), ("--unit", "f"), ("--days", "mon"), ("--zone", "UTC"), ("--lat", "48"),
        ("--lon", "16"),
    ):  # fmt: skip
        yield [*heat, option, value]  # --stale is missing
    yield [*heat, "--no_lease"]
    hold = ["override", "4", "on", "--for", "2h"]
    yield from ([hold[0], other, *hold[2:]] for other in PINS)
    yield from (
        [*hold[:2], other, *hold[3:]] for other in ("", "ON", "1", "high", "toggle", "hold")
    )
    yield from ([*hold[:4], other] for other in [*DURATIONS, "0", "0.5", "0h", "367d", "forever"])
    yield from (
        [*hold[:3]],
        [*hold[:4]],
        [*hold[:2]],
        [*hold[:1]],
        [*hold, "now"],
        [*hold, "--why"],
    )
    yield from ([*hold, "--why", text] for text in ("", "x" * 201, "a\nb", "\x1b[31m"))
    yield from ([*hold, "--for", "3h"], ["override", "4", "clear"], ["override", "55", "clear"])
    yield from (["safe", pin, "low"] for pin in PINS)
    yield from (["safe", "4", level] for level in ("", "LOW", "off", "0", "keep"))
    for verb in ("job", "enable_job", "disable_job", "remove_job"):
        yield from ([verb], [verb, "nobody"], [verb, "override"], [verb, "old", "more"])
        yield [verb, "old", "--nonsense"]
    yield from (["enable_job", "old", "--off"], ["remove_job", "old", "--anyway"], ["jobs", "more"])


def test_wrong_words_change_nothing_and_say_one_sentence(say: Say, redis_url: str) -> None:
    """Exit code 2, one line on stderr that ends like a sentence, nothing on stdout, nothing stored."""
    say("device porch add_timer_job old 12 08:00 1")
    before = everything(redis_url)
    lines = list(wrong())
    assert len(lines) > 300
    for words in lines:
        said = say(["device", "porch", *words], 2)
        assert said.startswith("espcli: "), (words, said)
        assert said.count("\n") == 1, (words, said)
        assert said.rstrip().endswith((".", "?")), (words, said)
        assert said.rstrip("\n").isprintable(), (words, said)
        assert len(said) < 700, (words, said)
    assert everything(redis_url) == before


@pytest.mark.parametrize(
    "line",
    ["why", "why porch", "why porch x", "why porch 55", "why porch 4 5", "plan", "plan porch --days 0",
     "plan porch --days 367", "plan porch --days nan", "plan porch --days", "plan porch 7",
     "plan porch --readings", "plan porch --readings missing.jsonl", "plan porch --readings ."],
)  # fmt: skip
def test_wrong_questions_are_answered_with_one_sentence(say: Say, line: str) -> None:
    """As wrong orders are."""
    assert say(line, 2).count("\n") == 1


@pytest.mark.parametrize(
    "line", ["why nobody 4", "plan nobody", "device nobody jobs", f"device nobody {LAMP}",
             "device nobody override 4 on --for 2h", "device nobody remove_job lamp --off"],
)  # fmt: skip
def test_a_device_that_is_not_there_is_a_failure(say: Say, line: str) -> None:
    """Exit code 1, for the words were right."""
    assert "No device is named 'nobody'" in say(line, 1)


BAD_READINGS = {
    "nothing": ("", "holds no readings"),
    "blank": ("\n\n", "holds no readings"),
    "no JSON": ('{"at": 1, "inputs": {}}\nnonsense', "line 2"),
    "no object": ("[1]", "line 1"),
    "no time": ('{"inputs": {}}', "line 1"),
    "a text for a time": ('{"at": "1", "inputs": {}}', "line 1"),
    "a text for a value": ('{"at": 1, "inputs": {"porch.f": "cold"}}', "line 1"),
    "no input": ('{"at": 1, "inputs": {"porch": 1}}', "line 1"),
    "a time before time": ('{"at": -1, "inputs": {}}', "line 1"),
    "a time after time": ('{"at": 1e300, "inputs": {}}', "line 1"),
    "unsorted": ('{"at": 2, "inputs": {}}\n{"at": 1, "inputs": {}}', "line 2"),
    "too deep": ('{"at": 1, "x": ' + "[" * 100_000, "line 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_READINGS)
def test_bad_recorded_readings_are_refused_with_their_line(say: Say, name: str) -> None:
    """A plan over half of a file would be a lie."""
    text, where = BAD_READINGS[name]
    Path("r.jsonl").write_text(text)
    said = say("plan porch --readings r.jsonl", 2)
    assert where in said
    assert said.count("\n") == 1


def test_readings_that_are_no_text_are_refused(say: Say) -> None:
    Path("r.jsonl").write_bytes(b"\xff\xfe")
    assert "is not UTF-8" in say("plan porch --readings r.jsonl", 2)


# --- defining -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["1", "True", "1e3", "None", "ñandú", "🏠", "日本語", "lamp", "[1]", "a,b"]
)
def test_a_job_may_have_any_printable_name(say: Say, store: Store, name: str) -> None:
    """It is defined, shown, disabled, enabled and removed by it; twice the same is refused."""
    words = ["device", "porch", "add_timer_job", name, "4", "07:00", "2"]
    say(words)
    assert f"has a job named {name!r}" in say(words, 2)
    assert json.loads(say(["device", "porch", "job", name, "--json"]))["name"] == name
    say(["device", "porch", "disable_job", name])
    say(["device", "porch", "enable_job", name])
    say(["device", "porch", "remove_job", name])
    assert store.jobs(store.device("porch")) == ()


def test_the_2021_forms_mean_what_they_meant(say: Say, store: Store) -> None:
    """Local time, off while the input is stale, no band."""
    say(f"device porch {LAMP}")
    say(f"device porch {HEATER}")
    timer, threshold = store.jobs(store.device("porch"))
    assert timer == Timer(name="lamp", pin=4, start="07:00", hours=2, zone="Europe/Vienna")
    assert threshold == Threshold(
        name="heater", pin=5, start="00:00", hours=24, zone="Europe/Vienna", lock_s=60,
        input="porch.f", target=90, stale="off",
    )  # fmt: skip


def test_every_option_is_kept(say: Say, store: Store) -> None:
    """With hyphens or underscores, before or after the words."""
    say(
        "device porch add_threshold_job --mode cool fan 4 sunset-01:00 5 2m redis:house:t#v 25 --band=0.5 "
        "--min-on 5m --min_off 1h --max-age 10m --stale hold --unit c --days weekends --zone UTC "
        "--lat 48.2 --lon -16.4 --no-lease"
    )
    assert store.jobs(store.device("porch")) == (
        Threshold(
            name="fan", pin=4, start="sunset-01:00", hours=5, zone="UTC", lock_s=120, target=25,
            input="redis:house:t#v", stale="hold", mode="cool", band=0.5, min_on_s=300,
            min_off_s=3600, max_age_s=600, unit="c", days=(5, 6), lat=48.2, lon=-16.4, lease=False,
        ),
    )  # fmt: skip


def test_the_sun_needs_a_place(say: Say, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said with the job, or once for the site."""
    assert "lat and lon are needed" in say("device porch add_timer_job sun 4 sunset 5", 2)
    monkeypatch.setenv("ESPNET_LAT", "48.2")
    monkeypatch.setenv("ESPNET_LON", "16.4")
    say("device porch add_timer_job sun 4 sunset 5")
    (job,) = store.jobs(store.device("porch"))
    assert (job.lat, job.lon) == (48.2, 16.4)


def test_an_input_may_be_of_a_device_to_come(say: Say) -> None:
    """Until it is there, the input is stale, and the job says so."""
    say("device porch add_threshold_job fan 4 00:00 24 0 attic.dht22.air.temp 20")
    (row,) = json.loads(say("device porch jobs --json"))
    assert "attic was never read" in row["why"]
    assert row["says"] == "off"


CONTRADICTIONS = [
    (HEATER, "add_threshold_job fan 5 00:00 24 60 porch.f 95 --mode cool --stale off"),
    (LAMP, "add_timer_job dark 4 07:00:00 2 --invert"),
    (LAMP, "add_timer_job dark 4 07:00 2.0 --days mon,tue,wed,thu,fri,sat,sun --invert"),
]


@pytest.mark.parametrize(("first", "second"), CONTRADICTIONS)
def test_jobs_that_fight_for_ever_are_refused_unless_anyway(
    say: Say, store: Store, first: str, second: str
) -> None:
    """At definition, and when a disabled one is enabled; a disabled job fights nobody."""
    say(f"device porch {first}")
    before = store.jobs(store.device("porch"))
    assert "add --anyway" in say(f"device porch {second}", 2)
    assert store.jobs(store.device("porch")) == before
    name = first.split()[1]
    say(f"device porch disable_job {name}")
    say(f"device porch {second}")
    assert "add --anyway" in say(f"device porch enable_job {name}", 2)
    say(f"device porch enable_job {name} --anyway")
    say(f"device porch remove_job {name}")
    say(f"device porch {first} --anyway" + (" --stale off" if "threshold" in first else ""))
    assert len(store.jobs(store.device("porch"))) == 2


# --- overrides ----------------------------------------------------------------------------------


def test_an_override_wins_until_it_is_cleared(say: Say, store: Store) -> None:
    """There is one a pin; a second one takes its place, one of another pin is left alone."""
    say(f"device porch {LAMP}")
    say("device porch override 5 off --for 1d")
    say("device porch override 4 on --for 2h")
    say(["device", "porch", "override", "4", "on", "--for", "90m", "--why", "guests"])
    found = json.loads(say("why porch 4 --json"))
    assert (found["wanted"], found["winner"]["kind"], found["losers"][0]["job"]) == (
        1, "override", "lamp",
    )  # fmt: skip
    assert "guests" in found["winner"]["why"]
    assert found["next_change"] == {"at": NOW + 5400, "level": 0}
    rows = {(row["job"], row["pin"]): row for row in json.loads(say("device porch jobs --json"))}
    assert rows["override", 4]["says"] == "on"
    assert rows["override", 5]["says"] == "off"
    assert not rows["lamp", 4]["wins"]
    assert "decide again" in say("device porch override 4 clear")
    assert [job.pin for job in store.jobs(store.device("porch"))] == [4, 5]
    assert json.loads(say("why porch 4 --json"))["wanted"] == 0


def test_what_comes_after_an_override_is_said(say: Say) -> None:
    """On a pin without a job nobody ever switches it back, and that is no surprise."""
    assert "No job governs it: after that it stays on" in say("device porch override 4 on --for 2h")
    assert "stays as it is" in say("device porch override 4 clear")
    say(f"device porch {LAMP}")
    assert "No job governs" not in say("device porch override 4 on --for 2h")


def test_an_override_that_ended_says_nothing_and_goes(
    say: Say, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no row, no reason to leave a pin on, and the next change of the jobs forgets it."""
    say(f"device porch {LAMP}")
    say("device porch override 4 on --for 2h")
    monkeypatch.setattr(SystemClock, "now", lambda self: NOW + 7200)
    assert [row["job"] for row in json.loads(say("device porch jobs --json"))] == ["lamp"]
    assert json.loads(say("why porch 4 --json"))["winner"]["job"] == "lamp"
    # --off has to call the board, which is not there: nothing is changed.
    say("device porch remove_job lamp --off", 1)
    assert len(store.jobs(store.device("porch"))) == 2
    say("device porch disable_job lamp")
    assert [type(job) for job in store.jobs(store.device("porch"))] == [Timer]


# --- what is shown ------------------------------------------------------------------------------

WHY = {
    "denied", "device", "pin", "state", "level", "age_s", "wanted", "winner", "losers", "next_change",
    "last_write", "lease", "safe", "slowed",
}  # fmt: skip


def test_why_tells_what_is_and_what_should_be(say: Say, store: Store) -> None:
    """All of it with --json; one screen of at most 100 columns without."""
    say(f"device porch {HEATER} --stale off --band 2 --min_on 5m")
    say("device porch override 4 on --for 2h --why test")
    say("device porch safe 5 high")
    found = json.loads(say("why porch 5 --json"))
    assert set(found) == WHY
    assert (found["level"], found["wanted"], found["age_s"], found["safe"]) == (1, 1, 5.0, "high")
    assert found["winner"]["input"]["value"] == 80
    text = say("why porch 5")
    assert "should be    on" in text
    assert "porch.f = 80 °F, 5 s old" in text
    assert "its firmware knows no leases" in text
    for line in (text + say("why porch 4") + say("device porch jobs")).splitlines():
        assert len(line) <= 100, line
    assert "left alone: no job governs it" in say("why porch 12")
    assert "not known" in say("why porch 13")


def test_a_board_that_is_slowed_is_shown_everywhere(say: Say, store: Store) -> None:
    """In the list, the device and `why`: how often it is polled, how often that was asked, and why."""
    grant = store.claim(NOW + 100, 1, "here", ttl_s=5)[0].grant
    pace = Pace(2, "free heap 5.1 kB", NOW - 60, NOW - 5)
    slowed = msgspec.structs.replace(reading(), interval_s=20.0, pace=pace)
    store.commit([Poll(grant, NOW + 20, slowed)])
    sentence = "is polled every 20 s (10 s asked): free heap 5.1 kB"
    (row,) = json.loads(say("devices --json"))
    assert (row["problem"], row["state"], row["interval_s"]) == (sentence, "online", 10)
    wanted = {"factor": 2, "every_s": 20, "why": "free heap 5.1 kB", "since": NOW - 60}
    assert row["slowed"] == wanted
    assert sentence in say("device porch")
    assert json.loads(say("why porch 5 --json"))["slowed"] == wanted
    assert f"  board        {sentence}" in say("why porch 5").splitlines()
    say("device porch interval 5")
    assert json.loads(say("device porch --json"))["slowed"]["every_s"] == 10


def test_a_board_that_is_slowed_no_more_says_nothing_of_it(say: Say, store: Store) -> None:
    """Also while it is watched still."""
    grant = store.claim(NOW + 100, 1, "here", ttl_s=5)[0].grant
    watched = msgspec.structs.replace(reading(), pace=Pace(1, "free heap 5.1 kB", NOW - 60, bad=1))
    store.commit([Poll(grant, NOW + 10, watched)])
    (row,) = json.loads(say("devices --json"))
    assert (row["problem"], row["slowed"], row["interval_s"]) == (None, None, 10)


def test_a_disabled_job_has_no_say(say: Say) -> None:
    """Its row stays, without an opinion."""
    say(f"device porch {LAMP}")
    say("device porch disable_job lamp")
    (row,) = json.loads(say("device porch jobs --json"))
    assert (row["state"], row["wins"], row["says"], row["why"]) == ("disabled", False, None, None)
    assert json.loads(say("why porch 4 --json"))["winner"] is None
    assert json.loads(say("device porch job lamp --json"))["enabled"] is False


def test_an_input_of_an_offline_device_is_stale(say: Say, store: Store) -> None:
    """The screen says that the board is offline, how old the input is, and what that means."""
    say(f"device porch {HEATER}")
    grant = store.claim(NOW + 100, 1, "here", ttl_s=5)[0].grant
    from espnet.store import Poll

    store.commit([Poll(grant, NOW + 100, reading(NOW - 1000))])
    found = json.loads(say("why porch 5 --json"))
    assert (found["state"], found["level"], found["wanted"]) == ("offline", 1, 0)
    assert found["winner"]["rank"] == "fail-safe"
    text = say("why porch 5")
    assert "porch is offline" in text
    assert "1000 s old" in text
    assert "(fail-safe)" in text


def test_a_minimum_time_that_waits_is_the_reason(say: Say, store: Store) -> None:
    """Together with the last write and what the board had against it."""
    from espnet.store import Poll

    say("device porch add_threshold_job heater 5 00:00 24 0 porch.f 70 --min_on 5m --stale off")
    memory = Memory({5: PinMemory(1, NOW - 60)}, {}, {5: Write(NOW - 60, 1, "answered HTTP 500")})
    grant = store.claim(NOW + 100, 1, "here", ttl_s=5)[0].grant
    store.commit([Poll(grant, NOW + 100, reading(), memory=memory)])
    found = json.loads(say("why porch 5 --json"))
    assert found["wanted"] == 1
    assert "min_on: on for 60 s of 300 s" in found["winner"]["why"]
    assert found["next_change"] == {"at": NOW + 240, "level": 0}
    assert found["last_write"] == {"at": NOW - 60, "level": 1, "problem": "answered HTTP 500"}
    assert "answered HTTP 500" in say("why porch 5")


def test_a_key_that_holds_no_number_is_shown_as_json_that_every_program_reads(
    say: Say, redis_url: str
) -> None:
    """Python's own NaN is none."""
    with redis.Redis.from_url(redis_url) as client:
        client.set("house", "nan")
    say("device porch add_threshold_job fan 4 00:00 24 0 redis:house 20")
    text = say("why porch 4 --json")
    assert "NaN" not in text
    assert "holds 'nan', which is no number" in text


def test_the_plan_knows_the_day_on_which_the_clocks_change(say: Say) -> None:
    """2026-03-29 has no 02:30 in Vienna: the window begins with the first instant after the gap."""
    say("device porch add_timer_job lamp 4 02:30 1 --days sun")
    rows = json.loads(say("plan porch --days 3 --json"))
    assert [(row["at"], row["level"]) for row in rows] == [
        ("Fri 2026-03-27 12:00:00 CET", 0),
        ("Sun 2026-03-29 03:00:00 CEST", 1),
        ("Sun 2026-03-29 04:00:00 CEST", 0),
    ]
    assert all({"at_s", "pin", "level", "job", "why"} <= set(row) for row in rows)
    assert rows[1]["at_s"] == 1_774_746_000


def test_the_plan_over_recorded_readings_follows_them(say: Say, redis_url: str) -> None:
    """From the first one on; nothing is written."""
    say(f"device porch {HEATER}")
    lines = [{"at": NOW + t, "inputs": {"porch.f": f}} for t, f in ((0, 95), (600, 80), (1200, 95))]
    Path("r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    before = everything(redis_url)
    rows = json.loads(say("plan porch --days 1 --readings r.jsonl --json"))
    assert [(row["at_s"] - NOW, row["level"]) for row in rows] == [(0, 0), (600, 1), (1200, 0)]
    assert everything(redis_url) == before


def test_a_device_without_jobs_says_so(say: Say) -> None:
    """Empty lists for programs."""
    assert json.loads(say("device porch jobs --json")) == []
    assert json.loads(say("plan porch --json")) == []


def test_renaming_a_device_breaks_no_job(say: Say, store: Store) -> None:
    """Its own jobs and those of others look at it under its new name."""
    store.add(Device(id="b2", name="attic", address="10.0.0.2"), reading(), first_due=NOW)
    say(f"device porch {HEATER}")
    say("device attic add_threshold_job fan 4 00:00 24 0 porch.dht22.air.temp 20")
    say("rename porch deck")
    assert [job.input for name in ("deck", "attic") for job in store.jobs(store.device(name))] == [
        "deck.f", "deck.dht22.air.temp",
    ]  # fmt: skip
    assert json.loads(say("why deck 5 --json"))["winner"]["input"]["value"] == 80


def test_overrides_are_records_with_an_end(say: Say, store: Store) -> None:
    """Since now, until then, why."""
    say("device porch override 4 off --for 1d")
    assert store.jobs(store.device("porch")) == (
        Override(pin=4, level=0, since=NOW, until=NOW + 86_400),
    )
