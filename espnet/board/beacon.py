"""What a board says of itself to everybody, unasked: one UDP datagram. Pure.

Invariants: a beacon is a hint where to look, never a proof of anything: whoever is on the network can send
one. What is not just as a board sends it is no beacon. The address that it names is the one that it came
from, so that nobody can have us call a third party, or this machine itself.
"""

import ipaddress
import re
from typing import Literal, NamedTuple

import msgspec

#: Where boards send it.
PORT = 8469
#: Most bytes of one.
MAX_BYTES = 400

_ID = re.compile(r"[0-9a-f]{12,16}")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?")
_VERSION = re.compile(r"[0-9A-Za-z.+_-]{1,32}")
_BOOT = re.compile(r"[0-9a-f]{1,32}")


class Beacon(NamedTuple):
    """``address`` is ``IP`` or ``IP:PORT``; ``boot`` is another one at every boot. ``name``, ``version`` and
    ``boot`` are "" where the board said none that can be one."""

    id: str
    address: str
    name: str = ""
    version: str = ""
    boot: str = ""


class _Said(msgspec.Struct):
    espnet: Literal[1]
    id: str
    address: str
    port: int = 80
    name: str = ""
    version: str = ""
    boot: str = ""


_decoder = msgspec.json.Decoder(_Said)


def decode(datagram: bytes, source: str) -> Beacon | None:
    """The beacon that a datagram from the IPv4 address ``source`` is, if it is one."""
    if len(datagram) > MAX_BYTES:
        return None
    try:
        if not datagram.isascii():
            datagram.decode()  # msgspec does not look into what it skips
        said = _decoder.decode(datagram)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not (_ID.fullmatch(said.id) and 1 <= said.port <= 65_535):
        return None
    if not (is_board_like(said.address) and _is_from(said.address, source)):
        return None
    return Beacon(
        said.id,
        said.address if said.port == 80 else f"{said.address}:{said.port}",
        said.name if _NAME.fullmatch(said.name) else "",
        said.version if _VERSION.fullmatch(said.version) else "",
        said.boot if _BOOT.fullmatch(said.boot) else "",
    )


def is_board_like(address: str) -> bool:
    """Whether an IPv4 address can be that of one board: neither everybody's nor nobody's."""
    try:
        ip = ipaddress.IPv4Address(address)
    except ValueError:
        return False
    return not (ip.is_multicast or ip.is_unspecified or ip.is_reserved)


def _is_from(address: str, source: str) -> bool:
    """Of this machine's own programs (simulated boards) each may be at any loopback address."""
    return address == source or (address.startswith("127.") and source.startswith("127."))
