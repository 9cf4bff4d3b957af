"""Short of memory: the board turns new clients away, serves those it has, and comes back by itself."""

import contextlib
import json
import os
from pathlib import Path

import pytest

from espnet.simulator.fleet import Board

from .firmware_client import ask, connect, free_bytes, raw, receive, statuses, until
from .requesting import form

GET = b"GET / HTTP/1.1\r\nHost: board\r\n\r\n"

#: Eats the heap until as many bytes are free as the file `leave` says; without a number, nothing. With "all"
#: it eats everything, gives every other piece back, and takes each large one as it comes: what is left is in
#: small pieces, however the heap looked before. A chain, because a list that grows would stop early.
EATER = """
async def eat():
    chain = None
    eaten = ""
    while True:
        await asyncio.sleep_ms(50)
        try:
            with open("leave") as file:
                leave = file.read()
        except OSError:
            leave = ""
        except MemoryError:  # a little less, then
            chain = chain[0] if chain else None
            continue
        if leave != eaten:
            chain = None
            gc.collect()
            try:
                while leave and (leave == "all" or gc.mem_free() > int(leave)):
                    chain = [chain, bytearray(620) if leave == "all" else None]
            except MemoryError:
                pass
            link = chain if leave == "all" else None
            while link:
                link[1] = None
                link = link[0] and link[0][0]
            gc.collect()
        try:
            while leave == "all":
                chain = [chain, bytearray(700)]
        except MemoryError:
            pass
        if leave != eaten:
            eaten = leave
            print("left:", leave, gc.mem_free())


async def tick():"""

FLOOR, ENOUGH = 6144, 8192


@pytest.fixture
def eaten(make_board) -> Board:
    """A compiled board whose heap a test can eat and give back with `leave`."""
    changes = [("async def tick():", EATER), ("starts = (tick,", "starts = (tick, eat,")]
    board = make_board(compiled=True, replace={"app.py": changes})
    # What joins the network and sets the clock gives its memory back when it is done.
    found: list[int] = []

    def is_steady() -> bool:
        found.append(free_bytes(board))
        return len(found) > 2 and max(found[-3:]) - min(found[-3:]) < 256

    until(is_steady, 60)
    return board


def leave(board: Board, count: int | str | None) -> None:
    """Returns when the heap is eaten up to ``count`` bytes, or but for small pieces, or given back."""
    text = "" if count is None else str(count)
    done = board.console.count("left:")
    (board.flash / "leave.new").write_text(text)
    (board.flash / "leave.new").rename(board.flash / "leave")
    until(lambda: board.console.count("left:") > done)


def status_on(client) -> bytes:
    client.sendall(GET)
    return client.recv(4096)


def measured(client) -> int:
    """What the board last measured of its free heap; 0 when it could not even say that."""
    answer = status_on(client)
    return json.loads(answer.partition(b"\r\n\r\n")[2]).get("mem_free", 0)


def turned_away(board: Board) -> bool:
    """Whether a new client is refused: at once, with what it should do, and closed."""
    answer = raw(board, GET)
    if statuses(answer) == [200]:
        return False
    assert statuses(answer) == [503]
    assert b"\r\nRetry-After: 1\r\n" in answer
    assert b"\r\nConnection: close\r\n" in answer
    assert b"short of memory" in answer
    return True


def test_below_the_floor_nobody_new_is_let_in(eaten: Board) -> None:
    """Below a floor of free heap new clients get 503, open connections their answers; it ends with more
    than the floor, and by itself: nobody needs to be served for it."""
    with connect(eaten) as client:
        assert b" 200 " in status_on(client)
        leave(eaten, FLOOR - 600)
        until(lambda: measured(client) < FLOOR)
        assert turned_away(eaten)
        for _ in range(50):
            assert b" 200 " in status_on(client)
        assert turned_away(eaten)
        leave(eaten, (FLOOR + ENOUGH) // 2)
        until(lambda: FLOOR < measured(client) < ENOUGH)
        assert turned_away(eaten)
        leave(eaten, None)
        until(lambda: not turned_away(eaten))
        assert b" 200 " in status_on(client)
    assert eaten.boots == 1
    assert "Traceback" not in eaten.console


def test_a_heap_in_small_pieces_is_short(eaten: Board) -> None:
    """Free heap in pieces too small for a request is none, however much it is in all."""
    with connect(eaten) as client:
        assert b" 200 " in status_on(client)
        leave(eaten, "all")
        until(lambda: turned_away(eaten) and measured(client) > FLOOR)
        leave(eaten, FLOOR + 4000)
        until(lambda: not turned_away(eaten))
    assert eaten.boots == 1


def test_above_the_floor_all_are_served(eaten: Board) -> None:
    """With 2 KB more than the floor free, new clients are let in, and a controller's calls are served."""
    ask(eaten, "POST", "/gpio", b"pin=4&value=0")  # what reads bodies is there
    leave(eaten, FLOOR + 2000)
    calls = [
        (GET, 200),
        (form("/gpio", b"pin=4,5,12,13&value=1&lease_s=60&by=somebody"), 200),
        (form("/gpio", b'{"pin": [4, 5, 12, 13], "value": 0}'), 200),
        (form("/set_host", b"ip=10.0.0.1"), 200),
        (form("/nothing", b"x" * 1024), 404),
    ]
    for request, status in calls * 5:
        assert statuses(raw(eaten, request)) == [status], request
    assert eaten.boots == 1
    assert "Traceback" not in eaten.console


def test_what_is_not_served_for_want_of_memory_says_so(eaten: Board) -> None:
    """With next to nothing free a request gets its whole answer, or 503, or the end; never another's
    and never a part. Afterwards the heap is what it was, and no socket is lost."""
    ask(eaten, "GET", "/details")
    descriptors = Path(f"/proc/{eaten.pid}/fd")
    before = len(os.listdir(descriptors))
    found: list[int | None] = []
    for count in (3000, 2000, 1000, 300, *[0] * 8):
        with connect(eaten) as client:
            assert b" 200 " in status_on(client)
            leave(eaten, count)
            for _ in range(30):
                with contextlib.suppress(ConnectionError):
                    answer = status_on(client) or receive(client)
                    if not answer:
                        break
                    head, _, body = answer.partition(b"\r\n\r\n")
                    assert head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 503 ")), answer
                    assert f"Content-Length: {len(body)}\r\n".encode() in head + b"\r\n"
            for _ in range(40):
                with contextlib.suppress(ConnectionError):
                    answer = raw(eaten, form("/gpio", b"pin=4&value=1" + b" " * 400))
                    found += statuses(answer) or [None]
        leave(eaten, None)
        until(lambda: not turned_away(eaten))
    assert set(found) <= {400, 503, None}
    assert 503 in found
    until(lambda: len(os.listdir(descriptors)) <= before)
    assert not eaten.pin(4).level
    assert eaten.boots == 1


def test_large_bodies_share_their_room(make_board) -> None:
    """All bodies under way together have 8 KB, small ones aside: what would be more gets 503 at its head."""
    board = make_board(compiled=True)
    large = form("/nothing", b"x" * 4097)
    with connect(board) as client:
        client.sendall(large[:-1])
        until(lambda: statuses(raw(board, large)) == [503])
        answer = raw(board, large)
        assert b"\r\nRetry-After: 1\r\n" in answer
        assert b"other large bodies" in answer
        assert ask(board, "POST", "/gpio", b"pin=4&value=1" + b"&" * 400).status == 200
        client.sendall(b"x")
        assert statuses(client.recv(4096)) == [404]
        # It is open, and holds nothing any more.
        assert statuses(raw(board, large)) == [404]
