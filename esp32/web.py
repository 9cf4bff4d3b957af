"""A small HTTP/1.1 server that outlives its clients.

Written for a heap of 100 KB, where what kills a server is never the good request:

- `asyncio.start_server` ends for good at its first MemoryError. This accept loop goes on.
- Every wait has an allowance, which `Server.age` counts down; what has used it up is cancelled.
- Connections, heads and bodies are bounded, and no allocation is larger than a head.
- Head and body go out in one write: in two they cost 40 ms (Nagle's algorithm and delayed ACK).

It knows nothing of pins. A route is (method, path, access, handler). A handler is
`async def handler(request)` and returns JSON text, a dict or a Stream for a 200; everything else is
a Refusal that it raises. `access` is one of the three words below: before a handler runs,
`admit(request, access)` must have let the request pass.
"""

import asyncio
import errno
import gc
import json
import socket
import sys
from asyncio import core

from http1 import BODY_MAX, HEAD_MAX, JSON, Refusal, Stream, last_word, parse_head, response
from micropython import const

PUBLIC = "public"
READ = "read"
CONTROL = "control"

_CONNECTIONS_MAX = const(8)  # of the ten or so sockets that the IP stack of a board has
_BACKLOG = const(8)
_PIECE_MAX = const(512)
_ROOM = const(32)  # words, for what accept makes
_BODY_SMALL = const(512)  # such bodies do not count: all connections together may have one each
_LINGER_MAX = const(65536)
_HOPELESS = const(500)  # failures to let a client in, at least 10 s of nothing else

_HEAD_MS = const(5000)  # from the first byte, or from the connection, to the blank line
_BODY_MS = const(10000)
_HANDLE_MS = const(60000)
_SEND_MS = const(10000)  # for each piece of an answer
_IDLE_MS = const(65000)  # the collector comes at least once a minute
_LINGER_MS = const(1000)
_LOST_MS = const(5000)  # so long after its end a connection is dropped, whatever holds it

# What a connection is doing decides what it means that its allowance is used up.
_IDLE = const(0)
_READING = const(1)
_HANDLING = const(2)
_SENDING = const(3)

_NO_LUCK = (OSError, MemoryError)  # once: to make it in an `except` would take memory

_TOO_SLOW = last_word(408, "the request did not arrive in time")
_TOO_LONG = last_word(503, "the call took too long and was ended")
_NO_MEMORY = last_word(503, "the board is short of memory; try again", "Retry-After: 1\r\n")
_NO_PLACE = last_word(503, "too many connections at once; try again", "Retry-After: 1\r\n")


# To wait for a socket, MicroPython's own streams yield just like this.
def _readable(sock):
    yield core._io_queue.queue_read(sock)


def _writable(sock):
    yield core._io_queue.queue_write(sock)


def _turn_away(sock, last_word):
    """Say why, if that can be said at once, and close."""
    try:
        sock.write(last_word)
        # Bytes that nobody has read would reset the connection, and the client never know why.
        sock.recv(_PIECE_MAX)
    except _NO_LUCK:
        pass
    sock.close()


def failed(error):
    """Say on the console what nobody expected, and keep it for people. Nothing is raised."""
    sys.print_exception(error)
    try:
        gc.collect()
        import crash  # this should never be needed

        crash.keep(error)
    except Exception:
        pass  # the console has it


