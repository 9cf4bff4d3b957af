"""Who looks at whose readings: a reading that changes sides makes the devices that depend on it due.

Invariants: forgetting costs time, never correctness: every device decides at its own polls anyway. A
side that was not seen here yet wakes too: who decided before may have seen another one, or none.
"""

from collections.abc import Iterable, Mapping

from espnet import inputs, jobs
from espnet.model import Input, Job, Reading, Status, Threshold
from espnet.store import Store


class Watch:
    """The thresholds that look at other devices, by the name of the device that they look at.

    ``version`` is that of the jobs which it knows; `woken` are the ids to be made due.
    """

    def __init__(self) -> None:
        self.version = b""
        self.woken: set[str] = set()
        self._watchers: dict[str, list[tuple[str, inputs.Source, Threshold]]] = {}
        self._sides: dict[tuple[str, Threshold], int] = {}

    def learn(
        self, version: bytes, jobs_by_id: Mapping[str, Iterable[Job]], names: Mapping[str, str]
    ) -> None:
        """Takes over all jobs, by the id of their device; ``names`` are the devices' names by id."""
        self.version = version
        self._watchers.clear()
        sides, self._sides = self._sides, {}
        for device_id, found in jobs_by_id.items():
            for job in found:
                if isinstance(job, Threshold) and job.enabled:
                    source = inputs.parse(job.input)
                    if source.device and source.device != names.get(device_id):
                        self._watchers.setdefault(source.device, []).append(
                            (device_id, source, job)
                        )
                        if (device_id, job) in sides:
                            self._sides[device_id, job] = sides[device_id, job]

    def watchers(self, name: str) -> list[Threshold]:
        """The thresholds of other devices that look at readings of the device ``name``."""
        return [job for _, _, job in self._watchers.get(name, ())]

    def saw(self, name: str, reading: Reading, status: Status) -> None:
        """Notes which devices have to decide anew because of a reading of the device ``name``."""
        for device_id, source, job in self._watchers.get(name, ()):
            side = jobs.side(job, inputs.from_reading(source, reading, status))
            if self._sides.get((device_id, job)) != side:
                self._sides[device_id, job] = side
                self.woken.add(device_id)

    def take_woken(self) -> list[str]:
        """The ids to be made due, each once."""
        woken = list(self.woken)
        self.woken.clear()
        return woken


def look_up(store: Store, wanted: Iterable[str]) -> dict[str, Input]:
    """The present values of inputs that are devices' or others' keys in Redis."""
    sources = {text: inputs.parse(text) for text in wanted}
    names = sorted({source.device for source in sources.values() if source.device})
    readings = store.readings(names)
    foreign = [(s.key, s.field) for s in sources.values() if s.what == "redis"]
    kept = dict(zip(foreign, store.foreign(foreign), strict=True)) if foreign else {}
    found = {}
    for text, source in sources.items():
        if source.what == "redis":
            found[text] = inputs.from_redis(source, *kept[source.key, source.field])
        else:
            found[text] = inputs.from_reading(source, readings[source.device])
    return found
