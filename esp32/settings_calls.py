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
    # Whoever writes settings has the page open, or has just logged in. What these needed makes room: to
    # check settings takes the memory for a module more, and for the settings. There is none for old and new
    # ones at once: first what there is to do with the old ones.
    while rarely.used:
        rarely.drop()
    rarely.once("choosing").keep(wifi.proves)
    # What was put there and waits for a restart is the newest, though it is not in use yet.
    kept = [_passwords(file) for file in ("settings.json", settings.file or "")]
    text = b"".join(request.body)
    request.body = ()
    try:
        new = json.loads(text)
    except ValueError:
        new = None
    text = None
    if not isinstance(new, dict):
        raise Refusal(400, "the body must be one JSON object")
    for networks, point in kept:
        _keep(new, networks, point)
    kept = networks = point = None
    what = rarely.once("rules").problem(new)
    if what:
        raise Refusal(422, what, what.partition(" ")[0])
    try:
        flash.save("settings.json", new)
    except OSError as error:
        raise Refusal(503, f"the settings could not be kept on flash: {error}")
    settings.unproved = False


def _passwords(file):
    """(networks, access point) of a file of settings; of a damaged one none, and it is not in the way."""
    present = flash.load(file, {})
    if rarely.once("rules").problem(present):
        present = {}
    return present.get("wifi", ()), present.get("ap")


def _keep(new, networks, point):
    """Where a password of `new` is true, put the present one; false is that of an open network."""
    wanted = new.get("wifi")
    for entry in wanted if isinstance(wanted, list) else ():
        if isinstance(entry, dict):
            if entry.get("password") is False:
                entry["password"] = ""
            for known in networks:
                if entry.get("password") is True and known.get("ssid") == entry.get("ssid"):
                    entry["password"] = known.get("password", "")
    wanted = new.get("ap")
    if point and isinstance(wanted, dict) and wanted.get("password") is True:
        new["ap"] = point
