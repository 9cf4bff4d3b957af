"""Light boards as tests and people handle them: faults, power, notebooks, control socket, limits.

That they answer as the firmware does is `test_light_contract.py`'s.
"""

import contextlib
import http.client
import json
import resource
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from firmware.firmware_client import WRITABLE, ask, connect, raw, receive, statuses, until

from espnet.board import beacon
from espnet.clock import ManualClock
from espnet.simulator import Control, SimulatorError
from espnet.simulator.light import LightBoard, LightFleet, LightHandle


@pytest.fixture(scope="module")
def fleet() -> Iterator[LightFleet]:
    with LightFleet(3, seed=5, with_control=True) as fleet:
        yield fleet


@pytest.fixture
def board(fleet: LightFleet) -> Iterator[LightHandle]:
    """The fleet's first board, new and without faults."""
    board = fleet[0]
    board.reset()
    board.forget_requests()
    yield board
    board.clear()
    board.power(True)
    board.set(latency_s=0, mem_free=26000, busy=False)
    assert board.console == "", "the firmware failed"


def wire(board: LightHandle, timeout_s: float = 0.5) -> contextlib.closing[Any]:
    return contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", board.port, timeout=timeout_s)
    )


def get(connection: http.client.HTTPConnection, path: str = "/") -> tuple[int, bytes]:
    connection.request("GET", path)
    with connection.getresponse() as answer:
        return answer.status, answer.read()


def post(connection: http.client.HTTPConnection) -> bytes:
    """Asks for pin 4 to go high."""
    connection.request("POST", "/gpio", b"pin=4&value=1")
    with connection.getresponse() as answer:
        return answer.read()


# The notebook


def test_the_log_tells_who_asked_what_and_when(board: LightHandle) -> None:
    """Each request is noted with its times, its connection, its fence and its answer."""
    with wire(board) as connection:
        get(connection)
        get(connection, "/?fence=7")
    ask(board, "POST", "/gpio", {"pin": 4, "value": 1, "fence": 6})
    first, second, third = board.requests
    assert (first.method, first.path, first.status, first.fence) == ("GET", "/", 200, 0)
    assert (second.path, second.fence, second.connection) == ("/?fence=7", 7, first.connection)
    assert (third.method, third.status, third.fence) == ("POST", 409, 6)
    assert third.connection == first.connection + 1
    assert third.peer != first.peer == second.peer
    for entry in (first, second, third):
        assert entry.answered_s is not None
        assert entry.ended_s is not None
        assert entry.at_s <= entry.at_s + entry.answered_s <= entry.ended_s
        assert entry.overlap == 0
        assert entry.left_s is None
    assert first.ended_s is not None
    assert first.ended_s <= second.at_s


@pytest.mark.parametrize("how", ["closes", "resets"])
def test_the_log_tells_when_a_client_went_before_its_answer(board: LightHandle, how: str) -> None:
    """The request is carried out all the same; what was answered before is nobody's leaving."""
    board.set(latency_s=0.5)
    with connect(board) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")
        until(lambda: board.requests, 3)
        if how == "resets":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: board.requests[0].answered_s, 3)
    (entry,) = board.requests
    assert entry.status == 200
    assert entry.left_s is not None
    assert entry.at_s < entry.left_s < entry.at_s + (entry.answered_s or 0)


def test_pin_changes_say_why(board: LightHandle) -> None:
    """A write, a lease's end, a measurement, a reset; what changes nothing is no change."""
    ask(board, "POST", "/gpio", {"pin": [4, 5], "value": 1, "lease_s": 1})
    ask(board, "POST", "/gpio", {"pin": 5, "value": 1})
    until(lambda: board.pin(4).level == 0, 3)
    ask(board, "POST", "/adc", {"read_pin": 36, "power_pin": 12, "samples": 1})
    board.reset()
    told = [(change.pin, change.level, change.why) for change in board.changes]
    assert told == [
        (4, 1, "request"),
        (5, 1, "request"),
        (4, 0, "lease"),
        (12, 1, "measurement"),
        (12, 0, "measurement"),
        (5, 0, "reset"),
    ]
    on, _, off = board.changes[:3]
    assert on.request == board.requests[0].number
    assert off.request is None
    assert 1 <= off.at_s - on.at_s < 2.5  # at its end, and within a second after it


