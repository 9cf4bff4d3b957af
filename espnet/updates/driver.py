"""Who drives the rollout: takes the lease, begins boards wave by wave, a thread each, a few at once.

Invariants: what it does next is read from Redis at every step, so it may end at any moment, and another one
goes on. It writes only while it has the lease, which outlasts several steps. A bug in a board's thread
leaves by `Driver.step`.

Events: ``update.halted`` ``update.over``, and those of `install`, `sending` and `trial`.
"""

import secrets
import threading
from collections.abc import Callable, Sequence

import msgspec
import structlog

from espnet.clock import Clock
from espnet.collector import poll_now
from espnet.errors import DeviceLockLost, StoreUnavailable
from espnet.model import Device, Reading
from espnet.rollout import RETRY_S, UNDER_WAY, Progress, Rollout, decide
from espnet.store import Store
from espnet.updates.ends import Ended
from espnet.updates.install import Install
from espnet.updates.talk import Talk
from espnet.updates.work import Work

#: Boards that are updated at once: each takes one of its few connections, and memory there.
AT_ONCE = 8
#: The lease of who drives, in seconds; it is renewed at every step.
LEASE_S = 15.0

log = structlog.get_logger()


class Driver:
    """Drives the rollout while nobody else does. ``new_store`` gives a Redis connection for one thread."""

    def __init__(
        self,
        new_store: Callable[[], Store],
        clock: Clock,
        *,
        holder: str,
        interval_s: float,
        timeout_s: float,
        at_once: int = AT_ONCE,
        retry_s: float = RETRY_S,
    ) -> None:
        self._new_store, self._clock, self._holder = new_store, clock, holder
        self._interval_s, self._timeout_s, self._at_once = interval_s, timeout_s, at_once
        self._retry_s = retry_s
        self._store = new_store()
        self._token = f"{holder}:{secrets.randbits(64)}"
        self._threads: dict[str, threading.Thread] = {}
        self._stopping = threading.Event()
        self._bug: BaseException | None = None
        self._has_lease = False
        #: Who drives instead of this one; "" where nobody else does.
        self.other = ""

    @property
    def is_busy(self) -> bool:
        """Whether boards are in its hands."""
        return bool(self._threads)

    def step(self) -> None:
        """Does what is due; call it every second or so. Raises `StoreUnavailable`."""
        self._threads = {id: thread for id, thread in self._threads.items() if thread.is_alive()}
        if self._bug is not None:
            raise self._bug
        found = self._store.rollout()
        if found is None or not _has_work(*found):
            self._let_go()
            return
        rollout, boards = found
        self.other = self._store.drive(self._token, LEASE_S)
        self._has_lease = not self.other
        if self.other:
            return
        for board in boards:
            if board.state in UNDER_WAY and board.id not in self._threads:
                self._start(rollout, board)  # its driver is gone
        self._go_on(rollout, boards)

    def _go_on(self, rollout: Rollout, boards: Sequence[Progress]) -> None:
        now = self._clock.now()
        step = decide(
            rollout,
            boards,
            now=now,
            most=self._at_once,
            back=self._back(boards),
            retry_s=self._retry_s,
        )
        if step.state is not None:
            new = msgspec.structs.replace(rollout, state=step.state, reason=step.reason)
            if self._store.move_rollout(self._token, rollout, new):
                if step.state == "halted":
                    log.error("update.halted", version=rollout.version, reason=step.reason)
                else:
                    log.info("update.over", version=rollout.version, boards=len(boards))
            return
        known = {board.id: board for board in boards}
        for board_id in step.begin:
            begun = msgspec.structs.replace(
                known[board_id],
                state="sending",
                wave=step.wave,
                since=now,
                sent=0,
                total=0,
                boots=None,
                switched_at=None,
                reason="",
            )
            if self._store.note(self._token, rollout.id, begun):
                self._start(rollout, begun)

    def _back(self, boards: Sequence[Progress]) -> set[str]:
        """Boards that were offline and have been polled since."""
        away = {board.name: board for board in boards if board.state == "offline"}
        readings = self._store.readings(list(away))
        return {
            board.id
            for name, board in away.items()
            if (reading := readings[name]) is not None and reading.at > board.since
        }

    def close(self, within_s: float) -> None:
        """Ends what is under way at the next moment at which that is harmless, and lets another one drive."""
        self._stopping.set()
        until = self._clock.monotonic() + within_s
        for thread in self._threads.values():
            thread.join(max(until - self._clock.monotonic(), 0.0))
        try:
            if not any(thread.is_alive() for thread in self._threads.values()):
                self._let_go()
        except StoreUnavailable:
            pass  # the lease ends by itself
        self._store.close()

    def _let_go(self) -> None:
        if self._has_lease:
            self._store.stop_driving(self._token)
            self._has_lease = False

    # --- a board's thread -----------------------------------------------------------------------

    def _start(self, rollout: Rollout, board: Progress) -> None:
        thread = threading.Thread(
            target=self._work, args=(rollout, board), name=f"update {board.name}", daemon=True
        )
        self._threads[board.id] = thread
        thread.start()

    def _work(self, rollout: Rollout, board: Progress) -> None:
        store = self._new_store()

        def note(progress: Progress) -> None:
            if not store.note(self._token, rollout.id, progress):
                raise Ended

        def wait(seconds: float) -> None:
            if self._stopping.wait(seconds):
                raise Ended

        def poll(device: Device) -> Reading:
            view = poll_now(
                store,
                device,
                self._clock,
                holder=self._holder,
                interval_s=self._interval_s,
                timeout_s=self._timeout_s,
            )
            if view.reading is None:
                raise DeviceLockLost(device.name)  # it was registered anew meanwhile
            return view.reading

        talk = Talk(
            store,
            board.id,
            self._clock,
            wait,
            holder=self._holder,
            interval_s=self._interval_s,
            timeout_s=self._timeout_s,
        )
        work = Work(store, talk, rollout, board, note=note, wait=wait, poll=poll, clock=self._clock)
        try:
            Install(work).run()
        except (Ended, StoreUnavailable):
            pass  # whoever drives next goes on where the record is
        except BaseException as bug:  # noqa: BLE001 - it leaves by `step`, in the driver's own thread
            self._bug = bug
        finally:
            store.close()


def _has_work(rollout: Rollout, boards: Sequence[Progress]) -> bool:
    return rollout.state == "running" or any(board.state in UNDER_WAY for board in boards)