class _Connection:
    """One client: its socket, what is being done for it, and how long that may still take."""

    def __init__(self, sock):
        self.sock = sock
        self.task = None
        self.rest = b""  # came already, but after the request that is being served
        self.holds = 0  # bytes of a large body
        self.known = False  # whether somebody has logged in here
        self.begin(_READING, _HEAD_MS)

    def begin(self, doing, allowance_ms):
        self.doing = doing
        self.left_ms = allowance_ms

    async def receive(self, size):
        """One to `size` bytes; none when the client has closed."""
        while True:
            try:
                return self.sock.recv(size)
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
            await _readable(self.sock)

    async def read_head(self):
        """The next request's head with its blank line; None when the client is done.

        Nearly always it is what came in one piece, not copied: large pieces are hard to come by.
        """
        data = self.rest.lstrip(b"\r\n")
        while True:
            end = data.find(b"\r\n\r\n")
            if end >= 0:
                end += 4
                self.rest = data[end:]
                return data[:end] if self.rest else data
            if len(data) >= HEAD_MAX:
                raise Refusal(431, f"a request's head may have {HEAD_MAX} bytes at most")
            more = await self.receive(min(_PIECE_MAX, HEAD_MAX - len(data)))
            if not more:
                if data:
                    raise Refusal(400, "the request ended in the middle of its head")
                return None
            if self.doing == _IDLE:
                self.begin(_READING, _HEAD_MS)
            data = data + more if data else more.lstrip(b"\r\n")

    async def read_body(self, length):
        """The `length` bytes after the head, as a list of pieces."""
        pieces = []
        if length and self.rest:
            pieces.append(self.rest[:length])
            self.rest = self.rest[length:]
            length -= len(pieces[0])
        while length:
            piece = await self.receive(min(length, 240))  # small ones are easy to come by
            if not piece:
                raise Refusal(400, f"the body ended {length} bytes before its Content-Length")
            pieces.append(piece)
            length -= len(piece)
        return pieces

    async def send(self, data):
        """Send all of `data`, which nearly always takes one write."""
        self.begin(_SENDING, _SEND_MS)
        while True:
            sent = self.sock.write(data) or 0  # None: the socket takes nothing now
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
            await _writable(self.sock)

    async def send_stream(self, stream, request):
        """Send a Stream: head and first piece in one write, then piece by piece."""
        head = response(
            stream.status, stream.kind, stream.length, request.close, request.header, b""
        )
        try:
            # TCP_NODELAY, or each piece waits for the acknowledgement of the one before: 40 ms.
            self.sock.setsockopt(6, 1, 1)
        except (OSError, ValueError):
            pass
        try:
            for piece in stream.pieces:
                await self.send(head + piece)
                head = b""
        finally:
            stream.pieces.close()

    async def linger(self):
        """Take in, for a moment, what the client still sends.

        To close at once would reset the connection, and the client might never read why.
        """
        self.begin(_IDLE, _LINGER_MS)
        taken = 0
        while taken < _LINGER_MAX:
            data = await self.receive(_PIECE_MAX)
            if not data:
                return
            taken += len(data)

    def say(self, last_word):
        """Send what can be sent at once, whether or not it arrives."""
        try:
            self.sock.write(last_word)
        except OSError:
            return


