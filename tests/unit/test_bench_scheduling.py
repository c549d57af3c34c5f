"""The extender that does nothing, beside which the figure about scheduling measures ours."""

import asyncio

import msgspec

from bench.extender_noop import Noop, empty_reply, node_names, reply_for

REQUEST = b"POST /scheduler/prioritize HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nnull"


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))


def test_every_node_gets_the_same_score() -> None:
    head, _, body = reply_for(3).partition(b"\r\n\r\n")
    hosts = msgspec.json.decode(body)
    assert [each["Host"] for each in hosts] == node_names(3)
    assert len({each["Score"] for each in hosts}) == 1
    assert f"Content-Length: {len(body)}".encode() in head
    assert empty_reply().endswith(b"Content-Length: 2\r\n\r\n[]")


def test_a_request_is_answered_once_all_of_it_is_there() -> None:
    wire = Wire()
    server = Noop(b"reply")
    server.connection_made(wire)
    for at in range(len(REQUEST)):
        assert wire.written == []
        server.data_received(REQUEST[at : at + 1])
    assert wire.written == [b"reply"]


def test_each_of_several_requests_in_one_piece_is_answered() -> None:
    wire = Wire()
    server = Noop(b"reply")
    server.connection_made(wire)
    server.data_received(REQUEST * 3)
    assert wire.written == [b"reply"] * 3
