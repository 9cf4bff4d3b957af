"""MicroPython. The board's datagrams: nothing of them leaves the board but its beacon.

Asked on ports 53 and 123, the answer is there at once: what `_wire` makes of the script.
"""

import io

import usocket
from _pads import get32, load, mem
from micropython import const

_PORT = const(10)
_NET_JOINED = const(74775)
_NET_BEACON = const(74884)


class Source(io.IOBase):
    def __init__(self):
        self.address = None
        self.came = []

    def setblocking(self, on):
        pass

    settimeout = setblocking

    def setsockopt(self, *option):
        pass

    def ioctl(self, request, arg):
        return arg & (5 if self.came else 4) if request == 3 else 0

    def bind(self, address):
        pass

    def connect(self, address):
        self.address = address if isinstance(address, bytes) else bytes(address)

    def send(self, data):
        return self.sendto(data, self.address)

    write = send

    def sendto(self, data, address):
        if isinstance(address, tuple):
            address = usocket.getaddrinfo(*address)[0][-1]
        address = bytes(address)
        port = address[2] << 8 | address[3]
        if not mem[_NET_JOINED]:
            raise OSError(118)  # EHOSTUNREACH of the chip's IP stack
        if port in (53, 123):
            answer = load("_wire").answer(port, bytes(data))
            if answer:
                self.came.append((answer, address))
        elif address[4:8] == b"\xff\xff\xff\xff" and (get32(_NET_BEACON) & 0xFFFF):
            s = usocket.socket(2, 2)
            s.setsockopt(1, 6, 1)
            to = usocket.getaddrinfo("127.255.255.255", get32(_NET_BEACON) & 0xFFFF, 2, 2)[0][-1]
            mine = b'"port":%d' % (get32(_PORT) & 0xFFFF)
            s.sendto(bytes(data).replace(b'"port":80', mine), to)
            s.close()
        return len(data)

    def recvfrom(self, n):
        if not self.came:
            raise OSError(11)
        return self.came.pop(0)

    def recv(self, n):
        return self.recvfrom(n)[0][:n]

    read = recv

    def close(self):
        self.came = []