class Server:
    """Serves `routes` to whom `admit` does not refuse.

    Whoever owns it must call `age` now and then: it ends slow clients.
    """

    def __init__(self, routes, admit):
        self.routes = routes
        self.admit = admit
        self.served = 0  # answers since boot, refusals included
        self.failures = _HOPELESS  # how often in a row a client could not be let in
        self.short = False  # of memory, says the owner: nobody new is let in
        self._connections = [None] * _CONNECTIONS_MAX

    async def serve(self, host, port):
        """Accept clients for ever. To be out of memory or sockets costs a client, not the server."""
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(socket.getaddrinfo(host, port)[0][-1])
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            self.failures = 0
            while True:
                try:
                    await _readable(listener)
                    # Room for what accept makes; without it the socket would be lost for ever. A list that is
                    # cleared gives it back at once: a collection sees old pointers on the stack.
                    ([None] * _ROOM).clear()
                    self._admit(listener.accept()[0])
                    self.failures = 0
                except _NO_LUCK:
                    self.failures += 1
                    gc.collect()
                    self.served += 1  # so that memory is measured
                    await asyncio.sleep_ms(20)
        finally:
            self.failures = _HOPELESS
            listener.close()

    def accepts(self):
        """Whether clients can be let in, as far as one can know."""
        return self.failures < _HOPELESS

    def age(self, elapsed_ms):
        """Take `elapsed_ms` off each allowance, and end the connections that have none left."""
        for index, connection in enumerate(self._connections):
            if connection:
                connection.left_ms -= elapsed_ms
                if connection.left_ms < -_LOST_MS:  # its task got lost: the loop had no memory
                    connection.sock.close()
                    self._connections[index] = None
                elif connection.left_ms < 0:
                    connection.task.cancel()

    def _admit(self, sock):
        """Start to serve a new client, or turn it away: memory is short, or every place is busy."""
        try:
            sock.setblocking(False)
            if self.short:
                _turn_away(sock, _NO_MEMORY)
                return
            place = self._free_place()
            if place is None:
                _turn_away(sock, _NO_PLACE)
                return
            connection = _Connection(sock)
            connection.task = asyncio.create_task(self._converse(connection))
            self._connections[place] = connection
        except MemoryError:
            _turn_away(sock, _NO_MEMORY)
            raise
        except OSError:
            sock.close()
            raise

    def _free_place(self):
        """The place for one more client, if need be that of the one that has idled longest.

        Who has logged in keeps his place, unless all have: strangers, however many, do not cut a
        controller off.
        """
        if None in self._connections:
            return self._connections.index(None)
        all_known = all(connection.known for connection in self._connections)
        idle = [
            connection
            for connection in self._connections
            if connection.doing == _IDLE and connection.known == all_known
        ]
        if not idle:
            return None
        idlest = min(idle, key=lambda connection: connection.left_ms)
        idlest.task.cancel()
        return self._connections.index(idlest)

    def _shed(self):
        """End strangers' requests that do not come at once: their memory is for those that have come.

        One that has had no time yet has perhaps not begun, and what is cancelled then never ends.
        """
        for connection in self._connections:
            if (
                connection
                and connection.doing == _READING
                and connection.left_ms < _HEAD_MS
                and not connection.known
            ):
                connection.task.cancel()

    async def _converse(self, connection):
        """Serve one client, request after request, then close. Lets nothing out."""
        try:
            # To wait here takes half the memory that waiting inside of an exchange does.
            await _readable(connection.sock)
            while await self._exchange(connection):
                connection.holds = 0
                if connection.rest:  # a client that pipelines must not keep the others waiting
                    connection.begin(_READING, _HEAD_MS)
                    await asyncio.sleep_ms(0)
                else:
                    connection.begin(_IDLE, _IDLE_MS)
                    await _readable(connection.sock)
        except asyncio.CancelledError:
            if connection.doing == _READING:
                connection.say(_TOO_SLOW)
            elif connection.doing == _HANDLING:
                connection.say(_TOO_LONG)
        except OSError:
            pass  # the client has gone, as clients do
        except MemoryError:
            if connection.doing == _HANDLING:
                self._shed()
            gc.collect()
            self.served += 1  # so that memory is measured
            if connection.doing != _SENDING:
                connection.say(_NO_MEMORY)
        except Exception as error:
            failed(error)
        finally:
            connection.sock.close()
            if connection in self._connections:
                self._connections[self._connections.index(connection)] = None

    async def _exchange(self, connection):
        """Serve one request; whether the connection may serve another one."""
        try:
            head = await connection.read_head()
            if head is None:
                return False
            request = parse_head(head)
            head = None  # or it would take up room for as long as the body lets wait
            if request.length:
                self._make_room(connection, request.length)
                if request.expects_continue and not connection.rest:
                    await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
                connection.begin(_READING, _BODY_MS)
                request.body = await connection.read_body(request.length)
        except Refusal as refusal:  # where a next request would begin, nobody knows
            await self._refuse(connection, refusal)
            await connection.linger()
            return False
        connection.begin(_HANDLING, _HANDLE_MS)
        try:
            access, handler = self._route(request)
            self.admit(request, access)
            reply = await handler(request)
        except Refusal as refusal:
            await self._refuse(connection, refusal, request)
        except MemoryError:
            raise
        except Exception as error:
            failed(error)
            bug = Refusal(500, f"the firmware failed: {type(error).__name__}")
            await self._refuse(connection, bug, request)
        else:
            self.served += 1
            if isinstance(reply, Stream):
                await connection.send_stream(reply, request)
            else:
                body = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
                head = request.header + request.sign((body,))
                await connection.send(response(200, JSON, len(body), request.close, head, body))
        connection.known = connection.known or bool(request.nonce)
        return not request.close

    def _make_room(self, connection, length):
        """Refuse a body that has no place beside the large ones of others: 8 KB for all of them."""
        if length > _BODY_SMALL:
            if length + sum([other.holds for other in self._connections if other]) > BODY_MAX:
                error = "other large bodies are under way; try again"
                raise Refusal(503, error, None, "Retry-After: 1\r\n")
            connection.holds = length

    async def _refuse(self, connection, refusal, request=None):
        """Answer with an error; without a request, because that could not be read, the last one."""
        self.served += 1
        body = json.dumps(refusal.body).encode()
        length = len(body)
        head = refusal.header
        if request:
            head += request.sign((body,))
            if request.method == b"HEAD":
                body = b""
        close = not request or request.close
        await connection.send(response(refusal.status, JSON, length, close, head, body))

    def _route(self, request):
        """(access, handler) of what is asked for; the 404 or 405 that the table implies."""
        allowed = []
        for method, path, access, handler in self.routes:
            if path == request.path:
                if method == request.method:
                    return access, handler
                allowed.append(method.decode())
        if allowed:
            allowed = ", ".join(allowed)
            error = f"this call understands {allowed} only"
            raise Refusal(405, error, None, f"Allow: {allowed}\r\n")
        calls = ", ".join([path.decode() for _, path, _, _ in self.routes])
        raise Refusal(404, f"there is no such call; there are {calls}")
