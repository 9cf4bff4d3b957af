"""Simulated boards: the firmware of ``esp32/``, unchanged, without hardware.

::

    simulator   many boards in one event loop; their starts and restarts      fleet    the same for
       │  │                                                                            programs without
       │  ├── premises     folders, locks, ports, the firmware                         an event loop
       │  ├── ids          hardware ids
       │  ├── watchdogs    which boards have not fed theirs
       │  └── control      one Unix socket a board, JSON lines
       │         │
       │       board    one board's wires, faults, power, room
       │         │  └── room    a room with a heater, as a pure formula
       │       state    the page of memory that a board's process shares with this one
       │         └── network    what is in the air, and what the board made of it
    process ── zygote   forks board processes, which end with their parent
       │
      line ── loader    the serial line: a pseudo-terminal for mpremote, and for esptool the ROM's
       │                loader
      chip              the flash chip
       │
    hardware/           MicroPython: stand-ins for machine, esp32, dht, network, socket
    flash               firmware onto boards, private folders

Nothing here prints or exits: it raises `SimulatorError` or calls back. `docs/simulator.md` describes
the control protocol, the faults and the limits.
"""

from espnet.simulator.board import SimulatedBoard
from espnet.simulator.control import Control
from espnet.simulator.errors import SimulatorError
from espnet.simulator.fleet import Board, Fleet
from espnet.simulator.room import Room
from espnet.simulator.simulator import Simulator, simulate

__all__ = [
    "Board",
    "Control",
    "Fleet",
    "Room",
    "SimulatedBoard",
    "Simulator",
    "SimulatorError",
    "simulate",
]
