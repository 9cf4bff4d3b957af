"""Laws of the settings: complete and checked, or one sentence that names the culprit."""

from pathlib import Path

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
    ["ESPNET_INTERVAL", "ESPNET_TIMEOUT", "ESPNET_UPLOAD_INTERVAL", "ESPNET_MAX_SAMPLES"],
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
