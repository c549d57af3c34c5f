"""The extender's own HTTP server: what a scheduler sends is read, what is ambiguous is refused, and nobody can hold it up."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feeds import extender_http, extender_request
from aggregator.feeds.extender_http import Reply, Server
from aggregator.feeds.extender_request import MAX_HEADERS, Head, RefusedError, head_of

PATH = "/scheduler/prioritize"
MAX_BODY = 1_000


class Bench:
    """A server that answers with what it was asked, and says so."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.port = port
        self.asked: list[bytes | None] = []
        self.held: list[Reply] = []
        """Answers that are not given yet, where ``patient``."""
        self.patient = False
        self.leading = True

    def answer(self, path: str, body: bytes | bytearray | None, reply: Reply) -> None:
        self.asked.append(None if body is None else bytes(body))
        if self.patient:
            self.held.append(reply)
        else:
            reply(json.dumps({"asked": len(self.asked)}).encode())

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def say(self, *parts: bytes) -> bytes:
        """Everything that comes back on one connection, until it is closed by the server."""
        reader, writer = await self.connect()
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        writer.write_eof()
        async with asyncio.timeout(10):
            said = await reader.read()
        writer.close()
        return said


@asynccontextmanager
async def serving() -> AsyncIterator[Bench]:
    box: list[Bench] = []
    server = Server(
        lambda path, body, reply: box[0].answer(path, body, reply),
        [PATH],
        max_body_bytes=MAX_BODY,
        keep=lambda: box[0].leading,
    )
    listening = await asyncio.get_running_loop().create_server(server.accept, "127.0.0.1", 0)
    box.append(Bench(server, listening.sockets[0].getsockname()[1]))
    try:
        yield box[0]
    finally:
        listening.close()
        for each in list(server.connections):
            each.abort()
        await asyncio.sleep(0)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with serving() as one:
        yield one


def post(
    body: bytes, *headers: str, path: str = PATH, method: str = "POST", version: str = "1.1"
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def sized(body: bytes, *headers: str) -> bytes:
    return post(body, f"Content-Length: {len(body)}", *headers)


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    parts = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks)
    return post(parts + end, "Transfer-Encoding: chunked")


GO = b"POST /scheduler/prioritize HTTP/1.1\r\nHost: 127.0.0.1:8081\r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: 4\r\nContent-Type: application/json\r\nAccept-Encoding: gzip\r\n\r\nnull"


async def test_what_go_sends_is_answered_on_a_connection_that_is_kept(bench: Bench) -> None:
    reader, writer = await bench.connect()
    for number in range(3):
        writer.write(GO)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Type: application/json\r\n" in head
        assert b"Connection" not in head
        assert await reader.readexactly(12 if number < 9 else 13) == b'{"asked": %d}' % (number + 1)
    writer.close()
    assert bench.asked == [b"null"] * 3


async def test_a_request_may_come_in_any_pieces(bench: Bench) -> None:
    whole = sized(b'{"a": 1}')
    await bench.say(*(whole[at : at + 1] for at in range(len(whole))))
    long = chunked(b"one", b"two", end=b"0\r\nTrailer: x\r\n\r\n")
    await bench.say(*(long[at : at + 1] for at in range(len(long))))
    await bench.say(sized(b"x") + sized(b"y"))
    assert bench.asked == [b'{"a": 1}', b"onetwo", b"x", b"y"]


