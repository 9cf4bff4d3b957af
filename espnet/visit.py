"""One visit to one board, on one connection, under one lock: read it, decide its pins, write the rest.

Invariants: everything ends by the visit's deadlines, which the lock outlasts. Reading comes first and
renews the board's leases; sensors come before deciding, so that a board's own sensors decide its own
pins at once. A write that fails is remembered, and tried again by the next visit. A board that has a
password of ours proves every answer: what is not proved is a failure, as if nobody had answered.

Events: ``pin.set`` ``pin.refused``.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from espnet import inputs, jobs, trip
from espnet.board.calls import (
    GET_BASIC,
    UNPROVED,
    parse_adc,
    parse_climate,
    parse_status,
    read_adc,
    read_dht22,
    require_done,
    set_gpio,
)
from espnet.board.digest import Login
from espnet.board.link import Link, request_bytes
from espnet.board.round import Asked, Round
from espnet.clock import Clock
from espnet.credential import Credential, Password
from espnet.errors import BoardError
from espnet.model import (
    Decision,
    Device,
    Input,
    Job,
    Memory,
    Observed,
    Override,
    Pace,
    Reading,
    Threshold,
    Write,
)
from espnet.pace import factor_of, slow_s
from espnet.series import pins_of, tags_of
from espnet.store import MAX_FENCE_PROVED, MAX_FENCE_SEEN, Claim, Grant
from espnet.trip import Order, Sight

log = structlog.get_logger()

#: Gives a grant a fence above one that a board has seen, if that is at most the third number; None when it is
#: not, and when the grant's lock is gone.
LiftFence = Callable[[Grant, int, int], Awaitable[Grant | None]]


#: What a board that somebody else has claimed has against us.
NO_PASSWORD = "is claimed, and EspNet has no password for it"

_NOTHING = Input()
#: Of a board without sensors, what they said. Nobody writes into it.
_NONE: dict[Any, Any] = {}


class Settled(NamedTuple):
    """Decisions that needed no write, and what they rested on: while that stands, so do they.

    ``sides`` are the thresholds with the edges of their bands and the side that their input was on: of
    a value that is not stale, deciding makes nothing more.
    """

    jobs: Sequence[Job]
    memory: Memory
    levels: list[tuple[int, int]]
    sides: list[tuple[Threshold, float, float, int]]
    since: float
    until: float
    decisions: Mapping[int, Decision]


class Looks(NamedTuple):
    """What the jobs of a device look at, and the pins that they govern."""

    jobs: Sequence[Job]
    #: Inputs of the device's own, and all others.
    own: Sequence[tuple[str, inputs.Source]]
    others: Sequence[str]
    #: The pins that are sampled; None where that is for the clock to say.
    pins: Mapping[int, None] | None


def looks_of(device: Device, jobs: Sequence[Job]) -> Looks:
    """It changes with the jobs only, and they seldom do."""
    own, others = [], []
    for job in jobs:
        if isinstance(job, Threshold):
            source = inputs.parse(job.input)
            if source.device == device.name:
                own.append((job.input, source))
            else:
                others.append(job.input)
    ends = any(isinstance(job, Override) for job in jobs)
    return Looks(jobs, own, others, None if ends else pins_of(device, jobs, 0.0))


class Target:
    """A board as the collector knows it between visits: its link, and what never changes."""

    def __init__(self, device: Device, interval_s: float) -> None:
        self.device = device
        self.link = Link(device.address)
        self.asked_s = device.interval_s or interval_s
        self.pace_as(None)
        #: When the next poll is due, as this collector left it: another date means that others were here.
        self.next_due = 0.0
        self.tags = tags_of(device)
        # b"GET /", and what follows when the fence was put in between.
        method, path, rest = request_bytes(device.address, GET_BASIC).partition(b"/")
        self._get, self._get_rest = method + path, rest
        #: Whether the board knows leases and fences, as far as it was seen.
        self.is_fenced = False
        self.get_dht22 = {
            name: request_bytes(device.address, read_dht22(pin))
            for name, pin in device.dht22.items()
        }
        self.get_adc = {
            pin: request_bytes(device.address, read_adc(pin, how.power_pin, how.samples))
            for pin, how in device.adc.items()
        }
        self.claimed_at = 0.0
        #: Until when the device's lock is surely ours, in monotonic seconds.
        self.locked_until = 0.0
        self._settled: Settled | None = None
        self._looks = looks_of(device, ())
        #: Whether somebody else has claimed the board: then it can be read, and not controlled.
        self.is_foreign = False
        self._is_asked_for = False

    def pace_as(self, pace: Pace | None) -> None:
        """From now on the board is polled, and everything about it reckoned, at this pace."""
        self.pace = pace
        self.interval_s = self.asked_s * factor_of(pace)
        #: From how many seconds on its answer is slow.
        self.slow_s = slow_s(self.interval_s)

    @property
    def wants_login(self) -> bool:
        """Whether the passwords should be fetched: nobody gave us any yet, or the board refused them."""
        return bool(self.device.credential) and self.link.login is None

    @property
    def is_locked_out(self) -> bool:
        """Whether there are passwords that we could not get: that is our fault, and not the board's."""
        return self.wants_login and not self._is_asked_for

    def log_in(self, credential: Credential | None) -> None:
        """Gives what Redis keeps for the device; None where that is nothing."""
        self._is_asked_for = credential is None
        if credential is not None and credential.passwords:
            passwords = credential.passwords
            self.link.login = Login(self.device.id, lambda _: passwords)

    def looks(self, jobs: Sequence[Job]) -> Looks:
        """What these jobs look at: the store hands out the same ones until they change."""
        if self._looks.jobs is not jobs:
            self._looks = looks_of(self.device, jobs)
        return self._looks

    def settle(self, claim: Claim, sight: Sight, given: Mapping[str, Input]) -> None:
        """Notes that what was decided needed no write and is no news, if that can last.

        In the steady state of a fleet that is nearly always, and looking costs less than deciding.
        Inputs of other devices grow old without this board's doing: with them, nothing is noted.
        """
        self._settled = None
        thresholds = [job for job in claim.jobs if isinstance(job, Threshold)]
        looked = [given.get(job.input, _NOTHING) for job in thresholds]
        if all(i.at == sight.at and i.value is not None for i in looked):
            observed = Observed(sight.status.gpio, claim.memory)
            # Values that come with every answer do not grow old between two of them.
            decisions = jobs.decide(claim.jobs, given, observed, sight.at, aged_to=sight.at)
            self._settled = Settled(
                claim.jobs,
                claim.memory,
                [(pin, decision.level) for pin, decision in decisions.items()],
                [
                    (job, *jobs.edges(job), jobs.side(job, i))
                    for job, i in zip(thresholds, looked, strict=True)
                ],
                sight.at,
                min((d.until for d in decisions.values() if d.until), default=math.inf),
                decisions,
            )

    def is_settled(self, claim: Claim, sight: Sight, given: Mapping[str, Input]) -> bool:
        """Whether deciding anew would say and write what it did last time: nothing."""
        settled, status, at = self._settled, sight.status, sight.at
        if (
            settled is None
            # The store hands out the same objects for the same bytes.
            or settled.jobs is not claim.jobs
            or settled.memory is not claim.memory
            or not settled.since <= at < settled.until  # a clock may be set back
            or (status.fence or 0) > claim.grant.fence
        ):
            return False
        has_on = False
        for pin, level in settled.levels:
            if status.gpio.get(pin) != level:
                return False
            has_on = has_on or level == 1
        for job, low, high, side in settled.sides:
            looked = given.get(job.input, _NOTHING)
            if looked.at != at or looked.value is None or not math.isfinite(looked.value):
                return False
            value = jobs.value_of(job, looked.value, looked.unit)
            if (value >= high) - (value <= low) != side:
                return False
        return not has_on or not trip.orders(  # an ON may want its lease
            settled.decisions,
            claim.jobs,
            self.device,
            status,
            self.interval_s,
            is_renewed=status.fence == claim.grant.fence,
        )

    def ask(self, claim: Claim, round_: "Round[tuple[Claim, Target]]") -> bool:
        """Begins a visit the quick way: asks the board with others, and answers whether it did.

        It does not where more than one answer is needed, or a new connection.
        """
        if self.get_dht22 or self.get_adc or not self.link.is_open:
            return False
        query, _ = self._query(claim)
        return round_.ask(self.link, self._get + query + self._get_rest, (claim, self))

    def glance(self, asked: "Asked[tuple[Claim, Target]]") -> Sight | None:
        """What the board said, if that is all that `read` would ask; None where `read` has to go on."""
        assert asked.outcome is not None
        body = self.link.end(asked.outcome)
        if body is None:
            return None
        sight = self._sight(body, asked.at)
        sight.answer_s = asked.ended - asked.began
        return sight

    async def read(
        self,
        claim: Claim,
        clock: Clock,
        timeout_s: float,
        began: float,
        asked: "Asked[tuple[Claim, Target]] | None" = None,
    ) -> Sight:
        """What the board and its sensors say, in a visit that ``began`` then (monotonic seconds); raises
        `BoardError` when the board says nothing, and, where there is a password for it, when it does not
        prove that it knows that.

        A board that knows leases is shown the fence, which renews them all, and takes the password.
        Whether it knows them is known from its last answer; 2021 firmware knows no path with a query, and
        a board may have been given it since. The board gets ``timeout_s`` for its answer, the sensors as
        much again for all of them; a board that asks for the password first may take that time, too, or a
        slow one could never be read by who is new to it. With ``asked`` the board was asked already, and this
        goes on from there.
        """
        query, is_plain_enough = self._query(claim)
        address = self.device.address
        end = began + 2 * timeout_s
        begun = asked.begun() if asked else None
        try:
            try:
                request = self._get + query + self._get_rest
                body = await self.link.exchange(request, timeout_s, begun, login_s=timeout_s)
            except BoardError as error:
                # 2021 firmware. A board in trouble (5xx) is not asked twice.
                is_told = error.kind in ("http", "denied") and (error.status or 0) < 500
                if not (query and is_plain_enough and is_told):
                    raise
                body = await self._ask(self._get + self._get_rest, end, clock, timeout_s)
        except BoardError as error:
            raise self._explained(error) from error
        answer_s = clock.monotonic() - began
        sight = self._sight(body, clock.now())
        sight.answer_s = answer_s
        for name, request in self.get_dht22.items():
            try:
                answer = await self._ask(request, end, clock, timeout_s)
                sight.climates[name] = parse_climate(address, answer)
            except BoardError as error:
                sight.climate_errors[name] = error.what
        for pin, request in self.get_adc.items():
            try:
                sight.adc[pin] = parse_adc(address, await self._ask(request, end, clock, timeout_s))
            except BoardError as error:
                sight.adc_errors[pin] = error.what
        return sight

    def _query(self, claim: Claim) -> tuple[bytes, bool]:
        """What is asked after the path, and whether the board may be asked without it."""
        has_password = bool(self.device.credential)
        fenced = has_password or (
            (self.is_fenced or claim.memory.is_fenced) and not self.is_foreign
        )
        return b"?fence=%d" % claim.grant.fence if fenced else b"", not has_password

    def _sight(self, body: bytes, at: float) -> Sight:
        """The board's answer, which came at ``at``; raises `BoardError` where it is another board's, makes no
        sense or is not proved."""
        address, has_password = self.device.address, bool(self.device.credential)
        status = parse_status(address, body, self.device.id)
        if self.get_dht22 or self.get_adc:
            sight = Sight(at, body, status, {}, {}, {}, {})
        else:  # most boards; the same map for all, because making four costs as much as all else here
            sight = Sight(at, body, status, _NONE, _NONE, _NONE, _NONE)
        if has_password and not self._is_proved():
            if sight.status.claimed:
                raise BoardError(address, "unproved", UNPROVED)
            what = "is open, though EspNet gave it a password"
            raise BoardError(address, "unclaimed", what)
        self.is_fenced = sight.status.fence is not None
        self.is_foreign = bool(sight.status.claimed) and not has_password
        sight.denied = NO_PASSWORD if self.is_foreign else ""
        return sight

    async def order(self, request: bytes, timeout_s: float) -> bytes:
        """The answer to a request that takes the password; raises `BoardError`, also where the answer does
        not prove that it is the board's, if it is to prove it."""
        if self.is_foreign:
            raise BoardError(self.device.address, "denied", NO_PASSWORD)
        try:
            body = await self.link.exchange(request, timeout_s)
        except BoardError as error:
            raise self._explained(error) from error
        if self.device.credential:
            if not self._is_proved():
                raise BoardError(self.device.address, "unproved", UNPROVED)
            require_done(self.device.address, body)
        return body

    @property
    def found(self) -> Password | None:
        """The password that the board takes, where it is not the one that is tried first."""
        login = self.link.login
        return login.password if login is not None and login.is_another else None

    def _is_proved(self) -> bool:
        return self.link.login is not None and self.link.login.is_proved

    def _explained(self, error: BoardError) -> BoardError:
        """What the board has against us, in our words; another password may have come to Redis meanwhile."""
        if error.kind != "denied":
            return error
        what = "was asked with wrong passwords too often"
        if error.status != 429:
            what = "does not take EspNet's password" if self.link.login else NO_PASSWORD
        self.link.login = None
        return BoardError(self.device.address, "denied", what, error.status, facts=error.facts)

    async def _ask(self, request: bytes, end: float, clock: Clock, timeout_s: float) -> bytes:
        left_s = end - clock.monotonic()
        if left_s <= 0:
            what = "not read: the board took too long before its turn"
            raise BoardError(self.device.address, "timeout", what)
        ask = self.order if request[:4] == b"POST" else self.link.exchange
        return await ask(request, min(left_s, timeout_s))


