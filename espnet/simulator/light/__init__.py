"""Light boards: up to 10,000 in one process, which answer with the firmware's own code.

::

    fleet      the same for programs without an event loop
      │
    simulator  many boards in one event loop ── control   one socket for all
      │
    board      one board: its calls, faults, power, notebook
      │  └── wire      one connection: HTTP/1.1 over asyncio's transports
    world      what one board's firmware imports ── chip   its pins and sensors
      │
    program    the firmware's modules, compiled for CPython
    faults     which fault a request meets, and what it does to the answer

Unlike boards that run the firmware on MicroPython these have no memory that could run out, no watchdog,
no Wi-Fi and no files: no updates, no settings, no page. `docs/simulator.md` has the list.
"""

from espnet.simulator.light.board import LightBoard
from espnet.simulator.light.chip import PinChange
from espnet.simulator.light.fleet import LightFleet, LightHandle
from espnet.simulator.light.simulator import LightSimulator, new_loop
from espnet.simulator.light.wire import LightRequest

__all__ = [
    "LightBoard",
    "LightFleet",
    "LightHandle",
    "LightRequest",
    "LightSimulator",
    "PinChange",
    "new_loop",
]
