"""A small, strict HTTP/1.1 server for one purpose: POST requests of a scheduler, answered from memory.

It reads what kube-scheduler and curl send: ``Content-Length`` or chunked bodies, connections that are kept, ``Expect: 100-continue``.
All that a client can make us hold is bounded: the head, the body, all bodies together, connections, and the time that each may take.
"""

import asyncio
from collections.abc import Callable, Collection
from http import HTTPStatus

from aggregator.feeds.extender_request import RefusedError, Request, head_of

Reply = Callable[[bytes], None]
"""Takes the answer, now or later, once."""

Answer = Callable[[str, bytes | bytearray | None, Reply], None]
"""(path, body, reply): answers one request; ``None``: the body was larger than is taken."""

ROOM_BYTES = 256 << 10
"""Read at a time, into one buffer that all connections share; a request about 5,000 nodes fits."""

MAX_HEAD_BYTES = 16 << 10
MAX_CHUNK_LINE_BYTES = 256
MAX_HELD_BYTES = 128 << 20
"""Of all bodies that are being read; one that would go beyond is read and dropped, like one that is too large."""
MAX_UNSENT_BYTES = 128 << 20
"""Of all replies that are not taken yet; beyond it, whoever leaves most of them lying goes."""
MAX_CONNECTIONS = 256
"""With more, the one that is idle for longest goes."""

REQUEST_SECONDS = 10.0
"""From a request's first byte to its last, and as long to take the reply."""
IDLE_SECONDS = 120.0
"""Between two requests; longer than Go's client keeps a connection, so that it is never closed under a request of it."""
SWEEP_SECONDS = 1.0


