"""The switch: which of the two releases on flash runs, and what happens when it does not work.

A release lies whole in a slot, the folder `/a` or `/b`; its `manifest` is written last. A new one is on
trial until a controller has seen it work and says so. Invariants:

- Each boot is counted on flash before it begins. A trial that cannot be counted is not begun.
- A trial gets two boots. Then the release before is back, and `undone` says why.
- Three boots in a row that each ended within a minute: the next ones are in safe mode, until one lasts.
- Three more in safe mode: the release itself must be damaged. The one before, if it is whole, has its turn.

Nothing that comes over the air changes this file, boot.py or main.py, so whatever a release does, this is
still here after the next reset. It is source, because bytecode would depend on MicroPython's version.
"""

import binascii
import hashlib
import json
import os
import sys
import time

import machine

FILE = "boot.json"
SIZE_MAX = 1536
TRIES = 2
SHORT = 3
WATCHDOG_MS = 60000  # until the release sets its own


def load():
    """The record of boots. Whatever lies on flash, every member is there, of its type, and within bounds."""
    found = None
    try:
        with open(FILE) as file:
            text = file.read(SIZE_MAX + 1)
        # What is nested deeply takes memory that does not always come back.
        if len(text) <= SIZE_MAX and text.count("[") + text.count("{") < 16:
            found = json.loads(text)
    except Exception:
        pass  # what lies whole on flash boots all the same
    if not isinstance(found, dict):
        found = {}
    record = {}
    for name, most in (("tries", 99), ("short", 99), ("boots", 1 << 30), ("minutes", 60)):
        value = found.get(name)
        record[name] = min(value, most) if type(value) is int and value > 0 else 0
    for name in ("slot", "trial", "previous"):
        value = found.get(name)
        record[name] = value if value in ("a", "b") else None
    for name in ("wanted", "undone"):
        value = found.get(name)
        if isinstance(value, dict):
            value = {part: _text(value.get(part)) for part in ("build", "version", "why")}
        else:
            value = None
        record[name] = value
    record["why"] = _text(found.get("why"))
    if not record["slot"] or not is_whole(record["slot"]):
        record["slot"] = "a" if is_whole("a") or not is_whole("b") else "b"
    if record["trial"] == record["slot"]:
        record["trial"] = None  # its end would be the end of the one that is to come back
    return record


def _text(value):
    return value[:300] if isinstance(value, str) else ""


def save(record):
    """Replace the record: whenever the power goes, it is the old one or the new one."""
    with open(FILE + ".new", "w") as file:
        json.dump(record, file)
    os.rename(FILE + ".new", FILE)


def is_whole(slot):
    """Whether a slot holds a whole release."""
    try:
        os.stat(f"{slot}/manifest")
    except OSError:
        return False
    return True


def build_in(slot):
    """The build of the release in a slot: 12 digits of its manifest's SHA-256; "" where there is none."""
    try:
        with open(f"{slot}/manifest", "rb") as file:
            digest = hashlib.sha256()
            while True:
                piece = file.read(256)
                if not piece:
                    return binascii.hexlify(digest.digest()).decode()[:12]
                digest.update(piece)
    except OSError:
        return ""


def choose():
    """Choose and count this boot.

    Returns {"slot", "build": of what lies there, "trial": whether it is on trial, "safe": whether in safe
    mode, "boots": how many there were, "minutes": how long a trial may last, "watchdog": running, with a
    minute's patience}.
    """
    watchdog = machine.WDT(timeout=WATCHDOG_MS)  # first: it ends whatever hangs from here on
    record = load()
    by_watchdog = machine.reset_cause() == machine.WDT_RESET
    slot, safe = decide(record, by_watchdog, machine.reset_cause() == machine.PWRON_RESET)
    try:
        save(record)
    except Exception as error:
        print("switch: this boot cannot be counted:", error)
        slot = record["slot"]
    return {
        "slot": slot,
        "build": build_in(slot),
        "trial": slot == record["trial"],
        "safe": safe,
        "boots": record["boots"],
        "minutes": record["minutes"],
        "watchdog": watchdog,
    }


def decide(record, by_watchdog, by_power):
    """(slot, safe mode) of the boot that begins; the record is brought up to date."""
    record["boots"] += 1
    trial = record["trial"]
    if trial:
        if by_watchdog and record["tries"]:
            record["why"] = "it did no work any more, and its watchdog restarted it"
        why = "it was restarted twice before it was confirmed"
        if record["tries"] < TRIES:
            if is_whole(trial):
                record["tries"] += 1
                return trial, False
            why = "it is not whole"
        undo(record, record["why"] or why)
    record["short"] += 1
    other = "b" if record["slot"] == "a" else "a"
    is_hopeless = record["short"] > 2 * SHORT and not by_power
    if is_hopeless and record["previous"] == other and is_whole(other):
        record["previous"] = record["slot"]
        record["slot"] = other
        record["short"] = 1
        why = "it ended within a minute six times; the release before has its turn"
        record["undone"] = {"build": "", "version": "", "why": why}
    return record["slot"], record["short"] > SHORT


def undo(record, why):
    """End the trial in the record; the release that failed is no longer whole."""
    slot = record["trial"]
    if slot:
        record["undone"] = dict(record["wanted"] or {"build": "", "version": ""}, why=why)
        try:
            os.remove(f"{slot}/manifest")
        except OSError:
            pass
    record["trial"] = record["wanted"] = None
    record["tries"] = 0
    record["why"] = ""


def give_up(choice, error):
    """The release ended by `error`: keep why, and restart; more slowly when that happens again."""
    record = load()
    try:
        sys.print_exception(error)
        text = last_words(error)
        if choice.get("trial"):
            record["why"] = "it ended with " + text[text.rfind("\n") + 1 :]
            save(record)
        with open("crash.json.new", "w") as file:
            json.dump(text, file)
        os.rename("crash.json.new", "crash.json")
    except Exception:
        pass  # the console has it
    # A watchdog that is less patient than this may be quicker.
    time.sleep(min(record["short"], 20))
    machine.reset()


def last_words(error):
    """The traceback's last part, about half a KB. Messages that might hold a secret are left out."""
    import io

    file = io.StringIO()
    sys.print_exception(error, file)
    text = file.getvalue().strip()
    if isinstance(error, (KeyError, ValueError)):
        text = text[: text.rfind("\n") + 1] + type(error).__name__
    return text[-600:]
