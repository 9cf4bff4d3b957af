"""Starts the release that the switch chooses. Like boot.py and switch.py it is put by cable only.

Only Ctrl-C, by which a person at the cable takes over, ends it: whatever else ends the release restarts
the board, and the switch counts that.
"""

import gc
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
    """The release may have forgotten how to end its trial."""
    try:
        sys.path.insert(0, "")
        import amend

        amend.give_back()
    finally:
        machine.reset()


def switch_again():
    """The root's own switch, whatever the release calls its files, in the memory that the release leaves."""
    global app
    app = None
    if "asyncio" in sys.modules:
        sys.modules["asyncio"].new_event_loop()  # its tasks hold the release
    for name in list(sys.modules):
        if getattr(sys.modules[name], "__file__", "").startswith(sys.path[0] + "/"):
            del sys.modules[name]
    gc.collect()
    sys.path.insert(0, "")
    return __import__("switch")


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
    if "timer" in choice:
        choice["timer"].deinit()
    machine.WDT(timeout=3600000)  # it cannot be stopped, so the person has an hour
    try:
        sys.path.insert(0, "")
        import amend

        amend.forgive()
    except Exception as error:
        print("this boot stays counted:", error)
    raise
except BaseException as error:
    try:
        switch_again().give_up(choice, error)
    except Exception as another:  # there is no memory for it, or it is damaged
        sys.print_exception(another)
        time.sleep(20)
        machine.reset()
