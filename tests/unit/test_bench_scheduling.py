"""The extender that does nothing, beside which the figure about scheduling measures ours."""

import asyncio

from bench.extender_noop import REPLY, Noop

REQUEST = b"POST /scheduler/prioritize HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nnull"


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))


def test_a_request_is_answered_once_all_of_it_is_there() -> None:
    wire = Wire()
    server = Noop()
    server.connection_made(wire)
    for at in range(len(REQUEST)):
        assert wire.written == []
        server.data_received(REQUEST[at : at + 1])
    assert wire.written == [REPLY]


def test_each_of_several_requests_in_one_piece_is_answered() -> None:
    wire = Wire()
    server = Noop()
    server.connection_made(wire)
    server.data_received(REQUEST * 3)
    assert wire.written == [REPLY] * 3
