"""What the samples cost: how many series there are, and how many there would be. `run` asks here, too.

Datadog bills every metric with every combination of tags that it saw in an hour. All series of a board
carry its name and its id, so boards never share one, and a tag that all series of a board have makes no
more of them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from espnet import outlets
from espnet.cli import parse
from espnet.cli.render import Line, Records, Report, Section
from espnet.config import Config
from espnet.errors import TooManyMetrics, UnknownDevice, UsageError
from espnet.model import ADC_PINS, Adc, Device, Job, Status
from espnet.series import pins_of, series_of, shown_of, tags_of
from espnet.store import Store

#: What the built-in sinks cost; those of users may cost something.
_FREE = {"prometheus": "shows", "file": "writes", "console": "prints"}
_MOST_BOARDS = 1_000_000

_FORMS = {
    "gpio": "gpio:NAME:PIN",
    "adc": "adc:NAME:PIN",
    "dht22": "dht22:NAME:SENSOR",
    "tag": "tag:NAME:TAG",
    "boards": "boards:NAME:COUNT",
    "device": "device:NAME",
}


class Member(NamedTuple):
    """A device as it counts; ``boards`` are so many like it."""

    device: Device
    jobs: tuple[Job, ...]
    status: Status | None
    boards: int = 1


class Count(NamedTuple):
    """The series of a fleet: by metric, by tag (its values, the series that carry it), and how many there
    are on Prometheus' page."""

    metrics: dict[str, int]
    tags: dict[str, tuple[int, int]]
    shown: int

    @property
    def series(self) -> int:
        return sum(self.metrics.values())

    def of(self, sink: str) -> int:
        """How many a sink gets to see."""
        return self.shown if sink == "prometheus" else self.series


def members(store: Store) -> list[Member]:
    """The registered fleet."""
    jobs = store.all_jobs()
    return [
        Member(
            view.device,
            jobs.get(view.device.id, ()),
            view.reading.decoded() if view.reading else None,
        )
        for view in store.views()
    ]


def count(fleet: Sequence[Member], at: float) -> Count:
    """The series of a fleet whose boards and sensors all answer."""
    metrics: Counter[str] = Counter()
    values: defaultdict[str, set[str]] = defaultdict(set)
    carried: Counter[str] = Counter()
    shown = boards = 0
    for device, jobs, status, many in fleet:
        found = series_of(device, jobs, at, status)
        for metric, own in found:
            metrics[metric] += many
            for tag in own:
                key, _, value = tag.partition(":")
                values[key].add(value)
                carried[key] += many
        shared = [tag.partition(":") for tag in tags_of(device)]
        for key, _, value in shared:
            values[key].add(value)
        for key in {key for key, _, _ in shared}:
            carried[key] += many * len(found)
        boards += many
        shown += many * shown_of(device, jobs, at, status)
    tags = {key: (len(values[key]), carried[key]) for key in sorted(values)}
    for key in {"name", "id"} & set(tags):
        tags[key] = (boards, tags[key][1])  # also of boards that are not there yet
    return Count(dict(metrics), tags, shown)


def refuse_too_many(store: Store, config: Config, at: float) -> None:
    """Raises `TooManyMetrics` where a sink would be billed for more than ``config.max_metrics``."""
    if config.max_metrics is not None and any(map(_is_billed, outlets.chosen(config))):
        series = count(members(store), at).series
        if series > config.max_metrics:
            raise TooManyMetrics(series, config.max_metrics)


def _is_billed(sink: str) -> bool:
    return sink not in _FREE


# --- changes --------------------------------------------------------------------------------------


