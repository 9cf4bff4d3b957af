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
from _pads import die, get16, get32, mem, part, put32
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

_held = []
_readable = None


def __getattr__(name):
    return getattr(usocket, name)


def getaddrinfo(host, port, *rest):
    if port == 80 and host in ("0.0.0.0", "::", "", None):
        host, port = "127.0.0.1", get16(_PORT)
    return usocket.getaddrinfo(host, port, *rest)


def socket(*kind):
    if len(kind) > 1 and kind[1] == 2:
        return part("_udp").Datagrams()
    return _Stream(*kind)


class _Wrapped(io.IOBase):
    def __getattr__(self, name):
        return getattr(self.s, name)

    def makefile(self, *mode):
        return self


class _Stream(_Wrapped):
    def __init__(self, *kind):
        self.s = usocket.socket(*kind)
        self.public = self.moved = False

    def ioctl(self, request, argument):
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
            self.public = True
            mem[_PHASE] = 2
            if mem[_REFUSE]:
                part("_faults").move(self)

    def accept(self):
        s, peer = self.s.accept()
        if not self.public:
            return s, peer
        turned = mem[_REFUSE] != self.moved
        if turned:
            part("_faults").move(self)
        if turned or self.moved:
            s.close()
            raise OSError(11)
        if peer[7] == 2:  # 127.0.0.2
            return s, peer
        return _Connection(s), peer


def _count(at):
    """One more of what is under way, and the most ever beside it."""
    n = mem[at] = mem[at] + 1
    if n > mem[at + 1]:
        mem[at + 1] = n


class _Connection(_Wrapped):
    def __init__(self, s):
        self.s = s
        self.state = _IDLE
        self.line = b""
        self.fault = None
        self.late = None  # what a spoiled answer still has to say; b"" = nothing more, ever
        self.gone = self.eof = False
        _count(_OPEN)
        if _held:
            part("_faults").let_go(_held)

    def ioctl(self, request, argument):
        if request == 10:
            return part("_faults").always_readable() if self.gone else self.s.fileno()
        if request == 4:
            self.close()
        return 0

    # Requests coming in

    def recv(self, n=-1):
        return b"" if self.gone else self._came(self.s.recv(n))

    def read(self, n=-1):
        return b"" if self.gone else self._came(self.s.read(n))

    def readline(self, *n):
        return b"" if self.gone else self._came(self.s.readline(*n))

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
            self.began = ticks_us()
            _count(_BUSY)
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
            self.fault = part("_slots").take(path.split(b"?")[0], None)
            if self.fault:
                mem[at + 16] = self.fault[0]
                if self.fault[0] == _RESET:
                    die(2)
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
                struct.pack_into("<I", mem, self.at + 8, ticks_us() - self.began)
                struct.pack_into("<H", mem, self.at + 14, int(status) if status.isdigit() else 0)
            if self.fault:
                part("_faults").spoil(self, bytes(data))
                return len(data)
        elif self.late is not None or self.gone:
            if self.late:
                self.late += data
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
        if self.gone:
            return
        if self.late is None or self.eof:
            self.late = b""
            self.s.close()
        elif self.fault[0] <= _HANG_BODY:
            _held.append(self.s)  # hanging: the firmware closes, the client must not notice
        elif not self.late:
            self.s.close()
