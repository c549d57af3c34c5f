"""The least that any extender costs: every request gets the same bytes, unread, all nodes equal. A process of its own.

``python -m bench.extender_noop NODES`` prints two ports and serves until stdin ends: on the first each node gets a number, on the
second none does, which says the same in two bytes.
"""

import asyncio
import sys

import msgspec


class Noop(asyncio.Protocol):
    """One connection of a scheduler.

    Args:
        reply: what every request gets, with its head.
    """

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self._got = bytearray()
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is there to its end."""
        self._got += data
        while (end := self._got.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._got[:end]).lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
            if len(self._got) < end + 4 + length:
                return
            del self._got[: end + 4 + length]
            assert self._transport is not None
            self._transport.write(self._reply)


def node_names(count: int) -> list[str]:
    """Of the fleet that is asked about."""
    return [f"node-{number:04d}" for number in range(count)]


def reply_for(nodes: int) -> bytes:
    """A whole answer to ``prioritize``: the same score for every node."""
    return _reply(msgspec.json.encode([{"Host": name, "Score": 50} for name in node_names(nodes)]))


def empty_reply() -> bytes:
    """An answer that names no node: all are equal."""
    return _reply(b"[]")


def _reply(body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def main() -> None:
    """Serve until stdin ends."""
    loop = asyncio.get_running_loop()
    whole, empty = reply_for(int(sys.argv[1])), empty_reply()
    servers = [
        await loop.create_server(lambda: Noop(whole), "127.0.0.1", 0),
        await loop.create_server(lambda: Noop(empty), "127.0.0.1", 0),
    ]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
