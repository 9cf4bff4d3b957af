"""What a problem is: how bad, what it is, and what to do about it.

Invariants: a *problem* needs a person; a *remark* is worth knowing, and ends nobody's night; each has a next
step.
"""

from typing import Literal

import msgspec

#: How far the clocks of machines that share a Redis may be apart, in seconds.
SKEW_S = 5.0
#: What is nearly full.
FULL = 0.9


class Problem(msgspec.Struct, frozen=True):
    """``what`` is one sentence or more, ``next_step`` what a person does about it."""

    severity: Literal["problem", "remark"]
    what: str
    next_step: str


def problem(what: str, next_step: str) -> Problem:
    return Problem("problem", what, next_step)


def remark(what: str, next_step: str) -> Problem:
    return Problem("remark", what, next_step)
