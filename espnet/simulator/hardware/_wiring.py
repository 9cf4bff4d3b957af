"""MicroPython. What happens before a board starts: the stand-ins take their places. Not kept."""

import os
import sys

import _pads
import vfs


def connect():
    address, size, chip, flash = sys.argv[1:5]
    _pads.start(int(address), int(size))
    # While they can still be found; the firmware gets these. First what the others take time from.
    for name in ("time", "select", "machine", "esp32", "dht", "network", "socket"):
        __import__(name)
    import esp32

    if chip == "esp32":
        del esp32.mcu_temperature
    else:
        del esp32.raw_temperature
    _pads.path = vfs.VfsPosix(sys.path[0])
    vfs.umount("/")
    vfs.mount(vfs.VfsPosix(flash), "/")
    os.chdir("/")  # or relative names would belong to no file system
    sys.path[:] = ["", ".frozen", "/lib"]
    sys.argv[:] = [""]
