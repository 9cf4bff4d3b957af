"""`espcli doctor --here`: whether this machine's collectors work. What a service's health check asks.

Who is restarted by the answer must be to blame for it. So boards, sinks and the state of Redis do not count,
nor do other machines' collectors; and it costs the same for any number of boards: one question to Redis.
"""

import socket

from espnet.cli.amounts import duration
from espnet.cli.facts import ALIVE_S
from espnet.cli.render import Line, Report, Section
from espnet.cli.session import Session
from espnet.errors import StoreUnavailable
from espnet.store import COLLECTOR_FORGOTTEN_S

#: None of them claims, though Redis answers; and nobody can tell, because Redis does not.
IDLE, UNKNOWN = 1, 3


def report(session: Session) -> Report:
    """The page, the object, and the exit code; Redis is asked, and nothing is changed."""
    host = socket.gethostname()
    ages: dict[str, float] = {}
    try:
        now = session.now
        for name, at in session.store.collectors_seen(now, COLLECTOR_FORGOTTEN_S).items():
            if host_of(name) == host:
                ages[name] = now - at
    except StoreUnavailable as error:
        code, verdict = UNKNOWN, f"Whether {host} has a collector at work cannot be told: {error}"
    else:
        is_at_work = min(ages.values(), default=ALIVE_S + 1) <= ALIVE_S
        code = 0 if is_at_work else IDLE
        verdict = f"{host} has {'a' if is_at_work else 'no'} collector at work."
    rows = sorted(ages.items(), key=lambda row: row[1])
    data = {
        "is_well": not code,
        "exit_code": code,
        "at": session.now,
        "host": host,
        "collectors": [
            {"name": name, "age_s": age_s, "is_alive": age_s <= ALIVE_S} for name, age_s in rows
        ],
        "verdict": verdict,
    }
    lines = [Line(f"{name}  claimed {duration(max(age_s, 0.0))} ago") for name, age_s in rows]
    style = "bold red" if code else "green"
    parts = [Section("Collectors", lines)] if lines else []
    return Report(data, [*parts, Section("", [Line(verdict, style)])], code)


def host_of(collector: str) -> str:
    """The machine in a collector's name, which is ``ROLE@HOST:PID:NUMBER``."""
    return collector.partition("@")[2].rsplit(":", 2)[0]
