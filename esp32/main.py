"""Starts the release that the switch chooses. Like boot.py and switch.py it is put by cable only.

Only Ctrl-C, by which a person at the cable takes over, ends it: whatever else ends the release restarts
the board, and the switch counts that.
"""

import gc
import sys

try:
    import switch

    choice = switch.choose()
    # What it took to choose is needed no more, and this board has little memory.
    del sys.modules["switch"], switch
except Exception as error:
    sys.print_exception(error)
    choice = {"slot": "a"}

sys.path.insert(0, "/" + choice["slot"])
gc.collect()

try:
    import app

    app.main(choice)
    raise RuntimeError("it must never end")
except KeyboardInterrupt:
    import switch

    switch.step_aside()
    raise
except BaseException as error:
    import switch

    switch.give_up(choice, error)
