"""Starts the release that the switch chooses. Like boot.py and switch.py it is put by cable only.

Only Ctrl-C, by which a person at the cable takes over, ends it: whatever else ends the release restarts
the board, and the switch counts that.
"""

import gc
import json
import os
import sys
import time

import machine

try:
    import switch

    choice = switch.choose()
    # What it took to choose is needed no more, and this board has little memory.
    del sys.modules["switch"], switch
except Exception as error:
    sys.print_exception(error)
    machine.WDT(timeout=60000)
    choice = {"slot": "a"}
    try:
        os.stat("a/manifest")
    except OSError:
        if "b" in os.listdir():
            choice = {"slot": "b"}


def too_late(timer):
    """A trial was neither confirmed nor ended in its time: the release may have forgotten how to."""
    try:
        with open("boot.json") as file:
            record = json.load(file)
        record["tries"] = 99  # the switch does the rest
        record["why"] = "its time was over, and it did not see to that itself"
        with open("boot.json.new", "w") as file:
            json.dump(record, file)
        os.rename("boot.json.new", "boot.json")
    finally:
        machine.reset()


sys.path.insert(0, "/" + choice["slot"])
gc.collect()

try:
    import app

    if choice.get("trial"):
        # Half a minute later than the release itself, which stops this when it is confirmed.
        choice["timer"] = machine.Timer(0)
        late_ms = (choice["minutes"] or 10) * 60000 + 30000
        choice["timer"].init(mode=machine.Timer.ONE_SHOT, period=late_ms, callback=too_late)
    app.main(choice)
    raise RuntimeError("it must never end")
except KeyboardInterrupt:
    sys.path.insert(0, "")  # the root's own switch, whatever the release calls its files
    import switch

    switch.step_aside()
    if "timer" in choice:
        choice["timer"].deinit()
    raise
except BaseException as error:
    try:
        app = None  # the release's memory is needed
        for name in list(sys.modules):
            if getattr(sys.modules[name], "__file__", "").startswith(sys.path[0] + "/"):
                del sys.modules[name]
        gc.collect()
        sys.path.insert(0, "")
        import switch

        switch.give_up(choice, error)
    except Exception as another:  # there is no memory for it, or it is damaged
        sys.print_exception(another)
        time.sleep(20)
        machine.reset()
