"""The design of the EspNet of 2021: a stand-in, written from a description of it. None of its code is here.

    python -m bench.peers.espnet2021 REDIS_URL PORT…

polls for ever, and is the process that is measured. What is known of that design: a pool of threads, a call
of ``requests.get`` a poll, whose connection nobody keeps, a new Redis client a device and heartbeat, a
lock in Redis by ``SET NX`` which whoever finds it taken sleeps for, a hash with a field a pin that
expires, a stream entry a device, and each pin's job evaluated at each poll. What the original did beyond
that is left out here: on one machine it made 226 to 428 polls per CPU-second.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from bench.processes import running
from bench.stage import Boards, Figures, Stopwatch

THREADS, LOCK_S, TRIES, SLEEP_S, EXPIRES_S, MAX_ENTRIES = 8, 10, 6, 0.1, 15, 100_000
#: Pin → what it wants: a thermostat and a timer, as EspNet has in its headline.
JOBS = {
    "4": {"kind": "threshold", "input": "f", "target": "68"},
    "5": {"kind": "timer", "start": "00:00", "hours": "24"},
}


class EspNet2021:
    name, title, boards = "espnet_2021_design", "The 2021 design", ("changing",)
    uses_redis = True
    does = (
        "a stand-in for the EspNet of 2021, written from a description of its design: threads, a new "
        "connection to the board and to Redis for each poll, one lock, `HSET` with a field a pin, `EXPIRE`, "
        "`XADD`, each pin's job evaluated. What the original did beyond that is left out"
    )

    def available(self) -> str | None:
        return None

    def version(self) -> str:
        import requests

        return f"requests {requests.__version__}"

    def run(self, crowd: Boards, redis_url: str, seconds: float) -> Figures:
        module = [sys.executable, "-m", "bench.peers.espnet2021"]
        with running([*module, redis_url, *map(str, crowd.ports)]) as process:
            return Stopwatch(crowd, redis_url).measure(process, seconds)


def wanted(job: dict[str, str], fields: dict[str, str], now: datetime) -> bool:
    """Whether a job wants its pin on."""
    if job["kind"] == "threshold":
        return float(fields[job["input"]]) < float(job["target"])
    start = datetime.strptime(job["start"], "%H:%M").time()
    minutes = (now.hour - start.hour) * 60 + now.minute - start.minute
    return minutes % 1440 >= float(job["hours"]) * 60


def update(url: str, port: int) -> bool:
    """One whole poll of one device; False when somebody else has its lock."""
    import redis
    import requests

    with redis.Redis.from_url(url, decode_responses=True) as store:
        lock = f"design2021:lock:{port}"
        for _ in range(TRIES):
            if store.set(lock, "1", nx=True, ex=LOCK_S):
                break
            time.sleep(SLEEP_S)
        else:
            return False
        try:
            status = requests.get(f"http://127.0.0.1:{port}/", timeout=2).json()
            fields = {"f": status["f"], **status["gpio"]}
            key = f"design2021:device:{status['id']}"
            store.hset(key, mapping=fields)
            store.expire(key, EXPIRES_S)
            sample = {"id": status["id"], "f": status["f"]}
            store.xadd("design2021:samples", sample, maxlen=MAX_ENTRIES, approximate=True)
            now = datetime.now()
            for pin, level in status["gpio"].items():
                if pin in JOBS and wanted(JOBS[pin], fields, now) != bool(level):
                    raise SystemExit(
                        f"pin {pin} is not as its job wants it; boards here never change"
                    )
        finally:
            store.delete(lock)
    return True


def main() -> None:
    url, *ports = sys.argv[1:]
    with ThreadPoolExecutor(THREADS) as pool:
        while all(pool.map(lambda port: update(url, int(port)), ports)):
            pass


if __name__ == "__main__":
    main()
