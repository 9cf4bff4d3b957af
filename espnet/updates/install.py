"""One board's update: look, send what it misses, switch, see it work, confirm; or say why not.

Invariants: every step may be done twice, by another driver on another machine, and begins with a look at
the board, so whoever died in the middle is replaced by who does the rest. Before the switch nothing is lost
by stopping; after it, the board goes back by itself unless it is confirmed, which nobody does but who has
seen it work: through polls that prove it where there is a password.

Events: ``update.begun`` ``update.done`` ``update.failed`` ``update.away``.
"""

from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import msgspec
import structlog

from espnet.board import updates
from espnet.board.calls import GET_DETAILS, MAX_QUOTE, Call, parse_any
from espnet.board.updates import Slots
from espnet.clock import Clock
from espnet.errors import (
    BoardError,
    CredentialClosed,
    DeviceBusy,
    DeviceLockLost,
    FirmwareError,
    UnknownDevice,
)
from espnet.firmware import PIECE_MAX, Release, read_manifest
from espnet.model import Device, Reading
from espnet.rollout import Before, Progress, Rollout, before_of, problem_with
from espnet.store import Store
from espnet.updates.talk import LONG_S, Gone, Talk

#: After the time of its trial a board gets so long to be back with its old version, in seconds: two starts
#: that a watchdog ends, and a third one.
LATEST_S = 180.0
#: A board that does not answer in the middle of it is waited for so long before it counts as offline.
AWAY_S = 20.0
#: And so long when it was not yet there at all.
LOOK_S = 1.0
#: A board that has not restarted so long after it was told to is told again, in seconds.
SWITCH_AGAIN_S = 10.0
#: What lies between two looks at a board that was confirmed, in seconds: longer than its restart waits.
CONFIRMED_S = 1.0
#: A board measures its free heap twice a second. What serves updates takes some of it, before and after.
TIDY_S = 1.2
#: Bad polls in a row after which a trial is undone.
MAX_BAD = 4
#: Least and most seconds between two polls of a trial.
POLL_S = (0.2, 5.0)
#: How often what a board refuses is sent again: a file, and all of it.
_RETRIES = 3
_AWAY = ("refused", "unreachable", "timeout", "closed")

T = TypeVar("T")
log = structlog.get_logger()


class Ended(Exception):
    """Somebody else drives from here on, or nobody for a while: the board's record stays as it is."""


class _End(Exception):
    """The message is the end of a sentence about the board."""


class _Away(_End):
    """It cannot be reached, and is tried again when it can."""


class _Refused(_End):
    """It cannot be updated so; nothing of it was changed."""


class _Failed(_End):
    """It does not do with the new version."""


class _Untried(_End):
    """It restarted before it began the trial, as when its power was cut, and runs what it ran."""


class _Withdrawn(_End):
    """The rollout was halted or stopped before the board was told to switch."""