async def test_curl_waits_to_be_told_to_go_on_with_a_large_body(bench: Bench) -> None:
    reader, writer = await bench.connect()
    writer.write(post(b"", "Content-Length: 3", "Expect: 100-continue"))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    assert bench.asked == [b"abc"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(b"", method="GET"), 405),
        (post(b"", path="/"), 404),
        (post(b"", path="/scheduler/filter/../x"), 404),
        (post(b"", path="/" + "x" * 2_000), 400),
        (post(b"", version="2.0"), 400),
        (post(b"", "Content-Length: 1", "Content-Length: 1"), 400),
        (post(b"", "Content-Length: 1", "Content-Length: 2"), 400),
        (post(b"", "Content-Length: 1, 1"), 400),
        (post(b"", "Content-Length: +1"), 400),
        (post(b"", "Content-Length: -1"), 400),
        (post(b"", "Content-Length: 0x1"), 400),
        (post(b"", "Content-Length: 1" + "0" * 30), 400),
        (post(b"", "Content-Length:"), 400),
        (post(b"", "Content-Length : 1"), 400),
        (post(b"0\r\n\r\n", "Content-Length: 5", "Transfer-Encoding: chunked"), 400),
        (post(b"0\r\n\r\n", "Transfer-Encoding: chunked", version="1.0"), 400),
        (post(b"0\r\n\r\n", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
        (post(b"0\r\n\r\n", "Transfer-Encoding: chunked, chunked"), 501),
        (post(b"0\r\n\r\n", "Transfer-Encoding: identity"), 501),
        (post(b"0\r\n\r\n", "Transfer-Encoding: \x0bchunked"), 400),
        (post(b"g\r\n\r\n", "Transfer-Encoding: chunked"), 400),
        (post(b"-1\r\n\r\n", "Transfer-Encoding: chunked"), 400),
        (post(b"1\r\nab\r\n0\r\n\r\n", "Transfer-Encoding: chunked"), 400),
        (post(b"1" * 9 + b"\r\n", "Transfer-Encoding: chunked"), 400),
        (post(b"1;" + b"x" * 300, "Transfer-Encoding: chunked"), 400),
        (post(b"", "Expect: a-miracle"), 417),
        (post(b"", "X: a", " folded: b"), 400),
        (post(b"", "no-colon"), 400),
        (post(b"", ": no name"), 400),
        (post(b"", "X: a\nY: b"), 400),
        (post(b"", "X: a\rY: b"), 400),
        (post(b"", "X: \x00"), 400),
        (post(b"", "Host: y"), 400),
        (b"POST /scheduler/prioritize HTTP/1.1\r\n\r\n", 400),
        (b"POST  /scheduler/prioritize HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST http://x/scheduler/prioritize HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\r\n\r\nPOST / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (post(b"", *(f"X-{number}: x" for number in range(MAX_HEADERS + 1))), 431),
        (post(b"", "X: " + "x" * 20_000), 431),
        (b"POST /" + b"x" * 20_000, 431),
    ],
)  # fmt: skip
async def test_what_is_ambiguous_or_not_ours_is_refused_and_the_connection_closed(
    bench: Bench, request_: bytes, status: int
) -> None:
    said = await bench.say(request_ + GO)
    assert said.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close\r\n" in said
    assert said.count(b"\r\n\r\n") == 1, "what follows a bad request is not read as another one"
    assert bench.asked == []
    assert bench.server.held_bytes == 0


async def test_a_body_that_is_too_large_is_not_kept_and_answered_as_such(bench: Bench) -> None:
    big = b"x" * (MAX_BODY + 1)
    for request_ in (sized(big), chunked(*[b"x" * 100] * 11)):
        said = await bench.say(request_ + GO)
        assert said.count(b"HTTP/1.1 200 OK") == 2
    assert bench.asked == [None, b"null"] * 2
    assert bench.server.held_bytes == 0


@pytest.mark.parametrize("flood", [b"1\r\nx\r\n", b"0\r\n" + b"a: b\r\n"])
async def test_a_body_in_countless_pieces_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, flood: bytes
) -> None:
    monkeypatch.setattr(extender_request, "MAX_CHUNK_LINES", 100)
    start, more = flood, flood[-6:]
    said = await bench.say(post(start + more * 100, "Transfer-Encoding: chunked"))
    assert said.startswith(b"HTTP/1.1 400 ")
    assert bench.asked == []
    assert bench.server.held_bytes == 0


async def test_what_all_hold_together_is_bounded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extender_http, "MAX_HELD_BYTES", 1_500)
    _, first = await bench.connect()
    first.write(post(b"x" * 900, "Content-Length: 1000"))
    await until(lambda: bench.server.held_bytes == 900)
    await bench.say(sized(b"y" * 1_000))
    assert bench.asked == [None]
    first.write(b"x" * 100)
    await until(lambda: len(bench.asked) == 2)
    assert bench.asked == [None, b"x" * 1_000]
    first.close()
    assert bench.server.held_bytes == 0


