"""Boards that moved are found again, and nobody else is taken for them.

Boards are played at the wire where somebody lies, and are the real firmware where they prove themselves.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import structlog
from board_wire import Say, Wire, answer, status_body

from espnet.board.beacon import Beacon
from espnet.clock import ManualClock
from espnet.collector import Collector
from espnet.credential import Password, new_password
from espnet.errors import StoreUnavailable
from espnet.follower import (
    BEACON_S,
    CALLS_A_MINUTE,
    LEARN_S,
    MAX_PLACES,
    REFUSED_S,
    SILENT_S,
    Follower,
    is_same_place,
)
from espnet.model import Device, Reading
from espnet.simulator import Fleet
from espnet.store import Store

ID = "a0b1c2d3e4f5"
#: Where the board is registered, where it is now, and where somebody else says that he is the board.
OLD, NEW, LIAR = "127.0.0.2", "127.0.0.3", "127.0.0.4"
NOBODY = "127.0.0.9:1"
NONCE = "0" * 44
CHALLENGE = (
    f'WWW-Authenticate: Digest realm="EspNet {ID}", nonce="{NONCE}", algorithm=SHA-256, '
    'qop="auth,auth-int"\r\n'
)
LIE = f'Authentication-Info: rspauth="{"0" * 64}", qop=auth-int, nc=00000001, cnonce="x"\r\n'


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        wire.default = lambda host, request: answer(status_body(ID))
        yield wire


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time())


@pytest.fixture
def follower(store: Store, clock: ManualClock) -> Follower:
    return Follower(store, clock, holder="here", timeout_s=2)


def register(
    store: Store, address: str, device_id: str = ID, password: Password | None = None
) -> None:
    status = msgspec.Raw(status_body(device_id))
    reading = Reading(at=0, poll_s=0, interval_s=10, collector="", status=status)
    device = Device(id=device_id, name=f"n{device_id}", address=address)
    if password is not None:
        store.add_password(device_id, password)
    store.add(device, reading, first_due=0, has_password=password is not None)


def poll(store: Store, clock: ManualClock) -> None:
    """Everything is polled once more, as a collector does it."""

    async def tick() -> None:
        collector = Collector(store, clock, holder="poll", interval_s=10, timeout_s=20)
        await collector.tick(clock.advance(100))
        await collector.close()

    asyncio.run(tick())


def look(follower: Follower, *heard: Beacon) -> list[Any]:
    """What is logged of one look at these beacons."""
    with structlog.testing.capture_logs() as log:
        for beacon in heard:
            follower.heard(beacon)
        asyncio.run(follower.look())
    return [(event["event"], event["name"], event["address"]) for event in log]


def learn(follower: Follower) -> None:
    asyncio.run(follower.look())


def address(store: Store, device_id: str = ID) -> str:
    device = store.device_of(device_id)
    assert device is not None
    return device.address


# --- who is followed --------------------------------------------------------------------------------


def test_a_board_that_moved_is_followed(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """It no longer answers where it was: the beacon says where it is, it is asked once, and the next poll
    finds it there."""
    register(store, NOBODY)
    learn(follower)
    poll(store, clock)
    beacon = Beacon(ID, wire.address(NEW))
    assert look(follower, beacon) == [("device.moved", f"n{ID}", wire.address(NEW))]
    assert address(store) == wire.address(NEW)
    assert len(wire.requests[NEW]) == 1
    assert look(follower, beacon) == []
    assert len(wire.requests[NEW]) == 1
    poll(store, clock)
    view = store.view(f"n{ID}")
    assert (view.fault, len(wire.requests[NEW])) == (None, 2)


def test_a_beacon_that_came_before_the_first_failure_is_remembered(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """The board speaks as soon as it is there, and the next poll of its old address is yet to fail."""
    register(store, NOBODY)
    learn(follower)
    assert look(follower, Beacon(ID, wire.address(NEW))) == []
    poll(store, clock)
    assert [event for event, *_ in look(follower)] == ["device.moved"]


def test_a_board_whose_address_another_one_has_is_followed(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """wrong_id: somebody answers, and it is not the board."""
    wire.default = lambda host, _: answer(status_body("another" if host == OLD else ID))
    register(store, wire.address(OLD))
    learn(follower)
    poll(store, clock)
    assert store.faults([ID])[ID].kind == "wrong_id"
    assert [event for event, *_ in look(follower, Beacon(ID, wire.address(NEW)))] == [
        "device.moved"
    ]


def test_two_boards_that_changed_places_are_both_followed(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """As a DHCP server does it after a power cut."""
    other = "b" * 12
    wire.default = lambda host, _: answer(status_body(ID if host == NEW else other))
    register(store, wire.address(OLD))
    register(store, wire.address(NEW), other)
    learn(follower)
    poll(store, clock)
    moved = look(follower, Beacon(ID, wire.address(NEW)), Beacon(other, wire.address(OLD)))
    assert [event for event, *_ in moved] == ["device.moved"] * 2
    assert (address(store), address(store, other)) == (wire.address(NEW), wire.address(OLD))


def test_a_board_that_was_registered_meanwhile_is_known_soon(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """The registry is read anew when somebody unknown speaks, and not oftener than that."""
    learn(follower)
    register(store, NOBODY)
    poll(store, clock)
    beacon = Beacon(ID, wire.address(NEW))
    assert look(follower, beacon) == []
    clock.advance(LEARN_S)
    learn(follower)
    assert [event for event, *_ in look(follower, beacon)] == ["device.moved"]


# --- who is not -------------------------------------------------------------------------------------


def test_a_healthy_device_stays_where_it_is(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """Whatever beacons say of it: nothing is asked of anybody, and nothing is changed."""
    register(store, wire.address(OLD))
    learn(follower)
    poll(store, clock)
    before = store.device_of(ID)
    for number in range(3, 200):
        assert look(follower, Beacon(ID, wire.address(f"127.0.0.{number}"))) == []
    assert store.device_of(ID) == before
    assert set(wire.requests) == {OLD}


def test_who_has_another_id_is_not_the_board(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """He is asked once in ten minutes, however often he says it, and it is logged."""
    wire.default = lambda host, _: answer(status_body("c" * 12))
    register(store, NOBODY)
    learn(follower)
    poll(store, clock)
    beacon = Beacon(ID, wire.address(LIAR))
    assert look(follower, beacon) == [("beacon.refused", f"n{ID}", wire.address(LIAR))]
    for _ in range(5):
        clock.advance(REFUSED_S / 6)
        assert look(follower, beacon) == []
    assert (address(store), len(wire.requests[LIAR])) == (NOBODY, 1)
    clock.advance(REFUSED_S / 6)
    assert [event for event, *_ in look(follower, beacon)] == ["beacon.refused"]


def says_it_is_open(request: bytes) -> Say:
    return answer(status_body(ID, claimed=False, private=False, fence=0))


def takes_any(request: bytes) -> Say:
    if b"Authorization" not in request:
        return answer(b'{"error": "no"}', status="401 No", headers=CHALLENGE)
    return answer(status_body(ID, claimed=True, private=False, fence=0))


def lies(request: bytes) -> Say:
    if b"Authorization" not in request:
        return answer(b'{"error": "no"}', status="401 No", headers=CHALLENGE)
    return answer(status_body(ID, claimed=True, private=False, fence=0), headers=LIE)


def always_asks(request: bytes) -> Say:
    return answer(b'{"error": "no"}', status="401 No", headers=CHALLENGE)


def is_another_claimed_board(request: bytes) -> Say:
    return answer(b'{"error": "no"}', status="401 No", headers=CHALLENGE.replace(ID, "c" * 12))


def asks_for_the_password_itself(request: bytes) -> Say:
    return answer(b"{}", status="401 No", headers='WWW-Authenticate: Basic realm="EspNet"\r\n')


def leads_elsewhere(request: bytes) -> Say:
    return answer(b"{}", status="302 Found", headers=f"Location: http://{NEW}/\r\n")


WAYS = (
    says_it_is_open,
    takes_any,
    lies,
    always_asks,
    is_another_claimed_board,
    asks_for_the_password_itself,
    leads_elsewhere,
)


@pytest.mark.parametrize("way", WAYS)
def test_who_does_not_prove_it_is_not_the_board(
    way: Callable[[bytes], Say], store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """A device with a password moves nowhere without the board's proof, and nobody learns that password."""
    password = new_password()
    wire.default = lambda host, request: way(request)
    register(store, NOBODY, password=password)
    learn(follower)
    poll(store, clock)
    told = look(follower, Beacon(ID, wire.address(LIAR)))
    assert told == [("beacon.refused", f"n{ID}", wire.address(LIAR))]
    assert address(store) == NOBODY
    heard = b"".join(wire.requests[LIAR])
    ha1 = password.ha1(ID)
    for secret in (password.reveal(), ha1, hashlib.sha256(password.reveal().encode()).hexdigest()):
        assert secret.encode() not in heard
    assert set(wire.requests) == {LIAR}
    assert look(follower, Beacon(ID, wire.address(LIAR))) == []


