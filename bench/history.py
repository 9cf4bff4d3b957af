"""What the history costs: bytes for each reading, and time to keep and pack them.

    python -m bench.history

A reading is one poll of a board with a DHT22 and an ADC pin: 7 values, with the noise that such sensors
have. Bytes are those of the packed blocks; beside them stands what Redis itself counts, keys, tails and all.
Redis's own time is what `INFO commandstats` says of the scripts.
"""

import math
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import redis

from espnet import blocks, server
from espnet.blocks import LEVELS
from espnet.historian import ENTRIES, Historian
from espnet.model import Device, encode
from espnet.samples import SampleBatch
from espnet.series import tags_of
from espnet.store import Store

START, INTERVAL_S, DAYS = 1_750_000_000.0, 10.0, 30
#: Readings of a block: full tails have 180 to 240.
ROWS = 210
DEVICES, POLLS = 200, 480


def readings(seed: int, count: int) -> Iterator[tuple[float, dict[str, float]]]:
    """A room over days: sun, a thermostat, a sensor with 0.1° steps, an ADC with some noise."""
    luck = random.Random(seed)
    celsius, heats = 20.0, 0
    for number in range(count):
        at = START + number * INTERVAL_S
        day = math.sin(at / 86_400 * 2 * math.pi)
        heats = 1 if celsius < 19.5 else 0 if celsius > 20.5 else heats
        celsius += 0.001 * (12 + 6 * day - celsius) + 0.012 * heats
        yield (
            round(at + abs(luck.gauss(0.05, 0.01)), 3),
            {
                "up": 1.0,
                "poll_seconds": round(abs(luck.gauss(0.05, 0.01)), 4),
                "f": float(round(118 + celsius / 2 + luck.gauss(0, 0.4))),
                "gpio.4": float(heats),
                "dht22.air.temp": round(celsius + luck.gauss(0, 0.05), 1),
                "dht22.air.humidity": round(45 - 4 * day + luck.gauss(0, 0.1), 1),
                "adc.36": round(8 * (620 + 12.4 * celsius + luck.gauss(0, 2))) / 8,
            },
        )


def packed() -> None:
    """Bytes and time of the blocks alone."""
    rows = list(readings(1, int(DAYS * 86_400 / INTERVAL_S)))
    levels: list[list[bytes]] = [[] for _ in LEVELS]
    began = time.process_time()
    for start in range(0, len(rows), ROWS):
        table = blocks.table_of(rows[start : start + ROWS])
        last = [found[-1] if found else None for found in levels]
        for found, (block, replaces) in zip(levels, blocks.sealed(table, last), strict=True):
            if replaces:
                found.pop()
            found.append(block)
    took = time.process_time() - began
    print(f"{'level':12} {'rows':>9} {'bytes/row':>10} {'kept':>7} {'makes':>9}")
    for level, found in zip(LEVELS, levels, strict=True):
        count = sum(blocks.header(block).rows for block in found)
        each = sum(map(len, found)) / count
        kept = level.keep_s / (level.width or INTERVAL_S)
        print(
            f"{level.name:12} {count:>9,} {each:>10.2f} {level.keep_s // 86_400:>5} d "
            f"{each * kept / 1024:>6.0f} kB"
        )
    print(f"packing: {took / len(rows) * 1e6:.1f} µs a reading, {ROWS} readings at once")


def kept(url: str, budget: int) -> None:
    """The whole way from the stream, with a fleet of `DEVICES`."""
    devices = [Device(id=f"{n:012x}", name=f"board{n}", address="x") for n in range(DEVICES)]
    with redis.Redis.from_url(url) as raw, closing(Store(url)) as store:
        raw.flushall()
        raw.hset("espnet:devices", mapping={d.id: encode(d) for d in devices})
        here = Historian(store, "bench", budget_bytes=budget)
        here.drain(START)
        raw.config_resetstat()
        count, spent = 0, 0.0
        for number, (at, fields) in enumerate(readings(2, POLLS)):
            pipe = raw.pipeline(transaction=False)
            for device in devices:
                points = [(f"esp32.{name}", value, ()) for name, value in fields.items()]
                batch = SampleBatch(at, tags_of(device), tuple(points))
                pipe.xadd("espnet:samples", {"n": len(points), "batch": encode(batch)})
            pipe.execute()
            if number % 2 or number == POLLS - 1:
                began = time.process_time()
                count += here.drain(at)
                spent += time.process_time() - began
                raw.xtrim("espnet:samples", maxlen=0)
        scripts = raw.info("commandstats")["cmdstat_evalsha"]
        memory = sum(raw.memory_usage(key, samples=0) for key in raw.scan_iter("espnet:history*"))
        (full, *_) = store.history_reach(START + POLLS * INTERVAL_S)
    share = budget // DEVICES
    print(
        f"{share / 1024:>6.0f} kB {count / spent:>12,.0f} {spent / count * 1e6:>8.1f} "
        f"{scripts['usec'] / count:>9.1f} {scripts['usec_per_call']:>9.0f} {memory / budget:>9.0%} "
        f"{full.least_s / 60 if full.least_s else POLLS * INTERVAL_S / 60:>8.0f} min"
    )


def main() -> None:
    packed()
    print(
        f"\n{'a share':>9} {'rows/CPU-s':>12} {'µs/row':>8} {'Redis µs':>9} {'a script':>9} "
        f"{'memory':>9} {'full rate':>12}   {DEVICES} devices, pages of {ENTRIES}"
    )
    with tempfile.TemporaryDirectory(prefix="espnet-bench-") as folder:
        url = server.find(None, Path(folder), default_sockets=()).url
        try:
            for share in (256 * 1024, 25 * 1024, 8 * 1024, 2 * 1024):
                kept(url, share * DEVICES)
        finally:
            server.stop(Path(folder))


if __name__ == "__main__":
    main()