def test_the_log_is_bounded_and_its_numbers_go_on() -> None:
    """A board remembers its last requests and changes, as many as were asked for."""
    with LightFleet(1, log=4) as fleet:
        for n in range(10):
            ask(fleet[0], "POST", "/gpio", {"pin": 4, "value": n % 2})
        assert [entry.number for entry in fleet[0].requests] == [6, 7, 8, 9]
        assert len(fleet[0].changes) == 4
        assert fleet[0].changes[-1].request == 9


def test_renewed_leases_hold_and_forgotten_ones_end() -> None:
    """A poll with the fence begins leases anew; without one they end by themselves."""
    clock = ManualClock()
    with LightFleet(1, clock=clock) as fleet:
        board = fleet[0]
        ask(board, "POST", "/gpio", {"pin": 4, "value": 1, "lease_s": 20, "fence": 9})
        for _ in range(3):
            clock.advance(15)
            assert ask(board, "GET", "/?fence=9").json["leases"]["4"]["left_s"] == 20
        clock.advance(15)
        assert ask(board, "GET", "/?fence=8").json["leases"]["4"]["left_s"] == 5
        clock.advance(6)
        status = until(lambda: (now := ask(board, "GET", "/").json)["leases_expired"] and now, 4)
        assert (status["gpio"]["4"], status["leases"]) == (0, {})


# Power


def test_a_reset_forgets_what_a_chip_forgets(board: LightHandle) -> None:
    """Another boot id, no leases, no fence, inputs again, connections gone; host and id stay."""
    with wire(board) as connection:
        before = json.loads(get(connection)[1])
        ask(board, "POST", "/set_host", {"ip": "10.0.0.9"})
        ask(board, "POST", "/gpio", {"pin": 4, "value": 1, "lease_s": 60, "fence": 3})
        board.reset("watchdog")
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            get(connection)
    after = ask(board, "GET", "/").json
    assert after["boot"] != before["boot"]
    assert after["boots"] == before["boots"] + 1
    assert (after["uptime_s"], after["fence"], after["leases"]) == (0, 0, {})
    assert (after["gpio"]["4"], after["reset_cause"]) == (0, "watchdog")
    assert (after["id"], after["espnet_host"]) == (board.id, "10.0.0.9")


def test_a_restart_by_http_is_answered_first(board: LightHandle) -> None:
    """`POST /restart` answers, and then the board starts anew."""
    boots = board.boots
    assert ask(board, "POST", "/restart").status == 200
    until(lambda: board.boots == boots + 1, 3)
    assert ask(board, "GET", "/").json["reset_cause"] == "hard"


def test_without_power_nobody_answers(board: LightHandle) -> None:
    """Off, connections are refused; on again, it is a first boot's cause."""
    board.power(False)
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://{board.address}/", timeout=1)
    board.power(True)
    assert ask(board, "GET", "/").json["reset_cause"] == "power_on"


def test_a_board_may_take_its_time_to_boot() -> None:
    """With `boot_s` a board that resets is away meanwhile, and keeps its port."""
    with LightFleet(1, boot_s=0.4) as fleet:
        board = fleet[0]

        def is_seen_away() -> bool:
            """Whether there was time to look before it was back."""
            board.fault("reset", count=1)
            began_s = time.monotonic()
            for _ in range(2):  # the one that resets it, and one while it is away
                try:
                    requests.get(f"http://{board.address}/", timeout=1)
                except requests.ConnectionError:
                    continue
                assert time.monotonic() - began_s > 0.4
                return False
            return True

        until(is_seen_away, 20)
        until(lambda: board.phase == "ready", 3)
        assert ask(board, "GET", "/").status == 200


# Faults


