"""The firmware lives within the heap that board-sized memory leaves it, and stays there.

A 64-bit heap of 112 KB, the simulator's stand-ins included, stands for the 56 KB that an ESP32
gives without taking from Wi-Fi; 188 KB for the most that it can ever give.
"""

import gzip
import json
import random
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pytest

from .firmware_client import Board, ask, connect, free_bytes, levels, raw
from .requesting import GOOD, settled

REQUESTS = 2000


def mixed_requests(board: Board, count: int, seed: int) -> None:
    """``count`` requests over a few connections, 1 % of them garbage on one of their own."""
    rng = random.Random(seed)
    sent = 0
    while sent < count:
        if rng.random() < 0.01:
            raw(board, rng.randbytes(rng.randrange(1, 3000)))
            sent += 1
            continue
        with connect(board) as client:
            for request in rng.choices(GOOD, k=min(rng.randrange(1, 60), count - sent)):
                client.sendall(request)
                got = client.recv(65536)
                assert got[:9] == b"HTTP/1.1 ", got
                assert got[9:12] != b"500", got
                head, _, body = got.partition(b"\r\n\r\n")
                length = int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
                while len(body) < length:
                    body += client.recv(65536)
                sent += 1


def test_free_heap_is_flat(make_board) -> None:
    """After 2,000 mixed requests, 1 % garbage, as much heap is free as before; nothing died. So it is with
    the smallest and the largest heap."""

    def use(board: Board) -> tuple[int, int]:
        board.set(dht={15: (20, 50)})
        mixed_requests(board, 200, seed=1)
        before = settled(board)
        mixed_requests(board, REQUESTS, seed=2)
        return before, settled(board)

    kinds = ("112K", "188K")
    boards = [make_board(heap=heap) for heap in kinds]
    with ThreadPoolExecutor(len(boards)) as pool:
        found = list(pool.map(use, boards))
    for kind, board, (before, after) in zip(kinds, boards, found, strict=True):
        assert abs(after - before) < before * 0.02, kind
        assert before > 17_000, kind
        assert board.boots == 1, kind
        assert "Traceback" not in board.console, kind


def test_characters_leave_nothing_behind(make_board) -> None:
    """Thousands of different characters in names and values take no memory for good.

    MicroPython keeps each character that it takes out of a text or makes by `chr` for ever.
    """
    board = make_board(compiled=True)
    ask(board, "GET", "/details")

    def send(start: int) -> None:
        for at in range(start, start + 400, 40):
            name = "".join(map(chr, range(at, at + 40)))
            fields = {"pin": 4, "value": 0, "by": name}
            escaped = json.dumps(fields).encode()
            form = urllib.parse.urlencode(fields).encode()
            for body in (escaped, json.dumps(fields, ensure_ascii=False).encode(), form):
                assert ask(board, "POST", "/gpio", body).status == 200
                assert ask(board, "GET", "/details").json["pins"]["4"]["by"] == name

    send(0x400)
    before = free_bytes(board)
    for start in (0xA1, 0x900, 0x4E00, 0xAC00):
        send(start)
    assert free_bytes(board) > before - 300


def test_a_fragmented_heap(make_board) -> None:
    """With the free heap in pieces of 4 KB at most, every call still works."""
    fragment = """
import gc
def _fragment():
    gc.collect()
    held, holes = [], []
    try:
        while True:
            holes.append(bytearray(2000))
            held.append(bytearray(40))
    except MemoryError:
        pass
    holes.clear()
    gc.collect()
    return held
"""
    board = make_board(
        before_main=fragment,
        heap="188K",
        replace={
            "app.py": [("    gc.threshold(6144)", "    held = _fragment()\n    gc.threshold(6144)")]
        },
    )
    board.set(dht={15: (20, 50)})
    assert free_bytes(board) > 20_000
    mixed_requests(board, 500, seed=3)
    assert ask(board, "GET", "/").status == 200
    assert len(ask(board, "POST", "/adc", {"read_pin": 36, "samples": 200}).json["data"]) == 200
    assert gzip.decompress(ask(board, "GET", "/ui").body).endswith(b"</html>\n")
    assert ask(board, "GET", "/details").json["pins"]["4"]["by"] == "somebody"
    assert ask(board, "POST", "/gpio", b'{"pin": 4,' + b" " * 8000 + b'"value": 1}').status == 200
    assert "Memory" not in board.console
    assert board.boots == 1


EATER = """
async def eat():
    await asyncio.sleep_ms(300)
    chain = None  # a chain, because a list that grows would stop early
    for size in (1024, 32):
        try:
            while True:
                chain = (chain, bytearray(size))
        except MemoryError:
            pass
        if size == 1024:
            for _ in range(4):  # room for small links, or those let go below would be large
                chain = chain[0]
    for _ in range(LINKS):
        chain = chain[0]
    gc.collect()
    await asyncio.sleep_ms(1500)
    chain = None
    await asyncio.sleep_ms(1000000)


async def tick():"""


@pytest.mark.parametrize("links", [0, 5, 15, 25])
def test_hardly_any_memory(make_board, links: int) -> None:
    """When next to nothing is free, clients get 503 or nothing, and pins and server survive."""
    changes = [
        ("async def tick():", EATER.replace("LINKS", str(links))),
        ("starts = (tick,", "starts = (tick, eat,"),
    ]
    board = make_board(heap="188K", replace={"app.py": changes})
    before = levels(board)
    answers: list[bytes] = []
    deadline = time.monotonic() + 40
    while set(answers) <= {b"400"} or answers[-50:] != [b"400"] * 50:
        assert time.monotonic() < deadline, "it was never short of memory, or never well again"
        with connect(board, timeout_s=2) as client:
            try:
                client.sendall(b"POST /gpio HTTP/1.1\r\nContent-Length: 9\r\n\r\npin=99999")
                answers.append(client.recv(100)[9:12])
            except OSError:
                answers.append(b"")
    assert set(answers) <= {b"400", b"503", b""}
    assert levels(board) == before
    assert board.boots == 1
