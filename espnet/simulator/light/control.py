"""The control socket of a fleet of light boards: one for all, for ten thousand sockets are too many.

The same lines as a board's own socket takes (`espnet.simulator.control`), each with one more member that says
which board is meant: ``{"board": "2e8889840967", "get": "pins"}``. Only ``{"get": "boards"}`` needs none.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from espnet.simulator.control import carry_out, nothing_else
from espnet.simulator.errors import SimulatorError
from espnet.simulator.light.board import LightBoard
from espnet.simulator.state import PINS

_GET = ("board", "pins", "dht", "requests", "changes", "faults", "console")


class LightControl:
    """Answers what comes through the socket of these boards."""

    def __init__(self, boards: list[LightBoard], wall_s: float) -> None:
        """``wall_s``: Unix time when the monotonic clock was 0."""
        self._boards = {board.id: board for board in boards}
        self._wall_s = wall_s

    async def answer(self, request: Any) -> dict[str, Any]:
        if not isinstance(request, dict):
            raise SimulatorError('A request is an object, such as {"get": "boards"}.')
        rest = dict(request)
        name = rest.pop("board", None)
        if name is None and rest == {"get": "boards"}:
            return {"boards": {board.id: board.address for board in self._boards.values()}}
        board = self._boards.get(name) if isinstance(name, str) else None
        if board is None:
            raise SimulatorError(
                f'There is no board {name!r} here; "board" is an id, {{"get": "boards"}} lists them.'
            )
        return await carry_out(board, rest, partial(self._get, board))

    def _get(self, board: LightBoard, what: Any, rest: dict[str, Any]) -> dict[str, Any]:
        if what not in _GET:
            raise SimulatorError(f"A light board has no {what!r} to get; it has {', '.join(_GET)}.")
        nothing_else(f"get {what}", rest, ("since",) if what == "requests" else ())
        if what == "board":
            return {"board": board.describe()}
        if what == "pins":
            pins = [dataclasses.asdict(board.pin(n)) for n in PINS]
            return {"pins": {str(pin.pop("pin")): pin for pin in pins}}
        if what == "dht":
            shown = board.chip.sensors()
            return {"dht": {str(n): {"temp": t, "humidity": h} for n, (t, h) in shown.items()}}
        if what == "requests":
            since = rest.get("since", 0)
            if isinstance(since, bool) or not isinstance(since, int):
                raise SimulatorError(f"since is the number of a request, not {since!r}.")
            entries = [dataclasses.asdict(entry) for entry in board.requests(since)]
            for entry in entries:
                entry["time"] = round(entry["at_s"] + self._wall_s, 6)
            return {"requests": entries, "next": board.requests_ever}
        if what == "changes":
            return {"changes": [change._asdict() for change in board.changes()]}
        if what == "faults":
            return {"faults": board.faults.describe()}
        return {"console": board.console}