@pytest.mark.parametrize("kind", ["hang", "hang_body"])
def test_what_hangs_keeps_its_connection(board: LightHandle, kind: str) -> None:
    """The client waits in vain, on an open connection; the request was carried out, and ends when he goes."""
    board.fault(kind, count=1)
    with wire(board) as connection:
        with pytest.raises(TimeoutError):
            post(connection)
        (entry,) = board.requests
        assert (entry.fault, entry.status, entry.ended_s) == (kind, 200, None)
        assert board.pin(4).level == 1
    until(lambda: board.requests[0].ended_s, 3)
    assert ask(board, "GET", "/").status == 200


def test_spoilt_answers_are_spoilt_as_they_say(board: LightHandle) -> None:
    """500, no JSON, cut JSON, another id, missing keys: all else is as it was, and the connection goes on."""
    with wire(board) as connection:
        whole = json.loads(get(connection)[1])
        board.fault("http_500", count=1)
        status, body = get(connection)
        assert (status, list(json.loads(body))) == (500, ["error", "field"])
        board.fault("not_json", count=1)
        assert get(connection)[1].startswith(b"<html>")
        board.fault("truncated", count=1)
        with pytest.raises(ValueError, match="line 1"):
            json.loads(get(connection)[1])
        board.fault("wrong_id", count=1)
        other = json.loads(get(connection)[1])
        assert other.pop("id") != board.id
        assert set(other) == set(whole) - {"id"}
        board.fault("missing_keys", count=1, keys=["boot", "f"])
        assert set(json.loads(get(connection)[1])) == set(whole) - {"boot", "f"}
        assert json.loads(get(connection)[1])["boot"] == whole["boot"]
        assert len({entry.connection for entry in board.requests}) == 1


def test_a_slow_answer_is_all_there(board: LightHandle, fleet: LightFleet) -> None:
    """Byte by byte, and meanwhile others are served."""
    board.fault("slow", bytes_per_s=2000, count=1)
    with wire(board, 5) as connection:
        connection.request("GET", "/")
        assert ask(board, "GET", "/").status == 200
        assert json.loads(connection.getresponse().read())["id"] == board.id
        assert get(connection)[0] == 200


def test_lost_connections_cost_one_request(board: LightHandle) -> None:
    """`rst` and `cut` end the connection: before the call is carried out, or in the middle of its answer."""
    board.fault("rst", count=1)
    with wire(board) as connection, pytest.raises(ConnectionResetError):
        post(connection)
    assert board.pin(4).level == 0
    board.fault("cut", count=1)
    with wire(board) as connection, pytest.raises(http.client.IncompleteRead):
        post(connection)
    assert board.pin(4).level == 1
    assert [entry.fault for entry in board.requests] == ["rst", "cut"]


def test_refused_connections_come_back(board: LightHandle) -> None:
    """New connections are refused, open ones reset when they ask; then all is as before, at that port."""
    with wire(board) as connection:
        get(connection)
        board.fault("refuse", for_s=0.4)
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://{board.address}/", timeout=1)
        with pytest.raises(ConnectionResetError):
            get(connection)
    until(lambda: not board._board.faults, 3)
    assert ask(board, "GET", "/").status == 200


def test_a_failing_sensor_is_a_503(board: LightHandle) -> None:
    """The sensor fault strikes on its pin, so many readings, and nowhere else."""
    board.set(dht={4: 21.5, 5: (20, 50)})
    board.fault("sensor", pin=4, count=1)
    assert ask(board, "POST", "/dht22", {"read_pin": 5}).json["humidity"] == 50
    assert ask(board, "POST", "/dht22", {"read_pin": 4}).status == 503
    assert ask(board, "POST", "/dht22", {"read_pin": 4}).json["temp"] == 21.5


