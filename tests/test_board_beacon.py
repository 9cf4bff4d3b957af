"""Beacons: what is one, and who hears it."""

import asyncio
import json
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop
from hypothesis import example, given
from hypothesis import strategies as st

from espnet.board.beacon import MAX_BYTES, Beacon, decode
from espnet.board.listener import MOST_A_SECOND, Listener
from espnet.names import problem_with_address, problem_with_name

SAID = {
    "espnet": 1,
    "id": "a0b1c2d3e4f5",
    "name": "porch",
    "address": "192.168.1.20",
    "port": 80,
    "version": "0.2.0",
    "boot": "0123456789abcdef",
}
SOURCE = "192.168.1.20"
#: Where broadcasts on this machine's loopback go; nothing else reaches who listens here.
LOOPBACK = "127.255.255.255"


def datagram(**changes: Any) -> bytes:
    return json.dumps(SAID | changes).encode()


def test_a_board_s_beacon_is_understood() -> None:
    """Id, address, name, version and boot, as the board sent them."""
    said = Beacon("a0b1c2d3e4f5", "192.168.1.20", "porch", "0.2.0", "0123456789abcdef")
    assert decode(datagram(), SOURCE) == said
    assert decode(datagram(port=8080), SOURCE) == said._replace(address="192.168.1.20:8080")
    assert decode(datagram(new=["of", "tomorrow"]), SOURCE) == said
    bare = {"espnet": 1, "id": "a0b1c2d3e4f5", "address": SOURCE}
    assert decode(json.dumps(bare).encode(), SOURCE) == Beacon("a0b1c2d3e4f5", SOURCE)


@pytest.mark.parametrize("name", ["", "po rch", "-porch", "x" * 33, "pörch", "a\x1b[2J", "../x"])
def test_a_name_that_cannot_be_one_is_none(name: str) -> None:
    """The board is found all the same: it has an id."""
    found = decode(datagram(name=name, version=name + "!", boot="?"), SOURCE)
    assert found == Beacon("a0b1c2d3e4f5", SOURCE)


WRONG: list[bytes] = [
    b"",
    b"{}",
    b"null",
    b"[]",
    b"\xff\xfe",
    b"\0" * MAX_BYTES,
    b"[" * MAX_BYTES,
    datagram()[:-1],
    datagram() + b"x",
    datagram(more="x" * MAX_BYTES),
    datagram(more="x")[:-3] + b'\xff"}',
    *(datagram(espnet=value) for value in (0, 2, True, "1", None, 1.5)),
    *(datagram(id=value) for value in (None, 5, "", "a0b1c2d3e4f", "A0B1C2D3E4F5", "a" * 17)),
    *(datagram(id=value) for value in ("a0b1c2d3e4f5\n", "a0b1c2d3e4g5", "../../etc/pw", ["a"])),
    *(datagram(port=value) for value in (0, -1, 65_536, 80.5, "80", None, True, 10**30)),
    *(
        datagram(address=value)
        for value in ("", "192.168.1.21", "porch.lan", "192.168.1.020", None)
    ),
    *(
        datagram(address=value)
        for value in ("192.168.1.20:80", "[::1]", "192.168.1.20\0", 3232235796)
    ),
    *(datagram(**{field: 5}) for field in ("name", "version", "boot")),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: repr(wrong[:40]))
def test_what_is_not_a_beacon_is_none(wrong: bytes) -> None:
    """Sizes, types, ids, addresses: one that is off, and nothing of it is believed."""
    assert decode(wrong, SOURCE) is None


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "255.255.255.255", "224.0.0.251", "240.0.0.1", "127.0.0.1", "8.8.8.8"]
)
def test_an_address_is_that_of_who_says_it(address: str) -> None:
    """Nobody makes us call somebody else: not the internet, not this machine, not everybody."""
    assert decode(datagram(address=address), SOURCE) is None
    if not address.startswith(("127.", "8.")):
        assert decode(datagram(address=address), address) is None


def test_this_machine_s_own_boards_may_be_at_any_of_its_loopback_addresses() -> None:
    """Simulated boards; from outside no datagram comes that says so."""
    found = decode(datagram(address="127.9.0.1", port=8080), "127.0.0.1")
    assert found is not None
    assert found.address == "127.9.0.1:8080"


@given(st.binary(max_size=MAX_BYTES + 20))
@example(datagram())
def test_noise_is_no_beacon(noise: bytes) -> None:
    """Whatever comes, nothing is raised."""
    assert decode(noise, SOURCE) is None or noise == datagram()


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=40) | st.lists(st.integers())
EDGES = st.sampled_from([1, 80, "a0b1c2d3e4f5", SOURCE, "porch", "\x1b[2J", "é", "\ud800"])


