"""Laws of the collector at claimed boards: one challenge a login, and what it does when it is refused.

Real boards, a real Redis, a clock that moves when told.
"""

import asyncio
import base64
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import structlog
import uvloop
from board_wire import Say, Wire, answer, status_body
from claiming import PIN, Cli
from firmware.digest_client import claim_by_hand
from firmware.firmware_client import FIRMWARE, ask

from espnet.clock import ManualClock
from espnet.collector import LOCKED_OUT_S, Collector
from espnet.credential import new_password
from espnet.model import Device, Reading
from espnet.simulator import Board, Fleet
from espnet.simulator.light import LightFleet, LightHandle
from espnet.store import MAX_FENCE_SEEN, Store

pytestmark = pytest.mark.usefixtures("settings")

INTERVAL_S = 10.0
KEY, OTHER_KEY = (base64.urlsafe_b64encode(bytes([n]) * 32).decode() for n in (1, 2))
OWN = "a password of somebody"
DHT = 4


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with Fleet(2, seed=33, compiled=True) as fleet:
        yield fleet


@pytest.fixture
def boards(fleet: Fleet) -> list[Board]:
    """Boards as they come out of the box, with a sensor, and with nothing on."""
    for board in fleet:
        board.clear()
        board.unclaim()
        board.reset()
        board.set(dht={DHT: (21.5, 40)})
    return list(fleet)


@pytest.fixture
def board(boards: list[Board]) -> Board:
    return boards[0]


@pytest.fixture
def espcli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(capsys, monkeypatch)


class House:
    """A collector that polls whenever it is told, ten seconds after the last time."""

    def __init__(self, collector: Collector, store: Store, clock: ManualClock) -> None:
        self.collector, self.store, self.clock = collector, store, clock

    async def poll(self, count: int = 1, after_s: float = INTERVAL_S) -> None:
        for _ in range(count):
            self.clock.advance(after_s)
            due = self.clock.now() - 0.1
            self.store.wake([device.id for device in self.store.devices()], due)
            tick = await self.collector.tick(self.clock.now())
            assert tick.ok + tick.failed >= 1
            assert not tick.void

    def reading(self, name: str = "porch") -> Reading:
        found = self.store.view(name).reading
        assert found is not None
        return found

    def fault(self, name: str = "porch") -> tuple[str, str] | None:
        fault = self.store.view(name).fault
        return (fault.kind, fault.what) if fault else None

    def problem(self, name: str = "porch", pin: int = PIN) -> str:
        """What the board had against the latest write."""
        write = self.store.memory(self.store.device(name)).writes.get(pin)
        return write.problem if write else ""


@asynccontextmanager
async def collecting(url: str, *keys: str, timeout_s: float = 5.0) -> AsyncIterator[House]:
    store, clock = Store(url, secret_keys=keys), ManualClock(time.time() + INTERVAL_S)
    collector = Collector(
        store, clock, holder="here", interval_s=INTERVAL_S, timeout_s=timeout_s, luck=lambda: 0.0
    )
    try:
        yield House(collector, store, clock)
    finally:
        await collector.close()
        store.close()


