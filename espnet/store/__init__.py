"""Every Redis key, script and codec. Nothing else in EspNet knows a key's name.

Every key begins with a prefix (``espnet:`` unless configured). A device's hardware id is its key
everywhere; names only lead to ids. Commands are those that Redis ≥ 6.2 and Valkey share.

====================  ======  ========================================================================
key                   type    holds
====================  ======  ========================================================================
``devices``           hash    id → `Device`: what a person decided
``names``             hash    name → id
``addresses``         zset    ``ADDRESS ID`` of each device, in their order: who is said to be at an address
``due:COLLECTOR``     zset    id → when the next poll is due (Unix seconds), of the devices that this
                              collector polls; a claimed device's date is the end of its lock, so that a
                              collector that dies loses nothing
``due``               zset    the same of devices that no collector has yet (``lua/queues.lua``)
``due@SHARD``         zset    the same of devices of a shard
``taken:COLLECTOR``   set     the ids that others took from it since its last claim, because they were late
``shards``            set     the shards that there ever were
``hurried``           hash    id → when it was wanted at once (Unix seconds), in the middle of a visit
``presence``          zset    collector → until when it is taken for alive (Unix seconds)
``readings``          hash    id → `Reading` of the last successful poll; whether it is still fresh is
                              for the reader to say (`Reading.is_fresh`)
``faults``            hash    id → `Fault`, only while polls fail
``lock:ID``           string  the token of who may talk to the board; always with a TTL
``jobs``              hash    id → the device's jobs, overrides among them
``jobs_version``      int     grows with every change of any job
``memory``            hash    id → `Memory`: what deciding needs from poll to poll, and the writes
``credentials``       hash    id → the board's passwords, sealed (`espnet.store.sealing`); stays when the
                              device is unregistered
``fence``             int     grows with every lock grant, in the order of the grants
``collectors``        zset    collector → when it last claimed (Unix seconds)
``samples``           stream  one entry a poll: ``n`` samples, ``batch`` (`SampleBatch`); a sink is a
                              consumer group; an entry leaves when every sink has settled it
``books``             hash    the stream's own books (`Queue`)
``sinks``             hash    sink → when it joined (Unix seconds)
``sink_states``       hash    sink → `SinkState`, by its latest uploader
``waiting:SINK``      list    ranges of the stream that nobody of the sink took yet, oldest first:
                              ``FROM TO``, both outside; the last one's ``TO`` is ``+``
``parts:SINK``        hash    entry → what became of its samples so far, a byte each, while some are open
``books:SINK``        hash    a sink's books (`Books`)
``history``           hash    id → where its past begins, and what it takes (`espnet.store.history`)
``history:ID:tail``   list    rows that are in no block yet
``history:ID:LEVEL``  list    packed blocks, oldest first; levels are 0 (full rate), 1 (5 minutes), 2 (hours)
``releases``          zset    build → when this release of the firmware was kept last (Unix seconds)
``release:BUILD``     hash    file → its bytes, ``manifest`` among them
``rollout``           hash    ``id``, and ``record`` → `Rollout`: the update that is being made, or the latest
``rollout:boards``    hash    id → `Progress`: how far each of its boards is
``rollout:driver``    string  the token of who updates boards now; always with a TTL
``dead``              stream  dead letters of all sinks: ``sink``, ``letter`` (`DeadLetter`)
====================  ======  ========================================================================

Invariants: what belongs together changes in one transaction or one script (``lua/``). A lock's
token is ``HOLDER:NUMBER``, unique; only its owner commits or releases. Every error of the client
library leaves here as `StoreUnavailable`.
"""

from espnet.store.credentials import Credentials
from espnet.store.health import Health, HealthChecks, Turn
from espnet.store.records import (
    BATCH,
    CACHED_DEVICES,
    COLLECTOR_FORGOTTEN_S,
    DEFAULT_MAX_BYTES,
    DEFAULT_MAX_SAMPLES,
    HELD_S,
    HISTORY,
    MAX_FENCE_PROVED,
    MAX_FENCE_SEEN,
    MAX_LETTERS,
    PRESENT_S,
    Claim,
    Entry,
    Fate,
    Grant,
    Ledger,
    Letter,
    LockState,
    Poll,
    SinkBooks,
)
from espnet.store.releases import Kept, Releases
from espnet.store.rollouts import Rollouts
from espnet.store.samples import Samples
from espnet.store.together import Gathering, OneByOne
from espnet.store.trips import Trips

__all__ = [
    "BATCH",
    "CACHED_DEVICES",
    "COLLECTOR_FORGOTTEN_S",
    "DEFAULT_MAX_BYTES",
    "DEFAULT_MAX_SAMPLES",
    "HELD_S",
    "HISTORY",
    "MAX_FENCE_PROVED",
    "MAX_FENCE_SEEN",
    "MAX_LETTERS",
    "PRESENT_S",
    "Claim",
    "Entry",
    "Fate",
    "Gathering",
    "Grant",
    "Health",
    "Kept",
    "Ledger",
    "Letter",
    "LockState",
    "OneByOne",
    "Poll",
    "SinkBooks",
    "Store",
    "Turn",
]


class Store(Trips, Credentials, Samples, Releases, Rollouts, HealthChecks):
    """The registry, the schedule with its locks, the readings, the passwords, the samples, their sinks,
    the history, releases of the firmware, and the rollout of one."""
