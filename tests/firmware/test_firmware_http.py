"""The board's web server outlives its clients: the slow, the lying, the many and the mad."""

import contextlib
import socket
import time

import pytest

from espnet.simulator.fleet import Board

from .firmware_client import ask, connect, levels, raw, receive, statuses, until

GET = b"GET / HTTP/1.1\r\nHost: board\r\n\r\n"
ON = b"pin=4&value=1"

#: The server's allowances, a small part of what they are on a board, so that tests need not wait.
HASTY = {
    "web.py": [
        ("_HEAD_MS = const(5000)", "_HEAD_MS = const(1000)"),
        ("_BODY_MS = const(10000)", "_BODY_MS = const(1500)"),
        ("_IDLE_MS = const(65000)", "_IDLE_MS = const(1500)"),
        ("_SEND_MS = const(10000)", "_SEND_MS = const(2000)"),
        ("_HANDLE_MS = const(60000)", "_HANDLE_MS = const(1000)"),
    ],
    "app.py": [("TICK_MS = const(500)", "TICK_MS = const(100)")],
}


def test_keep_alive(board: Board) -> None:
    """One connection serves any number of requests; an error in a call does not end it."""
    with connect(board) as client:
        for _ in range(20):
            client.sendall(b"GET /nothing HTTP/1.1\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 404 ")
            client.sendall(b"POST /gpio HTTP/1.1\r\nContent-Length: 13\r\n\r\n" + ON)
            answer = client.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" not in answer.lower()


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\ncONNECTION:Close\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n",
    ],
)
def test_connections_that_must_close(board: Board, request_: bytes) -> None:
    """HTTP/1.0 and `Connection: close` get one answer, which says so, and the end."""
    with connect(board) as client:
        client.sendall(request_)
        answer = receive(client)
    assert b"\r\nConnection: close\r\n" in answer
    assert len(statuses(answer)) == 1


def test_an_answer_comes_in_one_piece(board: Board) -> None:
    """Head and body of an answer leave in one write, so one read gets them."""
    with connect(board) as client:
        for _ in range(20):
            client.sendall(GET)
            answer = client.recv(65536)
            assert answer.endswith(b"}")


def test_pipelined_requests_are_answered_in_order(board: Board) -> None:
    """Requests sent at once are separate requests, wherever one ends and the next begins."""
    post = b"POST /gpio HTTP/1.1\r\nContent-Length: 13\r\n\r\n" + ON
    requests = GET + post + b"\r\n" + b"GET /nothing HTTP/1.1\r\n\r\n" + post + GET
    assert statuses(raw(board, requests)) == [200, 200, 404, 200, 200]
    assert statuses(raw(board, GET * 100)) == [200] * 100


def test_a_request_may_come_byte_by_byte(board: Board) -> None:
    """Where the network cuts a request makes no difference."""
    request = b"POST /gpio HTTP/1.1\r\nConnection: close\r\ncontent-LENGTH:  13 \r\n\r\n" + ON
    with connect(board) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(request)):
            client.sendall(request[at : at + 1])
            time.sleep(0.001)
        assert statuses(receive(client)) == [200]
    assert board.pin(4).level == 1


def test_a_client_that_expects_100_continue(board: Board) -> None:
    """`Expect: 100-continue` is answered before the body is sent."""
    head = b"POST /gpio HTTP/1.1\r\nContent-Length: 13\r\nExpect: 100-continue\r\n\r\n"
    with connect(board) as client:
        client.sendall(head)
        assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(ON)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


def post_head(*headers: bytes) -> bytes:
    return b"\r\n".join([b"POST /gpio HTTP/1.1", *headers, b"", b""])


