"""Laws of the settings: complete and checked, or one sentence that names the culprit."""

from pathlib import Path

import msgspec
import pytest

from espnet import config
from espnet.errors import UsageError


def read(**environ: str) -> config.Config:
    return config.from_environment({"ESPNET_DATA": "/data", **environ})


def test_an_empty_environment_gives_the_defaults_of_2021() -> None:
    """10 s between polls, 2 s of patience, 15 s between uploads."""
    settings = read()
    assert (settings.interval_s, settings.timeout_s, settings.upload_interval_s) == (10, 2, 15)
    assert settings.redis_url is None
    assert settings.data_dir == Path("/data")


def test_without_a_folder_data_lie_where_the_platform_keeps_them() -> None:
    """No variable is needed to begin."""
    assert config.from_environment({}).data_dir.name == "espnet"


def test_every_variable_is_read() -> None:
    """What a person sets is what the program uses."""
    settings = read(
        REDIS_URL="redis://r/1",
        ESPNET_PREFIX="lab:",
        ESPNET_INTERVAL="2.5",
        ESPNET_TIMEOUT=".5",
        ESPNET_UPLOAD_INTERVAL="1e2",
        ESPNET_MAX_SAMPLES="5000",
        ESPNET_LOG_FORMAT="json",
        DATADOG_API_KEY="k",
        DATADOG_APP_KEY="a",
        DATADOG_HOST="http://h",
    )
    assert settings.redis_url == "redis://r/1"
    assert settings.prefix == "lab:"
    assert (settings.interval_s, settings.timeout_s) == (2.5, 0.5)
    assert (settings.upload_interval_s, settings.max_samples) == (100, 5000)
    assert settings.log_format == "json"
    assert (settings.datadog_api_key, settings.datadog_app_key) == ("k", "a")
    assert settings.datadog_host == "http://h"


#: variable → the field of `Config` that it sets, and good texts with what they mean.
NEW_SETTINGS = {
    "ESPNET_SINKS": (
        "sinks",
        {
            "datadog": ("datadog",),
            "file,console": ("file", "console"),
            " file , console ": ("file", "console"),
            "file,,console,": ("file", "console"),
            "file,console,file": ("file", "console"),
            "datadog,dogstatsd,prometheus,file,console": config.SINKS,
            "none": (),
            "my_file:MyClass": ("my_file:MyClass",),
            "a.b.c:_D,datadog": ("a.b.c:_D", "datadog"),
        },
    ),
    "ESPNET_QUEUE_MB": ("max_bytes", {"1": 10**6, "256": 256 * 10**6, "1000000": 10**12}),
    "ESPNET_HISTORY_MB": ("history_bytes", {"0": 0, "8": 8 * 10**6}),
    "ESPNET_MAX_METRICS": ("max_metrics", {"1": 1, "100": 100}),
    "ESPNET_PROMETHEUS": (
        "prometheus",
        {
            "127.0.0.1:9469": "127.0.0.1:9469",
            "9469": "127.0.0.1:9469",
            ":9469": "127.0.0.1:9469",
            "[::1]:9469": "[::1]:9469",
            "porch.local:80": "porch.local:80",
        },
    ),
    "ESPNET_DOGSTATSD": (
        "dogstatsd",
        {
            "127.0.0.1:8125": "127.0.0.1:8125",
            "8125": "127.0.0.1:8125",
            "agent:8125": "agent:8125",
            "unix:///var/run/datadog/dsd.socket": "unix:///var/run/datadog/dsd.socket",
        },
    ),
    "ESPNET_FILE": ("file", {"/tmp/x.jsonl": Path("/tmp/x.jsonl"), "x": Path("x")}),
    "ESPNET_FILE_MB": ("file_bytes", {"1": 10**6, "100": 10**8}),
    "ESPNET_BEACONS": (
        "beacons",
        {"off": "", "0.0.0.0:8469": "0.0.0.0:8469", "127.255.255.255:9": "127.255.255.255:9"},
    ),
}


@pytest.mark.parametrize(
    ("variable", "text"),
    [(variable, text) for variable, (_, texts) in NEW_SETTINGS.items() for text in texts],
)
def test_what_a_sink_needs_is_set_by_its_variable(variable: str, text: str) -> None:
    """Each variable changes its own field, to what is meant by it, and no other."""
    field, texts = NEW_SETTINGS[variable]
    assert read(**{variable: text}) == msgspec.structs.replace(read(), **{field: texts[text]})


def test_nobody_who_says_nothing_has_a_sink_or_a_page() -> None:
    """The bounds are those of the documents; nothing is sent or served anywhere."""
    settings = read()
    assert (settings.sinks, settings.prometheus, settings.max_metrics) == (None, "", None)
    assert (settings.max_samples, settings.max_bytes) == (10**6, 256 * 10**6)
    assert (settings.history_bytes, settings.file_bytes) == (256 * 10**6, 10**8)
    assert settings.dogstatsd == "127.0.0.1:8125"
    assert settings.beacons == "0.0.0.0:8469"
    assert settings.file == Path("/data/samples.jsonl")


