"""What a person asks of one board itself: why it restarted, how it is set up, that it restart.

The words after `espcli device NAME settings`, and what stands behind `crash` and `restart`.
"""

import sys
from pathlib import Path
from typing import Any, cast

import msgspec

from espnet import settings as room
from espnet.board import calls
from espnet.board.calls import Call, parse_any, parse_details, parse_status
from espnet.cli.act import Act, Words, verb
from espnet.cli.amounts import duration
from espnet.cli.parse import quoted
from espnet.cli.render import Line, Lines, Report, Section, Shown
from espnet.cli.session import Session
from espnet.errors import BoardError, EspNetError, UsageError
from espnet.model import Details, Device, Status
from espnet.settings import AccessPoint, Network, Settings

#: Most bytes of a file that could be settings.
_MAX_FILE = 64 * 1024
_REMOVED = msgspec.UNSET


# --- why it restarted -------------------------------------------------------------------------------


def crash(session: Session, name: str) -> Report:
    """Why the board booted last, and the last crash that it knows of."""
    device = session.store.device(name)
    status = parse_status(device.address, _send(session, device, calls.GET_BASIC), device.id)
    try:
        body = _send(session, device, calls.GET_DETAILS)
    except BoardError as error:
        if error.status != 404:
            raise
        details = None
    else:
        details = parse_details(device.address, body, device.id)
    data = {
        name: getattr(status, name)
        for name in ("reset_cause", "boots", "uptime_s", "version", "build", "trial", "safe_mode")
    }
    data["notices"] = list(details.notices) if details else []
    data["undone"] = msgspec.to_builtins(details.undone) if details else None
    data["crash"] = msgspec.to_builtins(details.crash) if details else None
    return Report(data, list(_crash_told(status, details)))


def _crash_told(status: Status, details: Details | None) -> list[Section]:
    booted = f"{status.reset_cause or 'nobody knows why'}"
    if status.uptime_s is not None:
        booted += f", {duration(status.uptime_s)} ago"
    if status.boots is not None:
        booted += f"; {status.boots:,} boots so far"
    build = f"{status.version or 'unknown'}" + (f", build {status.build}" if status.build else "")
    parts = [
        Section("last boot", [Line(booted)]),
        Section("firmware", [Line(build + (" (on trial)" if status.trial else ""))]),
    ]
    if status.safe_mode:
        parts.append(Section("safe mode", [Line("on: no pins, no sensors", "yellow")]))
    if details is None:
        return [*parts, Section("last crash", [Line("unknown: its firmware keeps none")])]
    if details.notices:
        parts.append(Section("notices", [Line(notice) for notice in details.notices]))
    if details.undone is not None:
        undone = f"{details.undone.version}, build {details.undone.build}: {details.undone.why}"
        parts.append(Section("undone", [Line(undone)]))
    if details.crash is None:
        return [*parts, Section("last crash", [Line("none")])]
    when = "before its last reset"
    if details.crash.ago_s is not None:
        when = f"{duration(details.crash.ago_s)} ago"
    if details.crash.build:
        when += f", in build {details.crash.build}"
    text = [Line(f"  {line}") for line in details.crash.text.splitlines()]
    return [*parts, Section("last crash", [Line(when), *text])]


def restart(session: Session, name: str) -> Shown:
    """Restarts the board; it answers first."""
    device = session.store.device(name)
    _send(session, device, calls.RESTART)
    return Shown({"name": device.name, "restarted": True}, f"{device.name} restarts.")


# --- how it is set up -------------------------------------------------------------------------------


