"""The word `update`: the firmware onto boards, over the air; and what became of that."""

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from espnet.cli import parse
from espnet.cli.act import Words, verb
from espnet.cli.amounts import amount, size, some
from espnet.cli.render import Line, Records, Report, Section, Shown
from espnet.cli.session import Session
from espnet.errors import EspNetError, UsageError
from espnet.model import Device
from espnet.rollout import UNDER_WAY, Progress, Rollout, resumed

if TYPE_CHECKING:
    from espnet.firmware import Release

#: What `update` knows besides devices' names.
ORDERS = ("status", "resume", "stop", "releases")
_NO_COLLECTOR = "Nobody goes on with it now: `espcli run` does, and `espcli update resume`."


class UpdateWords(Words):
    """New firmware for boards."""

    _session: Session

    @verb
    def update(
        self,
        *names: str,
        all: bool = False,
        tag: str = "",
        device: str = "",
        to: str = "",
        minutes: str = "",
        settle: str = "",
        detach: bool = False,
        again: bool = False,
    ) -> Any:
        """Puts firmware onto boards over the air; or says how that goes.

        One board first, then a tenth, then the rest. A board is done when it has worked with the new
        version, as well as before, for a while; if it does not, it goes back, and no other board is begun.
        Boards that are away wait, and are updated by `espcli run` when they are back.

        espcli update NAME …      these devices
        espcli update status      every board of the latest update, and why it failed
        espcli update resume      goes on after a halt, without the boards that failed, or after a stop
        espcli update stop        begins no more boards; who tries the new version is seen to the end
        espcli update releases    the versions that are kept, to go back to

        --all              every device
        --tag KEY=VALUE    those with this tag
        --device NAME      one device, also one that is called status, resume, stop or releases
        --to WHAT          a version or a build that is kept, or a folder of sources (the firmware that came
                           with this program)
        --minutes 10       so long a board tries it unless it is confirmed, 1 to 60
        --settle 60s       so long it must work without a failed poll to be confirmed
        --detach           leaves it to `espcli run`
        --again            with resume: the boards that failed, too

        Exit code 1 when a board failed.

        Example: espcli update --all
        """
        order = names[0] if len(names) == 1 and names[0] in ORDERS else ""
        chosen = {"--all": all, "--tag": tag, "--device": device}
        how = {"--to": to, "--minutes": minutes, "--settle": settle}
        given = {name for name, value in (chosen | how | {"--detach": detach}).items() if value}
        if order:
            allowed = {"--detach"} if order == "resume" else set()
            if wrong := sorted(given - allowed):
                raise UsageError(
                    f"{wrong[0]} does not go with `espcli update {order}`; a device of that name is "
                    f"updated by --device {order}."
                )
        if again and order != "resume":
            raise UsageError("--again goes with `espcli update resume` only.")
        if order == "status":
            return _status(self._session)
        if order == "releases":
            return _releases(self._session)
        if order == "stop":
            return _stop(self._session)
        if order == "resume":
            _resume(self._session, again=bool(again))
            return _follow(self._session, detach=bool(detach))
        _only_one_choice(names, chosen)
        least_s = parse.duration(settle or "60", "--settle", 0.0, 1_800.0)
        trial = parse.count(minutes or "10", "--minutes", 1, 60)
        if least_s > 30 * trial:
            raise UsageError(
                f"--settle must be at most half of --minutes: {settle or '60s'} is more than half of "
                f"{trial} min, and the board goes back when its minutes are over."
            )
        devices = self._chosen(names, bool(all), tag, device)
        release = _release(self._session, to)
        rollout = Rollout(
            id=secrets.token_hex(8),
            build=release.build,
            version=release.version,
            minutes=trial,
            settle_s=least_s,
            at=self._session.now,
        )
        _begin(self._session, rollout, devices, release)
        return _follow(self._session, detach=bool(detach))

    def _chosen(self, names: Sequence[str], all_: bool, tag: str, device: str) -> Sequence[Device]:
        """The devices to be updated, each once, those that answer first."""
        store, now = self._session.store, self._session.now
        views = {view.device.name: view for view in store.views()}
        if all_:
            wanted = list(views)
        elif tag:
            wanted = [name for name, view in views.items() if _tag(tag) in view.device.tags]
            if not wanted:
                raise EspNetError(
                    f"No device has the tag {_tag(tag)}; `espcli devices` lists them."
                )
        else:
            wanted = list(dict.fromkeys(names or (device,)))
            for name in wanted:
                if name not in views:
                    store.device(name)  # says so
        if not wanted:
            raise EspNetError("No devices are registered yet: `espcli register ADDRESS NAME`.")
        wanted.sort(key=lambda name: views[name].state(now) != "online")
        return [views[name].device for name in wanted]


