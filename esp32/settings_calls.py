"""The calls about settings. Loaded when they are asked for, which is seldom, to save memory.

Passwords come in and never go out: who reads learns only whether there is one.
"""

# ruff: noqa: B904 - MicroPython cannot chain exceptions, and prints that at every attempt

import json

import flash
import rarely
import settings
import wifi
from http1 import Refusal
from micropython import const

_BODY_MAX = const(2048)
_KNOWN = [
    "hostname",
    "names",
    "wifi",
    "address",
    "country",
    "zone",
    "watchdog_s",
    "ap",
    "ntp",
    "pins",
]


def shown():
    """The settings in use. What is not known is left out: nobody knows what is secret of it."""
    found = flash.load(settings.file or "", {})
    known = {name: found[name] for name in _KNOWN if name in found}
    if "wifi" in known:
        known["wifi"] = [
            {"ssid": entry["ssid"], "password": bool(entry.get("password"))}
            for entry in known["wifi"]
        ]
    if "ap" in known:
        known["ap"] = {"password": True}
    return known


def take(request):
    """Make what the body holds the settings from the next boot on; a Refusal leaves the old ones."""
    if request.length > _BODY_MAX:
        raise Refusal(413, f"settings may have {_BODY_MAX} bytes at most")
    if request.kind not in (b"application/json", b"", b"application/x-www-form-urlencoded"):
        raise Refusal(400, "the body must be application/json")
    try:
        new = json.loads(b"".join(request.body))
    except ValueError:
        new = None
    request.body = ()
    # Whoever writes settings has the page open, or has just logged in. What these needed makes room: to
    # check settings takes the memory for two modules more, and for settings old and new.
    while rarely.used:
        rarely.drop()
    if not isinstance(new, dict):
        raise Refusal(400, "the body must be one JSON object")
    # What was put there and waits for a restart is the newest; it may not be in use yet.
    choosing = rarely.once("choosing")
    for file in ("settings.json", settings.file or ""):
        present = flash.load(file, {})
        if not choosing.problem(present):  # damaged ones have none, and must not be in the way
            _keep_passwords(new, present)
    what = choosing.problem(new)
    if what:
        raise Refusal(422, what, what.partition(" ")[0])
    try:
        choosing.replace(new, wifi.proves)
    except OSError as error:
        raise Refusal(503, f"the settings could not be kept on flash: {error}")


def _keep_passwords(new, present):
    """Where a password of `new` is true, put the present one; false is that of an open network."""
    networks = new.get("wifi")
    for entry in networks if isinstance(networks, list) else ():
        if isinstance(entry, dict):
            if entry.get("password") is False:
                entry["password"] = ""
            for known in present.get("wifi", ()):
                if entry.get("password") is True and known.get("ssid") == entry.get("ssid"):
                    entry["password"] = known.get("password", "")
    point = new.get("ap")
    if isinstance(point, dict) and point.get("password") is True and "ap" in present:
        new["ap"] = present["ap"]
