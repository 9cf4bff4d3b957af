"""What deciding costs: 1,000 devices with one job each, as a tick of the collector asks for them.

    python -m bench.jobs

Prints µs a device, the best of several rounds: the machine is shared, and nothing makes code faster
than it is. Records are decoded anew, as they come from Redis; their decoding is not counted.
"""

import time
from collections.abc import Callable

import msgspec

from espnet.jobs import decide, remember
from espnet.model import Input, Job, Memory, Observed, Threshold, Timer

DEVICES, ROUNDS = 1_000, 20
START, INTERVAL_S = 1_768_000_000.0, 10.0
LEVELS = dict.fromkeys(range(34), 0)

timer = Timer(name="lamp", pin=4, start="18:30", hours=5, zone="Europe/Vienna")
heater = Threshold(
    name="heater",
    pin=4,
    start="00:00",
    hours=24,
    zone="Europe/Vienna",
    input="porch.dht22.attic.temp",
    target=20,
    stale="off",
    band=0.5,
    lock_s=60,
    min_on_s=120,
    min_off_s=180,
    unit="f",
)


def measure(job_of: Callable[[int], Job]) -> tuple[float, float]:
    """µs a device of `decide` and of `remember`."""
    decoder = msgspec.json.Decoder(list[Job])
    raw = [msgspec.json.encode([job_of(number)]) for number in range(DEVICES)]
    memories = [Memory()] * DEVICES
    deciding = remembering = float("inf")
    for round_ in range(ROUNDS):
        now = START + round_ * INTERVAL_S
        inputs = {heater.input: Input(18.9, now - 3, INTERVAL_S, "c")}
        fleet = [decoder.decode(jobs) for jobs in raw]
        observed = [Observed(LEVELS, memory) for memory in memories]
        began = time.perf_counter()
        decisions = [
            decide(jobs, inputs, seen, now) for jobs, seen in zip(fleet, observed, strict=True)
        ]
        decided = time.perf_counter()
        memories = [
            remember(jobs, made, seen, now)
            for jobs, made, seen in zip(fleet, decisions, observed, strict=True)
        ]
        ended = time.perf_counter()
        deciding = min(deciding, decided - began)
        remembering = min(remembering, ended - decided)
    return deciding / DEVICES * 1e6, remembering / DEVICES * 1e6


def main() -> None:
    variants: dict[str, Callable[[int], Job]] = {
        "timer": lambda _: timer,
        "timer, a delay of its own": lambda number: msgspec.structs.replace(
            timer, name=f"lamp{number}", window_min=30
        ),
        "threshold": lambda _: heater,
    }
    print(f"{'':27} {'decide':>9} {'remember':>9}   µs a device, {DEVICES:,} devices")
    for name, job_of in variants.items():
        deciding, remembering = measure(job_of)
        print(f"{name:27} {deciding:>9.2f} {remembering:>9.2f}")


if __name__ == "__main__":
    main()
