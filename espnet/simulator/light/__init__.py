"""Light boards: up to 10,000 in one process, which answer with the firmware's own code.

::

    fleet      many boards in one event loop; the same for programs without one
      │
    board      one board: its calls, faults, power, notebook
      │  └── wire      one connection: HTTP/1.1 over asyncio's transports
    chip       what the firmware takes for its chip; pins, sensors
      │
    program    the firmware's modules, compiled for CPython
    faults     which fault a request meets, and what it does to the answer

Unlike boards that run the firmware on MicroPython these have no memory that could run out, no watchdog,
no Wi-Fi and no files: no updates, no settings, no page. `docs/simulator.md` has the list.
"""

from espnet.simulator.light.board import LightBoard
from espnet.simulator.light.chip import PinChange
from espnet.simulator.light.fleet import LightFleet, LightHandle, LightSimulator, new_loop
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
