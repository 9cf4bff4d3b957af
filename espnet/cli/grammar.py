"""From typed words to an `Act`: where words lead, and a sentence for those that lead nowhere.

python-fire follows the words and fits them to parameters. Before it does, options are brought into
the one form that fire cannot misread (``--tags=a``): alone it would take `--tags` without a value for
the text "True", `-n` for any option that begins with n, and words after `--` for orders to itself.
"""

import contextlib
import inspect
import io
import keyword
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from espnet.cli.act import Act, Words, words_of
from espnet.cli.board import BoardWords
from espnet.cli.commands import Commands
from espnet.cli.credentials import CredentialWords
from espnet.cli.device import DeviceWords
from espnet.cli.direct import RequestWords
from espnet.cli.parse import quoted
from espnet.cli.render import Exit
from espnet.cli.upkeep import SettingsWords
from espnet.errors import UsageError

#: Longest word in characters; the longest sensible one is a list of tags.
MAX_WORD = 4096
#: Most characters of a list of words in an error.
_LISTED = 220

#: The words that others follow.
_GROUPS: dict[Any, type[Words]] = {
    Commands.board: BoardWords,
    DeviceWords.requests: RequestWords,
    DeviceWords.credentials: CredentialWords,
    DeviceWords.settings: SettingsWords,
}
_OPTION = re.compile(r"--|-[A-Za-z]")
#: What an option's value is called where its own name would only say it again.
_VALUES = {
    "device_update_interval": "SECONDS",
    "device_requests_timeout": "SECONDS",
    "metric_upload_interval": "SECONDS",
    "prometheus": "ADDRESS",
    "log_format": "text|json",
    "private": "yes|no",
    "seconds": "N",
    "tag": "KEY=VALUE",
    "seed": "N",
    "heap": "SIZE",
    "days": "DAYS",
    "lat": "DEGREES",
    "lon": "DEGREES",
    "window": "MINUTES",
    "mode": "heat|cool",
    "band": "B",
    "min_on": "TIME",
    "min_off": "TIME",
    "max_age": "TIME",
    "stale": "off|on|hold",
    "unit": "c|f",
    "for": "TIME",
    "why": "TEXT",
    "readings": "FILE",
    "last": "TIME",
    "every": "TIME",
    "png": "FILE",
    "add": "WHAT",
    "remove": "WHAT",
    "firmware": "FILE",
    "settings": "FILE",
    "baud": "N",
    "beacons": "PORT",
    "keep": "FOLDER",
    "into": "FOLDER",
    "device": "NAME",
    "to": "WHAT",
    "minutes": "N",
    "settle": "TIME",
}


class Place(NamedTuple):
    """Where words lead: the path as typed, and the word or the group of words found there.

    ``unknown`` is the first word that leads nowhere, "" when there is none.
    """

    path: str
    group: type[Words]
    member: Any = None
    unknown: str = ""

    @property
    def usage(self) -> str:
        """`espcli register ADDRESS NAME [--tags TAGS] [--replace]`"""
        if self.member is None:
            return f"{self.path} COMMAND …"
        return " ".join([self.path, *arguments(self.member)])


def parameters(member: Any) -> Mapping[str, inspect.Parameter]:
    """The parameters that a person gives a value."""
    if not callable(member):
        return {}  # a property: the name of another group
    found = dict(inspect.signature(member).parameters)
    found.pop("self")
    return found


def arguments(member: Any) -> list[str]:
    """``ADDRESS``, ``NAME``, ``[--tags TAGS]``, ``[--replace]``"""
    parts = []
    for name, parameter in parameters(member).items():
        name = name.rstrip("_")
        upper = name.upper()
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            parts.append("[NAME …]" if name == "names" else "KEY=VALUE…")
        elif parameter.default is inspect.Parameter.empty:
            parts.append(upper)
        elif parameter.default is False:
            parts.append(f"[--{name}]")
        elif parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            parts.append(f"[--{name} {_VALUES.get(name, upper)}]")
        else:
            parts.append(f"[{upper}]")
    return parts


