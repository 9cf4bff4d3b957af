"""MicroPython. How `time` sleeps: so long that the board's time has passed."""

from time import real

import utime


def sleep_us(us):
    utime.sleep_us(max(real(us), 0))


def sleep_ms(ms):
    sleep_us(ms * 1000)


def sleep(s):
    sleep_us(int(s * 1000000))
