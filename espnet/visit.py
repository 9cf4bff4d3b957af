"""One visit to one board, on one connection, under one lock: read it, decide its pins, write the rest.

Invariants: everything ends by the visit's deadlines, which the lock outlasts. Reading comes first and
renews the board's leases; sensors come before deciding, so that a board's own sensors decide its own
pins at once. A write that fails is remembered, and tried again by the next visit. A board that has a
password of ours proves every answer that decides anything; without a proof it is read, and no more.

Events: ``pin.set`` ``pin.refused`` ``board.denied``.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import structlog

from espnet import inputs, jobs, trip
from espnet.board.calls import (
    GET_BASIC,
    parse_adc,
    parse_climate,
    parse_status,
    read_adc,
    read_dht22,
    set_gpio,
)
from espnet.board.digest import Login
from espnet.board.link import Link, request_bytes
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
    Reading,
    Threshold,
    Write,
)
from espnet.series import tags_of
from espnet.store import MAX_FENCE_PROVED, MAX_FENCE_SEEN, Claim, Grant
from espnet.trip import Order, Sight

log = structlog.get_logger()

#: Gives a grant a fence above one that a board has seen, if that is at most the third number; None when it is
#: not, and when the grant's lock is gone.
LiftFence = Callable[[Grant, int, int], Awaitable[Grant | None]]


#: For so long a board that refused our password is asked without one, in seconds; the pause doubles from
#: the first to the second. Boards slow down for wrong passwords (one in ten seconds), and each try delays
#: the reading; but a lease that is not renewed may end in 15.
DENIED_S, DENIED_MAX_S = 5.0, 60.0

_NOTHING = Input()


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


class Target:
    """A board as the collector knows it between visits: its link, and what never changes."""

    def __init__(self, device: Device, interval_s: float) -> None:
        self.device = device
        self.link = Link(device.address)
        self.interval_s = device.interval_s or interval_s
        self.tags = tags_of(device)
        # b"GET /", and what follows when the fence was put in between.
        method, path, rest = request_bytes(device.address, GET_BASIC).partition(b"/")
        self._get, self._get_rest = method + path, rest
        #: Whether the board knows leases and fences, as far as it was seen; all that know passwords do.
        self.is_fenced = bool(device.credential)
        self.get_dht22 = {
            name: request_bytes(device.address, read_dht22(pin))
            for name, pin in device.dht22.items()
        }
        self.get_adc = {
            pin: request_bytes(device.address, read_adc(pin, how.power_pin, how.samples))
            for pin, how in device.adc.items()
        }
        self.claimed_at = 0.0
        self._settled: Settled | None = None
        self._login: Login | None = None
        self._password_problem = ""
        self._denied_until, self._denied_for_s = -math.inf, DENIED_S
        #: Why the board does not let us control it: the end of a sentence, "" where it does.
        self.denied = ""
        self._told = ""

    def wants_login(self, now_s: float) -> bool:
        """Whether a password should be fetched at this monotonic time: there is one that nobody gave us
        yet, or the board refused it and it is time to try again."""
        if not self.device.credential:
            return False
        return self._login is None or (bool(self.denied) and now_s >= self._denied_until)

    def log_in(self, credential: Credential) -> None:
        """Gives the passwords for the device, or why there are none."""
        self._password_problem = credential.problem
        if credential.passwords:
            passwords = credential.passwords
            self._login = Login(self.device.id, lambda _: passwords)
            self._admit()

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
            settled.decisions, claim.jobs, self.device, status, self.interval_s
        )

    async def read(self, claim: Claim, clock: Clock, timeout_s: float) -> Sight:
        """What the board and its sensors say; raises `BoardError` when the board says nothing.

        A board that knows leases is shown the fence, which renews them all, and takes the password.
        Whether it knows them is known from its last answer; 2021 firmware knows no path with a query, and
        a board may have been given it since. The board gets ``timeout_s`` for its answer, the sensors as
        much again for all of them.

        Where there is a password for the board, only a proof that it knows it makes its word count: what it
        says without one is shown, and decides nothing (`Sight.is_doubted`).
        """
        address, has_password = self.device.address, bool(self.device.credential)
        began = clock.monotonic()
        end = began + 2 * timeout_s
        if self.denied and began >= self._denied_until:
            self._admit()
        fenced = self.is_fenced or claim.memory.is_fenced or has_password
        fenced = fenced and not self.denied
        query = b"?fence=%d" % claim.grant.fence if fenced else b""
        try:
            try:
                body = await self.link.exchange(self._get + query + self._get_rest, timeout_s)
            except BoardError as error:
                # A board in trouble (5xx) is not asked twice.
                if not fenced or error.kind not in ("http", "denied") or (error.status or 0) >= 500:
                    raise
                if error.kind == "denied":
                    self._refused(error, began)
                fenced = False
                body = await self._ask(self._get + self._get_rest, end, clock, timeout_s)
        except BoardError as error:
            if error.kind != "denied":
                raise
            self._refused(error, began)
            raise BoardError(address, "denied", self.denied, error.status) from error
        sight = Sight(clock.now(), body, parse_status(address, body, self.device.id))
        self.is_fenced = sight.status.fence is not None
        if not has_password:
            if not sight.status.claimed:
                self._admit()  # whoever had claimed it made it open again
        elif fenced and self._is_proved():
            self._denied_for_s, self._told = DENIED_S, ""
        else:
            sight.is_doubted = True
            if sight.status.claimed:
                self._deny("does not prove that it knows its password", began)
            else:
                self._deny("is open, though EspNet gave it a password", began)
        sight.denied = self.denied
        for name, request in self.get_dht22.items():
            try:
                answer = await self._ask(request, end, clock, timeout_s)
                sight.climates[name] = parse_climate(address, answer)
            except BoardError as error:
                sight.climate_errors[name] = self.said(error)
        for pin, request in self.get_adc.items():
            try:
                sight.adc[pin] = parse_adc(address, await self._ask(request, end, clock, timeout_s))
            except BoardError as error:
                sight.adc_errors[pin] = self.said(error)
        return sight

    @property
    def found(self) -> Password | None:
        """The password that the board takes, where it is not the one that is tried first."""
        login = self.link.login
        return login.password if login is not None and login.is_another else None

    async def order(self, request: bytes, timeout_s: float) -> bytes:
        """The answer to a request that takes the password; raises `BoardError`, also where the answer does
        not prove that it is the board's, if it is to prove it."""
        if self.denied:
            raise BoardError(self.device.address, "denied", self.denied)
        body = await self.link.exchange(request, timeout_s)
        if self.device.credential and not self._is_proved():
            what = "does not prove that it knows its password"
            raise BoardError(self.device.address, "wrong_id", what)
        return body

    def _is_proved(self) -> bool:
        return self.link.login is not None and self.link.login.is_proved

    def said(self, error: BoardError) -> str:
        """What the board has against a call, or against us."""
        return self.denied if error.kind == "denied" and self.denied else error.what

    def _refused(self, error: BoardError, now_s: float) -> None:
        """The board does not take our password, or we have none."""
        if error.status == 429:
            self._deny("was asked with wrong passwords too often", now_s)
        elif self._login is not None:
            self._deny("does not take EspNet's password", now_s)
        elif self.device.credential:
            problem = self._password_problem or "could not be fetched: Redis is away"
            self._deny(f"is claimed, and EspNet's password for it {problem}", now_s)
        else:
            self._deny("is claimed, and EspNet has no password for it", now_s)

    def _deny(self, why: str, now_s: float) -> None:
        """For a while the board is asked for nothing that takes the password, and then once more."""
        if not self.denied:
            self.denied = why
            self._denied_until = now_s + self._denied_for_s
            self._denied_for_s = min(2 * self._denied_for_s, DENIED_MAX_S)
        self.link.login = None
        if self.denied != self._told:
            self._told = self.denied
            log.warning("board.denied", name=self.device.name, reason=self.denied)

    def _admit(self) -> None:
        self.denied, self.link.login = "", self._login

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
    todo = trip.orders(decisions, claim.jobs, target.device, sight.status, target.interval_s)
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
        return target.said(error)
    return ""


def gather(
    claim: Claim, sight: Sight, reading: Reading, others: Mapping[str, Input]
) -> dict[str, Input]:
    """What the device's thresholds look at: its own values from this very visit, and ``others``."""
    found = {}
    for job in claim.jobs:
        if isinstance(job, Threshold):
            source = inputs.parse(job.input)
            if source.device == claim.device.name:
                found[job.input] = inputs.from_reading(source, reading, sight.status)
            elif job.input in others:
                found[job.input] = others[job.input]
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
