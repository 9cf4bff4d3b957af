"""What settings may say. Loaded when there are some to be checked, and dropped after that.

The rules are those of EspNet's own check (`espnet/settings.py`) or wider, never narrower. Keys that
are not known are passed over: an older firmware must live with the settings of a newer one. What
comes from outside is never taken apart into characters: MicroPython keeps each one for ever.
"""

import fields
import hardware

_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LOWER = "abcdefghijklmnopqrstuvwxyz0123456789-"


def problem(settings):
    """What is wrong with the first field that is not right, as "field …"; None when all is right."""
    if not isinstance(settings, dict):
        return "it is no JSON object"
    get = settings.get
    if not _is_label(get("hostname", "a"), 32, _LOWER + _UPPER):
        return "hostname must be 1 to 32 letters, digits or -, and no - at the ends"
    names = get("names", ())
    if not _is_list(names) or not all(_is_name(name, _LOWER) for name in names):
        return "names must be a list of 8 DNS names in lower case at most"
    networks = get("wifi", ())
    if not _is_list(networks):
        return "wifi must be a list of 8 networks at most"
    for number, entry in enumerate(networks):
        ssid = entry.get("ssid") if isinstance(entry, dict) else None
        if not isinstance(ssid, str) or not 1 <= len(ssid.encode()) <= 32 or "\0" in ssid:
            return f"wifi[{number}].ssid must be text of 1 to 32 bytes"
        if entry.get("password", "") != "" and not _is_password(entry["password"]):
            return f"wifi[{number}].password must have 8 to 63 characters, or none"
    address = get("address", "dhcp")
    if address != "dhcp":
        for part in ("ip", "mask", "gateway", "dns"):
            value = address.get(part) if isinstance(address, dict) else None
            if not isinstance(value, str) or not fields.is_ipv4(value):
                return f"address.{part} must be an IPv4 address"
    if not _is_text(get("country", "XX"), 2, 2, _UPPER):
        return "country must be two capital letters"
    if not _is_text(get("zone", "A"), 1, 40, _LOWER + _UPPER + "/_+"):
        return "zone must be a name of the IANA time zone database"
    watchdog_s = get("watchdog_s", 30)
    if type(watchdog_s) is not int or not 10 <= watchdog_s <= 600:
        return "watchdog_s must be a whole number from 10 to 600"
    point = get("ap")
    if "ap" in settings and not (isinstance(point, dict) and _is_password(point.get("password"))):
        return "ap.password must have 8 to 63 characters"
    ntp = get("ntp", "")
    if ntp != "" and not _is_name(ntp, _LOWER + _UPPER):
        return "ntp must be a host name or an IPv4 address"
    pins = get("pins", {})
    if not isinstance(pins, dict):
        return "pins must be an object"
    for number, pin in pins.items():
        what = _problem_of_pin(number, pin)
        if what:
            return what
    return None


def _problem_of_pin(number, pin):
    if not isinstance(number, str) or number.strip("0123456789") or not 1 <= len(number) <= 2:
        return "pins must be named by their numbers"
    number = int(number)
    what = f"pins.{number}"
    if not isinstance(pin, dict):
        return f"{what} must be an object"
    safe = pin.get("safe", "hold")
    pull = pin.get("pull", "none")
    if safe not in ("low", "high", "hold"):
        return f"{what}.safe must be low, high or hold"
    if pull not in ("up", "down", "none"):
        return f"{what}.pull must be up, down or none"
    why = hardware.why_not_writable(number)
    if not hardware.exists(number) or (why and (number < 34 or "safe" in pin or pull != "none")):
        return f"{what} cannot be set so"
    return None


def _is_list(value):
    return isinstance(value, (list, tuple)) and len(value) <= 8


def _is_text(value, least, most, allowed):
    return isinstance(value, str) and least <= len(value) <= most and not value.strip(allowed)


def _is_label(value, most, allowed):
    return _is_text(value, 1, most, allowed) and not value.startswith("-") and value[-1:] != "-"


def _is_name(value, allowed):
    return (
        isinstance(value, str)
        and len(value) <= 253
        and all(_is_label(label, 63, allowed) for label in value.split("."))
    )


def _is_password(value):
    return isinstance(value, str) and len(value) >= 8 and len(value.encode()) <= 63
