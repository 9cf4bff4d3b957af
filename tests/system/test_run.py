"""`espcli run` from start to stop, and what people change in the registry under it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time

import pytest
import redis
import requests

from espnet.simulator import Board

from .world import ESPCLI, PATIENCE_S, Run, World, gaps, marked_processes, polls, wait_for


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(
    world: World, boards: list[Board], number: signal.Signals
) -> None:
    """SIGTERM and SIGINT: what is in flight is finished and committed, every lock is released, the exit
    code is 0, and no process and no connection is left."""
    slow, hanging, _ = boards[:3]
    world.register(*boards[:3])
    run = world.start("10", "--device_requests_timeout", "2")
    # Its answer takes about a second, in many pieces.
    slow.fault("slow", bytes_per_s=900)
    hanging.fault("hang")
    with world.store() as store:
        devices = [store.device(name) for name in ("b0", "b1")]

        def both_in_flight() -> bool:
            locks = [store.lock_state(device) for device in devices]
            asked = [polls(board)[-1:] for board in (slow, hanging)]
            faults = [request.fault for latest in asked for request in latest]
            return all(locks) and faults == ["slow", "hang"]

        wait_for("both are in flight", both_in_flight, every_s=0.005)
        # Both were claimed just now, so what they become is not there yet.
        signalled = time.time()
        run.send(number)
        run.send(number)  # somebody impatient
        assert run.process.wait(2 * 2 + 3) == 0, run.log
        ended = time.time()
        assert ended - signalled < 2 * 2 + 1
        seen = {view.device.name: view for view in store.views()}
    assert run.events()[-1]["event"] == "collector.stopped"
    assert not run.events("poll.void", "polls.dropped")
    assert seen["b0"].reading is not None
    assert signalled < seen["b0"].reading.at < ended
    assert seen["b1"].fault is not None
    assert signalled < seen["b1"].fault.at < ended
    assert world.locks() == []
    assert not marked_processes(world.mark, world.folder)
    for board in boards[:3]:
        board.clear()
        # A connection of the collector's would be counted, too.
        wait_for("one connection", lambda board=board: _connections(board) == 1)
    world.require_balance()


#: Stays when a device goes: without it the board would be locked.
PASSWORDS = "espnet:credentials"


def _connections(board: Board) -> int:
    """How many connections are open at a board, the one that asks included."""
    requests.get(f"http://{board.address}/", timeout=5)
    return board.requests[-1].connections


def test_every_line_of_the_log_is_of_the_documented_vocabulary(
    world: World, boards: list[Board]
) -> None:
    """With ``--log_format json`` every line is a JSON object with a time, a level and a known event; a
    fault is one line when it begins and one when it ends, however many polls it lasted."""
    world.register(*boards[:2])
    begun_s = time.monotonic()
    run = world.start("10", "--device_update_interval", "0.2")
    # Refused at its first poll, a board is asked once more, as one of 2021.
    wait_for("a poll", lambda: polls(boards[0], begun_s))
    boards[0].fault("http_500", count=3)
    run.wait_for_event("board.lost")
    back = run.wait_for_event("board.back")
    assert (back["name"], back["failures"]) == ("b0", 3)
    assert run.stop() == 0
    run.require_good_log()
    assert [event["event"] for event in run.events()] == [
        "collector.started",
        "uploads.off",
        "board.lost",
        "board.back",
        "collector.stopped",
    ]
    lost = run.events("board.lost")[0]
    assert (lost["name"], lost["kind"], lost["level"]) == ("b0", "http", "warning")
    assert boards[0].address in lost["reason"]


def test_the_log_for_people_is_one_line_an_event(world: World, boards: list[Board]) -> None:
    """Without options each event is one line of key=value, which names what happened."""
    world.register(boards[0])
    run = Run([str(ESPCLI), "run", "10"], world.environ, world.folder / "text.log")
    try:
        wait_for("two polls", lambda: len(polls(boards[0])) >= 2)
        assert run.stop(signal.SIGINT) == 0
    finally:
        run.end()
    lines = run.log.splitlines()
    events = [re.search(r"\bevent=(\S+)", line) for line in lines]
    assert [event and event[1] for event in events] == [
        "collector.started",
        "uploads.off",
        "collector.stopped",
    ]


def _keys_with(client: redis.Redis, text: str) -> list[str]:
    """The keys that hold a text in their name or anywhere in them, but for samples under way."""
    found = []
    for key in client.scan_iter("*"):
        kind = client.type(key)
        if kind in (b"stream", b"none"):  # none: a lock that ended just now
            continue
        held = {
            b"string": lambda key=key: client.get(key),
            b"hash": lambda key=key: client.hgetall(key),
            b"zset": lambda key=key: client.zrange(key, 0, -1),
            b"list": lambda key=key: client.lrange(key, 0, -1),
        }[kind]()
        if text in key.decode() or text in repr(held):
            found.append(key.decode())
    return found


def test_a_log_that_nobody_takes_holds_nothing_up(world: World, boards: list[Board]) -> None:
    """Stderr that stands still (Ctrl-S, a full pipe) stops neither the polls nor the order to stop."""
    world.register(boards[0])
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, b"\n")
        os.set_blocking(writing, True)
        begun_s = time.monotonic()
        with subprocess.Popen([ESPCLI, "run", "10"], env=world.environ, stderr=writing) as run:
            try:
                wait_for("polls", lambda: len(polls(boards[0], begun_s)) > 3)
                run.send_signal(signal.SIGTERM)
                assert run.wait(PATIENCE_S) == 0
            finally:
                run.kill()
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("fault", [None, "hang"])
def test_an_unregistered_device_does_not_come_back(
    world: World, boards: list[Board], fault: str | None
) -> None:
    """`unregister` under a running collector, also in the middle of a poll: no key of the device is
    left but its password, none comes back, nobody polls the board any more, and the others are polled as
    before."""
    gone, other = boards[:2]
    world.register(gone, other, names="gone other")
    run = world.start("10", "--device_requests_timeout", "1.5")
    wait_for("polls", lambda: polls(gone) and polls(other))
    if fault:
        gone.fault(fault)
        wait_for("it is in flight", lambda: polls(gone)[-1].fault)
    began_s = time.monotonic()
    world.espcli("unregister", "gone")
    with world.client() as client:
        assert _keys_with(client, gone.id) == [PASSWORDS]
        asked, queued = len(polls(gone)), len(world.samples())
        if fault:
            assert run.wait_for_event("poll.void")["polls"] == 1
        # It would have been due several times.
        wait_for("polls", lambda: len(polls(other, began_s)) >= 4)
        assert _keys_with(client, gone.id) == [PASSWORDS]
    assert len(polls(gone)) <= asked + (not fault)  # one was perhaps under way
    news = world.samples()[queued:]
    assert news
    assert not [batch for batch in news if f"id:{gone.id}" in batch.tags]
    assert "gone" in world.espcli("device", "gone", code=1)
    assert max(gaps(other, began_s, time.monotonic())) < 1.5
    # The board itself is as free as before.
    gone.clear()
    world.register(gone, names="gone")
    wait_for("polls", lambda: len(polls(gone)) > asked + 1)
    assert run.stop() == 0
    assert world.locks() == []
    world.require_balance()


def test_polls_go_on_under_a_new_name_and_at_a_new_address(
    world: World, boards: list[Board]
) -> None:
    """`rename`, and `register` of the same board at another address, under a running collector: the
    polls go on, at their interval and never two at once; samples carry the new name from then on."""
    board = boards[0]
    world.register(board, names="porch")
    run = world.start("10")
    wait_for("polls", lambda: len(polls(board)) >= 2)
    began_s = time.monotonic()
    world.espcli("rename", "porch", "1e3")
    renamed = time.time()
    with world.store() as store:

        def polled_since(moment: float) -> bool:
            reading = store.view("1e3").reading
            return bool(reading and reading.at > moment and reading.collector == run.holder)

        wait_for("a poll", lambda: polled_since(renamed + 0.5))
        names = {
            tag for b in world.samples() if b.at > renamed + 0.5 for tag in b.tags if "name:" in tag
        }
        assert names == {"name:1e3"}
        assert "porch" in world.espcli("device", "porch", code=1)

        moved = f"localhost:{board.port}"
        world.espcli("register", moved, "1e3")
        assert world.device("1e3")["address"] == moved
        since = time.time()
        wait_for("a poll", lambda: polled_since(since + 0.5))
    until_s = time.monotonic()
    # Two commands asked the board, too; nobody waited longer than an interval and a new phase.
    assert max(gaps(board, began_s, until_s)) < 1.5
    assert board.most_requests == 1
    assert run.stop() == 0
    assert not run.events("board.lost", "polls.dropped")
    assert len(world.json("devices")) == 1
    world.require_balance()


def test_a_board_that_takes_anothers_place_is_polled_under_its_name(
    world: World, boards: list[Board]
) -> None:
    """`register --replace` of another board under a name, under a running collector: the new one is
    polled with the old one's settings, and no key of the old one is left."""
    old, new = boards[:2]
    world.register(old, names="porch")
    world.espcli("device", "porch", "report_pins", "2")
    run = world.start("10")
    wait_for("polls", lambda: len(polls(old)) >= 2)
    error = world.espcli("register", new.address, "porch", code=1)
    assert "--replace" in error
    world.espcli("register", new.address, "porch", "--replace")
    asked = len(polls(new))
    wait_for("polls", lambda: len(polls(new)) >= asked + 2)
    told = world.device("porch")
    assert (told["id"], told["address"], told["report_pins"]) == (new.id, new.address, [2])
    with world.client() as client:
        assert _keys_with(client, old.id) == [PASSWORDS]
    assert run.stop() == 0
    assert json.loads(world.espcli("--json", "ids")) == [{"name": "porch", "id": new.id}]
