"""From the sample stream to the history: read, keep, pack.

Invariants: an entry is settled in the very step that keeps its row, so a row is kept exactly once, whoever
dies. Nothing is dropped for its age on the way in. Any number of historians may work at once. A step
is bounded: a page of entries, as many rows packed as twenty pages bring, a few devices that are looked
over. It packs as many rows as it keeps, or all tails of its devices that are full: so tails do not grow.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from espnet.blocks import LEVELS, sealed
from espnet.model import phase
from espnet.samples import SampleBatch, SinkState
from espnet.store import HISTORY, Entry, Store
from espnet.store.history import Packing, Row, State

#: Entries (polls) of one step.
ENTRIES = 256
#: Tails that are packed at once, and rows after which a step packs no more: twenty times what one brings.
PACKED, PACKED_ROWS = 32, 20 * ENTRIES
#: Devices that are looked over in one `drain`: those that are offline give back what is too old, too.
LOOKED_OVER = 256
#: The part of a device's memory that its tail may have, and the most of it in bytes.
TAIL_SHARE, TAIL_BYTES = 1 / 8, 65_536
#: Packing costs much the same for few rows and many: up to so many rows a tail may have more of the memory.
SHORT_ROWS, SHORT_SHARE = 8, 1 / 3
#: The smallest full tail, in rows, whatever the memory.
LEAST_ROWS = 4
#: With less memory a device, in bytes, next to nothing is kept, and wide rows may take more than that.
LEAST_SHARE = 2_000
#: What an entry takes in its list beside its own bytes, and what four keys and a state take.
ENTRY_BYTES, DEVICE_BYTES = 6, 800
#: Allocators and lists round up: a byte of blocks takes so many of memory at most.
ROUNDED_UP = 1.08

#: Names of values that are another metric's without its tags, and how they are read.
_STEM = "esp32."
#: Boards' own values are kept to this decimal: 0.1 ms, far below what a sensor or an ADC knows.
_DECIMALS = 4
#: The last second that a block can say (2106).
_LAST = 2**32 - 2 * LEVELS[-1].width


class Shape(NamedTuple):
    """What the points of a poll are called in the history, and which of them are not kept as they are."""

    names: tuple[str, ...]
    #: Where the values stand that become °C, and those that are nobody's of ours and are not rounded.
    celsius: tuple[int, ...] = ()
    exact: tuple[int, ...] = ()
    #: Of points of the same name the last one counts: where that stands, in the order of `names`.
    chosen: tuple[int, ...] | None = None


@lru_cache(maxsize=4_096)
def _shape(metrics: tuple[str, ...], owns: tuple[tuple[str, ...], ...]) -> Shape:
    """A device's polls nearly always have the same points, and many devices have the same ones."""
    places: dict[str, int] = {}
    celsius, exact = [], []
    for place, (metric, own) in enumerate(zip(metrics, owns, strict=True)):
        if not metric.startswith(_STEM):
            exact.append(place)
            places[".".join((metric, *map(_value, own)))] = place
            continue
        name = metric.removeprefix(_STEM)
        if name == "dht22.temp":  # °F on the stream, as the 2021 samples were
            celsius.append(place)
        if own:
            kind, _, rest = name.partition(".")
            name = ".".join(filter(None, (kind, *map(_value, own), rest)))
        places[name] = place
    chosen = tuple(places.values()) if len(places) < len(metrics) else None
    return Shape(tuple(places), tuple(celsius), tuple(exact), chosen)


def values_of(batch: SampleBatch) -> tuple[tuple[str, ...], list[float]]:
    """The values of one poll and the names that jobs know: ``f``, ``gpio.4``, ``dht22.air.temp`` (°C).

    What has tags of its own has their values at the end of its name.
    """
    if not batch.points:
        return (), []
    metrics, values, owns = zip(*batch.points, strict=True)
    names, celsius, exact, chosen = _shape(metrics, owns)
    found = [
        value if value.is_integer() else round(value, _DECIMALS) for value in map(float, values)
    ]
    for place in celsius:
        found[place] = round((values[place] - 32) * 5 / 9, _DECIMALS)
    for place in exact:
        found[place] = float(values[place])
    return names, found if chosen is None else [found[place] for place in chosen]


def device_id_of(batch: SampleBatch) -> str:
    """Whose poll it was; "" when the batch does not say."""
    for tag in batch.tags:
        if tag[:3] == "id:":
            return tag[3:]
    return ""


