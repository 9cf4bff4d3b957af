"""MicroPython. Boots a simulated board: the shared page, the stand-ins, its own `/`, its program.

Arguments: address and size of the shared page, the board's flash folder. Afterwards the firmware
sees its flash as `/`, ESP32's module path, and `boot.py` then `main.py`, as on a board.
Exit code 3: `main.py` ended, by itself or by an exception (a real board sits at its prompt then).
"""


def _wire():
    import os
    import sys

    import _pads
    import vfs

    address, size, chip, flash = sys.argv[1:5]
    _pads.attach(int(address), int(size))
    for name in ("machine", "esp32", "dht", "network", "socket"):
        __import__(name)  # while they can still be found; the firmware gets these
    import esp32

    if chip == "esp32":
        del esp32.mcu_temperature
    else:
        del esp32.raw_temperature
    vfs.umount("/")
    vfs.mount(vfs.VfsPosix(flash), "/")
    os.chdir("/")  # or relative names would belong to no file system
    sys.path[:] = ["", ".frozen", "/lib"]
    sys.argv[:] = [""]


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


_wire()
del _wire
import gc

gc.collect()
del gc
_run("/boot.py")
_run("/main.py")
raise SystemExit(3)
