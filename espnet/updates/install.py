"""One board's update: look, send what it misses, switch, see it work, confirm; or say why not.

Invariants: every step may be done twice, by another driver on another machine, and begins with a look at
the board, so whoever died in the middle is replaced by who does the rest. Every end but `Ended` and
`StoreUnavailable` is in the board's record.

Events: ``update.failed`` ``update.away``, and those of `sending` and `trial`.
"""

import structlog

from espnet.errors import (
    BoardError,
    CredentialClosed,
    DeviceBusy,
    DeviceLockLost,
    FirmwareError,
    UnknownDevice,
)
from espnet.updates.ends import Away, Failed, Refused, Untried, Withdrawn
from espnet.updates.sending import RETRIES, Sending
from espnet.updates.talk import Gone
from espnet.updates.trial import Trial
from espnet.updates.work import Work, is_away

log = structlog.get_logger()


class Install:
    """One board's."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._sending, self._trial = Sending(work), Trial(work)

    def run(self) -> None:
        """Until the board is done, failed, skipped or away; raises `Ended` and `StoreUnavailable`."""
        name = self._work.progress.name
        try:
            if self._work.progress.switched_at is None and not self._bring_patiently():
                return
            for left in reversed(range(RETRIES)):
                try:
                    self._trial.watch()
                except Untried as end:
                    if not left:
                        raise Failed(str(end)) from end
                    self._work.note(state="sending", switched_at=None)
                    if not self._bring_patiently():
                        return
                else:
                    break
        except (Gone, UnknownDevice):
            self._work.end("failed", "is no longer registered", wave=0)
        except CredentialClosed as error:
            self._work.end("failed", f"has a password here that {error.problem}")
        except Away as end:
            log.info("update.away", name=name, reason=str(end))
            self._work.end("offline", str(end), wave=0)
        except Withdrawn:
            self._work.end("queued", "", wave=0)
        except Refused as end:
            log.error("update.failed", name=name, reason=str(end))
            self._work.end("failed", str(end), wave=0)
        except Failed as end:
            log.error("update.failed", name=name, reason=str(end))
            self._work.end("failed", str(end))

    def _bring_patiently(self) -> bool:
        """`Sending.bring`, with what is in its way sorted out."""
        try:
            return self._sending.bring()
        except BoardError as error:
            raise (Away if is_away(error) else Failed)(error.what) from error
        except (DeviceBusy, DeviceLockLost) as error:
            raise Away(f"was not free: {error}") from error
        except FirmwareError as error:
            raise Failed(f"is not updated: {error}") from error
