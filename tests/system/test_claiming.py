"""A board can be controlled by who gave the last order, whatever was cut off: end to end."""

import itertools
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest
from claiming import flash, is_controlled_by, place_of, switch

from espnet.cli import claiming
from espnet.cli.session import Session
from espnet.simulator import Board

from . import forked
from .governing import PIN, SLACK_S, add_timer, wait_level, wait_polls
from .world import World, gaps, polls, wait_for


def password_of(world: World, name: str) -> str:
    """What a person is shown."""
    told = world.espcli("device", name, "credentials", "show")
    return dict(line.split(": ", 1) for line in told.splitlines())["password"]


def forget_locks(world: World) -> None:
    """As if their time had come: who was killed does not give his back."""
    with world.client() as client:
        for lock in client.scan_iter("espnet:lock:*"):
            client.delete(lock)


def require_control(world: World, board: Board, name: str) -> None:
    assert is_controlled_by(board, password_of(world, name))


# --- who gives the order dies ---------------------------------------------------------------------


def test_a_register_that_is_killed_anywhere_is_repeated(world: World, board: Board) -> None:
    """After each of its steps: what the board has, Redis has; repeating the command ends well."""
    words, seen = ("register", board.address, "porch"), []
    for step in itertools.count(1):
        with world.client() as client:
            client.flushall()
        board.unclaim()
        if not world.killed(*words, after=step):
            break
        with world.store() as store:
            seen.append((place_of(board, store), bool(store.credential(board.id).passwords)))
        forget_locks(world)
        world.espcli(*words)
        require_control(world, board, "porch")
    assert set(seen) == {(-1, False), (-1, True), (0, True)}
    require_control(world, board, "porch")


def test_a_rotation_that_is_killed_anywhere_is_repeated(world: World, board: Board) -> None:
    """After each of its steps: one of the passwords that are kept opens the board, before and after."""
    world.espcli("register", board.address, "porch")
    words, seen = ("device", "porch", "credentials", "rotate"), []
    for step in itertools.count(1):
        before = flash(board)
        if not world.killed(*words, after=step):
            break
        with world.store() as store:
            seen.append((place_of(board, store), flash(board) != before))
        forget_locks(world)
        # Whatever the board has now, it is controlled without anybody's doing anything.
        world.espcli("device", "porch", "requests", "set_gpio", str(PIN), "0")
        world.espcli(*words)
        assert flash(board) != before
        require_control(world, board, "porch")
    # The old one in force, the new one not yet known to be, the new one in force.
    assert set(seen) == {(0, False), (1, True), (0, True)}


def test_a_password_that_is_to_be_forgotten_is_gone_however_often_it_takes(
    world: World, board: Board
) -> None:
    """`unregister --forget`, killed anywhere and repeated, leaves no password."""
    words = ("unregister", "porch", "--forget")
    for step in itertools.count(1):
        world.espcli("register", board.address, "porch")
        is_killed = world.killed(*words, after=step)
        if is_killed and world.json("ids"):
            world.espcli(*words)
        with world.store() as store:
            assert store.all_credentials() == {}
        board.unclaim()
        if not is_killed:
            break
    assert step > 1


# --- the way is cut -------------------------------------------------------------------------------


class Way(socketserver.ThreadingTCPServer):
    """The way to a board, on which one answer is lost: the connection ends, or nothing comes at all."""

    daemon_threads = True

    def __init__(self, board: Board) -> None:
        super().__init__(("127.0.0.1", 0), _Traveller)
        self.board, self.lost, self.hangs, self.answers = board, 0, False, 0
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.go_on = threading.Event()

    def lose(self, number: int, hangs: bool = False) -> None:
        """The answer of this number from now on is lost; 0: none."""
        self.lost, self.hangs, self.answers = number, hangs, 0


class _Traveller(socketserver.BaseRequestHandler):
    server: Way

    def handle(self) -> None:
        way = self.server
        with socket.create_connection(("127.0.0.1", way.board.port)) as there:
            back = threading.Thread(target=self._back, args=(there,))
            back.start()
            try:
                while data := self.request.recv(65536):
                    there.sendall(data)
                there.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the other end is gone
            back.join()

    def _back(self, there: socket.socket) -> None:
        """A board sends each answer in one piece."""
        way = self.server
        try:
            while data := there.recv(65536):
                way.answers += 1
                if way.answers == way.lost:
                    if way.hangs:
                        way.go_on.wait(10)
                    break
                self.request.sendall(data)
            self.request.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end is gone


@pytest.fixture
def way(board: Board, world: World, hangs: bool) -> Iterator[Way]:
    """What is not lost arrives: patience is short only where it is what ends the wait for an answer."""
    world.environ["ESPNET_TIMEOUT"] = "2" if hangs else "10"
    with Way(board) as way:
        thread = threading.Thread(target=way.serve_forever, args=(0.01,))
        thread.start()
        yield way
        way.go_on.set()
        way.shutdown()
        thread.join()


@pytest.fixture
def board(boards: list[Board]) -> Board:
    return boards[0]


def attempt(world: World, *words: str) -> bool:
    """Whether a command succeeded that may fail."""
    done = forked.run(words, world.environ, world.folder / "tmp", timeout_s=60)
    assert done.returncode in (0, 1), done
    assert "Traceback" not in done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("hangs", [False, True], ids=["closed", "silent"])
