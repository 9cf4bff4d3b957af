"""MicroPython. Stand-in for `socket`: the wire of the board, where faults happen.

Port 80 of the board becomes its own port on loopback. Each accepted connection is wrapped: the
wrapper writes the request log and, when a fault is set, spoils the answer on its way out (`_faults`);
the firmware does not notice. Without a fault every read and write goes straight to the real socket.
All faults but `refuse`, `rst` and `reset` act on the answer: the request itself was carried out.

What comes from 127.0.0.2 is the simulator's own (is the board up?): not logged, never faulted.
"""

import io
import struct

import usocket
from _pads import end, get32, load, mem, put32
from micropython import const
from utime import ticks_us

_PHASE = const(1)
_ANY_FAULT = const(4)
_REFUSE = const(5)
_PORT = const(10)
_LOG_COUNT = const(32)
_OPEN = const(44)
_BUSY = const(46)
_LOG = const(8192)
_LOG_SIZE = const(1024)

_HANG_BODY = const(2)
_RST = const(10)
_RESET = const(11)

_IDLE = const(0)
_ASKED = const(1)
_ANSWERED = const(2)
_CLOSED = const(3)

kept = []
readable = None


def __getattr__(name):
    return getattr(usocket, name)


def getaddrinfo(host, port, *rest):
    if port == 80 and host in ("0.0.0.0", "::", "", None):
        host, port = "127.0.0.1", (get32(_PORT) & 0xFFFF)
    return usocket.getaddrinfo(host, port, *rest)


def socket(*kind):
    if len(kind) > 1 and kind[1] == 2:
        return load("_udp").Source()
    return Stream(*kind)


class _Source(io.IOBase):
    def __getattr__(self, name):
        return getattr(self.s, name)

    def makefile(self, *mode):
        return self


class Stream(_Source):
    def __init__(self, *kind):
        self.s = usocket.socket(*kind)
        self.on = self.off = False

    def ioctl(self, request, arg):
        return self.s.fileno() if request == 10 else 0

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
            self.on = True
            mem[_PHASE] = 2
            if mem[_REFUSE]:
                load("_faults").do(0, self)

    def accept(self):
        s, peer = self.s.accept()
        if not self.on:
            return s, peer
        turned = mem[_REFUSE] != self.off
        if turned:
            load("_faults").do(0, self)
        if turned or self.off:
            s.close()
            raise OSError(11)
        if peer[7] == 2:  # 127.0.0.2
            return s, peer
        try:
            return _Connection(s), peer
        except (
            MemoryError
        ):  # of a real socket the chip needs no wrapper, and the collector closes it
            s.close()
            raise


def _count(at):
    """One more of what is under way, and the most ever beside it."""
    n = mem[at] = mem[at] + 1
    if n > mem[at + 1]:
        mem[at + 1] = n


class _Connection(_Source):
    def __init__(self, s):
        self.s = s
        self.state = _IDLE
        self.line = b""
        self.reason = None
        self.rest = None  # late: what a spoiled answer still has to say; b"" = nothing more, ever
        self.done = self.end = False  # here or there nobody is any more
        _count(_OPEN)
        if kept:
            load("_faults").do(1, kept)

    def ioctl(self, request, arg):
        if request == 10:
            return load("_faults").do(2) if self.done else self.s.fileno()
        if request == 4:
            self.close()
        return 0

    # Requests coming in

    def recv(self, n=-1):
        return b"" if self.done else self._read(self.s.recv(n))

    def read(self, n=-1):
        return b"" if self.done else self._read(self.s.read(n))

    def readline(self, *n):
        return b"" if self.done else self._read(self.s.readline(*n))

    def _read(self, data):
        if not data:
            if data is not None:
                self.end = True
            return data
        if self.state != _ASKED:
            if mem[_REFUSE]:
                self._drop(True)
            self.state = _ASKED
            self.line = b""
            self.at = 0
            self.reason = self.rest = None
            self.start = ticks_us()
            _count(_BUSY)
        if not self.at:
            self.line += data[:128]
            if len(self.line) >= 128 or b"\n" in self.line:
                self._parse()
        return data

    def _parse(self):
        """The request line is here: log it, and see which fault it meets."""
        words = self.line.split(b" ", 2)
        self.line = b""
        text = b" ".join(words[:2])[:44]
        count = get32(_LOG_COUNT)
        at = self.at = _LOG + count % _LOG_SIZE * 64
        struct.pack_into(
            b"<QIBBHBB", mem, at, self.start, 0, mem[_BUSY] - 1, mem[_OPEN], 0, 0, len(text)
        )
        mem[at + 18 : at + 18 + len(text)] = text
        put32(_LOG_COUNT, count + 1)
        if mem[_ANY_FAULT]:
            path = words[1] if len(words) > 1 else b""
            self.reason = load("_slots").find(path.split(b"?")[0], None)
            if self.reason:
                mem[at + 16] = self.reason[0]
                if self.reason[0] == _RESET:
                    end(2)
                if self.reason[0] == _RST:
                    self._drop(True)

    def _drop(self, reset):
        """Ends the real connection while the firmware still holds this one."""
        if reset:
            self.s.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")
        self.s.close()
        self.done = True
        if reset:
            raise OSError(104)

    # Answers going out

    def write(self, data, *n):
        if self.state == _ASKED and data[9] != 49:  # not 1xx
            self.state = _ANSWERED
            mem[_BUSY] -= 1
            if self.at:
                status = bytes(data[9:12])
                struct.pack_into(b"<I", mem, self.at + 8, ticks_us() - self.start)
                struct.pack_into(b"<H", mem, self.at + 14, int(status) if status.isdigit() else 0)
            if self.reason:
                load("_faults").do(3, self, bytes(data))
                return len(data)
        elif self.rest is not None or self.done:
            if self.rest:
                self.rest += data
            return len(data)
        return self.s.write(data)

    send = write
    sendall = write

    def close(self):
        if self.state == _CLOSED:
            return
        if self.state == _ASKED:
            mem[_BUSY] -= 1
        self.state = _CLOSED
        mem[_OPEN] -= 1
        if self.done:
            return
        if self.rest is None or self.end:
            self.rest = b""
            self.s.close()
        elif self.reason[0] <= _HANG_BODY:
            kept.append(self.s)  # hanging: the firmware closes, the client must not notice
        elif not self.rest:
            self.s.close()
