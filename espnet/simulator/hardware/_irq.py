"""MicroPython. Interrupts of pins: one task looks at them while the program waits."""

import asyncio

_watched = []


def irq(pin, handler=None, trigger=3, wake=None):
    for watch in _watched:
        if watch[0].at == pin.at:
            _watched.remove(watch)
    if handler:
        if not _watched:
            asyncio.create_task(_watch())
        _watched.append([pin, handler, trigger, pin.value()])
    return pin


async def _watch():
    while _watched:
        for watch in _watched:
            pin, handler, trigger, before = watch
            now = watch[3] = pin.value()
            if now != before and trigger & (1 if now else 2):
                call(handler, pin)
        await asyncio.sleep_ms(10)


def call(handler, argument):
    try:
        handler(argument)
    except Exception as e:
        import sys

        sys.print_exception(e)
