"""One HTTP request and its answer, by `requests`, within a time.

Invariants: an exchange ends within its time whatever the far end does: a name server that is gone, a
handshake that stalls, a body that nobody takes, an answer that drips byte by byte. Answers are bounded
and come as they are: redirections are not followed, nothing is unpacked. A failure says whether
the request had been sent whole.
"""

import http.client
import socket
import ssl
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
)
from urllib3.util.ssl_ import create_urllib3_context

from espnet.net.names import Address, resolve

#: Why there is no (whole) answer: nobody listens; nobody knows the name; no way to get there, TLS and
#: proxies included; no connection in time; no answer in time; the connection ended before it was
#: whole; it is larger than allowed; it is not HTTP.
Fault = Literal[
    "refused", "unknown", "unreachable", "connect", "timeout", "closed", "too_large", "not_http"
]


class ExchangeError(Exception):
    """No answer. ``is_sent`` tells whether the whole request had left; ``detail`` is the system's word."""

    def __init__(self, fault: Fault, detail: str, *, is_sent: bool) -> None:
        self.fault, self.detail, self.is_sent = fault, detail, is_sent
        super().__init__(f"{fault}: {detail}" if detail else fault)


class Reply(NamedTuple):
    """An answer whose head is whole. With a ``fault`` its body is not, and is left out.

    Names in ``headers`` are found in any case; a header that came twice is joined by ``, ``. Without
    ``is_sent`` the answer came before the request had left whole.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    is_sent: bool
    fault: Fault | None = None


class _Time:
    """Until when the present exchange may last, and how far it has come."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.deadline = monotonic()
        self.is_sent = False

    def begin(self, timeout_s: float) -> None:
        self.deadline = self._monotonic() + timeout_s
        self.is_sent = False

    def left(self) -> float:
        left_s = self.deadline - self._monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return left_s


class Exchanger:
    """Exchanges, one after another: one thread's.

    With ``keep`` a connection is kept for the next exchange with this far end, until `close`. With
    ``trust_env`` the machine's settings for proxies and certificates apply, except for hosts named in
    ``direct``.
    """

    def __init__(
        self,
        monotonic: Callable[[], float],
        *,
        keep: bool = False,
        trust_env: bool = False,
        direct: str = "",
    ) -> None:
        self._time = _Time(monotonic)
        self._keep, self._direct = keep, direct
        self._adapter = _Adapter(self._time)
        # Whoever drops an exchanger without closing it leaves no connection behind.
        weakref.finalize(self, self._adapter.close)
        # Only asked for settings: it would follow a redirection's body to its end.
        self._session = requests.Session()
        self._session.trust_env = trust_env

    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | str | None = None,
        timeout_s: float,
        max_bytes: int,
    ) -> Reply:
        """Sends a request; a body of at most ``max_bytes`` comes with the answer.

        Raises `ExchangeError`.
        """
        self._time.begin(timeout_s)
        is_whole = False
        try:
            kept = {} if self._keep else {"Connection": "close"}
            request = requests.Request(method, url, {**kept, **headers}, data=body).prepare()
            direct = {"no_proxy": self._direct} if self._direct else {}
            settings: Any = self._session.merge_environment_settings(url, direct, True, None, None)
            # urllib3 takes no time-out of 0; the sockets see to it that there is none left.
            response = self._adapter.send(request, timeout=max(timeout_s, 0.001), **settings)
            reply = self._read(response, max_bytes)
            is_whole = reply.fault is None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            fault, detail = _fault_of(error)
            raise ExchangeError(fault, detail, is_sent=self._time.is_sent) from error
        finally:
            if not (is_whole and self._keep):
                self.close()
        return reply

    def close(self) -> None:
        """Ends the kept connection; the next exchange makes a new one."""
        self._adapter.close()

    def _read(self, response: requests.Response, max_bytes: int) -> Reply:
        body = b""
        fault: Fault | None = None
        try:
            # The first read may end early; only one that finds nothing more sees a body cut short.
            while len(body) <= max_bytes and (
                part := response.raw.read(max_bytes + 1 - len(body), decode_content=False)
            ):
                body += part
            if len(body) > max_bytes:
                fault = "too_large"
        except (urllib3.exceptions.HTTPError, OSError) as error:
            fault = _fault_of(error)[0]
        return Reply(
            response.status_code,
            str(response.reason or ""),
            response.headers,
            b"" if fault else body,
            self._time.is_sent,
            fault,
        )


