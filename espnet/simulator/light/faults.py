"""How a light board spoils its answers: the faults of `docs/simulator.md`, on whole answers.

Which faults there are and what may be set, `checks` says; here is which one a request meets, and what it
does to the bytes. No sockets.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from espnet.simulator.checks import FAULTS_FULL, Fault
from espnet.simulator.errors import SimulatorError

_MOST = 8


class Faults:
    """The faults that are set on one board, in their order; `refuse` is kept beside them."""

    __slots__ = ("_left", "_set", "refusing")

    def __init__(self) -> None:
        self._set: list[Fault] = []
        self._left: list[int | None] = []
        self.refusing = False

    def __bool__(self) -> bool:
        return bool(self._set) or self.refusing

    def set(self, fault: Fault) -> None:
        """Sets one, in place of one of the same kind, path and pin; raises `SimulatorError`."""
        if fault.kind == "refuse":
            self.refusing = True
            return
        for place, known in enumerate(self._set):
            if (known.kind, known.path, known.pin) == (fault.kind, fault.path, fault.pin):
                self._set[place], self._left[place] = fault, fault.count
                return
        if len(self._set) >= _MOST:
            raise SimulatorError(FAULTS_FULL)
        self._set.append(fault)
        self._left.append(fault.count)

    def clear(self, kind: str | None = None) -> None:
        if kind in (None, "refuse"):
            self.refusing = False
        kept = [n for n, fault in enumerate(self._set) if kind is not None and fault.kind != kind]
        self._set = [self._set[n] for n in kept]
        self._left = [self._left[n] for n in kept]

    def of_request(self, path: str) -> Fault | None:
        """The fault that the next request of ``path`` meets, counted."""
        return self._find(lambda fault: fault.kind != "sensor" and fault.path in ("", path))

    def of_sensor(self, pin: int) -> Fault | None:
        """The fault that reading a sensor on ``pin`` meets, counted."""
        return self._find(lambda fault: fault.kind == "sensor" and fault.pin in (None, pin))

    def _find(self, fits: Callable[[Fault], bool]) -> Fault | None:
        for place, fault in enumerate(self._set):
            if fits(fault):
                left = self._left[place]
                if left is not None:
                    self._left[place] = left - 1
                    if left == 1:
                        del self._set[place], self._left[place]
                return fault
        return None

    def describe(self) -> list[dict[str, object]]:
        found: list[dict[str, object]] = [{"fault": "refuse"}] if self.refusing else []
        for fault, left in zip(self._set, self._left, strict=True):
            told: dict[str, object] = {"fault": fault.kind}
            if left is not None:
                told["count"] = left
            if fault.path:
                told["path"] = fault.path
            if fault.pin is not None:
                told["pin"] = fault.pin
            if fault.kind == "slow":
                told["bytes_per_s"] = fault.bytes_per_s
            if fault.keys:
                told["keys"] = list(fault.keys)
            found.append(told)
        return found


def spoil(fault: Fault, answer: bytes, board_id: str) -> bytes:
    """The bytes that go out instead of ``answer``: all at once, but for `slow`; none where it hangs."""
    kind = fault.kind
    if kind == "hang":
        return b""
    if kind == "slow":
        return answer
    cut = answer.find(b"\r\n\r\n") + 4
    head, body = answer[:cut], answer[cut:]
    before = len(body)
    if kind in ("hang_body", "cut"):
        return head + body[: before // 2]
    if kind == "http_500":
        head = b"HTTP/1.1 500 Internal Server Error" + head[head.find(b"\r") :]
        body = b'{"error": "a fault that the simulator was asked for", "field": null}'
    elif kind == "not_json":
        body = b"<html><body>This is not JSON.</body></html>"
    elif kind == "truncated":
        body = body[: before // 2]
    elif kind == "wrong_id":
        other = ("0" if board_id[0] == "f" else "f") + board_id[1:]
        body = body.replace(board_id.encode(), other.encode())
    elif kind == "missing_keys":
        body = _without(body, fault.keys)
    head = head.replace(b": %d\r\n" % before, b": %d\r\n" % len(body))
    return head + body


def _without(body: bytes, keys: tuple[str, ...]) -> bytes:
    try:
        answer = json.loads(body)
    except ValueError:
        return body
    for key in keys:
        answer.pop(key, None)
    return json.dumps(answer).encode()
