"""What goes in and out of the store beside the records of `espnet.model`, and its bounds."""

from typing import NamedTuple

import msgspec

from espnet.model import (
    Device,
    Fault,
    Job,
    Memory,
    Reading,
    SampleBatch,
)

#: Most devices of one claim or commit: Lua's ``unpack`` takes some 8,000 values, and a batch of this
#: size spreads the round trip thin enough (0.7 µs a device on the client's side).
BATCH = 256
#: Most samples that wait for a sink (about 256 MB of stream at 250 bytes each).
DEFAULT_MAX_SAMPLES = 1_000_000
#: A collector that has not claimed for so long is no longer listed, in seconds.
COLLECTOR_FORGOTTEN_S = 3_600
#: Decoded records that are kept between claims: a fleet of this size never decodes one twice.
CACHED_DEVICES = 65_536


class Grant(msgspec.Struct):
    """A lock that was given: ``fence`` grows with every grant, ``token`` proves the ownership."""

    id: str
    token: str
    fence: int
    committed: bool = False


class Claim(NamedTuple):
    """A device to be polled now, and the lock that allows it. ``due`` is when it should have been.

    ``jobs`` and ``memory`` are what its pins are decided by.
    """

    device: Device
    fault: Fault | None
    due: float
    grant: Grant
    jobs: tuple[Job, ...] = ()
    memory: Memory = Memory()


class Poll(NamedTuple):
    """What a trip ends with. A successful poll has a reading, a failed one a fault, and one that was
    given up before it began has neither.

    ``healed`` says that an earlier fault is over. ``refused`` counts samples that were not numbers.
    ``memory`` None leaves it as it is.
    """

    grant: Grant
    next_due: float
    reading: Reading | None = None
    fault: Fault | None = None
    healed: bool = False
    batch: SampleBatch | None = None
    refused: int = 0
    memory: Memory | None = None


class Entry(NamedTuple):
    """One poll's samples on the stream."""

    id: bytes
    batch: SampleBatch


class LockState(NamedTuple):
    """Who holds a device's lock, and for how many seconds more at most."""

    holder: str
    left_s: float