def _only_one_choice(names: Sequence[str], chosen: dict[str, Any]) -> None:
    ways = [*(["NAME"] if names else []), *(option for option, value in chosen.items() if value)]
    if not ways:
        raise UsageError("Which boards? Name devices, or say --all, or --tag KEY=VALUE.")
    if len(ways) > 1:
        raise UsageError(f"{ways[0]} and {ways[1]} are two ways to choose; use one of them.")


def _tag(text: str) -> str:
    key, equals, value = text.partition("=")
    return parse.tags(f"{key}:{value}" if equals else text)[0]


def _release(session: Session, to: str) -> "Release":
    """The release that ``--to`` means; "" is the firmware that came with this program."""
    from espnet import firmware

    if not to or Path(to).is_dir():
        return firmware.build(Path(to) if to else firmware.find())
    kept = session.store.releases()
    found = [
        one for one in kept if to == one.version or (len(to) >= 4 and one.build.startswith(to))
    ]
    if len(found) > 1:
        builds = ", ".join(one.build for one in found[:5])
        raise UsageError(f"--to {to} means several builds: {builds}; say which one.")
    if found:
        return session.store.release(found[0].build)
    own = firmware.build(firmware.find())
    if to == own.version or (len(to) >= 4 and own.build.startswith(to)):
        return own
    raise UsageError(
        f"--to {parse.quoted(to)} is no folder, and no version or build that is kept; "
        "`espcli update releases` lists those."
    )


def _begin(
    session: Session, rollout: Rollout, devices: Sequence[Device], release: "Release"
) -> None:
    store, now = session.store, session.now
    store.add_release(release, now)
    boards = [
        Progress(id=device.id, name=device.name, number=number, since=now)
        for number, device in enumerate(devices)
    ]
    left = store.begin_rollout(rollout, boards)
    needed = {rollout.build}
    for view in store.views():
        if view.reading is not None and (build := view.reading.decoded().build):
            needed.add(build)
    store.prune_releases(needed)
    if left:
        names = some([board.name for board in left])
        print(f"No longer waited for, for the version before: {names}.", file=sys.stderr)


def _resume(session: Session, *, again: bool) -> None:
    def change(rollout: Rollout, boards: list[Progress]) -> tuple[Rollout, list[Progress]]:
        waiting = [board for board in boards if board.state not in ("done", "skipped", "failed")]
        if not waiting and not (again and any(board.state == "failed" for board in boards)):
            raise EspNetError(
                "No board waits for an update"
                + ("" if again else "; --again tries those that failed")
                + "."
            )
        return resumed(rollout, boards, again=again)

    session.store.change_rollout(change)


def _stop(session: Session) -> Shown:
    def change(rollout: Rollout, boards: list[Progress]) -> tuple[Rollout, list[Progress]]:
        if rollout.state != "running":
            raise EspNetError(f"No update is running: the latest one is {rollout.state}.")
        return msgspec.structs.replace(rollout, state="stopped", reason="by a person"), boards

    rollout, boards = session.store.change_rollout(change)
    trying = [board.name for board in boards if board.state == "trial"]
    rest = f" {some(trying)} still tries it." if trying else ""
    return Shown(
        msgspec.to_builtins(rollout),
        f"The update to {rollout.version} is stopped; `espcli update resume` goes on.{rest}",
    )


