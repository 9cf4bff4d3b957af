"""One connection of a light board: what `web.py` does on a chip, over asyncio's transports.

The same bounds: a head of 1536 bytes, a body of 8192, eight connections a board, an allowance for every wait.
A request is parsed, admitted and carried out by the firmware's own code. Invariants: requests of one
connection are answered one after another; each is in the board's log, from its first byte to its end.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from espnet.simulator.checks import Fault
from espnet.simulator.light.faults import spoil

if TYPE_CHECKING:
    from espnet.simulator.light.board import LightBoard

CONNECTIONS_MAX = 8
_BODY_SMALL = 512
_LINGER_MAX = 65_536
#: What may come in while a request is being served.
_AHEAD_MAX = 65_536

_HEAD_S, _BODY_S, _HANDLE_S, _SEND_S, _IDLE_S, _LINGER_S = 5.0, 10.0, 60.0, 10.0, 65.0, 1.0
_NEVER_S = float("inf")

# What a connection is doing decides what it means that its allowance is used up.
_IDLE, _READING, _HANDLING, _SENDING, _LINGERING, _HANGING = range(6)

#: Closing sends a reset.
_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class LightRequest:
    """One request that a light board received; times are monotonic seconds of this machine.

    ``at_s``: its first byte; ``answered_s``: how long the board took to answer, None while it has not;
    ``ended_s``: when all of the answer was handed over, or the connection was gone, None before that;
    ``left_s``: when its client left before the board had answered, or the connection broke; None where
    neither;
    ``overlap``: how many others were under way; ``connections``: how many were open, this one included;
    ``connection`` and ``peer``: the connection's number on this board, and the client's port; ``fence``: that
    it carried, 0 for none; ``fault``: what was done to it.
    """

    number: int
    at_s: float
    method: str
    path: str
    overlap: int
    connections: int
    connection: int
    peer: int
    status: int = 0
    answered_s: float | None = None
    ended_s: float | None = None
    left_s: float | None = None
    fence: int = 0
    fault: str | None = None


class Wire(asyncio.Protocol):
    """One client of one board."""

    __slots__ = (
        "_began_s", "_board", "_busy", "_eof", "_fault", "_lingered", "_paused", "_peer", "_request",
        "_rest", "_work", "deadline_s", "doing", "entry", "holds", "known", "number", "transport",
    )  # fmt: skip

    def __init__(self, board: LightBoard) -> None:
        self._board = board
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.number = self._peer = 0
        self._rest = b""
        self._request: Any = None
        self._fault: Fault | None = None
        self.entry: LightRequest | None = None
        self._began_s: float | None = None  # when the first byte of a request came
        self._work: asyncio.Task[None] | asyncio.TimerHandle | None = None
        self._busy = False  # serving a request takes longer than this call
        self._eof = self._paused = self.known = False
        self._lingered = 0
        self.holds = 0  # bytes of a large body
        self.doing, self.deadline_s = _READING, 0.0

    def _begin(self, doing: int, allowance_s: float) -> None:
        self.doing = doing
        self.deadline_s = self._board.now_s() + allowance_s

    # Coming and going

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        peer = transport.get_extra_info("peername")
        self._peer = peer[1] if peer else 0
        self._begin(_READING, _HEAD_S)
        if self._board.phase != "ready":
            self.transport.abort()  # it came before the port was closed
            return
        refusal = self._board.let_in(self)
        if refusal:
            self.transport.write(refusal)
            self._linger()

    def connection_lost(self, error: Exception | None) -> None:
        if self.entry is not None and self.entry.ended_s is None:
            self.entry.ended_s = self._board.now_s()
        self._note_leaving()
        # What is late or takes long is carried out all the same: no board notices before it answers.
        if not self._busy or self._began_s is None:
            self._give_way()
        self._board.let_out(self)

    def _give_way(self) -> None:
        """Ends what is under way here."""
        if self._work is not None:
            self._work.cancel()
        self._work, self._busy = None, False
        if self._began_s is not None:
            self._board.under_way -= 1
            self._began_s = None

    def cut_off(self) -> None:
        """The board is reset, or loses its power: nothing that is under way goes on."""
        self._give_way()
        self.transport.abort()

    def _note_leaving(self) -> None:
        entry = self.entry
        if entry is not None and entry.answered_s is None and entry.left_s is None:
            entry.left_s = self._board.now_s()

    def eof_received(self) -> bool:
        self._eof = True
        self._note_leaving()
        if self._busy:
            return True
        if self.doing in (_LINGERING, _HANGING):
            return False  # nobody waits for anything any more
        self._go_on()
        return not self.transport.is_closing()

    def pause_writing(self) -> None:
        self._begin(_SENDING, _SEND_S)

    def resume_writing(self) -> None:
        if self.doing == _SENDING:
            self._begin(_IDLE, _IDLE_S)

    def _linger(self) -> None:
        """Takes in what the client still sends: to close at once would reset the connection."""
        self.holds = 0
        self._begin(_LINGERING, _LINGER_S)
        if self._eof:
            self.transport.close()

    def drop(self) -> None:
        """Ends the connection by a reset."""
        wire = self.transport.get_extra_info("socket")
        if wire is not None:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def expire(self) -> None:
        """The allowance is used up."""
        if self.doing == _READING:
            self.transport.write(self._board.program.too_slow)
        elif self.doing == _HANDLING:
            self.transport.write(self._board.program.too_long)
        if self.doing == _SENDING:
            self.transport.abort()
        else:
            self.transport.close()
        self._give_way()
        self.deadline_s = _NEVER_S

    # Requests coming in

    def data_received(self, data: bytes) -> None:
        if self.doing == _LINGERING:
            self._lingered += len(data)
            if self._lingered > _LINGER_MAX:
                self.transport.close()
            return
        self._rest = self._rest + data if self._rest else data
        if not self._busy:
            self._go_on()
        elif len(self._rest) > _AHEAD_MAX and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def _go_on(self) -> None:
        """Serves what has come, request after request."""
        while not (self._busy or self.doing == _LINGERING or self.transport.is_closing()):
            if self._request is None and not self._take_head():
                return
            request = self._request
            if request.length:
                if len(self._rest) < request.length:
                    if self._eof:
                        missing = request.length - len(self._rest)
                        error = f"the body ended {missing} bytes before its Content-Length"
                        self._give_up(self._board.program.refusal(400, error))
                    return
                request.body = [self._rest[: request.length]]
                self._rest = self._rest[request.length :]
            self._handle()

    def _take_head(self) -> bool:
        """Whether a request's head is there, and right."""
        board = self._board
        data = self._rest.lstrip(b"\r\n")
        if not data:
            self._rest = b""
            if self._eof:
                self.transport.close()
            return False
        if self._began_s is None:
            self._began_s = board.now_s()
            board.under_way += 1
            if board.under_way > board.most_requests:
                board.most_requests = board.under_way
            self._begin(_READING, _HEAD_S)
            if board.faults.refusing:
                self.drop()
                return False
        end = data.find(b"\r\n\r\n") + 4
        program = board.program
        if end < 4 or end > program.head_max:
            self._rest = data
            if len(data) >= program.head_max:
                self._note(data)
                error = f"a request's head may have {program.head_max} bytes at most"
                self._give_up(program.refusal(431, error))
            elif self._eof:
                self._note(data)
                error = "the request ended in the middle of its head"
                self._give_up(program.refusal(400, error))
            return False
        head, self._rest = data[:end], data[end:]
        self._note(head)
        try:
            request = program.parse_head(head)
            if request.length:
                self._make_room(request.length)
        except program.refusal as refusal:
            self._give_up(refusal)
            return False
        if board.faults and not self._meet_fault(request.path.decode("utf-8", "replace")):
            return False
        self._request = request
        if request.length:
            if request.expects_continue and not self._rest:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._begin(_READING, _BODY_S)
        return True

    def _note(self, head: bytes) -> None:
        words = head.partition(b"\r")[0].split(b" ", 2)[:2]
        method, path = [word[:512].decode("utf-8", "replace") for word in (*words, b"")][:2]
        assert self._began_s is not None
        self.entry = self._board.note_request(self, self._began_s, method, path, self._peer)

    def _make_room(self, length: int) -> None:
        """Refuses a body that has no place beside the large ones of others, as web.py does."""
        if length > _BODY_SMALL:
            program = self._board.program
            if length + sum(other.holds for other in self._board.wires) > program.body_max:
                error = "other large bodies are under way; try again"
                raise program.refusal(503, error, None, "Retry-After: 1\r\n")
            self.holds = length

    def _meet_fault(self, path: str) -> bool:
        """Whether the request is to be carried out."""
        fault = self._fault = self._board.faults.of_request(path)
        if fault is None:
            return True
        assert self.entry is not None
        self.entry.fault = fault.kind
        if fault.kind == "rst":
            self.drop()
        elif fault.kind == "reset":
            self._board.reset_soon()
            self.transport.abort()
        return fault.kind not in ("rst", "reset")

    # Carrying out

    def _handle(self) -> None:
        board = self._board
        self._begin(_HANDLING, _HANDLE_S)
        if board.on_request is not None:
            board.on_request(board)
        if board.busy:
            self._send(board.program.no_memory, True)
        elif board.latency_s:
            self._busy = True
            loop = asyncio.get_running_loop()
            self._work = loop.call_later(board.latency_s, self._carry_out_late)
        else:
            self._carry_out()

    def _carry_out_late(self) -> None:
        self._work, self._busy = None, False
        self._carry_out()
        self._go_on()

    def _carry_out(self) -> None:
        board, request = self._board, self._request
        program = board.program
        entry = self.entry
        assert entry is not None
        board.begin(entry)
        try:
            work = board.start(request)
            if request.path == b"/adc":
                self._busy = True
                self._work = asyncio.get_running_loop().create_task(self._measure(work))
                return
            try:
                work.send(None)
            except StopIteration as done:
                self._reply(done.value)
            else:
                raise RuntimeError(f"{entry.method} {entry.path} waits for something")
        except program.refusal as refusal:
            self._refuse(refusal)
        except Exception as error:  # noqa: BLE001 - as on a board, a bug costs one request
            board.failed(error)
            name = type(error).__name__
            self._refuse(program.refusal(500, f"the firmware failed: {name}"))
        finally:
            entry.fence = board.finish()

    async def _measure(self, work: Coroutine[Any, Any, Any]) -> None:
        board = self._board
        try:
            board.enter()
            reply = await work
        except board.program.refusal as refusal:
            self._work, self._busy = None, False
            self._refuse(refusal)
        else:
            self._work, self._busy = None, False
            self._reply(reply)
        self._go_on()

    # Answers going out

    def _reply(self, reply: Any) -> None:
        request, program = self._request, self._board.program
        if isinstance(reply, program.stream):
            body = b"".join(reply.pieces)
            self._answer(reply.status, reply.kind, body, request.header)
            return
        body = (reply if isinstance(reply, str) else json.dumps(reply, ensure_ascii=False)).encode()
        self._answer(200, program.json, body, request.header + request.sign((body,)))

    def _refuse(self, refusal: Any) -> None:
        request = self._request
        body = json.dumps(refusal.body, ensure_ascii=False).encode()
        header = refusal.header + request.sign((body,))
        self._answer(refusal.status, self._board.program.json, body, header)

    def _answer(self, status: int, kind: str, body: bytes, header: str) -> None:
        request = self._request
        length = len(body)
        if request.method == b"HEAD":
            body = b""
        self.known = self.known or bool(request.nonce)
        data = self._board.program.response(status, kind, length, request.close, header, body)
        self._send(data, request.close)

    def _give_up(self, refusal: Any) -> None:
        """Refuses what is no request: where a next one would begin, nobody knows."""
        body = json.dumps(refusal.body, ensure_ascii=False).encode()
        program = self._board.program
        data = program.response(refusal.status, program.json, len(body), True, refusal.header, body)
        self._answered(data)
        self.transport.write(data)
        self._end_entry()
        self._linger()

    def _answered(self, data: bytes) -> None:
        entry, began_s = self.entry, self._began_s
        if entry is not None and began_s is not None:
            entry.status = int(data[9:12])
            entry.answered_s = self._board.now_s() - began_s
        if began_s is not None:
            self._board.under_way -= 1
            self._began_s = None

    def _end_entry(self) -> None:
        if self.entry is not None and self.entry.ended_s is None:
            self.entry.ended_s = self._board.now_s()
        self.entry = None

    def _send(self, data: bytes, close: bool) -> None:
        """Sends an answer, spoilt if a fault says so, and makes ready for the next request."""
        self._answered(data)
        fault, self._fault, self._request = self._fault, None, None
        self.holds = 0
        if self.transport.is_closing():
            return
        if fault is None:
            self.transport.write(data)
            self._done(close)
            return
        data = spoil(fault, data, self._board.id)
        if fault.kind == "slow":
            self._fault, self._busy = fault, True
            self._begin(_HANGING, _NEVER_S)
            self._drip(fault, data, close)
            return
        if data:
            self.transport.write(data)
        if fault.kind == "cut":
            self.transport.close()
        elif fault.kind in ("hang", "hang_body"):
            self._begin(_HANGING, _NEVER_S)
        else:
            self._done(close)

    def _drip(self, fault: Fault, data: bytes, close: bool) -> None:
        rate = fault.bytes_per_s
        size = max(1, rate // 20)
        self.transport.write(data[:size])
        if len(data) > size:
            loop = asyncio.get_running_loop()
            self._work = loop.call_later(size / rate, self._drip, fault, data[size:], close)
            return
        self._work, self._fault, self._busy = None, None, False
        self._done(close)
        self._go_on()

    def _done(self, close: bool) -> None:
        self._end_entry()
        if close:
            self.transport.close()
            return
        if self.doing != _SENDING:
            self._begin(_IDLE, _IDLE_S)
        if self._paused:
            self._paused = False
            self.transport.resume_reading()

    @property
    def is_idle(self) -> bool:
        """Whether the board has nothing to do here: whoever waits in vain, it has answered."""
        return self.doing == _IDLE or (self.doing == _HANGING and not self._busy)
