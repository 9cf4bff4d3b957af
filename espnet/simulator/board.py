"""One simulated board as the outside handles it: its wires, its power switch, its notebook.

Invariants: all checks of what may be set are here, so the control socket and the Python API refuse
the same things with the same sentence. Reading and setting wires never waits; what needs the
board's process (`reset`, `power`, `refuse`) is a coroutine that returns when it is done.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from espnet.simulator import checks
from espnet.simulator import room as rooms
from espnet.simulator.checks import FAULTS_FULL, number, only, pin_number
from espnet.simulator.chip import Chip
from espnet.simulator.errors import SimulatorError
from espnet.simulator.line import Line
from espnet.simulator.network import DNS, NTP
from espnet.simulator.room import Room, RoomState
from espnet.simulator.state import CAUSES, State

#: Where the simulator's own calls come from: boards neither log nor spoil these.
OWN_ADDRESS = "127.0.0.2"
_BACK_DOOR = "127.0.0.3"
#: Beyond it a millisecond of this machine is more than four seconds of the board.
SPEED_MAX = 3600

_ROOM_FIELDS = {f.name for f in dataclasses.fields(Room)}
_ROOM_PINS = ("heater_pin", "dht_pin", "adc_pin")


class Operator(Protocol):
    """Who starts and stops the board's process."""

    async def restart(self, board: SimulatedBoard, cause: str, *, wait: bool) -> None: ...

    async def switch(self, board: SimulatedBoard, on: bool) -> None: ...

    def monotonic_s(self) -> float: ...

    def now_s(self) -> float: ...


