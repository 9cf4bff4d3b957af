"""What a command means, before it is done.

python-fire calls a verb as soon as it has the verb's own words, and only then finds out that there are
words left that fit nowhere: `espcli unregister porch now` would unregister and complain afterwards.
So verbs do nothing when they are called; they return an `Act`.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from fire import decorators

F = TypeVar("F", bound=Callable[..., Any])


class Act:
    """Something to do; ``run`` does it and returns what is to be shown."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run = run

    def __dir__(self) -> list[str]:
        return []  # nothing in here is a word of the command line


def verb(method: F) -> F:
    """A method becomes a word of the command line.

    Its arguments arrive as the texts that were typed: fire alone would read the id ``2e9672320848`` as
    infinity, the name ``1.10`` as 1.1 and ``None`` as nothing.
    """

    @functools.wraps(method)
    def wrapper(self: Any, *words: str, **options: str) -> Act:
        return Act(lambda: method(self, *words, **options))

    return cast(F, decorators.SetParseFn(str)(wrapper))
