"""Laws of `espnet.board`: whatever a board does, a call ends in time, with an answer or with a reason.

Both clients stand before the same script: the blocking one, and the collector's on both event loops.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import NamedTuple

import pytest
import uvloop
from board_wire import Say, Wire, answer, eventually, no_leak, status_body
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet.board import client
from espnet.board.calls import (
    GET_BASIC,
    MAX_ANSWER_BYTES,
    Call,
    parse_any,
    parse_climate,
    parse_status,
    read_adc,
    read_dht22,
    set_gpio,
    set_host,
)
from espnet.board.link import Link, request_bytes
from espnet.errors import BoardError

TIMEOUT_S = 0.15
#: What a busy machine may add to a time-out.
SLACK_S = 3.0

Ask = Callable[[str, Call, float], bytes]


def _by_link(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> Ask:
    def ask(address: str, call: Call, timeout_s: float) -> bytes:
        async def exchange() -> bytes:
            with closing(Link(address)) as link:
                return await link.exchange(request_bytes(address, call), timeout_s)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(exchange())

    return ask


ASKS: dict[str, Ask] = {
    "client": client.send,
    "link": _by_link(asyncio.new_event_loop),
    "link on uvloop": _by_link(uvloop.new_event_loop),
}


@pytest.fixture(params=ASKS.values(), ids=ASKS.keys())
def ask(request: pytest.FixtureRequest) -> Ask:
    return request.param


@pytest.fixture(autouse=True, scope="module")
def _no_leak() -> Iterator[None]:
    with no_leak():
        yield


class Case(NamedTuple):
    """``kind`` is None where the answer is good, ``body`` is the answer then."""

    say: Say
    kind: str | None = None
    body: bytes = status_body()
    status: int | None = None


BODY = status_body()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BIG = b" " * MAX_ANSWER_BYTES
COMPLAINT = b'{"error": "no such pin.", "field": "pin"}'

CASES = {
    "keep-alive": Case(answer()),
    "Connection: close": Case(answer(headers="Connection: close\r\n", then="close")),
    "Connection: close, left open": Case(answer(headers="Connection: close\r\n", then="hang")),
    "HTTP/1.0 with a length": Case(answer(version="HTTP/1.0", then="close")),
    "HTTP/1.0 without a length": Case(Say((b"HTTP/1.0 200 OK\r\n\r\n", BODY), "close")),
    "HTTP/1.1 without a length": Case(Say((b"HTTP/1.1 200 OK\r\n\r\n" + BODY,), "close")),
    "chunked": Case(
        Say(
            (
                CHUNKED,
                b"5\r\n" + BODY[:5] + b"\r\n",
                b"%x\r\n" % (len(BODY) - 5) + BODY[5:] + b"\r\n0\r\n\r\n",
            )
        )
    ),
    "100 Continue first": Case(Say((b"HTTP/1.1 100 Continue\r\n\r\n" + answer().bytes,))),
    "100 Continue, later the answer": Case(
        Say((b"HTTP/1.1 100 Continue\r\n\r\n", answer().bytes), gap_s=0.02)
    ),
    "slow, yet in time": Case(Say((HEAD, BODY[:9], BODY[9:]), gap_s=0.02)),
    "no body": Case(answer(b"", status="204 No Content"), body=b""),
    "exactly as large as allowed": Case(answer(BIG), body=BIG),
    "hangs before the answer": Case(Say((), "hang"), "timeout"),
    "hangs in the head": Case(Say((HEAD[:20],), "hang"), "timeout"),
    "hangs before the body": Case(Say((HEAD,), "hang"), "timeout"),
    "hangs in the body": Case(Say((HEAD, BODY[:7]), "hang"), "timeout"),
    "hangs without a length": Case(Say((b"HTTP/1.0 200 OK\r\n\r\n" + BODY,), "hang"), "timeout"),
    "hangs between chunks": Case(Say((CHUNKED + b"2\r\n{}\r\n",), "hang"), "timeout"),
    "drips its head": Case(
        Say(tuple(bytes([b]) for b in HEAD * 9), "close", gap_s=0.05), "timeout"
    ),
    "drips its body": Case(Say((HEAD, *(bytes([b]) for b in BODY)), gap_s=0.05), "timeout"),
    "drips endless headers": Case(
        Say((b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n"] * 90), "hang", gap_s=0.05), "timeout"
    ),
    "drips without an end": Case(Say((CHUNKED, *[b"1\r\n \r\n"] * 99), gap_s=0.05), "timeout"),
    "closes without a byte": Case(Say((), "close"), "closed"),
    "resets in the head": Case(Say((HEAD[:20],), "reset", gap_s=0.02), "closed"),
    "closes in the body": Case(Say((HEAD, BODY[:7]), "close"), "closed"),
    "closes between chunks": Case(Say((CHUNKED + b"2\r\n{}\r\n",), "close"), "closed"),
    "resets at once": Case(Say((), "reset"), "closed"),
    "resets in the body": Case(Say((HEAD + BODY[:7],), "reset", gap_s=0.02), "closed"),
    "one byte too large": Case(answer(BIG + b" "), "too_large"),
    "too large in chunks": Case(
        Say((CHUNKED, b"10001\r\n" + BIG + b" \r\n0\r\n\r\n")), "too_large"
    ),
    "too large without a length": Case(
        Say((b"HTTP/1.0 200 OK\r\n\r\n" + BIG + b" ",), "close"), "too_large"
    ),
    "floods": Case(Say((HEAD.replace(b"Length: ", b"Length: 99999"), BIG * 8)), "too_large"),
    "endless header": Case(
        Say((b"HTTP/1.1 200 OK\r\nX: " + b"y" * 9 * 2**13, b"y" * 2**17), "hang"), "too_large"
    ),
    "junk": Case(Say((b"\x00\xff\x16\x03\x01 whatever this is\r\n\r\n",), "close"), "bad_answer"),
    "another protocol": Case(Say((b"SSH-2.0-dropbear_2022.83\r\n",), "close"), "bad_answer"),
    "500 without a word": Case(answer(b"", status="500 Oops"), "http", status=500),
    "500 with a page": Case(answer(b"<h1>Oops</h1>", status="500 Oops"), "http", status=500),
    "500 with a complaint": Case(answer(COMPLAINT, status="500 Oops"), "http", status=500),
    "403 with JSON of another kind": Case(answer(b"[1]", status="403 No"), "http", status=403),
    "500 with not even text": Case(
        answer(b'{"error": "\xff"}', status="500 No"), "http", status=500
    ),
    "500 nested too deep": Case(answer(b"[" * 60_000, status="500 No"), "http", status=500),
    "a redirect": Case(
        answer(b"", status="302 Found", headers="Location: http://127.0.0.1:9/\r\n"),
        "http",
        status=302,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_wire_fault_ends_in_time_with_its_kind(case: Case, ask: Ask) -> None:
    """Each script has one outcome, the same for every client, and none takes longer than allowed."""
    timeout_s = TIMEOUT_S if case.kind == "timeout" else 5.0
    with Wire(case.say) as wire:
        began = time.monotonic()
        if case.kind is None:
            assert ask(wire.address(), GET_BASIC, timeout_s) == case.body
        else:
            with pytest.raises(BoardError) as caught:
                ask(wire.address(), GET_BASIC, timeout_s)
            error = caught.value
            assert (error.kind, error.status) == (case.kind, case.status), str(error)
            assert error.address == wire.address()
            assert str(error).startswith(f"The board at {wire.address()} ")
            assert str(error).endswith(".")
        assert time.monotonic() - began < timeout_s + SLACK_S
        eventually(lambda: not wire.open["127.0.0.1"])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_answer_is_the_same_however_tcp_cuts_it(data: st.DataObject) -> None:
    """Where the segments end is nobody's business: each client reads the same body."""
    say, body = data.draw(
        st.sampled_from(
            [(case.say, case.body) for case in CASES.values() if not case.kind and case.body != BIG]
        )
    )
    cuts = sorted(data.draw(st.sets(st.integers(1, len(say.bytes) - 1), max_size=5)))
    pieces = tuple(
        say.bytes[start:end] for start, end in zip([0, *cuts], [*cuts, len(say.bytes)], strict=True)
    )
    name = data.draw(st.sampled_from(list(ASKS)))
    with Wire(Say(pieces, say.then, gap_s=0.002)) as wire:
        assert ASKS[name](wire.address(), GET_BASIC, 5.0) == body


