"""The error tree: everything that EspNet expects to go wrong.

Invariants: ``str(error)`` is one sentence that says what happened, where, and what to do next; the
facts it was made of stay on the instance. ``cli.main`` catches `EspNetError` and nothing else, so a
bug is a traceback and never a polite sentence.
"""

from collections.abc import Mapping


class EspNetError(Exception):
    """An expected failure. ``exit_code`` is what the command line ends with."""

    exit_code = 1


class UsageError(EspNetError):
    """The request itself cannot be right: a bad name, number, address or option."""

    exit_code = 2


class UnknownDevice(EspNetError):
    """No device has this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"No device is named {name!r}; `espcli devices` lists those that exist.")


class RegistryConflict(EspNetError):
    """A registration that contradicts another one."""


class DeviceBusy(EspNetError):
    """Somebody else holds the device's lock."""

    def __init__(self, name: str, holder: str, left_s: float) -> None:
        self.name, self.holder, self.left_s = name, holder, left_s
        super().__init__(
            f"{name} is locked by {holder} for up to {left_s:.1f} s more; try again then."
        )


class DeviceLockLost(EspNetError):
    """The lock ended before the work under it did."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"The lock of {name} ended before the work did; somebody else may have written "
            f"meanwhile: look at `espcli device {name}` and repeat the command."
        )


class NoReading(EspNetError):
    """The device has no reading that may still be called true."""


class StoreUnavailable(EspNetError):
    """Redis cannot be reached, or cannot be used."""

    exit_code = 3


class CredentialClosed(EspNetError):
    """A board's password is kept, and cannot be opened here; nothing may take its place."""

    def __init__(self, board_id: str, problem: str) -> None:
        self.board_id, self.problem = board_id, problem
        super().__init__(
            f"EspNet's password for board {board_id} {problem}; set the ESPNET_SECRET_KEY that the "
            "other commands and `espcli run` have."
        )


class SinkError(EspNetError):
    """A sink cannot work as it is configured."""


class FirmwareError(EspNetError):
    """A folder, a release or an image is not what a board can run."""


class RolloutBusy(EspNetError):
    """Another update of boards is not over."""

    def __init__(self, version: str, boards: int, name: str) -> None:
        self.version, self.boards, self.name = version, boards, name
        more = f" and {boards - 1} more" if boards > 1 else ""
        super().__init__(
            f"An update to {version} is not over: it has still to do with {name}{more}; "
            "`espcli update status` shows it, `espcli update stop` ends it."
        )


class TooManyMetrics(EspNetError):
    """A sink would be billed for more series than a person allowed."""

    def __init__(self, series: int, most: int) -> None:
        self.series, self.most = series, most
        super().__init__(
            f"The fleet makes {series:,} custom metrics, more than ESPNET_MAX_METRICS ({most:,}); "
            "`espcli cardinality` shows which, `espcli run --anyway` starts all the same."
        )


class CableError(EspNetError):
    """What goes over the USB cable did not work.

    ``kind`` is the reason in one word, stable for programs: ``port`` (which one is not clear), ``gone``,
    ``denied``, ``busy``, ``silent`` (nobody answers there), ``chip`` (none that EspNet runs on), ``image``
    (refused before anything was erased), ``flash`` (it does not fit), ``failed`` (in the middle of it),
    ``network`` (it did not let the board in), ``download``.
    """

    def __init__(self, kind: str, sentence: str) -> None:
        self.kind = kind
        super().__init__(sentence)


class BoardError(EspNetError):
    """A board did not do what was asked.

    ``kind`` is the reason in one word, stable for programs: ``refused``, ``unreachable``,
    ``timeout``, ``closed``, ``http``, ``denied`` (it wants a password, or another one),
    ``unproved`` (it does not prove that it knows its password), ``unclaimed`` (it has none any more),
    ``not_json``, ``bad_answer``, ``wrong_id``, ``too_large``.
    ``status`` is the HTTP status where there was one. ``field`` is the field that the board
    complained of, where it named one; ``facts`` are the numbers that it gave with its complaint;
    ``retry_after_s`` among them is when it wants to be asked again, and ``waited_s`` how long it was waited
    for after it had taken the connection.
    """

    def __init__(
        self,
        address: str,
        kind: str,
        what: str,
        status: int | None = None,
        field: str = "",
        facts: Mapping[str, int] | None = None,
    ) -> None:
        self.address, self.kind, self.what = address, kind, what
        self.status, self.field, self.facts = status, field, facts or {}
        end = "" if what.endswith("?") else "."
        super().__init__(f"The board at {address} {what}{end}")