MALFORMED = [
    (b"\r\n\r\n\r\n\r\nHELLO\r\n\r\n", 400),
    (b"GET /\r\n\r\n", 400),
    (b"GET  / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1 \r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\n\r\n", 400),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    (b"GET http://board/ HTTP/1.1\r\n\r\n", 400),
    (b"G\0T / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nA: \0\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n: no name\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nA : space before the colon\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nA: folded\r\n  header\r\n\r\n", 400),
    (b"GET / HTTP/1.1\nA: bare line feeds\n\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n", 400),
    (b"\xff\xfe\xfd / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nA: cut", 400),
    (post_head(b"Content-Length: -1") + ON, 400),
    (post_head(b"Content-Length: +13") + ON, 400),
    (post_head(b"Content-Length: 0x0d") + ON, 400),
    (post_head(b"Content-Length: 1e1") + ON, 400),
    (post_head(b"Content-Length: 13, 13") + ON, 400),
    (post_head(b"Content-Length:") + ON, 400),
    (post_head(b"Content-Length: 13", b"content-length: 13") + ON, 400),
    (post_head(b"Content-Length: 13", b"Content-Length: 0") + ON, 400),
    (post_head(b"Content-Length: 14") + ON, 400),
    (post_head(b"Content-Length: 8193") + ON, 413),
    (post_head(b"Content-Length: 99999999999999999999999999999999999") + ON, 413),
    (post_head(b"Transfer-Encoding: chunked") + b"d\r\n" + ON + b"\r\n0\r\n\r\n", 411),
    (post_head(b"Transfer-Encoding: gzip", b"Content-Length: 13") + ON, 411),
    (post_head(b"Content-Length: 13", b"transfer-encoding:identity") + ON, 411),
    (b"GET /" + b"a" * 1600 + b" HTTP/1.1\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\nA: " + b"a" * 50_000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 500 + b"\r\n", 431),
    (b"x" * 50_000, 431),
]


@pytest.mark.parametrize(("request_", "status"), MALFORMED, ids=[r[:50] for r, _ in MALFORMED])
def test_malformed_requests(board: Board, request_: bytes, status: int) -> None:
    """What is not plain HTTP/1 gets its error in JSON, the end of the connection, and no pin."""
    answer = raw(board, request_)
    assert statuses(answer) == [status]
    assert b'"error": "' in answer
    assert b"\r\nConnection: close\r\n" in answer
    assert not any(levels(board).values())


def test_the_largest_head_and_body(board: Board) -> None:
    """A head of 1.5 KB and a body of 8 KB are still served, one byte more is not."""
    start = b"GET / HTTP/1.1\r\nConnection: close\r\nA: "
    fill = 1536 - len(start) - 4
    assert statuses(raw(board, start + b"a" * fill + b"\r\n\r\n")) == [200]
    assert statuses(raw(board, start + b"a" * (fill + 1) + b"\r\n\r\n")) == [431]
    body = b'{"pin": 4, ' + b" " * (8192 - 22) + b'"value": 1}'
    assert len(body) == 8192
    assert ask(board, "POST", "/gpio", body).status == 200
    assert ask(board, "POST", "/gpio", body + b" ").status == 413
    assert ask(board, "POST", "/gpio", b"{" * 8192).status == 400
    assert ask(board, "POST", "/gpio", b"[" * 8192, Content_Type="application/json").status == 400
    assert ask(board, "POST", "/gpio", b"&" * 8192).status == 400
    assert ask(board, "POST", "/gpio", b'{"pin":' + b"9" * 8000 + b"}").status == 400


def test_a_get_with_a_body(board: Board) -> None:
    """The body of a call that needs none is read and forgotten."""
    request = b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /"
    assert statuses(raw(board, request * 3)) == [200] * 3


def test_a_huge_upload_is_refused_at_its_head(board: Board) -> None:
    """A client that sends 10 MB gets its 413, and the board goes on."""
    with connect(board) as client:
        client.sendall(post_head(b"Content-Length: 10000000"))
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                client.sendall(b"x" * 10_000)
        answer = receive(client)
    assert answer == b"" or statuses(answer) == [413]
    assert ask(board, "GET", "/").status == 200