def most_fence(device: Device) -> int:
    """The highest fence that is believed of a board. Everybody can show an open one any."""
    return MAX_FENCE_PROVED if device.credential else MAX_FENCE_SEEN


async def act(
    target: Target,
    claim: Claim,
    sight: Sight,
    given: Mapping[str, Input],
    lift_fence: LiftFence,
    clock: Clock,
    timeout_s: float,
) -> tuple[Memory | None, dict[int, int]]:
    """Decides the board's pins and writes what differs.

    Returns the memory (None where it is what it was) and the levels written.
    """
    now = sight.at
    uptime_s = sight.status.uptime_s
    booted_at = now - uptime_s if uptime_s is not None else None
    observed = Observed(sight.status.gpio, claim.memory, booted_at)
    decisions = jobs.decide(claim.jobs, given, observed, now)
    todo = trip.orders(
        decisions,
        claim.jobs,
        target.device,
        sight.status,
        target.interval_s,
        is_renewed=sight.status.fence == claim.grant.fence,
    )
    written: dict[int, int] = {}
    writes = {pin: write for pin, write in claim.memory.writes.items() if pin in decisions}
    grant: Grant | None = claim.grant
    if sight.status.fence is not None and sight.status.fence > claim.grant.fence:
        # Redis forgot its counter, and the board renews nothing for the low number it was shown; or
        # the lock went to somebody else meanwhile, and nothing may be written.
        grant = await lift_fence(claim.grant, sight.status.fence, most_fence(target.device))
    if todo and grant is None and (sight.status.fence or 0) > most_fence(target.device):
        problem = (
            "has seen a fence that no controller ever had: somebody made it up; restart the board"
        )
        for order in todo:
            for pin in order.pins:
                _tell(claim, decisions[pin], sight, writes.get(pin), problem)
                writes[pin] = Write(clock.now(), decisions[pin].level, problem)
    elif todo and grant is not None:
        end = clock.monotonic() + timeout_s
        for order in todo:
            by = [decisions[pin].winner.job for pin in order.pins]
            problem = await _write(target, order, by, grant, sight, end, clock)
            for pin in order.pins:
                _tell(claim, decisions[pin], sight, writes.get(pin), problem)
                writes[pin] = Write(clock.now(), decisions[pin].level, problem)
                if not problem:
                    written[pin] = order.level
    memory = jobs.remember(claim.jobs, decisions, observed, now, written)
    memory = Memory(memory.pins, memory.jobs, writes, sight.status.fence is not None)
    if memory != claim.memory:
        return memory, written
    if not todo:
        target.settle(claim, sight, given)
    return None, written


