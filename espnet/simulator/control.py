"""The control socket of a board: JSON lines over a Unix socket that only its owner can open.

`docs/simulator.md` is the protocol's description. Invariants: every line is answered by one line,
``{"ok": true, …}`` or ``{"ok": false, "error": sentence}``; nothing that comes in ends the server.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from espnet.simulator.board import SimulatedBoard
from espnet.simulator.errors import SimulatorError
from espnet.simulator.state import PINS

_LINE_LIMIT = 65536
_VERBS = ("get", "set", "fault", "clear", "reset", "power")
_GET = (
    "board", "pins", "dht", "requests", "faults", "room", "network", "flash", "file", "console",
)  # fmt: skip


class Controlled(Protocol):
    """A board that a control socket can handle."""

    def set(self, /, **values: Any) -> None: ...

    async def fault(self, kind: str, **options: Any) -> None: ...

    async def clear(self, kind: str | None = None) -> None: ...

    async def reset(self, cause: str = "hard", *, wait: bool = True) -> None: ...

    async def power(self, on: bool) -> None: ...


#: Carries out one request and returns what the answer holds besides ``ok``.
Handle = Callable[[Any], Awaitable[dict[str, Any]]]


class ControlServer:
    """A control socket, from `start` to `stop`: requests go to ``answer``."""

    def __init__(self, path: Path, answer: Handle) -> None:
        self._path, self._answer = path, answer
        self._clients: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(
            self._client, str(self._path), limit=_LINE_LIMIT
        )
        self._path.chmod(0o600)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        clients = list(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            await _converse(self._answer, reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client went, or the simulator ends
        finally:
            self._clients.discard(task)
            writer.close()


async def _converse(
    handle: Handle, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    while True:
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError as e:
            if not e.partial.strip():
                return
            line = e.partial
        except asyncio.LimitOverrunError:
            answer = _error(f"A line has at most {_LINE_LIMIT} bytes; this connection ends here.")
            writer.write(answer)
            await writer.drain()
            for _ in range(256):  # or the client, still writing, would never read the answer
                if not await reader.read(_LINE_LIMIT):
                    break
            return
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            writer.write(_error('That line is not JSON; send one object a line: {"get": "pins"}.'))
        else:
            try:
                found = await handle(request)
                writer.write(json.dumps({"ok": True, **found}).encode() + b"\n")
            except SimulatorError as e:
                writer.write(_error(str(e)))
        await writer.drain()


def _error(sentence: str) -> bytes:
    return json.dumps({"ok": False, "error": sentence}).encode() + b"\n"


async def handle(board: SimulatedBoard, request: Any) -> dict[str, Any]:
    """Carries out one request and returns what the answer holds besides ``ok``."""
    return await carry_out(board, request, partial(_get, board))


async def carry_out(
    board: Controlled, request: Any, get: Callable[[Any, dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """The same for any kind of board; ``get`` answers what is asked for, with its options."""
    verbs = [verb for verb in _VERBS if isinstance(request, dict) and verb in request]
    if len(verbs) != 1:
        raise SimulatorError(f"A request is an object with one of {', '.join(_VERBS)}.")
    verb = verbs[0]
    value = request[verb]
    rest = {name: item for name, item in request.items() if name != verb}
    if verb == "get":
        return get(value, rest)
    if verb == "set":
        nothing_else(verb, rest)
        if not isinstance(value, dict):
            raise SimulatorError('set takes an object, such as {"set": {"adc": {"36": 2048}}}.')
        board.set(**value)
    elif verb == "fault":
        nothing_else(verb, rest, ("count", "path", "pin", "bytes_per_s", "keys", "for_s"))
        await board.fault(value if isinstance(value, str) else repr(value), **rest)
    elif verb == "clear":
        nothing_else(verb, rest)
        await board.clear(value if value is None or isinstance(value, str) else repr(value))
    elif verb == "reset":
        nothing_else(verb, rest, ("wait",))
        wait = bool(rest.get("wait", True))
        await board.reset(value if isinstance(value, str) else repr(value), wait=wait)
    else:
        nothing_else(verb, rest)
        if value not in ("on", "off"):
            raise SimulatorError(f"power is on or off, not {value!r}.")
        await board.power(value == "on")
    return {}


def nothing_else(verb: str, rest: dict[str, Any], known: tuple[str, ...] = ()) -> None:
    unknown = sorted(name for name in rest if name not in known)
    if unknown:
        has = f"it has {', '.join(known)}" if known else "it has no options"
        raise SimulatorError(f"{verb} has no option {', '.join(unknown)}; {has}.")


def _get(board: SimulatedBoard, what: Any, rest: dict[str, Any]) -> dict[str, Any]:
    if what not in _GET:
        raise SimulatorError(f"There is no {what!r} to get; there are {', '.join(_GET)}.")
    options: dict[str, tuple[str, ...]] = {"requests": ("since",), "file": ("name",)}
    nothing_else(f"get {what}", rest, options.get(what, ()))
    state = board.state
    if what == "board":
        return {"board": board.describe()}
    if what == "pins":
        pins = [dataclasses.asdict(state.pin(n)) for n in PINS]
        return {"pins": {str(pin.pop("pin")): pin for pin in pins}}
    if what == "dht":
        found = {str(n): state.dht(n) for n in PINS}
        return {
            "dht": {n: {"temp": d[0], "humidity": d[1]} for n, d in found.items() if d is not None}
        }
    if what == "requests":
        since = rest.get("since", 0)
        if isinstance(since, bool) or not isinstance(since, int):
            raise SimulatorError(f"since is the number of a request, not {since!r}.")
        wall_s = board.operator.now_s() - board.operator.monotonic_s()
        entries = [dataclasses.asdict(entry) for entry in state.requests(since)]
        for entry in entries:
            entry["time"] = round(entry["at_s"] + wall_s, 6)
        return {"requests": entries, "next": state.requests_ever}
    if what == "faults":
        return {"faults": state.faults()}
    if what == "room":
        return {"room": board.describe_room()}
    if what == "network":
        return {"network": state.network.describe()}
    if what == "console":
        return {"console": board.console()}
    if what == "flash":
        files = sorted(path for path in board.flash.rglob("*") if path.is_file())
        return {"flash": {str(f.relative_to(board.flash)): f.stat().st_size for f in files}}
    return {"file": base64.b64encode(_file(board, rest.get("name")).read_bytes()).decode()}


def _file(board: SimulatedBoard, name: Any) -> Path:
    if isinstance(name, str) and "\0" not in name:
        flash = board.flash.resolve()
        path = (flash / name.lstrip("/")).resolve()
        if path.is_relative_to(flash) and path.is_file():
            return path
    raise SimulatorError(f'The board has no file {name!r}; {{"get": "flash"}} lists what it has.')


class Control:
    """A client of a control socket, for tests and scripts. Light boards share one: ``board`` is the id.

    ``control.get("pins")`` returns what was asked for; ``set``, ``fault``, ``clear``, ``reset`` and
    ``power`` return when it is done. A refusal raises `SimulatorError` with the board's sentence.
    """

    def __init__(self, path: str | Path, timeout_s: float = 30.0, board: str | None = None) -> None:
        self._board = {} if board is None else {"board": board}
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
        except OSError as e:
            self._socket.close()
            raise SimulatorError(
                f"No simulated board listens at {path} ({e.strerror}); is the simulator running?"
            ) from e
        self._lines = self._socket.makefile("rb")

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Sends one request and returns the answer's object."""
        try:
            self._socket.sendall(json.dumps(self._board | request).encode() + b"\n")
            line = self._lines.readline()
        except TimeoutError as e:
            raise SimulatorError(
                f"The simulator did not answer {request!r} in time; look at the board's console."
            ) from e
        except ConnectionError:
            line = b""
        if not line:
            raise SimulatorError("The simulator closed the control socket; is it still running?")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise SimulatorError(answer["error"])
        return answer

    def get(self, what: str, **options: Any) -> Any:
        return self.ask({"get": what, **options})[what]

    def set(self, **values: Any) -> None:
        self.ask({"set": values})

    def fault(self, kind: str, **options: Any) -> None:
        self.ask({"fault": kind, **options})

    def clear(self, kind: str | None = None) -> None:
        self.ask({"clear": kind})

    def reset(self, cause: str = "hard", *, wait: bool = True) -> None:
        self.ask({"reset": cause, "wait": wait})

    def power(self, on: bool) -> None:
        self.ask({"power": "on" if on else "off"})

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
