"""What somebody decided for this board: `settings.json` on its flash. docs/board.md has the fields.

At boot, before there is a network, the first of these that is right comes into use:

    settings.json        what somebody put there last
    settings.good.json   the settings under which the board was last reached: always a way back
    none                 everything as the firmware has it by itself

Settings prove good when a request comes in through a network that they name. Those that did not
within ten minutes, while there are others that did, are put aside as `settings.bad.json`, and the
board starts anew with the good ones. Whatever the files hold, nothing here raises, and a sentence in
`notices` says what is not in use and why. It never repeats a value: that might be a password.

Memory is dear: what is needed later is read again from the file in use.
"""

import json
import os
import sys

import flash
import hardware
from micropython import const

FILE = "settings.json"
GOOD = "settings.good.json"
BAD = "settings.bad.json"

_SIZE_MAX = const(4096)
_PROVE_MS = const(600000)

file = None  # the one in use
name = ""  # the board's host name
safe = {}  # {pin: its safe level's name}
notices = []  # sentences that people should read
_unproved = False  # whether those in use still have to prove good
way_back = False  # whether there are others that did
_seen = 0


def load():
    """Bring settings into use, and the pins to where these say."""
    global file, name, way_back, _unproved
    newest = _read(FILE)
    good = _read(GOOD)
    sys.modules.pop("rules", None)  # of no use any more
    found = {}
    if newest is not None:
        file = FILE
        found = newest
        _unproved = newest != good
        way_back = _unproved and good is not None
    elif good is not None:
        file = GOOD
        found = good
        if BAD in os.listdir():
            notices.append(
                "Nobody reached the board under its newest settings, so they were put aside as "
                f"{BAD}, and those before are in use."
            )
    name = found.get("hostname", "")
    for pin, setting in found.get("pins", {}).items():
        pin = int(pin)
        level = setting.get("safe")
        if level:
            safe[pin] = level
        try:
            hardware.rest(pin, level, setting.get("pull"))
        except (OSError, ValueError) as error:
            notices.append(f"Pin {pin} did not go to its safe level: {error}.")


def _read(candidate):
    """The settings in a file; None where there is none, or, with a notice, no right ones."""
    try:
        size = os.stat(candidate)[6]
    except OSError:
        return None
    try:
        import rules

        if size > _SIZE_MAX:
            raise ValueError
        with open(candidate) as file:
            found = json.load(file)
        why = rules.problem(found)
        if not why:
            return found
    except Exception as error:
        why = f"it cannot be read ({type(error).__name__})"
    notices.append(f"{candidate} is not in use: {why}.")
    return None


def get(field, default=None, of=None):
    """What the settings in use (or in another file) say of `field`, read from flash."""
    return flash.load(of or file or "", {}).get(field, default)


def tend(now_ms, served, proves):
    """What must happen now and then: `served` requests came until now, and `proves` says whether the
    board is in a network of the settings in use. May restart the board.
    """
    global _seen
    if _unproved:
        if served != _seen and proves:
            prove()
        elif way_back and now_ms > _PROVE_MS:
            os.rename(FILE, BAD)
            print("settings: nobody came under them; going back to the good ones")
            hardware.restart()
    _seen = served


def prove():
    """The settings in use are good: keep them as the way back."""
    global way_back, _unproved
    if _unproved:
        _unproved = way_back = False
        try:
            flash.save(GOOD, flash.load(FILE, {}))
        except OSError as error:
            print("settings: the good ones could not be kept:", error)


def replace(new):
    """Put right settings on flash, for the next boot; those in use stay so until then.

    Raises OSError when the flash is full; the old ones stay.
    """
    global file, _unproved
    if file == FILE and flash.load(FILE, {}) == flash.load(GOOD, {}):
        file = GOOD
    flash.save(FILE, new)
    _unproved = False


load()
