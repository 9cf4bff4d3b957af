"""What EspNet asks of a board: one connection, and less while the board struggles. Real firmware."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from espnet.simulator import Board

from .world import World, polls, wait_for

#: The firmware's places for clients.
PLACES = 8


@contextmanager
def crowd(board: Board) -> Iterator[None]:
    """Takes every place that the board has, and again each that it takes back: it lets nobody be in the
    middle of a question for longer than some seconds."""
    host, _, port = board.address.rpartition(":")
    over = threading.Event()

    def stay() -> None:
        while not over.is_set():
            with (
                suppress(OSError),
                socket.create_connection((host, int(port)), timeout=5) as client,
            ):
                client.sendall(b"GET / HTTP/1.1\r\n")
                client.settimeout(0.1)
                while not over.is_set():
                    with suppress(TimeoutError):
                        client.recv(4096)
                        break
            over.wait(0.05)  # somebody else has the place: that is no reason to storm the board

    with ThreadPoolExecutor(PLACES) as clients:
        for _ in range(PLACES):
            clients.submit(stay)
        try:
            yield
        finally:
            over.set()


def test_a_board_without_a_place_is_asked_less_and_everybody_can_see_it(
    world: World, boards: list[Board]
) -> None:
    """Its refusals slow its polls and nobody else's: log, list, `why` and `doctor` say so; then it ends."""
    busy, quiet = boards[:2]
    world.register(busy, quiet, names="busy quiet")
    world.espcli("device", "busy", "interval", "86400")
    run = world.start("20")

    def is_slowed() -> bool:
        return bool(run.events("board.slowed"))

    with crowd(busy):
        # A new record: the collector comes at once, on a new connection, and finds no place. If it was
        # quicker than the crowd, it keeps its connection, and its place: it has to come anew.
        deadline = time.monotonic() + 60
        while not is_slowed():
            assert time.monotonic() < deadline, run.log
            world.espcli("device", "busy", "interval", "0.3")
            until = time.monotonic() + 4
            while not is_slowed() and time.monotonic() < until:
                time.sleep(0.02)
            if not is_slowed():
                world.espcli("device", "busy", "interval", "86400")
        told = run.events("board.slowed")[-1]
        assert (told["name"], told["asked_s"]) == ("busy", 0.3)
        assert told["every_s"] in (0.6, 1.2)
        assert "too many connections" in told["reason"]
        refused = world.device(
            "busy"
        )  # while it still has no place: afterwards that is no problem any more
        assert refused["interval_s"] == 0.3
        assert refused["slowed"]["every_s"] in {e["every_s"] for e in run.events("board.slowed")}
        assert "too many connections" in refused["problem"]
    run.wait_for_event("board.back", 60)
    run.wait_for_event("board.recovered", 60)  # twenty good polls, if it was slowed twice
    wait_for("the end of it", lambda: world.device("busy")["slowed"] is None)
    assert world.device("quiet")["slowed"] is None
    assert {event["name"] for event in run.events("board.slowed")} == {"busy"}
    assert run.stop() == 0


def test_a_collector_has_one_connection_to_a_board(world: World, fresh: list[Board]) -> None:
    """Whatever the board does, and whatever is asked and written; a command at the same time makes it two."""
    board = fresh[0]
    board.set(dht={4: (21.5, 40)})
    world.register(board, names="porch")
    world.espcli("device", "porch", "add_dht22", "air", "4")
    world.espcli("device", "porch", "add_adc", "36")
    world.espcli("device", "porch", "override", "2", "on", "--for", "1h")
    run = world.start("20")
    wait_for("the lamp", lambda: board.pin(2).level == 1)
    board.forget_requests()
    for fault in ("http_500", "not_json", "truncated", "cut", "rst", "wrong_id", "missing_keys"):
        before = len(polls(board))
        board.fault(fault, count=2)
        wait_for(f"{fault} to be over", lambda: not board.describe().get("faults"))
        wait_for("more polls", lambda: len(polls(board)) > before + 4)  # noqa: B023
    alone = board.requests
    assert len(alone) > 50
    assert {request.connections for request in alone} == {1}
    assert max(request.overlap for request in alone) == 0

    board.forget_requests()
    world.espcli("device", "porch", "requests", "get_basic")
    world.espcli("device", "porch", "update")
    world.espcli("device", "porch", "crash")
    assert max(request.connections for request in board.requests) <= 2
    before = len(polls(board))
    wait_for("more polls", lambda: len(polls(board)) > before + 3)
    assert {request.connections for request in board.requests[-2:]} == {1}
    assert run.stop() == 0