class _Plan:
    """A fleet that is changed on paper. ``notes`` are what a person might not expect."""

    def __init__(self, fleet: list[Member], at: float) -> None:
        self.fleet, self.at = fleet, at
        self.notes: list[str] = []
        self._steps: dict[tuple[bool, str], Callable[[int, str, bool], Member | None]] = {
            (True, "boards"): self._boards,
            (False, "device"): self._device,
            **{(adding, "gpio"): self._gpio for adding in (True, False)},
            **{(adding, "adc"): self._adc for adding in (True, False)},
            **{(adding, "dht22"): self._dht22 for adding in (True, False)},
            **{(adding, "tag"): self._tag for adding in (True, False)},
        }

    def apply(self, text: str, *, adding: bool) -> None:
        """One change, as it was typed; raises `UsageError` or `UnknownDevice`."""
        option = "--add" if adding else "--remove"
        kind, _, rest = text.partition(":")
        step = self._steps.get((adding, kind))
        if step is None:
            known = ", ".join(_FORMS[word] for is_add, word in self._steps if is_add == adding)
            raise UsageError(f"{option} knows {known}; not {parse.quoted(text)}.")
        place, what = self._find(rest) if rest else (-1, "")
        if not rest or bool(what) == (kind == "device"):
            raise UsageError(f"{option} {parse.quoted(text)}: it goes {_FORMS[kind]}.")
        changed = step(place, what, adding)
        if changed is None:
            del self.fleet[place]
        else:
            self.fleet[place] = changed

    def _find(self, text: str) -> tuple[int, str]:
        """The device that a text begins with, by its place, and the rest. Names may hold colons."""
        found, length = -1, -1
        for place, member in enumerate(self.fleet):
            name = member.device.name
            if len(name) > length and (text == name or text.startswith(f"{name}:")):
                found, length = place, len(name)
        if found < 0:
            raise UnknownDevice(text.partition(":")[0])
        return found, text[length + 1 :]

    def _boards(self, place: int, what: str, _: bool) -> Member:
        like = self.fleet[place]
        more = parse.count(what, "COUNT of boards", 1, _MOST_BOARDS)
        # Behind all others, so that no place moves; its name and id are not there to be found.
        self.fleet.append(like._replace(boards=more))
        return like

    def _device(self, place: int, what: str, _: bool) -> None:
        return None

    def _gpio(self, place: int, what: str, adding: bool) -> Member:
        member = self.fleet[place]
        device, pin = member.device, parse.pin(what)
        sampled = pin in pins_of(device, member.jobs, self.at)
        if adding:
            if sampled:
                self.notes.append(f"{device.name} samples pin {pin} already.")
                return member
            parse.known_pins([pin], device, member.status.gpio if member.status else None)
            pins: tuple[int, ...] = (*device.report_pins, pin)
        else:
            if not sampled:
                raise UsageError(f"{device.name} does not sample pin {pin}.")
            pins = tuple(other for other in device.report_pins if other != pin)
        member = _with(member, report_pins=pins)
        if not adding and pin in pins_of(member.device, member.jobs, self.at):
            self.notes.append(
                f"Pin {pin} of {device.name} is sampled all the same: a job governs it."
            )
        return member

    def _adc(self, place: int, what: str, adding: bool) -> Member:
        member = self.fleet[place]
        device, pin = member.device, parse.pin(what)
        if not adding:
            _require(pin in device.adc, f"{device.name} does not read the ADC of pin {pin}.")
            return _with(member, adc={p: how for p, how in device.adc.items() if p != pin})
        if pin in device.adc:
            self.notes.append(f"{device.name} reads the ADC of pin {pin} already.")
            return member
        _require(pin in ADC_PINS, f"Pin {pin} has no ADC beside Wi-Fi; choose one of 32 to 39.")
        parse.known_pins([pin], device, member.status.gpio if member.status else None)
        return _with(member, adc={**device.adc, pin: Adc()})

    def _dht22(self, place: int, what: str, adding: bool) -> Member:
        member = self.fleet[place]
        device, sensor = member.device, parse.name(what, "sensor's name")
        if not adding:
            _require(sensor in device.dht22, f"{device.name} has no DHT22 named {sensor!r}.")
            return _with(
                member, dht22={name: pin for name, pin in device.dht22.items() if name != sensor}
            )
        if sensor in device.dht22:
            self.notes.append(f"{device.name} has the DHT22 {sensor} already.")
        return _with(member, dht22={**device.dht22, sensor: 0})

    def _tag(self, place: int, what: str, adding: bool) -> Member:
        member = self.fleet[place]
        device, (tag,) = member.device, parse.tags(what)
        if adding and tag in device.tags:
            self.notes.append(f"{device.name} has the tag {tag} already.")
            return member
        _require(adding or tag in device.tags, f"{device.name} has no tag {tag!r}.")
        self.notes.append(
            f"A tag of a board makes no more series: all those of {device.name} are its own already, "
            "by its name and id. In the hour of the change both forms count."
        )
        others = tuple(other for other in device.tags if other != tag)
        return _with(member, tags=(*others, tag) if adding else others)


def _with(member: Member, **changes: Any) -> Member:
    return member._replace(device=msgspec.structs.replace(member.device, **changes))


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UsageError(sentence)


# --- the report -----------------------------------------------------------------------------------


