"""A board whose firmware is from 2021 is a device like any other."""

import time
from collections.abc import Iterator

import pytest
from board_2021 import Board2021

from .world import World, wait_for


@pytest.fixture
def porch(world: World) -> Iterator[Board2021]:
    """A registered board of 2021."""
    with Board2021() as board:
        world.espcli("register", board.address, "porch")
        yield board


def test_it_is_polled_like_any_other(world: World, porch: Board2021) -> None:
    """The collector polls it, opens a connection each time because the board closes each, reads its
    sensor and samples what there is; what it does not know shows as unknown."""
    world.espcli("device", "porch", "add_dht22", "air", "4")
    world.espcli("device", "porch", "report_pins", "2")
    porch.gpio[2] = 1
    run = world.start("10")
    wait_for("climates", lambda: [path for _, path, _ in porch.requests].count("/dht22") >= 3)
    told = world.device("porch")
    assert (told["state"], told["id"], told["problem"]) == ("online", porch.id, None)
    assert (told["f"], told["gpio"]["2"], told["pins_high"]) == (127.4, 1, [2])
    assert told["readings"] == {"air": {"temp": 21.5, "humidity": 40.0}}
    assert (told["boot"], told["uptime_s"], told["version"]) == (None, None, None)
    assert ("POST", "/dht22", {"read_pin": "4"}) in porch.requests
    assert run.stop() == 0
    assert not run.events("board.lost")
    assert porch.connections == len(porch.requests)
    points = {
        (metric, value, own) for batch in world.samples() for metric, value, own in batch.points
    }
    assert {
        ("esp32.up", 1, ()),
        ("esp32.f", 127.4, ()),
        ("esp32.gpio", 1, ("pin:2",)),
        ("esp32.dht22.humidity", 40.0, ("sensor:air",)),
    } <= points
    world.require_balance()


def test_it_works_with_every_direct_call(world: World, porch: Board2021) -> None:
    """Each word after `requests` does what it says, with form bodies, and shows the board's answer."""

    def ask(*words: str) -> dict[str, object]:
        told: dict[str, object] = world.json("device", "porch", "requests", *words)
        return told

    basic = ask("get_basic")
    assert (basic["id"], basic["f"], basic["espnet_host"]) == (porch.id, 127.4, "")
    assert basic["gpio"] == {str(pin): 0 for pin in porch.gpio}
    assert ask("set_gpio", "4,5", "1")["gpio"] == {"4": 1, "5": 1}
    assert ask("flip_gpio", "5")["gpio"] == {"5": 0}
    assert (porch.gpio[4], porch.gpio[5]) == (1, 0)
    assert ask("get_adc", "36", "--samples", "3")["data"] == [1843] * 3
    assert ask("get_adc", "36", "--power_pin", "25")["data"] == [1843]
    assert porch.requests[-1][2]["power_pin"] == "25"
    assert ask("get_dht22", "4") == {"id": porch.id, "temp": 21.5, "humidity": 40.0}
    ask("set_host", "192.168.1.2")
    assert porch.espnet_host == "192.168.1.2"
    assert "HTTP 500" in world.espcli("device", "porch", "requests", "set_gpio", "11", "1", code=1)


def test_the_words_of_2021_work_on_it(world: World, porch: Board2021) -> None:
    """`update - get_f`, `get_f`, `is_online` and `devices` say what the board said."""
    porch.f = 98.6
    world.espcli("device", "porch", "interval", "60")  # what was read is not stale meanwhile
    assert world.espcli("device", "porch", "update", "-", "get_f") == "98.6\n"
    assert world.espcli("device", "porch", "get_f") == "98.6\n"
    assert world.espcli("is_online", "porch") == "True\n"
    assert "porch" in world.espcli("devices")


def test_it_goes_and_comes_back(world: World, porch: Board2021) -> None:
    """Switched off it is offline with a reason; another board in its place is not taken for it; when it
    is back it is online by itself."""
    run = world.start("10")
    wait_for("polls", lambda: len(porch.requests) >= 3)
    port, board_id = porch.port, porch.id
    with world.store() as store:

        def is_offline(kind: str) -> bool:
            view = store.view("porch")
            fault = view.fault.kind if view.fault else None
            return view.state(time.time()) == "offline" and fault == kind

        porch.__exit__()
        wait_for("it is offline", lambda: is_offline("refused"))
        with Board2021("240ac4999999", port):
            wait_for("it is another one", lambda: is_offline("wrong_id"))
            assert "240ac4999999" in world.device("porch")["problem"]
        with Board2021(board_id, port):
            wait_for("it is online", lambda: world.state(store, "porch") == "online")
            assert world.device("porch")["problem"] is None
            assert run.stop() == 0
