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


class Words:
    """A group of words: the public methods of a class, and nothing else that an object has.

    ``_before`` are the steps that earlier words of the same command asked for.
    """

    _before: tuple[Callable[[], None], ...] = ()

    def __dir__(self) -> list[str]:
        """fire takes for a word whatever is in here; without this, `__class__` would be one."""
        return list(words_of(type(self)))

    def _bare(self) -> Any:
        """What the group means when no word follows; None where it means nothing."""
        return None


def words_of(group: type[Words]) -> dict[str, Any]:
    """The words of a group with what they stand for, in the source's order, its own ones first."""
    found: dict[str, Any] = {}
    for part in group.__mro__[: group.__mro__.index(Words)]:
        for name, member in vars(part).items():
            if not name.startswith("_"):
                found.setdefault(name, member)
    return found


def as_typed(method: F) -> F:
    """The method's arguments arrive as the texts that were typed.

    fire alone would read the id ``2e9672320848`` as infinity, the name ``1.10`` as 1.1 and ``None``
    as nothing.
    """
    return cast(F, decorators.SetParseFn(str)(method))


def verb(method: F) -> F:
    """A method becomes a word that ends a command.

    Positional parameters are words in their place, keyword-only ones are options. An option whose
    default is False is there or not; it arrives as False or as some text.
    """

    @functools.wraps(method)
    def wrapper(self: Words, *words: str, **options: str) -> Act:
        def run() -> Any:
            for step in self._before:
                step()
            return method(self, *words, **options)

        return Act(run)

    return cast(F, as_typed(wrapper))
