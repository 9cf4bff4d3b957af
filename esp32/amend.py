"""Small changes of the record of boots, for main.py: the switch is too large to be loaded for them.

Like the switch it is source, lies in the root, and is put by cable only.
"""

import json
import os


def give_back():
    """A trial was neither confirmed nor ended in its time: the switch does the rest."""
    record = _load()
    record["tries"] = 99
    record["why"] = "its time was over, and it did not see to that itself"
    _save(record)


def forgive():
    """A person at the cable ended this boot: it counts for nothing."""
    record = _load()
    for name in ("short", "tries"):
        record[name] = max(0, record[name] - 1)
    _save(record)


def _load():
    with open("boot.json") as file:
        return json.load(file)


def _save(record):
    with open("boot.json.new", "w") as file:
        json.dump(record, file)
    os.rename("boot.json.new", "boot.json")