def test_a_board_that_is_off_refuses(ask: Ask) -> None:
    """A port where nobody listens is told apart from a board that is silent."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(BoardError) as caught:
        ask(f"127.0.0.1:{port}", GET_BASIC, 5.0)
    assert caught.value.kind == "refused"


def test_a_board_that_takes_no_connection_costs_its_time_out(ask: Ask) -> None:
    """A full queue of connections answers nothing at all, like a board without power."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        began = time.monotonic()
        with pytest.raises(BoardError) as caught:
            ask(f"127.0.0.1:{listener.getsockname()[1]}", GET_BASIC, TIMEOUT_S)
        assert caught.value.kind == "timeout"
        assert TIMEOUT_S * 0.9 < time.monotonic() - began < TIMEOUT_S + SLACK_S


@pytest.mark.parametrize("host", ["board.invalid", "a..b", "x" * 64 + ".example"])
def test_a_name_that_nobody_knows_is_unreachable(host: str, ask: Ask) -> None:
    """A host name that cannot be resolved is the board's failure, never a traceback."""
    with pytest.raises(BoardError) as caught:
        ask(host, GET_BASIC, 5.0)
    assert caught.value.kind in ("unreachable", "timeout")


CALLS = {
    "GET /": (GET_BASIC, b""),
    "set": (set_gpio([2, 4], 1), b"pin=2%2C4&value=1"),
    "toggle": (set_gpio([2], 2), b"pin=2&value=2"),
    "adc": (read_adc(34, None, 3), b"read_pin=34&samples=3"),
    "adc with power": (read_adc(34, 25, 3), b"read_pin=34&samples=3&power_pin=25"),
    "dht22": (read_dht22(4), b"read_pin=4"),
    "host": (set_host("10.0.0.1"), b"ip=10.0.0.1"),
}


