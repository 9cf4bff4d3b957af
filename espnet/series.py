"""Which metrics a device makes: the points of a poll, and the series that they belong to. Pure.

Invariants: the points of a poll in which everything answered are those of `series_of`, each once, in the
same order, and `SLOWDOWN` while the board is polled slower than asked; nothing else makes metrics of a
device. A pin is sampled where a person asked for it (`Device.report_pins`), or where something governs it:
each metric with each combination of tags is one that Datadog bills, and 5,000 boards have 200,000 pins.
"""

from collections.abc import Mapping, Sequence

from espnet.model import MAX_PIN, Device, Job, Override, Reading, Status

UP = "esp32.up"
POLL_SECONDS = "esp32.poll_seconds"
SLOWDOWN = "esp32.slowdown"
BOARD_F = "esp32.f"
GPIO = "esp32.gpio"
DHT22_TEMP = "esp32.dht22.temp"
DHT22_HUMIDITY = "esp32.dht22.humidity"
ADC = "esp32.adc"

#: What one point belongs to beside its device: a metric, and the tags that are this point's alone.
Series = tuple[str, tuple[str, ...]]
Point = tuple[str, float, tuple[str, ...]]
_PIN_TAGS = {pin: (f"pin:{pin}",) for pin in range(MAX_PIN + 1)}


def tags_of(device: Device) -> tuple[str, ...]:
    """The tags of every point of a device: its name, its id and its own."""
    return (f"name:{device.name}", f"id:{device.id}", *device.tags)


def pins_of(device: Device, jobs: Sequence[Job], at: float) -> dict[int, None]:
    """The pins whose levels are sampled at ``at`` (Unix seconds), each once: those that were asked for,
    then those that an enabled job or an override governs."""
    pins = dict.fromkeys(device.report_pins)
    for job in jobs:
        if at < job.until if isinstance(job, Override) else job.enabled:  # `governs`
            pins[job.pin] = None
    return pins


def governs(job: Job, at: float) -> bool:
    """Whether a job has a say at ``at`` (Unix seconds): it is enabled, or an override that lasts."""
    return at < job.until if isinstance(job, Override) else job.enabled


def series_of(
    device: Device, jobs: Sequence[Job], at: float, status: Status | None = None
) -> list[Series]:
    """What a device's polls add to, as long as the board and all its sensors answer.

    ``status`` is what the board said last: a pin or a temperature that it does not report is no
    series. None supposes that it reports everything.
    """
    found: list[Series] = [(UP, ()), (POLL_SECONDS, ())]
    if status is None or status.f is not None:
        found.append((BOARD_F, ()))
    pins = pins_of(device, jobs, at)
    found += ((GPIO, (f"pin:{pin}",)) for pin in pins if status is None or pin in status.gpio)
    for name in device.dht22:
        own = (f"sensor:{name}",)
        found += ((DHT22_TEMP, own), (DHT22_HUMIDITY, own))
    found += ((ADC, (f"pin:{pin}",)) for pin in device.adc)
    return found


def points_of(
    device: Device,
    jobs: Sequence[Job],
    reading: Reading,
    status: Status,
    pins: Mapping[int, None] | None = None,
) -> list[Point]:
    """The points of a successful poll; ``status`` is what the board said in it. ``pins`` are those of
    `pins_of`, where they are known already.

    A pin that was written in this very poll is one of them, also where its override has just ended:
    its last point must not say that it is still on.
    """
    found: list[Point] = [(UP, 1, ()), (POLL_SECONDS, reading.poll_s, ())]
    if status.f is not None:
        found.append((BOARD_F, status.f, ()))
    levels: Mapping[int, int] = status.gpio
    if pins is None:
        pins = pins_of(device, jobs, reading.at)
    if reading.wrote:
        levels = {**levels, **reading.wrote}
        pins = {**pins, **dict.fromkeys(reading.wrote)}
    for pin in pins:
        level = levels.get(pin)
        if level is not None:
            found.append((GPIO, level, _PIN_TAGS.get(pin) or (f"pin:{pin}",)))
    for name, climate in reading.dht22.items():
        own = (f"sensor:{name}",)
        found.append((DHT22_TEMP, climate.temp_f, own))
        found.append((DHT22_HUMIDITY, climate.humidity, own))
    for pin, mean in reading.adc.items():
        found.append((ADC, mean, (f"pin:{pin}",)))
    pace = reading.pace
    if pace is not None and (pace.factor > 1 or pace.since == reading.at):  # the last one says 1
        found.append((SLOWDOWN, pace.factor, ()))
    return found


def shown_of(device: Device, jobs: Sequence[Job], at: float, status: Status | None = None) -> int:
    """How many series a device has on the page for Prometheus (`espnet.sinks.prometheus`), which shows
    every pin; ``status`` as in `series_of`."""
    pins = len(pins_of(device, jobs, at)) if status is None else len(status.gpio)
    own = 5  # temperature, uptime, memory, and two of the chip's own system
    if status is not None:
        said = (status.f, status.uptime_s, status.mem_free, status.idf_free, status.idf_largest)
        own = sum(value is not None for value in said)
    governing = sum(governs(job, at) for job in jobs)
    # Whether it is up, and what it is.
    return 2 + own + pins + 2 * len(device.dht22) + len(device.adc) + 2 * governing
