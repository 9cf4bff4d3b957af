"""What several stores of one process share, one a thread, so that many boards are registered at once."""

import threading
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING

from redis.exceptions import ConnectionError, TimeoutError

from espnet.credential import Password
from espnet.errors import CredentialClosed

if TYPE_CHECKING:
    from espnet.store.credentials import Credentials

#: How long a `Gathering` waits for more of them: short beside a sync of the disk.
_GATHERED_S = 0.1


class OneByOne:
    """A lock for changes that would otherwise only find that another one was faster.

    Where Redis was gone for one, it is for all that wait, or their time-outs would add up.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gone: Exception | None = None

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._gone is not None:
            self._lock.release()
            raise self._gone

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if isinstance(error, ConnectionError | TimeoutError):
            self._gone = error
        self._lock.release()


class Gathering:
    """New passwords of several threads, each with a store of its own: who comes first waits for others, and
    adds what all of them have.

    So many boards cost one look whether any password is sealed, and one wait for the disk. Whoever adds one
    holds its board's lock, so a board is in a group once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = _Group()

    def add(
        self, store: "Credentials", device_id: str, password: Password
    ) -> dict[str, CredentialClosed]:
        """Returns what `Credentials.add_passwords` does of the whole group, and raises what it raises."""
        with self._lock:
            group = self._next
            is_first = not group.passwords
            group.passwords[device_id] = password
        if is_first:
            threading.Event().wait(_GATHERED_S)
            with self._lock:
                self._next = _Group()
            try:
                group.refused.set_result(store.add_passwords(group.passwords))
            except BaseException as error:
                group.refused.set_exception(error)
                raise
        return group.refused.result()


class _Group:
    def __init__(self) -> None:
        self.passwords: dict[str, Password] = {}
        self.refused: Future[dict[str, CredentialClosed]] = Future()