class SettingsWords(Words):
    """Shows the board's own settings, or changes them.

    Wi-Fi, address, time zone, watchdog, pins at boot: what the board keeps in its settings.json and
    uses from its next restart on. docs/board.md has every field. Nothing here shows a password.
    """

    def __init__(self, session: Session, name: str) -> None:
        self._session, self._name = session, name

    def _bare(self) -> Act:
        return cast(Act, self.show())

    @verb
    def show(self) -> Lines:
        """Shows the settings in use; of a password only whether there is one.

        What --json prints can be changed and given to `set`: `"password": true` keeps the one that
        the board has for that network.

        Example: espcli device porch settings show --json
        """
        device = self._session.store.device(self._name)
        told = _settings_of(self._session, device)
        return Lines(told, "" if told else f"{device.name} has no settings: all is as it comes.")

    @verb
    def set(self, file: str = "", *, restart: bool = False) -> Shown:
        """Replaces the settings by those of a file, or of standard input.

        They are checked here before the board is told anything, and by the board again. A network
        without a "password" is asked for; "" is an open one, true keeps what the board has.

        FILE        JSON, such as {"hostname": "porch", "wifi": [{"ssid": "home"}], "zone": "UTC"}
        --restart   restarts the board afterwards, so that they hold

        Example: espcli device porch settings set porch.json --restart
        """
        device = self._session.store.device(self._name)
        wanted = room.parse(_read(file))
        return self._post(device, _answered(wanted, again=False), restart=bool(restart))

    @verb
    def edit(self, *changes: str, ask: bool = False, restart: bool = False) -> Shown:
        """Changes some of the settings; the others stay, with their passwords.

        KEY=        goes back to what the board does by itself
        hostname=porch  country=AT  zone=Europe/Vienna  ntp=pool.ntp.org  watchdog_s=60
        names=porch.example.org,porch.lan
        wifi=home,garden          the networks in this order; passwords of new ones are asked for
        address=dhcp              or address=IP,MASK,GATEWAY,DNS
        ap=on                     an access point when there is no network; its password is asked for
        pins.4.safe=high          low, high or hold;  pins.4.pull=up, down or none;  pins.4= removes

        --ask       asks for the passwords of all networks, and of the access point, anew
        --restart   restarts the board afterwards, so that they hold

        Example: espcli device porch settings edit hostname=porch wifi=home,garden --restart
        """
        if not (changes or ask):
            raise UsageError(
                "Nothing is to be changed; write KEY=VALUE, such as zone=Europe/Vienna."
            )
        steps = [_change(text) for text in changes]
        device = self._session.store.device(self._name)
        fields = _settings_of(self._session, device)
        for step in steps:
            step.apply(fields)
        wanted = _answered(room.of(fields), again=bool(ask))
        return self._post(device, wanted, restart=bool(restart))

    def _post(self, device: Device, wanted: Settings, *, restart: bool) -> Shown:
        content = room.encode(wanted)
        _send(self._session, device, calls.post_settings(content))
        text = f"{device.name} has its new settings{_told(wanted)}; "
        if restart:
            _send(self._session, device, calls.RESTART)
            text += "it restarts with them now."
        else:
            text += (
                f"they hold from its next restart on: `espcli device {device.name} restart`, or "
                "--restart."
            )
        data = {"name": device.name, "settings": room.shown(wanted), "restarted": restart}
        return Shown(data, text)


def _told(wanted: Settings) -> str:
    """What decides whether the board will be reached: a person sees it before it holds."""
    if not wanted.wifi:
        return ", without any Wi-Fi"
    open_ones = [one.ssid for one in wanted.wifi if not one.password]
    text = f", with the Wi-Fi {', '.join(one.ssid for one in wanted.wifi)}"
    text += f" ({', '.join(open_ones)} without a password)" if open_ones else ""
    return "".join(one if one.isprintable() else "?" for one in text)


class _Change(msgspec.Struct, frozen=True):
    """One KEY=VALUE: where it goes, and what goes there; `_REMOVED` takes it away."""

    path: tuple[str, ...]
    value: Any

    def apply(self, fields: dict[str, Any]) -> None:
        value = self.value
        if self.path == ("wifi",) and value is not _REMOVED:
            kept = {network.get("ssid"): network for network in fields.get("wifi", ())}
            value = [kept.get(ssid, {"ssid": ssid}) for ssid in value]
        if self.path == ("ap",) and value is not _REMOVED:
            value = fields.get("ap", value)
        *way, last = self.path
        place = fields
        for part in way:
            if value is _REMOVED and part not in place:
                return
            place = place.setdefault(part, {})
        if value is _REMOVED:
            place.pop(last, None)
        else:
            place[last] = value


def _change(text: str) -> _Change:
    key, equals, value = text.partition("=")
    path = tuple(key.split("."))
    is_pin = path[0] == "pins" and (
        len(path) == 2 or (len(path) == 3 and path[2] in ("safe", "pull"))
    )
    if not equals or not (key in Settings.__struct_fields__ or is_pin) or (key == "pins" and value):
        raise UsageError(
            f"{quoted(text)} is no change of a setting; write KEY=VALUE with one of "
            f"{', '.join(name for name in Settings.__struct_fields__ if name != 'pins')}, "
            "pins.N.safe or pins.N.pull."
        )
    if is_pin and len(path) == 2 and value:
        raise UsageError(f"{quoted(text)} says too little; write {key}.safe=… or {key}.pull=….")
    return _Change(path, _value(key, value) if value else _REMOVED)


