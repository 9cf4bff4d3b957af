"""Laws of `espnet.board.round`: many boards asked at once are asked as `Link.exchange` asks one."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial

import pytest
import uvloop
from asking import TIMEOUT_S
from board_wire import Say, Wire, answer, board_id, eventually, no_leak, run_on, status_body

from espnet.board.calls import GET_BASIC
from espnet.board.link import Answer, Link, StaleConnection, request_bytes
from espnet.board.round import Asked, Round
from espnet.clock import ManualClock
from espnet.errors import BoardError

#: Long enough never to pass.
PATIENCE_S = 20.0
HOSTS = [f"127.0.0.{number}" for number in range(1, 6)]

Run = Callable[[Coroutine[None, None, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs on one of both loops."""
    return partial(run_on, request.param)


@pytest.fixture(autouse=True, scope="module")
def _no_leak() -> Iterator[None]:
    with no_leak():
        yield


def body(host: str) -> bytes:
    return status_body(board_id(host))


def request(link: Link) -> bytes:
    return request_bytes(link.address, GET_BASIC)


async def opened(wire: Wire) -> dict[str, Link]:
    """A kept connection to each board."""
    links = {host: Link(wire.address(host)) for host in HOSTS}
    for link in links.values():
        await link.exchange(request(link), PATIENCE_S)
    return links


def close(links: dict[str, Link]) -> None:
    for link in links.values():
        link.close()


async def ended(round_: Round[str]) -> list[Asked[str]]:
    """All that were asked, in the order in which they ended."""
    found = []
    while answers := await round_.answers():
        found += answers
    return found


def test_every_board_answers_once_with_its_own_words(run: Run) -> None:
    """Each on its kept connection, stamped when it came; afterwards every link is free again."""

    async def main() -> None:
        links, clock = await opened(wire), ManualClock(1000.0)
        for _ in range(3):
            clock.advance(10)
            round_: Round[str] = Round(clock, PATIENCE_S)
            assert all(round_.ask(link, request(link), host) for host, link in links.items())
            assert all(link.is_busy for link in links.values())
            found = await ended(round_)
            assert sorted(asked.key for asked in found) == HOSTS
            for asked in found:
                assert isinstance(asked.outcome, Answer)
                assert asked.link.end(asked.outcome) == body(asked.key)
                assert (asked.at, asked.began) == (clock.now(), clock.monotonic())
            assert not any(link.is_busy for link in links.values())
            round_.close()
        close(links)

    with Wire() as wire:
        wire.scripts.clear()
        run(main())
        assert all(wire.connections[host] == 1 for host in HOSTS)
        assert all(len(wire.requests[host]) == 4 for host in HOSTS)


def test_a_board_without_a_kept_connection_is_not_asked(run: Run) -> None:
    """Connecting is the long way's: nothing is sent, and the link stays free for it."""

    async def main() -> None:
        link = Link(wire.address())
        round_: Round[str] = Round(ManualClock(), PATIENCE_S)
        assert not round_.ask(link, request(link), "")
        assert await round_.answers() == []
        assert not link.is_busy
        round_.close()

    with Wire(answer()) as wire:
        run(main())
        assert not wire.connections


def test_a_round_ends_at_its_deadline_for_those_who_are_silent(run: Run) -> None:
    """One deadline for all: who has answered has answered, who has not is too late, and says what it did."""

    async def main() -> None:
        links = await opened(wire)
        round_: Round[str] = Round(ManualClock(), 2.0)  # the others have answered by then
        for host, link in links.items():
            round_.ask(link, request(link), host)
        for asked in await ended(round_):
            if asked.key == HOSTS[0]:
                assert isinstance(asked.outcome, BoardError)
                assert asked.outcome.kind == "timeout"
                with pytest.raises(BoardError) as caught:
                    await asked.link.exchange(request(asked.link), 2.0, asked.begun())
                assert caught.value is asked.outcome
                assert not asked.link.is_open
            else:
                assert asked.link.end(asked.outcome) == body(asked.key)
                assert asked.link.is_open
            assert not asked.link.is_busy
        round_.close()
        close(links)

    with Wire() as wire:
        wire.scripts.clear()
        wire.scripts[HOSTS[0]] = [answer(body(HOSTS[0])), Say((), "hang")]
        run(main())


