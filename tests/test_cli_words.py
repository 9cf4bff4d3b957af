"""Laws of wrong words: one sentence on stderr, the right exit code, nothing on stdout, nothing done."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from espnet.cli import main
from espnet.model import Device, Reading
from espnet.store import Store

NOW = 1_000_000.0
STATUS = b'{"id":"b1","f":98.6,"gpio":{"2":1,"4":0,"5":0}}'

#: Names that python, fire or a shell could take for something else.
ODD_NAMES = [
    "1", "True", "1e3", "None", "1.10", "2e9672320848", "[1]", "{}", "a,b", "()", "''", "0x1f",
    "ñandú", "🏠", "日本語", "٣", "__class__", "_session", "run", "upper", "help", "name=1", "null",
]  # fmt: skip
NO_NAMES = ["", "-1", "a b", "a\tb", "\x1b[31m", "\u202e", "x" * 65, "x" * 5000, "\udcff"]
NO_WORDS = [
    *ODD_NAMES,
    *NO_NAMES[1:],
    "-x",
    "--x",
    "--trace",
    "--interactive",
    "-i",
    "--",
    "--json=1",
]
NO_NUMBERS = [
    "abc",
    "1e400",
    "nan",
    "inf",
    "1_000",
    "٣",
    "9" * 5000,
    "True",
    "²",
    "+5",
    " 5",
    "0x10",
]
NO_PINS = ["", "abc", "-1", "55", "4,", "4,,5", ",", "٣", "1_0", "[4]", "4 5", "9" * 5000, "²"]
NO_TAGS = ["", ",", "a,,b", "1a", "a b", "a" * 201, "room:attic,", ":x", "\x00"]
NO_ADDRESSES = [
    "http://10.0.0.1", "10.0.0.1/x", "h:0", "h:65536", "h:abc", "::1", "[::1", "[::1]x", "h:", "",
    "ünï.de", "10.0.0.256", "1.2.3", "a b", "x" * 300, "a..b", "user@h", "h?x", "h#x", "h:٣", "h:1_0",
]  # fmt: skip


def every_word() -> Iterator[list[str]]:
    """Commands that are complete, so that one word more is one too many."""
    for verb in ("devices", "ids", "init_consumers", "upload_queued_metrics", "process_backlog"):
        yield [verb]
    yield from (["xinfo"], ["xpending"], ["sinks", "forget", "file"], ["sinks", "show", "file"])
    yield from (["dead_letters", action, "file"] for action in ("show", "retry", "drop"))
    yield from (["unregister", "porch"], ["rename", "porch", "attic"], ["is_online", "porch"])
    yield from (
        ["register", "127.0.0.1:1", "attic"],
        ["register_all", "no.txt"],
        ["redis", "show"],
        ["redis", "stop"],
    )
    yield from (["run", "1"], ["simulate", "1"])
    device = ["device", "porch"]
    for verb in ("get_f", "get_gpio", "lock", "list_dht22", "update", "requests"):
        yield [*device, verb]
    for verb, *rest in (
        ["interval", "5"], ["tags", "a:b"], ["report_pins", "2"], ["add_dht22", "air", "4"],
        ["remove_dht22", "air"], ["get_dht22", "air"],
    ):  # fmt: skip
        yield [*device, verb, *rest]
    for verb, *rest in (
        ["get_basic"], ["set_gpio", "2", "1"], ["flip_gpio", "2"], ["get_adc", "2", "4", "1"],
        ["get_dht22", "4"], ["set_host", "10.0.0.1"],
    ):  # fmt: skip
        yield [*device, "requests", verb, *rest]


def device_words() -> Iterator[list[str]]:
    """Commands with a place for a device's name, which is put in."""
    yield from ([verb, "NAME"] for verb in ("unregister", "is_online", "device"))
    yield ["rename", "NAME", "attic"]
    for rest in (["get_f"], ["update"], ["lock"], ["interval", "5"], ["requests", "get_basic"]):
        yield ["device", "NAME", *rest]