def _follow(session: Session, *, detach: bool) -> Report | Shown:
    """Drives the rollout, or watches who does, until nothing is left to do but to wait for boards that are
    away; leaves it at once with ``detach``."""
    from espnet.cli.progress import follow

    if detach:
        found = session.store.rollout()
        assert found is not None
        working = session.store.collectors(session.now, within_s=60)
        return Shown(
            _data(*found),
            f"{amount(len(found[1]), 'board')} to be updated to {found[0].version}: "
            + ("`espcli run` does it" if working else "`espcli run` will do it, when it runs")
            + "; `espcli update status` shows how far it is.",
        )
    follow(session)
    return _status(session, is_end=True)


def _status(session: Session, *, is_end: bool = False) -> Report:
    found = session.store.rollout()
    if found is None:
        raise EspNetError(
            "Nothing was ever updated here; `espcli update --all` updates every board."
        )
    rollout, boards = found
    rows = [_row(rollout, board) for board in boards]
    lines = [Line(_headline(rollout, boards))]
    if rollout.reason:
        lines.append(Line(rollout.reason))
    if (
        any(board.state in ("queued", "offline", *UNDER_WAY) for board in boards)
        and rollout.state == "running"
        and session.store.driver() is None
        and not session.store.collectors(session.now, within_s=60)
    ):
        lines.append(Line(_NO_COLLECTOR))
    table = Records(rows, ("name", "state", "sent", "from", "to", "reason"), spare=("sent", "from"))
    failed = any(board.state == "failed" for board in boards) or rollout.state == "halted"
    return Report(
        _data(rollout, boards), [Section("Update", lines), table], 1 if is_end and failed else 0
    )


def _headline(rollout: Rollout, boards: Sequence[Progress]) -> str:
    counts: dict[str, int] = {}
    for board in boards:
        counts[board.state] = counts.get(board.state, 0) + 1
    parts = ", ".join(f"{number:,} {state}" for state, number in sorted(counts.items()))
    return f"to version {rollout.version} (build {rollout.build}), {rollout.state}: {parts}"


def _row(rollout: Rollout, board: Progress) -> dict[str, Any]:
    before = board.before
    there = board.state in ("done", "skipped", "trial")
    return {
        "name": board.name,
        "id": board.id,
        "state": board.state,
        "wave": board.wave or None,
        "sent": f"{board.sent * 100 // board.total} %" if board.total else None,
        "from": _version(before.version, before.build) if before else None,
        "to": _version(rollout.version, rollout.build) if there else None,
        "reason": board.reason or None,
    }


def _version(version: str | None, build: str | None) -> str:
    return f"{version or '?'} {build or ''}".rstrip()


def _data(rollout: Rollout, boards: Sequence[Progress]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for board in boards:
        before: dict[str, Any] = msgspec.to_builtins(board.before) if board.before else {}
        there = board.state in ("done", "skipped", "trial")
        rows.append(
            {
                **msgspec.to_builtins(board),
                "version_before": before.get("version"),
                "build_before": before.get("build"),
                "version": rollout.version if there else before.get("version"),
                "build": rollout.build if there else before.get("build"),
            }
        )
    return {**msgspec.to_builtins(rollout), "boards": rows}


def _releases(session: Session) -> Records:
    rows = [
        {
            "version": kept.version,
            "build": kept.build,
            "kept_at": kept.at,
            "files": kept.files,
            "bytes": kept.bytes,
            "size": size(kept.bytes),
        }
        for kept in session.store.releases()
    ]
    hint = "" if rows else "No release is kept yet: the first `espcli update` keeps one."
    return Records(rows, ("version", "build", "kept_at", "files", "size"), hint)