class Historian:
    """Empties the stream into the history.

    ``consumer`` names this process among the readers: the same name after a restart finds what the last
    run had in its hands. ``budget_bytes`` is what the whole fleet's history may take; every device
    has an equal share of it. ``stop`` is asked between steps. ``keep``: samples stay on the stream
    until there is a sink.
    """

    def __init__(
        self,
        store: Store,
        consumer: str,
        *,
        budget_bytes: int,
        entries: int = ENTRIES,
        stop: Callable[[], bool] = lambda: False,
        keep: bool = True,
    ) -> None:
        self._store, self._consumer, self._budget = store, consumer, budget_bytes
        self._keep = keep
        self._entries, self._stop = entries, stop
        self._cursor = 0
        self._state: SinkState | None = None

    def drain(self, now: float) -> int:
        """Keeps what is on the stream until nothing is left or it is time to stop; returns the rows.

        Raises `StoreUnavailable`; the next call goes on where that left off.
        """
        if self._stop():
            return 0
        self._store.join(HISTORY, now)  # each time, because Redis may have come back empty
        share = self._budget // max(1, self._store.device_count())
        kept = 0
        for page in self._pages():
            rows = [self._row(entry, share) for entry in page]
            some, full = self._store.append_history(rows, keep=self._keep)
            kept += some
            self._pack(full, share, now)
            if self._stop():
                return kept
        self._look_over(share, now)
        self._note(now, kept)
        return kept

    def close(self) -> None:
        """At an orderly stop: what is unfinished may be taken over at once."""
        self._store.leave(HISTORY, self._consumer)

    def _pages(self) -> Iterator[list[Entry]]:
        """What this consumer was given and did not settle, then what others abandoned, then news."""
        store, here, count = self._store, (HISTORY, self._consumer), self._entries
        while page := store.read_pending(*here, count):
            yield page
        while page := store.take_over(*here, count):
            yield page
        # While boards are polled there is always something new; a short page is the end for now.
        while page := store.take(*here, count):
            yield page
            if len(page) < count:
                return

    def _note(self, now: float, kept: int) -> None:
        """Says that the history is kept: to `doctor`, silence means that nobody does."""
        before = self._state
        self._state = SinkState(
            state="ok",
            at=now,
            since=before.since if before else now,
            uploader=self._consumer,
            ok_at=now if kept else before.ok_at if before else None,
        )
        self._store.note_sink(HISTORY, self._state)

    def _row(self, entry: Entry, share: int) -> Row:
        batch = entry.batch
        if batch is None:  # it cannot be read
            return Row(entry)
        at, device_id = round(batch.at, 3), device_id_of(batch)
        names, values = values_of(batch)
        if not names or not 0 <= at < _LAST:
            return Row(entry)
        return Row(entry, device_id, at, names, values, _full(device_id, len(names), share))

    def _pack(self, device_ids: Sequence[str], share: int, now: float) -> None:
        """Packs tails, where they are short all of them: else those at the end would never have their turn,
        and grow. Where another historian is faster, its blocks are as good."""
        rows = 0
        for start in range(0, len(device_ids), PACKED):
            if rows >= PACKED_ROWS:
                return
            packings = []
            for tail in self._store.tails(device_ids[start : start + PACKED]):
                if tail.entries:
                    rows += len(tail.entries)
                    device_id, table = tail.device_id, tail.table()
                    fields = len(table.columns)
                    next_bytes = _full(device_id, fields, share) * _row_bytes(fields)
                    allowed = _allowed(share, next_bytes)
                    blocks = sealed(table, tail.last_blocks)
                    packings.append(Packing(device_id, tail.state, allowed, tail.entries, blocks))
            self._store.seal(packings, now)

    def _look_over(self, share: int, now: float) -> None:
        """Has some devices give back what is too old, or too much since their share became smaller."""
        self._cursor, states = self._store.history_states(self._cursor, LOOKED_OVER)
        allowed = _allowed(share)
        late = [
            Packing(device_id, state, allowed)
            for device_id, state in states.items()
            if sum(state.bytes) > allowed or _is_old(state, now)
        ]
        self._store.seal(late, now)


def _value(tag: str) -> str:
    return tag.partition(":")[2] or tag


def _row_bytes(fields: int) -> int:
    return 5 + 8 * (fields + 1) + ENTRY_BYTES


@lru_cache(maxsize=65_536)
def _full(device_id: str, fields: int, share: int) -> int:
    """Rows of a full tail. Not the same for all devices: they would be packed all at once."""
    each = _row_bytes(fields)
    short = min(SHORT_ROWS, int(share * SHORT_SHARE) // each)
    rows = min(LEVELS[0].rows, max(short, _tail_bytes(share) // each))
    return max(LEAST_ROWS, int(rows * (1 - phase(device_id) / 4)))


def _tail_bytes(share: int) -> int:
    return min(TAIL_BYTES, int(share * TAIL_SHARE))


def _allowed(share: int, tail_bytes: int = 0) -> int:
    """What a device's blocks may take, so that with all else that it has it stays within its share.
    ``tail_bytes``: what its full tail takes, where that is known.
    """
    tail_bytes = max(tail_bytes, _tail_bytes(share))
    return max(0, int((share - DEVICE_BYTES - tail_bytes) / ROUNDED_UP))


def _is_old(state: State, now: float) -> bool:
    """Whether a level begins long before what it is to keep; a block goes when all of it is too old."""
    return any(
        oldest and oldest < now - level.keep_s * 1.1
        for level, oldest in zip(LEVELS, state.oldest, strict=True)
    )
