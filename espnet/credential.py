"""Boards' passwords, as they pass through the program.

Invariants: a password is no record: nothing encodes, copies or prints it, in a traceback's ``repr`` neither.
Who wants its text must say so (`Password.reveal`).
"""

import hashlib
import hmac
import secrets
from typing import NamedTuple, NoReturn

#: The user whom every board knows.
USER = "espnet"
#: Digits and letters that nobody takes for one another: 32 of them, so 5 bits each.
_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"
#: Who listens to one exchange can try passwords at home: a person's own must not be shorter.
SHORTEST, LONGEST = 12, 64


def realm(board_id: str) -> str:
    """What a board says that its password is for."""
    return f"EspNet {board_id}"


def board_of(realm: str) -> str | None:
    """The id of the board that has this realm; None where it is no board's."""
    name, _, board_id = realm.partition(" ")
    return board_id if name == "EspNet" and board_id else None


class Password:
    """A board's password: 12 to 64 printable ASCII characters."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for a person who asked for it, or for the seal that it is stored under."""
        return self._text

    def ha1(self, board_id: str) -> str:
        """What the board knows of it (RFC 7616): 64 hexadecimal digits."""
        return hashlib.sha256(f"{USER}:{realm(board_id)}:{self._text}".encode()).hexdigest()

    def __repr__(self) -> str:
        return "Password(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Password) and hmac.compare_digest(
            self._text.encode(), other._text.encode()
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a password is not to be copied or stored")


class Credential(NamedTuple):
    """The passwords that a board may have, the likeliest first; none where ``problem`` says why.

    There is more than one after a change: the one before it is kept, in case the board never took the new.
    ``is_current``: in Redis they are sealed under the key in force, or plain where there is none.
    ``is_proved``: the board has proved once that it knows one of them.
    """

    passwords: tuple[Password, ...] = ()
    problem: str = ""
    is_current: bool = True
    is_proved: bool = False


def new_password() -> Password:
    """A random password of 100 bits, in groups that a person can type on a phone."""
    letters = [secrets.choice(_LETTERS) for _ in range(20)]
    return Password("-".join("".join(letters[at : at + 5]) for at in range(0, 20, 5)))


def problem_with_password(text: str) -> str | None:
    """What is wrong with a password that a person chose, as the end of a sentence; None if nothing is."""
    if not (text.isascii() and text.isprintable()):
        return "may have printable ASCII characters only"
    if not SHORTEST <= len(text) <= LONGEST:
        return f"must have {SHORTEST} to {LONGEST} characters"
    return None