def find(words: list[str]) -> Place:
    """Follows words down to a command or a group. Options are passed over."""
    path: list[str] = ["espcli"]
    group: type[Words] = Commands
    member: Any = None
    rest = [word for word in words if word != "-" and not _OPTION.match(word)]
    while rest:
        typed = rest.pop(0)
        word = typed.replace("-", "_")
        member = words_of(group).get(word)
        if member is None:
            return Place(" ".join(path), group, None, typed)
        path.append(word)
        if member is Commands.device:
            group, member = DeviceWords, None
            path.append(rest.pop(0) if rest else "NAME")
        elif member in _GROUPS:
            group, member = _GROUPS[member], None
        elif member is not DeviceWords.update:  # after `update` the device's words go on
            break
    return Place(" ".join(path), group, member)


def known(words: list[str]) -> Place:
    """`find`, for words that lead somewhere; raises `UsageError` for others."""
    place = find(words)
    if not place.unknown:
        return place
    import difflib

    names = list(words_of(place.group))
    close = difflib.get_close_matches(place.unknown.replace("-", "_"), names, 1)
    if close:
        advice = f"did you mean `{place.path} {close[0]}`?"
    else:
        there = textwrap.shorten(", ".join(names), _LISTED, placeholder=" … (--help has all)")
        advice = f"it has: {there}."
    raise UsageError(f"`{place.path}` has no command {quoted(place.unknown)}; {advice}")


def read(words: list[str], *, as_json: bool = False) -> Act:
    """What the words mean; raises `UsageError`."""
    for word in words:
        _check(word)
    place = known(words)
    if as_json and place.member and inspect.signature(place.member).return_annotation is Exit:
        raise UsageError(f"`{place.path}` prints no data, so it has no --json.")
    meant = _fire(list(_options_filled(words, place)), place)
    if isinstance(meant, Words):
        meant = meant._bare()
    if isinstance(meant, Act):
        return meant
    raise UsageError(f"A word is missing; `{place.path} --help` shows what can follow.")


def _check(word: str) -> None:
    if len(word) > MAX_WORD:
        raise UsageError(f"The word {quoted(word)} is longer than {MAX_WORD:,} characters.")
    try:
        word.encode()
    except UnicodeEncodeError:
        raise UsageError(f"The word {word!a} is not UTF-8 text.") from None
    if word == "--":
        raise UsageError("`--` has no meaning here; leave it out.")


def _options_filled(words: list[str], place: Place) -> Iterator[str]:
    """The words, with every option as ``--option=value``."""
    possible = parameters(place.member) if place.member else {}
    seen = set()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not _OPTION.match(word):
            yield word
            continue
        option, equals, value = word.partition("=")
        name = option[2:].replace("-", "_")
        if keyword.iskeyword(name):
            name += "_"  # --for is for_ in Python
        if not option.startswith("--") or name not in possible:
            raise UsageError(
                f"`{place.path}` has no option {quoted(option)}; it goes `{place.usage}`."
            )
        if name in seen:
            raise UsageError(f"{option} stands there twice; say it once.")
        seen.add(name)
        if possible[name].default is False:
            if equals:
                raise UsageError(f"{option} takes no value; it is there or not.")
            value = "yes"
        elif not equals and rest and not _OPTION.match(rest[0]):
            value = rest.pop(0)
        if not value:
            raise UsageError(f"{option} needs a value; it goes `{place.usage}`.")
        yield f"--{name}={value}"


def _fire(words: list[str], place: Place) -> Any:
    """What fire finds at the end of the words; its own lengthy errors become one sentence."""
    import fire
    from fire.core import FireExit

    chatter = io.StringIO()
    try:
        with contextlib.redirect_stderr(chatter), contextlib.redirect_stdout(chatter):
            return fire.Fire(Commands(), command=words, name="espcli", serialize=lambda _: None)
    except FireExit as error:
        what = error.trace.elements[-1].ErrorAsStr()
    said, _, subject = what.partition(": ")
    if said == "The function received no value for the required argument":
        problem = f"{subject.upper()} is missing"
    elif said == "Could not consume arg":
        problem = f"There is no place for {quoted(subject)}"
    else:
        problem = "These words do not fit together"
    usage = place.usage if place.member else f"{place.path} --help"
    raise UsageError(f"{problem}; it goes `{usage}`.")
