"""What the documents show is what the program does."""

import re
from pathlib import Path

import pytest

from espnet.cli.help import markdown_table

README = Path(__file__).parent.parent / "README.md"


def test_the_command_table_is_the_programs_own() -> None:
    """README's table, between its two markers, is `espnet.cli.help.markdown_table()`."""
    if not README.exists():
        pytest.skip("there is no README.md yet")
    text = README.read_text(encoding="utf-8")
    section = re.search(r"<!-- commands -->\n(.*?)<!-- /commands -->", text, re.DOTALL)
    assert section, "README.md has no section between <!-- commands --> and <!-- /commands -->"
    assert section[1].strip() == markdown_table().strip()
