"""What is wrong with all of it, and what to do about that: from facts to problems. Pure.

::

    problems   all of them, in the order in which to look at them
       │
       ├── redis     the server: its data, its settings, its clock, its sentinels
       ├── fleet     collectors, boards, who may control them, what they run, what was not set
       └── samples   the queue, the history, the sinks, their books
             │
          problem    what each of them is

Invariants: the same facts give the same problems. What follows from another problem is not said once more:
where no collector runs, every board is offline.
"""

from espnet.cli.facts import Facts
from espnet.cli.health.fleet import (
    with_access,
    with_collectors,
    with_devices,
    with_jobs,
    with_updates,
)
from espnet.cli.health.problem import Problem
from espnet.cli.health.redis import with_redis
from espnet.cli.health.samples import equation, with_history, with_queue, with_sink

__all__ = ["Problem", "equation", "problems"]


def problems(facts: Facts) -> list[Problem]:
    """What is wrong, in the order in which to look at it: problems first."""
    found = [
        *with_redis(facts),
        *with_collectors(facts),
        *with_devices(facts),
        *with_access(facts),
        *with_updates(facts),
        *with_jobs(facts),
        *with_queue(facts),
        *with_history(facts),
        *(problem for sink in facts.sinks or () for problem in with_sink(sink, facts)),
    ]
    return sorted(found, key=lambda problem: problem.severity != "problem")