@given(st.dictionaries(st.sampled_from(sorted(SAID)), VALUES | EDGES), st.integers(0, 10**9))
def test_what_passes_can_be_used(changes: dict[str, Any], cut: int) -> None:
    """A beacon that is believed to be one has an id that can be a key, and an address that can be called."""
    raw = datagram(**changes)
    for text in (raw, raw[: cut % (len(raw) + 1)]):
        found = decode(text, SOURCE)
        if found is not None:
            assert problem_with_name(found.id) is None
            assert problem_with_address(found.address) is None
            assert found.address.partition(":")[0] == SOURCE
            assert "".join(found).isprintable()


# --- the listener ---------------------------------------------------------------------------------


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Runs a coroutine on either loop."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run


@pytest.fixture
def mouth() -> Iterator[socket.socket]:
    """What sends to everybody on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
        mouth.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        yield mouth


def here(number: int) -> bytes:
    return datagram(address="127.0.0.1", port=number, id=f"{number:012x}")


async def until(
    holds: Callable[[], object], meanwhile: Callable[[], object] = lambda: None
) -> None:
    async with asyncio.timeout(20):
        while not holds():
            meanwhile()
            await asyncio.sleep(0.01)


def test_all_that_listen_hear_it(run: Any, mouth: socket.socket) -> None:
    """A daemon and a `discover` share the port, and so do two daemons; who has closed hears nothing more."""

    async def listen() -> None:
        ears: list[list[str]] = [[], [], []]
        listeners: list[Listener] = []
        port = 0
        for ear in ears:
            listener = Listener(f"{LOOPBACK}:{port}", lambda beacon, ear=ear: ear.append(beacon.id))
            listener.open()
            listeners.append(listener)
            port = listener.port
        mouth.sendto(here(7), (LOOPBACK, port))
        await until(lambda: all(ears))
        assert ears == [[f"{7:012x}"]] * 3
        listeners[0].close()
        listeners[0].close()
        mouth.sendto(here(8), (LOOPBACK, port))
        await until(lambda: [len(ear) for ear in ears] == [1, 2, 2])
        for listener in listeners[1:]:
            listener.close()

    run(listen())


def test_a_port_that_is_not_shared_is_an_error(run: Any, mouth: socket.socket) -> None:
    """So is an address that is not this machine's; and no socket is left behind."""
    mouth.bind((LOOPBACK, 0))

    async def listen() -> None:
        for address in (f"{LOOPBACK}:{mouth.getsockname()[1]}", "192.0.2.1:0"):
            listener = Listener(address, lambda _: None)
            with pytest.raises(OSError, match=r"in use|assign"):
                listener.open()
            listener.close()

    run(listen())


def test_a_flood_is_looked_at_in_portions(run: Any, mouth: socket.socket) -> None:
    """However fast it comes: in no tenth of a second more than two of the ten portions of a second."""
    portion = MOST_A_SECOND // 10

    async def listen() -> None:
        loop = asyncio.get_running_loop()
        times: list[float] = []
        listener = Listener(f"{LOOPBACK}:0", lambda _: times.append(loop.time()))
        listener.open()

        def flood() -> None:
            for number in range(1, 2 * portion):
                mouth.sendto(here(number), (LOOPBACK, listener.port))

        await until(lambda: len(times) > 6 * portion, flood)
        listener.close()
        two = zip(times, times[2 * portion :], strict=False)
        assert min(later - earlier for earlier, later in two) > 0.09

    run(listen())


def test_it_hears_on_after_noise(run: Any, mouth: socket.socket) -> None:
    """Noise takes nothing away for good."""

    async def listen() -> None:
        heard: list[str] = []
        listener = Listener(f"{LOOPBACK}:0", lambda beacon: heard.append(beacon.id))
        listener.open()
        for number in range(3 * MOST_A_SECOND):
            mouth.sendto(b"noise %d" % number, (LOOPBACK, listener.port))
        await until(lambda: heard, lambda: mouth.sendto(here(9), (LOOPBACK, listener.port)))
        assert set(heard) == {f"{9:012x}"}
        listener.close()

    run(listen())


def test_who_hears_may_close(run: Any, mouth: socket.socket) -> None:
    """In the middle of a portion, too."""

    async def listen() -> None:
        heard: list[str] = []

        def once(beacon: Beacon) -> None:
            heard.append(beacon.id)
            listener.close()

        listener = Listener(f"{LOOPBACK}:0", once)
        listener.open()
        for number in (1, 2, 3):
            mouth.sendto(here(number), (LOOPBACK, listener.port))
        await until(lambda: heard)
        assert heard == [f"{1:012x}"]

    run(listen())
