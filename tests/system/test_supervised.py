"""`espcli run` as a service: what its manager hears, and what restarts it."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet.simulator import Board

from . import forked
from .world import World, polls, wait_for


class Manager:
    """The end at which a service manager listens."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def listen(self) -> list[str]:
        """Everything that was said until now, in order."""
        while True:
            try:
                self.heard.append(self._socket.recv(512).decode())
            except BlockingIOError:
                return self.heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Manager]:
    name = f"@espnet-{os.getpid()}" if request.param == "abstract" else str(short_path / "notify")
    manager = Manager(name)
    yield manager
    manager.close()


def test_the_manager_hears_that_it_is_ready_that_it_lives_and_that_it_stops(
    world: World, boards: list[Board], manager: Manager
) -> None:
    """Ready comes after the first polls, once; the sign of life again and again, also where nobody is to be
    polled; stopping comes last. A process that hangs says nothing more."""
    world.register(boards[0])
    run = world.start("10", NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="300000")
    wait_for("ready", lambda: "READY=1" in manager.listen())
    wait_for("signs of life", lambda: manager.listen().count("WATCHDOG=1") > 3)
    assert polls(boards[0])
    run.send(signal.SIGSTOP)
    wait_for(
        "silence", lambda: Path(f"/proc/{run.pid}/stat").read_text().rpartition(")")[2][1] == "T"
    )
    before = len(manager.listen())
    time.sleep(0.5)
    assert len(manager.listen()) == before
    run.send(signal.SIGCONT)
    assert run.stop() == 0
    heard = manager.listen()
    assert heard[-1] == "STOPPING=1"
    assert set(heard) == {"READY=1", "WATCHDOG=1", "STOPPING=1"}
    assert heard.count("READY=1") == heard.count("STOPPING=1") == 1


def test_no_manager_and_one_that_is_gone_are_no_trouble(
    world: World, boards: list[Board], manager: Manager
) -> None:
    """Without a socket, with one where nobody listens, or with a watch on another process, it just works."""
    world.register(boards[0])
    other = {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1", "NOTIFY_SOCKET": manager.address}
    for settings in ({}, {"NOTIFY_SOCKET": "/nonexistent/notify"}, other):
        run = world.start("10", **settings)
        since_s = time.monotonic()
        wait_for("polls", lambda since_s=since_s: len(polls(boards[0], since_s)) > 1)
        assert run.stop() == 0
    assert manager.listen() == ["READY=1", "STOPPING=1"]


def test_the_health_check_judges_this_machines_collectors_only(
    world: World, boards: list[Board]
) -> None:
    """`espcli doctor --here`: 0 while a collector of this host claims, whatever boards and sinks do; 1 where
    none does, other hosts' do not count; 3, and not 1, while Redis cannot be asked."""
    world.register(boards[0])
    assert "no collector at work" in _told(world, 1)
    with world.client() as client:
        client.zadd("espnet:collectors", {"collector@elsewhere:1:abc": time.time()})
    assert "no collector at work" in _told(world, 1)
    run = world.start("10")
    boards[0].fault("refuse")
    run.wait_for_event("board.lost")
    assert "a collector at work" in _told(world, 0)
    told = world.json("doctor", "--here")
    assert (told["is_well"], told["exit_code"], told["host"]) == (True, 0, socket.gethostname())
    assert [one["name"] for one in told["collectors"]] == [run.holder]
    assert run.stop() == 0
    assert "no collector at work" in _told(world, 1)
    with world.client() as client:
        # One that hangs, or was killed, is known by its age.
        client.zadd("espnet:collectors", {run.holder: time.time() - 121})
    assert "no collector at work" in _told(world, 1)
    nowhere = {"REDIS_URL": f"unix://{world.folder}/nothing.sock"}
    assert "cannot be told" in _told(world, 3, **nowhere)


def _told(world: World, code: int, **settings: str) -> str:
    words, folder = ("doctor", "--here"), world.folder / "tmp"
    done = forked.run(words, world.environ | settings, folder, timeout_s=60)
    assert done.returncode == code, done
    return done.stdout