def test_what_is_no_plain_answer_goes_the_long_way_from_there(run: Run) -> None:
    """A stale connection is replaced once, a refusal is the error that it is: with no request too many."""

    async def main() -> None:
        links = await opened(wire)
        round_: Round[str] = Round(ManualClock(), PATIENCE_S)
        for host, link in links.items():
            round_.ask(link, request(link), host)
        for asked in await ended(round_):
            link = asked.link
            if asked.key == HOSTS[0]:
                assert isinstance(asked.outcome, StaleConnection)
                assert link.end(asked.outcome) is None
                again = await link.exchange(request(link), PATIENCE_S, asked.begun())
                assert again == body(HOSTS[0])
            elif asked.key == HOSTS[1]:
                assert link.end(asked.outcome) is None
                with pytest.raises(BoardError) as caught:
                    await link.exchange(request(link), PATIENCE_S, asked.begun())
                assert (caught.value.kind, caught.value.status) == ("http", 503)
            else:
                assert link.end(asked.outcome) == body(asked.key)
            assert not link.is_busy
        round_.close()
        close(links)

    with Wire() as wire:
        wire.scripts.clear()
        fine = answer(body(HOSTS[0]))
        wire.scripts[HOSTS[0]] = [fine, Say((), "close"), fine]
        wire.scripts[HOSTS[1]] = [answer(body(HOSTS[1])), answer(b"{}", status="503 Busy")]
        run(main())
        assert [len(wire.requests[host]) for host in HOSTS] == [3, 2, 2, 2, 2]
        assert [wire.connections[host] for host in HOSTS] == [2, 1, 1, 1, 1]


def test_the_long_way_has_what_is_left_of_the_time(run: Run) -> None:
    """After the round's deadline nobody is asked: an exchange ends within its time-out, however it began."""

    async def main() -> None:
        links = await opened(wire)
        link = links[HOSTS[0]]
        round_: Round[str] = Round(ManualClock(), PATIENCE_S)
        round_.ask(link, request(link), HOSTS[0])
        (asked,) = await ended(round_)
        assert isinstance(asked.outcome, StaleConnection)
        round_.deadline = asyncio.get_running_loop().time() - 0.001
        with pytest.raises(BoardError) as caught:
            await link.exchange(request(link), PATIENCE_S, asked.begun())
        assert caught.value.kind == "timeout"
        round_.close()
        close(links)

    with Wire() as wire:
        wire.scripts.clear()
        wire.scripts[HOSTS[0]] = [answer(body(HOSTS[0])), Say((), "close"), answer()]
        run(main())
        assert (len(wire.requests[HOSTS[0]]), wire.connections[HOSTS[0]]) == (2, 1)


def test_a_link_that_is_closed_ends_its_part_of_the_round(run: Run) -> None:
    """No answer of it counts any more, the others go on, and no connection is made behind our back."""

    async def main() -> None:
        links = await opened(wire)
        go = wire.hold_back()
        round_: Round[str] = Round(ManualClock(), PATIENCE_S)
        for host, link in links.items():
            round_.ask(link, request(link), host)
        links[HOSTS[0]].close()
        go.set()
        for asked in await ended(round_):
            if asked.key == HOSTS[0]:
                for _ in range(2):
                    with pytest.raises(BoardError) as caught:
                        await asked.link.exchange(request(asked.link), 9, asked.begun())
                    assert caught.value.kind == "closed"
            else:
                assert asked.link.end(asked.outcome) == body(asked.key)
        round_.close()
        close(links)

    with Wire() as wire:
        wire.scripts.clear()
        run(main())
        assert all(wire.connections[host] == 1 for host in HOSTS)


