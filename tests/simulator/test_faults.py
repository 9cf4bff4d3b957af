"""Every fault, as a client on the other end of the wire sees it."""

import http.client
import json
import socket
import time

import pytest
import requests

from espnet.simulator import Board, Fleet, SimulatorError

from .probing import Client, until


@pytest.fixture(params=["new connection", "open connection"])
def wire(request: pytest.FixtureRequest, board: Board):
    """A client that connects after the fault is set, or one that has connected before."""
    client = Client(board, timeout_s=2.0)
    if request.param == "open connection":
        client.ask()
    yield client
    client.close()


def test_refuse_is_connection_refused_and_open_connections_are_reset(board: Board, client: Client):
    """A board that refuses answers SYN with RST, at once, and comes back when told."""
    client.ask()
    board.fault("refuse")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", board.port), timeout=1)
    with pytest.raises(ConnectionError):
        client.ask()
    board.clear("refuse")
    with Client(board) as again:
        assert again.ask()[0] == 200


def test_refuse_survives_a_reset(board: Board):
    """A fault belongs to the network, not to the board: a reset does not cure it."""
    board.fault("refuse")
    board.reset()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", board.port), timeout=1)
    board.clear()
    assert requests.get(f"http://{board.address}/", timeout=2).ok


def test_refuse_can_end_by_itself(board: Board):
    """for_s bounds a fault in time."""
    board.fault("refuse", for_s=0.05)

    def answers() -> bool:
        try:
            return requests.get(f"http://{board.address}/", timeout=1).ok
        except requests.ConnectionError:
            return False

    until(answers, "the board answers again")


def test_hang_sends_nothing(board: Board, wire: Client):
    """A hanging board takes the request and says nothing; the connection stays open."""
    board.fault("hang")
    with pytest.raises(TimeoutError):
        wire.ask()
    assert board.requests[-1].fault == "hang"


def test_hang_keeps_the_connection_of_a_client_that_asked_to_close(board: Board):
    """The firmware closes after its answer; the client of a hanging board must not see that."""
    board.fault("hang")
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"http://{board.address}/", headers={"Connection": "close"}, timeout=0.3)


def test_hang_body_sends_head_and_half_the_body(board: Board, wire: Client):
    """A board that hangs in mid-body has announced more than it sends."""
    board.fault("hang_body")
    wire.http.request("GET", "/")
    response = wire.http.getresponse()
    assert response.status == 200
    first = response.read(5)
    assert first.startswith(b"{")
    with pytest.raises(TimeoutError):
        response.read()


def test_slow_sends_everything_but_late(board: Board, wire: Client):
    """Slow bytes are all the bytes, at the rate that was asked for."""
    whole = json.loads(wire.ask()[1])
    board.fault("slow", bytes_per_s=400)
    began = time.monotonic()
    assert json.loads(wire.ask()[1]) == whole
    assert time.monotonic() - began > 0.15
    board.clear()
    assert json.loads(wire.ask()[1]) == whole


def test_a_slow_answer_does_not_stop_the_board(board: Board):
    """While one answer drips, other requests are served."""
    board.fault("slow", bytes_per_s=10, count=1)
    with Client(board) as slow, Client(board) as other:
        slow.http.request("GET", "/")
        until(lambda: board.requests, "the slow request arrived")
        assert other.ask()[0] == 200


def test_http_500_is_a_complete_answer(board: Board, wire: Client):
    """A 500 carries JSON with an error and leaves the connection usable."""
    board.fault("http_500", count=1)
    status, body = wire.ask()
    assert status == 500
    assert "error" in json.loads(body)
    assert wire.ask()[0] == 200


def test_not_json_is_valid_http(board: Board, wire: Client):
    """Not JSON: status 200, a complete body, no JSON in it."""
    board.fault("not_json")
    status, body = wire.ask()
    assert status == 200
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(body)


def test_truncated_is_valid_http(board: Board, wire: Client):
    """Truncated JSON: the HTTP answer is complete, its JSON is not."""
    whole = wire.ask()[1]
    board.fault("truncated")
    status, body = wire.ask()
    assert status == 200
    assert whole.startswith(body[:8])
    assert len(body) == len(whole) // 2
    with pytest.raises(ValueError, match="line 1"):
        json.loads(body)


def test_cut_ends_the_connection_in_mid_body(board: Board, wire: Client):
    """A cut answer ends before its Content-Length."""
    board.fault("cut", count=1)
    with pytest.raises(http.client.IncompleteRead):
        wire.ask()
    wire.close()
    assert wire.ask()[0] == 200


def test_wrong_id_is_the_only_thing_wrong(board: Board, wire: Client):
    """Wrong id: another id of the same shape, all else as it was."""
    board.fault("wrong_id")
    answer = json.loads(wire.ask()[1])
    assert answer["id"] != board.id
    assert len(answer["id"]) == 12
    assert int(answer.pop("id"), 16) >= 0
    board.clear()
    right = json.loads(wire.ask()[1])
    assert right.pop("id") == board.id
    assert answer == right


