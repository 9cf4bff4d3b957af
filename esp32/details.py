"""What the page tells people beside the status: GET /details. Loaded when it is asked for.

The answer is made in pieces, each smaller than a request's head, and twice: to know its length, and
to send it. So all that goes in is fixed beforehand; nobody changes notes that were handed out.
"""

import json

import flash
import hardware
import wifi
from http1 import JSON, Stream
from micropython import const

_PIECE = const(400)  # from so many bytes on a piece goes out

_name = flash.load("settings.json", {}).get("hostname")
if not isinstance(_name, str):
    _name = ""


def answer(board_id, notes, now_s):
    """The Stream of a board's details; `notes` as Leases has them, `now_s` on their clock."""
    known = (board_id, notes, now_s, hardware.driven(), _rssi(), None)
    return Stream(JSON, sum([len(piece) for piece in _pieces(*known)]), _pieces(*known))


def _rssi():
    """How strongly the network that we are in is heard, in dBm, or None."""
    try:
        return wifi.radio.status("rssi") if wifi.radio and wifi.radio.isconnected() else None
    except (OSError, ValueError):  # it went just now
        return None


def _notices():
    """The sentences that people should read. What has one to say is asked here."""
    found = []
    if hardware.reset_cause() == "watchdog":
        found.append("The board no longer did its work, so its watchdog restarted it.")
    return found


def _pieces(board_id, notes, now_s, driven, rssi, last_crash):
    """The answer's JSON, as bytes."""
    text = f'{{"id":"{board_id}","name":{json.dumps(_name)},"rssi":{json.dumps(rssi)},"pins":'
    comma = "{"
    for pin in hardware.READABLE:
        text += f'{comma}"{pin}":{{"mode":"{"out" if driven >> pin & 1 else "in"}"'
        comma = ","
        if pin in notes:
            then_s, by, governed = notes[pin]
            text += f',"by":{json.dumps(by)},"ago_s":{now_s - then_s},"governed":'
            text += "true" if governed else "false"
        text += "}"
        if len(text) > _PIECE:
            yield text.encode()
            text = ""
    yield f'{text}}},"notices":{json.dumps(_notices())},"crash":null}}'.encode()
