"""The board's program: builds the parts, joins them, and keeps them running.

Nothing but Ctrl-C (mpremote) or a reset ends it. A task that fails says why and is started again.
"""

import asyncio
import gc
import sys

from web import Server  # the largest first: source is compiled here, which takes an empty heap

# isort: split
import wifi
from calls import Calls
from clock import Clock
from memory import Memory
from micropython import const

PORT = const(80)
TICK_MS = const(500)

clock = Clock()
memory = Memory()
server = Server(Calls(clock, memory).routes)


async def tick():
    """What must happen twice a second, whether or not anybody asks for anything."""
    then_ms = clock.now_ms()
    while True:
        await asyncio.sleep_ms(TICK_MS)
        now_ms = clock.now_ms()
        server.age(now_ms - then_ms)
        memory.tidy(server.served)
        then_ms = now_ms


async def for_ever(start):
    """Run the coroutine that `start()` makes; whenever it fails, say why and run another."""
    while True:
        try:
            await start()
        except Exception as error:
            sys.print_exception(error)
        gc.collect()
        await asyncio.sleep(1)


def main():
    """Never returns."""
    gc.collect()
    gc.threshold(-1)  # boot.py made it small for loading
    radio = wifi.start()
    tasks = [
        asyncio.create_task(for_ever(start))
        for start in (
            tick,
            lambda: server.serve("0.0.0.0", PORT),
            lambda: wifi.stay_connected(radio),
        )
    ]
    while tasks:
        try:
            asyncio.get_event_loop().run_forever()
        except Exception as error:
            sys.print_exception(error)
            gc.collect()


main()
