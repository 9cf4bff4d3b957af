"""What people may call things: devices, sensors, tags, addresses. Pure.

Invariant: a problem is the end of a sentence about what was typed; None means that it breaks no command, no
table, no URL and no sink.
"""

import ipaddress
import re

_TAG = re.compile(r"[^\W\d_][\w:./\-]{0,199}")
#: Collectors carry it in their names, and the schedule in its keys.
_SHARD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
#: Labels of 1 to 63 characters: resolvers raise UnicodeError for an empty or a longer one.
_LABEL = r"[A-Za-z0-9][A-Za-z0-9\-]{0,62}"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*\.?")
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+(%[\w.\-]+)?)\]", re.ASCII)


def problem_with_name(name: str) -> str | None:
    """What is wrong with a device's or sensor's name, or None.

    Any printable text without spaces will do, but every command would read a leading ``-`` as the
    beginning of an option.
    """
    if not name:
        return "is empty"
    if len(name) > 64:
        return "is longer than 64 characters"
    if not name.isprintable() or any(character.isspace() for character in name):
        return "may hold printable characters only, and no spaces"
    if name.startswith("-"):
        return "may not begin with '-', which begins an option"
    return None


def problem_with_tag(tag: str) -> str | None:
    """What is wrong with a tag by Datadog's rules (a letter first, at most 200 characters), or None."""
    if not _TAG.fullmatch(tag):
        return "must begin with a letter and hold only letters, digits and _ - : . / (at most 200)"
    if tag.startswith("shard:") and (problem := problem_with_shard(tag[6:])):
        return f"names no shard: that {problem}"
    return None


def problem_with_shard(shard: str) -> str | None:
    """What is wrong with the name of a shard, or None."""
    if _SHARD.fullmatch(shard):
        return None
    return "is 1 to 64 letters, digits and _ . - of ASCII"


def problem_with_address(address: str) -> str | None:
    """What is wrong with ``HOST`` or ``HOST:PORT``, or None. IPv6 is written in brackets."""
    host, port = split_address(address)
    if port is None or not 1 <= port <= 65_535:
        return "needs a port between 1 and 65535 after its ':'"
    if host.startswith("["):
        bracketed = _BRACKETED.fullmatch(host)
        try:
            ipaddress.IPv6Address(bracketed[1] if bracketed else "")
        except ValueError:
            return "is not an IPv6 address in brackets"
        return None
    if not _HOST.fullmatch(host):
        return "must be HOST or HOST:PORT, without http:// and without a path"
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            return "is not an IPv4 address: four numbers from 0 to 255"
    return None


def split_address(address: str) -> tuple[str, int | None]:
    """``HOST[:PORT]`` as host and port (80 when none is named, None when it is not a number)."""
    host, separator, port = address.rpartition(":")
    if not separator or address.endswith("]"):
        return address, 80
    return host, int(port) if re.fullmatch(r"[0-9]{1,5}", port) else None
