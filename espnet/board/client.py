"""One-off calls to a board, for a person at the command line: blocking, by `requests`.

Invariants: a call ends within its time-out whatever the board does, headers that drip byte by byte
included, because a lock with a TTL is held meanwhile. Answers are bounded, redirects are not
followed, and the machine's proxy settings are not asked: boards live on the local network.
"""

import http.client
import socket
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.exceptions import (
    ConnectTimeoutError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)

from espnet.board.calls import MAX_ANSWER_BYTES, Call, require_ok
from espnet.clock import SystemClock
from espnet.errors import BoardError

_monotonic = SystemClock().monotonic


def send(address: str, call: Call, timeout_s: float) -> bytes:
    """The body of the board's answer; raises `BoardError`."""
    with requests.Session() as session:
        session.trust_env = False
        # One call needs no kept connection; a board has few, and gets this one back at once.
        session.headers.clear()
        session.headers["Connection"] = "close"
        session.mount("http://", _DeadlineAdapter(_monotonic() + timeout_s))
        try:
            with session.request(
                call.method,
                f"http://{address}{call.path}",
                data=call.body() or None,
                headers={"Content-Type": "application/x-www-form-urlencoded"} if call.form else {},
                timeout=timeout_s,
                allow_redirects=False,
                stream=True,
            ) as response:
                body = response.raw.read(MAX_ANSWER_BYTES + 1, decode_content=True)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise _board_error(address, error, timeout_s) from error
        if len(body) > MAX_ANSWER_BYTES:
            raise BoardError(address, "too_large", f"answered more than {MAX_ANSWER_BYTES} bytes")
        return require_ok(address, response.status_code, body)


class _DeadlineSocket(socket.socket):
    """Every receive gets what is left until the deadline, not the whole time-out again."""

    deadline: float

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        left = self.deadline - _monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)
        return super().recv_into(*args, **kwargs)


class _DeadlineAdapter(HTTPAdapter):
    """Connections of this adapter end at ``deadline`` (monotonic seconds), or when it is closed.

    urllib3 leaves an idle connection open until its pool is collected as garbage; whoever keeps the
    error of a call would keep one of the board's few connections, too.
    """

    def __init__(self, deadline: float) -> None:
        self._sockets = sockets = list[socket.socket]()

        class Connection(urllib3.connection.HTTPConnection):
            def _new_conn(self) -> socket.socket:
                plain = super()._new_conn()
                sock = _DeadlineSocket(plain.family, plain.type, plain.proto, plain.detach())
                sock.deadline = deadline
                sockets.append(sock)
                return sock

        class Pool(urllib3.HTTPConnectionPool):
            ConnectionCls = Connection

        self._pool_class = Pool
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": self._pool_class}

    def close(self) -> None:
        super().close()
        for sock in self._sockets:
            sock.close()


def _board_error(address: str, error: Exception, timeout_s: float) -> BoardError:
    """What the libraries raise, by its innermost cause."""
    causes = _chain(error)

    def is_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    # The order matters: urllib3's NewConnectionError is a ConnectTimeoutError, too.
    if is_by(ConnectionRefusedError):
        return BoardError(address, "refused", "refused the connection: does its program run?")
    if is_by(NameResolutionError, LocationParseError):
        return BoardError(address, "unreachable", "has a host name that nobody knows")
    if is_by(NewConnectionError):
        return BoardError(address, "unreachable", f"cannot be reached: {causes[-1]}")
    if is_by(ConnectTimeoutError):
        return BoardError(
            address, "timeout", f"did not take a connection within {timeout_s:g} s: is it powered?"
        )
    if is_by(TimeoutError, ReadTimeoutError):
        return BoardError(address, "timeout", f"did not answer within {timeout_s:g} s")
    if is_by(http.client.LineTooLong):
        return BoardError(address, "too_large", f"answered more than {MAX_ANSWER_BYTES} bytes")
    if is_by(http.client.HTTPException) and not is_by(ConnectionError, http.client.IncompleteRead):
        return BoardError(address, "bad_answer", "does not speak HTTP")
    return BoardError(address, "closed", "broke the connection off before its answer was whole")


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what it was made of: requests and urllib3 keep that in three different places."""
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        current = waiting.pop(0)
        if isinstance(current, BaseException) and current not in found:
            found.append(current)
            waiting += [current.__cause__, current.__context__, getattr(current, "reason", None)]
            waiting += current.args
    return found
