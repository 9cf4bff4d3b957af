"""Laws of `espnet.visit`: a board is read, decided and written on one connection, under one grant."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import pytest
from board_wire import Say, Wire, answer, status_body
from structlog.testing import capture_logs

from espnet.clock import ManualClock
from espnet.errors import BoardError
from espnet.model import Device, Input, Job, Memory, Override, Threshold
from espnet.store import Claim, Grant
from espnet.visit import Target, act, gather

TIMEOUT_S = 2.0
NOW = 1_750_000_000.0
ON, OFF = (Override(pin=4, level=level, since=0, until=NOW + 1e6) for level in (1, 0))


class Board:
    """A board that remembers its pins and its fence, and refuses on demand; 2021 without a fence."""

    def __init__(self, wire: Wire, fence: int | None = 1) -> None:
        self.gpio, self.fence, self.refuses = {2: 0, 4: 0, 5: 0}, fence, 0
        self.leases: dict[int, dict[str, Any]] = {}
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.f = 70.0
        wire.default = lambda host, request: self.answer(request)

    def answer(self, request: bytes) -> Say:
        head, _, body = request.decode().partition("\r\n\r\n")
        path, form = head.split(" ")[1], dict(parse_qsl(body))
        self.calls.append((path, form))
        if path == "/" or (self.fence is not None and path.startswith("/?fence=")):
            more: dict[str, Any] = {"gpio": self.gpio}
            if self.fence is not None:
                more |= {"leases": self.leases, "fence": self.fence, "leases_expired": 0}
            return answer(status_body("b1", f=self.f, **more))
        if path != "/gpio":
            return answer(b"", status="404 Not Found")
        if self.refuses:
            return answer(b'{"error": "no"}', status=f"{self.refuses} No")
        for pin in map(int, form["pin"].split(",")):
            self.gpio[pin] = int(form["value"])
            self.leases.pop(pin, None)
            if "lease_s" in form:
                self.leases[pin] = {"left_s": int(form["lease_s"]), "safe": form["safe"]}
        return answer(b'{"id": "b1"}')

    @property
    def writes(self) -> list[dict[str, str]]:
        return [form for path, form in self.calls if path == "/gpio"]


class House:
    """One board with its target, visited as the collector does."""

    def __init__(self, wire: Wire, **more: Any) -> None:
        self.board = Board(wire)
        self.device = Device(id="b1", name="porch", address=wire.address(), **more)
        self.target = Target(self.device, 10.0)
        self.clock = ManualClock(NOW)
        self.memory = Memory()
        self.fence = 1
        self.lifted: list[int] = []
        self.lift: int | None = 1000

    async def lift_fence(self, grant: Grant, seen: int, most: int) -> Grant | None:
        self.lifted.append(seen)
        return None if self.lift is None else Grant(grant.id, grant.token, self.lift)

    async def visit(
        self, *jobs: Job, **others: Input
    ) -> tuple[Memory | None, dict[int, int], list[Any]]:
        """The memory to be stored, what was written, and the log of one visit."""
        self.clock.advance(10)
        self.fence += 1
        claim = Claim(self.device, None, NOW, Grant("b1", "me:1", self.fence), jobs, self.memory)
        sight = await self.target.read(claim, self.clock, TIMEOUT_S, self.clock.monotonic())
        reading = sight.reading(poll_s=0.1, interval_s=10.0, collector="here")
        given = gather(self.target.looks(jobs), sight, reading, others)
        with capture_logs() as log:
            memory, wrote = await act(
                self.target, claim, sight, given, self.lift_fence, self.clock, TIMEOUT_S
            )
        if memory is not None:
            self.memory = memory
        return memory, wrote, log


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


def visiting(wire: Wire, law: Callable[[House], Awaitable[None]], **device: Any) -> None:
    """Runs a law in a house of its own."""

    async def run() -> None:
        house = House(wire, **device)
        try:
            await law(house)
        finally:
            house.target.link.close()
            await asyncio.sleep(0)  # the transport closes its socket in the loop's next round

    asyncio.run(run())


def heater(source: str, **more: Any) -> Threshold:
    return Threshold(
        name="heater", pin=5, start="00:00", hours=24, zone="UTC", input=source, target=80,
        stale="off", **more,
    )  # fmt: skip


def test_a_difference_is_written_once_remembered_and_told(wire: Wire) -> None:
    """With lease, safe level and fence; afterwards nothing is written, told, or to be stored."""

    async def law(house: House) -> None:
        memory, wrote, log = await house.visit(ON)
        assert wrote == {4: 1}
        assert house.board.writes == [
            {
                **{"pin": "4", "value": "1", "lease_s": "30", "safe": "hold", "fence": "2"},
                "by": "override",
            }
        ]
        assert [(e["event"], e["pin"], e["to"], e["job"]) for e in log] == [
            ("pin.set", 4, "on", "override")
        ]
        assert memory is not None
        assert memory.is_fenced
        write = memory.writes[4]
        assert (write.at, write.level, write.problem) == (NOW + 10, 1, "")
        for _ in range(3):
            assert await house.visit(ON) == (None, {}, [])
        assert len(house.board.writes) == 1
        assert wire.connections["127.0.0.1"] == 1

    visiting(wire, law, safe={4: "hold"})


def test_a_refused_write_is_told_once_and_tried_at_every_visit(wire: Wire) -> None:
    """Its problem is remembered; when the board takes it, that is told and the problem is gone."""

    async def law(house: House) -> None:
        house.board.refuses = 500
        memory, wrote, log = await house.visit(ON)
        assert memory is not None
        assert wrote == {}
        assert "HTTP 500" in memory.writes[4].problem
        assert [event["event"] for event in log] == ["pin.refused"]
        _, _, log = await house.visit(ON)
        assert log == []
        assert len(house.board.writes) == 2
        house.board.refuses = 0
        memory, wrote, log = await house.visit(ON)
        assert memory is not None
        assert (wrote, memory.writes[4].problem) == ({4: 1}, "")
        assert [event["event"] for event in log] == ["pin.set"]

    visiting(wire, law)


def test_the_fence_is_shown_to_boards_that_know_it_and_to_no_others(wire: Wire) -> None:
    """The first visit asks plainly; later ones renew the leases on the way."""

    async def law(house: House) -> None:
        for _ in range(3):
            await house.visit()
        assert [path for path, _ in house.board.calls] == ["/", "/?fence=3", "/?fence=4"]
        house.board.fence = None
        house.board.calls.clear()
        for _ in range(2):
            await house.visit(ON)
        # It was given 2021 firmware: the question with the fence is asked once more, in vain.
        assert [path for path, _ in house.board.calls] == ["/?fence=5", "/", "/gpio", "/"]
        assert house.board.writes == [{"pin": "4", "value": "1"}]
        assert not house.memory.is_fenced

    visiting(wire, law)


def test_a_board_that_fails_is_a_board_error_whatever_it_was_asked(wire: Wire) -> None:
    """A refusal of the plain question is none of the fence's; a board in trouble is not asked twice."""

    async def law(house: House) -> None:
        asked = []
        wire.default = lambda host, request: asked.append(1) or answer(b"", status="500 Oops")
        for house.target.is_fenced in (False, True):
            with pytest.raises(BoardError, match="HTTP 500"):
                await house.visit(ON)
        assert len(asked) == 2
        wire.default = lambda host, request: answer(status_body("another"))
        with pytest.raises(BoardError, match="is another one"):
            await house.visit(ON)

    visiting(wire, law)