def report(store: Store, config: Config, at: float, add: str, remove: str) -> Report:
    """The series now and after the changes, for each sink, by metric and by tag."""
    fleet = members(store)
    now = count(fleet, at)
    plan = _Plan(list(fleet), at)
    for text in remove.split(",") if remove else ():
        plan.apply(text, adding=False)
    for text in add.split(",") if add else ():
        plan.apply(text, adding=True)
    after = count(plan.fleet, at) if add or remove else None
    notes = list(dict.fromkeys(plan.notes))
    rows = [_sink_row(sink, now, after) for sink in _sinks(config)]
    metrics, tags = _metric_rows(now, after), _tag_rows(now, after)
    over = _warnings(config, rows)
    if not fleet:
        notes.append("No devices are registered yet: `espcli register ADDRESS NAME`.")
    if not outlets.chosen(config):
        notes.append(
            "No sink is chosen, so nothing is sent and nothing billed."
            if config.sinks is not None
            else "No sink is chosen yet; this is what Datadog would bill."
        )
    data = {
        "devices": _devices(fleet, plan.fleet if after else None),
        "sinks": {row["sink"]: {k: v for k, v in row.items() if k != "sink"} for row in rows},
        "metrics": metrics,
        "tags": tags,
        "max_metrics": config.max_metrics,
        "is_over": bool(over),
        "notes": notes,
    }
    tables = [[row | {"billed": _price(row["sink"])} for row in rows], _summed(metrics), tags]
    lines = [Line(note) for note in notes] + [Line(text, "red") for text in over]
    parts: list[Records | Section] = [Records(t, tuple(t[0])) for t in tables if t]
    if lines:
        parts.append(Section("", lines))
    return Report(data, parts, int(bool(over)))


def _sinks(config: Config) -> list[str]:
    """The sinks that are chosen; Datadog, where nobody chose any."""
    sinks = list(outlets.chosen(config))
    if config.prometheus and "prometheus" not in sinks:
        sinks.append("prometheus")
    return sinks if sinks or config.sinks is not None else ["datadog"]


def _devices(now: list[Member], after: list[Member] | None) -> dict[str, int]:
    counts = {"now": sum(member.boards for member in now)}
    return counts if after is None else counts | {"after": sum(member.boards for member in after)}


def _sink_row(sink: str, now: Count, after: Count | None) -> dict[str, Any]:
    row: dict[str, Any] = {"sink": sink, "series": now.of(sink)}
    if after is not None:
        row |= {"after": after.of(sink), "change": after.of(sink) - now.of(sink)}
    return row | {"billed": _is_billed(sink)}


def _price(sink: str) -> str:
    if sink in ("datadog", "dogstatsd"):
        return "yes, as custom metrics"
    return f"no: it {_FREE[sink]} them" if sink in _FREE else "as its owner says"


def _metric_rows(now: Count, after: Count | None) -> list[dict[str, Any]]:
    rows = []
    for metric in dict.fromkeys([*now.metrics, *(after.metrics if after else ())]):
        before = now.metrics.get(metric, 0)
        row: dict[str, Any] = {"metric": metric, "series": before}
        if after is not None:
            then = after.metrics.get(metric, 0)
            row |= {"after": then, "change": then - before}
        rows.append(row)
    return rows


def _tag_rows(now: Count, after: Count | None) -> list[dict[str, Any]]:
    rows = []
    for tag in dict.fromkeys([*now.tags, *(after.tags if after else ())]):
        values, series = now.tags.get(tag, (0, 0))
        row: dict[str, Any] = {"tag": tag, "values": values, "series": series}
        if after is not None:
            then = after.tags.get(tag, (0, 0))
            row |= {"values_after": then[0], "series_after": then[1]}
        rows.append(row)
    return rows


def _summed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with their sum below; nothing below nothing."""
    if not rows:
        return []
    counts = [key for key in rows[0] if key != "metric"]
    return [*rows, {"metric": "all", **{key: sum(row[key] for row in rows) for key in counts}}]


def _warnings(config: Config, rows: list[dict[str, Any]]) -> list[str]:
    """What is above the limit, now or after the change."""
    most = config.max_metrics
    if most is None:
        return []
    return [
        f"{row['sink']}: {row[when]:,} series {tense} more than ESPNET_MAX_METRICS ({most:,})."
        + (" `espcli run` will not start without --anyway." if when == "series" else "")
        for row in rows
        if row["billed"]
        for when, tense in (("series", "are"), ("after", "would be"))
        if row.get(when, 0) > most
    ]
