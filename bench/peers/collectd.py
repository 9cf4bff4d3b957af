"""collectd, as Debian packages it: ``curl_json`` reads the boards, ``write_redis`` writes what they say."""

import re
import subprocess
import tempfile
from pathlib import Path

import redis

from bench import debian
from bench.peers import Unfit
from bench.processes import running
from bench.stage import Boards, Figures, Stopwatch, free_port

#: Between two polls of a board, in seconds, at first; it grows until what is read gets written too.
INTERVAL_S, SLOWER, SLOWEST_S = 0.2, 1.5, 2.0
#: It reads all boards at once, each interval; a window holds so many of those, or its ends would count.
BURSTS = 12
VALUES = 35
CONFIG = """\
BaseDir "{folder}"
PIDFile "{folder}/pid"
PluginDir "{plugins}"
TypesDB "{types}"
Interval {interval}
ReadThreads 5
WriteThreads 5
LoadPlugin curl_json
LoadPlugin write_redis
<Plugin curl_json>
{urls}</Plugin>
<Plugin write_redis>
  <Node "bench">
    Host "{host}"
    Port "{port}"
    Timeout 1000
    StoreRates false
  </Node>
</Plugin>
"""
URL = """\
  <URL "http://127.0.0.1:{port}/">
    Instance "board{number}"
    <Key "f">
      Type "gauge"
    </Key>
    <Key "gpio/*">
      Type "gauge"
    </Key>
  </URL>
"""


class Collectd:
    name, title, boards = "collectd", "collectd", ("changing",)
    uses_redis = True
    does = (
        "Debian's package: `curl_json` reads the same JSON with kept connections, `write_redis` writes each "
        "of its 35 values by a `ZADD` and a `SADD` of their own. It polls as often as it can write: with "
        "less than that between two polls, values pile up in its memory. No jobs, locks or passwords, and no "
        "schedule that others can share"
    )

    def __init__(self) -> None:
        self._interval_s = INTERVAL_S

    def available(self) -> str | None:
        try:
            if debian.program("collectd") is None or not debian.file("usr/lib/*/libhiredis.so.*"):
                libraries = debian.suggested("collectd-core", r"lib(curl|yajl|hiredis)[0-9].*")
                debian.unpack("collectd-core", *libraries)
        except debian.NotThere as error:
            return str(error)
        self._program = debian.program("collectd")
        self._plugin = debian.file("usr/lib/collectd/write_redis.so")
        self._types = debian.file("usr/share/collectd/types.db")
        if self._program and self._plugin and self._types:
            return None
        return "the package lacks collectd, write_redis or types.db"

    def version(self) -> str:
        told = subprocess.run(
            [self._program, "-h"],
            env=debian.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        found = re.search(r"collectd (\d[\d.]*\d)", told.stdout + told.stderr)
        return f"collectd {found[1] if found else '?'}"

    def run(self, crowd: Boards, redis_url: str, seconds: float) -> Figures:
        while True:
            figures = self._run(crowd, redis_url, max(seconds, BURSTS * self._interval_s))
            written = figures.redis_commands / max(1, figures.polls) / 2
            if abs(written / VALUES - 1) < 0.1:
                return figures
            self._interval_s *= SLOWER
            if self._interval_s > SLOWEST_S:
                raise Unfit(f"of the {VALUES} values a poll it wrote {written:.1f}")

    def _run(self, crowd: Boards, redis_url: str, seconds: float) -> Figures:
        with tempfile.TemporaryDirectory(prefix="espnet-bench-") as name:
            config = Path(name, "collectd.conf")
            urls = (URL.format(port=port, number=n) for n, port in enumerate(crowd.ports))
            config.write_text(
                CONFIG.format(
                    folder=name,
                    plugins=self._plugin.parent,
                    types=self._types,
                    interval=self._interval_s,
                    urls="".join(urls),
                    host="127.0.0.1",
                    port=_tcp_port(redis_url),
                )
            )
            command = [self._program, "-f", "-C", config]
            # It says each value that it could not write; how many it wrote is counted.
            with running(command, env=debian.environment(), stderr=subprocess.DEVNULL) as process:
                return Stopwatch(crowd, redis_url).measure(process, seconds)


def _tcp_port(redis_url: str) -> int:
    """Where the server listens on 127.0.0.1 too from now on: collectd 5 knows no Unix sockets."""
    with redis.Redis.from_url(redis_url) as client:
        if port := int(client.config_get("port")["port"]):
            return port
        port = free_port()
        client.config_set("port", port)
        return port