def test_a_board_that_knows_a_higher_fence_is_written_with_one_above_it(wire: Wire) -> None:
    """Redis lost its counter: it is lifted, also where nothing is to be written yet."""

    async def law(house: House) -> None:
        house.board.fence = 999
        await house.visit(ON)
        assert house.lifted == [999]
        assert house.board.writes[0]["fence"] == "1000"
        await house.visit(ON)
        assert house.lifted == [999, 999]

    visiting(wire, law)


def test_who_lost_the_lock_writes_nothing(wire: Wire) -> None:
    """The higher fence is somebody else's; nothing is remembered as written."""

    async def law(house: House) -> None:
        house.board.fence, house.lift = 999, None
        memory, wrote, log = await house.visit(ON)
        assert (house.board.writes, wrote, log) == ([], {}, [])
        assert memory is not None
        assert memory.writes == {}
        house.board.fence = 1
        assert (await house.visit(ON))[1] == {4: 1}

    visiting(wire, law)


def test_a_pin_switched_by_hand_or_by_a_reset_is_corrected(wire: Wire) -> None:
    """Each time it is told; a renewed lease is not."""

    async def law(house: House) -> None:
        await house.visit(ON)
        house.board.gpio[4], house.board.leases = 0, {}
        _, wrote, log = await house.visit(ON)
        assert (wrote, len(log)) == ({4: 1}, 1)
        house.board.leases = {}
        _, wrote, log = await house.visit(ON)
        assert (wrote, log) == ({4: 1}, [])
        assert len(house.board.writes) == 3

    visiting(wire, law)


