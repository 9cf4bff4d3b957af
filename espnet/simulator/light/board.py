"""One light board: the firmware's calls over a chip that is a few numbers, in the event loop of all.

Invariants: what the outside may set, and which faults there are, `checks` decides, as for boards that run the
firmware; a reset ends every connection, forgets what a chip forgets, and keeps claim and host, which lie on
flash. Everything here runs in the fleet's event loop.
"""

from __future__ import annotations

import asyncio
import copy
import socket
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from espnet.simulator import checks
from espnet.simulator.checks import number
from espnet.simulator.errors import SimulatorError
from espnet.simulator.light.chip import MEM_FREE, Chip, PinChange
from espnet.simulator.light.faults import Faults
from espnet.simulator.light.program import Program
from espnet.simulator.light.wire import CONNECTIONS_MAX, LightRequest, Wire
from espnet.simulator.light.world import Boots, Flash, World
from espnet.simulator.state import CAUSES, PinState

_WORDS = {"power": "power_on", "deepsleep": "deep_sleep"}
#: Below it a board turns new clients away, until it has the second one (esp32/memory.py).
_MEM_FLOOR, _MEM_ENOUGH = 6144, 8192
_RESTART_S = 0.5

_T = TypeVar("_T")


class Keeper(Protocol):
    """Who keeps the boards: the clock, the open connections, and who has leases to be watched."""

    wires: set[Wire]
    leased: set[LightBoard]
    boot_s: float

    def monotonic_s(self) -> float: ...

    def beacon(self, data: bytes) -> None: ...

    def booted(self, board: LightBoard) -> None: ...


