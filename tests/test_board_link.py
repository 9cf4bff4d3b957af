"""Laws of `espnet.board.link`: how the collector's connections live (their answers: test_board_client)."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from functools import partial

import pytest
import uvloop
from board_wire import Say, Wire, answer, eventually, no_leak, run_on, status_body

from espnet.board.calls import GET_BASIC
from espnet.board.link import Link, request_bytes
from espnet.errors import BoardError

HOST = "127.0.0.1"
BODY = status_body()
OTHER = status_body("b2")
#: Long enough never to pass.
PATIENCE_S = 20.0

Run = Callable[[Coroutine[None, None, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs on one of both loops."""
    return partial(run_on, request.param)


@pytest.fixture(autouse=True, scope="module")
def _no_leak() -> Iterator[None]:
    with no_leak():
        yield


async def until(condition: Callable[[], object]) -> None:
    """Like `eventually`, for a test that lives in a loop."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the condition is another thread's
            await asyncio.sleep(0.001)


def ask(link: Link, timeout_s: float = PATIENCE_S) -> Coroutine[None, None, bytes]:
    return link.exchange(request_bytes(link.address, GET_BASIC), timeout_s)


def test_a_kept_connection_is_used_again(run: Run) -> None:
    """Keep-alive means one connection for any number of polls."""

    async def main() -> None:
        link = Link(wire.address())
        for _ in range(20):
            assert await ask(link) == BODY
            assert link.is_open
        link.close()
        assert not link.is_open

    with Wire(answer()) as wire:
        run(main())
        assert (len(wire.requests[HOST]), wire.connections[HOST]) == (20, 1)


@pytest.mark.parametrize(
    "say",
    [
        answer(headers="Connection: close\r\n", then="close"),
        answer(version="HTTP/1.0", then="close"),
        Say((b"HTTP/1.0 200 OK\r\n\r\n" + BODY,), "close"),
    ],
)
def test_a_board_that_closes_every_connection_is_asked_on_a_new_one(run: Run, say: Say) -> None:
    """2021 firmware closes after every answer: nothing is kept, nothing fails."""

    async def main() -> None:
        link = Link(wire.address())
        for _ in range(3):
            assert await ask(link) == BODY
            assert not link.is_open
        link.close()

    with Wire(say) as wire:
        run(main())
        assert wire.connections[HOST] == 3


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("is_noticed", [False, True])
def test_a_connection_that_the_board_closed_in_between_is_opened_anew(
    run: Run, then, is_noticed
) -> None:
    """Idle limits are normal: noticed or not, the next poll succeeds."""

    async def main() -> None:
        link = Link(wire.address())
        assert await ask(link) == BODY
        if is_noticed:
            await until(lambda: not link.is_open)
        assert await ask(link) == BODY
        link.close()

    with Wire(answer(then=then), answer()) as wire:
        run(main())
        assert wire.connections[HOST] == 2


def test_a_kept_connection_that_dies_under_the_request_is_replaced_once(run: Run) -> None:
    """The request goes out again, once, on a new connection; twice dead is a failure."""

    async def main() -> None:
        link = Link(wire.address())
        assert await ask(link) == BODY
        assert await ask(link) == BODY
        with pytest.raises(BoardError) as caught:
            await ask(link)
        assert caught.value.kind == "closed"
        link.close()

    with Wire(answer(), Say((), "close"), answer(), Say((), "close")) as wire:
        run(main())
        assert (len(wire.requests[HOST]), wire.connections[HOST]) == (5, 3)


def test_an_answer_that_breaks_off_is_not_asked_for_twice(run: Run) -> None:
    """Only silence may be a stale connection: after the first byte, the board has seen the request."""

    async def main() -> None:
        link = Link(wire.address())
        assert await ask(link) == BODY
        with pytest.raises(BoardError) as caught:
            await ask(link)
        assert caught.value.kind == "closed"
        assert not link.is_open

    with Wire(answer(), Say((b"HTTP/1.1 200",), "close"), answer()) as wire:
        run(main())
        assert len(wire.requests[HOST]) == 2


@pytest.mark.parametrize(
    "extra",
    [
        answer(OTHER).bytes,
        answer(OTHER).bytes[:12],
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"junk",
        b"\x00",
    ],
)
@pytest.mark.parametrize("gap_s", [0, 0.02])
def test_bytes_that_nobody_asked_for_never_become_the_next_answer(run: Run, extra, gap_s) -> None:
    """A board that says more than it was asked for loses the connection, and the next answer is its own."""

    async def main() -> None:
        link = Link(wire.address())
        assert await ask(link) == BODY
        await until(lambda: not link.is_open)
        assert await ask(link) == OTHER
        link.close()

    pieces = (answer().bytes, extra) if gap_s else (answer().bytes + extra,)
    with Wire(Say(pieces, gap_s=gap_s), answer(OTHER)) as wire:
        run(main())
        assert wire.connections[HOST] == 2


def test_an_answer_whose_head_is_known_is_the_same_in_whatever_pieces_it_comes(run: Run) -> None:
    """A head that was seen before says how long the body is, and no more than that: what is in pieces, is
    longer or is followed by something is told apart as ever."""
    said = answer().bytes
    bodies = [BODY, BODY + b" " * 20, BODY[:-1] + b"  }"]
    says = [answer(body) for body in bodies * 2]
    says += [Say((said[:at], said[at:]), gap_s=0.005) for at in range(1, len(said), 7)]
    says += [answer(), Say((said + said,)), answer(OTHER)]

    async def main() -> None:
        link = Link(wire.address())
        for body in bodies * 2:
            assert await ask(link) == body
        for _ in range(len(says) - len(bodies) * 2 - 2):
            assert await ask(link) == BODY
        assert wire.connections[HOST] == 1
        assert await ask(link) == BODY
        await until(lambda: not link.is_open)
        assert await ask(link) == OTHER
        link.close()

    with Wire(*says) as wire:
        run(main())
        assert wire.connections[HOST] == 2


class Listening:
    """Hears what a login would hear."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, bytes, bytes]] = []

    def signed(self, request: bytes) -> bytes:
        return request

    def answered(self, status: int, challenge: bytes, info: bytes, body: bytes) -> bool:
        self.heard.append((status, challenge, info))
        return False


