"""The least that any extender costs: every request gets the same bytes, unread, all nodes equal. A process of its own.

``python -m bench.extender_noop NODES`` prints its port and serves until stdin ends.
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
    body = msgspec.json.encode([{"Host": name, "Score": 50} for name in node_names(nodes)])
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def main() -> None:
    """Serve until stdin ends."""
    reply = reply_for(int(sys.argv[1]))
    server = await asyncio.get_running_loop().create_server(lambda: Noop(reply), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