def test_a_pin_that_the_board_does_not_report_is_told_once(wire: Wire) -> None:
    """It is written at every visit, for nobody knows what it is."""

    async def law(house: House) -> None:
        del house.board.gpio[4]
        logs = []
        for _ in range(3):
            logs += (await house.visit(OFF))[2]
            house.board.gpio.pop(4, None)
        assert len(house.board.writes) == 3
        assert len(logs) <= 1

    visiting(wire, law)


def test_a_board_s_own_reading_decides_its_pins_at_once(wire: Wire) -> None:
    """What others say of it is older; what others say of others is taken."""

    async def law(house: House) -> None:
        stale = {"porch.f": Input(200.0, NOW)}
        assert (await house.visit(heater("porch.f"), **stale))[1] == {5: 1}
        house.board.f = 95.0
        assert (await house.visit(heater("porch.f"), **stale))[1] == {5: 0}
        cold = {"attic.f": Input(20.0, NOW, 1e6)}
        assert (await house.visit(heater("attic.f"), **cold))[1] == {5: 1}
        _, wrote, log = await house.visit(heater("attic.f"))
        assert wrote == {5: 0}
        assert "was never seen" in log[0]["why"]

    visiting(wire, law)


def test_pins_without_a_job_are_never_touched(wire: Wire) -> None:
    """Neither without any job nor beside governed pins; writes of pins that are left are forgotten."""

    async def law(house: House) -> None:
        house.board.gpio = {2: 1, 4: 0, 5: 1}
        await house.visit()
        assert house.board.writes == []
        await house.visit(ON)
        assert house.board.gpio == {2: 1, 4: 1, 5: 1}
        off = msgspec.structs.replace(OFF, pin=2)
        memory, _, _ = await house.visit(off)
        assert memory is not None
        assert set(memory.writes) == {2}
        assert house.board.gpio == {2: 0, 4: 1, 5: 1}

    visiting(wire, law)


def test_a_clock_that_was_set_back_is_decided_anew(wire: Wire) -> None:
    """What was settled for later is not settled for now."""

    async def law(house: House) -> None:
        for _ in range(3):
            await house.visit(OFF)
        claim = Claim(house.device, None, NOW, Grant("b1", "me:1", 99), (OFF,), house.memory)
        house.clock.advance(10)
        sight = await house.target.read(claim, house.clock, TIMEOUT_S, house.clock.monotonic())
        await act(house.target, claim, sight, {}, house.lift_fence, house.clock, TIMEOUT_S)
        assert house.target.is_settled(claim, sight, {})
        sight.at -= 3600
        assert not house.target.is_settled(claim, sight, {})

    visiting(wire, law)


HEATER = Threshold(
    name="heater",
    pin=4,
    start="00:00",
    hours=24,
    zone="UTC",
    input="x.f",
    target=70,
    band=1,
    stale="off",
)


@pytest.mark.parametrize(
    ("value", "late_s", "stands"),
    [
        (80.0, 0.0, True),
        (71.0, 0.0, True),  # the edge of the band is on the same side
        (70.5, 0.0, False),
        (60.0, 0.0, False),
        (float("nan"), 0.0, False),
        (float("inf"), 0.0, False),
        (None, 0.0, False),
        (80.0, 1.0, False),  # a value that does not come from this very visit
    ],
)
def test_what_is_settled_is_decided_anew_when_its_input_changes_sides(
    wire: Wire, value: float | None, late_s: float, stands: bool
) -> None:
    """A settled decision stands for values on the same side that were read just now, and no others."""

    async def law(house: House) -> None:
        memory = house.memory
        for _ in range(3):
            claim = Claim(house.device, None, NOW, Grant("b1", "me:1", 99), (HEATER,), memory)
            sight = await house.target.read(claim, house.clock, TIMEOUT_S, house.clock.monotonic())
            given = {"x.f": Input(90.0, sight.at, 10.0, "f")}
            new, _ = await act(
                house.target, claim, sight, given, house.lift_fence, house.clock, TIMEOUT_S
            )
            memory = new or memory
        assert new is None
        assert house.target.is_settled(claim, sight, given)
        given = {"x.f": Input(value, sight.at - late_s, 10.0, "f")}
        assert house.target.is_settled(claim, sight, given) is stands
        assert not house.target.is_settled(claim, sight, {})

    visiting(wire, law)