async def test_half_a_request_of_somebody_who_goes_leaves_nothing_behind(bench: Bench) -> None:
    for part in (b"", b"PO", GO[:60], GO[:-1], chunked(b"abc")[:-6]):
        assert await bench.say(part) == b""
    await until(lambda: not bench.server.connections)
    assert (bench.asked, bench.server.held_bytes) == ([], 0)


async def test_who_says_no_more_still_gets_the_answer(bench: Bench) -> None:
    bench.patient = True
    said = asyncio.create_task(bench.say(GO))
    await until(lambda: bool(bench.held))
    bench.held[0](b"[]")
    assert (await said).endswith(b"\r\n\r\n[]")


async def test_an_answer_that_comes_late_finds_its_own_question(bench: Bench) -> None:
    bench.patient = True
    reader, writer = await bench.connect()
    writer.write(sized(b"first") + sized(b"second"))
    await until(lambda: bool(bench.held))
    assert bench.asked == [b"first"], "one after the other"
    bench.held[0](b"[1]")
    await until(lambda: len(bench.held) == 2)
    bench.held[1](b"[2]")
    head = await reader.readuntil(b"[1]")
    assert b"200 OK" in head
    assert (await reader.readuntil(b"[2]")).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    await until(lambda: not bench.server.connections)
    bench.held[1](b"[3]")  # nobody is there any more


@pytest.mark.parametrize(
    ("request_", "closes"),
    [
        (GO, False),
        (sized(b"x", "Connection: keep-alive"), False),
        (sized(b"x", "Connection: close"), True),
        (sized(b"x", "Connection: Upgrade, Close"), True),
        (post(b"x", "Content-Length: 1", version="1.0"), True),
    ],
)
async def test_a_connection_is_kept_unless_the_client_says_otherwise(
    bench: Bench, request_: bytes, closes: bool
) -> None:
    reader, writer = await bench.connect()
    writer.write(request_ + GO if closes else request_)
    head = await reader.readuntil(b"\r\n\r\n")
    assert (b"Connection: close" in head) is closes
    if closes:
        await reader.read()
        assert len(bench.asked) == 1, "what follows the last request is not asked"
    else:
        writer.write(GO)
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def test_without_the_lead_each_answer_is_the_connections_last_and_idle_ones_are_closed(
    bench: Bench,
) -> None:
    idle, writer = await bench.connect()
    writer.write(GO)
    await idle.readuntil(b"}")
    bench.leading = False
    bench.server.close_idle()
    assert await idle.read() == b""
    writer.close()
    said = await bench.say(GO + GO)
    assert said.count(b"200 OK") == 1
    assert b"Connection: close\r\n" in said


async def test_who_is_too_slow_is_cut_off_and_who_is_idle_is_not(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    (slow, slow_writer), (idle, idle_writer) = await bench.connect(), await bench.connect()
    slow_writer.write(GO[:-1])
    idle_writer.write(GO)
    await idle.readuntil(b"}")
    await until(lambda: len(bench.server.connections) == 2)
    for each in list(bench.server.connections):
        each.check(loop.time() + extender_http.REQUEST_SECONDS + 1)
    assert await read_or_reset(slow) == b""
    idle_writer.write(GO)
    assert b"200 OK" in await idle.readuntil(b"\r\n\r\n")
    for each in list(bench.server.connections):
        each.check(loop.time() + extender_http.IDLE_SECONDS + 1)
    await read_or_reset(idle)
    slow_writer.close()
    idle_writer.close()


async def test_who_takes_no_answer_is_not_asked_for_more_and_cut_off(bench: Bench) -> None:
    bench.patient = True
    _, writer = await bench.connect()
    writer.write(GO * 2)
    await until(lambda: bool(bench.held))
    bench.held[0](b"x" * (32 << 20))
    [connection] = bench.server.connections
    await asyncio.sleep(0.01)
    assert len(bench.held) == 1
    connection.check(asyncio.get_running_loop().time() + extender_http.REQUEST_SECONDS + 1)
    await until(lambda: not bench.server.connections)
    writer.close()


async def test_replies_that_nobody_takes_do_not_pile_up(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extender_http, "MAX_UNSENT_BYTES", 64 << 20)
    bench.patient = True
    clients = []
    for number, mebibytes in enumerate((24, 40, 24), start=1):
        clients.append(await bench.connect())
        clients[-1][1].write(GO)
        await until(lambda number=number: len(bench.held) == number)  # type: ignore[misc]
        bench.held[-1](b"x" * (mebibytes << 20))
    await until(lambda: len(bench.server.connections) == 2)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await clients[1][0].readexactly(40 << 20)
    clients[1][1].close()
    for reader, writer in (clients[0], clients[2]):
        await reader.readuntil(b"\r\n\r\n")
        assert len(await reader.readexactly(24 << 20)) == 24 << 20
        writer.close()


async def test_with_too_many_connections_the_one_idle_for_longest_goes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extender_http, "MAX_CONNECTIONS", 3)
    clients = []
    for _ in range(3):
        reader, writer = await bench.connect()
        clients.append((reader, writer))
        writer.write(GO)
        await reader.readuntil(b"}")
    clients[0][1].write(GO)
    await clients[0][0].readuntil(b"}")
    clients.append(await bench.connect())
    assert await read_or_reset(clients[1][0]) == b""
    clients[0][1].write(GO)
    assert b"200 OK" in await clients[0][0].readuntil(b"\r\n\r\n")
    for _, writer in clients:
        writer.close()


