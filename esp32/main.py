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

sys.path.insert(0, "/" + choice["slot"])
gc.collect()

try:
    import app

    app.main(choice)
    raise RuntimeError("it must never end")
except KeyboardInterrupt:
    sys.path.insert(0, "")  # the root's own switch, whatever the release calls its files
    import switch

    switch.step_aside()
    raise
except BaseException as error:
    try:
        sys.path.insert(0, "")
        import switch

        switch.give_up(choice, error)
    except Exception as another:  # there is no memory for it, or it is damaged
        sys.print_exception(another)
        time.sleep(20)
        machine.reset()
