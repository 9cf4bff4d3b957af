"""What the documents show is what the program does."""

import re
import shlex
from pathlib import Path

import pytest

from espnet.cli import main
from espnet.cli.help import markdown_table
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
