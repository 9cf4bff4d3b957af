"""A board's settings over the cable, and whether it gets into its network with them.

Invariants: `settings.json` is replaced as a whole, and only by what passed `espnet.settings`; no password is
in anything that is returned or raised.
"""

import ast
import json
from typing import Any, NamedTuple

import msgspec

from espnet import settings
from espnet.cable import Progress
from espnet.cable.prompt import Prompt
from espnet.settings import BadSettings, Settings

_FILE = "/settings.json"
#: Seconds of patience with one network.
_PATIENCE_S = 15
#: How often each is tried: radio is no wire.
_TRIES = 2
#: Read by the board from its own file, so that nothing secret is in what is sent.
_JOIN = f"""
import json, time, network
def _try(radio, ssid, password):
    try:
        radio.disconnect()
    except OSError:
        pass
    radio.config(reconnects=0)  # gives up by itself, and says why
    radio.connect(ssid, password)
    for _ in range({_PATIENCE_S * 4}):
        print('.')
        time.sleep_ms(250)
        if radio.isconnected() or radio.status() not in (1000, 1001):
            break
    return radio.status()
def _join():
    with open('settings.json') as file:
        wanted = json.load(file)
    if wanted.get('country'):
        network.country(wanted['country'])
    radio = network.WLAN(network.STA_IF)
    radio.active(True)
    address = wanted.get('address')
    if isinstance(address, dict):
        radio.ifconfig((address['ip'], address['mask'], address['gateway'], address['dns']))
    status = 0
    for number, entry in enumerate(wanted.get('wifi') or ()):
        for _ in range({_TRIES}):
            status = _try(radio, entry['ssid'], entry.get('password') or None)
            if radio.isconnected():
                return number, radio.ifconfig()[0], 0
    return None, '', status
print(_join())
"""


class Joined(NamedTuple):
    """``ssid`` and ``address`` of the network that let the board in; "" with the reason in ``problem``."""

    ssid: str
    address: str
    problem: str


def read(prompt: Prompt) -> dict[str, Any]:
    """What is on the board, passwords included; {} when there is nothing or it is damaged."""
    files = prompt.ask("os.listdir('/')")
    if "settings.json" not in files:
        return {}
    try:
        found = json.loads(prompt.read(_FILE))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def names(prompt: Prompt) -> tuple[str, list[str]]:
    """The host name and the Wi-Fis that the board's settings name; of passwords it says nothing."""
    if "settings.json" not in prompt.ask("os.listdir('/')"):
        return "", []
    found = prompt.ask(
        "(lambda s: (s.get('hostname') or '', [n['ssid'] for n in s.get('wifi') or ()]))"
        "(__import__('json').load(open('settings.json')))"
    )
    return str(found[0]), [str(ssid) for ssid in found[1]]


def write(prompt: Prompt, wanted: Settings) -> None:
    """Replaces the board's settings; raises `BadSettings` when they are not complete."""
    passwords = [network.password for network in wanted.wifi or ()]
    if wanted.ap:
        passwords.append(wanted.ap.password)
    # What is on the board comes over the line only where it is needed: it is secret.
    there = read(prompt) if True in passwords else {}
    prompt.write(_FILE, settings.encode(with_kept(wanted, there)))


def with_kept(wanted: Settings, there: dict[str, Any]) -> Settings:
    """The settings with the board's own passwords where True asks to keep them; raises `BadSettings`."""
    fields = json.loads(msgspec.json.encode(wanted))
    known = {
        entry.get("ssid"): entry.get("password")
        for entry in there.get("wifi") or ()
        if isinstance(entry, dict)
    }
    for number, entry in enumerate(fields.get("wifi", ())):
        if entry.get("password") is True:
            if not isinstance(known.get(entry["ssid"]), str):
                raise BadSettings(f"wifi[{number}].password", "is not on the board; say it")
            entry["password"] = known[entry["ssid"]]
    point, before = fields.get("ap"), there.get("ap")
    if point and point.get("password") is True:
        if not (isinstance(before, dict) and isinstance(before.get("password"), str)):
            raise BadSettings("ap.password", "is not on the board; say it")
        point["password"] = before["password"]
    return settings.of(fields)


def join(prompt: Prompt, wanted: Settings, progress: Progress) -> Joined:
    """Lets the board try its networks; the address that it is given stays its own after a reset, mostly."""
    networks = wanted.wifi or ()
    names = [network.ssid for network in networks]
    if not names:
        return Joined("", "", "no Wi-Fi is named in its settings")
    progress(f"joining {names[0]}", 0, 1)
    *_, last = prompt.run(_JOIN).strip().splitlines()
    number, address, status = ast.literal_eval(last)
    if number is not None:
        return Joined(names[number], address, "")
    reasons = {201: "is not in reach", 202: "does not take the password"}
    if len(names) > 1:
        return Joined("", "", "none of its networks let it in")
    return Joined("", "", f"{names[0]} {reasons.get(status, 'did not let it in')}")
