"""MicroPython. The timers of `machine`: asyncio tasks."""

import asyncio

from _pads import load


class Timer:
    ONE_SHOT = 0
    PERIODIC = 1

    def __init__(self, id=-1, **settings):
        self.task = None
        if settings:
            self.init(**settings)

    def init(self, *, mode=1, freq=-1, period=-1, callback=None):
        self.deinit()
        ms = int(1000 // freq) if freq > 0 else period
        self.task = asyncio.create_task(self._run(mode, ms, callback))

    def deinit(self):
        if self.task:
            self.task.cancel()
            self.task = None

    async def _run(self, mode, ms, callback):
        call = load("_irq").call
        while True:
            await asyncio.sleep_ms(ms)
            call(callback, self)
            if mode == 0:
                return