@pytest.mark.parametrize(("call", "form"), CALLS.values(), ids=CALLS.keys())
def test_every_client_sends_the_same_call(call: Call, form: bytes, ask: Ask) -> None:
    """Method, path, host and form are the call's own, in a head that a small board can hold."""
    with Wire() as wire:
        ask(wire.address(), call, 5.0)
        (request,) = wire.requests["127.0.0.1"]
        head, _, body = request.partition(b"\r\n\r\n")
        assert head.startswith(f"{call.method} {call.path} HTTP/1.1\r\n".encode())
        assert f"\r\nHost: {wire.address()}".encode() in head
        assert (b"application/x-www-form-urlencoded" in head) == bool(form)
        assert body == form
        assert len(head) < 512


def test_the_machine_s_proxy_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Boards live on the local network: a proxy setting would only lose them."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Wire() as wire:
        assert client.send(wire.address(), GET_BASIC, 5.0)


# --- what answers mean --------------------------------------------------------------------------

BAD_STATUSES = {
    "nothing": (b"", "not_json"),
    "truncated": (BODY[:-5], "not_json"),
    "a page": (b"<html></html>", "not_json"),
    "not a number": (b'{"id": "b1", "f": nan, "gpio": {}}', "not_json"),
    "not text": (b'{"id": "\xff", "f": 1, "gpio": {}}', "not_json"),
    "not text where nobody looks": (b'{"id": "b1", "f": 1, "gpio": {}, "x": "\xff"}', "not_json"),
    "half a character": (b'{"id": "\\ud800", "f": 1, "gpio": {}}', "not_json"),
    "no id": (b'{"f": 1, "gpio": {}}', "bad_answer"),
    "no f": (b'{"id": "b1", "gpio": {}}', "bad_answer"),
    "no gpio": (b'{"id": "b1", "f": 1}', "bad_answer"),
    "a level of 2": (b'{"id": "b1", "f": 1, "gpio": {"4": 2}}', "bad_answer"),
    "a pin without a number": (b'{"id": "b1", "f": 1, "gpio": {"x": 1}}', "bad_answer"),
    "f as text": (b'{"id": "b1", "f": "1", "gpio": {}}', "bad_answer"),
    "f beyond numbers": (b'{"id": "b1", "f": 1e999, "gpio": {}}', "bad_answer"),
    "a list": (b"[]", "bad_answer"),
    "nested too deep": (b'{"x": ' + b"[" * 60_000, "bad_answer"),
    "another board": (status_body("b2"), "wrong_id"),
}


