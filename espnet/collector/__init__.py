"""The collector: claims what is due, polls it concurrently, commits in batches. The only async code.

::

   collector   claims and commits; what a tick is
       ├── trips          one batch: what has to be known before, each board's visit, each visit's poll
       │     └── targets  the boards that are known here, with their connections
       └── redis_thread   the store, asked from the event loop; says once that Redis is away or back

Events: ``board.lost`` ``board.back`` ``board.slowed`` ``board.recovered`` ``poll.void`` ``polls.dropped``
``redis.lost`` ``redis.back`` ``heartbeat.slow``.
"""

from espnet.collector.collector import MAX_IN_FLIGHT, Collector, Tick, poll_now
from espnet.collector.redis_thread import Outage
from espnet.collector.targets import FORGET_LINK_S
from espnet.collector.trips import LOCKED_OUT_S

__all__ = [
    "FORGET_LINK_S",
    "LOCKED_OUT_S",
    "MAX_IN_FLIGHT",
    "Collector",
    "Outage",
    "Tick",
    "poll_now",
]
