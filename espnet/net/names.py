"""Host names to addresses, within a time.

The system's resolver takes no time-out: with a name server that is gone it may wait for half a minute.
So it is asked in a thread of its own, and who is tired of waiting goes on without it.

Invariants: at most one thread asks for a name at a time; it is a daemon and dies with its question.
"""

import socket
import threading

#: What `socket.getaddrinfo` gives: family, kind, protocol, "", address.
Address = tuple[int, int, int, str, tuple[str | int | bytes, ...]]

_lookups: dict[tuple[str, int, int], "_Lookup"] = {}
_lock = threading.Lock()


def resolve(host: str, port: int, kind: int, timeout_s: float) -> list[Address]:
    """The addresses for sockets of this kind (``socket.SOCK_…``), best first.

    Raises `OSError`: `TimeoutError`, and `socket.gaierror` also for a text that can be no name.
    """
    try:
        return _ask(host, port, kind, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # a name, not an address
    question = (host, port, kind)
    with _lock:
        lookup = _lookups.get(question)
        if lookup is None:
            lookup = _lookups[question] = _Lookup(question)
            lookup.start()
    lookup.join(timeout_s)
    if lookup.is_alive():
        raise TimeoutError("timed out")
    if lookup.error is not None:
        raise lookup.error
    return lookup.found


class _Lookup(threading.Thread):
    """One question to the resolver; it has ``found`` addresses or an ``error`` when it is over."""

    def __init__(self, question: tuple[str, int, int]) -> None:
        super().__init__(name=f"resolve {question[0]}", daemon=True)
        self._question = question
        self.found: list[Address] = []
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            self.found = _ask(*self._question)
        except OSError as error:
            self.error = error
        finally:
            with _lock:
                del _lookups[self._question]


def _ask(host: str, port: int, kind: int, flags: int = 0) -> list[Address]:
    try:
        return list(socket.getaddrinfo(host, port, type=kind, flags=flags))
    except UnicodeError as error:  # an empty label, or one that is too long
        raise socket.gaierror(socket.EAI_NONAME, "no name can look like this") from error
