"""The rollout: which boards are to be updated to what, how far each is, and who drives it.

Invariants: there is one rollout, and at most one driver, who has a lease: who dies, or is cut off from Redis,
is replaced when that ends. Only the driver writes how far boards are, and nothing that was read before a
person changed the rollout is written over that change.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from espnet.errors import EspNetError, RolloutBusy
from espnet.model import encode
from espnet.rollout import UNDER_WAY, Progress, Rollout, decode_progress, decode_rollout
from espnet.store.connection import Connection, translated
from espnet.store.records import LockState

#: What a person does to a rollout: from the one that is there to the one that is to be.
Change = Callable[[Rollout, list[Progress]], tuple[Rollout, list[Progress]]]


class Rollouts(Connection):
    """The one rollout."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rollout, self._boards = self.prefix + "rollout", self.prefix + "rollout:boards"
        self._driver = self.prefix + "rollout:driver"
        self._drive, self._note = self._script("drive"), self._script("note")

    # --- for people -----------------------------------------------------------------------------

    @translated
    def rollout(self) -> tuple[Rollout, list[Progress]] | None:
        """The rollout and its boards in their order; None where there never was one."""
        return self._read_rollout(self._redis)

    def _read_rollout(self, client: Any) -> tuple[Rollout, list[Progress]] | None:
        if client is self._redis:
            pipe = self._redis.pipeline()  # both of one moment
            pipe.hget(self._rollout, "record").hvals(self._boards)
            record, boards = pipe.execute()
        else:  # a transaction that watches both
            record, boards = client.hget(self._rollout, "record"), client.hvals(self._boards)
        if record is None:
            return None
        return decode_rollout(record), sorted(map(decode_progress, boards), key=_number)

    @translated
    def begin_rollout(self, rollout: Rollout, boards: Sequence[Progress]) -> list[Progress]:
        """Puts a new rollout in the place of the one before; returns the boards that still waited for that
        one and wait no more. Those that waited for the same build go on waiting.

        Raises `RolloutBusy` while the one before has boards in hand, or will have by itself.
        """

        def transaction(pipe: Any) -> list[Progress]:
            before = self._read_rollout(pipe)
            left: list[Progress] = []
            new = list(boards)
            if before is not None:
                old, theirs = before
                busy = [board for board in theirs if board.state in UNDER_WAY]
                if old.state == "running":
                    busy += [board for board in theirs if board.state == "queued"]
                    names = {board.id for board in boards}
                    left = [b for b in theirs if b.state == "offline" and b.id not in names]
                if busy:
                    raise RolloutBusy(old.version, len(busy), busy[0].name)
                if old.build == rollout.build:
                    new += [_renumbered(board, len(new) + at) for at, board in enumerate(left)]
                    left = []
            pipe.multi()
            pipe.delete(self._boards)
            pipe.hset(self._rollout, mapping={"id": rollout.id, "record": encode(rollout)})
            if new:
                pipe.hset(self._boards, mapping={board.id: encode(board) for board in new})
            return left

        return cast(list[Progress], self._transact(transaction))

    @translated
    def change_rollout(self, how: Change) -> tuple[Rollout, list[Progress]]:
        """Replaces the rollout, and those of its boards that ``how`` changed, by what ``how`` makes of them;
        raises what that raises, and `EspNetError` where there is none."""

        def transaction(pipe: Any) -> tuple[Rollout, list[Progress]]:
            before = self._read_rollout(pipe)
            if before is None:
                raise EspNetError(
                    "Nothing was ever updated here; `espcli update --all` updates every board."
                )
            rollout, boards = how(*before)
            changed = {
                new.id: encode(new)
                for old, new in zip(before[1], boards, strict=True)
                if old != new
            }
            pipe.multi()
            pipe.hset(self._rollout, "record", encode(rollout))
            if changed:
                pipe.hset(self._boards, mapping=changed)
            return rollout, boards

        return cast(tuple[Rollout, list[Progress]], self._transact(transaction))

    def _transact(self, body: Callable[[Any], Any]) -> Any:
        return self._redis.transaction(body, self._rollout, self._boards, value_from_callable=True)

    @translated
    def driver(self) -> LockState | None:
        """Who drives the rollout, and for how many seconds more at least; None where nobody does."""
        pipe = self._redis.pipeline()
        pipe.get(self._driver).pttl(self._driver)
        token, left_ms = pipe.execute()
        return None if token is None else LockState(_holder(token), max(left_ms, 0) / 1000)

    # --- for the driver -------------------------------------------------------------------------

    @translated
    def drive(self, token: str, ttl_s: float) -> str:
        """Makes who has this token (``HOLDER:NUMBER``) the driver for ``ttl_s`` from now on; "" when that is
        so, else who is."""
        other = self._drive(keys=[self._driver], args=[token, int(ttl_s * 1000), ""])
        return _holder(other) if other else ""

    @translated
    def stop_driving(self, token: str) -> None:
        """Somebody else may drive at once."""
        self._drive(keys=[self._driver], args=[token, 0, "1"])

    @translated
    def note(self, token: str, rollout_id: str, *boards: Progress) -> bool:
        """Writes how far boards are; False when the rollout, or the right to drive it, is another's now."""
        rows = [part for board in boards for part in (board.id, encode(board))]
        keys = [self._driver, self._rollout, self._boards]
        return bool(self._note(keys=keys, args=[token, rollout_id, "", "", *rows]))

    @translated
    def move_rollout(self, token: str, old: Rollout, new: Rollout) -> bool:
        """Writes the rollout's new state; False as `note`, and when ``old`` is no longer what it is."""
        keys = [self._driver, self._rollout, self._boards]
        return bool(self._note(keys=keys, args=[token, old.id, encode(old), encode(new)]))

    @translated
    def rollout_state(self, rollout_id: str) -> str | None:
        """What the rollout is at this moment; None where another one has taken its place."""
        record = self._redis.hget(self._rollout, "record")
        rollout = decode_rollout(record) if record else None
        return rollout.state if rollout is not None and rollout.id == rollout_id else None

    @translated
    def due_of(self, device_id: str) -> float | None:
        """When the device is to be polled next (Unix seconds)."""
        rows = self._schedule(args=[self.prefix, device_id])
        return float(rows[0][1]) if rows else None


def _number(board: Progress) -> int:
    return board.number


def _renumbered(board: Progress, number: int) -> Progress:
    return msgspec.structs.replace(board, number=number, wave=0)


def _holder(token: bytes) -> str:
    text = token.decode(errors="replace")
    return text.rpartition(":")[0] or text
