"""One board's calls, for who updates it: signed and proved where there is a password, with a fence, and
under the board's lock only for moments, so that polls, which renew the leases of its pins, come in between.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from espnet.board import client
from espnet.board.calls import UNPROVED, Call, require_done
from espnet.board.digest import Login
from espnet.board.updates import GET_UPDATE, Slots, parse_slots
from espnet.clock import Clock
from espnet.errors import BoardError, CredentialClosed
from espnet.model import Device
from espnet.store import Grant, Store
from espnet.visit import most_fence

#: The lock is held for so long at most before others may have it, in seconds, and for this share of the
#: device's interval, whichever is less; one piece is sent in any case.
HOLD_S, HOLD_SHARE = 1.0, 1 / 3
#: A poll that is due is waited for; one that is overdue for longer, or while no collector has claimed any
#: for so long, has nobody who would make it.
OVERDUE_S, SILENT_S = 3.0, 60.0
#: A board's flash is slow: patience with one piece, and with looking through or making all of a release.
PIECE_S, LONG_S = 5.0, 90.0
#: How often an order is repeated because others' fences overtook it.
_OVERTAKEN = 5


class Gone(Exception):
    """The device is no longer registered."""


class Talk:
    """The calls to one board, wherever it is now. ``wait`` sleeps, and raises when it is time to end."""

    def __init__(
        self,
        store: Store,
        device_id: str,
        clock: Clock,
        wait: Callable[[float], object],
        *,
        holder: str,
        interval_s: float,
        timeout_s: float,
    ) -> None:
        self._store, self._id, self._clock, self._wait = store, device_id, clock, wait
        self._holder, self._interval_s = holder, interval_s
        self._timeout_s = max(timeout_s, 1.0)
        self._device: Device | None = None
        self._login: Login | None = None
        #: The highest fence that the board has said it knows.
        self._seen_fence = 0

    @property
    def device(self) -> Device:
        """The device as it is registered at this moment: it may have moved, or have another password."""
        device = self._store.device_of(self._id)
        if device is None:
            raise Gone(self._id)
        if device != self._device:
            self._device, self._login = device, None
            if device.credential:
                credential = self._store.credential(device.id)
                if credential.problem:
                    raise CredentialClosed(device.id, credential.problem)
                self._login = Login(device.id, lambda _: credential.passwords)
        return device

    def slots(self) -> Slots:
        """What the board says of its versions; raises `BoardError`."""
        device = self.device
        body = self._send(device, GET_UPDATE, self._timeout_s)
        return parse_slots(device.address, body, device.id)

    def ask(self, call: Call) -> bytes:
        """The answer to a call that changes nothing, which everybody may hear; raises `BoardError`."""
        return self._send(self.device, call, self._timeout_s)

    def order(self, call: Callable[[int], Call], timeout_s: float | None = None) -> bytes:
        """The answer to a call with a fence, which may take the board long: polls come in between."""
        for left in reversed(range(_OVERTAKEN)):
            with self.hold() as grant:
                fence = grant.fence
            try:
                return self._send(self.device, call(fence), timeout_s or self._timeout_s)
            except BoardError as error:
                if not self._is_overtaken(error) or not left:
                    raise
        raise AssertionError

    def put(self, call: Callable[[int], Call], grant: Grant) -> bytes:
        """The answer to a short call, under the lock."""
        try:
            return self._send(self.device, call(grant.fence), PIECE_S)
        except BoardError as error:
            self._is_overtaken(error)
            raise

    def _is_overtaken(self, error: BoardError) -> bool:
        """Whether the board has seen a higher fence: a later one, or from before Redis forgot its counter."""
        if error.status != 409 or error.field != "fence":
            return False
        self._seen_fence = max(self._seen_fence, error.facts.get("fence", 0))
        return True

    @contextmanager
    def hold(self) -> Iterator[Grant]:
        """The board's lock for a moment: `hold_s`, and what the last call under it takes."""
        device = self.device
        self._let_polls_come(device)
        # Who dies under it must not keep polls away for as long as the shortest lease, which is 15 s.
        ttl_s = self.hold_s(device) + PIECE_S + 1.0
        with self._store.hold(
            device, self._holder, ttl_s=ttl_s, wait_s=3 * self._timeout_s + 10.0
        ) as grant:
            if self._seen_fence > grant.fence:
                lifted = self._store.lift_fence(grant, self._seen_fence, most_fence(device))
                if lifted is not None:
                    grant.fence = lifted.fence
            yield grant

    def hold_s(self, device: Device) -> float:
        """How long the lock is kept when the board answers at once."""
        return min(HOLD_S, (device.interval_s or self._interval_s) * HOLD_SHARE)

    def _let_polls_come(self, device: Device) -> None:
        """Returns when no poll is to be expected while we hold the lock, or nobody makes it."""
        hold_s = self.hold_s(device)
        until = self._clock.monotonic() + OVERDUE_S
        while self._clock.monotonic() < until:
            due = self._store.due_of(self._id)
            now = self._clock.now()
            if due is None or due > now + hold_s or due < now - OVERDUE_S:
                return
            if not self._store.collectors(now, SILENT_S):
                return
            self._wait(0.02)

    def _send(self, device: Device, call: Call, timeout_s: float) -> bytes:
        body = client.send(device.address, call, timeout_s, self._login)
        if self._login is not None and call.method != "GET":
            if self._login.password is None or not self._login.is_proved:
                _refuse(device)
            require_done(device.address, body)
        return body


def _refuse(device: Device) -> NoReturn:
    raise BoardError(device.address, "unproved", UNPROVED)
