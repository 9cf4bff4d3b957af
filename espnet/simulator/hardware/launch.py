"""MicroPython. Boots a simulated board: the shared page, the stand-ins, its own `/`, its program.

Arguments: address and size of the shared page, the chip, the board's flash folder. Afterwards the
firmware sees its flash as `/`, ESP32's module path, and `boot.py` then `main.py`, as on a board. The page
says what else: a board with a serial line comes to its prompt, after main.py or without it.
Exit code 3: `main.py` ended, by itself or by an exception, and there is no serial line.
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


__import__("_pads").mem[1] = 1
_run("/boot.py")
if __import__("_pads").mem[9] < 2:
    _run("/main.py")
if not __import__("_pads").mem[9]:
    raise SystemExit(3)
__import__("_pads").mem[1] = 4
del _run