class Fleet:
    """A Redis with one device, ``porch``, whose board has gone; it tells whether it was touched."""

    def __init__(self, url: str) -> None:
        self._client: Any = redis.Redis.from_url(url)
        self.store = Store(url)
        device = Device(id="b1", name="porch", address="127.0.0.1:1", registered_at=NOW)
        reading = Reading(
            at=NOW, poll_s=0.1, interval_s=10, collector="c", status=msgspec.Raw(STATUS)
        )
        self.store.add(device, reading, first_due=NOW)
        self._before = self._dump()

    def _dump(self) -> dict[bytes, bytes]:
        return {key: self._client.dump(key) for key in self._client.scan_iter()}

    def is_untouched(self) -> bool:
        return self._dump() == self._before

    def close(self) -> None:
        self.store.close()
        self._client.close()


@pytest.fixture
def fleet(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("ESPNET_DATA", str(tmp_path))
    for name in ("DATADOG_API_KEY", "DD_API_KEY", "ESPNET_INTERVAL", "ESPNET_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    fleet = Fleet(redis_url)
    yield fleet
    fleet.close()


class Refusals:
    """Runs commands that must be refused."""

    def __init__(self, capsys: pytest.CaptureFixture[str], fleet: Fleet) -> None:
        self._capsys, self._fleet = capsys, fleet

    def __call__(self, *words: str, code: int = 2) -> str:
        """The sentence that the words are refused with."""
        got = main(words)
        out, err = self._capsys.readouterr()
        shown = [word[:40] for word in words]
        assert got == code, (shown, got, err)
        assert out == "", shown
        assert err.startswith("espcli: "), (shown, err)
        assert err.endswith((".\n", "?\n")), (shown, err)
        assert err[:-1].isprintable(), (shown, err)
        assert len(err) < 400, (shown, err)
        assert "function" not in err, (shown, err)
        assert self._fleet.is_untouched(), shown
        return err[len("espcli: ") : -1]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], fleet: Fleet) -> Refusals:
    return Refusals(capsys, fleet)


@pytest.mark.parametrize("words", list(every_word()), ids=" ".join)
def test_a_word_too_many_undoes_the_whole_command(words: list[str], refused: Refusals) -> None:
    """Whatever it is, a word without a place means that nothing is done."""
    for word in NO_WORDS:
        refused(*words, word)


@pytest.mark.parametrize(
    "words",
    [
        "register", "register 127.0.0.1:1", "register_all", "unregister", "rename", "rename porch",
        "is_online", "device", "simulate", "device porch interval", "device porch tags",
        "device porch report_pins", "device porch add_dht22", "device porch add_dht22 air",
        "device porch remove_dht22", "device porch get_dht22", "device porch requests set_gpio",
        "device porch requests set_gpio 2", "device porch requests flip_gpio",
        "device porch requests get_adc", "device porch requests get_dht22",
        "device porch requests set_host", "unregister - porch", "rename porch - attic",
    ],
)  # fmt: skip
def test_a_missing_word_is_named_with_the_usage(words: str, refused: Refusals) -> None:
    """`NAME is missing; it goes …`: nobody has to look for what fire calls an argument."""
    assert " is missing; it goes `espcli " in refused(*words.split())


def test_a_group_alone_says_that_a_word_is_missing(refused: Refusals) -> None:
    """`requests` means nothing by itself."""
    assert refused("device", "porch", "requests") == (
        "A word is missing; `espcli device porch requests --help` shows what can follow."
    )


@pytest.mark.parametrize("words", list(device_words()), ids=" ".join)
def test_an_unknown_device_is_an_expected_failure(words: list[str], refused: Refusals) -> None:
    """Names that are no names are unknown as well: exit code 1, and where to look."""
    for name in (*ODD_NAMES, "a b", "x" * 65):
        said = refused(*(name if word == "NAME" else word for word in words), code=1)
        assert said == f"No device is named {name!r}; `espcli devices` lists those that exist."


