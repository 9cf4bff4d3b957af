"""Laws of the help: every word is explained, nothing is needed to read it."""

import subprocess
import sys

import pytest

from espnet.cli import main
from espnet.cli.grammar import words_of
from espnet.cli.help import GROUPS, WIDTH, markdown_table

PATHS = [path.split()[1:] for path, _ in GROUPS] + [
    [*path.split()[1:], name] for path, group in GROUPS for name in words_of(group)
]


@pytest.fixture(autouse=True)
def no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks Redis fails."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    captured = capsys.readouterr()
    assert not captured.err
    return captured.out


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_word_has_help_in_every_way_of_asking(
    path: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`WORD --help`, `WORD -h` and `help WORD` say the same: usage, then what it does."""
    text = said(capsys, *path, "--help")
    assert text == said(capsys, *path, "-h") == said(capsys, "help", *path)
    lines = text.splitlines()
    assert lines[0].startswith(" ".join(["Usage: espcli", *path]))
    assert max(map(len, lines)) <= WIDTH
    sentence = next(line for line in lines[1:] if line and not line.startswith(" "))
    assert sentence[0].isupper()
    assert sentence.endswith((".", "…"))


def test_no_words_at_all_ask_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever types `espcli` alone learns how to begin."""
    assert said(capsys) == said(capsys, "--help")
    assert "espcli demo" in said(capsys)


def test_help_for_an_unknown_word_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error is not answered with a page about something else."""
    assert main(["help", "devises"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (
        "",
        "espcli: `espcli` has no command 'devises'; did you mean `espcli devices`?\n",
    )


def test_a_device_may_be_called_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The word asks for help only where it stands first."""
    assert said(capsys, "device", "help", "--help").startswith("Usage: espcli device help COMMAND")


def test_help_imports_no_client(capsys: pytest.CaptureFixture[str]) -> None:
    """Help is there at once: neither redis nor requests nor rich is loaded for it."""
    code = (
        "import sys; from espnet.cli import main; main(['device', 'porch', '--help']); "
        "sys.exit(' '.join({'redis', 'requests', 'rich', 'datadog'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "\n" or not done.stderr


def test_the_list_of_devices_imports_only_what_it_needs(redis_url: str) -> None:
    """A command that people run in loops starts fast: no HTTP client, no uploader, no simulator."""
    code = (
        f"import os, sys; os.environ['REDIS_URL'] = {redis_url!r}; "
        "from espnet.cli import main; main(['devices', '--json']); "
        "sys.exit(' '.join({'requests', 'rich', 'datadog', 'uvloop', 'structlog'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n"
    assert done.stderr.splitlines()[1:] in ([], [""])


def test_the_markdown_table_holds_every_word() -> None:
    """README shows each command with its usage, a line each."""
    lines = markdown_table().splitlines()
    assert len(lines) == 2 + sum(len(words_of(group)) for _, group in GROUPS)
    assert "| `espcli device NAME update` | " in markdown_table()
    assert all(line.replace("\\|", "").count("|") == 3 for line in lines)