def test_an_address_where_nobody_answers_is_asked_again_soon(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """A board may speak before it serves; that is no news, and no lie."""
    wire.default = lambda host, _: Say(then="close")
    register(store, NOBODY)
    learn(follower)
    poll(store, clock)
    beacon = Beacon(ID, wire.address(NEW))
    assert look(follower, beacon) == []
    wire.default = lambda host, _: answer(status_body(ID))
    assert look(follower, beacon) == []
    clock.advance(SILENT_S)
    assert [event for event, *_ in look(follower, beacon)] == ["device.moved"]


def test_a_beacon_is_forgotten(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """Where a board was long ago is not where it is."""
    register(store, NOBODY)
    learn(follower)
    assert look(follower, Beacon(ID, wire.address(NEW))) == []
    clock.advance(BEACON_S + 1)
    poll(store, clock)
    assert look(follower) == []
    assert not wire.requests


def test_a_person_s_word_stands(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """A device that was changed while its board was asked is not written over."""
    register(store, NOBODY)
    learn(follower)
    poll(store, clock)

    def say(host: str, request: bytes) -> Say:
        store.change(f"n{ID}", lambda old: msgspec.structs.replace(old, address="10.0.0.1"), now=0)
        return answer(status_body(ID))

    wire.default = say
    assert look(follower, Beacon(ID, wire.address(NEW))) == []
    assert address(store) == "10.0.0.1"


def test_a_device_that_is_polled_just_now_is_left_alone(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """Nobody talks to a board behind its lock's back; the next look finds it free."""
    register(store, NOBODY)
    learn(follower)
    poll(store, clock)
    device = store.device_of(ID)
    assert device is not None
    with store.hold(device, "somebody", ttl_s=20, wait_s=0):
        assert look(follower, Beacon(ID, wire.address(NEW))) == []
        assert not wire.requests
    assert [event for event, *_ in look(follower)] == ["device.moved"]


def test_what_people_do_meanwhile_is_seen(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """The board speaks where it was registered all the time; somebody registers it elsewhere, where it is
    not: it comes back to where it is."""
    register(store, wire.address(NEW))
    learn(follower)
    poll(store, clock)
    beacon = Beacon(ID, wire.address(NEW))
    assert look(follower, beacon) == []
    store.change(
        f"n{ID}", lambda old: msgspec.structs.replace(old, address=NOBODY), now=clock.now()
    )
    poll(store, clock)
    assert [event for event, *_ in look(follower, beacon)] == ["device.moved"]


def test_a_board_that_fails_where_it_says_that_it_is_costs_no_call(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """Its polls see to it; here is nothing to be found."""
    wire.default = lambda host, _: answer(b"busy", status="500 Busy")
    register(store, wire.address(OLD))
    learn(follower)
    poll(store, clock)
    polls = len(wire.requests[OLD])
    for _ in range(3):
        assert look(follower, Beacon(ID, wire.address(OLD))) == []
        clock.advance(SILENT_S)
    assert len(wire.requests[OLD]) == polls


def test_an_unregistered_board_is_nobody_s_business(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """It is neither asked nor remembered, and one that is unregistered meanwhile is let go."""
    register(store, NOBODY)
    learn(follower)
    poll(store, clock)
    for number in range(1000):
        follower.heard(Beacon(f"{number:012x}", wire.address(NEW)))
    store.remove(f"n{ID}")
    assert look(follower, Beacon(ID, wire.address(NEW))) == []
    assert not wire.requests


# --- bounds -----------------------------------------------------------------------------------------


def test_no_more_addresses_are_asked_than_a_minute_has(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """However many devices fail, and however many addresses are named for each of them."""
    wire.default = lambda host, _: answer(status_body("c" * 12))
    ids = [f"{number:012x}" for number in range(200)]
    lost = {device_id: f"127.0.9.{number}:1" for number, device_id in enumerate(ids, 1)}
    for device_id, place in lost.items():
        register(store, place, device_id)
    learn(follower)
    poll(store, clock)

    def flood() -> None:
        places = [wire.address(f"127.0.1.{number}") for number in range(1, 4 * MAX_PLACES)]
        look(follower, *[Beacon(device_id, place) for device_id in ids for place in places])

    for _ in range(3):
        flood()
    assert sum(map(len, wire.requests.values())) == CALLS_A_MINUTE
    clock.advance(61)
    flood()
    assert sum(map(len, wire.requests.values())) == 2 * CALLS_A_MINUTE
    assert all(len(places) <= MAX_PLACES for places in follower._places.values())
    assert {device_id: address(store, device_id) for device_id in ids} == lost


def test_many_liars_do_not_hide_the_board(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """More addresses than are kept say that they are the board, again and again; it is found all the same."""
    wire.default = lambda host, _: answer(status_body(ID if host == NEW else "c" * 12))
    register(store, NOBODY)
    learn(follower)
    poll(store, clock)
    liars = [Beacon(ID, wire.address(f"127.0.1.{number}")) for number in range(1, 5 * MAX_PLACES)]
    for _ in range(10_000):
        clock.advance(1)
        look(follower, *liars, Beacon(ID, wire.address(NEW)))
        if address(store) != NOBODY:
            break
    assert address(store) == wire.address(NEW)


def test_without_redis_it_waits(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire, own_redis: Any
) -> None:
    """Redis goes and comes back; then what was heard meanwhile is looked at."""
    lonely = Store(own_redis.url)
    follower = Follower(lonely, clock, holder="here", timeout_s=20, every_s=0.05)
    register(lonely, NOBODY)
    learn(follower)
    poll(lonely, clock)
    own_redis.stop()
    with pytest.raises(StoreUnavailable):
        look(follower, Beacon(ID, wire.address(NEW)))

    async def follow() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(follower.run(stop))
        await asyncio.to_thread(own_redis.start)
        async with asyncio.timeout(20):
            while await asyncio.to_thread(address, lonely) == NOBODY:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        stop.set()
        await running

    asyncio.run(follow())
    lonely.close()


def test_two_who_follow_move_it_once(
    new_store: Callable[..., Store], clock: ManualClock, wire: Wire
) -> None:
    """Every collector hears every beacon; the lock and the record let one of them move the device."""
    stores = [new_store() for _ in range(4)]
    followers = [Follower(one, clock, holder=f"f{i}", timeout_s=2) for i, one in enumerate(stores)]
    register(stores[0], NOBODY)
    for one in followers:
        learn(one)
    poll(stores[0], clock)

    async def all_at_once() -> None:
        for one in followers:
            one.heard(Beacon(ID, wire.address(NEW)))
        await asyncio.gather(*(one.look() for one in followers))

    with structlog.testing.capture_logs() as log:
        asyncio.run(all_at_once())
    assert [event["event"] for event in log] == ["device.moved"]
    assert address(stores[0]) == wire.address(NEW)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.1:80", True),
        ("10.0.0.1:8080", "10.0.0.1:8080", True),
        ("10.0.0.1", "10.0.0.1:81", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("porch.lan", "10.0.0.1", False),
    ],
)
def test_an_address_is_the_same_with_its_usual_port(one: str, other: str, same: bool) -> None:
    """Port 80 may be written or not."""
    assert is_same_place(one, other) is same


# --- the real firmware ------------------------------------------------------------------------------


def test_a_claimed_board_proves_itself(
    store: Store, clock: ManualClock, follower: Follower, wire: Wire
) -> None:
    """Its device is lost; a liar speaks first and is refused; then the board speaks, and is followed."""
    password = new_password()
    wire.default = lambda host, request: takes_any(request)
    with Fleet(1, seed=3, compiled=True) as fleet:
        board = fleet[0]
        claim = {"ha1": password.ha1(board.id), "private": False}
        (board.flash / "claim.json").write_bytes(msgspec.json.encode(claim))
        board.reset()
        register(store, NOBODY, board.id, password)
        learn(follower)
        poll(store, clock)
        assert look(follower, Beacon(board.id, wire.address(LIAR)))[0][0] == "beacon.refused"
        assert look(follower, Beacon(board.id, board.address))[0][0] == "device.moved"
        assert address(store, board.id) == board.address
        poll(store, clock)
        assert store.faults([board.id]) == {}
