"""After the switch: sees the board work for long enough and confirms, or says why it went back.

Invariants: the board goes back by itself unless it is confirmed, which nobody does but who has seen it work:
through polls that prove it where there is a password.

Events: ``update.done``.
"""

from contextlib import suppress
from typing import NoReturn

import structlog

from espnet.board import updates
from espnet.board.calls import GET_DETAILS, MAX_QUOTE, parse_any
from espnet.board.updates import Slots
from espnet.errors import (
    BoardError,
    CredentialClosed,
    DeviceBusy,
    DeviceLockLost,
    UnknownDevice,
)
from espnet.updates.ends import Failed, Untried
from espnet.updates.talk import Gone
from espnet.updates.work import AWAY, Work, is_away

#: After the time of its trial a board gets so long to be back with its old version, in seconds: two starts
#: that a watchdog ends, and a third one.
LATEST_S = 180.0
#: A board that has not restarted so long after it was told to is told again, in seconds.
SWITCH_AGAIN_S = 10.0
#: What lies between two looks at a board that was confirmed, in seconds: longer than its restart waits.
CONFIRMED_S = 1.0
#: Bad polls in a row after which a trial is undone.
MAX_BAD = 4
#: Least and most seconds between two polls of a trial.
POLL_S = (0.2, 5.0)

log = structlog.get_logger()


class Trial:
    """One board's."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._talk, self._rollout, self._clock = work.talk, work.rollout, work.clock

    @property
    def _ends_at(self) -> float:
        """When the board's own patience ends (Unix seconds)."""
        return (self._work.progress.switched_at or 0.0) + 60.0 * self._rollout.minutes

    def watch(self) -> None:
        """Sees the board work for long enough, and confirms; or lets it go back, and says why."""
        self._wait_back()
        every_s = min(max(self._rollout.settle_s / 10, POLL_S[0]), POLL_S[1])
        settled_from, bad = None, 0
        while True:
            problem = self._work.problem()
            if problem:
                settled_from, bad = None, bad + 1
                slots = self._work.look()
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
            if problem != self._work.progress.reason:
                self._work.note(reason=problem)
            if self._clock.now() > self._ends_at - every_s:
                self._give_up(problem or "did not work for long enough without a failed poll")
            self._work.wait(every_s)
        self._confirm()

    def _wait_back(self) -> None:
        """Returns when the board answers with the new version."""
        told_at, trouble = self._clock.monotonic(), ""
        while True:
            slots = self._work.look()
            if slots is not None and slots.build == self._rollout.build:
                return
            if (
                slots is None
            ):  # what it runs may not have the memory to say more than polls want to know
                runs, trouble = self._polls(trouble)
                if runs:
                    return
            if slots is not None and slots.boots != self._work.progress.boots:
                undone = slots.undone
                if slots.staged or undone is None or undone.build != self._rollout.build:
                    raise Untried("restarts each time before it tries the new version")
                self._went_back(slots, trouble)
            if slots is not None and self._clock.monotonic() - told_at > SWITCH_AGAIN_S:
                told_at = self._clock.monotonic()
                try:
                    self._work.order_switch()
                except (BoardError, DeviceBusy, DeviceLockLost) as error:
                    if isinstance(error, BoardError) and not is_away(error):
                        raise Failed(error.what) from error
            if self._clock.now() > self._ends_at + LATEST_S:
                raise Failed("did not come back from the restart into the new version")
            self._work.wait(0.5)

    def _polls(self, trouble: str) -> tuple[bool, str]:
        """Whether a poll sees the new version, and what it said else; ``trouble`` where nobody answers."""
        try:
            reading = self._work.poll(self._talk.device)
            return reading.decoded().build == self._rollout.build, trouble
        except BoardError as error:
            return False, trouble if error.kind in AWAY else error.what
        except (DeviceBusy, DeviceLockLost, CredentialClosed, UnknownDevice):
            return False, trouble

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
                if error.kind not in AWAY or not what:
                    what = error.what
            except (DeviceBusy, DeviceLockLost) as error:
                what = what or str(error)
            slots = self._work.look()
            if slots is not None and slots.build != build:
                self._went_back(slots, what or "was not confirmed in time")
            if slots is not None and slots.trial_s is None:
                if is_seen:
                    break
                is_seen = True
            if self._clock.now() > self._ends_at + LATEST_S:
                raise Failed(f"could not be confirmed: {what or 'it does not answer'}")
            self._work.wait(CONFIRMED_S)
        self._work.problem()  # so that its reading no longer says that it is on trial
        log.info("update.done", name=self._work.progress.name, version=self._rollout.version)
        self._work.end("done")

    def _give_up(self, reason: str) -> NoReturn:
        """Lets the board go back, or waits until it has by itself."""
        self._work.note(reason=reason)
        build = self._rollout.build
        with suppress(BoardError, DeviceBusy, DeviceLockLost):  # out of reach: it does so by itself
            self._talk.order(lambda fence: updates.undo(build, reason, fence))
        while self._clock.now() <= self._ends_at + LATEST_S:
            slots = self._work.look()
            if slots is not None and slots.build != build:
                self._went_back(slots, reason)
            self._work.wait(0.5)
        raise Failed(f"{reason}; it did not come back with its old version")

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
        raise Failed(f"went back to version {slots.version}: {said}")

    def _last_crash(self) -> str:
        """The last line of what the board noted of its latest crash."""
        try:
            details = parse_any(self._work.progress.name, self._talk.ask(GET_DETAILS))
        except (BoardError, Gone, CredentialClosed):
            return ""
        crash = details.get("crash")
        text = crash.get("text") if isinstance(crash, dict) else None
        lines = text.strip().splitlines() if isinstance(text, str) else []
        return _plain(lines[-1]) if lines else ""


def _plain(text: str) -> str:
    """A board's own words, safe to store and to print."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_QUOTE])
