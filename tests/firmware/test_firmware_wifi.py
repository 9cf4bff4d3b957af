"""The board and its network: it finds one, keeps to it, comes back to it, and never restarts for it."""

from typing import Any

from espnet.simulator.fleet import Board

from .firmware_client import ask, until
from .networking import GARDEN, HOME, joined, pass_time, put, tells_no_secret


def network(board: Board) -> dict[str, Any]:
    """What the board tells people about its network."""
    answer = ask(board, "GET", "/details")
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json["wifi"]
    return found


def start(make_board, points: list[dict[str, str]] | bool, **settings: Any) -> Board:
    """A board with these settings, booted where there are these access points."""
    board: Board = make_board()
    board.power(False)
    put(board, settings)
    board.set(wifi=points)
    board.power(True)
    return board


def test_an_hour_without_wifi_while_a_lease_runs(make_board) -> None:
    """Wi-Fi lost for an hour: the lease ends on time, the board is back when the network is, and it has
    not been reset."""
    board = start(make_board, [HOME], wifi=[HOME])
    joined(board, "home")
    boots = board.boots
    body = {"pin": 4, "value": 1, "lease_s": 1800}
    assert ask(board, "POST", "/gpio", body).status == 200
    board.set(wifi=[])
    board.fault("refuse")
    leased_s = board.time_s
    pass_time(board, 29)
    assert board.network["ssid"] is None
    # Whoever looks later than the end of the lease cannot tell whether it was kept until then.
    level = board.pin(4).level
    assert level == 1 or board.time_s >= leased_s + 1800
    pass_time(board, 31)
    assert board.pin(4).level == 0
    board.clear()
    board.set(wifi=[HOME], speed=60)
    joined(board, "home")
    board.set(speed=1)
    status = ask(board, "GET", "/").json
    assert (status["leases"], status["leases_expired"]) == ({}, 1)
    assert status["uptime_s"] >= 3600
    assert board.boots == boots
    assert "lost home" in board.console
    assert "Traceback" not in board.console


def test_a_lease_is_never_cut_short(make_board) -> None:
    """However fast the board's time passes, a pin is on at least as long as its lease."""
    board = start(make_board, False)
    board.set(speed=60)
    began_s = board.time_s
    assert ask(board, "POST", "/gpio", {"pin": 4, "value": 1, "lease_s": 120}).status == 200
    until(lambda: board.pin(4).level == 0)
    assert board.time_s - began_s >= 120
    assert board.boots == 2  # the second is the test's own


def test_a_wrong_password_costs_no_more_than_the_next_network(make_board) -> None:
    """A wrong password and a network that is not there are told apart, in the console and to people; the
    board is in the next one. Nothing tells a password."""
    wrong = {"ssid": "home", "password": "not the right one"}
    away = {"ssid": "Änne's", "password": "for the phone"}
    board = start(make_board, [HOME, GARDEN], wifi=[wrong, away, GARDEN])
    joined(board, "garden")
    until(lambda: network(board)["ssid"] == "garden")
    found = network(board)
    assert found["failed"] == {"home": "wrong password", "Änne's": "not found"}
    assert found["address"] == "127.0.0.1"
    assert "wifi: home wrong password" in board.console
    assert "wifi: Änne's not found" in board.console
    tells_no_secret(board)


def test_no_memory_to_look_for_a_network(make_board) -> None:
    """Clients at the board's own access point may have all memory just when it looks for a network: it looks
    again later, and that is no crash."""
    full = (
        "import asyncio\n",
        "import asyncio\nimport os\nif 'full' in os.listdir():\n    print('full')\n"
        "    raise MemoryError('nothing left')\n",
    )
    board = make_board(replace={"joining.py": [full]})
    (board.flash / "full").touch()
    put(board, {"wifi": [HOME]})
    board.set(wifi=[HOME])
    board.reset()
    until(lambda: board.console.count("full") > 1)
    (board.flash / "full").unlink()
    joined(board, "home")
    assert "Traceback" not in board.console
    assert ask(board, "GET", "/details").json["crash"] is None


