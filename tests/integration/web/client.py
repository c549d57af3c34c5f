"""How these tests speak to the served application: JSON, and server-sent events one by one."""

import asyncio
import json
from typing import Any

from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient

Client = TestClient[web.Request, web.Application]


async def get(client: Client, path: str, status: int = 200) -> Any:
    reply = await client.get(path)
    assert reply.status == status, await reply.text()
    return await reply.json()


class Events:
    """Reads server-sent events one by one."""

    def __init__(self, reply: ClientResponse) -> None:
        self._lines = reply.content

    async def next(self) -> tuple[str, Any]:
        """The next event's name and data; a comment's name is empty; at the end it is ``end``."""
        name, data = "", None
        while line := (await self._lines.readline()).decode():
            if line == "\n" and (name or data):
                return name, data
            key, _, value = line.rstrip("\n").partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                data = json.loads(value)
            elif key == "":
                data = data if line == "\n" else value
        return "end", None

    async def until(self, wanted: str) -> Any:
        """Skip to the next event of a name."""
        async with asyncio.timeout(10):
            while True:
                name, data = await self.next()
                if name == wanted:
                    return data
                assert name != "end", f"the stream ended before {wanted!r}"