@pytest.mark.parametrize(("body", "kind"), BAD_STATUSES.values(), ids=BAD_STATUSES.keys())
def test_a_senseless_status_is_a_board_error(body: bytes, kind: str) -> None:
    """Any bytes at all are either the status of the board that was asked, or a reason."""
    with pytest.raises(BoardError) as caught:
        parse_status("host", body, "b1")
    assert caught.value.kind == kind


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_bytes_of_a_board_raise_anything_but_a_board_error(body: bytes) -> None:
    """A board is another computer: nothing that it says is a bug of ours."""
    for parse in (parse_status, parse_climate, parse_any):
        with suppress(BoardError):
            parse("host", body)


@pytest.mark.parametrize("board_id", ["", " ", "a b", "a\n", "\x1b[2J", "x" * 65])
def test_an_id_that_cannot_be_a_key_is_refused(board_id: str) -> None:
    """What is registered comes from the board: it must not break keys, tables or terminals."""
    with pytest.raises(BoardError) as caught:
        parse_status("host", status_body(board_id))
    assert caught.value.kind == "bad_answer"


def test_a_board_s_words_are_quoted_short_and_printable() -> None:
    """A board cannot fill a log or command a terminal by what it complains of."""
    hostile = "\x1b[2J" + "x" * 50_000
    for ask_wrong in (
        lambda: parse_status("host", status_body(hostile), "b1"),
        lambda: client.require_ok(
            "host", 400, b'{"error": "\\u001b[2J%s", "field": "\\n"}' % (b"x" * 50_000)
        ),
    ):
        with pytest.raises(BoardError) as caught:
            ask_wrong()
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400


def test_a_complaint_names_the_field() -> None:
    """What the board itself says about a refused request reaches the person, once and whole."""
    with pytest.raises(
        BoardError, match=r"refused: no such pin \(field pin\), HTTP 422\.$"
    ) as caught:
        client.require_ok("host", 422, COMPLAINT)
    assert (caught.value.kind, caught.value.status, caught.value.field) == ("http", 422, "pin")


def test_2021_firmware_is_understood() -> None:
    """Three fields are all that old boards know; chips without a sensor say null."""
    assert (
        parse_status("host", b'{"id":"b1","f":null,"gpio":{},"espnet_host":null}', "b1").f is None
    )
    assert parse_status("host", b'{"gpio":{"2":1},"f":104,"id":"b1"} \r\n', "b1").gpio == {2: 1}


def test_other_answers_are_json_objects() -> None:
    """An ADC answer and its like are passed on as they are; a list is not an answer."""
    assert parse_any("host", b'{"data": [1]}') == {"data": [1]}
    with pytest.raises(BoardError):
        parse_any("host", b"[1]")
    assert parse_climate("host", b'{"id": "b1", "temp": 0, "humidity": 50.5}').temp_f == 32


def test_a_head_that_breaks_off_never_passes_for_an_answer(ask: Ask) -> None:
    """Where a library takes a torn head for a whole one, nothing is left that any call accepts."""
    with Wire(Say((HEAD[:20],), "close")) as wire, pytest.raises(BoardError):
        parse_any(wire.address(), ask(wire.address(), GET_BASIC, 5.0))
