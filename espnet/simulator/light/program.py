"""The firmware's own modules, run by CPython: what light boards understand and answer comes from `esp32/`.

Each source is compiled once. What keeps nothing (``http1``, ``fields``, ``bodies``, ``leases``, ``calls`` …)
runs once for all boards; ``auth`` keeps what belongs to one board, so each board runs its own, and what is
loaded when it is asked for (``claim``, ``measure``, ``details``, ``beacon``) runs anew each time. The modules
that touch the chip, the flash or the network are replaced by the board's `World`; MicroPython's own by the
few names of them that the firmware uses.
"""

from __future__ import annotations

import array
import asyncio
import binascii
import builtins
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

from espnet.simulator.errors import SimulatorError

#: What runs once for all boards.
_SHARED = ("http1", "fields", "bodies", "leases", "version", "calls")
#: All that light boards run. What else of the firmware is asked for is refused.
SOURCES = (*_SHARED, "hardware", "auth", "claim", "measure", "details", "beacon")

#: Says which module an import means; it lies in the namespace of every module that runs here.
Find = Callable[[str], Any]


def _import(name: str, scope: Mapping[str, Any], *_: Any) -> Any:
    return scope["__find__"](name)


def _silent(*_: Any) -> None:
    """What a board prints goes nowhere here."""


_BUILTINS = {**vars(builtins), "__import__": _import, "print": _silent}


class _Current:
    """A module of the board whose request is being carried out."""

    def __init__(self, program: Program, name: str) -> None:
        self._program, self._name = program, name

    def __getattr__(self, name: str) -> Any:
        return getattr(getattr(self._program.current, self._name), name)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # as MicroPython's


class Program:
    """The firmware in ``folder``, compiled for CPython; ``monotonic`` is what its durations go by."""

    def __init__(self, folder: Path, monotonic: Callable[[], float]) -> None:
        self._code: dict[str, CodeType] = {}
        digest = hashlib.sha256()
        for name in SOURCES:
            path = folder / f"{name}.py"
            try:
                source = path.read_bytes()
                self._code[name] = compile(source, str(path), "exec", dont_inherit=True)
            except (OSError, SyntaxError, ValueError) as e:
                raise SimulatorError(
                    f"Light boards cannot run {path} ({e}); they need EspNet's own firmware."
                ) from e
            digest.update(source)
        #: What stands for the release: another one whenever these sources are others.
        self.build = digest.hexdigest()[:12]
        self._modules: dict[str, Any] = {
            "array": array,
            "asyncio": SimpleNamespace(Lock=asyncio.Lock, sleep_ms=_sleep_ms),
            "binascii": binascii,
            "gc": SimpleNamespace(collect=_silent),
            "hashlib": SimpleNamespace(sha256=_sha256),
            "json": SimpleNamespace(dumps=_dumps),
            "micropython": SimpleNamespace(const=lambda value: value),
            "sys": SimpleNamespace(modules={}),
            "time": SimpleNamespace(
                ticks_us=lambda: int(monotonic() * 1e6), ticks_diff=lambda end, start: end - start
            ),
            # web.py itself speaks to sockets; wire.py does that here.
            "web": SimpleNamespace(PUBLIC="public", READ="read", CONTROL="control"),
        }
        #: The `World` of the board whose request is being carried out.
        self.current: Any = None
        for name in ("auth", "boots", "flash", "hardware", "os", "rarely"):
            self._modules[name] = _Current(self, name)
        for name in _SHARED:
            self._modules[name] = self.run(name, self.shared)
        http1 = self._modules["http1"]
        self.refusal: Any = http1.Refusal
        self.stream: Any = http1.Stream
        self.parse_head: Callable[[bytes], Any] = http1.parse_head
        self.response: Callable[..., bytes] = http1.response
        self.json: str = http1.JSON
        self.head_max: int = http1.HEAD_MAX
        self.body_max: int = http1.BODY_MAX
        # What web.py says when there is no time or no room to say more.
        again = "Retry-After: 1\r\n"
        self.too_slow: bytes = http1.last_word(408, "the request did not arrive in time")
        self.too_long: bytes = http1.last_word(503, "the call took too long and was ended")
        short = "the board is short of memory; try again"
        self.no_memory: bytes = http1.last_word(503, short, again)
        self.no_place: bytes = http1.last_word(
            503, "too many connections at once; try again", again
        )
        #: hardware.py over no chip at all: which pins there are, and what may be done with them.
        self.hardware = self.run("hardware", self._no_chip)

    def shared(self, name: str) -> Any:
        """A module that all boards share; KeyError where there is none."""
        return self._modules[name]

    def run(self, name: str, find: Find) -> Any:
        """The module ``name``, run anew in a namespace of its own; its imports are what ``find`` says."""
        module = ModuleType(name)
        scope = vars(module)
        scope["__builtins__"] = _BUILTINS
        scope["__find__"] = find
        exec(self._code[name], scope)
        return module

    def _no_chip(self, name: str) -> Any:
        if name in ("dht", "esp32"):
            return None
        if name == "machine":
            causes = ("PWRON", "HARD", "WDT", "DEEPSLEEP", "SOFT")
            return SimpleNamespace(**{f"{cause}_RESET": cause for cause in causes}, Pin=None)
        return self.shared(name)


def _sha256(data: str | bytes) -> Any:
    """As MicroPython's, which takes text as well."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data)


async def _sleep_ms(ms: int) -> None:
    await asyncio.sleep(ms / 1000)