def living(
    url: str, law: Callable[[House], Awaitable[None]], *keys: str, timeout_s: float = 5.0
) -> list[Any]:
    """Runs a law; returns what the collector logged."""

    async def main() -> None:
        async with collecting(url, *keys, timeout_s=timeout_s) as house:
            await law(house)

    with (
        structlog.testing.capture_logs() as log,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(asyncio.wait_for(main(), 60))
    return log


def house_reading(url: str, name: str) -> Reading | None:
    """The reading that is kept of a device."""
    with closing(Store(url)) as store:
        return store.view(name).reading


def govern(espcli: Cli, *names: str) -> None:
    """A job that wants the pin on at any time."""
    for name in names:
        words = ("device", name, "add_timer_job", "lamp", str(PIN), "00:00", "24", "--zone", "UTC")
        espcli(*words)


def challenges(board: Board | LightHandle) -> int:
    return [request.status for request in board.requests].count(401)


def paths(board: Board) -> list[str]:
    return [request.path.partition("?")[0] for request in board.requests]


# --- what it costs --------------------------------------------------------------------------------


def test_in_the_steady_state_a_poll_is_one_request(
    espcli: Cli, board: Board, redis_url: str
) -> None:
    """A claimed board challenges once; afterwards it costs what an open one does: one request a poll, and one
    for each sensor and each write; a lease that is renewed costs none."""
    espcli("register", board.address, "porch")
    govern(espcli, "porch")

    async def law(house: House) -> None:
        board.forget_requests()
        await house.poll()
        assert (challenges(board), board.pin(PIN).level) == (1, 1)
        assert paths(board) == ["/", "/", "/gpio"]
        board.forget_requests()
        await house.poll(100)
        assert (challenges(board), len(board.requests)) == (0, 100)
        espcli("device", "porch", "add_dht22", "air", str(DHT))
        board.forget_requests()
        await house.poll(10)
        assert paths(board) == ["/", *["/", "/dht22"] * 10]
        assert challenges(board) == 1  # the record changed, so it is a new login
        assert house.reading().dht22["air"].temp == 21.5

    assert [event["event"] for event in living(redis_url, law)] == ["pin.set"]


def test_a_board_that_was_restarted_costs_one_challenge(
    espcli: Cli, board: Board, redis_url: str
) -> None:
    """Its nonces are of another boot; nobody is denied, and its pins are right after the one poll."""
    espcli("register", board.address, "porch")
    govern(espcli, "porch")

    async def law(house: House) -> None:
        await house.poll(2)
        for _ in range(3):
            await asyncio.to_thread(board.reset)
            board.forget_requests()
            await house.poll()
            assert challenges(board) == 1
            assert board.pin(PIN).level == 1
            await house.poll(3)
            assert challenges(board) == 1

    log = living(redis_url, law)
    assert {event["event"] for event in log} == {"pin.set"}


def test_a_slow_board_is_polled_though_it_asks_for_the_password(
    espcli: Cli, redis_url: str
) -> None:
    """One that answers within the time-out is never lost, though a challenge and an answer take longer: not
    by a collector that is new to it, and not when it was restarted."""
    with LightFleet(1, seed=35) as slow:
        (board,) = slow
        espcli("register", board.address, "porch")

        async def law(house: House) -> None:
            await asyncio.to_thread(board.set, latency_s=2.1)
            for challenged in (1, 0):
                board.forget_requests()
                await house.poll()
                assert (challenges(board), house.fault()) == (challenged, None)
            await asyncio.to_thread(board.reset)
            await house.poll()
            assert (challenges(board), house.fault()) == (1, None)

        assert living(redis_url, law, timeout_s=4.0) == []


def test_nonces_that_end_are_followed_without_a_challenge(
    espcli: Cli, redis_url: str, tmp_path: Path
) -> None:
    """Of a board whose nonces live for two seconds instead of ten minutes."""
    folder = tmp_path / "firmware"
    shutil.copytree(FIRMWARE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = (folder / "auth.py").read_text()
    short = text.replace("_LIFE_MS = const(600000)", "_LIFE_MS = const(2000)")
    short = short.replace("age_ms > _LIFE_MS // 2", "age_ms > 100")
    assert short.count("2000)") > text.count("2000)")
    assert "age_ms > 100" in short
    (folder / "auth.py").write_text(short)
    with Fleet(1, seed=34, firmware=folder) as fleet:
        board = fleet[0]
        espcli("register", board.address, "porch")

        async def law(house: House) -> None:
            await house.poll()
            board.forget_requests()
            until = time.monotonic() + 2.5
            polls = 0
            while time.monotonic() < until:
                await house.poll()
                polls += 1
            assert challenges(board) == 0
            assert polls >= 20
            assert min(len(board.requests), 1024) == min(polls, 1024)

        assert living(redis_url, law) == []


def test_a_changed_password_costs_one_challenge_and_no_poll(
    espcli: Cli, board: Board, redis_url: str
) -> None:
    """The record changes with the password, so the next poll has the new one before it asks."""
    espcli("register", board.address, "porch")
    govern(espcli, "porch")

    async def law(house: House) -> None:
        await house.poll(2)
        for _ in range(5):
            await asyncio.to_thread(espcli, "device", "porch", "credentials", "rotate")
            board.forget_requests()
            await house.poll()
            assert (challenges(board), len(board.requests)) == (1, 2)
            assert house.fault() is None

    assert [event["event"] for event in living(redis_url, law)] == ["pin.set"]


# --- when it is refused ---------------------------------------------------------------------------


def test_a_board_that_denies_is_a_board_that_is_lost(
    espcli: Cli, board: Board, redis_url: str
) -> None:
    """Somebody changed its password: what it says cannot be proved, so nothing more is asked of it and what
    it said last grows old; why is said once, and when the password is right again, all goes on."""
    espcli("register", board.address, "porch")
    espcli("device", "porch", "add_dht22", "air", str(DHT))
    govern(espcli, "porch")
    mine = json.loads((board.flash / "claim.json").read_text())

    async def law(house: House) -> None:
        await house.poll(2)
        seen = house.reading()
        await asyncio.to_thread(claim_by_hand, board, OWN)
        board.forget_requests()
        await house.poll(3)
        assert house.fault() == ("denied", "does not take EspNet's password")
        assert house.reading() == seen
        assert {request.status for request in board.requests} == {401}
        assert len(board.requests) <= 2 * 3
        assert "nothing is set: porch does not take" in espcli("why", "porch", str(PIN))
        assert board.pin(PIN).level == 0
        assert espcli.access("porch") == "denied"
        (board.flash / "claim.json").write_text(json.dumps(mine))
        await asyncio.to_thread(board.reset)
        await house.poll()
        assert house.fault() is None
        assert house.reading().dht22["air"].temp == 21.5
        assert (board.pin(PIN).level, house.problem()) == (1, "")

    log = living(redis_url, law)
    assert [event["event"] for event in log].count("board.lost") == 1


def test_the_password_that_a_person_gives_is_used_at_once(
    espcli: Cli, board: Board, redis_url: str
) -> None:
    """However long the pause still is: the record changes with it."""
    espcli("register", board.address, "porch")
    govern(espcli, "porch")

    async def law(house: House) -> None:
        await asyncio.to_thread(claim_by_hand, board, OWN)
        await house.poll(8)
        assert house.fault()
        words = ("device", "porch", "credentials", "claim", "--ask")
        await asyncio.to_thread(lambda: espcli(*words, stdin=OWN))
        await house.poll()
        assert house.fault() is None
        assert board.pin(PIN).level == 1

    living(redis_url, law)


def test_passwords_are_fetched_anew_when_they_were_refused(
    espcli: Cli, board: Board, redis_url: str, raw: redis.Redis
) -> None:
    """Also those that came to Redis without a change of the record, as out of a backup."""
    espcli("register", board.address, "porch")
    right: Any = raw.hget("espnet:credentials", board.id)
    wrong = json.dumps({"id": board.id, "passwords": ["no password of it"]})
    raw.hset("espnet:credentials", board.id, wrong)

    async def law(house: House) -> None:
        for _ in range(10):
            await house.poll()
            fault = house.fault()
            assert fault is not None
            assert fault[0] == "denied"
        raw.hset("espnet:credentials", board.id, right)
        await house.poll()
        assert house.fault() is None

    living(redis_url, law)


def test_a_private_board_that_denies_is_a_board_that_is_lost(
    espcli: Cli, board: Board, redis_url: str
) -> None:
    """Nothing can be read of it; the reason is the same, and it comes back by itself."""
    espcli("register", board.address, "porch", "--private")
    mine = json.loads((board.flash / "claim.json").read_text())

    async def law(house: House) -> None:
        await house.poll(2)
        assert house.store.view("porch").fault is None
        await asyncio.to_thread(claim_by_hand, board, OWN, True)
        await house.poll(2)
        fault = house.store.view("porch").fault
        assert fault is not None
        assert (fault.kind, fault.what) == ("denied", "does not take EspNet's password")
        assert espcli.access("porch") == "denied"
        (board.flash / "claim.json").write_text(json.dumps(mine))
        await asyncio.to_thread(board.reset)
        await house.poll()
        assert house.store.view("porch").fault is None
        assert espcli.access("porch") == "private"

    events = [event["event"] for event in living(redis_url, law)]
    assert events == ["board.lost", "board.back"]


def test_a_board_that_was_opened_decides_nothing(espcli: Cli, board: Board, redis_url: str) -> None:
    """By a cable, or something else answers in its place: it is a failure that says so, and no job acts;
    claimed again, all is as before."""
    espcli("register", board.address, "porch")
    govern(espcli, "porch")

    async def law(house: House) -> None:
        await house.poll(2)
        await asyncio.to_thread(board.unclaim)
        assert board.pin(PIN).level == 0
        await house.poll()
        assert house.fault() == ("unclaimed", "is open, though EspNet gave it a password")
        assert board.pin(PIN).level == 0
        assert espcli.access("porch") == "denied"
        claim = ("device", "porch", "credentials", "claim")
        assert "--again" in await asyncio.to_thread(lambda: espcli(*claim, code=1))
        await asyncio.to_thread(espcli, *claim, "--again")
        await house.poll(2)
        assert espcli.access("porch") == "claimed"
        assert (house.fault(), board.pin(PIN).level) == (None, 1)

    living(redis_url, law)


def test_a_seal_that_does_not_open_leaves_the_board_to_others(
    espcli: Cli, boards: list[Board], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another key, or none: that is this collector's fault, so it asks nothing, says nothing of the
    board, and gives it back at once; one that has the key goes on controlling it."""
    monkeypatch.setenv("ESPNET_SECRET_KEY", KEY)
    for board, name in zip(boards, ("porch", "attic"), strict=True):
        espcli("register", board.address, name)
    govern(espcli, "porch", "attic")
    before = [house_reading(redis_url, name) for name in ("porch", "attic")]
    for board in boards:
        board.forget_requests()

    async def without(house: House) -> None:
        await house.poll(3)
        dates = {key: turn.at for key, turn in house.store.schedule().items()}
        assert all(date <= house.clock.now() + LOCKED_OUT_S + 0.01 for date in dates.values())

    async def with_it(house: House) -> None:
        await house.poll(2)
        for board, name in zip(boards, ("porch", "attic"), strict=True):
            assert (house.fault(name), board.pin(PIN).level) == (None, 1)

    for keys in ((OTHER_KEY,), ()):
        assert living(redis_url, without, *keys) == []
        assert [house_reading(redis_url, name) for name in ("porch", "attic")] == before
        assert not [request for board in boards for request in board.requests]
    monkeypatch.setenv("ESPNET_SECRET_KEY", OTHER_KEY)
    assert "ESPNET_SECRET_KEY" in espcli("device", "porch", "update", code=1)
    assert house_reading(redis_url, "porch") == before[0]
    assert "run --anyway" in espcli("run", code=1)
    living(redis_url, with_it, OTHER_KEY, KEY)


# --- who is not who he says -----------------------------------------------------------------------

NONCE = "0" * 44


def impostor(wire: Wire, info: str, **status: object) -> None:
    """One who challenges as a board does, takes any password, and proves so much."""

    def say(host: str, request: bytes) -> Say:
        if b"?fence=" in request and b"Authorization" not in request:
            header = (
                f'WWW-Authenticate: Digest realm="EspNet b1", nonce="{NONCE}", '
                'algorithm=SHA-256, qop="auth,auth-int"\r\n'
            )
            return answer(b'{"error": "no"}', status="401 No", headers=header)
        known = {"claimed": True, "private": False, "fence": 0, "leases": {}, "leases_expired": 0}
        return answer(status_body("b1", **(known | status)), headers=info)

    wire.default = say


@pytest.mark.parametrize(
    "info",
    [
        "",
        f'Authentication-Info: rspauth="{"0" * 64}", qop=auth-int, nc=00000001, cnonce="x"\r\n',
        "Authentication-Info: rspauth=\r\n",
        f'Authentication-Info: nextnonce="{NONCE}"\r\n',
    ],
    ids=["none", "wrong", "empty", "another"],
)
def test_a_board_that_does_not_prove_itself_is_not_believed(
    info: str, redis_url: str, espcli: Cli
) -> None:
    """From the first poll on: it is a failure, which says so, and nothing is written."""
    with Wire() as wire:
        impostor(wire, info)
        store = Store(redis_url)
        first = Reading(
            at=0, poll_s=0, interval_s=10, collector="", status=msgspec.Raw(status_body("b1"))
        )
        device = Device(id="b1", name="porch", address=wire.address(), registered_at=time.time())
        store.add(device, first, first_due=time.time(), has_password=True)
        assert espcli("device", "porch", "credentials", "show", code=1)
        store.add_password("b1", new_password())
        govern(espcli, "porch")

        async def law(house: House) -> None:
            await house.poll()
            fault = house.fault()
            assert fault is not None
            assert fault[0] == "unproved"
            assert "does not prove" in fault[1]
            assert house.reading().at == 0

        living(redis_url, law)
        assert not [r for r in wire.requests["127.0.0.1"] if r.startswith(b"POST")]
        store.close()


@pytest.mark.parametrize("above", [0, 1, 10**12], ids=["at", "above", "far_above"])
def test_a_fence_that_somebody_made_up_costs_that_board_only(
    above: int, espcli: Cli, boards: list[Board], redis_url: str, raw: redis.Redis
) -> None:
    """An open board that took an impossible number refuses what it should do, with the reason; the counter of
    all is not lifted, and the other boards work. The highest that is believed is followed, by all boards."""
    espcli("register", boards[0].address, "open", "--open")
    espcli("register", boards[1].address, "claimed")
    govern(espcli, "open", "claimed")
    made_up = MAX_FENCE_SEEN + above
    assert ask(boards[0], "GET", f"/?fence={made_up}").status == 200
    assert ask(boards[1], "GET", f"/?fence={made_up}").status == 401

    async def law(house: House) -> None:
        before = int(raw.get("espnet:fence") or 0)  # type: ignore[arg-type]
        await house.poll(3)
        if not above:
            assert [board.pin(PIN).level for board in boards] == [1, 1]
            assert int(raw.get("espnet:fence") or 0) > made_up  # type: ignore[arg-type]
            words = ("override", str(PIN), "off", "--for", "1h")
            await asyncio.to_thread(espcli, "device", "claimed", *words)
            await house.poll(2)
            assert [board.pin(PIN).level for board in boards] == [1, 0]
            return
        assert "restart the board" in house.problem("open")
        assert [board.pin(PIN).level for board in boards] == [0, 1]
        assert int(raw.get("espnet:fence") or 0) - before < 20  # type: ignore[arg-type]
        await asyncio.to_thread(boards[0].reset)
        await house.poll(2)
        assert house.problem("open") == ""
        assert [board.pin(PIN).level for board in boards] == [1, 1]

    log = living(redis_url, law)
    assert [event["event"] for event in log].count("pin.refused") == bool(above)