def test_networks_are_tried_in_order(make_board) -> None:
    """The first network of the list that is there is the one; when it goes, the next one takes over."""
    board = start(make_board, [GARDEN, HOME], wifi=[HOME, GARDEN], country="AT", hostname="porch")
    joined(board, "home")
    assert board.network["country"] == "AT"
    assert board.network["hostname"] == "porch"
    board.set(wifi=[GARDEN], speed=20)
    joined(board, "garden")
    assert board.boots == 2


def test_a_static_address_is_used(make_board) -> None:
    """With an address in the settings the board asks nobody for one."""
    static = {"ip": "10.1.2.3", "mask": "255.255.255.0", "gateway": "10.1.2.1", "dns": "10.1.2.2"}
    board = start(make_board, [HOME], wifi=[HOME], address=static, hostname="porch")
    joined(board, "home")
    assert board.network["static"] == {
        "address": "10.1.2.3", "mask": "255.255.255.0", "gateway": "10.1.2.1", "dns": "10.1.2.2"
    }  # fmt: skip
    until(lambda: network(board)["address"] == "10.1.2.3")


def test_an_access_point_after_five_minutes(make_board) -> None:
    """Five minutes without a network open a protected access point; a minute in a network closes it."""
    board = start(make_board, [], wifi=[HOME], ap={"password": "for the phone"})
    pass_time(board, 4, speed=60)  # no faster: the minute that is left is our own slowness's
    assert board.network["ap"] is None
    pass_time(board, 2)
    until(lambda: board.network["ap"] == {"ssid": f"espnet-{board.id[-6:]}", "authmode": 3})
    until(lambda: network(board)["ap"] == f"espnet-{board.id[-6:]}")
    assert "access point" in str(ask(board, "GET", "/details").json["notices"])
    tells_no_secret(board)
    board.set(wifi=[HOME], speed=20)
    joined(board, "home")
    until(lambda: board.network["ap"] is None)
    board.set(speed=1)
    assert network(board)["ap"] is None
    assert board.boots == 2


def test_without_a_password_there_is_no_access_point(make_board) -> None:
    """A board that was given no password for it never opens one."""
    board = start(make_board, [], wifi=[HOME])
    pass_time(board, 15)
    assert board.network["ap"] is None
    assert "access point" not in board.console


def test_the_good_settings_networks_are_tried_too(make_board) -> None:
    """A board whose newest networks are all gone is found in the old one after five minutes; the newest
    settings do not count as proved by that, and after ten the old ones are back."""
    board: Board = make_board()
    board.power(False)
    put(board, {"wifi": [GARDEN], "hostname": "new"})
    put(board, {"wifi": [HOME], "hostname": "old"}, "settings.good.json")
    board.set(wifi=[HOME])
    board.power(True)
    pass_time(board, 6)
    board.set(speed=30)
    joined(board, "home")
    boots = board.boots
    board.set(speed=1)
    assert ask(board, "GET", "/details").json["name"] == "new"
    board.set(speed=100)
    until(lambda: board.boots == boots + 1, 30)
    board.wait_ready()
    board.set(speed=1)
    found = ask(board, "GET", "/details").json
    assert found["name"] == "old"
    assert "put aside" in str(found["notices"])
    assert (board.flash / "settings.bad.json").exists()


def test_a_radio_that_fails_is_switched_on_again(make_board) -> None:
    """An exception of the driver ends nothing: the task starts anew, and the board gets its network."""
    line = "    radio.active(True)\n"
    broken = line + "    if clock.now_ms() < 3000:\n        raise OSError('Wifi Internal Error')\n"
    board = make_board({"wifi.py": [(line, broken)]})
    board.power(False)
    put(board, {"wifi": [HOME]})
    board.set(wifi=[HOME])
    board.power(True)
    joined(board, "home")
    assert "Wifi Internal Error" in board.console
