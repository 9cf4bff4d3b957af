"""This boot: which release runs, whether it is on trial or in safe mode. The record of boots is the switch's.

One board has one of all this, so it lies in the module.
"""

import asyncio

import flash
import hardware
from micropython import const

FILE = "boot.json"

_GOOD_S = const(60)  # who lasts so long did not die at once
_OVERDUE_MAX = const(10)

slot = "a"
build = ""  # of the release that runs: 12 hexadecimal digits
trial = False  # until a controller has confirmed it
safe = False  # it died too often: only what helps is served
count = 0  # boots ever
minutes = 0  # how long the trial may last
timer = None  # the switch's own, which ends the trial should this module not do so
restarting = False
updating = asyncio.Lock()
_good = False
_overdue = 0  # half seconds for which a restart has been waited for


def begin(choice):
    """Take over what the switch chose."""
    global slot, build, trial, safe, count, minutes, timer
    slot = choice["slot"]
    trial = choice.get("trial", False)
    safe = choice.get("safe", False)
    count = choice.get("boots", 0)
    minutes = choice.get("minutes", 0) or 10
    build = choice.get("build", "")
    timer = choice.get("timer")


def other():
    """The slot in which nothing runs."""
    return "b" if slot == "a" else "a"


def record():
    """The switch's record, {} when there is none."""
    return flash.load(FILE, {})


def age(uptime_s):
    """Do what follows from this boot's age; asked twice a second."""
    global _good, safe, _overdue
    if restarting:
        _overdue += 1
        if _overdue > _OVERDUE_MAX:  # its task was lost
            hardware.restart()
        return
    if uptime_s < _GOOD_S:
        return
    if trial:
        if uptime_s >= minutes * 60:
            undo(f"it was not confirmed within {minutes} minutes")
    elif not _good:
        _good = True
        safe = False
        known = record()
        if known.get("short"):
            known["short"] = 0
            flash.save(FILE, known)


def undo(why):
    """End this trial: the release before comes back, by a restart."""
    global trial
    known = record()
    known["why"] = why
    known["tries"] = 99  # the switch does the rest, as after two restarts
    try:
        flash.save(FILE, known)
    except OSError:
        pass  # then it takes those two restarts
    trial = False
    restart()


def forgive():
    """This boot ends because somebody asked for it: it does not count as one that died."""
    known = record()
    if not trial and not _good and known.get("short"):
        known["short"] -= 1
        try:
            flash.save(FILE, known)
        except OSError:
            pass  # then it counts


def restart():
    """Restart when the answers under way are out."""
    global restarting
    if not restarting:
        restarting = True
        asyncio.create_task(_restart())


async def _restart():
    await asyncio.sleep_ms(500)
    hardware.restart()