class Install:
    """One board's. ``note`` writes its progress and raises `Ended` where that is another's business;
    ``wait`` sleeps and raises the same; ``poll`` is a whole trip, as `device NAME update` makes it."""

    def __init__(
        self,
        store: Store,
        talk: Talk,
        rollout: Rollout,
        progress: Progress,
        *,
        note: Callable[[Progress], None],
        wait: Callable[[float], object],
        poll: Callable[[Device], Reading],
        clock: Clock,
    ) -> None:
        self._store, self._talk, self._rollout = store, talk, rollout
        self._progress, self._write = progress, note
        self._wait, self._poll, self._clock = wait, poll, clock

    def run(self) -> None:
        """Until the board is done, failed, skipped or away; raises `Ended` and `StoreUnavailable`."""
        name = self._progress.name
        try:
            if self._progress.switched_at is None and not self._bring_patiently():
                return
            for left in reversed(range(_RETRIES)):
                try:
                    self._try()
                except _Untried as end:
                    if not left:
                        raise _Failed(str(end)) from end
                    self._note(state="sending", switched_at=None)
                    if not self._bring_patiently():
                        return
                else:
                    break
        except (Gone, UnknownDevice):
            self._end("failed", "is no longer registered", wave=0)
        except CredentialClosed as error:
            self._end("failed", f"has a password here that {error.problem}")
        except _Away as end:
            log.info("update.away", name=name, reason=str(end))
            self._end("offline", str(end), wave=0)
        except _Withdrawn:
            self._end("queued", "", wave=0)
        except _Refused as end:
            log.error("update.failed", name=name, reason=str(end))
            self._end("failed", str(end), wave=0)
        except _Failed as end:
            log.error("update.failed", name=name, reason=str(end))
            self._end("failed", str(end))

    def _end(self, state: str, reason: str = "", **more: Any) -> None:
        self._note(state=state, reason=reason, **more)

    def _note(self, **changes: Any) -> None:
        if changes.get("state", self._progress.state) != self._progress.state:
            changes["since"] = self._clock.now()
        self._progress = msgspec.structs.replace(self._progress, **changes)
        self._write(self._progress)

    # --- until the switch -----------------------------------------------------------------------

    def _bring_patiently(self) -> bool:
        """`_bring`, with what is in its way sorted out."""
        try:
            return self._bring()
        except BoardError as error:
            raise (_Away if _is_away(error) else _Failed)(error.what) from error
        except (DeviceBusy, DeviceLockLost) as error:
            raise _Away(f"was not free: {error}") from error
        except FirmwareError as error:
            raise _Failed(f"is not updated: {error}") from error

    def _bring(self) -> bool:
        """Brings the release onto the board and tells it to switch; False where there is nothing to do."""
        slots = self._first_look()
        if self._rollout.build == slots.build:
            if slots.trial_s is None:
                self._see_it_there()
                return False
            if self._progress.before is None:  # somebody else's trial, who is no longer there
                self._note(before=self._before_by_store())
            self._note(state="trial", boots=slots.boots - 1, switched_at=self._clock.now())
            return True
        if slots.trial_s is not None:
            raise _Away(f"tries version {slots.version}, for {slots.trial_s:.0f} s more")
        if self._progress.before is None:
            self._note(before=self._before())
        release = self._store.release(self._rollout.build)
        self._require_room(release, slots)
        log.info("update.begun", name=self._progress.name, version=release.version)
        for left in reversed(range(_RETRIES)):
            try:
                self._send(release, self._stage(release))
                self._switch()
            except BoardError as error:
                if error.status not in (409, 422) or not left:
                    raise
                self._note(state="sending", switched_at=None)
                self._wait(0.1)
            else:
                break
        return True

    def _see_it_there(self) -> None:
        """The board says that it runs the build for good: so does a poll, which it proves."""
        if self._progress.before is None:
            before = self._before(0.0)
            if before.build != self._rollout.build:
                raise _Refused(f"says that it runs {self._rollout.build}, and runs {before.build}")
            self._end("skipped", wave=0, before=before)
        else:  # whoever confirmed it did not come to say so
            if problem := self._problem():
                raise _Failed(problem)
            self._end("done")

    def _first_look(self) -> Slots:
        try:
            return self._patiently(self._talk.slots, LOOK_S)
        except BoardError as error:
            if error.status == 404:
                raise _Refused(
                    "has firmware from before updates over the air: put it on by cable once"
                ) from error
            raise (_Away if _is_away(error) else _Refused)(error.what) from error
        except CredentialClosed as error:
            raise _Refused(f"has a password here that {error.problem}") from error

    def _before(self, after_s: float = TIDY_S) -> Before:
        """What works now, by a poll that also proves who it is."""
        self._wait(after_s)
        try:
            return before_of(self._patiently(lambda: self._poll(self._talk.device)))
        except BoardError as error:
            raise (_Away if _is_away(error) else _Refused)(error.what) from error

    def _before_by_store(self) -> Before:
        reading = self._store.view(self._talk.device.name).reading
        before = before_of(reading) if reading else Before()
        return before if before.build != self._rollout.build else Before()

    def _require_room(self, release: Release, slots: Slots) -> None:
        block = max(slots.block, 1)
        sizes = [len(release.manifest), *map(len, release.files.values())]
        needed = sum(-(-size // block) * block for size in sizes)
        if slots.free is not None and needed > slots.free:
            raise _Refused(_too_little(needed, slots.free))

    def _stage(self, release: Release) -> list[int]:
        """Tells the board what is to come; returns the numbers of the files that it misses."""

        def order() -> bytes:
            return self._talk.order(lambda fence: updates.stage(release.manifest, fence), LONG_S)

        try:
            body = self._patiently(order)
        except BoardError as error:
            if error.status != 507:
                raise
            raise _Refused(
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
        self._note(state="sending", sent=0, total=total)

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
                        if refused[index] > 4 * _RETRIES:
                            raise
                        if error.status == 409 and error.field == "fence":
                            return
                        if error.status == 409 and 0 <= error.facts.get("at", -1) <= len(data):
                            at = error.facts["at"]  # an answer was lost, or the board's power
                        elif error.status == 422 and refused[index] < _RETRIES:
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
            self._patiently(some)
            self._require_wanted()
            self._note(sent=done + at)
            self._wait(0.0)

    def _require_wanted(self) -> None:
        """Before the switch, a rollout that was halted or stopped ends here: its version may be a bad one."""
        state = self._store.rollout_state(self._rollout.id)
        if state is None:
            raise Ended
        if state != "running":
            raise _Withdrawn

    def _switch(self) -> None:
        self._require_wanted()
        slots = self._patiently(self._talk.slots)
        # Before the board is told: who comes after us must not think that nothing was begun.
        self._note(state="trial", boots=slots.boots, switched_at=self._clock.now(), reason="")
        try:
            self._order_switch()
        except (BoardError, DeviceBusy, DeviceLockLost) as error:
            if isinstance(error, BoardError) and not _is_away(error):
                raise
            # It may have been done, and only the answer was lost: who waits for the board sees that.

    def _order_switch(self) -> None:
        rollout = self._rollout
        self._talk.order(
            lambda fence: updates.switch(rollout.build, rollout.minutes, fence), LONG_S
        )

    # --- after the switch -----------------------------------------------------------------------

    @property
    def _ends_at(self) -> float:
        """When the board's own patience ends (Unix seconds)."""
        return (self._progress.switched_at or 0.0) + 60.0 * self._rollout.minutes

    def _try(self) -> None:
        """Sees the board work for long enough, and confirms; or lets it go back, and says why."""
        self._wait_back()
        every_s = min(max(self._rollout.settle_s / 10, POLL_S[0]), POLL_S[1])
        settled_from, bad = None, 0
        while True:
            problem = self._problem()
            if problem:
                settled_from, bad = None, bad + 1
                slots = self._look()
                if slots is not None and slots.build != self._rollout.build:
                    self._went_back(slots, problem)
                if bad >= MAX_BAD:
                    self._give_up(problem)
            else:
                bad = 0
                if settled_from is None:
                    settled_from = self._clock.monotonic()
                if self._clock.monotonic() - settled_from >= self._rollout.settle_s:
                    break
            if problem != self._progress.reason:
                self._note(reason=problem)
            if self._clock.now() > self._ends_at - every_s:
                self._give_up(problem or "did not work for long enough without a failed poll")
            self._wait(every_s)
        self._confirm()

    def _wait_back(self) -> None:
        """Returns when the board answers with the new version."""
        told_at, trouble = self._clock.monotonic(), ""
        while True:
            slots = self._look()
            if slots is not None and slots.build == self._rollout.build:
                return
            if (
                slots is None
            ):  # what it runs may not have the memory to say more than polls want to know
                runs, trouble = self._polls(trouble)
                if runs:
                    return
            if slots is not None and slots.boots != self._progress.boots:
                undone = slots.undone
                if slots.staged or undone is None or undone.build != self._rollout.build:
                    raise _Untried("restarts each time before it tries the new version")
                self._went_back(slots, trouble)
            if slots is not None and self._clock.monotonic() - told_at > SWITCH_AGAIN_S:
                told_at = self._clock.monotonic()
                try:
                    self._order_switch()
                except (BoardError, DeviceBusy, DeviceLockLost) as error:
                    if isinstance(error, BoardError) and not _is_away(error):
                        raise _Failed(error.what) from error
            if self._clock.now() > self._ends_at + LATEST_S:
                raise _Failed("did not come back from the restart into the new version")
            self._wait(0.5)

    def _polls(self, trouble: str) -> tuple[bool, str]:
        """Whether a poll sees the new version, and what it said else; ``trouble`` where nobody answers."""
        try:
            return self._poll(self._talk.device).decoded().build == self._rollout.build, trouble
        except BoardError as error:
            return False, trouble if error.kind in _AWAY else error.what
        except (DeviceBusy, DeviceLockLost, CredentialClosed, UnknownDevice):
            return False, trouble

    def _problem(self) -> str:
        """What is wrong, as the end of a sentence, by a poll like any other; "" where nothing is."""
        try:
            reading = self._poll(self._talk.device)
        except BoardError as error:
            return error.what
        except (DeviceBusy, DeviceLockLost, CredentialClosed, UnknownDevice) as error:
            return f"was not polled: {error}"
        return problem_with(self._progress.before or Before(), reading, self._rollout.build)

    def _confirm(self) -> None:
        """Again and again where the answer was lost, for as long as the board may still be on trial; and seen
        twice, because a board that has just given up its trial says for half a second what one says that is
        done with it."""
        build, is_seen, what = self._rollout.build, False, ""
        while True:
            try:
                if not is_seen:
                    self._talk.order(lambda fence: updates.confirm(build, fence))
                    what = ""
            except BoardError as error:
                if error.kind not in _AWAY or not what:
                    what = error.what
            except (DeviceBusy, DeviceLockLost) as error:
                what = what or str(error)
            slots = self._look()
            if slots is not None and slots.build != build:
                self._went_back(slots, what or "was not confirmed in time")
            if slots is not None and slots.trial_s is None:
                if is_seen:
                    break
                is_seen = True
            if self._clock.now() > self._ends_at + LATEST_S:
                raise _Failed(f"could not be confirmed: {what or 'it does not answer'}")
            self._wait(CONFIRMED_S)
        self._problem()  # so that its reading no longer says that it is on trial
        log.info("update.done", name=self._progress.name, version=self._rollout.version)
        self._end("done")

    def _give_up(self, reason: str) -> NoReturn:
        """Lets the board go back, or waits until it has by itself."""
        self._note(reason=reason)
        build = self._rollout.build
        with suppress(BoardError, DeviceBusy, DeviceLockLost):  # out of reach: it does so by itself
            self._talk.order(lambda fence: updates.undo(build, reason, fence))
        while self._clock.now() <= self._ends_at + LATEST_S:
            slots = self._look()
            if slots is not None and slots.build != build:
                self._went_back(slots, reason)
            self._wait(0.5)
        raise _Failed(f"{reason}; it did not come back with its old version")

    def _went_back(self, slots: Slots, reason: str = "") -> NoReturn:
        """Says why the board runs its old version again."""
        why = ""
        if slots.undone is not None and slots.undone.build == self._rollout.build:
            why = _plain(slots.undone.why)
        crash = self._last_crash()
        parts = [part for part in (reason, why) if part]
        if len(parts) == 2 and (why in reason or reason in why):
            parts = [max(parts, key=len)]
        if crash and crash not in " ".join(parts):
            parts.append(crash)
        said = "; ".join(parts) or "it does not say why"
        raise _Failed(f"went back to version {slots.version}: {said}")

    def _last_crash(self) -> str:
        """The last line of what the board noted of its latest crash."""
        try:
            details = parse_any(self._progress.name, self._talk.ask(GET_DETAILS))
        except (BoardError, Gone, CredentialClosed):
            return ""
        crash = details.get("crash")
        text = crash.get("text") if isinstance(crash, dict) else None
        lines = text.strip().splitlines() if isinstance(text, str) else []
        return _plain(lines[-1]) if lines else ""

    # --- how it is asked --------------------------------------------------------------------------

    def _look(self) -> Slots | None:
        """What the board says of its versions; None where it says nothing that makes sense."""
        try:
            return self._talk.slots()
        except (BoardError, CredentialClosed):
            return None

    def _patiently(self, what: Callable[[], T], for_s: float = AWAY_S) -> T:
        """Does it again while the board is away or in trouble, or its lock another's, for so long."""
        until = self._clock.monotonic() + for_s
        while True:
            try:
                return what()
            except BoardError as error:
                is_passing = _is_away(error) or error.status == 500
                if not is_passing or self._clock.monotonic() > until:
                    raise
            except (DeviceBusy, DeviceLockLost):
                if self._clock.monotonic() > until:
                    raise
            self._require_wanted()
            self._wait(0.5)


def _plain(text: str) -> str:
    """A board's own words, safe to store and to print."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_QUOTE])


def _is_away(error: BoardError) -> bool:
    """Whether the board was not there, or had no room for us, rather than said no."""
    return error.kind in _AWAY or error.status == 503


def _too_little(needed: int, free: int) -> str:
    return (
        f"has too little flash for two versions: {needed} bytes are needed, {free} are free; "
        "put it on by cable"
    )


def _piece(index: int, at: int, data: bytes) -> Callable[[int], Call]:
    piece = data[at : at + PIECE_MAX]
    return lambda fence: updates.put_piece(index, at, piece, fence)
