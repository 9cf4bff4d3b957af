"""The command line: the only room that prints or exits.

::

    grammar   words → an `Act`, by python-fire       render    data → table, lines or JSON
       │                                                ▲
    commands ── device ── direct   what words mean ─────┘
       │           │
    session       poll     the store and the settings; polls for a person

Invariants: python-fire reads the words and nothing else. What it returns is an `Act`, which runs only
after every word has found its place, so that a command with a word too many does nothing at all.
Exit codes: 0 done, 1 expected failure, 2 the words make no sense, 3 Redis cannot be reached.
Modules are imported when they are needed: a command that takes 0.2 s to start is not used in a loop.
"""

import io
import os
import sys
from collections.abc import Sequence

from espnet import __version__
from espnet.errors import EspNetError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if sys.stdout is None:  # closed by the caller: `espcli … >&-`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it stays open
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A device may be called 🏠 and the terminal know Latin only.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run(words)
    except EspNetError as error:
        print(f"espcli: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 0  # the reader of our output (head, less) has seen enough
    except KeyboardInterrupt:
        print("espcli: interrupted.", file=sys.stderr)
        return 130
    finally:
        _let_go_of_stdout()


def _run(words: list[str]) -> int:
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    wants_help = not words or words[0] == "help" or "-h" in words or "--help" in words
    if wants_help:
        from espnet.cli.help import help_for

        if words[:1] == ["help"]:
            words = words[1:]
        answer: object = help_for([word for word in words if word not in ("-h", "--help", "--")])
        as_json = False
    elif words == ["--version"]:
        answer, as_json = f"espcli {__version__}", False
    else:
        from espnet.cli.grammar import read

        answer = read(words, as_json=as_json).run()

    from espnet.cli.render import show

    return show(answer, as_json=as_json)


def _let_go_of_stdout() -> None:
    """What could not be written until now never will be, and the interpreter would say so once more."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
