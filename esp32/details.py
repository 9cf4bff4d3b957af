"""What the page tells people beside the status: GET /details. Loaded when it is asked for.

The answer is made in pieces, each smaller than a request's head, and twice: to know its length, and
to send it. So all that goes in is fixed beforehand.
"""

import json
import sys

import boots
import flash
import hardware
import settings
import wifi
from http1 import JSON, Stream
from micropython import const

_PIECE = const(400)  # from so many characters on a piece goes out


def answer(board_id, leases, now_s):
    """The Stream of a board's details; `now_s` is the uptime."""
    # Sentences that people should read: whatever has one to say is asked here.
    notices = settings.notices[:]
    undone = boots.record().get("undone")
    if boots.safe:
        notices.append(
            "Safe mode: the board died too often. Its pins rest until it has run for a minute; "
            "settings and updates work."
        )
    if boots.trial:
        minutes = max(0, boots.minutes * 60 - now_s + 59) // 60
        notices.append(
            f"Its new program is on trial: unless a controller confirms it within {minutes} min, "
            "the one before comes back."
        )
    if undone:
        version = undone.get("version")
        version = f" {version}" if version else ""
        notices.append(f"Its new program{version} was undone: {undone.get('why')}.")
    if hardware.reset_cause() == "watchdog":
        notices.append("The board no longer did its work, so its watchdog restarted it.")
    board = {"id": board_id, "name": settings.name, "rssi": None, "notices": notices, "crash": None}
    board.update({"build": boots.build, "boots": boots.count, "safe_mode": boots.safe})
    board["undone"] = undone
    try:
        if wifi.radio and wifi.radio.isconnected():
            board["rssi"] = wifi.radio.status("rssi")
    except (OSError, ValueError):
        pass  # the network went just now
    board["wifi"] = wifi.status()
    if board["wifi"]["ap"]:
        notices.append(
            f"The board found no network, so it opened an access point: {board['wifi']['ap']}."
        )
    crash = sys.modules.get("crash")  # loaded at the first one
    text = crash.text if crash else flash.load("crash.json", "")
    if text:  # that of an earlier boot: nobody knows how long ago
        ago_s = now_s - crash.at_s if crash else None
        board["crash"] = {"text": text, "ago_s": ago_s}
    known = (board, leases.setters[:], leases.moments[:], now_s, hardware.driven())
    return Stream(JSON, sum([len(piece) for piece in _pieces(*known)]), _pieces(*known))


def _pieces(board, setters, moments, now_s, driven):
    """The answer's JSON, as bytes."""
    text = json.dumps(board)[:-1]
    before = ', "pins": {'
    for number in hardware.READABLE:
        pin = {"mode": "out" if driven >> number & 1 else "in"}
        if setters[number]:
            pin["by"] = setters[number]
            pin["ago_s"] = now_s - (moments[number] >> 1)
            pin["governed"] = bool(moments[number] & 1)
        text += f'{before}"{number}": {json.dumps(pin)}'
        before = ", "
        if len(text) > _PIECE:
            yield text.encode()
            text = ""
    yield (text + "}}").encode()
