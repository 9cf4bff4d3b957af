"""Ten thousand requests, garbage among them, and every kind of bad client at once: the board is as before.

What the heap looks like is read from MicroPython's own picture of it, which the board prints when a
file asks for it.
"""

import contextlib
import itertools
import random
import re
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from espnet.simulator.fleet import Board

from .digest_client import Person, claim_by_hand
from .firmware_client import ask, connect, free_bytes, levels, raw, statuses, until
from .requesting import GOOD, answer_on, form, settled
from .test_firmware_http import HASTY

REQUESTS = 10_000
GET = b"GET / HTTP/1.1\r\nHost: board\r\n\r\n"
BLOCK = 32  # bytes, on the 64-bit port

#: Prints the heap's figures when there is a file `look`, and removes it.
LOOKER = """
async def look():
    import micropython
    import os
    while True:
        await asyncio.sleep_ms(100)
        try:
            os.remove("look")
        except OSError:
            continue
        gc.collect()
        micropython.mem_info()


async def tick():"""

LOOKS = {"app.py": [("async def tick():", LOOKER), ("starts = (tick,", "starts = (tick, look,")]}


def heap(board: Board) -> tuple[int, int]:
    """(largest free piece, largest piece in use) of the board's heap after a collection, in bytes."""
    seen = board.console.count("max free sz")
    (board.flash / "look").touch()
    until(lambda: board.console.count("max free sz") > seen)
    used, free = re.findall(r"max blk sz: (\d+), max free sz: (\d+)", board.console)[-1]
    return int(free) * BLOCK, int(used) * BLOCK


CALLS = [(b"GET", b"/", b""), (b"GET", b"/?fence=5", b"")] * 5 + [
    (b"POST", b"/gpio", b"pin=4,5&value=1&lease_s=60&fence=5"),
    (b"POST", b"/gpio", b'{"pin": [4, 5], "value": 0}'),
    (b"POST", b"/gpio", b"pin=34&value=1"),
    (b"POST", b"/dht22", b"read_pin=16"),
    (b"GET", b"/details", b""),
]


def mixed(board: Board, count: int, seed: int, claimed: bool) -> int:
    """``count`` requests over a few connections, 1 % garbage; to a claimed board most are signed. Returns
    how many were answered that memory is short, by one or the other."""
    rng = random.Random(seed)
    digest = Person(board).digest if claimed else None
    sent = short = 0
    while sent < count:
        if rng.random() < 0.3:  # a connection has 30 requests
            raw(board, rng.randbytes(rng.randrange(1, 3000)))
            sent += 1
        with connect(board) as client:
            for _ in range(min(30, count - sent)):
                if digest:
                    method, target, body = rng.choice(CALLS)
                    head = b"%s %s HTTP/1.1\r\nContent-Length: %d\r\n" % (method, target, len(body))
                    if rng.random() < 0.8:
                        header = digest.header(method.decode(), target.decode(), body=body)
                        head += f"Authorization: {header}\r\n".encode()
                    answer = answer_on(client, head + b"\r\n" + body)
                else:
                    answer = answer_on(client, rng.choice(GOOD))
                sent += 1
                assert not answer.startswith(b"HTTP/1.1 500 "), answer
                if b"stale=true" in answer:
                    digest = Person(board).digest
                if b"short of memory" in answer:
                    short += 1
                    break
    return short


@pytest.mark.parametrize(
    "count", [REQUESTS, pytest.param(20 * REQUESTS, marks=pytest.mark.soak)], ids=str
)
def test_ten_thousand_requests(make_board, count: int) -> None:
    """After 10,000 mixed requests, 1 % garbage, the free heap differs by less than 2 %, its largest piece is
    no smaller, nothing that lies in it is larger than 4 KB, and of a thousand requests at most one was told
    that memory is short: on open boards and claimed ones."""

    def use(board: Board, claimed: bool) -> list[tuple[int, tuple[int, int]]]:
        board.set(dht={15: (20, 50)})
        found = []
        for number, seed in ((300, 1), (count, 2)):
            assert mixed(board, number, seed, claimed) <= number / 1000
            found.append((settled(board), heap(board)))
        return found

    boards = [make_board(compiled=True, replace=LOOKS) for _ in range(2)]
    claim_by_hand(boards[1])
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(use, boards, (False, True)))
    for board, ((before, heap_before), (after, heap_after)) in zip(boards, found, strict=True):
        assert abs(after - before) < before * 0.02
        assert heap_after[0] >= min(4096, heap_before[0])  # it comes and goes by a third
        assert heap_after[1] <= 4096
        assert "Traceback" not in board.console
    assert boards[0].boots == 1
    assert boards[1].boots == 2  # the claim's


def slow_head(client: socket.socket) -> None:
    for _ in range(40):
        client.sendall(b"A")
        client.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            if not client.recv(4096):
                return


def endless_head(client: socket.socket) -> None:
    client.sendall(b"GET / HTTP/1.1\r\n")
    for number in itertools.count():
        client.sendall(b"X-%d: y\r\n" % number * 100)


def ten_megabytes(client: socket.socket) -> None:
    client.sendall(b"POST /gpio HTTP/1.1\r\nContent-Length: 10000000\r\n\r\n")
    for _ in range(1000):
        client.sendall(b"x" * 10_000)


