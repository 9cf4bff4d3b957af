"""Updates of several boards: what is recorded of them, and what is to be done next. Pure: no I/O, no clock.

::

    queued ─▶ sending ─▶ trial ─▶ done          skipped: it runs that build already
       ▲         │          └───▶ failed        failed before anything was sent: it cannot be updated so
       └ offline ┘

Invariants: a board that was begun has a wave; waves are one board, then a tenth of all, then the rest, and
one begins when all of the one before it are done. A board that failed in a wave halts the rollout: no
board is begun after that. A board that cannot be reached, or cannot be updated at all, says nothing about
the new version, so it is in no wave.
"""

import math
from collections.abc import Container, Sequence
from typing import Literal, NamedTuple

import msgspec

from espnet.model import Reading

State = Literal["queued", "sending", "trial", "done", "failed", "skipped", "offline"]
#: What a driver has in hand; and what is still to come.
UNDER_WAY: tuple[State, ...] = ("sending", "trial")
WAITING: tuple[State, ...] = ("queued", "offline")
#: A board that could not be reached is tried again when it was polled since, or after so many seconds; the
#: second is for those whose polls go on meanwhile.
RETRY_S, RETRY_POLLED_S = 60.0, 900.0
#: A version that leaves less free heap than this eats too much, whatever was free before, in bytes.
HEAP_FLOOR = 4096


class Before(msgspec.Struct, frozen=True, kw_only=True):
    """What a board was and what worked on it before it was updated: that must work afterwards."""

    version: str | None = None
    build: str | None = None
    mem_free: int | None = None
    has_f: bool = False
    pins: tuple[int, ...] = ()
    dht22: tuple[str, ...] = ()
    adc: tuple[int, ...] = ()


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far one board is. ``number`` is its place in the rollout, ``wave`` 0 while it is in none.

    ``since`` is when it came into its state (Unix seconds). ``sent`` of ``total`` bytes are on the board.
    ``boots`` is what it had counted when it was told to switch, at ``switched_at``. ``reason`` is the end of
    a sentence: why it failed, waits, or what is odd about it now.
    """

    id: str
    name: str
    number: int
    state: State = "queued"
    wave: int = 0
    since: float = 0.0
    sent: int = 0
    total: int = 0
    boots: int | None = None
    switched_at: float | None = None
    reason: str = ""
    before: Before | None = None


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One order to update boards to one release. ``minutes`` is how long a board tries it unconfirmed,
    ``settle_s`` how long it must work before it is confirmed.

    ``running`` goes on while a board waits, ``halted`` needs a person, ``stopped`` was ended by one.
    """

    id: str
    build: str
    version: str
    minutes: int
    settle_s: float
    at: float
    state: Literal["running", "halted", "done", "stopped"] = "running"
    reason: str = ""


class Step(NamedTuple):
    """What is next: boards to begin, by their ids, all in one wave; or another state of the rollout."""

    begin: tuple[str, ...] = ()
    wave: int = 0
    state: Literal["halted", "done"] | None = None
    reason: str = ""


def wave_sizes(boards: int) -> tuple[float, float, float]:
    """How many boards the three waves of a rollout have at most."""
    return (1, max(1, boards // 10), math.inf)


def decide(
    rollout: Rollout,
    boards: Sequence[Progress],
    *,
    now: float,
    most: int,
    back: Container[str] = (),
    retry_s: float = RETRY_S,
) -> Step:
    """What is next, with at most ``most`` boards under way at once; ``back`` are boards that were offline and
    have been heard of since. What is under way is never stopped by this: it is brought to its end."""
    if rollout.state != "running":
        return Step()
    if bad := [board for board in boards if board.state == "failed" and board.wave]:
        return Step(state="halted", reason=f"{bad[0].name} {bad[0].reason}")
    under_way = [board for board in boards if board.state in UNDER_WAY]
    if not under_way and not any(board.state in WAITING for board in boards):
        return Step(state="done")
    wave = max((board.wave for board in boards), default=0) or 1
    members = [board for board in boards if board.wave == wave]
    sizes = wave_sizes(len(boards))
    if len(members) >= sizes[wave - 1] and all(board.state == "done" for board in members):
        wave, members = wave + 1, []
    room = min(most - len(under_way), sizes[wave - 1] - len(members))
    ready = [board for board in boards if board.state == "queued"]
    ready += [
        board
        for board in boards
        if board.state == "offline" and (board.id in back or now - board.since >= retry_s)
    ]
    return Step(tuple(board.id for board in ready[: max(int(min(room, most)), 0)]), wave)


def is_idle(rollout: Rollout, boards: Sequence[Progress]) -> bool:
    """Whether nothing is in anybody's hands, nor will be until a board comes back, or a person comes."""
    if any(board.state in UNDER_WAY for board in boards):
        return False
    return rollout.state != "running" or all(board.state != "queued" for board in boards)


def resumed(
    rollout: Rollout, boards: Sequence[Progress], *, again: bool
) -> tuple[Rollout, list[Progress]]:
    """The rollout as it goes on after a person looked at it: boards that failed are out of their wave, so
    that they halt it no more; with ``again`` they are tried once more."""
    changed = []
    for board in boards:
        if board.state == "failed":
            state: State = "queued" if again else "failed"
            reason = "" if again else board.reason
            board = msgspec.structs.replace(board, wave=0, state=state, reason=reason)
        changed.append(board)
    return msgspec.structs.replace(rollout, state="running", reason=""), changed


def before_of(reading: Reading) -> Before:
    """What a board's reading says of what works on it."""
    status = reading.decoded()
    return Before(
        version=status.version,
        build=status.build,
        mem_free=status.mem_free,
        has_f=status.f is not None,
        pins=tuple(sorted(status.gpio)),
        dht22=tuple(sorted(reading.dht22)),
        adc=tuple(sorted(reading.adc)),
    )


def problem_with(before: Before, reading: Reading, build: str) -> str:
    """What is wrong with a board that tries ``build``, as the end of a sentence; "" where all that worked
    before works."""
    status = reading.decoded()
    if reading.denied:
        return reading.denied
    if status.build != build:
        return f"runs {status.build or 'a version without a build'}, not {build}"
    if status.safe_mode:
        return "is in safe mode"
    if before.has_f and status.f is None:
        return "no longer tells its temperature"
    if lost := sorted(set(before.pins) - set(status.gpio)):
        return f"no longer has pin {', '.join(map(str, lost))}"
    for sensor in before.dht22:
        if sensor not in reading.dht22:
            said = reading.dht22_errors.get(sensor)
            if said is not None:  # else a person took it away meanwhile
                return f"no longer reads its DHT22 {sensor}: it {said}"
    for pin in before.adc:
        if pin not in reading.adc and (said := reading.adc_errors.get(pin)) is not None:
            return f"no longer reads the ADC of pin {pin}: it {said}"
    if status.mem_free is not None and before.mem_free is not None:
        least = max(HEAP_FLOOR, before.mem_free // 2)
        if status.mem_free < least:
            return f"has {status.mem_free} bytes of heap free, of {before.mem_free} before"
    return ""


_rollout_decoder = msgspec.json.Decoder(Rollout)
_progress_decoder = msgspec.json.Decoder(Progress)


def decode_rollout(raw: bytes) -> Rollout:
    return _rollout_decoder.decode(raw)


def decode_progress(raw: bytes) -> Progress:
    return _progress_decoder.decode(raw)
