"""`--help`: made from the commands' own signatures and docstrings, without calling anything.

fire's own help pages would need Redis to describe the words of a device, and open a pager.
"""

import inspect
from collections.abc import Iterator
from typing import Any

from espnet.cli.act import Words, words_of
from espnet.cli.board import BoardWords
from espnet.cli.commands import Commands
from espnet.cli.credentials import CredentialWords
from espnet.cli.device import DeviceWords
from espnet.cli.direct import RequestWords
from espnet.cli.grammar import Place, arguments, known
from espnet.cli.upkeep import SettingsWords

_START = """\
Getting started:
  espcli demo                             see it work, without hardware
  espcli board flash                      MicroPython onto the board on the USB cable, then
  espcli board put, board provision       EspNet's program, and your Wi-Fi
  espcli register 192.168.1.17 porch      add a board
  espcli run                              poll the fleet (keep it running)
  espcli devices                          look at it
  espcli doctor                           what is wrong, and what to do about it

Every command that prints data takes --json. `espcli COMMAND --help` tells more.
Exit codes: 0 done, 1 expected failure, 2 wrong words, 3 Redis unreachable.
Settings: REDIS_URL, ESPNET_DATA, ESPNET_PREFIX, ESPNET_INTERVAL, ESPNET_TIMEOUT,
ESPNET_UPLOAD_INTERVAL, ESPNET_SINKS, ESPNET_MAX_SAMPLES, ESPNET_QUEUE_MB, ESPNET_HISTORY_MB,
ESPNET_MAX_METRICS, ESPNET_PROMETHEUS, ESPNET_DOGSTATSD, ESPNET_FILE, ESPNET_FILE_MB,
ESPNET_SECRET_KEY, ESPNET_LOG_FORMAT, ESPNET_ZONE, ESPNET_LAT, ESPNET_LON, ESPNET_BEACONS,
ESPNET_SHARD; DATADOG_API_KEY, DATADOG_APP_KEY, DATADOG_HOST."""

#: The groups of the command line and where they begin.
GROUPS: tuple[tuple[str, type[Words]], ...] = (
    ("espcli", Commands),
    ("espcli board", BoardWords),
    ("espcli device NAME", DeviceWords),
    ("espcli device NAME requests", RequestWords),
    ("espcli device NAME credentials", CredentialWords),
    ("espcli device NAME settings", SettingsWords),
)
#: Widest line of a help text, in columns.
WIDTH = 100
#: Width of the left column of a group's list.
_LEFT = 29


def help_for(words: list[str]) -> str:
    """The help text for a command or a group; raises `UsageError` for what is neither."""
    place = known(words)
    about = place.group if place.member is None else place.member
    lines = [*_usage(place), "", inspect.getdoc(about) or ""]
    if place.member is None:
        lines += ["", "Commands:", *_list(place.group)]
    if place.group is Commands and place.member is None:
        lines += ["", _START]
    return "\n".join(lines)


def markdown_table() -> str:
    """Every command with its usage and what it does, as README shows them."""
    lines = ["| command | what it does |", "|---|---|"]
    for path, group in GROUPS:
        for name, member in words_of(group).items():
            usage = " ".join([path, name, *arguments(member)]).replace("|", "\\|")
            lines.append(f"| `{usage}` | {_first_line(member)} |")
    return "\n".join(lines) + "\n"


def _usage(place: Place) -> list[str]:
    """The usage, broken between arguments where it is too long."""
    if place.member is None:
        return [f"Usage: {place.usage}"]
    lines = [f"Usage: {place.path}"]
    indent = " " * len(lines[0])
    for part in arguments(place.member):
        if len(f"{lines[-1]} {part}") > WIDTH:
            lines.append(indent)
        lines[-1] += f" {part}"
    return lines


def _list(group: type[Words]) -> Iterator[str]:
    for name, member in words_of(group).items():
        left = " ".join([name, *arguments(member)])
        if len(left) > _LEFT:
            # What may be left out is the business of the command's own help.
            left = " ".join([name, *(part for part in arguments(member) if part[0] != "[")])
            left += " …"
        if len(left) > _LEFT:
            yield f"  {left}"
            left = ""
        yield f"  {left:{_LEFT}}  {_first_line(member)}"


def _first_line(member: Any) -> str:
    return (inspect.getdoc(member) or "").splitlines()[0].rstrip(".")
