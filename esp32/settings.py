"""What somebody decided for this board: `settings.json` on its flash. docs/board.md has the fields.

At boot, before there is a network, the first of these that is right comes into use:

    settings.json        what somebody put there last
    settings.good.json   the settings under which the board was last reached: always a way back
    none                 everything as the firmware has it by itself

Settings prove good when a request comes in through a network that they name. Those that did not
within ten minutes, while there are others that did, are put aside as `settings.bad.json`, and the
board starts anew with the good ones. Whatever the files hold, nothing here raises, and a sentence in
`notices` says what is not in use and why. It never repeats a value: that might be a password.

Memory is dear: what is needed later is read again from the file in use, and what chooses and proves is
in choosing.py.
"""

import flash
import rarely
from micropython import const

_PROVE_MS = const(600000)

file = None  # the one in use
name = ""  # the board's host name
safe = {}  # {pin: its safe level's name}
notices = []  # sentences that people should read
unproved = False  # whether those in use still have to prove good
way_back = False  # whether there are others that did
_seen = 0


def get(field, default=None, of=None):
    """What the settings in use (or in another file) say of `field`, read from flash."""
    return flash.load(of or file or "", {}).get(field, default)


def tend(now_ms, served, proves):
    """What must happen now and then: `served` requests came until now, and `proves` says whether the
    board is in a network of the settings in use. May restart the board.
    """
    global _seen
    if unproved:
        if served != _seen and proves:
            rarely.once("choosing").prove()
        elif way_back and now_ms > _PROVE_MS:
            rarely.once("choosing").put_aside()
    _seen = served


rarely.once("choosing").load()
