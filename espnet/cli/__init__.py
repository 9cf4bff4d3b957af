"""The command line: the only room that prints or exits.

Invariants: python-fire reads the words and nothing else. What it returns is an `Act`, which runs only
after every word has found its place, so that a command with a word too many does nothing at all.
Exit codes: 0 done, 1 expected failure, 2 the words make no sense, 3 Redis cannot be reached.
"""

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from espnet import __version__
from espnet.errors import EspNetError, UsageError

if TYPE_CHECKING:
    from espnet.cli.act import Act


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except EspNetError as error:
        print(f"espcli: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output (head, less) has gone; that is not our failure. The interpreter
        # would complain once more when it flushes what is left.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("espcli: interrupted.", file=sys.stderr)
        return 130


def _run(words: list[str]) -> int:
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    asked = ("help", "-h", "--help")
    if not words or words[0] == "help" or "-h" in words or "--help" in words:
        from espnet.cli.help import help_for

        print(help_for([word for word in words if word not in asked]))
        return 0
    if words == ["--version"]:
        print(f"espcli {__version__}")
        return 0

    from espnet.cli.render import show

    return show(_read(words).run(), as_json=as_json)


def _read(words: list[str]) -> "Act":
    """What the words mean, by fire; its own lengthy errors become one sentence."""
    import fire
    from fire.core import FireExit

    from espnet.cli.act import Act
    from espnet.cli.commands import Commands

    chatter = io.StringIO()
    try:
        with contextlib.redirect_stderr(chatter), contextlib.redirect_stdout(chatter):
            meant = fire.Fire(Commands(), command=words, name="espcli", serialize=lambda _: None)
    except FireExit as error:
        from espnet.cli.help import find, problem_with

        problem = problem_with(words)
        if problem is None:
            what = error.trace.elements[-1].ErrorAsStr().strip().splitlines()[0].rstrip(".")
            what = what.replace("Could not consume arg:", "there is no place for")
            problem = f"{what}; `{find(words).path} --help` shows how it goes."
        raise UsageError(problem) from None
    if isinstance(meant, Act):
        return meant
    # `espcli device porch` ends on a group of words; some groups mean something by themselves.
    if hasattr(meant, "_bare"):
        return cast(Act, meant._bare())
    from espnet.cli.help import find

    raise UsageError(f"A word is missing; `{find(words).path} --help` shows what can follow.")