#: variable → texts that are refused, and words of the sentence.
REFUSED = {
    "ESPNET_BEACONS": {
        "on": "such as 0.0.0.0:8469, or off; not 'on'",
        "Off": "or off",
        "8469": "or off",
        ":8469": "or off",
        "0.0.0.0": "or off",
        "0.0.0.0:": "or off",
        "0.0.0.0:0": "or off",
        "0.0.0.0:65536": "or off",
        "0.0.0:8469": "or off",
        "0.0.0.256:8469": "or off",
        "[::]:8469": "or off",
        "localhost:8469": "or off",
        "0.0.0.0:8469,1.2.3.4:8469": "or off",
        "0.0.0.0:٣": "or off",
        "\x1b[31m": "or off",
    },
    "ESPNET_SINKS": {
        "datadgo": "there is no sink 'datadgo'; choose among datadog, dogstatsd",
        "Datadog": "there is no sink 'Datadog'",
        "file;console": "there is no sink 'file;console'",
        "file console": "there is no sink 'file console'",
        "none,file": "none stands alone",
        ",": "names no sink; write none for none",
        " ": "names no sink",
        "my_file:": "there is no sink 'my_file:'",
        ":MyClass": "MODULE:CLASS for one of your own",
        "my-file:MyClass": "there is no sink",
        "a:b:c": "there is no sink",
        "a/b:C": "there is no sink",
        "ñ:C": "there is no sink",
        "\x1b[31m": "there is no sink",
    },
    "ESPNET_QUEUE_MB": {
        "0": "from 1 to 1000000",
        "1.5": "must be a whole number",
        "1MB": "must be",
    },
    "ESPNET_HISTORY_MB": {"-1": "from 0 to 1000000", "1000001": "must be", "²": "must be"},
    "ESPNET_MAX_METRICS": {"0": "from 1 to 1000000000", "many": "must be a whole number"},
    "ESPNET_FILE_MB": {"0": "from 1 to 1000000", "٣": "must be a whole number"},
    "ESPNET_PROMETHEUS": {
        "localhost": "'localhost' needs a port",
        "127.0.0.1": "needs a port",
        "http://127.0.0.1:9469": "without http://",
        "127.0.0.1:0": "needs a port between 1 and 65535",
        "127.0.0.1:65536": "needs a port between",
        "99999": "'99999' needs a port between",
        "0": "needs a port between",
        "²": "needs a port between",
        "127.0.0.1:9469/metrics": "needs a port between",
        "::1": "must be HOST or HOST:PORT",
        "[::1": "brackets",
        "a b:1": "must be HOST",
        "1.2.3:9469": "is not an IPv4 address",
    },
    "ESPNET_DOGSTATSD": {
        "agent": "needs a port",
        "udp://127.0.0.1:8125": "without http://",
        "unix:": "needs a port",
        "unix://": "names no socket; write unix:///var/run",
        "unix:///": "names no socket",
        "unix://relative.socket": "names no socket",
        "unix:///a\nb": "names no socket",
    },
}


@pytest.mark.parametrize(
    ("variable", "text"), [(variable, text) for variable in REFUSED for text in REFUSED[variable]]
)
def test_what_a_setting_cannot_be_is_said_with_its_name(variable: str, text: str) -> None:
    """One sentence: which variable, what was in it, what may be in it; no control characters."""
    with pytest.raises(UsageError) as caught:
        read(**{variable: text})
    said = str(caught.value)
    assert said.startswith(variable)
    assert REFUSED[variable][text] in said
    assert said.isprintable()
    assert said.endswith(".")


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    """`REDIS_URL= espcli …` is how a shell unsets for one command."""
    assert read(REDIS_URL="", ESPNET_INTERVAL="", DATADOG_HOST="") == read()


def test_the_datadog_librarys_newer_names_count_where_the_older_do_not() -> None:
    """DATADOG_API_KEY, else DD_API_KEY."""
    assert read(DD_API_KEY="new").datadog_api_key == "new"
    assert read(DD_API_KEY="new", DATADOG_API_KEY="old").datadog_api_key == "old"


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0", "1_000", "٣", "1e400", "9" * 5000, " 5"])
@pytest.mark.parametrize(
    "variable",
    [
        *("ESPNET_INTERVAL", "ESPNET_TIMEOUT", "ESPNET_UPLOAD_INTERVAL", "ESPNET_MAX_SAMPLES"),
        *("ESPNET_QUEUE_MB", "ESPNET_MAX_METRICS", "ESPNET_FILE_MB"),
    ],
)
def test_a_number_that_is_none_is_refused_by_its_variables_name(variable: str, text: str) -> None:
    """What Python's own float() would take, infinity and Arabic digits included, is no setting."""
    with pytest.raises(UsageError, match=f"^{variable} must be "):
        read(**{variable: text})


def test_a_log_format_is_text_or_json() -> None:
    """Anything else is refused with what there is."""
    with pytest.raises(UsageError, match="ESPNET_LOG_FORMAT must be text or json, not 'xml'"):
        read(ESPNET_LOG_FORMAT="xml")


def test_the_command_line_wins_over_the_environment() -> None:
    """An option that was said replaces the variable's value; one that was not leaves it."""
    settings = config.override(
        read(ESPNET_INTERVAL="5", ESPNET_TIMEOUT="1"),
        {"interval_s": ("--device_update_interval", "7"), "timeout_s": ("--t", "")},
    )
    assert (settings.interval_s, settings.timeout_s) == (7, 1)


def test_secrets_do_not_show() -> None:
    """A log line or a traceback with the settings in it gives nothing away."""
    shown = repr(read(REDIS_URL="redis://:sesame@h", DATADOG_API_KEY="sesame"))
    assert "sesame" not in shown


def test_no_two_processes_have_one_holder() -> None:
    """A lock's holder is unique even when process ids repeat on two machines of one name."""
    assert config.holder("cli") != config.holder("cli")
    assert config.holder("cli").startswith("cli@")
