"""How an update is followed from a terminal: bars where there is one, else a line when a board changes.

Whoever holds the lease drives; where that is nobody, this command does. Everything is told on stderr.
"""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence

from espnet.cli.session import Session
from espnet.errors import EspNetError, StoreUnavailable
from espnet.rollout import Progress, Rollout, is_idle

#: Seconds between two looks; how long Redis may be away before we give up watching.
LOOK_S, OUTAGE_S = 0.5, 30.0
#: How long boards' threads get to come to a moment at which it is harmless to end.
CLOSE_S = 5.0

Tell = Callable[[Rollout, Sequence[Progress]], None]


class Interrupted(EspNetError):
    """Ctrl-C: what was begun goes on, or back, by itself."""

    exit_code = 130


def follow(session: Session) -> None:
    """Returns when nothing is left to do but to wait for boards that are away, or for a person.

    Raises `Interrupted` by Ctrl-C, and `StoreUnavailable` where Redis stays away.
    """
    import threading

    import structlog

    from espnet.store import Store
    from espnet.updates import Driver

    # What the driver would log is what this command shows anyway.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    config, url = session.config, session.server.url

    def new_store() -> Store:
        return Store(url, prefix=config.prefix, secret_keys=config.secret_keys)

    driver = Driver(
        new_store,
        session.clock,
        holder=session.holder,
        interval_s=config.interval_s,
        timeout_s=config.timeout_s,
    )
    pause = threading.Event()
    seen_s = session.clock.monotonic()
    try:
        with _telling() as tell:
            while True:
                try:
                    driver.step()
                    found = session.store.rollout()
                    seen_s = session.clock.monotonic()
                except StoreUnavailable:
                    if session.clock.monotonic() - seen_s > OUTAGE_S:
                        raise
                else:
                    if found is None:
                        return
                    tell(*found)
                    if is_idle(*found) and not driver.is_busy and not _is_new(*found):
                        return
                pause.wait(LOOK_S)
    except KeyboardInterrupt:
        raise Interrupted(_last_words(session)) from None
    finally:
        driver.close(CLOSE_S)


def _is_new(rollout: Rollout, boards: Sequence[Progress]) -> bool:
    """Whether it is over, and only the driver has not said so yet."""
    return rollout.state == "running" and not any(board.state == "offline" for board in boards)


def _last_words(session: Session) -> str:
    try:
        going = bool(session.store.collectors(session.now, within_s=60))
        found = session.store.rollout()
    except StoreUnavailable:
        going, found = False, None
    on = "`espcli run` goes on with the update" if going else "`espcli update resume` goes on"
    trying = sum(board.state == "trial" for board in found[1]) if found else 0
    if trying and found and not going:
        on += (
            f"; {trying} on trial go back to their old version unless that is within "
            f"{found[0].minutes} min"
        )
    return f"interrupted: {on}; `espcli update stop` ends it."


@contextlib.contextmanager
def _telling() -> Iterator[Tell]:
    if not (sys.stderr is not None and sys.stderr.isatty()):
        yield _Lines().tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn
    from rich.progress import Progress as Bars

    with Bars(
        TextColumn("{task.description}", markup=False),  # boards may be called [red]
        BarColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        console=Console(stderr=True),
    ) as bars:
        rows: dict[str, TaskID] = {}

        def tell(rollout: Rollout, boards: Sequence[Progress]) -> None:
            if "" not in rows:
                rows[""] = bars.add_task(f"to {rollout.version}", state="", total=len(boards))
            over = sum(b.state in ("done", "skipped", "failed") for b in boards)
            bars.update(rows[""], completed=over, state=f"{over} of {len(boards)} {rollout.state}")
            for board in boards:
                if board.state == "queued" and board.id not in rows:
                    continue
                if board.id not in rows:
                    rows[board.id] = bars.add_task(board.name, state="", total=None)
                is_over = board.state in ("done", "skipped")
                bars.update(
                    rows[board.id],
                    total=max(board.total, 1),
                    completed=max(board.total, 1) if is_over else board.sent,
                    state=_said(board),
                    visible=not is_over or len(boards) <= 10,
                )

        yield tell


class _Lines:
    """For logs and pipes: one line when a board comes into another state."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def tell(self, rollout: Rollout, boards: Sequence[Progress]) -> None:
        for board in boards:
            said = _said(board)
            if board.state != "queued" and self._known.get(board.id) != said:
                self._known[board.id] = said
                print(f"{board.name}: {said}", file=sys.stderr)


def _said(board: Progress) -> str:
    return f"{board.state}: {board.reason}" if board.reason else board.state