def test_what_a_head_says_to_a_login_is_heard_each_time(run: Run) -> None:
    """A proof is a proof of one answer, however often the same bytes come."""

    async def main() -> None:
        link = Link(wire.address())
        link.login = login = Listening()  # type: ignore[assignment]
        for _ in range(3):
            assert await ask(link) == BODY
        assert login.heard == [(200, b"", b'rspauth="1"')] * 3
        link.close()

    with Wire(answer(headers='Authentication-Info: rspauth="1"\r\n')) as wire:
        run(main())


@pytest.mark.parametrize(
    "say",
    [
        Say((answer().bytes[:30],), "hang"),
        Say((b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",), "hang"),
        Say((b"\x00junk",), "hang"),
        Say((b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n", b" " * 200_000), "hang"),
    ],
    ids=["late", "upgrade", "junk", "flood"],
)
def test_a_link_that_saw_something_odd_begins_anew(run: Run, say: Say) -> None:
    """Whatever still comes on the old connection is never read; the next poll has a new one."""

    async def main() -> None:
        link = Link(wire.address())
        with pytest.raises(BoardError):
            await ask(link, 0.1)
        assert not link.is_open
        assert await ask(link) == BODY
        link.close()

    with Wire(say, answer()) as wire:
        run(main())
        eventually(lambda: not wire.open[HOST])


def test_an_http_error_keeps_the_connection(run: Run) -> None:
    """A refusal that is well formed says nothing against the connection that it came on."""

    async def main() -> None:
        link = Link(wire.address())
        with pytest.raises(BoardError) as caught:
            await ask(link)
        assert (caught.value.kind, caught.value.status) == ("http", 503)
        assert await ask(link) == BODY
        link.close()

    with Wire(answer(b"{}", status="503 Busy"), answer()) as wire:
        run(main())
        assert wire.connections[HOST] == 1


@pytest.mark.parametrize(
    ("header", "facts"),
    [
        ("", {}),
        ("Retry-After: 3\r\n", {"retry_after_s": 3}),
        ("RETRY-AFTER:  0 \r\n", {"retry_after_s": 0}),
        ("Retry-After: -3\r\n", {}),
        ("Retry-After: 1.5\r\n", {}),
        ("Retry-After: 10000000000\r\n", {}),
        ("Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n", {}),
        ("Retry-After: \xb2\r\n", {}),
    ],
)
def test_a_refusal_says_when_to_come_again(run: Run, header: str, facts: dict[str, int]) -> None:
    """In seconds; whatever else stands there says nothing. The next answer does not inherit it."""

    async def main() -> None:
        link = Link(wire.address())
        for expected in (facts, {}):
            with pytest.raises(BoardError) as caught:
                await ask(link)
            assert caught.value.facts == expected
        link.close()

    busy = "503 Busy"
    body = b'{"error": "no place"}'
    with Wire(answer(body, status=busy, headers=header), answer(body, status=busy)) as wire:
        run(main())


def test_a_board_that_took_the_question_and_says_nothing_is_known_from_one_that_is_away(
    run: Run,
) -> None:
    """Only of the first it is said how long it was waited for."""

    async def main() -> None:
        for address, waited in ((wire.address(), {"waited_s": 1}), ("127.0.0.1:1", {})):
            link = Link(address)
            with pytest.raises(BoardError) as caught:
                await ask(link, 0.3)
            assert caught.value.facts == waited
            link.close()

    with Wire(Say((), "hang")) as wire:
        run(main())
        eventually(lambda: not wire.open[HOST])


def test_two_requests_at_once_are_a_bug(run: Run) -> None:
    """One request in flight a link: a second one is refused loudly and does not harm the first."""

    async def main() -> None:
        link = Link(wire.address())
        first = asyncio.create_task(ask(link))
        await until(lambda: link.is_busy)
        with pytest.raises(RuntimeError, match="two requests at once"):
            await ask(link)
        assert await first == BODY
        assert not link.is_busy
        link.close()

    with Wire(Say((answer().bytes[:20], answer().bytes[20:]), gap_s=0.05)) as wire:
        run(main())
        assert wire.most_at_once[HOST] == 1


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n\r\n{}"])
@pytest.mark.parametrize("is_kept", [False, True], ids=["first", "kept"])
def test_a_link_that_is_closed_ends_its_request_at_once(run: Run, sent, is_kept) -> None:
    """Closing is final for the request in flight: no half answer, no new connection behind our back."""

    async def main() -> None:
        link = Link(wire.address())
        if is_kept:
            assert await ask(link) == BODY
        task = asyncio.create_task(ask(link))
        await until(lambda: len(wire.requests[HOST]) == 1 + is_kept)
        await asyncio.sleep(0.01)  # what the board sent may be here, or not: the law is the same
        link.close()
        with pytest.raises(BoardError) as caught:
            await task
        assert caught.value.kind == "closed"
        assert not link.is_open

    script = [answer()] * is_kept + [Say((sent,) if sent else (), "hang")]
    with Wire(*script) as wire:
        run(main())
        eventually(lambda: not wire.open[HOST])
        assert wire.connections[HOST] == 1


def test_a_link_that_is_closed_while_it_connects_leaves_no_connection(run: Run) -> None:
    """The connection that comes too late is closed, not kept."""

    async def main() -> None:
        link = Link(wire.address())
        task = asyncio.create_task(ask(link))
        await asyncio.sleep(0)
        link.close()
        with pytest.raises(BoardError) as caught:
            await task
        assert caught.value.kind == "closed"
        assert not link.is_open
        assert await ask(link) == BODY  # and it may be opened again
        link.close()

    with Wire(answer()) as wire:
        run(main())
        assert len(wire.requests[HOST]) == 1
        eventually(lambda: not wire.open[HOST])


def test_a_cancelled_request_leaves_no_connection(run: Run) -> None:
    """Whoever stops waiting takes the connection with them: its answer has no owner any more."""

    async def main() -> None:
        link = Link(wire.address())
        task = asyncio.create_task(ask(link))
        await until(lambda: wire.requests[HOST])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not link.is_open
        assert not link.is_busy

    with Wire(Say((), "hang")) as wire:
        run(main())
        eventually(lambda: not wire.open[HOST])


def test_requests_are_one_piece_with_their_form(run: Run) -> None:
    """Head and body in one write: two cost 40 ms each on a kept connection."""
    from espnet.board.calls import read_dht22

    assert request_bytes("10.0.0.7:81", GET_BASIC) == b"GET / HTTP/1.1\r\nHost: 10.0.0.7:81\r\n\r\n"
    assert request_bytes("[::1]", read_dht22(4)) == (
        b"POST /dht22 HTTP/1.1\r\nHost: [::1]\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 10\r\n\r\nread_pin=4"
    )
