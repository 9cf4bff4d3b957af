"""Laws of `espnet.net`: whatever the far end does, names and exchanges end in time.

What an exchange makes of plain HTTP is shown where it is used: tests/test_board_client.py.
"""

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from board_wire import Say, Wire, answer, eventually
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from espnet.net.exchange import ExchangeError, Exchanger, Reply
from espnet.net.names import resolve

#: Time-out where one is meant, and where none is, in seconds: a busy machine may keep either side waiting.
TIMEOUT_S, PATIENCE_S = 1.0, 10.0
#: What a busy machine may add to a time-out.
SLACK_S = 3.0
BIG = b"x" * 20_000_000


def ask(
    exchanger: Exchanger, url: str, *, body: bytes = b"", timeout_s: float = TIMEOUT_S
) -> Reply:
    return exchanger.exchange(
        "POST", url, headers={}, body=body, timeout_s=timeout_s, max_bytes=1_000
    )


def fault_of(
    url: str, *, body: bytes = b"", trust_env: bool = False, timeout_s: float = TIMEOUT_S
) -> tuple[str, bool]:
    """The fault of an exchange that must fail, and whether its request was sent; never late."""
    began = time.monotonic()
    with closing(Exchanger(time.monotonic, trust_env=trust_env)) as exchanger:
        with pytest.raises(ExchangeError) as caught:
            ask(exchanger, url, body=body, timeout_s=timeout_s)
        # What is no time-out is known at once.
        waited_s = timeout_s if caught.value.fault in ("timeout", "connect") else 0.0
        assert time.monotonic() - began < waited_s + SLACK_S
    return caught.value.fault, caught.value.is_sent


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port whose connections are handed to ``serve``, one after another."""

    def run() -> None:
        while True:
            try:
                connection, _ = server.accept()
                with connection:
                    serve(connection)
            except OSError:
                if stopping.is_set():
                    return

    stopping = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stopping.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def until_closed(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


# --- names --------------------------------------------------------------------------------------


@pytest.fixture
def slow_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], threading.Event]]:
    """A resolver that answers nothing before it is allowed to, and the names it was asked for."""
    asked: list[str] = []
    go = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: object, flags: int = 0, **kwargs: object) -> object:
        if flags & socket.AI_NUMERICHOST:
            return real(host, *args, flags=flags, **kwargs)  # type: ignore[arg-type]
        asked.append(host)
        assert go.wait(30)
        return real("127.0.0.1", *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked, go
    go.set()
    eventually(lambda: not any(t.name.startswith("resolve ") for t in threading.enumerate()))


def test_a_resolver_that_hangs_costs_the_time_out_and_one_thread(
    slow_names: tuple[list[str], threading.Event],
) -> None:
    """Who waits goes on without it; who asks again waits for the question that is under way."""
    asked, go = slow_names
    for _ in range(3):
        with pytest.raises(TimeoutError):
            resolve("board.example", 80, socket.SOCK_STREAM, 0.01)
    assert fault_of("http://board.example/", timeout_s=0.2) == ("connect", False)
    assert asked == ["board.example"]
    go.set()
    (found, *_) = resolve("board.example", 80, socket.SOCK_STREAM, 10.0)
    assert found[4] == ("127.0.0.1", 80)


def test_an_address_is_no_question(slow_names: tuple[list[str], threading.Event]) -> None:
    """Addresses need no resolver, and so none that hangs is waited for."""
    for address in ("127.0.0.1", "::1"):
        assert resolve(address, 80, socket.SOCK_STREAM, 0.0)[0][4][:2] == (address, 80)
    assert slow_names[0] == []


@pytest.mark.parametrize("name", ["nobody.invalid", "a..b", "x" * 64 + ".example"])
def test_a_name_that_nobody_knows_is_said_to_be_one(name: str) -> None:
    """Also one that cannot be a name at all."""
    with pytest.raises(OSError, match=r"."):
        resolve(name, 80, socket.SOCK_STREAM, 10.0)


def test_a_dead_address_does_not_hide_a_live_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have several addresses; each gets its share of the time."""
    with (
        socket.socket() as silent,
        socket.socket() as first,
        socket.socket() as second,
        Wire(answer(b"live")) as wire,
    ):
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        for waiting in (first, second):  # fills its queue: further connections get no answer
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
            for port in (silent.getsockname()[1], 1, wire.port)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        with closing(Exchanger(time.monotonic)) as exchanger:
            assert ask(exchanger, "http://board.example/", timeout_s=3.0).body == b"live"


# --- exchanges ----------------------------------------------------------------------------------