class _Timed(socket.socket):
    """Each wait gets what is left of the exchange, not the whole time-out again."""

    time: _Time

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(self.time.left())
        return super().recv_into(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(self.time.left())
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        # A plain socket counts the time of all its parts; a TLS socket sends them by `send`.
        self.settimeout(self.time.left())
        return super().sendall(*args, **kwargs)


class _TimedTls(_Timed, ssl.SSLSocket):
    """The same inside TLS. Its handshake is one wait, with the time that the socket below had left."""


class _Connection(HTTPConnection):
    """Finds its way within ``time``, and notes when the request has left."""

    time: _Time
    plain: type[_Timed]
    #: Every socket that was made, because urllib3 leaves an idle one open until it is garbage.
    sockets: list[socket.socket]

    def _new_conn(self) -> socket.socket:
        try:
            addresses = resolve(self._dns_host, self.port, socket.SOCK_STREAM, self.time.left())
            return self._first_to_answer(addresses)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"no connection to {self.host} in time") from error
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error

    def _first_to_answer(self, addresses: list[Address]) -> socket.socket:
        """Tries each for its share of the time: a dead IPv6 route must not cost the IPv4 one."""
        for untried, (family, kind, protocol, _, address) in zip(
            range(len(addresses), 0, -1), addresses, strict=True
        ):
            sock = self.plain(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option)
                sock.settimeout(self.time.left() / untried)
                sock.connect(address)
                sock.settimeout(self.time.left())
            except OSError:
                sock.close()
                if untried == 1:
                    raise
            else:
                self.sockets.append(sock)
                return sock
        raise OSError("the name has no address")

    def request(self, *args: Any, **kwargs: Any) -> None:
        super().request(*args, **kwargs)
        self.time.is_sent = True


class _TlsConnection(_Connection, HTTPSConnection):
    tls: type[_TimedTls]

    def connect(self) -> None:
        self.ssl_context = create_urllib3_context()
        self.ssl_context.sslsocket_class = self.tls
        super().connect()
        if self.sock is not None:
            self.sockets.append(self.sock)


class _Adapter(HTTPAdapter):
    """Connections that keep to ``time`` and really end with the adapter.

    Only what goes through a proxy that is itself asked by TLS (``https://``) gets the whole time-out
    for each of its waits.
    """

    def __init__(self, time: _Time) -> None:
        self._sockets: list[socket.socket] = []
        given = {
            "time": time,
            "sockets": self._sockets,
            "plain": type("_Timed", (_Timed,), {"time": time}),
            "tls": type("_TimedTls", (_TimedTls,), {"time": time}),
        }
        plain = type("Connection", (_Connection,), given)
        tls = type("TlsConnection", (_TlsConnection,), given)
        self._pools = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("TlsPool", (HTTPSConnectionPool,), {"ConnectionCls": tls}),
        }
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = self._pools
        return manager

    def close(self) -> None:
        super().close()
        while self._sockets:
            self._sockets.pop().close()


def _fault_of(error: BaseException) -> tuple[Fault, str]:
    """What the libraries raise, by its innermost cause, and the system's word for it."""
    causes = _chain(error)

    def is_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    told = (cause.strerror for cause in reversed(causes) if isinstance(cause, OSError))
    detail = next((text for text in told if text), "")
    # The order matters: urllib3's NewConnectionError is a ConnectTimeoutError, too.
    if is_by(ConnectionRefusedError):
        return "refused", detail
    if is_by(NameResolutionError, LocationParseError):
        return "unknown", detail
    if is_by(NewConnectionError, ssl.SSLCertVerificationError):
        return "unreachable", detail
    if is_by(ConnectTimeoutError):
        return "connect", detail
    if is_by(TimeoutError, ReadTimeoutError):
        return "timeout", detail
    if is_by(http.client.LineTooLong):
        return "too_large", detail
    if is_by(requests.exceptions.ProxyError, ssl.SSLError, requests.exceptions.InvalidURL):
        return "unreachable", detail
    if is_by(http.client.HTTPException) and not is_by(ConnectionError, http.client.IncompleteRead):
        return "not_http", detail
    return "closed", detail


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
