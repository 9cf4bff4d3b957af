"""One-off calls to a board, for a person at the command line: blocking.

Invariants: a call ends within its time-out whatever the board does, headers that drip byte by byte
included, because a lock with a TTL is held meanwhile. Answers are bounded, redirects are not
followed, and the machine's proxy settings are not asked: boards live on the local network.
"""

import threading
from typing import cast

from espnet.board.calls import MAX_ANSWER_BYTES, Call, require_ok
from espnet.board.digest import MAX_ASKED, Login, OddChallenge
from espnet.clock import SystemClock
from espnet.errors import BoardError
from espnet.net.exchange import ExchangeError, Exchanger, Fault, Reply

_monotonic = SystemClock().monotonic
_own = threading.local()


def send(address: str, call: Call, timeout_s: float, login: Login | None = None) -> bytes:
    """The body of the board's answer; raises `BoardError`.

    With a ``login`` the request is signed where the board asks for it, and sent again.
    """
    deadline = _monotonic() + timeout_s
    exchanger = _of_thread()
    for _ in range(MAX_ASKED):
        reply = _exchange(exchanger, address, call, timeout_s, deadline, login)
        if login is None or not _wants_more(login, address, reply):
            break
    if reply.fault is not None:
        raise _board_error(address, reply.fault, "", timeout_s)
    return require_ok(address, reply.status, reply.body)


def _of_thread() -> Exchanger:
    """This thread's. Making one costs as much as a call; no connection is kept, for a board has few, and
    gets each back at once."""
    if not hasattr(_own, "exchanger"):
        _own.exchanger = Exchanger(_monotonic)
    return cast(Exchanger, _own.exchanger)


def _wants_more(login: Login, address: str, reply: Reply) -> bool:
    challenge, info = (
        reply.headers.get(name, "").encode("latin-1")
        for name in ("WWW-Authenticate", "Authentication-Info")
    )
    try:
        return login.answered(reply.status, challenge, info, reply.body)
    except OddChallenge as error:
        raise BoardError(address, "wrong_id", str(error), reply.status) from error


def _exchange(
    exchanger: Exchanger,
    address: str,
    call: Call,
    timeout_s: float,
    deadline: float,
    login: Login | None,
) -> Reply:
    body = call.body()
    headers = {"Content-Type": call.media} if body else {}
    if login is not None:
        words = (call.method.encode(), call.path.encode(), body)
        if signature := login.sign(*words):
            headers["Authorization"] = signature.decode()
    try:
        return exchanger.exchange(
            call.method,
            f"http://{address}{call.path}",
            headers=headers,
            body=body or None,
            timeout_s=deadline - _monotonic(),
            max_bytes=MAX_ANSWER_BYTES,
        )
    except ExchangeError as error:
        raise _board_error(address, error.fault, error.detail, timeout_s) from error


def _board_error(address: str, fault: Fault, detail: str, timeout_s: float) -> BoardError:
    match fault:
        case "refused":
            return BoardError(address, "refused", "refused the connection: does its program run?")
        case "unknown":
            return BoardError(address, "unreachable", "has a host name that nobody knows")
        case "unreachable":
            return BoardError(address, "unreachable", f"cannot be reached: {detail}")
        case "connect":
            what = f"did not take a connection within {timeout_s:g} s: is it powered?"
            return BoardError(address, "timeout", what)
        case "timeout":
            return BoardError(address, "timeout", f"did not answer within {timeout_s:g} s")
        case "too_large":
            what = f"answered more than {MAX_ANSWER_BYTES} bytes"
            return BoardError(address, "too_large", what)
        case "not_http":
            return BoardError(address, "bad_answer", "does not speak HTTP")
        case "closed":
            what = "broke the connection off before its answer was whole"
            return BoardError(address, "closed", what)
