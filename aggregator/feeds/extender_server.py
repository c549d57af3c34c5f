"""The extender on a port and in a thread of its own, so that a pod never waits for a round over the whole fleet.

With thousands of nodes a round of decisions takes tens of milliseconds of the loop; a scheduler that asks in that time would
wait for its end, with every pod of the cluster behind it. In a thread of its own a question waits for ``SWITCH_SECONDS``, the time after
which the interpreter lets another thread in, and for what the book of scores is at just then.
"""

import asyncio
import sys
import threading
from typing import Protocol

import structlog
from aiohttp import web

from aggregator.feeds.extender import MAX_BODY_BYTES
from contract.process import split_address

log = structlog.get_logger("extender")

SWITCH_SECONDS = 0.0002
"""Python's default of 5 ms is the whole time that a scheduler may wait."""

STOP_SECONDS = 5.0


class Routed(Protocol):
    """Something that answers requests, as ``Extender`` does."""

    def routes(self) -> list[web.RouteDef]:
        """By path."""


class ExtenderServer:
    """Serves one extender until ``run`` is cancelled."""

    def __init__(self, extender: Routed, listen: str) -> None:
        self._extender = extender
        self._listen = listen
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failed: BaseException | None = None
        self.port = 0
        """The port really bound, once ``started`` is set."""
        self.started = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            OSError: the address cannot be used.
        """
        home = asyncio.get_running_loop()
        ended = asyncio.Event()
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)

        def serve() -> None:
            try:
                asyncio.run(self._serve(home))
            except BaseException as error:  # noqa: BLE001 - told to whoever waits
                self._failed = error
            home.call_soon_threadsafe(ended.set)

        thread = threading.Thread(target=serve, name="extender", daemon=True)
        thread.start()
        try:
            await ended.wait()
        finally:
            sys.setswitchinterval(before)
            if self._loop is not None and self._stop is not None and not ended.is_set():
                self._loop.call_soon_threadsafe(self._stop.set)
                await asyncio.to_thread(thread.join, STOP_SECONDS)
        if self._failed is not None:
            raise self._failed

    async def _serve(self, home: asyncio.AbstractEventLoop) -> None:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes(self._extender.routes())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, *split_address(self._listen)).start()
            self.port = runner.addresses[0][1]
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            home.call_soon_threadsafe(self.started.set)
            await self._stop.wait()
        finally:
            await runner.cleanup()
