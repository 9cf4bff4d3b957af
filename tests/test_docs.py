"""What the documents show is what the program does."""

import re
import shlex
from pathlib import Path

import pytest

from espnet import store
from espnet.cli import main
from espnet.cli.grammar import read
from espnet.cli.help import help_for, markdown_table
from espnet.config import SINKS
from espnet.simulator import Fleet

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def test_the_command_table_is_the_programs_own() -> None:
    """README's table, between its two markers, is `espnet.cli.help.markdown_table()`."""
    if not README.exists():
        pytest.skip("there is no README.md yet")
    text = README.read_text(encoding="utf-8")
    section = re.search(r"<!-- commands -->\n(.*?)<!-- /commands -->", text, re.DOTALL)
    assert section, "README.md has no section between <!-- commands --> and <!-- /commands -->"
    assert section[1].strip() == markdown_table().strip()


def section(title: str) -> str:
    """A section of README, without those below it."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"^## {title}\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    assert found, f"README.md has no section {title}"
    return found[1]


def test_every_setting_is_in_the_table_and_in_the_help() -> None:
    """The variables that the program reads, and no others: nobody has to look into the source."""
    source = (ROOT / "espnet" / "config.py").read_text(encoding="utf-8")
    read = set(re.findall(r'"((?:ESPNET|DATADOG|REDIS)_[A-Z_]+)"', source))
    first_column = "".join(re.findall(r"^\| (.*?) \|", section("Settings"), re.MULTILINE))
    assert set(re.findall(r"`([A-Z_]+)`", first_column)) == read
    assert set(re.findall(r"[A-Z]+_[A-Z_]+", help_for([]).partition("Settings:")[2])) == read


def test_every_sink_and_its_settings_are_on_the_page() -> None:
    """docs/sinks.md lists the sinks that can be chosen, and only settings that are read."""
    page = (ROOT / "docs" / "sinks.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `([a-z]+)` \| .* \|(.*)\|$", page.partition("```sh")[0], re.MULTILINE)
    assert {name for name, _ in table} == set(SINKS)
    named = {word for _, text in table for word in re.findall(r"`([A-Z_]+)`", text)}
    assert named <= set(re.findall(r"`([A-Z_]+)`", section("Settings")))


def test_every_key_is_in_the_table() -> None:
    """README's keys are those of the store's own table, with their types."""
    own = re.findall(r"^``(.*?)``\s+(\w+)", store.__doc__ or "", re.MULTILINE)
    table = re.findall(r"^\| `(.*?)` \| (.*?) \|", section("Keys in Redis"), re.MULTILINE)
    names = {"sorted set": "zset", "integer": "int"}
    assert {key: names.get(kind, kind) for key, kind in table} == dict(own)


def test_the_commands_of_the_jobs_page_work_as_printed(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line of its shell blocks, in their order, on a real board: exit code 0."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    page = (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    commands = re.findall(r"^espcli (.*)$", "\n".join(blocks), re.MULTILINE)
    assert len(commands) > 10
    with Fleet(1, compiled=True) as fleet:
        fleet[0].set(dht={"15": [18.0, 45.0]})
        assert main(["register", fleet[0].address, "porch"]) == 0
        for command in commands:
            assert main(shlex.split(command)) == 0, command


@pytest.mark.parametrize(
    "page", [README, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_every_printed_command_has_a_meaning(page: Path) -> None:
    """Each `espcli` line of a shell block, in README and in docs/, is one that the program understands."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = [shlex.split(line, comments=True) for line in "\n".join(blocks).splitlines()]
    for words in lines:
        while words and "=" in words[0]:
            del words[0]  # a setting for this command only
        if words and words[0].endswith("espcli"):
            command = [word for word in words[1:] if word != ">" and not word.endswith(".csv")]
            as_json = "--json" in command
            read([word for word in command if word != "--json"], as_json=as_json)