class SimulatedBoard:
    """See the module. ``phase``: ``starting``, ``ready``, ``halted`` (main.py ended), ``off``.

    A board with a serial line has ``line``, ``chip`` and ``image`` (a file that makes it boot when it is
    flashed), and two phases more: ``blank`` (nothing on its chip that boots) and ``loader`` (esptool has it).
    """

    def __init__(
        self,
        number: int,
        board_id: str,
        port: int,
        folder: Path,
        control: Path,
        seed: int,
        operator: Operator,
    ) -> None:
        self.number = number
        self.id = board_id
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.folder = folder
        self.flash = folder / "flash"
        self.console_path = folder / "console"
        self.state_path = folder / "state"
        self.control = control
        self.state = State(self.state_path, board_id=board_id, port=port, seed=seed + number)
        self.operator = operator
        self.line: Line | None = None
        self.chip: Chip | None = None
        self.image: Path | None = None
        self.phase = "off"
        self.ready = asyncio.Event()
        self.settled = asyncio.Event()  # ready, or it will not be by itself
        self.pid = 0
        self.boots = 0
        self.forgiven = False
        self.room: Room | None = None
        self.room_state = RoomState(0.0, 0.0)
        self._changes_seen = 0
        self._expiries: dict[str, asyncio.TimerHandle] = {}

    # Setting

    def set(self, /, **values: Any) -> None:
        """Sets wires: ``pins``, ``adc``, ``dht`` (by pin), ``board_c``, ``room``; of the network ``rssi``,
        ``wifi``, ``address``, ``ntp``, ``dns``; and ``speed``, how fast the board's time passes.

        Everything is checked before anything is set.
        """
        todo: list[tuple[Any, ...]] = []
        state = self.state
        for name, value in values.items():
            found = checks.wires(state, name, value)
            if found is not None:
                todo += found
            elif name == "rssi":
                todo.append((state.network.set_rssi, round(number("rssi", value, -128, -1))))
            elif name == "wifi":
                todo.append((state.network.set_wifi, _wifi(value)))
            elif name == "address":
                todo.append((state.network.set_address, _address(value)))
            elif name in ("ntp", "dns"):
                known = NTP if name == "ntp" else DNS
                if value not in known:
                    raise SimulatorError(f"{name} is one of {', '.join(known)}, not {value!r}.")
                todo.append((partial(state.network.set_servers, **{name: value}),))
            elif name == "speed":
                todo.append((self._set_speed, number("speed", value, 1, SPEED_MAX)))
            elif name == "room":
                todo.append((self._set_room, self._new_room(value)))
            else:
                raise SimulatorError(
                    f"A board has nothing called {name!r} to set; "
                    "it has pins, adc, dht, board_c, rssi, wifi, address, ntp, dns, speed and room."
                )
        for function, *arguments in todo:
            function(*arguments)

    def _set_speed(self, speed: float) -> None:
        self.state.set_speed(speed, round(self.operator.monotonic_s() * 1e6))

    def _new_room(self, value: Any) -> Room | None:
        if value is None or isinstance(value, Room):
            return value
        if not isinstance(value, Mapping):
            raise SimulatorError(f"A room is an object or null, not {value!r}.")
        only("a room", value, _ROOM_FIELDS)
        given: dict[str, Any] = {}
        for name, item in value.items():
            if name in _ROOM_PINS:
                given[name] = None if item is None else pin_number(item)
            elif name == "board":
                given[name] = bool(item)
            elif name in ("seed", "heater_level"):
                given[name] = int(number(name, item, 0, 2**31))
            else:
                given[name] = number(name, item, -1e9, 1e9)
        return dataclasses.replace(self.room or Room(), **given)

    def _set_room(self, room: Room | None) -> None:
        now_s = self.operator.monotonic_s()
        self.tick(now_s)
        fresh = self.room is None or (room is not None and room.start_c != self.room.start_c)
        self.room = room
        if room is None:
            return
        celsius = room.start_c if fresh else self.room_state.celsius
        self._changes_seen = self.state.changes_ever
        pin = room.heater_pin
        on = pin is not None and self.state.pin(pin).level == room.heater_level
        self.room_state = RoomState(now_s, celsius, on)
        self._show()

    def tick(self, now_s: float) -> None:
        """Brings the room up to ``now_s`` and its sensors up to the room."""
        if self.room is None:
            return
        seen, self._changes_seen = self._changes_seen, self.state.changes_ever
        changes = self.state.changes(seen)
        self.room_state = rooms.advance(self.room, self.room_state, changes, now_s)
        self._show()

    def power_fell(self, now_s: float) -> None:
        """The board's pads let go at ``now_s``: the heater went off then."""
        self.tick(now_s)
        if self.room is not None and self.room.heater_pin is not None:
            level = self.state.pin(self.room.heater_pin).level
            self.room_state = dataclasses.replace(
                self.room_state, heating=level == self.room.heater_level
            )

    def _show(self) -> None:
        room = self.room
        assert room is not None
        celsius = rooms.shown(room, self.room_state)
        if room.dht_pin is not None:
            self.state.set_dht(room.dht_pin, celsius, room.humidity)
        if room.adc_pin is not None:
            self.state.set_adc(room.adc_pin, room.adc_zero + room.adc_per_c * celsius)
        if room.board:
            self.state.set_board_c(celsius + room.board_above_c)

    # Faults

    async def fault(self, kind: str, **options: Any) -> None:
        """Sets a fault, for ever or for the next ``count`` requests or for ``for_s`` seconds.

        `checks.fault` has the options.
        """
        fault = checks.fault(kind, **options)
        if kind == "refuse":
            await self._refuse(True)
        elif not self.state.set_fault(
            kind,
            count=fault.count,
            path=fault.path,
            pin=fault.pin,
            bytes_per_s=fault.bytes_per_s,
            keys=",".join(fault.keys),
        ):
            raise SimulatorError(FAULTS_FULL)
        self._forget_expiry(kind)
        if fault.for_s is not None:
            loop = asyncio.get_running_loop()
            self._expiries[kind] = loop.call_later(fault.for_s, self._expire, kind)

    def _expire(self, kind: str) -> None:
        self._expiries.pop(kind, None)
        self._clearing = asyncio.get_running_loop().create_task(self.clear(kind))

    def _forget_expiry(self, kind: str) -> None:
        timer = self._expiries.pop(kind, None)
        if timer is not None:
            timer.cancel()

    async def clear(self, kind: str | None = None) -> None:
        """Clears one kind of fault, or all."""
        if kind is not None:
            checks.fault_kind(kind)
        for expiring in [kind] if kind else list(self._expiries):
            self._forget_expiry(expiring)
        self.state.clear_faults(kind)
        if kind in (None, "refuse") and self.state.refusing:
            await self._refuse(False)

    async def _refuse(self, refuse: bool) -> None:
        """Sets the wire, then knocks, so that the board looks at it."""
        self.state.set_refuse(refuse)
        if self.state.phase < 2:
            return  # it looks when it begins to listen
        door = _BACK_DOOR if self.state.phase == 3 else "127.0.0.1"
        try:
            async with asyncio.timeout(2.0):
                await call(door, self.port, b"")
        except (OSError, TimeoutError):
            pass  # nobody listens: then nobody can be refused either

    # Power

    async def reset(self, cause: str = "hard", *, wait: bool = True, counted: bool = False) -> None:
        """Resets the board; returns when it answers again (``wait``).

        ``counted``: as one of the boots that end too early, of which three lead into safe mode. Else the
        board takes itself for healthy, however often and quickly it is reset so.
        """
        if cause not in CAUSES:
            raise SimulatorError(f"{cause!r} is no reset; there are {', '.join(CAUSES)}.")
        self.forgiven = not counted
        await self.operator.restart(self, cause, wait=wait)

    async def power(self, on: bool) -> None:
        """Switches the board's power; on returns when it answers. It does not count as a short boot."""
        self.forgiven = True
        await self.operator.switch(self, on)

    def end(self) -> None:
        """Lets go of the shared page; the board is not used any more."""
        for kind in list(self._expiries):
            self._forget_expiry(kind)
        self.phase = "off"
        if self.line is not None:
            self.line.close()
        if self.chip is not None:
            self.chip.close()
        self.state.close()

    # Reading

    def describe(self) -> dict[str, Any]:
        state = self.state
        timeout_ms, _ = state.watchdog()
        return {
            "id": self.id,
            "address": self.address,
            "control": str(self.control),
            "phase": self.phase,
            "pid": self.pid,
            "boots": self.boots,
            "reset_cause": state.cause,
            "board_c": state.board_c,
            "watchdog_ms": timeout_ms,
            "speed": state.speed,
            "rtc_offset_s": state.rtc_offset_s,
            "requests": state.requests_ever,
            "connections": state.connections,
            "most_connections": state.most[0],
            "most_requests": state.most[1],
            **({} if self.line is None else {"port": self.line.path}),
        }

    def time_s(self) -> float:
        """The board's time: it passes at ``speed``, and is this machine's monotonic one before."""
        return self.state.board_us(round(self.operator.monotonic_s() * 1e6)) / 1e6

    def console(self) -> str:
        """What the board printed, the last 64 KiB."""
        try:
            data = self.console_path.read_bytes()
        except FileNotFoundError:
            return ""
        return data[-65536:].decode("utf-8", "replace")

    def describe_room(self) -> dict[str, Any] | None:
        if self.room is None:
            return None
        self.tick(self.operator.monotonic_s())
        now = {"celsius": self.room_state.celsius, "heating": self.room_state.heating}
        return {**dataclasses.asdict(self.room), **now}