def _value(key: str, value: str) -> Any:
    """What a typed text is for this key; what it must be is for `espnet.settings` to say."""
    if key in ("names", "wifi"):
        return value.split(",")
    if key == "watchdog_s":
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else value
    if key == "ap":
        if value not in ("on", "off"):
            raise UsageError(f"ap is on or off, not {quoted(value)}; its password is asked for.")
        return {} if value == "on" else _REMOVED
    if key == "address" and value != "dhcp":
        parts = value.split(",")
        if len(parts) != 4:
            raise UsageError(f"address is dhcp or IP,MASK,GATEWAY,DNS, not {quoted(value)}.")
        return dict(zip(("ip", "mask", "gateway", "dns"), parts, strict=True))
    if key == "ntp" and value == "off":
        return ""
    return value


def _settings_of(session: Session, device: Device) -> dict[str, Any]:
    """The board's settings as it tells them, without what it did not have to say; no password is among them,
    whatever it says."""
    told = parse_any(device.address, _send(session, device, calls.GET_SETTINGS))
    fields = {
        name: told[name]
        for name in Settings.__struct_fields__
        if told.get(name) not in (None, "", [], {}) or (name == "ntp" and told.get(name) == "")
    }
    fields = cast(dict[str, Any], _without_secrets(fields))
    if isinstance(fields.get("ap"), dict) and not fields["ap"].get("password"):
        del fields["ap"]
    return fields


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: bool(inner) if name == "password" else _without_secrets(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return value


def _answered(wanted: Settings, *, again: bool) -> Settings:
    """The settings with every password that has to be asked for; ``again``: with all of them anew."""
    wifi, ap = wanted.wifi, wanted.ap
    if wifi is not msgspec.UNSET:
        wifi = tuple(
            Network(one.ssid, _typed(f"Password of the Wi-Fi {one.ssid!r} (empty: it is open): "))
            if again or one.password is msgspec.UNSET
            else one
            for one in wifi
        )
    if ap is not msgspec.UNSET and (again or ap.password is msgspec.UNSET):
        ap = AccessPoint(_typed("Password of the board's own access point: "))
    answered = msgspec.structs.replace(wanted, wifi=wifi, ap=ap)
    room.check(answered)
    return answered


def _typed(prompt: str) -> str:
    """A password from the terminal, or the next line of standard input."""
    try:
        if sys.stdin is None:
            raise EOFError
        if sys.stdin.isatty():
            import getpass

            text = getpass.getpass(prompt)
        elif line := sys.stdin.readline():
            text = line.rstrip("\r\n")
        else:
            raise EOFError
        text.encode()
    except UnicodeError:
        raise UsageError("What was given as a password is not UTF-8 text.") from None
    except EOFError:
        what = prompt.rstrip(": ")
        raise UsageError(f"{what} was not given; type it, or write it to standard input.") from None
    return text


def _read(file: str) -> bytes:
    where = quoted(file) if file else "standard input"
    try:
        if not file:
            if sys.stdin is None or sys.stdin.isatty():
                raise UsageError(
                    "FILE is missing; name one, or write the settings to standard input."
                )
            content = sys.stdin.read(_MAX_FILE + 1).encode()
        else:
            with Path(file).open("rb") as stream:
                content = stream.read(_MAX_FILE + 1)
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or error
        raise UsageError(f"The settings cannot be read from {where}: {what}.") from error
    if len(content) > _MAX_FILE:
        raise UsageError(
            f"What is in {where} has more than {_MAX_FILE:,} bytes: it is no settings.json."
        )
    return content


def _send(session: Session, device: Device, call: Call) -> bytes:
    """A call for a person; a board that does not know it is said to be too old."""
    from espnet.cli import claiming

    try:
        return claiming.send(session, device, call)
    except BoardError as error:
        if error.status not in (404, 405) or call in (calls.GET_DETAILS, calls.GET_BASIC):
            raise
        raise EspNetError(
            f"The firmware of {device.name} is too old for that: it does not know {call.path}; put a newer "
            "one onto the board."
        ) from error
