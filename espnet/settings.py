"""What a board keeps in its `settings.json`, checked before it is sent or written. Pure.

Invariants: what passes here the board takes; whatever does not is a `BadSettings` that names the field and
never repeats a password. Keys that nobody knows are refused: a misspelt one would be a wish that nothing
fulfils. A ``repr`` shows no password.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from espnet.errors import UsageError
from espnet.model import CONSOLE_PINS, FLASH_PINS, INPUT_ONLY_PINS, MAX_PIN
from espnet.names import problem_with_address
from espnet.windows import parse_zone

#: Most bytes that a board takes.
MAX_BYTES = 2048
#: Most networks, and most names of its own.
MAX_WIFI, MAX_NAMES = 8, 8
WATCHDOG_RANGE_S = (10, 600)
MAX_ZONE = 40
#: A password of WPA: so many characters, and no more bytes than the longest has characters.
PASSWORD_RANGE = (8, 63)

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?")
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z)({_LABEL}\.)*{_LABEL}")
_COUNTRY = re.compile(r"[A-Z]{2}")
_PIN = re.compile(r"0|[1-9][0-9]?")
_SAFE, _PULL = ("low", "high", "hold"), ("up", "down", "none")


class BadSettings(UsageError):
    """Settings that no board takes. ``field`` is the path of the one that is wrong: ``wifi[0].password``."""

    def __init__(self, field: str, what: str) -> None:
        self.field, self.what = field, what
        super().__init__(f"{field or 'settings.json'} {what}.")


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Wi-Fi. ``password``: "" or False for an open one; True keeps the one that the board has for this
    ``ssid``; absent, somebody has to be asked for it."""

    ssid: str
    password: str | bool | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"Network({self.ssid!r})"


class AccessPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The network that a board opens when it finds none. ``password`` as in `Network`, but never open."""

    password: str | bool | UnsetType = UNSET

    def __repr__(self) -> str:
        return "AccessPoint()"


class Static(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An address that does not come by DHCP: four of IPv4."""

    ip: str
    mask: str
    gateway: str
    dns: str


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a pin is at boot and when nobody controls it."""

    safe: str | UnsetType = UNSET
    pull: str | UnsetType = UNSET


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All that a board can be told; what is absent is as the board has it by itself. docs/board.md says what
    each means."""

    hostname: str | UnsetType = UNSET
    names: tuple[str, ...] | UnsetType = UNSET
    wifi: tuple[Network, ...] | UnsetType = UNSET
    address: str | Static | UnsetType = UNSET
    country: str | UnsetType = UNSET
    zone: str | UnsetType = UNSET
    watchdog_s: int | UnsetType = UNSET
    ap: AccessPoint | UnsetType = UNSET
    ntp: str | UnsetType = UNSET
    pins: dict[str, Pin] | UnsetType = UNSET


_decoder = msgspec.json.Decoder(Settings)


def parse(raw: bytes) -> Settings:
    """The settings that a JSON text says; raises `BadSettings`. Passwords may be missing (`unanswered`)."""
    try:
        settings = _decoder.decode(raw)
        if not raw.isascii():
            raw.decode()  # msgspec does not look into what it skips
    except msgspec.ValidationError as error:
        raise _translated(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        what = f"is not JSON: {error}" if isinstance(error, msgspec.DecodeError) else "is not UTF-8"
        raise BadSettings("", what) from None
    except RecursionError:
        raise BadSettings("", "is nested too deep") from None
    check(settings)
    return settings


def of(fields: Any) -> Settings:
    """The same for what JSON became; raises `BadSettings`."""
    try:
        settings = msgspec.convert(fields, Settings)
    except msgspec.ValidationError as error:
        raise _translated(error) from None
    check(settings)
    return settings


def encode(settings: Settings) -> bytes:
    """What the board is sent; raises `BadSettings` where a password is missing, or all of it is too long."""
    for field in unanswered(settings):
        raise BadSettings(field, 'is missing; an open network has the password ""')
    fields = msgspec.to_builtins(settings)
    for network in fields.get("wifi", ()):
        network["password"] = network["password"] or ""  # False, as a board shows an open one
    raw = msgspec.json.encode(fields)
    if len(raw) > MAX_BYTES:
        raise BadSettings("", f"takes {len(raw):,} bytes, and a board has room for {MAX_BYTES:,}")
    return raw


def shown(settings: Settings) -> dict[str, Any]:
    """The settings for people and programs: of a password only whether there is one."""
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(settings))
    for holder in (*fields.get("wifi", ()), *([fields["ap"]] if "ap" in fields else ())):
        holder["password"] = bool(holder.get("password"))
    return fields


def unanswered(settings: Settings) -> list[str]:
    """The passwords that are still to be asked for: ``wifi[1].password``, ``ap.password``."""
    found = [
        f"wifi[{number}].password"
        for number, network in enumerate(settings.wifi or ())
        if network.password is UNSET
    ]
    if settings.ap and settings.ap.password is UNSET:
        found.append("ap.password")
    return found


def check(settings: Settings) -> None:
    """Raises `BadSettings` for the first field that no board takes."""
    for field, what in _problems(settings):
        raise BadSettings(field, what)