@pytest.mark.parametrize("keys", [None, ["id"], ["f", "boot"]])
def test_missing_keys_takes_the_keys_that_were_named(board: Board, wire: Client, keys):
    """Missing keys: a complete answer without them; f and gpio unless others are named."""
    board.fault("missing_keys", **({"keys": keys} if keys else {}))
    answer = json.loads(wire.ask()[1])
    gone = set(keys or ["f", "gpio"])
    assert set(answer) == {"id", "boot", "f", "gpio"} - gone


def test_rst_resets_the_connection_before_the_request_is_carried_out(board: Board, wire: Client):
    """A connection reset costs that request and nothing else."""
    board.fault("rst", count=1)
    with pytest.raises(ConnectionResetError):
        wire.ask("/exec", "machine.Pin(2, machine.Pin.OUT, value=1)")
    assert board.pin(2).level == 0
    wire.close()
    assert wire.ask()[0] == 200


def test_reset_fault_resets_the_board_when_it_is_asked(board: Board, client: Client):
    """A board that resets on a request loses its pins and the connection, and comes back."""
    client.exec("machine.Pin(2, machine.Pin.OUT, value=1)")
    boots = board.boots
    board.fault("reset", count=1)
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        client.ask()
    until(lambda: board.boots == boots + 1, "the board starts again")
    board.wait_ready()
    client.close()
    assert client.ask()[0] == 200
    assert board.pin(2).level == 0
    assert board.reset_cause == "hard"


def test_sensor_fault_makes_reading_raise_on_that_pin_only(board: Board, client: Client):
    """A sensor error is an OSError on its pin; others read on, and a count runs out."""
    board.set(dht={4: (20, 50), 5: (21, 50)}, adc={36: 7})
    board.fault("sensor", pin=4, count=1)
    board.fault("sensor", pin=36)
    client.exec("import dht")
    read = "s = dht.DHT22(machine.Pin({}))\ns.measure()\nr = s.temperature()"
    assert client.exec(read.format(5)) == 21
    with pytest.raises(RuntimeError, match="OSError"):
        client.exec(read.format(4))
    assert client.exec(read.format(4)) == 20
    with pytest.raises(RuntimeError, match="OSError"):
        client.exec("r = machine.ADC(36).read()")
    board.clear("sensor")
    assert client.exec("r = machine.ADC(36).read()") == 7


def test_count_and_path_choose_the_requests(board: Board, client: Client):
    """A fault with a path leaves other paths alone; with a count it ends by itself."""
    board.fault("http_500", path="/exec", count=2)
    board.fault("not_json", path="/")
    assert client.ask("/slowly?0")[0] == 200
    assert [client.ask("/exec", "r = 1")[0] for _ in range(3)] == [500, 500, 200]
    assert client.ask("/?query")[1].startswith(b"<")


def test_a_fault_acts_on_the_answer_and_not_on_the_request(board: Board, client: Client):
    """What was asked is carried out although the answer says otherwise."""
    board.fault("http_500", count=1)
    client.ask("/exec", "machine.Pin(2, machine.Pin.OUT, value=1)")
    assert board.pin(2).level == 1
    client.exec("machine.Pin(2).off()")


def test_faults_can_be_listed_and_cleared_one_by_one(fleet: Fleet, board: Board):
    """Setting the same fault again replaces it; clearing one leaves the others."""
    board.fault("hang", path="/gpio", count=3)
    board.fault("hang", path="/gpio", count=5)
    board.fault("slow", bytes_per_s=9)
    state = fleet._boards[0]._board.state
    assert state.faults() == [
        {"fault": "hang", "count": 5, "path": "/gpio"},
        {"fault": "slow", "bytes_per_s": 9},
    ]
    board.clear("hang")
    assert state.faults() == [{"fault": "slow", "bytes_per_s": 9}]


def test_one_board_s_fault_is_its_own(fleet: Fleet, board: Board):
    """The other boards go on."""
    board.fault("refuse")
    with Client(fleet[1]) as other:
        assert other.ask()[0] == 200


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("melt", {}),
        ("refuse", {"count": 1}),
        ("hang", {"count": 0}),
        ("hang", {"count": "3"}),
        ("hang", {"path": "gpio"}),
        ("hang", {"path": "/" + 47 * "x"}),
        ("hang", {"pin": 4}),
        ("hang", {"keys": ["id"]}),
        ("hang", {"bytes_per_s": 4}),
        ("slow", {"bytes_per_s": 0}),
        ("slow", {"for_s": float("nan")}),
        ("missing_keys", {"keys": "id"}),
        ("missing_keys", {"keys": []}),
        ("sensor", {"pin": 20}),
        ("sensor", {"path": "/adc"}),
    ],
)
def test_a_fault_that_cannot_be_is_refused(board: Board, kind: str, options: dict):
    """What cannot be meant is an error with a sentence, and sets nothing."""
    with pytest.raises(SimulatorError):
        board.fault(kind, **options)
    assert board._board.state.faults() == []
