"""What goes in and out of the store beside the records of `espnet.model`, and its bounds."""

from typing import NamedTuple

import msgspec

from espnet.model import Device, Fault, Job, Memory, Reading
from espnet.samples import Books, DeadLetter, Queue, SampleBatch, SinkState

#: Most devices of one claim or commit: Lua's ``unpack`` takes some 8,000 values, and a batch of this
#: size spreads the round trip thin enough (0.7 µs a device on the client's side).
BATCH = 256
#: Most samples that wait in the stream, and most bytes that they take there.
DEFAULT_MAX_SAMPLES, DEFAULT_MAX_BYTES = 1_000_000, 256_000_000
#: What a consumer took belongs to it for so long after its last reading, in seconds; then to anybody.
HELD_S = 60.0
#: Most dead letters of all sinks together.
MAX_LETTERS = 10_000
#: The consumer group that keeps the history; the scripts know it by this name, too.
HISTORY = "history"
#: A collector that has not claimed for so long is thought dead, and its devices are shared among the others,
#: in seconds; one that looks at the schedule less often says that it is present for longer.
PRESENT_S = 4.0
#: A collector that has not claimed for so long is no longer listed, in seconds.
COLLECTOR_FORGOTTEN_S = 3_600
#: Decoded records that are kept between claims: a fleet of this size never decodes one twice.
CACHED_DEVICES = 65_536


#: The highest fence that is believed of a board: of one that proves what it says, and of one to which
#: everybody may have shown a number. Boards take 10**15. So nobody brings the counter to its end, and when
#: it is lost, the boards that prove what they say bring it back above what liars made of it. At ten thousand
#: grants a second it comes to the lower one in three years.
MAX_FENCE_PROVED, MAX_FENCE_SEEN = 10**14, 10**12


# The three of every trip are structs: made ten times as quickly as named tuples. They hold no cycles, so that
# garbage collection need not look at them.


class Grant(msgspec.Struct, gc=False):
    """A lock that was given: ``fence`` grows with every grant, ``token`` proves the ownership."""

    id: str
    token: str
    fence: int
    committed: bool = False


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A device to be polled now, and the lock that allows it. ``due`` is when it should have been.

    ``jobs`` and ``memory`` are what its pins are decided by. ``at`` is when it was claimed (Unix seconds).
    """

    device: Device
    fault: Fault | None
    due: float
    grant: Grant
    jobs: tuple[Job, ...] = ()
    memory: Memory = Memory()
    at: float = 0.0


class Poll(msgspec.Struct, frozen=True, gc=False):
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


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One poll's samples on the stream; ``size`` is that of the encoded batch in bytes.

    ``batch`` None cannot be read. ``fates`` are those of its samples so far, a byte each, zero where
    there is none yet; empty where all are open.
    """

    id: bytes
    samples: int
    size: int
    batch: SampleBatch | None
    fates: bytes = b""


class Fate(NamedTuple):
    """What became of an entry's samples for a sink since it was read.

    ``fates`` are those of all its samples, as in `Entry`, while some are open; empty at the end.
    """

    entry: Entry
    accepted: int = 0
    expired: int = 0
    dropped: int = 0
    letters: tuple[DeadLetter, ...] = ()
    fates: bytes = b""


class SinkBooks(NamedTuple):
    """A sink that the stream knows, its books, and how delivery goes: None before its first word."""

    name: str
    books: Books
    state: SinkState | None


class Ledger(NamedTuple):
    """The stream and all its sinks at one instant."""

    queue: Queue
    sinks: tuple[SinkBooks, ...]

    def books(self, sink: str) -> Books:
        """A sink's books; empty ones of a sink that never was."""
        return next((found.books for found in self.sinks if found.name == sink), Books())


class Letter(NamedTuple):
    """A dead letter in its place."""

    id: str
    sink: str
    letter: DeadLetter


class LockState(NamedTuple):
    """Who holds a device's lock, and for how many seconds more at most."""

    holder: str
    left_s: float