def test_slow_clients(make_board) -> None:
    """Heads and bodies that do not arrive in time end with 408, all at once; others are served."""
    board = make_board(HASTY)
    slow = {
        b"": [],
        b"GET / HT": [408],
        b"GET / HTTP/1.1\r\nA: b\r\n": [408],
        post_head(b"Content-Length: 13") + b"pin=4": [408],
        GET + b"GET /": [200, 408],
    }
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(board)) for _ in slow]
        for client, request in zip(clients, slow, strict=True):
            client.sendall(request)
        assert ask(board, "GET", "/").status == 200
        found = [statuses(receive(client)) for client in clients]
    assert found == [*slow.values()] or found[0] in ([], [408])
    assert found[1:] == list(slow.values())[1:]
    assert time.monotonic() - started < 5
    assert not any(levels(board).values())


def test_dripping_does_not_extend_the_time_for_a_head(make_board) -> None:
    """Slow-loris: bytes that keep coming do not keep a head alive; then there is room again."""
    board = make_board(HASTY)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(board)) for _ in range(8)]
        answers: list[int] = []
        deadline = time.monotonic() + 15
        while 200 not in answers:
            assert time.monotonic() < deadline, "the places were never free again"
            for client in clients:
                with contextlib.suppress(ConnectionError):
                    client.sendall(b"A")
            with contextlib.suppress(ConnectionError):
                answers.append(ask(board, "GET", "/").status)
            time.sleep(0.02)
    assert set(answers) == {503, 200}
    assert answers[0] == 503


def test_idle_connections_end(make_board) -> None:
    """A connection that has served may idle, and is closed without a word when it idles long."""
    board = make_board(HASTY)
    with connect(board) as client:
        client.sendall(GET)
        client.recv(4096)
        started = time.monotonic()
        time.sleep(1.2)  # longer than a head may take
        client.sendall(GET)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert client.recv(4096) == b""
        assert time.monotonic() - started > 2.5


def test_a_client_that_does_not_read(make_board) -> None:
    """An answer that nobody takes does not hold its place for ever."""
    board = make_board(HASTY)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            client = socket.socket()
            stack.enter_context(client)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            client.connect(("127.0.0.1", board.port))
            client.settimeout(0.2)
            with contextlib.suppress(TimeoutError, ConnectionError):
                for _ in range(5000):
                    client.sendall(GET * 10)
        until(lambda: ask(board, "GET", "/").status == 200)


def test_a_call_that_takes_too_long_is_ended(make_board) -> None:
    """A handler over its time gets 503, and its `finally` runs: the power is off."""
    board = make_board(HASTY)
    answer = ask(board, "POST", "/adc", {"read_pin": 36, "power_pin": 4, "samples": 1000})
    assert answer.status == 503
    until(lambda: not board.pin(4).level)
    one = {"read_pin": 36, "power_pin": 4, "samples": 1}
    assert ask(board, "POST", "/adc", one).status == 200


def test_a_ninth_client_takes_the_place_of_the_idlest(make_board) -> None:
    """Connections that only idle make room; the longest idle one goes first."""
    board = make_board({"app.py": HASTY["app.py"]})
    with contextlib.ExitStack() as stack:
        idle = []
        for _ in range(8):
            client = stack.enter_context(connect(board))
            client.sendall(GET)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
            idle.append(client)
            time.sleep(0.2)  # two ticks of this board, in which it counts idle time
        assert ask(board, "GET", "/").status == 200
        assert idle[0].recv(4096) == b""
        for client in idle[1:]:
            client.sendall(GET)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_more_clients_than_places(make_board) -> None:
    """With all places busy a client is turned away with 503 and may come back; none is lost."""
    board = make_board()
    with contextlib.ExitStack() as stack:
        # More than may wait before they are let in, too.
        clients = [stack.enter_context(connect(board)) for _ in range(20)]
        answers = []
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.sendall(GET)
        for client in clients:
            with contextlib.suppress(ConnectionError):
                answers.append(client.recv(4096)[:13])
    assert answers.count(b"HTTP/1.1 200 ") >= 8
    assert set(answers) <= {b"HTTP/1.1 200 ", b"HTTP/1.1 503 ", b""}
    assert ask(board, "GET", "/").status == 200
    assert board.most_connections <= 9