heads = st.one_of(
    st.binary(max_size=60),
    st.lists(
        st.sampled_from(
            [b"Host: x", b"Content-Length: 3", b"Content-Length:3", b"Content-Length: 3 ", b"Content-Length: -3", b"Transfer-Encoding: chunked", b"Expect: x", b"a:b", b" c", b"\t", b""]
        ),
        max_size=5,
    ).map(lambda lines: b"\r\n".join([b"POST / HTTP/1.1", *lines])),
)  # fmt: skip


def understood(head: bytes) -> Head | HTTPStatus:
    try:
        return head_of(head)
    except RefusedError as refused:
        return refused.status


@given(heads)
def test_any_head_is_read_in_one_way_or_refused(head: bytes) -> None:
    said = understood(head)
    if isinstance(said, HTTPStatus):
        assert said in (400, 417, 431, 501)
        return
    assert head.startswith(b"POST ")
    assert not (said.chunked and said.length)
    assert head.lower().count(b"content-length:") + head.lower().count(b"transfer-encoding:") <= 1


@given(heads)
def test_a_head_that_is_remembered_but_for_its_length_says_the_same(head: bytes) -> None:
    otherwise_written = head.replace(b"Content-Length", b"content-length")
    assert understood(head) == understood(otherwise_written)
    another = head.replace(b"Content-Length: 3", b"Content-Length: 0042", 1)
    if another != head and isinstance(said := understood(head), Head):
        assert understood(another) == said._replace(length=42)


@pytest.mark.parametrize("length", [b"Content-Length: 3", b"content-length: 3"])
def test_a_head_may_have_so_many_headers_however_its_length_is_written(length: bytes) -> None:
    others = [b"X%d: y" % number for number in range(MAX_HEADERS - 2)]
    lines = [b"POST / HTTP/1.1", b"Host: x", length, *others]
    assert understood(b"\r\n".join(lines)) == Head("POST", "/", 3, False, False, False)
    assert understood(b"\r\n".join([*lines, b"Z: y"])) == 431


def test_a_head_of_blanks_costs_no_time() -> None:
    with pytest.raises(RefusedError):
        head_of(b"POST / HTTP/1.1\r\nHost: x\r\nX:" + b" " * 16_000 + b"\x00")


@pytest.mark.parametrize("at", range(0, len(GO), 7))
async def test_two_requests_split_anywhere_are_two(bench: Bench, at: int) -> None:
    said = await bench.say((GO + GO)[:at], (GO + GO)[at:])
    assert said.count(b"200 OK") == 2


async def test_who_does_not_take_the_last_reply_gets_no_time_to_be_idle() -> None:
    class Closing(asyncio.Transport):
        def is_closing(self) -> bool:
            return True

        def get_write_buffer_size(self) -> int:
            return 1

    connection = Server(lambda path, body, reply: None, [PATH], max_body_bytes=1).accept()
    connection.connection_made(Closing())
    connection.pause_writing()
    due = connection._deadline
    connection.resume_writing()
    assert connection._deadline == due


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


async def read_or_reset(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionResetError:
        return b""
