"""What the page tells people beside the status: GET /details. Loaded when it is asked for.

The answer is made in pieces, each smaller than a request's head, and twice: to know its length, and
to send it. So all that goes in is fixed beforehand; nobody changes notes that were handed out.
"""

import json
import sys

import flash
import hardware
import wifi
from http1 import JSON, Stream
from micropython import const

_PIECE = const(400)  # from so many characters on a piece goes out

_name = flash.load("settings.json", {}).get("hostname")
if not isinstance(_name, str):
    _name = ""


def answer(board_id, notes, now_s):
    """The Stream of a board's details; `notes` as Leases has them, `now_s` on their clock."""
    rssi = None  # when we are in no network, or it went just now
    try:
        if wifi.radio and wifi.radio.isconnected():
            rssi = wifi.radio.status("rssi")
    except (OSError, ValueError):
        pass
    crash = sys.modules.get("crash")  # loaded at the first one
    lines = crash.lines if crash else flash.load("crash.json", [])
    ago_s = now_s - crash.at_s if crash else None  # of an earlier boot: nobody knows how long ago
    known = (board_id, notes, now_s, hardware.driven(), rssi, lines, ago_s)
    return Stream(JSON, sum([len(piece) for piece in _pieces(*known)]), _pieces(*known))


def _pieces(board_id, notes, now_s, driven, rssi, lines, ago_s):
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
    notices = []  # sentences that people should read: whatever has one to say is asked here
    if hardware.reset_cause() == "watchdog":
        notices.append("The board no longer did its work, so its watchdog restarted it.")
    text += f'}},"notices":{json.dumps(notices)},"crash":'
    start = '{"text":"'
    for line in lines:
        text += start + json.dumps(line)[1:-1]
        start = ""
        if len(text) > _PIECE:
            yield text.encode()
            text = ""
    text += f'","ago_s":{json.dumps(ago_s)}}}}}' if lines else "null}"
    yield text.encode()