def test_a_request_that_nobody_takes_ends_in_time_and_was_not_sent() -> None:
    """A full socket is not a request that may have arrived."""
    release = threading.Event()
    with serving(lambda _: bool(release.wait(30)) and None) as port:
        assert fault_of(f"http://127.0.0.1:{port}/", body=BIG) == ("timeout", False)
        release.set()


def test_a_request_cut_off_was_not_sent() -> None:
    """A far end that hangs up in the middle of a request cannot have all of it."""
    with serving(lambda connection: connection.recv(100) and None) as port:
        url = f"http://127.0.0.1:{port}/"
        assert fault_of(url, body=BIG, timeout_s=PATIENCE_S) == ("closed", False)


def test_an_early_answer_is_heard_and_says_that_it_was_early() -> None:
    """Who refuses a request before its end is understood all the same."""

    def refuse(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        until_closed(connection)

    with serving(refuse) as port, closing(Exchanger(time.monotonic)) as exchanger:
        # It reads on after its answer, so that the request is sent in the end; what matters is 413.
        reply = ask(exchanger, f"http://127.0.0.1:{port}/", body=BIG, timeout_s=10.0)
        assert reply.status == 413


def test_no_time_at_all_is_a_time_out() -> None:
    """Not an error of another kind, and nothing is sent."""
    with Wire() as wire, closing(Exchanger(time.monotonic)) as exchanger:
        for timeout_s in (0.0, -50.0):
            with pytest.raises(ExchangeError) as caught:
                ask(exchanger, f"http://{wire.address()}/", timeout_s=timeout_s)
            assert (caught.value.fault, caught.value.is_sent) == ("connect", False)
        assert not wire.requests


def test_a_connection_is_kept_only_when_asked_to_and_never_after_a_failure() -> None:
    """Kept for the next exchange, renewed when the far end has left, closed when anything was odd."""
    ok, odd = answer(b"ok"), answer(b"x" * 2_000)
    with Wire(ok, ok, odd, ok, answer(b"ok", then="close"), ok) as wire:
        url = f"http://{wire.address()}/"
        with closing(Exchanger(time.monotonic, keep=True)) as exchanger:
            made = []
            for _ in range(6):
                if made == [1, 1, 1, 2, 2]:
                    eventually(lambda: not wire.open["127.0.0.1"])
                ask(exchanger, url, timeout_s=10.0)
                made.append(wire.connections["127.0.0.1"])
            assert made == [1, 1, 1, 2, 2, 3]
        eventually(lambda: not wire.open["127.0.0.1"])
        with closing(Exchanger(time.monotonic)) as exchanger:
            for _ in range(2):
                ask(exchanger, url, timeout_s=10.0)
        assert wire.connections["127.0.0.1"] == 5


def test_nothing_is_unpacked_followed_or_read_past_the_bound() -> None:
    """Bombs, redirections and floods are answers like any other: short."""
    packed = answer(b"\x1f\x8b", headers="Content-Encoding: gzip\r\n")
    endless = "Location: http://127.0.0.1:9/\r\n"
    moved = answer(b" " * 1_000_000, status="301 Moved", headers=endless)
    with Wire(packed, moved) as wire, closing(Exchanger(time.monotonic)) as exchanger:
        url = f"http://{wire.address()}/"
        assert ask(exchanger, url, timeout_s=10.0).body == b"\x1f\x8b"
        reply = ask(exchanger, url, timeout_s=10.0)
        assert (reply.status, reply.body, reply.fault) == (301, b"", "too_large")
        assert len(wire.requests["127.0.0.1"]) == 2


# --- the same through TLS -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and its certificate for 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@contextmanager
def tls(certificate: Path, serve: Callable[[socket.socket], None]) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def wrapped(connection: socket.socket) -> None:
        connection.settimeout(30)
        with context.wrap_socket(connection, server_side=True) as inner:
            serve(inner)

    with serving(wrapped) as port:
        yield f"https://127.0.0.1:{port}/"


def drip(pieces: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.recv(65_536)
        for number in range(len(pieces)):
            connection.sendall(pieces[number : number + 1])
            time.sleep(0.1)  # all of it takes far longer than the time-out

    return serve


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    return certificate


def test_tls_works_and_keeps_its_connection(trusted: Path) -> None:
    """Two answers by one handshake."""
    handshakes = []

    def serve(connection: socket.socket) -> None:
        handshakes.append(connection)
        while connection.recv(65_536):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with (
        tls(trusted, serve) as url,
        closing(Exchanger(time.monotonic, keep=True, trust_env=True)) as exchanger,
    ):
        for _ in range(2):
            assert ask(exchanger, url, timeout_s=10.0).body == b"ok"
    assert len(handshakes) == 1


def test_an_unknown_certificate_is_no_way(certificate: Path) -> None:
    """Nothing is said to somebody who cannot prove who he is."""
    with tls(certificate, until_closed) as url:
        assert fault_of(url, timeout_s=PATIENCE_S) == ("unreachable", False)


def test_a_handshake_that_stalls_ends_in_time() -> None:
    """TLS begins with waiting for the other side, too."""
    with serving(until_closed) as port:
        assert fault_of(f"https://127.0.0.1:{port}/") == ("timeout", False)


def test_a_head_that_drips_through_tls_ends_in_time(trusted: Path) -> None:
    """One deadline for all bytes, not one for each; the request had been sent."""
    with tls(trusted, drip(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100)) as url:
        assert fault_of(url, trust_env=True) == ("timeout", True)


def test_a_body_that_drips_through_tls_ends_in_time(trusted: Path) -> None:
    """What was understood before the time was over is kept: the status."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 503 Later\r\nContent-Length: 100\r\n\r\n")
        drip(b"y" * 100)(connection)

    with (
        tls(trusted, serve) as url,
        closing(Exchanger(time.monotonic, trust_env=True)) as exchanger,
    ):
        began = time.monotonic()
        reply = ask(exchanger, url)
        assert time.monotonic() - began < TIMEOUT_S + SLACK_S
        assert (reply.status, reply.body, reply.fault) == (503, b"", "timeout")


def test_a_request_that_nobody_takes_through_tls_ends_in_time(trusted: Path) -> None:
    """A TLS socket sends in pieces; the deadline is for all of them."""
    release = threading.Event()
    with tls(trusted, lambda _: bool(release.wait(30)) and None) as url:
        assert fault_of(url, body=BIG, trust_env=True) == ("timeout", False)
        release.set()


# --- through a proxy ----------------------------------------------------------------------------


def test_a_proxy_is_asked_only_where_the_machine_s_settings_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With ``trust_env``, and not for the host that is named as direct."""
    with Wire(answer(b"ok")) as proxy, Wire(answer(b"direct")) as wire:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address()}")
        monkeypatch.setenv("NO_PROXY", "")
        with closing(Exchanger(time.monotonic, trust_env=True, direct="127.0.0.1")) as exchanger:
            assert ask(exchanger, "http://intake.example/", timeout_s=10.0).body == b"ok"
            assert ask(exchanger, f"http://{wire.address()}/", timeout_s=10.0).body == b"direct"
        with closing(Exchanger(time.monotonic)) as exchanger:
            assert ask(exchanger, f"http://{wire.address()}/", timeout_s=10.0).body == b"direct"
        (request,) = proxy.requests["127.0.0.1"]
        assert request.startswith(b"POST http://intake.example/ HTTP/1.1\r\n")


DRIPS = Say(tuple(bytes([b]) for b in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 99), "hang", 0.1)
TUNNELS = {
    "refuses": (answer(b"", status="407 Who?", then="close"), "unreachable"),
    "hangs": (Say((), "hang"), "timeout"),
    "drips": (DRIPS, "timeout"),
    "leads to nothing": (Say((b"HTTP/1.1 200 OK\r\n\r\n",), "hang"), "timeout"),
}


@pytest.mark.parametrize("case", TUNNELS)
def test_a_tunnel_that_does_not_come_about_ends_in_time(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way through a proxy counts as part of the exchange, and nothing was sent yet."""
    say, fault = TUNNELS[case]
    with Wire(say) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address()}")
        monkeypatch.setenv("NO_PROXY", "")
        timeout_s = TIMEOUT_S if fault == "timeout" else PATIENCE_S
        found = fault_of("https://intake.example/", trust_env=True, timeout_s=timeout_s)
        assert found == (fault, False)
        # A proxy that is late reads what was said to it all the same.
        eventually(lambda: proxy.requests["127.0.0.1"])
        (request,) = proxy.requests["127.0.0.1"]
        assert request.startswith(b"CONNECT intake.example:443 ")


def test_every_way_to_end_leaves_the_request_unsaid_or_said() -> None:
    """A connection that closes without a byte had the request; one that was refused had not."""
    with Wire(Say((), "close")) as wire:
        url = f"http://{wire.address()}/"
        assert fault_of(url, timeout_s=PATIENCE_S) == ("closed", True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    assert fault_of(url, timeout_s=PATIENCE_S) == ("refused", False)