def _problems(settings: Settings) -> Iterator[tuple[str, str]]:
    if isinstance(settings.hostname, str) and not _HOSTNAME.fullmatch(settings.hostname):
        yield "hostname", "must be 1 to 32 letters (A to Z), digits or '-', with no '-' at its ends"
    yield from _problems_of_names(settings.names or ())
    yield from _problems_of_wifi(settings.wifi or ())
    if isinstance(settings.address, Static):
        yield from _problems_of_address(settings.address)
    elif settings.address not in (UNSET, "dhcp"):
        yield "address", 'must be "dhcp", or an object with ip, mask, gateway and dns'
    if isinstance(settings.country, str) and not _COUNTRY.fullmatch(settings.country):
        yield "country", "must be two capital letters, such as AT"
    if isinstance(settings.zone, str) and not _is_zone(settings.zone):
        yield "zone", "must be a name of the IANA time zone database, such as Europe/Vienna"
    least, most = WATCHDOG_RANGE_S
    if isinstance(settings.watchdog_s, int) and not least <= settings.watchdog_s <= most:
        yield "watchdog_s", f"must be a whole number of seconds from {least} to {most}"
    if settings.ap:
        password = settings.ap.password
        if password is False or password == "":
            yield "ap.password", "must be there: an access point is never open"
        yield from _problems_of_password("ap.password", password)
    if settings.ntp and not _is_ntp(settings.ntp):
        yield "ntp", 'must be a host name or an IPv4 address, or "" for none'
    for number, pin in (settings.pins or {}).items():
        yield from _problems_of_pin(number, pin)


def _problems_of_names(names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if len(names) > MAX_NAMES:
        yield "names", f"has {len(names)} names; a board keeps {MAX_NAMES}"
    for number, name in enumerate(names):
        if name != name.lower() or not _DNS_NAME.fullmatch(name):
            yield f"names[{number}]", "must be a DNS name in lower case, such as porch.example.org"


def _problems_of_wifi(wifi: tuple[Network, ...]) -> Iterator[tuple[str, str]]:
    if len(wifi) > MAX_WIFI:
        yield "wifi", f"has {len(wifi)} networks; a board keeps {MAX_WIFI}"
    seen = set()
    for number, network in enumerate(wifi):
        if not 1 <= len(network.ssid.encode()) <= 32 or "\0" in network.ssid:
            yield f"wifi[{number}].ssid", "must have 1 to 32 bytes"
        if network.ssid in seen:
            yield f"wifi[{number}].ssid", "is there twice"
        seen.add(network.ssid)
        if network.password != "":
            yield from _problems_of_password(f"wifi[{number}].password", network.password)


def _problems_of_password(
    field: str, password: str | bool | UnsetType
) -> Iterator[tuple[str, str]]:
    if not isinstance(password, str) or not password:
        return
    least, most = PASSWORD_RANGE
    if not password.isprintable():
        yield field, "may have printable characters only"
    if len(password) < least or len(password.encode()) > most:
        yield field, f"must have {least} to {most} characters"


def _problems_of_address(static: Static) -> Iterator[tuple[str, str]]:
    for name in static.__struct_fields__:
        try:
            ipaddress.IPv4Address(getattr(static, name))
        except ValueError:
            yield f"address.{name}", "must be an IPv4 address: four numbers from 0 to 255"
            return
    try:
        network = ipaddress.IPv4Network(f"{static.ip}/{static.mask}", strict=False)
    except ValueError:
        network = None
    # A mask of zeros first would be read as its opposite.
    if network is None or str(network.netmask) != static.mask or not 1 <= network.prefixlen <= 30:
        yield "address.mask", "must be a network's mask, such as 255.255.255.0"
        return
    ip, gateway = ipaddress.IPv4Address(static.ip), ipaddress.IPv4Address(static.gateway)
    if ip in (network.network_address, network.broadcast_address) or ip.is_multicast:
        yield "address.ip", "must be the address of one board, and not of its whole network"
    if gateway not in network:
        yield "address.gateway", "must be in the network of ip and mask"


def _problems_of_pin(number: str, pin: Pin) -> Iterator[tuple[str, str]]:
    field = f"pins.{number if _PIN.fullmatch(number) else '…'}"
    if not _PIN.fullmatch(number) or int(number) > MAX_PIN:
        yield field, f"must be a GPIO number from 0 to {MAX_PIN}"
        return
    if int(number) in FLASH_PINS | CONSOLE_PINS:
        yield field, "belongs to the flash or to the serial console"
    if isinstance(pin.safe, str) and pin.safe not in _SAFE:
        yield f"{field}.safe", f"must be {', '.join(_SAFE[:-1])} or {_SAFE[-1]}"
    if isinstance(pin.pull, str) and pin.pull not in _PULL:
        yield f"{field}.pull", f"must be {', '.join(_PULL[:-1])} or {_PULL[-1]}"
    if int(number) in INPUT_ONLY_PINS:
        if pin.safe is not UNSET:
            yield f"{field}.safe", "cannot be: that pin can only be read"
        if pin.pull not in (UNSET, "none"):
            yield f"{field}.pull", "cannot be: that pin has no resistor of its own"


def _is_zone(name: str) -> bool:
    if len(name) > MAX_ZONE:
        return False
    try:
        parse_zone(name)
    except UsageError:
        return False
    return True


def _is_ntp(host: str) -> bool:
    return bool(_DNS_NAME.fullmatch(host)) and problem_with_address(host) is None


def _translated(error: msgspec.ValidationError) -> BadSettings:
    """What msgspec says, as the end of a sentence about a field; its own text never holds a value, but may
    hold the name of a key."""
    said, _, path = str(error).partition(" - at `$")
    field = path.removesuffix("`").lstrip(".").replace("[...]", "[]")
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", said, re.DOTALL):
        return BadSettings(
            _printable(field), f"has a field that no board knows: {unknown[1][:40]!r}"
        )
    said = said.replace("`", "").replace("Object missing required field", "lacks the field")
    return BadSettings(
        _printable(field), f"is not right: {_printable(said[:1].lower() + said[1:])}"
    )


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
