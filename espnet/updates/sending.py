"""Until the switch: looks at the board, sends what it misses of the release, and tells it to switch.

Invariants: the board runs what it ran all the while, so nothing is lost by stopping; what it already has is
not sent again, whoever sent it. That it is told to switch is noted before it is told.

Events: ``update.begun``.
"""

from collections import Counter, deque
from collections.abc import Callable

import structlog

from espnet.board import updates
from espnet.board.calls import Call
from espnet.board.updates import Slots
from espnet.errors import BoardError, CredentialClosed, DeviceBusy, DeviceLockLost
from espnet.firmware import PIECE_MAX, Release, read_manifest
from espnet.rollout import Before, before_of
from espnet.updates.ends import Away, Failed, Refused
from espnet.updates.talk import LONG_S
from espnet.updates.work import Work, is_away

#: A board that was not yet there at all is waited for so long before it counts as offline.
LOOK_S = 1.0
#: A board measures its free heap twice a second. What serves updates takes some of it, before and after.
TIDY_S = 1.2
#: How often what a board refuses is sent again: a file, and all of it.
RETRIES = 3

log = structlog.get_logger()


class Sending:
    """One board's."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._talk, self._rollout, self._clock = work.talk, work.rollout, work.clock

    def bring(self) -> bool:
        """Brings the release onto the board and tells it to switch; False where there is nothing to do."""
        slots = self._first_look()
        if self._rollout.build == slots.build:
            if slots.trial_s is None:
                self._see_it_there()
                return False
            if self._work.progress.before is None:  # somebody else's trial, who is no longer there
                self._work.note(before=self._before_by_store())
            self._work.note(state="trial", boots=slots.boots - 1, switched_at=self._clock.now())
            return True
        if slots.trial_s is not None:
            raise Away(f"tries version {slots.version}, for {slots.trial_s:.0f} s more")
        if self._work.progress.before is None:
            self._work.note(before=self._before())
        release = self._work.store.release(self._rollout.build)
        self._require_room(release, slots)
        log.info("update.begun", name=self._work.progress.name, version=release.version)
        for left in reversed(range(RETRIES)):
            try:
                self._send(release, self._stage(release))
                self._switch()
            except BoardError as error:
                if error.status not in (409, 422) or not left:
                    raise
                self._work.note(state="sending", switched_at=None)
                self._work.wait(0.1)
            else:
                break
        return True

    def _see_it_there(self) -> None:
        """The board says that it runs the build for good: so does a poll, which it proves."""
        if self._work.progress.before is None:
            before = self._before(0.0)
            if before.build != self._rollout.build:
                raise Refused(f"says that it runs {self._rollout.build}, and runs {before.build}")
            self._work.end("skipped", wave=0, before=before)
        else:  # whoever confirmed it did not come to say so
            if problem := self._work.problem():
                raise Failed(problem)
            self._work.end("done")

    def _first_look(self) -> Slots:
        try:
            return self._work.patiently(self._talk.slots, LOOK_S)
        except BoardError as error:
            if error.status == 404:
                raise Refused(
                    "has firmware from before updates over the air: put it on by cable once"
                ) from error
            raise (Away if is_away(error) else Refused)(error.what) from error
        except CredentialClosed as error:
            raise Refused(f"has a password here that {error.problem}") from error

    def _before(self, after_s: float = TIDY_S) -> Before:
        """What works now, by a poll that also proves who it is."""
        self._work.wait(after_s)
        try:
            return before_of(self._work.patiently(lambda: self._work.poll(self._talk.device)))
        except BoardError as error:
            raise (Away if is_away(error) else Refused)(error.what) from error

    def _before_by_store(self) -> Before:
        reading = self._work.store.view(self._talk.device.name).reading
        before = before_of(reading) if reading else Before()
        return before if before.build != self._rollout.build else Before()

    def _require_room(self, release: Release, slots: Slots) -> None:
        block = max(slots.block, 1)
        sizes = [len(release.manifest), *map(len, release.files.values())]
        needed = sum(-(-size // block) * block for size in sizes)
        if slots.free is not None and needed > slots.free:
            raise Refused(_too_little(needed, slots.free))

    def _stage(self, release: Release) -> list[int]:
        """Tells the board what is to come; returns the numbers of the files that it misses."""

        def order() -> bytes:
            return self._talk.order(lambda fence: updates.stage(release.manifest, fence), LONG_S)

        try:
            body = self._work.patiently(order)
        except BoardError as error:
            if error.status != 507:
                raise
            raise Refused(
                _too_little(error.facts.get("needed", 0), error.facts.get("free", 0))
            ) from error
        return updates.parse_missing(self._talk.device.address, body, len(release.files))

    def _send(self, release: Release, missing: list[int]) -> None:
        """Sends files in pieces, a few under each hold of the lock."""
        names = [entry.name for entry in read_manifest(release.manifest)[1]]
        todo = deque(release.files[names[index]] for index in missing)
        numbers = deque(missing)
        total, done, at = sum(map(len, todo)), 0, 0
        refused: Counter[int] = Counter()
        self._work.note(state="sending", sent=0, total=total)

        def some() -> None:
            nonlocal at, done
            with self._talk.hold() as grant:
                end = self._clock.monotonic() + self._talk.hold_s(self._talk.device)
                while todo:
                    index, data = numbers[0], todo[0]
                    call = _piece(index, at, data)
                    try:
                        self._talk.put(call, grant)
                        at = min(at + PIECE_MAX, len(data))
                    except BoardError as error:
                        refused[index] += 1
                        if refused[index] > 4 * RETRIES:
                            raise
                        if error.status == 409 and error.field == "fence":
                            return
                        if error.status == 409 and 0 <= error.facts.get("at", -1) <= len(data):
                            at = error.facts["at"]  # an answer was lost, or the board's power
                        elif error.status == 422 and refused[index] < RETRIES:
                            at = 0
                            continue
                        else:
                            raise
                    if at >= len(data):
                        todo.popleft(), numbers.popleft()
                        done, at = done + len(data), 0
                    if self._clock.monotonic() >= end:
                        return

        while todo:
            self._work.patiently(some)
            self._work.require_wanted()
            self._work.note(sent=done + at)
            self._work.wait(0.0)

    def _switch(self) -> None:
        self._work.require_wanted()
        slots = self._work.patiently(self._talk.slots)
        # Before the board is told: who comes after us must not think that nothing was begun.
        self._work.note(state="trial", boots=slots.boots, switched_at=self._clock.now(), reason="")
        try:
            self._work.order_switch()
        except (BoardError, DeviceBusy, DeviceLockLost) as error:
            if isinstance(error, BoardError) and not is_away(error):
                raise
            # It may have been done, and only the answer was lost: who waits for the board sees that.


def _too_little(needed: int, free: int) -> str:
    return (
        f"has too little flash for two versions: {needed} bytes are needed, {free} are free; "
        "put it on by cable"
    )


def _piece(index: int, at: int, data: bytes) -> Callable[[int], Call]:
    piece = data[at : at + PIECE_MAX]
    return lambda fence: updates.put_piece(index, at, piece, fence)
