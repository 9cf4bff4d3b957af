"""MicroPython. Stand-in for `socket`: the wire of the board, where faults happen.

Port 80 of the board becomes its own port on loopback. Each accepted connection is wrapped: the
wrapper writes the request log and, when a fault is set, spoils the answer on its way out; the
firmware does not notice. Without a fault every read and write goes straight to the real socket.
All faults but `refuse`, `rst` and `reset` act on the answer: the request itself was carried out.

What comes from 127.0.0.2 is the simulator's own (is the board up?): not logged, never faulted.
"""

import io
import struct
import time

import _pads
import usocket
from _pads import get16, get32, mem, put32
from micropython import const

_PHASE = const(1)
_ANY_FAULT = const(4)
_REFUSE = const(5)
_PORT = const(10)
_ID = const(12)
_LOG_COUNT = const(32)
_OPEN = const(44)
_MOST_OPEN = const(45)
_BUSY = const(46)
_MOST_BUSY = const(47)
_LOG = const(8192)
_LOG_SIZE = const(1024)

_HANG = const(1)
_HANG_BODY = const(2)
_SLOW = const(3)
_ERROR = const(4)
_NOT_JSON = const(5)
_TRUNCATED = const(6)
_WRONG_ID = const(7)
_MISSING = const(8)
_CUT = const(9)
_RST = const(10)
_RESET = const(11)

_IDLE = const(0)
_ASKED = const(1)
_ANSWERED = const(2)
_CLOSED = const(3)

_OWN = b"\x7f\x00\x00\x02"
_held = []
_readable = None


def __getattr__(name):
    return getattr(usocket, name)


def getaddrinfo(host, port, *rest):
    if port == 80 and host in ("0.0.0.0", "::", "", None):
        host, port = "127.0.0.1", get16(_PORT)
    return usocket.getaddrinfo(host, port, *rest)


def _always_readable():
    """A socket that poll() always reports: wakes the firmware where a real connection ended."""
    global _readable
    if _readable is None:
        _readable = usocket.socket(2, 2)
        here = usocket.getaddrinfo("127.0.0.3", get16(_PORT), 2, 2)[0][-1]
        _readable.bind(here)
        _readable.sendto(b"!", here)
    return _readable.fileno()


class socket(io.IOBase):
    def __init__(self, *kind):
        self.s = usocket.socket(*kind)
        self.public = self.moved = False

    def __getattr__(self, name):
        return getattr(self.s, name)

    def ioctl(self, request, argument):
        return self.s.fileno() if request == 10 else 0

    def makefile(self, *mode):
        return self

    def connect(self, address):
        if isinstance(address, tuple):
            address = usocket.getaddrinfo(*address[:2])[0][-1]
        self.s.connect(address)

    def bind(self, address):
        if isinstance(address, tuple):
            address = getaddrinfo(*address[:2])[0][-1]
        self.address = address
        self.s.setsockopt(1, 2, 1)
        self.s.bind(address)

    def listen(self, backlog=5):
        self.backlog = backlog
        self.s.listen(backlog)
        if bytes(self.address[2:4]) == bytes((mem[_PORT + 1], mem[_PORT])):
            self.public = True
            mem[_PHASE] = 2
            if mem[_REFUSE]:
                self._move()

    def accept(self):
        s, peer = self.s.accept()
        if not self.public:
            return s, peer
        turned = mem[_REFUSE] != self.moved
        if turned:
            self._move()
        if turned or self.moved:
            s.close()
            raise OSError(11)
        if bytes(peer[4:8]) == _OWN:
            return s, peer
        return _Connection(s), peer

    def _move(self):
        """Refused or no longer: the listener moves to a back door, 127.0.0.3, or home again."""
        self.s.close()
        self.moved = bool(mem[_REFUSE])
        self.s = s = usocket.socket()
        s.setsockopt(1, 2, 1)
        s.bind(usocket.getaddrinfo("127.0.0.3" if self.moved else "127.0.0.1", get16(_PORT))[0][-1])
        s.listen(self.backlog)
        s.setblocking(False)
        mem[_PHASE] = 3 if self.moved else 2


