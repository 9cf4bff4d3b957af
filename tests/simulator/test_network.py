"""The scripted network and the board's time, seen by a program on the board and by the outside."""

import time

import pytest

from espnet.simulator import Board, SimulatorError

from .probing import Client, until

STATION = "import network\nw = network.WLAN(0)\nw.active(True)\nw.config(reconnects=0)\n"
HOME = {"ssid": "home", "password": "correct horse"}


@pytest.fixture(autouse=True)
def fresh(board: Board, client: Client):
    """Every test begins after a reset, and leaves the network and the time as they are by themselves."""
    yield
    board.set(wifi=True, address="127.0.0.1", ntp="good", dns="good", speed=1)
    board.reset()


@pytest.mark.parametrize(
    ("ssid", "key", "status"),
    [("home", "correct horse", 1010), ("home", "wrong", 202), ("away", "correct horse", 201)],
)
def test_a_station_joins_what_is_there(
    board: Board, client: Client, ssid: str, key: str, status: int
):
    """Only with the right password, and the status says what was wrong, as the chip's does."""
    board.set(wifi=[HOME])
    program = STATION + f"w.connect({ssid!r}, {key!r})\nr = [w.status(), w.isconnected()]"
    assert client.exec(program) == [status, status == 1010]
    assert board.network["ssid"] == ("home" if status == 1010 else None)
    assert "correct horse" not in str(board.network)


def test_a_driver_that_reconnects_never_says_why(board: Board, client: Client):
    """Unless it is told not to, the chip's driver tries for ever: STAT_CONNECTING."""
    board.set(wifi=[])
    program = STATION + "w.config(reconnects=-1)\nw.connect('home', 'x')\nr = w.status()"
    assert client.exec(program) == 1001
    board.set(wifi=True)
    assert client.exec("r = w.status()") == 1010


def test_an_address_can_change(board: Board, client: Client):
    """The network gives another address, and the board sees it; a static one is its own."""
    client.exec(STATION + "w.connect('home', 'x')")
    assert client.exec("r = w.ifconfig()[0]") == "127.0.0.1"
    board.set(address="127.0.0.9")
    assert client.exec("r = w.ifconfig()[0]") == "127.0.0.9"
    four = ["10.0.0.2", "255.0.0.0", "10.0.0.1", "10.0.0.3"]
    assert client.exec(f"w.ifconfig({tuple(four)})\nr = w.ifconfig()") == four
    assert board.network["static"]["gateway"] == "10.0.0.1"


def test_an_access_point_is_seen(board: Board, client: Client):
    """Its name and how it is protected; one that is protected by nothing is refused."""
    program = (
        "import network\na = network.WLAN(1)\n"
        "a.config(ssid='mine', key='12345678', security=3)\na.active(True)"
    )
    client.exec(program)
    assert board.network["ap"] == {"ssid": "mine", "authmode": 3}
    client.exec("a.active(False)")
    assert board.network["ap"] is None
    with pytest.raises(RuntimeError, match="OSError"):
        client.exec("a.config(key='short', security=3)")


def test_time_passes_as_fast_as_it_is_told(board: Board, client: Client):
    """Ticks, sleep and asyncio go by the board's time, which never goes back."""
    client.exec(
        "import asyncio, time\n"
        "async def count():\n"
        "    global n\n"
        "    while True:\n"
        "        await asyncio.sleep(60)\n"
        "        n += 1\n"
        "n = 0\n"
        "asyncio.create_task(count())"
    )
    before = client.exec("r = time.ticks_ms()")
    board.set(speed=600)
    until(lambda: client.exec("r = n") >= 5, "five minutes pass")
    passed = client.exec("r = time.ticks_ms()") - before
    assert passed >= 300_000
    assert client.exec("t = time.ticks_ms()\ntime.sleep(30)\nr = time.ticks_ms() - t") >= 30_000
    board.set(speed=1)
    later = client.exec("r = time.ticks_ms()") - before
    assert later >= passed
    assert board.describe()["speed"] == 1


def test_the_boards_time_can_be_read(board: Board):
    """`time_s` passes at the speed and does not jump when that changes."""
    first = board.time_s
    board.set(speed=1000)
    second = board.time_s
    time.sleep(0.01)
    third = board.time_s
    board.set(speed=1)
    fourth = board.time_s
    assert first <= second <= third - 10 <= fourth - 10


def test_a_fast_boards_watchdog_leaves_it_a_turn(board: Board, client: Client):
    """At any speed a board that is fed every half second lives, and one that hangs is reset."""
    client.exec(
        "import asyncio\n"
        "w = machine.WDT(timeout=5000)\n"
        "async def feed():\n"
        "    while True:\n"
        "        await asyncio.sleep_ms(500)\n"
        "        w.feed()\n"
        "asyncio.create_task(feed())"
    )
    boots = board.boots
    board.set(speed=600)
    ends = board.time_s + 600
    until(lambda: board.time_s > ends, "ten minutes pass")
    assert board.boots == boots
    client.http.request("POST", "/exec", "while True: pass")
    until(lambda: board.boots > boots, "the watchdog's reset", 30)
    board.wait_ready()
    assert board.reset_cause == "watchdog"


def test_the_chips_clock_begins_in_2000(board: Board, client: Client):
    """A clock that got power anew shows 2000; it can be set, and keeps that over a reset."""
    board.power(False)
    board.power(True)
    assert client.exec("r = machine.RTC().datetime()[0]") == 2000
    client.exec("machine.RTC().datetime((2030, 1, 2, 0, 3, 4, 5, 0))")
    assert client.exec("r = machine.RTC().datetime()[:5]")[:3] == [2030, 1, 2]
    board.reset()
    client.close()
    assert client.exec("r = machine.RTC().datetime()[0]") == 2030


def test_datagrams_stay_on_the_board(board: Board, client: Client):
    """Nobody hears what a board sends, and nothing answers but the scripts."""
    program = (
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.setblocking(False)\n"
        "s.sendto(b'hello', socket.getaddrinfo('127.0.0.1', 9)[0][-1])\n"
        "try: r = s.recv(9)\n"
        "except OSError as e: r = e.errno"
    )
    client.exec(STATION + "w.connect('home', 'x')\nw.isconnected()")
    assert client.exec(program) == 11


def test_what_no_network_is_like_is_refused(board: Board):
    """A script that makes no sense changes nothing."""
    for values in (
        {"wifi": "home"}, {"wifi": [HOME] * 9}, {"wifi": [{"ssid": ""}]}, {"wifi": [{"name": "a"}]},
        {"wifi": [{"ssid": "x" * 33}]}, {"address": "home"}, {"ntp": "late"}, {"dns": 1},
        {"speed": 0}, {"speed": 3601}, {"speed": "fast"},
    ):  # fmt: skip
        with pytest.raises(SimulatorError):
            board.set(**{"rssi": -1, **values})
    assert board.describe()["speed"] == 1
