"""One board's part of a rollout: its record, and how the board is asked, before the switch and after it.

Invariants: what is noted is in Redis before the next step begins; every question here may be asked again, by
whoever has the work then.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from espnet.board import updates
from espnet.board.updates import Slots
from espnet.clock import Clock
from espnet.errors import BoardError, CredentialClosed, DeviceBusy, DeviceLockLost, UnknownDevice
from espnet.model import Device, Reading
from espnet.rollout import Before, Progress, Rollout, problem_with
from espnet.store import Store
from espnet.updates.ends import Ended, Withdrawn
from espnet.updates.talk import LONG_S, Talk

#: A board that does not answer in the middle of it is waited for so long before it counts as offline.
AWAY_S = 20.0
#: The kinds of `BoardError` of a board that was not there.
AWAY = ("refused", "unreachable", "timeout", "closed")

T = TypeVar("T")


class Work:
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
        self.store, self.talk, self.rollout = store, talk, rollout
        self.progress, self._write = progress, note
        self.wait, self.poll, self.clock = wait, poll, clock

    def note(self, **changes: Any) -> None:
        """Changes the record, here and where it is kept."""
        if changes.get("state", self.progress.state) != self.progress.state:
            changes["since"] = self.clock.now()
        self.progress = msgspec.structs.replace(self.progress, **changes)
        self._write(self.progress)

    def end(self, state: str, reason: str = "", **more: Any) -> None:
        """Notes how it ended; ``reason`` is the end of a sentence about the board."""
        self.note(state=state, reason=reason, **more)

    def require_wanted(self) -> None:
        """Before the switch, a rollout that was halted or stopped ends here: its version may be a bad one."""
        state = self.store.rollout_state(self.rollout.id)
        if state is None:
            raise Ended
        if state != "running":
            raise Withdrawn

    def look(self) -> Slots | None:
        """What the board says of its versions; None where it says nothing that makes sense."""
        try:
            return self.talk.slots()
        except (BoardError, CredentialClosed):
            return None

    def patiently(self, what: Callable[[], T], for_s: float = AWAY_S) -> T:
        """Does it again while the board is away or in trouble, or its lock another's, for so long."""
        until = self.clock.monotonic() + for_s
        while True:
            try:
                return what()
            except BoardError as error:
                is_passing = is_away(error) or error.status == 500
                if not is_passing or self.clock.monotonic() > until:
                    raise
            except (DeviceBusy, DeviceLockLost):
                if self.clock.monotonic() > until:
                    raise
            self.require_wanted()
            self.wait(0.5)

    def problem(self) -> str:
        """What is wrong, as the end of a sentence, by a poll like any other; "" where nothing is."""
        try:
            reading = self.poll(self.talk.device)
        except BoardError as error:
            return error.what
        except (DeviceBusy, DeviceLockLost, CredentialClosed, UnknownDevice) as error:
            return f"was not polled: {error}"
        return problem_with(self.progress.before or Before(), reading, self.rollout.build)

    def order_switch(self) -> None:
        """Tells the board to switch; it may be told twice."""
        rollout = self.rollout
        self.talk.order(lambda fence: updates.switch(rollout.build, rollout.minutes, fence), LONG_S)


def is_away(error: BoardError) -> bool:
    """Whether the board was not there, had no room for us or did not hear us out, rather than said no."""
    return error.kind in AWAY or error.status in (408, 503)
