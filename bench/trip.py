"""One collecting process over the stand-in boards: measures itself, prints one JSON object.

    python -m bench.trip REDIS_URL SECONDS JOBS open|claimed PORT… [every=S]

Each tick finds every board due, so that nothing is measured but trips: claim, HTTP, parse, decide,
commit with the reading and the samples. The stream and its books go between the ticks that are
measured, so that it neither grows for ever nor comes to its bound. JOBS is how many jobs each device
has, 0 to 2: a thermostat on its own temperature, a timer; both want the pin as it is, because the
boards here never change. With ``every`` a tick begins each S seconds, and not when the last one has ended.
"""

import asyncio
import json
import resource
import sys
import time

import msgspec
import redis
import uvloop

from bench.boards import PASSWORD, board_id, status
from espnet.clock import ManualClock
from espnet.collector import Collector
from espnet.model import Device, Job, Reading, Threshold, Timer
from espnet.store import Store

INTERVAL_S = 10.0


class CountingConnection(redis.UnixDomainSocketConnection):
    """Counts what goes to Redis, a round trip each."""

    sent = 0

    def send_packed_command(self, command: object, check_health: bool = True) -> None:
        CountingConnection.sent += 1
        super().send_packed_command(command, check_health)


JOBS: tuple[Job, ...] = (
    Threshold(
        name="heater",
        pin=4,
        start="00:00",
        hours=24,
        zone="Europe/Vienna",
        input="board.f",
        target=20.0,
        stale="off",
        unit="c",
    ),
    Timer(name="lamp", pin=5, start="00:00", hours=24, zone="Europe/Vienna", invert=True),
)


def account(client: redis.Redis) -> dict[str, float]:
    """What Redis has done since it began: commands, those inside of scripts too; bytes; CPU-seconds.

    Taking it is itself one command, and some bytes, of the next account.
    """
    calls = client.info("commandstats")
    stats, cpu = client.info("stats"), client.info("cpu")
    return {
        "commands": sum(
            command["calls"] for name, command in calls.items() if name != "cmdstat_info"
        ),
        "bytes_in": stats["total_net_input_bytes"],
        "bytes_out": stats["total_net_output_bytes"],
        "cpu_s": cpu["used_cpu_user"] + cpu["used_cpu_sys"],
    }


async def measure(
    url: str, seconds: float, count: int, claimed: bool, ports: list[int], every_s: float = 0.0
) -> dict[str, float]:
    pool = redis.ConnectionPool(connection_class=CountingConnection, path=url.split("://")[1])
    client = redis.Redis(connection_pool=pool)
    client.flushall()
    store = Store(url, client=client)
    clock = ManualClock(time.time())
    for number, port in enumerate(ports):
        device = Device(
            id=board_id(number),
            name=f"board{number}",
            address=f"127.0.0.1:{port}",
            report_pins=(2,),
        )
        reading = Reading(
            at=0, poll_s=0, interval_s=INTERVAL_S, collector="", status=msgspec.Raw(status(number))
        )
        if claimed:
            store.add_password(device.id, PASSWORD)
        store.add(device, reading, first_due=clock.now(), has_password=claimed)
        jobs = tuple(
            msgspec.structs.replace(job, input=f"{device.name}.f")
            if isinstance(job, Threshold)
            else job
            for job in JOBS[:count]
        )
        if jobs:
            store.change_jobs(device.name, lambda _, __, jobs=jobs: jobs, now=clock.now())
    collector = Collector(store, clock, holder="bench", interval_s=INTERVAL_S, timeout_s=2.0)
    for _ in range(3):  # connects, loads the scripts, learns what boards know, is challenged
        await collector.tick(clock.advance(INTERVAL_S))

    polls = 0
    user_s = system_s = 0.0
    before = account(client)
    sent = CountingConnection.sent
    uncounted = 0
    end = time.monotonic() + seconds
    beat = time.monotonic()
    while time.monotonic() < end:
        began = resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(20):
            if every_s:
                beat = max(beat + every_s, time.monotonic())
                await asyncio.sleep(beat - time.monotonic())
            tick = await collector.tick(clock.advance(INTERVAL_S))
            if tick.failed or tick.void or tick.ok != len(ports):
                raise SystemExit(f"not every board was polled: {tick}")
            polls += tick.ok
        ended = resource.getrusage(resource.RUSAGE_SELF)
        user_s += ended.ru_utime - began.ru_utime
        system_s += ended.ru_stime - began.ru_stime
        client.delete("espnet:samples", "espnet:books")
        uncounted += 1
    trips = CountingConnection.sent - sent - uncounted
    redis_did = {name: value - before[name] for name, value in account(client).items()}
    await collector.close()
    store.close()
    return {
        "polls_per_cpu_s": round(polls / (user_s + system_s)),
        "user_us_per_poll": round(user_s * 1e6 / polls, 1),
        "system_us_per_poll": round(system_s * 1e6 / polls, 1),
        "redis_round_trips_per_poll": round(trips / polls, 4),
        "redis_commands_per_poll": round((redis_did["commands"] - uncounted) / polls, 2),
        "redis_bytes_in_per_poll": round(redis_did["bytes_in"] / polls),
        "redis_bytes_out_per_poll": round(redis_did["bytes_out"] / polls),
        "redis_cpu_us_per_poll": round(redis_did["cpu_s"] * 1e6 / polls, 1),
        "rss_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


if __name__ == "__main__":
    url, seconds, count, access, *rest = sys.argv[1:]
    ports = [int(port) for port in rest if port.isdigit()]
    every = [float(word.removeprefix("every=")) for word in rest if word.startswith("every=")]
    result = uvloop.run(
        measure(url, float(seconds), int(count), access == "claimed", ports, *every)
    )
    print(json.dumps(result))