def test_two_requests_at_once_are_a_bug(run: Run) -> None:
    """In a round as elsewhere: the second one is refused loudly and does not harm the first."""

    async def main() -> None:
        links = await opened(wire)
        link = links[HOSTS[0]]
        round_: Round[str] = Round(ManualClock(), PATIENCE_S)
        assert round_.ask(link, request(link), "first")
        with pytest.raises(RuntimeError, match="two requests at once"):
            round_.ask(link, request(link), "second")
        with pytest.raises(RuntimeError, match="two requests at once"):
            await link.exchange(request(link), PATIENCE_S)
        (asked,) = await ended(round_)
        assert link.end(asked.outcome) == body(HOSTS[0])
        round_.close()
        close(links)

    with Wire() as wire:
        wire.scripts.clear()
        run(main())
        assert wire.most_at_once[HOSTS[0]] == 1


@pytest.mark.parametrize("is_answered", [False, True])
def test_a_round_that_is_given_up_leaves_no_connection_with_an_answer_to_come(
    run: Run, is_answered
) -> None:
    """What nobody takes must not become the next answer; links that were taken are as they were."""

    async def main() -> None:
        links = await opened(wire)
        round_: Round[str] = Round(ManualClock(), PATIENCE_S)
        taken = links[HOSTS[0]]
        round_.ask(taken, request(taken), HOSTS[0])
        (asked,) = await round_.answers()
        assert taken.end(asked.outcome) == body(HOSTS[0])
        go = wire.hold_back()
        for host in HOSTS[1:]:
            round_.ask(links[host], request(links[host]), host)
        if is_answered:
            go.set()
            async with asyncio.timeout(10):
                while not all(asked.outcome for asked in round_._all):  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        round_.close()
        assert [links[host].is_open for host in HOSTS] == [True] + [False] * 4
        assert not any(link.is_busy for link in links.values())
        go.set()
        for host, link in links.items():
            assert await link.exchange(request(link), PATIENCE_S) == body(host)
        close(links)

    with Wire() as wire:
        wire.scripts.clear()
        run(main())


def test_a_board_is_not_asked_that_would_have_much_less_time(run: Run) -> None:
    """The process stood still while it asked: nothing is sent to the rest, and their links stay free."""

    async def main() -> None:
        links, clock = await opened(wire), ManualClock(1000.0)
        round_: Round[str] = Round(clock, PATIENCE_S)
        first, *rest = HOSTS
        clock.advance(0.05 * PATIENCE_S)
        assert round_.ask(links[first], request(links[first]), first)
        clock.advance(0.1 * PATIENCE_S)
        for host in rest:
            assert not round_.ask(links[host], request(links[host]), host)
            assert not links[host].is_busy
        assert [asked.key for asked in await ended(round_)] == [first]
        round_.close()
        close(links)

    with Wire() as wire:
        wire.scripts.clear()
        run(main())
        assert [len(wire.requests[host]) for host in HOSTS] == [2, 1, 1, 1, 1]


@pytest.mark.parametrize("how", ["round", "exchange"])
def test_what_came_while_the_process_stood_still_is_an_answer(how: str) -> None:
    """Nobody listened until the time was over. That is not the boards' fault: they are not lost."""
    with Wire() as wire:
        wire.scripts.clear()
        asker = subprocess.Popen(
            [sys.executable, "-m", "tests.asking", how, *map(wire.address, HOSTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with asker:
            assert asker.stdin
            assert asker.stdout
            assert asker.stdout.readline() == "open\n"
            go = wire.hold_back()
            asker.stdin.write("ask\n")
            asker.stdin.flush()
            eventually(lambda: wire.busy == len(HOSTS))
            asker.send_signal(signal.SIGSTOP)
            go.set()
            eventually(lambda: not wire.busy)
            over_s = time.monotonic() + TIMEOUT_S + 0.1
            eventually(lambda: time.monotonic() > over_s)
            asker.send_signal(signal.SIGCONT)
            assert asker.communicate(timeout=PATIENCE_S)[0] == "open\n" * len(HOSTS)
        assert asker.returncode == 0
        assert [wire.connections[host] for host in HOSTS] == [1] * len(HOSTS)