def less_than_promised(client: socket.socket) -> None:
    client.sendall(b"POST /gpio HTTP/1.1\r\nContent-Length: 20\r\n\r\npin=4&value=1")
    client.recv(4096)


def more_than_promised(client: socket.socket) -> None:
    client.sendall(b"POST /gpio HTTP/1.1\r\nContent-Length: 3\r\n\r\npin=4&value=1" * 20)
    while client.recv(4096):
        pass


def held_body(client: socket.socket) -> None:
    client.sendall(form("/gpio", b"pin=4&value=1" + b" " * 8000)[:-1])
    client.recv(4096)


def pipelining(client: socket.socket) -> None:
    client.sendall((GET + form("/gpio", b"pin=34&value=1")) * 50)
    while client.recv(4096):
        pass


def never_reading(client: socket.socket) -> None:
    client.settimeout(2)
    for _ in range(3000):
        client.sendall(GET * 20)


def nulls(client: socket.socket) -> None:
    client.sendall(bytes(3000))
    client.recv(4096)


def reset(client: socket.socket) -> None:
    client.sendall(GET)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half_closed(client: socket.socket) -> None:
    client.sendall(GET[:-2])
    client.shutdown(socket.SHUT_WR)
    client.recv(4096)


def silent(client: socket.socket) -> None:
    client.recv(4096)


BAD = [slow_head, endless_head, ten_megabytes, less_than_promised, more_than_promised, held_body,
       pipelining, never_reading, nulls, reset, half_closed, silent]  # fmt: skip


#: As hasty, but a connection may idle as long as on a board.
BUSY = {**HASTY, "web.py": [change for change in HASTY["web.py"] if "_IDLE" not in change[0]]}


def load_the_same(board: Board) -> None:
    """Of the modules that a board keeps while they are in use, two: let it be these."""
    ask(board, "GET", "/ui")
    ask(board, "GET", "/details")


@pytest.mark.parametrize("claimed", [False, True], ids=["open", "claimed"])
def test_fifty_bad_clients_at_once(make_board, claimed: bool) -> None:
    """While 50 bad clients of every kind come again and again, a good one is served sooner or later, also by
    its password, each answer is whole, and no pin moves. Then all is as before."""
    board = make_board(compiled=True, replace=BUSY)
    if claimed:
        claim_by_hand(board)
        for _ in range(20):  # so many nonces it keeps in mind
            Person(board).ask("GET", "/?fence=1")
    else:
        ask(board, "POST", "/gpio", b"pin=13&value=1")
    load_the_same(board)
    with contextlib.ExitStack() as stack:  # the loop's own table grows with these, once
        for _ in range(8):
            answer_on(stack.enter_context(connect(board)), GET)
    before, shown, boots = free_bytes(board), levels(board), board.boots
    over = threading.Event()

    def be_bad(how) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), connect(board, timeout_s=3) as client:
                how(client)

    owner = Person(board).digest if claimed else None
    threads = [threading.Thread(target=be_bad, args=(how,)) for how in (BAD * 5)[:50]]
    for thread in threads:
        thread.start()
    try:
        served = 0
        deadline = time.monotonic() + 60
        while served < 3:
            assert time.monotonic() < deadline, served
            with contextlib.suppress(ConnectionError), connect(board) as client:
                status = b"200"
                while status == b"200" and served < 3:
                    header = (
                        f"Authorization: {owner.header('GET', '/?fence=1')}\r\n" if owner else ""
                    )
                    client.sendall(f"GET /?fence=1 HTTP/1.1\r\n{header}\r\n".encode())
                    status = client.recv(4096)[9:12]
                    assert status in (b"200", b"408", b"503", b""), status
                    served += status == b"200"
    finally:
        over.set()
        for thread in threads:
            thread.join()
    until(lambda: statuses(raw(board, GET)) == [200])
    load_the_same(board)
    until(lambda: abs(free_bytes(board) - before) < before * 0.02, 20)
    assert levels(board) == shown
    assert board.boots == boots
    assert "Traceback" not in board.console


def test_who_has_logged_in_keeps_his_place(make_board) -> None:
    """Strangers, however many, do not take the idle connection of one who has logged in; where all have,
    the idlest one makes room."""
    board = make_board(compiled=True, heap="188K")
    claim_by_hand(board)
    owner = Person(board).digest

    def log_in(client: socket.socket) -> bytes:
        header = f"Authorization: {owner.header('GET', '/?fence=1')}\r\n\r\n"
        return answer_on(client, b"GET /?fence=1 HTTP/1.1\r\n" + header.encode())

    with contextlib.ExitStack() as stack:
        known = stack.enter_context(connect(board))
        assert log_in(known).startswith(b"HTTP/1.1 200 ")
        for _ in range(20):
            stack.enter_context(connect(board))
        until(lambda: board.describe()["most_connections"] >= 8)
        assert log_in(known).startswith(b"HTTP/1.1 200 ")
        stack.pop_all().close()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(board)) for _ in range(8)]
        for client in clients:
            assert log_in(client).startswith(b"HTTP/1.1 200 ")
        until(lambda: ask(board, "GET", "/").status == 200)
        gone = 0
        for client in clients:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                gone += client.recv(1) == b""
        assert gone == 1
