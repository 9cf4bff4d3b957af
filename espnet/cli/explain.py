"""What a device's jobs say, for people: the table, the one screen of `why`, the schedule of `plan`.

Everything here asks the same pure `decide` that the collector asks, with what the store knows.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from espnet import inputs, jobs
from espnet.cli.describe import is_denied, pace_of, problem_of, slowed
from espnet.cli.session import Session
from espnet.errors import UsageError
from espnet.model import (
    Candidate,
    Decision,
    Input,
    Job,
    Memory,
    Observed,
    Override,
    Threshold,
    Timer,
    View,
)
from espnet.watch import look_up

_LEVELS = ("off", "on")
_LINE = '{"at": UNIX_SECONDS, "inputs": {"porch.f": 71.2}}'
#: The latest moment of a recorded reading: the year 2500 and a bit, as Unix seconds.
_LATEST_S = 17e9


class Facts(NamedTuple):
    """What deciding needs of a device, as the store knows it at ``now``."""

    view: View
    jobs: tuple[Job, ...]
    memory: Memory
    inputs: dict[str, Input]
    observed: Observed
    now: float
    zone: ZoneInfo

    def decisions(self) -> dict[int, Decision]:
        return jobs.decide(self.jobs, self.inputs, self.observed, self.now)

    def next_changes(self) -> dict[int, tuple[float, Decision]]:
        return jobs.next_change(self.jobs, self.inputs, self.observed, self.now)

    def local(self, at: float | None) -> str:
        """A moment for people, in the site's zone; with the date where it is not today."""
        if at is None:
            return "–"
        when, today = (datetime.fromtimestamp(t, self.zone) for t in (at, self.now))
        return f"{when:%H:%M:%S}" if when.date() == today.date() else f"{when:%a %Y-%m-%d %H:%M:%S}"


def facts(session: Session, view: View) -> Facts:
    """Gathers what is known; asks no board."""
    store, device = session.store, view.device
    now, memory = session.now, store.memory(device)
    # An override that ended says nothing any more; it goes with the next change of the jobs.
    found = tuple(
        j for j in store.jobs(device) if not isinstance(j, Override) or not jobs.is_over(j, now)
    )
    wanted = {job.input for job in found if isinstance(job, Threshold)}
    levels, booted_at = {}, None
    if view.reading is not None:
        levels, uptime_s = view.reading.levels(), view.reading.decoded().uptime_s
        booted_at = view.reading.at - uptime_s if uptime_s is not None else None
    return Facts(
        view,
        found,
        memory,
        look_up(store, wanted),
        Observed(levels, memory, booted_at),
        now,
        ZoneInfo(session.zone),
    )


def job_rows(session: Session, view: View) -> list[dict[str, Any]]:
    """A row a job, overrides among them, in the order of their definition."""
    known = facts(session, view)
    decisions, changes = known.decisions(), known.next_changes()
    rows = []
    for job in known.jobs:
        if isinstance(job, Override) and known.now >= job.until:
            continue  # it only sees to its end
        name = "override" if isinstance(job, Override) else job.name
        enabled = isinstance(job, Override) or job.enabled
        decision = decisions.get(job.pin)
        said = _candidate(decision, name) if decision and enabled else None
        change = changes.get(job.pin)
        rows.append(
            {
                "device": view.device.name,
                "job": name,
                "kind": type(job).__name__.lower(),
                "pin": job.pin,
                "state": "enabled" if enabled else "disabled",
                "wins": bool(decision and enabled and decision.winner.job == name),
                "says": _LEVELS[said.level] if said else None,
                "next_change": known.local(change[0]) if change else None,
                "next_change_at": change[0] if change else None,
                "why": said.why if said else None,
            }
        )
    return rows


def job_fields(session: Session, view: View, job: Timer | Threshold) -> dict[str, Any]:
    """A job's definition, then what it says now."""
    (row,) = [row for row in job_rows(session, view) if row["job"] == job.name]
    return {**msgspec.to_builtins(job), **{key: row[key] for key in ("wins", "says", "why")}}


def explained(session: Session, view: View, pin: int) -> tuple[dict[str, Any], str]:
    """One screen about one pin: data, and text."""
    known = facts(session, view)
    device, reading = view.device, view.reading
    decision = known.decisions().get(pin)
    change = known.next_changes().get(pin)
    write = known.memory.writes.get(pin)
    level = known.observed.levels.get(pin)
    lease = (reading.decoded().leases or {}).get(pin) if reading else None
    state = view.state(known.now)
    data = {
        "device": device.name,
        "pin": pin,
        "state": state,
        "level": level,
        "age_s": known.now - reading.at if reading else None,
        "wanted": decision.level if decision else None,
        "winner": msgspec.to_builtins(decision.winner) if decision else None,
        "losers": msgspec.to_builtins(decision.losers) if decision else [],
        "next_change": {"at": change[0], "level": change[1].level} if change else None,
        "last_write": msgspec.to_builtins(write) if write else None,
        "lease": msgspec.to_builtins(lease) if lease else None,
        "safe": device.safe.get(pin, "low"),
        "denied": problem_of(view) if is_denied(view) else None,
        "slowed": slowed(view),
    }
    return data, "\n".join(_screen(known, pin, data, decision))