def test_a_register_whose_answers_get_lost_is_repeated(
    hangs: bool, world: World, board: Board, way: Way
) -> None:
    """Each one in turn: it fails and says so, or it succeeds; repeated, it succeeds."""
    words = ("register", way.address, "porch")
    for number in itertools.count(1) if not hangs else (3, 5):
        with world.client() as client:
            client.flushall()
        board.unclaim()
        way.lose(number, hangs)
        is_done = attempt(world, *words)
        way.go_on.set()
        with world.store() as store:
            place_of(board, store)
            assert is_done == (way.answers < number)
            assert is_done or store.devices() == []
        way.lose(0)
        way.go_on.clear()
        if is_done:
            break
        world.espcli(*words)
        require_control(world, board, "porch")
    assert number >= 5


@pytest.mark.parametrize("hangs", [False, True], ids=["closed", "silent"])
def test_a_rotation_whose_answers_get_lost_is_repeated(
    hangs: bool, world: World, board: Board, way: Way
) -> None:
    """Each one in turn: the board has a password that is kept, is controlled by it at once, and takes a new
    one the next time."""
    world.espcli("register", way.address, "porch")
    words = ("device", "porch", "credentials", "rotate")
    for number in itertools.count(1) if not hangs else (4, 6):
        before = flash(board)
        way.lose(number, hangs)
        is_done = attempt(world, *words)
        way.go_on.set()
        with world.store() as store:
            place_of(board, store)
        if is_done:
            require_control(world, board, "porch")
            assert flash(board) != before
        if way.answers < number:
            break
        way.lose(0)
        way.go_on.clear()
        world.espcli("device", "porch", "requests", "set_gpio", str(PIN), "0")
        world.espcli(*words)
        require_control(world, board, "porch")
    assert number >= 6


FAULTS = ("hang_body", "http_500", "truncated", "rst", "reset")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_board_that_fails_while_it_is_claimed_or_changed_is_not_lost(
    fault: str, world: World, board: Board
) -> None:
    """Before or after it has taken the password: repeated when it answers, both commands end well."""
    rotate = ("device", "porch", "credentials", "rotate")
    for words in (("register", board.address, "porch"), rotate):
        board.fault(fault, count=1, path="/claim")
        attempt(world, *words)
        board.clear()
        with world.store() as store:
            place_of(board, store)
        wait_for("it answers", lambda words=words: attempt(world, *words))
    require_control(world, board, "porch")


@pytest.mark.parametrize(
    ("setting", "value"), [("maxmemory", 1), ("min-replicas-to-write", 1)], ids=["full", "alone"]
)
def test_a_redis_that_takes_nothing_costs_no_board_its_password(
    setting: str, value: int, world: World, board: Board
) -> None:
    """No board is told of a password that Redis did not take: exit code 3, and all is as it was."""

    def is_refused(*words: str) -> None:
        with world.client() as client:
            before = client.config_get(setting)[setting]
            client.config_set(setting, value)
            try:
                said = world.espcli(*words, code=3)
            finally:
                client.config_set(setting, before)
        assert "Redis at " in said
        assert "passwords" not in said

    is_refused("register", board.address, "porch")
    assert flash(board) is None
    world.espcli("register", board.address, "porch")
    before, password = flash(board), password_of(world, "porch")
    is_refused("device", "porch", "credentials", "rotate")
    assert (flash(board), password_of(world, "porch")) == (before, password)
    require_control(world, board, "porch")


# --- under a collector ----------------------------------------------------------------------------


def test_twenty_rotations_under_a_collector_lose_no_poll(
    world: World, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in force at the very next poll: polls, leases and pins go on, nothing is denied or lost; the last
    password, and no other, is what is shown and what opens the board."""
    world.environ["ESPNET_INTERVAL"] = "0.1"
    world.espcli("register", board.address, "porch")
    add_timer(world, "porch", "lamp", PIN)
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    run = world.start("50")
    wait_level(board, 1)
    wait_polls(board)
    since_s = time.monotonic()
    passwords = []
    with world.store() as store:
        for _ in range(20):
            claiming.rotate(Session(), "porch", private=None)
            wait_polls(board)
            assert board.pin(PIN).level == 1
            passwords.append(store.credential(board.id).passwords[0].reveal())
    until_s = time.monotonic()
    assert len(set(passwords)) == 20
    assert (
        max(gaps(board, since_s, until_s)) < 1.0 + SLACK_S
    )  # who finds a lock looks again in a second
    assert all(poll.status == 200 for poll in polls(board, since_s))
    told = world.device("porch")
    assert (told["access"], told["state"], told["problem"]) == ("claimed", "online", None)
    assert told["leases"][str(PIN)]["left_s"] > 10
    assert told["leases_expired"] == 0
    password = password_of(world, "porch")
    assert password == passwords[-1]
    assert switch(board, password) == 200
    assert [switch(board, old) for old in passwords[:-1]].count(200) == 0
    assert run.stop() == 0
    events = [event["event"] for event in run.events()]
    assert set(events) <= {"collector.started", "collector.stopped", "uploads.off", "pin.set"}
    assert events.count("pin.set") == 1
