"""MicroPython. Boots a simulated board: the shared page, the stand-ins, its own `/`, its program.

Arguments: address and size of the shared page, the chip, the board's flash folder. Afterwards the
firmware sees its flash as `/`, ESP32's module path, and `boot.py` then `main.py`, as on a board.
Exit code 3: `main.py` ended, by itself or by an exception (a real board sits at its prompt then).
"""

import sys

import _wiring

_wiring.connect()
del sys.modules["_wiring"], _wiring, sys
import gc

gc.collect()
del gc


def _run(name):
    import os
    import sys

    try:
        os.stat(name)
    except OSError:
        return
    try:
        execfile(name, globals())
    except SystemExit:
        import machine

        machine.soft_reset()
    except BaseException as e:
        sys.print_exception(e)


_run("/boot.py")
_run("/main.py")
raise SystemExit(3)