class LightBoard:
    """See the module. ``phase``: ``ready``, ``starting`` (after a reset) or ``off``.

    ``on_request``, if it is set, is called with the board before each request is carried out: it may change
    ``latency_s``, ``mem_free`` and ``busy``, so that a board struggles as a test needs it.
    """

    __slots__ = (
        "_changes", "_clearing", "_expiries", "_flash", "_held", "_keeper", "_log", "_most", "_request",
        "_resets", "_resetting", "_server", "_short", "_world", "address", "boots", "busy", "chip",
        "connections_ever", "console", "faults", "id", "latency_s", "mem_free", "most_connections",
        "most_requests", "now_s", "number", "on_request", "phase", "port", "program", "requests_ever",
        "under_way", "wires",
    )  # fmt: skip

    def __init__(
        self, number: int, board_id: str, program: Program, keeper: Keeper, log: int
    ) -> None:
        self.number, self.id, self.program, self._keeper = number, board_id, program, keeper
        self.now_s = keeper.monotonic_s
        self._held: socket.socket | None = None  # the port, while nobody listens
        self.port = 0
        self.address = ""
        self.phase = "off"
        self.boots = 0
        self.chip = Chip(program, board_id, self._note_pin, self._sensor_fails)
        self.faults = Faults()
        self.wires: list[Wire] = []
        self._most = log
        self._log: list[LightRequest] = []
        self._changes: list[PinChange] = []
        self.requests_ever = self.connections_ever = 0
        self.under_way = self.most_requests = self.most_connections = 0
        self.latency_s = 0.0
        self.mem_free = MEM_FREE
        self.busy = False
        self.on_request: Callable[[LightBoard], None] | None = None
        self.console = ""
        self._resets = 0
        self._resetting: asyncio.Task[None] | None = None
        self._flash = Flash()
        self._world: World = None  # type: ignore[assignment]
        self._expiries: dict[str, asyncio.TimerHandle] = {}
        self._server: asyncio.Server | None = None
        self._short = False
        self._request: LightRequest | None = None

    def send_beacon(self) -> None:
        """Tells everybody where the board is, as it does once a minute."""
        if self.phase == "ready":
            self._world.send_beacon(self._keeper.beacon, self.port)

    def free(self) -> int:
        """What the firmware asks its memory."""
        return self.mem_free

    # Power

    def boot(self, cause: str) -> None:
        """Loads the firmware."""
        self.chip.reset(_WORDS.get(cause, cause))
        self.boots += 1
        boots = Boots(self.program.build, self.boots, self._restart)
        self._world = World(
            self.program, self.chip, self._flash, boots, self.now_s, self, self._end_lease
        )
        self.phase = "ready"

    def reserve(self, port: int, *, again: bool = False) -> None:
        """Binds the board's port without listening, so that no other program gets it; 0: any.

        ``again``: it was ours, and old connections may still be about.
        """
        held = socket.socket()
        try:
            # Set before, it would let two fleets that have not listened yet bind the same port.
            if again:
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", port))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError:
            held.close()
            raise
        self._held = held
        self.port = held.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    async def listen(self) -> None:
        """Lets clients in, unless the board refuses or is off."""
        held = self._held
        if held is None or self.faults.refusing or self.phase != "ready":
            return
        self._held = None
        held.setblocking(False)
        held.listen(CONNECTIONS_MAX)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Wire(self), sock=held)

    async def close(self) -> None:
        """Refuses clients; the port stays the board's."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for _ in range(100):
            await asyncio.sleep(0)  # the loop closes the socket a little later
            try:
                self.reserve(self.port, again=True)
                return
            except OSError:
                pass
        raise SimulatorError(f"Board {self.id} lost its port {self.port}; start the fleet anew.")

    async def reset(self, cause: str = "hard", *, wait: bool = True) -> None:
        """Resets the board, which is away for the fleet's ``boot_s``; with ``wait`` until it answers."""
        if cause not in CAUSES:
            raise SimulatorError(f"{cause!r} is no reset; there are {', '.join(CAUSES)}.")
        if not wait:
            self.reset_soon(cause)
            return
        self._hang_up()
        self._resets += 1
        if self._keeper.boot_s:
            mine = self._resets
            self.phase = "starting"
            await self.close()
            await asyncio.sleep(self._keeper.boot_s)
            if self.phase != "starting" or self._resets != mine:
                return  # it was switched off, or reset once more, meanwhile
        self.boot(cause)
        await self.listen()
        self._keeper.booted(self)

    def reset_soon(self, cause: str = "hard", after_s: float = 0.0) -> None:
        """Resets the board from within: asked for by a request, or by a fault."""
        loop = asyncio.get_running_loop()
        if after_s:
            loop.call_later(after_s, self.reset_soon, cause)
        elif self.phase == "ready":
            self.phase = "starting"  # from now on it serves nobody
            self._resetting = loop.create_task(self._reset_itself(cause))

    async def _reset_itself(self, cause: str) -> None:
        if self.phase == "starting":  # nobody has taken its power meanwhile
            await self.reset(cause)

    async def power(self, on: bool) -> None:
        if on == (self.phase != "off"):
            return
        if on:
            await self.reset("power")
            return
        self.phase = "off"
        self._hang_up()
        self.chip.reset("power_on")
        await self.close()

    def _hang_up(self) -> None:
        for wire in list(self.wires):
            wire.cut_off()

    def _restart(self) -> None:
        self.reset_soon(after_s=_RESTART_S)

    def end(self) -> None:
        """Ends the board for good."""
        for timer in self._expiries.values():
            timer.cancel()
        self.phase = "off"
        if self._resetting is not None:
            self._resetting.cancel()
        self._hang_up()
        if self._server is not None:
            self._server.close()
        if self._held is not None:
            self._held.close()

    # Serving: what `Wire` asks

    def let_in(self, wire: Wire) -> bytes:
        """Takes a new client in; else what to tell him (memory is short, or every place is busy)."""
        self._keeper.wires.add(wire)
        self.connections_ever += 1
        wire.number = self.connections_ever
        self._short = self.mem_free < (_MEM_ENOUGH if self._short else _MEM_FLOOR)
        if self._short:
            return self.program.no_memory
        if len(self.wires) >= CONNECTIONS_MAX:
            # Who has logged in keeps his place, unless all have.
            all_known = all(other.known for other in self.wires)
            idle = [one for one in self.wires if one.is_idle and one.known == all_known]
            if not idle:
                return self.program.no_place
            idlest = min(idle, key=lambda one: one.deadline_s)
            self.wires.remove(idlest)
            idlest.transport.close()
        self.wires.append(wire)
        self.most_connections = max(self.most_connections, len(self.wires))
        return b""

    def let_out(self, wire: Wire) -> None:
        self._keeper.wires.discard(wire)
        if wire in self.wires:
            self.wires.remove(wire)

    def note_request(
        self, wire: Wire, began_s: float, method: str, path: str, peer: int
    ) -> LightRequest:
        entry = LightRequest(
            self.requests_ever,
            began_s,
            method,
            path,
            self.under_way - 1,
            len(self.wires),
            wire.number,
            peer,
        )
        self.requests_ever += 1
        _keep(self._log, entry, self._most)
        return entry

    def start(self, request: Any) -> Coroutine[Any, Any, Any]:
        """The firmware's call for a request that may be carried out; raises its refusal."""
        self.enter()
        access, handler = self._route(request)
        self._world.auth.admit(request, access)
        return handler(request)  # type: ignore[no-any-return]

    def enter(self) -> None:
        """From now on it is this board's request that is carried out."""
        self._world.enter()

    def begin(self, entry: LightRequest) -> None:
        """From here to `finish` what happens is because of this request."""
        self._request = entry

    def finish(self) -> int:
        """The fence that the request carried."""
        entry, self._request = self._request, None
        if entry is not None and entry.method == "POST":
            self._keeper.leased.add(self)
        return self._world.told

    def _route(self, request: Any) -> Any:
        """(access, handler), or the 404 or 405 that the table implies: as web.py has it."""
        allowed = []
        for method, path, access, handler in self._world.calls.routes:
            if path == request.path:
                if method == request.method:
                    return access, handler
                allowed.append(method.decode())
        if allowed:
            names = ", ".join(allowed)
            error = f"this call understands {names} only"
            raise self.program.refusal(405, error, None, f"Allow: {names}\r\n")
        calls = ", ".join(path.decode() for _, path, _, _ in self._world.calls.routes)
        raise self.program.refusal(404, f"there is no such call; there are {calls}")

    def failed(self, error: Exception) -> None:
        """A bug: it costs one request, and is kept for people to read."""
        said = "".join(traceback.format_exception(error))
        self.console = (self.console + said)[-8192:]

    def expire_leases(self) -> None:
        self._world.leases.expire()

    @property
    def has_leases(self) -> bool:
        return bool(self._world.leases.json() != "{}")

    def _end_lease(self, pin: int, level: int) -> None:
        self.chip.drive(pin, level, "lease")

    def _note_pin(self, pin: int, level: int, why: str) -> None:
        number = self._request.number if self._request is not None else None
        _keep(self._changes, PinChange(self.now_s(), pin, level, why, number), self._most)

    def _sensor_fails(self, pin: int) -> bool:
        return self.faults.of_sensor(pin) is not None

    # What the outside does

    def set(self, /, **values: Any) -> None:
        """Sets wires (``pins``, ``adc``, ``dht``, ``board_c``), and how the board is: ``latency_s`` (it
        answers so much later), ``mem_free`` (bytes; below 6144 new clients get 503), ``busy`` (every
        request gets 503).

        Everything is checked before anything is set.
        """
        todo: list[tuple[Any, ...]] = []
        for name, value in values.items():
            found = checks.wires(_Outside(self.chip), name, value)
            if found is not None:
                todo += found
            elif name == "latency_s":
                todo.append((setattr, self, name, number(name, value, 0, 3600)))
            elif name == "mem_free":
                todo.append((setattr, self, name, round(number(name, value, 0, 1e9))))
            elif name == "busy" and isinstance(value, bool):
                todo.append((setattr, self, name, value))
            else:
                raise SimulatorError(
                    f"A light board has nothing called {name!r} to set to {value!r}; "
                    "it has pins, adc, dht, board_c, latency_s, mem_free and busy (true or false)."
                )
        for function, *arguments in todo:
            function(*arguments)

    async def fault(self, kind: str, **options: Any) -> None:
        """Sets a fault; `checks.fault` has the options."""
        fault = checks.fault(kind, **options)
        self.faults.set(fault)
        timer = self._expiries.pop(kind, None)
        if timer is not None:
            timer.cancel()
        if kind == "refuse":
            await self.close()
        if fault.for_s is not None:
            loop = asyncio.get_running_loop()

            def expire() -> None:
                self._clearing = loop.create_task(self.clear(kind))

            self._expiries[kind] = loop.call_later(fault.for_s, expire)

    async def clear(self, kind: str | None = None) -> None:
        """Clears one kind of fault, or all."""
        if kind is not None:
            checks.fault_kind(kind)
        for expiring in [kind] if kind else list(self._expiries):
            timer = self._expiries.pop(expiring, None)
            if timer is not None:
                timer.cancel()
        self.faults.clear(kind)
        await self.listen()

    # What the outside sees

    def pin(self, pin: int) -> PinState:
        return self.chip.pin(pin)

    def requests(self, since: int = 0) -> list[LightRequest]:
        """What the board was asked, oldest first, as it is now."""
        return [copy.copy(entry) for entry in self._log[-self._most :] if entry.number >= since]

    def changes(self) -> list[PinChange]:
        """The levels that the board changed, oldest first."""
        return self._changes[-self._most :]

    def forget(self) -> None:
        """Empties the log, and begins anew with what was the most ever."""
        self._log.clear()
        self._changes.clear()
        self.most_requests, self.most_connections = self.under_way, len(self.wires)

    def unclaim(self) -> None:
        """Makes a claimed board open from its next boot on, as a USB cable does."""
        self._flash.files.pop("claim.json", None)

    def describe(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "address": self.address,
            "phase": self.phase,
            "boots": self.boots,
            "reset_cause": self.chip.cause,
            "board_c": self.chip.board_c,
            "latency_s": self.latency_s,
            "mem_free": self.mem_free,
            "busy": self.busy,
            "requests": self.requests_ever,
            "connections": len(self.wires),
            "most_connections": self.most_connections,
            "most_requests": self.most_requests,
        }


def _keep(log: list[_T], item: _T, most: int) -> None:
    """Adds to a log of which the last ``most`` count. (An empty deque takes ten times an empty list.)"""
    log.append(item)
    if len(log) >= 2 * most:
        del log[:-most]


class _Outside:
    """A chip's wires, as `checks.Wires` names them: the firmware uses some of the names otherwise."""

    def __init__(self, chip: Chip) -> None:
        self._chip = chip
        self.pin = chip.pin
        self.drive = chip.connect
        self.set_adc = chip.set_adc
        self.dht = chip.sensor
        self.set_dht = chip.set_dht
        self.unplug_dht = chip.unplug_dht

    def set_board_c(self, celsius: float) -> None:
        self._chip.board_c = celsius