def test_faults_are_checked_as_other_boards_check_them(board: LightHandle) -> None:
    """What cannot be meant is refused, and a ninth fault, too; one of the same kind and path replaces it."""
    for kind, options in (("melt", {}), ("hang", {"count": 0}), ("refuse", {"count": 1})):
        with pytest.raises(SimulatorError):
            board.fault(kind, **options)
    for n in range(8):
        board.fault("hang", path=f"/{n}", count=n + 1)
    board.fault("hang", path="/0", count=9)
    with pytest.raises(SimulatorError, match="Eight faults"):
        board.fault("slow")
    assert ask(board, "GET", "/").status == 200


# A board that struggles


def test_a_board_may_be_slow_short_of_memory_or_busy(board: LightHandle) -> None:
    """Latency is time under way; too little memory turns new clients away; busy ones get 503."""
    board.set(latency_s=0.2)
    assert ask(board, "GET", "/").status == 200
    assert (board.requests[-1].answered_s or 0) > 0.19  # timers are that coarse
    board.set(latency_s=0, mem_free=5000)
    answer = ask(board, "GET", "/")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    board.set(mem_free=7000)
    assert ask(board, "GET", "/").status == 503  # until it has enough again
    board.set(mem_free=8192)
    assert ask(board, "GET", "/").json["mem_free"] == 8192
    board.set(busy=True)
    assert ask(board, "GET", "/").status == 503
    for wrong in ({"latency_s": -1}, {"busy": 1}, {"mem_free": "much"}, {"speed": 60}):
        with pytest.raises(SimulatorError):
            board.set(**wrong)


def test_what_is_under_way_is_carried_out_though_its_client_goes(board: LightHandle) -> None:
    """A board notices nothing before it answers; a reset ends it all."""
    board.set(latency_s=0.8)
    for resets in (False, True):
        with connect(board) as client:
            client.sendall(b"POST /gpio HTTP/1.1\r\nContent-Length: 13\r\n\r\npin=4&value=1")
            until(lambda: board._board.under_way == 1)
        assert (board.pin(4).level, board._board.under_way) == (0, 1)
        if resets:
            board.reset()
            assert board._board.under_way == 0
            assert ask(board, "GET", "/").json["gpio"]["4"] == 0
        else:
            until(lambda: board.pin(4).level == 1)
            assert (board.requests[-1].status, board._board.under_way) == (200, 0)
            board.reset()


def test_a_script_decides_how_a_board_bears_its_load(board: LightHandle) -> None:
    """What is called before each request may change how the board is."""

    def tire(tired: LightBoard) -> None:
        tired.mem_free -= 1000

    board.script(tire)
    with wire(board) as connection:
        free = [json.loads(get(connection)[1])["mem_free"] for _ in range(3)]
    board.script(None)
    assert free == [25000, 24000, 23000]


def test_requests_at_once_are_counted(board: LightHandle) -> None:
    """`most_requests` is how many were under way at once, `overlap` how many others one of them met."""
    board.set(latency_s=0.3)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(board)) for _ in range(3)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert all(receive(client) for client in clients)
    assert (board.most_requests, board.most_connections) == (3, 3)
    assert sorted(entry.overlap for entry in board.requests) == [0, 1, 2]


# Bounds