class Server:
    """What all connections share; ``accept`` makes one for each client.

    Args:
        answer: answers requests.
        paths: those that are served, by POST.
        max_body_bytes: the largest body that is kept.
        keep: whether a connection may be kept after an answer.
    """

    def __init__(
        self,
        answer: Answer,
        paths: Collection[str],
        *,
        max_body_bytes: int,
        keep: Callable[[], bool] = lambda: True,
    ) -> None:
        self.answer = answer
        self.paths = paths
        self.max_body_bytes = max_body_bytes
        self.keep = keep
        self.room = bytearray(ROOM_BYTES)
        """Where what is received lands first; whoever received it has looked at all of it before the next one does."""
        self.held_bytes = 0
        """Of bodies that are being read."""
        self.connections: dict[Connection, None] = {}
        """The one that was heard of longest ago is first."""

    def accept(self) -> "Connection":
        """For ``loop.create_server``."""
        return Connection(self)

    def close_idle(self) -> None:
        """Hang up on everyone who is not waiting for an answer."""
        for connection in list(self.connections):
            connection.close_if_idle()

    def make_room(self) -> None:
        """A client does not take its reply: see that such replies do not pile up."""
        while sum(each.unsent_bytes for each in self.connections) > MAX_UNSENT_BYTES:
            max(self.connections, key=lambda each: each.unsent_bytes).abort()

    async def sweep(self) -> None:
        """Cut off who is too slow, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for connection in list(self.connections):
                connection.check(loop.time())


class Connection(asyncio.BufferedProtocol):
    """One client. Requests are answered one after the other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._got = bytearray()
        """Received, and left for later."""
        self._data = self._got
        self._start, self._stop = 0, 0
        """What is looked at now: this part of ``_data``, which is ``_got`` or the room that all share."""
        self._request: Request | None = None
        """The one whose body is being read."""
        self._answering = False
        self._last = False
        """Whether the connection ends with this answer."""
        self._deadline = self._loop.time() + IDLE_SECONDS

    @property
    def unsent_bytes(self) -> int:
        """Of its reply."""
        return self._transport.get_write_buffer_size() if self._transport else 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody came."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what a stream server makes
        self._transport = transport
        connections = self._server.connections
        connections[self] = None
        if len(connections) > MAX_CONNECTIONS:
            idle = next((each for each in connections if not each._answering), self)
            idle.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """They went."""
        self._server.connections.pop(self, None)
        self._drop_request()
        self._transport = None
        self._got.clear()
        self._start = self._stop = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to put what comes; a view, since asyncio's TLS would write into a copy of anything else."""
        return memoryview(self._server.room)

    def buffer_updated(self, nbytes: int) -> None:
        """Go on reading."""
        if not self._got and self._request is None and not self._answering:
            self._deadline = self._loop.time() + REQUEST_SECONDS
        if self._got:
            self._got += memoryview(self._server.room)[:nbytes]
            self._read_kept()
        else:
            self._data, self._start, self._stop = self._server.room, 0, nbytes
            self._read()

    def eof_received(self) -> bool:
        """They will say no more; an answer that is due is still given."""
        self._last = True
        return self._answering

    def pause_writing(self) -> None:
        """They do not take the reply: no further request is read, and ``check`` ends it."""
        self._answering = True
        self._deadline = self._loop.time() + REQUEST_SECONDS
        self._server.make_room()

    def resume_writing(self) -> None:
        """They took it."""
        if not self._is_open():
            return  # it was the last one, and the time for it runs on
        self._answering = False
        self._rest()

    def close_if_idle(self) -> None:
        """Hang up, where nothing was asked."""
        if self._transport and not self._answering and self._request is None and not self._got:
            self._transport.close()

    def abort(self) -> None:
        """Hang up at once."""
        if self._transport is not None:
            self._transport.abort()

    def check(self, now: float) -> None:
        """Hang up, where it takes too long."""
        if now > self._deadline:
            self.abort()

    def _read_kept(self) -> None:
        """Go on with what was left for later."""
        self._data, self._start, self._stop = self._got, 0, len(self._got)
        self._read()

    def _read(self) -> None:
        try:
            while self._start < self._stop and self._is_open() and not self._answering:
                if self._request is None:
                    self._request = self._head()
                    if self._request is None:
                        break
                if not self._body(self._request):
                    break
                self._ask(self._request)
        except RefusedError as refused:
            self._refuse(refused)
        finally:
            if self._data is self._got:
                del self._got[: self._start]
            else:
                self._got += memoryview(self._data)[self._start : self._stop]
            self._data, self._start, self._stop = self._got, 0, len(self._got)

    def _is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def _head(self) -> Request | None:
        """The next request's head, once all of it is there."""
        head = self._line(b"\r\n\r\n", MAX_HEAD_BYTES)
        if head is None:
            if self._stop - self._start >= MAX_HEAD_BYTES:
                raise RefusedError(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too large"
                )
            return None
        request = Request(said := head_of(head))
        if said.path not in self._server.paths:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"there is {', '.join(self._server.paths)}")
        if said.method != "POST":
            raise RefusedError(HTTPStatus.METHOD_NOT_ALLOWED, "it takes POST")
        if said.expects and self._start == self._stop and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return request

    def _body(self, request: Request) -> bool:
        """Whether all of it is there."""
        if not request.head.chunked:
            self._keep(request)
            return request.left == 0
        while True:
            if request.left:
                self._keep(request)
                if request.left:
                    return False
                request.between = True
            line = self._line(b"\r\n", MAX_CHUNK_LINE_BYTES)
            if line is None:
                if self._stop - self._start >= MAX_CHUNK_LINE_BYTES:
                    raise RefusedError(HTTPStatus.BAD_REQUEST, "a line between chunks is too long")
                return False
            if request.take_chunk_line(line):
                return True

    def _line(self, end: bytes, most: int) -> bytes | None:
        """Up to this end, which is within so many bytes; ``None``: it is not there."""
        found = self._data.find(end, self._start, min(self._stop, self._start + most))
        if found < 0:
            return None
        line = bytes(self._data[self._start : found])
        self._start = found + len(end)
        return line

    def _keep(self, request: Request) -> None:
        """Take what is there of the body, or drop it where that is too large."""
        server = self._server
        count = min(request.left, self._stop - self._start)
        request.left -= count
        fits = len(request.body) + count <= server.max_body_bytes
        if request.kept and (not fits or server.held_bytes + count > MAX_HELD_BYTES):
            server.held_bytes -= len(request.body)
            request.kept, request.body = False, bytearray()
        if request.kept:
            server.held_bytes += count
            request.body += memoryview(self._data)[self._start : self._start + count]
        self._start += count

    def _ask(self, request: Request) -> None:
        self._last = self._last or request.head.last
        body = request.body if request.kept else None
        self._drop_request()
        self._answering = True
        self._deadline = self._loop.time() + REQUEST_SECONDS
        self._server.answer(request.head.path, body, self._reply)
        if self._answering and self._transport is not None:
            self._transport.pause_reading()

    def _drop_request(self) -> None:
        if self._request is not None:
            self._server.held_bytes -= len(self._request.body)
            self._request = None

    def _reply(self, body: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        last = self._last or not self._server.keep()
        head = (
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n"
            % (
                len(body),
                b"Connection: close\r\n" if last else b"",
            )
        )
        self._answering = False
        transport.write(head + body)  # may call pause_writing
        if last:
            transport.close()
        elif not self._answering:
            self._rest()

    def _rest(self) -> None:
        """After an answer: what was sent meanwhile, or nothing."""
        now = self._loop.time()
        self._deadline = now + (REQUEST_SECONDS if self._start < self._stop else IDLE_SECONDS)
        connections = self._server.connections
        if connections.pop(self, self) is None:
            connections[self] = None  # heard of last
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            if self._got:
                self._loop.call_soon(self._read_kept)

    def _refuse(self, refused: RefusedError) -> None:
        transport = self._transport
        if transport is None:
            return
        self._drop_request()
        self._answering = True  # nothing more is read
        words = f"{refused}\n".encode()
        allow = b"Allow: POST\r\n" if refused.status is HTTPStatus.METHOD_NOT_ALLOWED else b""
        transport.write(
            b"HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%sConnection: close\r\n\r\n%s"
            % (refused.status, refused.status.phrase.encode(), len(words), allow, words)
        )
        transport.close()