def test_every_printable_name_is_a_name(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    """What looks like a number, a list or python's own word is a text to the registry."""
    name = "porch"
    for new in (*ODD_NAMES, "x" * 64):
        assert main(["rename", name, new]) == 0, new
        assert main(["device", new, "add_dht22", new, "4"]) == 0, new
        assert main(["device", new, "list_dht22"]) == 0, new
        assert main(["device", new, "remove_dht22", new]) == 0, new
        assert fleet.store.device(new).id == "b1"
        name = new
    assert not capsys.readouterr().err


@pytest.mark.parametrize("name", NO_NAMES, ids=repr)
def test_what_cannot_be_a_name_is_refused_everywhere(name: str, refused: Refusals) -> None:
    """Empty, with spaces, with control characters, too long, not text."""
    refused("rename", "porch", name)
    refused("register", "127.0.0.1:1", name)
    refused("device", "porch", "add_dht22", name, "4")


@pytest.mark.parametrize("address", NO_ADDRESSES, ids=lambda text: repr(text[:20]))
def test_an_address_is_a_host_or_a_host_and_a_port(address: str, refused: Refusals) -> None:
    """URLs, paths, ports that are none and hosts that no resolver takes are refused at once."""
    assert "for example 192.168.1.17" in refused("register", address, "attic")


@pytest.mark.parametrize("text", ["-1", "0", *NO_NUMBERS], ids=lambda text: repr(text[:20]))
def test_a_number_is_plain_and_within_its_bounds(text: str, refused: Refusals) -> None:
    """No infinity, no underscores, no digits of other scripts, nothing beyond what makes sense."""
    refused("run", text)
    refused("run", "--device_update_interval", text)
    refused("run", "--device_requests_timeout", text)
    refused("run", f"--metric_upload_interval={text}")
    refused("run", "--log_format", text)
    refused("device", "porch", "interval", text)
    refused("simulate", text)
    refused("demo", "--seconds", text)
    refused("device", "porch", "requests", "get_adc", "2", "4", text)
    if text != "0":
        refused("simulate", "1", "--seed", text)
        refused("simulate", "1", "--beacons", text)
        refused("device", "porch", "requests", "set_gpio", "2", text)
    refused("simulate", "1", f"--heap={text}")


@pytest.mark.parametrize("text", NO_PINS, ids=lambda text: repr(text[:20]))
def test_a_pin_is_a_gpio_number(text: str, refused: Refusals) -> None:
    """From 0 to 54, in plain digits; an empty list is no list."""
    refused("device", "porch", "report_pins", text)
    refused("device", "porch", "add_dht22", "air", text)
    requests = ("device", "porch", "requests")
    refused(*requests, "set_gpio", text, "1")
    refused(*requests, "flip_gpio", text)
    refused(*requests, "get_adc", text)
    refused(*requests, "get_adc", "2", text)
    refused(*requests, "get_dht22", text)


def test_a_pin_that_the_board_does_not_report_is_refused_with_those_that_it_does(
    refused: Refusals,
) -> None:
    """A typing error would be a sensor that is never read, or a metric that never comes."""
    assert refused("device", "porch", "report_pins", "2,17") == (
        "porch has no pin 17; it reports 2, 4, 5."
    )
    refused("device", "porch", "add_dht22", "air", "17")


@pytest.mark.parametrize("text", NO_TAGS, ids=lambda text: repr(text[:20]))
def test_a_tag_is_what_datadog_takes_for_one(text: str, refused: Refusals) -> None:
    """A letter first; an empty one is a comma too many."""
    refused("device", "porch", "tags", text)
    refused("register", "127.0.0.1:1", "attic", "--tags", text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tags"], "--tags needs a value"),
        (["--tags", "--replace"], "--tags needs a value"),
        (["--tags="], "--tags needs a value"),
        (["--tags", "a:b", "--tags", "c:d"], "--tags stands there twice"),
        (["--replace=no"], "--replace takes no value"),
        (["--noreplace"], "has no option '--noreplace'"),
        (["-t", "a:b"], "has no option '-t'"),
        (["--colour", "red"], "has no option '--colour'"),
        (["room:attic"], "There is no place for 'room:attic'"),
        (["--name", "attic"], "There is no place for 'attic'"),
        (["--", "--trace"], "`--` has no meaning here"),
        (["--", "--interactive"], "`--` has no meaning here"),
        (["--", "--completion"], "`--` has no meaning here"),
    ],
    ids=str,
)
def test_an_option_is_known_whole_and_said_once(
    options: list[str], said: str, refused: Refusals
) -> None:
    """What fire would guess (a missing value, a first letter, an order to itself) is an error."""
    assert refused("register", "127.0.0.1:1", "attic", *options).startswith(
        (said, f"`espcli register` {said}")
    )