def _screen(
    known: Facts, pin: int, data: Mapping[str, Any], decision: Decision | None
) -> Iterator[str]:
    view, memory = known.view, known.memory
    yield f"Pin {pin} of {view.device.name}"
    if data["level"] is None:
        yield "  is           not known"
    else:
        old = (
            ""
            if data["state"] in ("online", "late")
            else f"; {view.device.name} is {data['state']}"
        )
        since = memory.pins.get(pin)
        is_known = since and since.changed_at and since.level == data["level"]
        since_text = f" since {known.local(since.changed_at)}" if since and is_known else ""
        seen = f"seen {max(data['age_s'], 0):.0f} s ago{old}"
        yield f"  is           {_LEVELS[data['level']]}{since_text}, {seen}"
    if decision is None:
        yield "  should be    left alone: no job governs it"
    else:
        winner = decision.winner
        yield f"  should be    {_LEVELS[decision.level]}"
        if data["denied"]:
            yield f"  but          nothing is set: {view.device.name} {data['denied']}"
        yield f"  because      {_said(winner)}"
        for loser in decision.losers:
            yield f"  against      {_said(loser)}"
        for candidate in (winner, *decision.losers):
            if candidate.input is not None:
                yield f"  input        {_looked(known, candidate)}"
    change = data["next_change"]
    yield "  next change  " + (
        f"{known.local(change['at'])}: {_LEVELS[change['level']]}"
        if change
        else "none by itself within eight days"
    )
    write = data["last_write"]
    if write is None:
        yield "  last write   none"
    else:
        result = write["problem"] or "done"
        yield f"  last write   {known.local(write['at'])}: {_LEVELS[write['level']]}, {result}"
    if data["lease"]:
        yield f"  lease        {data['lease']['left_s']:.0f} s at the last poll, then {data['lease']['safe']}"
    elif view.reading is not None and view.reading.decoded().fence is None:
        yield "  lease        none: its firmware knows no leases"
    elif view.reading is not None and view.reading.wrote.get(pin) and _leases(known, decision):
        yield f"  lease        given by the last write; its safe level is {data['safe']}"
    else:
        yield f"  lease        none; its safe level is {data['safe']}"
    if data["slowed"]:
        yield f"  board        {pace_of(view)}"
    if view.fault is not None:
        yield f"  board        {view.fault.what}, since {known.local(view.fault.since)}"


def _leases(known: Facts, decision: Decision | None) -> bool:
    """Whether what the winner switches on is leased."""
    unleased = {job.name for job in known.jobs if not isinstance(job, Override) and not job.lease}
    return decision is not None and decision.winner.job not in unleased


def _said(candidate: Candidate) -> str:
    rank = " (fail-safe)" if candidate.rank == "fail-safe" else ""
    return f"{candidate.job} says {_LEVELS[candidate.level]}{rank}: {candidate.why}"


def _looked(known: Facts, candidate: Candidate) -> str:
    (name,) = {
        job.input for job in known.jobs if isinstance(job, Threshold) and job.name == candidate.job
    }
    given = candidate.input
    assert given is not None
    if given.value is None:
        return f"{name}: {given.problem or 'no value'}"
    unit = {"c": " °C", "f": " °F", None: ""}[given.unit]
    age = f", {known.now - given.at:.0f} s old" if given.at is not None else ", of unknown age"
    return f"{name} = {given.value:.6g}{unit}{age}"


def planned(session: Session, view: View, days: int, readings: str) -> list[dict[str, Any]]:
    """The changes to come, in order; the first row of each pin is the present."""
    known = facts(session, view)
    recorded = list(_recorded(Path(readings))) if readings else []
    if readings and not recorded:
        raise UsageError(f"--readings {readings} holds no readings; a line is {_LINE}.")
    start = recorded[0][0] if recorded else known.now
    last: dict[int, int] = {}
    rows = []
    for at, decisions in jobs.predict(
        known.jobs,
        {} if recorded else known.inputs,
        known.observed,
        start,
        start + days * 86_400,
        readings=recorded,
        steady=not recorded,
    ):
        for pin, decision in sorted(decisions.items()):
            if last.get(pin) != decision.level:
                last[pin] = decision.level
                when = datetime.fromtimestamp(at, known.zone)
                rows.append(
                    {
                        "at": f"{when:%a %Y-%m-%d %H:%M:%S %Z}",
                        "at_s": at,
                        "pin": pin,
                        "state": _LEVELS[decision.level],
                        "level": decision.level,
                        "job": decision.winner.job,
                        "why": decision.winner.why,
                    }
                )
    return rows


def _recorded(path: Path) -> Iterator[tuple[float, dict[str, Input]]]:
    """Recorded readings, in order of time; raises `UsageError` with the line that is wrong."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UsageError(f"--readings {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--readings {path} is not UTF-8 text.") from error
    before = 0.0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=_Recorded)
            found = {text: _as_input(text, value, row.at) for text, value in row.inputs.items()}
        except (msgspec.DecodeError, RecursionError, UsageError) as error:
            what = str(error).rstrip(".")
            raise UsageError(
                f"--readings {path}, line {number}: {what}; a line is {_LINE}."
            ) from error
        if not 0 <= row.at <= _LATEST_S:
            raise UsageError(
                f"--readings {path}, line {number}: {row.at:g} is no time; `at` is Unix seconds."
            )
        if row.at < before:
            raise UsageError(
                f"--readings {path}, line {number}: it is earlier than the line before; sort them."
            )
        before = row.at
        yield row.at, found


class _Recorded(msgspec.Struct):
    """A line of `--readings`."""

    at: float
    inputs: dict[str, float | None]


def _as_input(text: str, value: float | None, at: float) -> Input:
    what = inputs.parse(text).what
    unit: Any = {"f": "f", "temp": "c"}.get(what)
    return Input(value, at, None, unit, "" if value is not None else "nothing was recorded")


def _candidate(decision: Decision, name: str) -> Candidate | None:
    for candidate in (decision.winner, *decision.losers):
        if candidate.job == name:
            return candidate
    return None
