"""MicroPython. How the wire spoils an answer, when a fault is set; loaded then."""

import socket

import usocket
from _pads import get32, mem
from micropython import const

_REFUSE = const(5)
_PHASE = const(1)
_PORT = const(10)
_ID = const(12)

_HANG = const(1)
_HANG_BODY = const(2)
_SLOW = const(3)
_ERROR = const(4)
_NOT_JSON = const(5)
_TRUNCATED = const(6)
_WRONG_ID = const(7)
_MISSING = const(8)
_CUT = const(9)

_CLOSED = const(3)


def move(listener):
    """Refused or no longer: the listener moves to a back door, 127.0.0.3, or home again."""
    listener.s.close()
    listener.off = bool(mem[_REFUSE])
    listener.s = s = usocket.socket()
    s.setsockopt(1, 2, 1)
    host = "127.0.0.3" if listener.off else "127.0.0.1"
    s.bind(usocket.getaddrinfo(host, (get32(_PORT) & 0xFFFF))[0][-1])
    s.listen(listener.backlog)
    s.setblocking(False)
    mem[_PHASE] = 3 if listener.off else 2


def always_readable():
    """A socket that poll() always reports: wakes the firmware where a real connection ended."""
    if socket.readable is None:
        socket.readable = usocket.socket(2, 2)
        here = usocket.getaddrinfo("127.0.0.3", (get32(_PORT) & 0xFFFF), 2, 2)[0][-1]
        socket.readable.bind(here)
        socket.readable.sendto(b"!", here)
    return socket.readable.fileno()


def spoil(wire, answer):
    kind, slot = wire.reason
    cut = answer.find(b"\r\n\r\n") + 4
    head, body = answer[:cut], answer[cut:]
    wire.rest = b""
    if kind == _HANG:
        return
    if kind in (_HANG_BODY, _CUT):
        wire.s.write(head + body[: len(body) // 2])
        if kind == _CUT:
            wire._drop(False)
        return
    if kind == _SLOW:
        import asyncio

        wire.rest = answer
        asyncio.create_task(_drip(wire, max(1, (get32(slot + 2) & 0xFFFF))))
        return
    n = len(body)
    if kind == _ERROR:
        head = b"HTTP/1.1 500 Internal Server Error" + head[head.find(b"\r") :]
        body = b'{"error": "a fault that the simulator was asked for", "field": null}'
    elif kind == _NOT_JSON:
        body = b"<html><body>This is not JSON.</body></html>"
    elif kind == _TRUNCATED:
        body = body[: n // 2]
    elif kind == _WRONG_ID:
        import binascii

        mine = binascii.hexlify(mem[_ID : _ID + 6])
        other = (b"0" if mine[:1] == b"f" else b"f") + mine[1:]
        body = body.replace(mine, other)
    elif kind == _MISSING:
        body = _without(body, bytes(mem[slot + 57 : slot + 57 + mem[slot + 56]]))
    wire.rest = None
    head = head.replace(b": %d\r\n" % n, b": %d\r\n" % len(body))
    wire.s.write(head + body)
    wire.rest = b""


def _without(body, keys):
    import json

    try:
        answer = json.loads(body)
    except ValueError:
        return body
    for key in keys.decode().split(","):
        answer.pop(key, None)
    return json.dumps(answer).encode()


async def _drip(wire, n):
    import asyncio

    size = max(1, n // 20)
    try:
        while wire.rest:
            sent = wire.s.write(wire.rest[:size]) or 0
            wire.rest = wire.rest[sent:]
            await asyncio.sleep_ms(size * 1000 // n)
    except OSError:
        wire.rest = b""
    if wire.state == _CLOSED:
        wire.s.close()


def let_go(kept):
    """Closes kept connections whose client has gone, and the oldest where there are many."""
    for s in kept[:]:
        try:
            s.setblocking(False)
            data = s.recv(64)
        except OSError as e:
            data = None if e.errno == 11 else b""
        if data == b"" or len(kept) > 8:
            s.close()
            kept.remove(s)


def do(what, *args):
    """One name for all: what the stand-ins name is counted, and a chip has none of it."""
    return (move, let_go, always_readable, spoil)[what](*args)