async def _write(
    target: Target,
    order: Order,
    by: Sequence[str],
    grant: Grant,
    sight: Sight,
    end: float,
    clock: Clock,
) -> str:
    """Writes one order of these jobs; returns what the board has against it, "" when it did it."""
    call = set_gpio(
        order.pins,
        order.level,
        lease_s=order.lease_s,
        safe=order.safe,
        fence=grant.fence if sight.status.fence is not None else None,
        by=by if sight.status.fence is not None else (),
    )
    left_s = end - clock.monotonic()
    if left_s <= 0:
        return "took too long before its turn"
    try:
        await target.order(request_bytes(target.device.address, call), left_s)
    except BoardError as error:
        return error.what
    return ""


def gather(
    looks: Looks, sight: Sight, reading: Reading, others: Mapping[str, Input]
) -> dict[str, Input]:
    """What the device's thresholds look at: its own values from this very visit, and ``others``."""
    status = sight.status
    found = {text: inputs.from_reading(source, reading, status) for text, source in looks.own}
    for text in looks.others:
        if text in others:
            found[text] = others[text]
    return found


def _tell(
    claim: Claim, decision: Decision, sight: Sight, before: Write | None, problem: str
) -> None:
    """One line for each pin that changes, and one when writing begins to fail; none for renewals."""
    device, last = claim.device, claim.memory.pins.get(decision.pin)
    # Where the board does not report the pin, it is as it was left.
    was = sight.status.gpio.get(decision.pin, last.level if last else None)
    if problem:
        if before is None or before.problem != problem:
            log.warning("pin.refused", name=device.name, pin=decision.pin, reason=problem)
    elif was != decision.level:
        log.info(
            "pin.set",
            name=device.name,
            pin=decision.pin,
            to="on" if decision.level else "off",
            job=decision.winner.job,
            why=decision.winner.why,
        )
