"""An address that leads to whoever is ready, as a Service does, for tests with more than one aggregator."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.e2e.rig import Rig


class Door:
    """A TCP port that leads where it is told when somebody comes in, as a Service does: what is open stays open."""

    def __init__(self, leads_to: Callable[[], Awaitable[int | None]]) -> None:
        self._leads_to = leads_to
        self._open = True
        self._server: asyncio.Server | None = None
        self._guests: set[asyncio.Task[Any]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._enter, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._server is not None
        self._server.close()
        await self.shut()

    async def shut(self) -> None:
        """Throw everybody out, and let nobody in until ``open``."""
        self._open = False
        guests = list(self._guests)
        for guest in guests:
            guest.cancel()
        await asyncio.gather(*guests, return_exceptions=True)

    def open(self) -> None:
        """Let people in again."""
        self._open = True

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        guest = asyncio.current_task()
        assert guest is not None
        self._guests.add(guest)
        try:
            port = await self._leads_to() if self._open else None
            if port is not None and self._open:
                await self._through(reader, writer, port)
        except (OSError, asyncio.CancelledError):
            pass  # the other side is gone, or the door was shut
        finally:
            self._guests.discard(guest)
            writer.transport.abort()

    async def _through(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
    ) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", port)
        ways = [
            asyncio.create_task(_copy(reader, outer)),
            asyncio.create_task(_copy(inner, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            outer.transport.abort()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


async def status(rig: Rig, path: str) -> int:
    """The status of a GET; 0 where nobody answers."""
    with contextlib.suppress(aiohttp.ClientError):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{rig.http_port}{path}") as response,
        ):
            return response.status
    return 0
