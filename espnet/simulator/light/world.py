"""What one light board's firmware imports, beside what all boards share: its chip, its flash, its boots.

`esp32/calls.py` runs once for all boards, and sees the board whose request is being carried out: `Program`
asks ``program.current``, which `World.enter` sets. That is right because a call runs to its end at once;
what waits (a measurement) has by then all that it needs. `esp32/auth.py` keeps a board's nonces, so each
board has its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from espnet.simulator.light.chip import Chip
from espnet.simulator.light.program import SOURCES, Program


class Clock:
    """The firmware's clock: milliseconds since boot."""

    __slots__ = ("_begin_s", "_now_s")

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s, self._begin_s = now_s, now_s()

    def now_ms(self) -> int:
        return int((self._now_s() - self._begin_s) * 1000)

    def uptime_s(self) -> int:
        return int(self._now_s() - self._begin_s)


class Boots:
    """The module `boots`: no release is ever on trial here, and nothing leads into safe mode."""

    __slots__ = ("_on_restart", "build", "count", "restarting")
    slot, minutes, trial, safe = "a", 0, False, False

    def __init__(self, build: str, count: int, on_restart: Callable[[], None]) -> None:
        self.build, self.count, self._on_restart = build, count, on_restart
        self.restarting = False

    def record(self) -> dict[str, Any]:
        return {}

    def forgive(self) -> None:
        pass  # no boot counts against a board here

    def restart(self) -> None:
        if not self.restarting:
            self.restarting = True
            self._on_restart()


class Flash:
    """The modules `flash` and `os`: small files, which survive resets."""

    __slots__ = ("files",)
    urandom = staticmethod(os.urandom)

    def __init__(self) -> None:
        self.files: dict[str, Any] = {}

    def load(self, name: str, default: Any) -> Any:
        found = self.files.get(name, default)
        return found if isinstance(found, type(default)) else default

    def save(self, name: str, value: Any) -> None:
        self.files[name] = value

    def listdir(self) -> list[str]:
        return list(self.files)


def _default(field: str, default: Any = None, of: Any = None) -> Any:
    return default


#: Light boards have no settings, and are in no network whose state could be told.
_SETTINGS = SimpleNamespace(name="", safe={}, notices=[], get=_default)
_NETWORK: dict[str, Any] = {"ssid": None, "address": "", "failed": {}, "ap": None}
_WIFI = SimpleNamespace(radio=None, status=_NETWORK.copy)


class World:
    """See the module. A new one at every boot; chip and flash are the board's for ever."""

    __slots__ = (
        "_beacon",
        "_port",
        "auth",
        "boots",
        "calls",
        "flash",
        "hardware",
        "leases",
        "program",
        "told",
    )

    def __init__(
        self,
        program: Program,
        chip: Chip,
        flash: Flash,
        boots: Boots,
        now_s: Callable[[], float],
        memory: Any,
        end_lease: Callable[[int, int], None],
    ) -> None:
        self.program, self.hardware, self.flash, self.boots = program, chip, flash, boots
        #: The fence that the request under way carries, 0 for none.
        self.told = 0
        self.enter()
        clock = Clock(now_s)
        self.leases: Any = program.shared("leases").Leases(clock, end_lease)
        admit = self.leases.admit

        def noted(fence: int) -> bool:
            self.told = fence
            return bool(admit(fence))

        self.leases.admit = noted
        self.auth: Any = program.run("auth", self.find)
        self.auth.clock = clock
        self.calls: Any = program.shared("calls").Calls(clock, self.leases, memory)

    def enter(self) -> None:
        """From now on it is this board's request that is carried out."""
        self.program.current = self
        self.told = 0

    def find(self, name: str) -> Any:
        """The module that an import of this board's firmware means."""
        if name == "settings":
            return _SETTINGS
        if name == "wifi":
            return _WIFI
        if name in ("auth", "boots", "flash", "hardware", "os"):
            return getattr(self, name)
        return self.program.shared(name)

    @property
    def os(self) -> Flash:
        return self.flash

    @property
    def rarely(self) -> World:
        return self

    def need(self, name: str) -> Any:
        """The module `rarely`: what is loaded when it is asked for."""
        if name == "bodies":
            return self.program.shared(name)
        if name not in SOURCES:
            raise self.program.refusal(501, f"a light board has no {name}; see docs/simulator.md")
        return self.program.run(name, self.find)

    once = need

    def send_beacon(self, send: Callable[[bytes], None], port: int) -> None:
        """Sends the datagram that says where the board is, by way of ``send``."""
        mine = b'"port":%d' % port

        def nothing(*_: Any) -> None:
            pass

        def sendto(data: bytes, address: Any) -> None:
            send(data.replace(b'"port":80', mine))

        def make(*_: Any) -> Any:
            return SimpleNamespace(
                setblocking=nothing, setsockopt=nothing, sendto=sendto, close=nothing
            )

        def getaddrinfo(host: str, port: int) -> Any:
            return [[(host, port)]]

        names = dict.fromkeys(("AF_INET", "SOCK_DGRAM", "SOL_SOCKET", "SO_BROADCAST"), 0)
        network = SimpleNamespace(socket=make, getaddrinfo=getaddrinfo, **names)

        def find(name: str) -> Any:
            return network if name == "socket" else self.find(name)

        self.program.run("beacon", find).send(self.calls, "127.0.0.1")
