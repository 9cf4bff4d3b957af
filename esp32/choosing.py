"""Which settings are in use: chosen at boot, proved, put aside, kept. Loaded for that, and dropped.

settings.py has what these words mean.
"""

import os

import flash
import hardware
import rarely
import settings

FILE = "settings.json"
GOOD = "settings.good.json"
_BAD = "settings.bad.json"


def load():
    """Bring settings into use, and the pins to where these say."""
    newest = _read(FILE)
    good = _read(GOOD)
    found = {}
    if newest is not None:
        settings.file = FILE
        found = newest
        settings.unproved = newest != good
        settings.way_back = settings.unproved and good is not None
    elif good is not None:
        settings.file = GOOD
        found = good
        if _BAD in os.listdir():
            settings.notices.append(
                "Nobody reached the board under its newest settings, so they were put aside as "
                f"{_BAD}, and those before are in use."
            )
    settings.name = found.get("hostname", "")
    for pin, setting in found.get("pins", {}).items():
        pin = int(pin)
        level = setting.get("safe")
        if level:
            settings.safe[pin] = level
        try:
            _rest(pin, level, setting.get("pull"))
        except (OSError, ValueError) as error:
            settings.notices.append(f"Pin {pin} did not go to its safe level: {error}.")


def _rest(pin, level, pull):
    """Bring a pin to where it is to be while nobody controls it: driven "low" or "high"; else it is an
    input with that `pull`, "up", "down" or "none", if one is named.
    """
    if level in ("low", "high"):
        hardware.drive(pin, int(level == "high"))
    elif pull in ("up", "down", "none") and pin < 34:  # the others have no resistors
        pins = hardware.Pin
        pins(pin, pins.IN, {"up": pins.PULL_UP, "down": pins.PULL_DOWN}.get(pull))


def _read(candidate):
    """The settings in a file; None where there is none, or, with a notice, no right ones."""
    if candidate not in os.listdir():
        return None
    try:
        found = flash.read(candidate)
        why = problem(found)
        if not why:
            return found
    except Exception as error:
        why = f"it cannot be read ({type(error).__name__})"
    settings.notices.append(f"{candidate} is not in use: {why}.")
    return None


def problem(found):
    """What is wrong with the first field that is not right, as "field …"; None when all is right."""
    return rarely.once("rules").problem(found)


def prove():
    """The settings in use are good: keep them as the way back."""
    settings.unproved = settings.way_back = False
    try:
        flash.save(GOOD, flash.load(FILE, {}))
    except OSError as error:
        print("settings: the good ones could not be kept:", error)


def put_aside():
    """Nobody came under the settings in use: restart with the good ones."""
    settings.unproved = False
    os.rename(FILE, _BAD)
    print("settings: nobody came under them; going back to the good ones")
    hardware.restart()


def keep(proves):
    """Before others are put in their place: those in use stay so until the next boot, and those that did
    prove good stay the way back.
    """
    if settings.unproved and proves:
        prove()
    if settings.file == FILE and flash.load(FILE, {}) == flash.load(GOOD, {}):
        settings.file = GOOD