async def call(host: str, port: int, request: bytes) -> bytes:
    """Connects as the simulator itself, sends ``request`` and returns what came until the end."""
    loop = asyncio.get_running_loop()
    with socket.socket() as wire:
        wire.setblocking(False)
        wire.bind((OWN_ADDRESS, 0))
        await loop.sock_connect(wire, (host, port))
        if request:
            await loop.sock_sendall(wire, request)
        answer = b""
        while data := await loop.sock_recv(wire, 65536):
            answer += data
        return answer


def _wifi(value: Any) -> bool | list[tuple[str, str]]:
    if isinstance(value, bool):
        return value
    if not isinstance(value, list) or len(value) > 8:
        raise SimulatorError(
            "wifi is true, false, or a list of up to 8 access points with ssid and password, "
            f"not {value!r}."
        )
    points = []
    for point in value:
        if not isinstance(point, Mapping):
            raise SimulatorError(
                f"An access point is an object with ssid and password, not {point!r}."
            )
        only("an access point", point, {"ssid", "password"})
        ssid, key = point.get("ssid"), point.get("password", "")
        if (
            not isinstance(ssid, str)
            or not isinstance(key, str)
            or not 1 <= len(ssid.encode()) <= 32
            or len(key.encode()) > 64
        ):
            raise SimulatorError("An ssid has 1 to 32 bytes, a password at most 64; both are text.")
        points.append((ssid, key))
    return points


def _address(value: Any) -> bytes:
    try:
        return ipaddress.IPv4Address(value).packed
    except ValueError as e:
        raise SimulatorError(f"address is an IPv4 address, not {value!r}.") from e