def test_a_ninth_client_takes_the_place_of_the_idlest(board: LightHandle) -> None:
    """While all eight are busy a ninth is turned away, else one that idles makes room."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(board)) for _ in range(8)]
        until(lambda: board.most_connections == 8)
        assert raw(board, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 503")
        clients[3].sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert clients[3].recv(4096).startswith(b"HTTP/1.1 200")
        assert raw(board, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
        assert clients[3].recv(4096) == b""


def test_pipelined_requests_are_answered_in_order(board: LightHandle) -> None:
    """One after another, also where the first of them takes long; none overlaps another."""
    board.set(latency_s=0.05)
    data = raw(board, b"GET / HTTP/1.1\r\n\r\nGET /nowhere HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n")
    assert statuses(data) == [200, 404, 200]
    assert board.most_requests == 1


def test_clients_that_take_too_long_are_ended() -> None:
    """Half a head gets 408 after its five seconds, and an idle connection ends after a minute."""
    clock = ManualClock()
    with LightFleet(1, clock=clock) as fleet, connect(fleet[0]) as idle, connect(fleet[0]) as slow:
        idle.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        slow.sendall(b"GET / HT")
        until(lambda: fleet[0]._board.under_way)
        clock.advance(6)
        assert receive(slow).startswith(b"HTTP/1.1 408")
        assert ask(fleet[0], "GET", "/").status == 200
        assert fleet[0].describe()["connections"] >= 1
        clock.advance(60)
        assert receive(idle) == b""


def test_all_pins_of_the_firmware_can_be_set(board: LightHandle) -> None:
    """Every writable pin goes high by one call, and the voltmeter agrees."""
    answer = ask(board, "POST", "/gpio", {"pin": WRITABLE, "value": 1})
    assert answer.json["gpio"] == {str(pin): 1 for pin in WRITABLE}
    assert all(board.pin(pin).driver == "board" for pin in WRITABLE)


def test_what_light_boards_lack_they_say(board: LightHandle) -> None:
    """The page, settings and updates are refused with 501 and a sentence."""
    for path in ("/ui", "/update", "/settings"):
        answer = ask(board, "GET", path)
        assert answer.status == 501
        assert "docs/simulator.md" in answer.json["error"]


# The fleet


def test_one_control_socket_serves_all_boards(fleet: LightFleet, board: LightHandle) -> None:
    """Each line says which board is meant; a wrong one is refused with a sentence."""
    path = fleet._simulator.control
    with Control(path, board=board.id) as control:
        control.set(pins={"18": 1}, dht={"4": 21.5})
        control.fault("http_500", count=1)
        assert control.get("faults") == [{"fault": "http_500", "count": 1}]
        assert ask(board, "GET", "/").status == 500
        assert control.get("pins")["18"]["level"] == 1
        assert control.get("dht")["4"]["temp"] == 21.5
        assert control.get("requests")[-1]["fault"] == "http_500"
        assert control.get("board")["requests"] == control.get("requests")[-1]["number"] + 1
        assert control.get("changes") == []
        control.reset("soft")
        assert ask(board, "GET", "/").json["reset_cause"] == "soft"
        for wrong in ({"get": "flash"}, {"get": "pins", "x": 1}, {"set": {"room": {}}}):
            with pytest.raises(SimulatorError):
                control.ask(wrong)
    with Control(path) as control:
        assert control.get("boards") == {each.id: each.address for each in fleet}
        with pytest.raises(SimulatorError, match="no board"):
            control.ask({"get": "pins", "board": "ffffffffffff"})


def test_beacons_say_where_each_board_is() -> None:
    """Every board is heard with its own id, port and boot."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.255.255.255", 0))
        listening.settimeout(5)
        with LightFleet(2, beacon_port=listening.getsockname()[1]) as fleet:
            heard = set()
            while len(heard) < 2:
                datagram, (source, _) = listening.recvfrom(1024)
                found = beacon.decode(datagram, source)
                assert found is not None
                heard.add((found.id, found.address))
            assert heard == {(board.id, board.address) for board in fleet}


def test_a_fleet_takes_its_ports_in_order_and_leaves_them() -> None:
    """`port` is the first board's; one that is taken is an error that says so, and nothing stays open."""
    with LightFleet(2) as other:
        first = other[0].port
        with pytest.raises(SimulatorError, match="name another first port"):
            LightFleet(2, port=first).start()
    with LightFleet(1, port=first) as fleet:
        assert ask(fleet[0], "GET", "/").status == 200


def test_too_few_open_files_are_told_before_anything_is_opened() -> None:
    """The error says how many are needed, and how to raise the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= 20_064:
        pytest.skip("this machine lets a process open as many files as the largest fleet needs")
    with pytest.raises(SimulatorError, match="ulimit -Hn"):
        LightFleet(10_000).start()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_impossible_numbers_of_boards_are_refused(count: int) -> None:
    """One to ten thousand."""
    with pytest.raises(SimulatorError):
        LightFleet(count)
