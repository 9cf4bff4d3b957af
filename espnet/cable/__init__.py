"""The USB cable: what is done to one board by whoever holds it in his hand.

::

    ports     which port it is, and why it cannot be opened
      │
    image     a MicroPython image: what it is for, whether it is whole
      │
    flashing  erases and writes the chip, by esptool
      │
    prompt    MicroPython's prompt, by mpremote: files, their hashes, a reset
      │
    putting   a release of the firmware onto the board       setup   its settings.json

Invariants: nothing here prints or asks; progress is told to a function that the caller gives. Whoever comes
to the prompt interrupts the board's program, and leaves by a reset. What is written replaces what was there
as a whole, so a cable that is pulled leaves a board that boots.
"""

from collections.abc import Callable

#: Told what is being done, how much of it is done, and how much there is, in bytes or pieces.
Progress = Callable[[str, int, int], None]
