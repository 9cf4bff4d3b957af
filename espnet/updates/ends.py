"""How the work on one board ends other than well.

All but `Ended` are a sentence's end about the board, and who catches them writes it into its record.
"""


class Ended(Exception):
    """Somebody else drives from here on, or nobody for a while: the board's record stays as it is."""


class End(Exception):
    """The message is the end of a sentence about the board."""


class Away(End):
    """It cannot be reached, and is tried again when it can."""


class Refused(End):
    """It cannot be updated so; nothing of it was changed."""


class Failed(End):
    """It does not do with the new version."""


class Untried(End):
    """It restarted before it began the trial, as when its power was cut, and runs what it ran."""


class Withdrawn(End):
    """The rollout was halted or stopped before the board was told to switch."""
