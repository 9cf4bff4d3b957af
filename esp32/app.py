"""The board's program: builds the parts, joins them, and keeps them running.

Nothing but Ctrl-C (mpremote) or a reset ends it. A task that fails says why and is started again.
The watchdog is fed only while the server accepts clients: a board that nobody can reach restarts, and so
does one that has been short of memory for ten minutes.
"""

import asyncio
import gc

# The largest first: source is compiled here, which takes an empty heap.
from web import Server, failed

# isort: split
import auth
import boots
import hardware
import rarely
import settings
import wifi
from calls import Calls
from clock import Clock
from leases import Leases
from memory import Memory
from micropython import const

PORT = const(80)
TICK_MS = const(500)
WATCHDOG_MS = const(30000)  # unless the settings say otherwise
STARVED_MS = const(600000)  # so long short of memory, and only a restart helps

clock = Clock()
memory = Memory()
leases = Leases(clock, hardware.drive)
auth.clock = wifi.clock = clock
leases.safe = settings.safe
server = None
watchdog = None


async def tick():
    """What must happen twice a second, whether or not anybody asks for anything."""
    then_ms = well_ms = clock.now_ms()
    while True:
        await asyncio.sleep_ms(TICK_MS)
        leases.expire()
        now_ms = clock.now_ms()
        server.age(now_ms - then_ms)
        server.short = memory.tidy(server.served)
        boots.age(now_ms // 1000)
        rarely.forget(now_ms // 1000)
        settings.tend(now_ms, server.served, wifi.proves)
        if not server.short:
            well_ms = now_ms
        if server.accepts() and now_ms - well_ms < STARVED_MS:
            watchdog.feed()
        then_ms = now_ms


async def for_ever(start):
    """Run the coroutine that `start()` makes; whenever it fails, say why and run another."""
    while True:
        gc.collect()  # what a task keeps then lies at the heap's start
        try:
            await start()
        except Exception as error:
            failed(error)
        await asyncio.sleep(1)


def main(choice):
    """Run what the switch chose. Returns only by Ctrl-C, and then with every leased pin at its safe level."""
    global server, watchdog
    boots.begin(choice)
    wifi.calls = Calls(clock, leases, memory)
    server = Server(wifi.calls.routes, auth.admit)
    watchdog = hardware.watchdog(settings.get("watchdog_s", 0) * 1000 or WATCHDOG_MS)
    gc.collect()
    # boot.py made it small for loading. To collect before all is full keeps free heap in one piece.
    gc.threshold(6144)
    starts = (tick, wifi.stay_connected, lambda: server.serve("0.0.0.0", PORT))
    tasks = [asyncio.create_task(for_ever(start)) for start in starts]
    try:
        while tasks:
            try:
                asyncio.get_event_loop().run_forever()
            except Exception as error:  # the loop's own, and its tasks are all still there
                failed(error)
                gc.collect()
    finally:
        leases.let_go()
