"""The boards that one collector knows, each with a connection that is kept until another one has the board.

Invariants: a board has few places, so what was let go is closed at once, or as soon as the visit that is
under way has ended. A device whose record changed is a new board here.

Events: ``heartbeat.slow``.
"""

import math
from collections.abc import Iterable, Sequence

import structlog

from espnet.clock import Clock
from espnet.model import Device
from espnet.store import Claim
from espnet.visit import Target

#: A link whose device was not claimed here for so long is closed: another collector has it now.
FORGET_LINK_S = 120.0

log = structlog.get_logger()


class Targets:
    """``interval_s`` is for devices without one of their own. ``beat_s`` is the time between two ticks: what
    is to be polled more often is said, once."""

    def __init__(self, clock: Clock, interval_s: float, beat_s: float = 0.0) -> None:
        self._clock, self._interval_s, self._beat_s = clock, interval_s, beat_s
        self._known: dict[str, Target] = {}
        #: Devices that are somebody else's now, and whose last visit here is not yet over.
        self._leaving: set[str] = set()
        #: When `forget` looks again, in monotonic seconds.
        self._forget_at = 0.0

    def known(self, device: Device) -> Target | None:
        """The board, if the device is as it was when it was last claimed here."""
        target = self._known.get(device.id)
        return target if target is not None and target.device is device else None

    def has(self, target: Target) -> bool:
        """Whether nobody else took its place."""
        return self._known.get(target.device.id) is target

    def of(self, device: Device) -> Target:
        """The board of a device that was claimed just now."""
        target = self._known.get(device.id)
        # A busy link means that somebody freed the lock under a trip: the device was registered anew.
        if target is None or target.device is not device or target.link.is_busy:
            if target is not None:
                target.link.close()
            target = self._known[device.id] = Target(device, self._interval_s)
            if target.asked_s < self._beat_s:
                self._say_slow(target)
        target.claimed_at = self._clock.monotonic()
        return target

    def let_go(self, given: Sequence[str] | None) -> None:
        """Closes the links of devices that are somebody else's now. None: of all."""
        ids = list(self._known) if given is None else [*given, *self._leaving]
        self._leaving.clear()
        for device_id in ids:
            target = self._known.get(device_id)
            if target is None:
                continue
            if target.link.is_busy:
                self._leaving.add(device_id)
            else:
                self._known.pop(device_id).link.close()

    def keep(self, claims: Iterable[Claim]) -> None:
        """These are ours, or ours again."""
        if self._leaving:
            self._leaving.difference_update(claim.device.id for claim in claims)

    def forget(self) -> None:
        """Closes the links of devices that are no longer claimed here. It looks at all of them, which may be
        ten thousand, when the first can be due, and not before."""
        now_s = self._clock.monotonic()
        if now_s <= self._forget_at:
            return
        first = now_s + FORGET_LINK_S  # of those that are claimed from now on
        for device_id, target in list(self._known.items()):
            until = target.claimed_at + max(FORGET_LINK_S, 3 * target.interval_s)
            if now_s > until:
                self._known.pop(device_id).link.close()
            else:
                first = min(first, until)
        self._forget_at = first

    def _say_slow(self, target: Target) -> None:
        """Once: others with such an interval are no news."""
        beat_s, self._beat_s = self._beat_s, 0.0
        log.warning(
            "heartbeat.slow",
            name=target.device.name,
            asked_s=target.asked_s,
            beat_s=beat_s,
            effect="boards with shorter intervals than the heartbeat's are polled once in each heartbeat; "
            f"`espcli run {math.ceil(1 / target.asked_s)}` keeps this one's",
        )

    def close(self) -> None:
        """Closes all links."""
        for target in self._known.values():
            target.link.close()
        self._known.clear()