@pytest.mark.parametrize(
    "words",
    [
        ["_session"], ["__class__"], ["__dir__"], ["device", "porch", "_update"],
        ["device", "porch", "_bare"], ["device", "porch", "update", "_update"],
        ["device", "porch", "requests", "_send"], ["devices", "run"], ["devices", "-", "run"],
        ["device", "porch", "get_f", "real"], ["is_online", "porch", "__class__"], ["ids", "0"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_is_not_a_word_of_the_command_line_cannot_be_reached(
    words: list[str], refused: Refusals
) -> None:
    """Neither python's attributes nor ours, nor those of an answer."""
    refused(*words)


def test_a_typing_error_gets_the_word_that_was_meant(refused: Refusals) -> None:
    """The nearest word where there is one, else all of them."""
    assert refused("devises").endswith("did you mean `espcli devices`?")
    assert refused("device", "porch", "add-dht2", "x").endswith(
        "did you mean `espcli device porch add_dht22`?"
    )
    assert "it has: register, unregister" in refused("zzz")


def test_what_prints_no_data_has_no_json(refused: Refusals) -> None:
    """An option that is there and ignored would be a lie."""
    refused("run", "--json")
    refused("demo", "--json")


def test_an_external_redis_is_not_ours_to_stop(refused: Refusals) -> None:
    """And its password stays where it is."""
    assert "is not EspNet's own" in refused("redis", "stop")
    assert "knows show and stop" in refused("redis", "restart")


@pytest.mark.parametrize("word", [*ODD_NAMES, "-1", "a b", "\x1b[31m", "x" * 65], ids=repr)
def test_a_word_that_is_no_action_and_no_sink_is_said_with_what_there_is(
    word: str, refused: Refusals
) -> None:
    """The word as it was typed, without its control characters, and what can stand in its place."""
    if word not in ("-1", "help"):  # which are no words for a command
        assert refused("sinks", word) == (
            f"`espcli sinks` knows show and forget, not {word!r}; a sink's name follows them."
        )
        assert refused("dead_letters", word) == (
            f"`espcli dead_letters` knows show, retry and drop, not {word!r}; "
            "a sink's name follows them."
        )
    actions = ("show", "retry", "drop")
    for words in ("sinks show", "sinks forget", *(f"dead_letters {a}" for a in actions)):
        assert refused(*words.split(), word, code=1) == (
            f"No sink {word!r} has read samples; `espcli sinks` lists those that have."
        )


def test_a_sink_to_be_forgotten_must_be_named(refused: Refusals) -> None:
    """Nobody forgets all sinks by forgetting a word."""
    for words in (["sinks", "forget"], ["sinks", "forget", ""]):
        assert refused(*words) == "NAME is missing; it goes `espcli sinks forget NAME`."


def test_hyphens_are_underscores(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    """`list-dht22` and `list_dht22` are one word, in options too."""
    assert main(["device", "porch", "list-dht22"]) == 0
    assert main(["run", "--device-update-interval", "0"]) == 2
    assert "must be a number of seconds" in capsys.readouterr().err


def test_redis_that_is_not_there_is_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, refused: Refusals
) -> None:
    """Whatever the command; the sentence holds no password."""
    monkeypatch.setenv("REDIS_URL", "redis://:sesame@127.0.0.1:1")
    for words in (["devices"], ["device", "porch"], ["xinfo"], ["redis"], ["run", "1"]):
        said = refused(*words, code=3)
        assert "127.0.0.1:1" in said
        assert "sesame" not in said


def test_a_variable_that_makes_no_sense_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, refused: Refusals
) -> None:
    """And the sentence names it."""
    monkeypatch.setenv("ESPNET_TIMEOUT", "soon")
    assert refused("devices").startswith("ESPNET_TIMEOUT must be")
