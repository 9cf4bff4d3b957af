"""`--help`: made from the commands' own signatures and docstrings, without calling anything.

fire's own help pages would need Redis to describe the words of a device, and open a pager.
"""

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

from espnet.cli.commands import Commands
from espnet.cli.device import DeviceWords, RequestWords
from espnet.errors import UsageError

_START = """\
Getting started:
  espcli demo                             see it work, without hardware
  espcli register 192.168.1.17 porch      add a board
  espcli run                              poll the fleet (keep it running)
  espcli devices                          look at it

Every command that prints data takes --json. `espcli COMMAND --help` tells more.
Exit codes: 0 done, 1 expected failure, 2 wrong words, 3 Redis unreachable.
Settings: REDIS_URL, ESPNET_DATA, ESPNET_PREFIX, ESPNET_INTERVAL, ESPNET_TIMEOUT,
ESPNET_UPLOAD_INTERVAL, ESPNET_MAX_SAMPLES, ESPNET_LOG_FORMAT; DATADOG_API_KEY,
DATADOG_APP_KEY, DATADOG_HOST."""


def words_of(group: type) -> Iterator[tuple[str, str, str]]:
    """The words of a group: name, usage of its arguments, first sentence; in the source's order."""
    for name, member in vars(group).items():
        if not name.startswith("_"):
            yield name, _arguments(member), _first_line(member)


class Place(NamedTuple):
    """Where words lead: the path as typed, and the word or the group of words found there.

    ``unknown`` is the first word that leads nowhere, "" when there is none.
    """

    path: str
    group: type
    member: Any = None
    unknown: str = ""


def find(words: list[str]) -> Place:
    """Follows words down to a command or a group."""
    path: list[str] = ["espcli"]
    group: type = Commands
    rest = [word for word in words if not word.startswith("--")]
    while rest:
        typed = rest.pop(0)
        word = typed.replace("-", "_")
        member = None if word.startswith("_") else vars(group).get(word)
        if member is None:
            return Place(" ".join(path), group, None, typed)
        path.append(word)
        if word == "device" and group is Commands:
            group = DeviceWords
            path.append(rest.pop(0) if rest else "NAME")
        elif word == "requests" and group is DeviceWords:
            group = RequestWords
        else:
            return Place(" ".join(path), group, member)
    return Place(" ".join(path), group)


def problem_with(words: list[str]) -> str | None:
    """The sentence for words that lead nowhere, or None."""
    place = find(words)
    if not place.unknown:
        return None
    known = ", ".join(name for name, _, _ in words_of(place.group))
    return f"`{place.path}` has no command {place.unknown!r}; it has: {known}."


def help_for(words: list[str]) -> str:
    """The help text for a command or a group; raises `UsageError` for what is neither."""
    problem = problem_with(words)
    if problem:
        raise UsageError(problem)
    place = find(words)
    if place.member is None:
        return _group_help(place.path, place.group)
    return _member_help(place.path, place.member)


def _group_help(path: str, group: type) -> str:
    lines = [f"Usage: {path} COMMAND …", "", inspect.getdoc(group) or "", "", "Commands:"]
    for name, arguments, line in words_of(group):
        left = f"{name} {arguments}".strip()
        if len(left) > 26:
            lines += [f"  {left}", f"  {'':26}  {line}"]
        else:
            lines.append(f"  {left:26}  {line}")
    if group is Commands:
        lines += ["", _START]
    return "\n".join(lines)


def _member_help(path: str, member: Any) -> str:
    usage = f"Usage: {path} {_arguments(member)}".rstrip()
    return f"{usage}\n\n{inspect.getdoc(member)}"


def _arguments(member: Any) -> str:
    """``ADDRESS NAME [--tags TAGS] [--replace]``"""
    if isinstance(member, property):
        return "…"
    parts = []
    for parameter in list(inspect.signature(member).parameters.values())[1:]:
        upper = parameter.name.upper()
        if parameter.default is inspect.Parameter.empty:
            parts.append(upper)
        elif parameter.default == "false":
            parts.append(f"[--{parameter.name}]")
        elif parameter.name in _BY_POSITION:
            parts.append(f"[{upper}]")
        else:
            parts.append(f"[--{parameter.name} {_VALUES.get(parameter.name, upper)}]")
    return " ".join(parts)


#: What an option's value is called where its own name would only say it again.
_VALUES = {
    "device_update_interval": "S",
    "device_requests_timeout": "S",
    "metric_upload_interval": "S",
    "log_format": "text|json",
    "seconds": "N",
    "seed": "N",
    "heap": "SIZE",
}

#: Optional arguments that people give by position rather than by name.
_BY_POSITION = ("heartbeat", "action", "power_pin", "samples")


def _first_line(member: Any) -> str:
    return (inspect.getdoc(member) or "").splitlines()[0].rstrip(".")