class _Connection(io.IOBase):
    def __init__(self, s):
        self.s = s
        self.state = _IDLE
        self.line = b""
        self.fault = None
        self.late = None  # what a spoiled answer still has to say; b"" = nothing more, ever
        self.gone = self.eof = False
        n = mem[_OPEN] = mem[_OPEN] + 1
        if n > mem[_MOST_OPEN]:
            mem[_MOST_OPEN] = n
        if _held:
            _let_go()

    def __getattr__(self, name):
        return getattr(self.s, name)

    def ioctl(self, request, argument):
        if request == 10:
            return _always_readable() if self.gone else self.s.fileno()
        if request == 4:
            self.close()
        return 0

    def makefile(self, *mode):
        return self

    # Requests coming in

    def recv(self, n=-1):
        return b"" if self.gone else self._came(self.s.recv(n))

    def read(self, n=-1):
        return b"" if self.gone else self._came(self.s.read(n))

    def readline(self, *n):
        return b"" if self.gone else self._came(self.s.readline(*n))

    def readinto(self, buffer, *n):
        if self.gone:
            return 0
        got = self.s.readinto(buffer, *n)
        self._came(got if not got else bytes(memoryview(buffer)[:got]))
        return got

    def _came(self, data):
        if not data:
            if data is not None:
                self.eof = True
            return data
        if self.state != _ASKED:
            if mem[_REFUSE]:
                self._rst()
            self.state = _ASKED
            self.line = b""
            self.at = 0
            self.fault = self.late = None
            self.began = time.ticks_us()
            n = mem[_BUSY] = mem[_BUSY] + 1
            if n > mem[_MOST_BUSY]:
                mem[_MOST_BUSY] = n
        if not self.at:
            self.line += data[:128]
            if len(self.line) >= 128 or b"\n" in self.line:
                self._asked()
        return data

    def _asked(self):
        """The request line is here: log it, and see which fault it meets."""
        words = self.line.split(b" ", 2)
        self.line = b""
        text = b" ".join(words[:2])[:44]
        count = get32(_LOG_COUNT)
        at = self.at = _LOG + count % _LOG_SIZE * 64
        struct.pack_into(
            "<QIBBHBB", mem, at, self.began, 0, mem[_BUSY] - 1, mem[_OPEN], 0, 0, len(text)
        )
        mem[at + 18 : at + 18 + len(text)] = text
        put32(_LOG_COUNT, count + 1)
        if mem[_ANY_FAULT]:
            path = words[1] if len(words) > 1 else b""
            self.fault = _pads.take(path.split(b"?")[0], None)
            if self.fault:
                mem[at + 16] = self.fault[0]
                if self.fault[0] == _RESET:
                    _pads.die(2)
                if self.fault[0] == _RST:
                    self._rst()

    def _rst(self):
        self._gone(b"\x01\0\0\0\0\0\0\0")
        raise OSError(104)

    def _gone(self, linger=None):
        """Ends the real connection while the firmware still holds this one."""
        if linger:
            self.s.setsockopt(1, 13, linger)
        self.s.close()
        self.gone = True

    # Answers going out

    def write(self, data, *n):
        if self.state == _ASKED and data[9] != 49:  # not 1xx
            self.state = _ANSWERED
            mem[_BUSY] -= 1
            if self.at:
                status = bytes(data[9:12])
                struct.pack_into("<I", mem, self.at + 8, time.ticks_us() - self.began)
                struct.pack_into("<H", mem, self.at + 14, int(status) if status.isdigit() else 0)
            if self.fault:
                self._spoil(bytes(data))
                return len(data)
        elif self.late is not None or self.gone:
            if self.late:
                self.late += data
            return len(data)
        return self.s.write(data)

    send = write
    sendall = write

    def _spoil(self, answer):
        kind, slot = self.fault
        cut = answer.find(b"\r\n\r\n") + 4
        head, body = answer[:cut], answer[cut:]
        self.late = b""
        if kind == _HANG:
            return
        if kind in (_HANG_BODY, _CUT):
            self.s.write(head + body[: len(body) // 2])
            if kind == _CUT:
                self._gone()
            return
        if kind == _SLOW:
            import asyncio

            self.late = answer
            asyncio.create_task(self._drip(max(1, get16(slot + 2))))
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
            body = self._without(body, bytes(mem[slot + 57 : slot + 57 + mem[slot + 56]]))
        self.late = None
        head = head.replace(b": %d\r\n" % n, b": %d\r\n" % len(body))
        self.s.write(head + body)
        self.late = b""

    def _without(self, body, keys):
        import json

        try:
            answer = json.loads(body)
        except ValueError:
            return body
        for key in keys.decode().split(","):
            answer.pop(key, None)
        return json.dumps(answer).encode()

    async def _drip(self, rate):
        import asyncio

        n = max(1, rate // 20)
        try:
            while self.late:
                sent = self.s.write(self.late[:n]) or 0
                self.late = self.late[sent:]
                await asyncio.sleep_ms(n * 1000 // rate)
        except OSError:
            self.late = b""
        if self.state == _CLOSED:
            self.s.close()

    def close(self):
        if self.state == _CLOSED:
            return
        if self.state == _ASKED:
            mem[_BUSY] -= 1
        self.state = _CLOSED
        mem[_OPEN] -= 1
        if self.gone:
            return
        if self.late is None or self.eof:
            self.late = b""
            self.s.close()
        elif self.fault[0] <= _HANG_BODY:
            _held.append(self.s)  # hanging: the firmware closes, the client must not notice
        elif not self.late:
            self.s.close()


def _let_go():
    """Closes held connections whose client has gone, and the oldest where there are many."""
    for s in _held[:]:
        try:
            s.setblocking(False)
            data = s.recv(64)
        except OSError as e:
            data = None if e.errno == 11 else b""
        if data == b"" or len(_held) > 8:
            s.close()
            _held.remove(s)
