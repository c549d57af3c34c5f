"""The agent's own small HTTP server: rendered metrics, liveness, the newest snapshot."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from agent.runtime import NodeAgent
from agent.snapshot import readable_snapshot
from contract.process import split_address
from contract.vocabulary import readable

STALE_AFTER_TICKS = 30
"""Ticks without a snapshot after which the process says that it is not alive."""


@asynccontextmanager
async def serving(
    agent: NodeAgent, listen: str, *, sample_seconds: float, clock: Callable[[], float]
) -> AsyncIterator[int]:
    """Serve until the block is left; yields the port really bound."""

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(
            body=agent.metrics, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def health(request: web.Request) -> web.Response:
        age_seconds = clock() - agent.snapshot.taken_seconds
        alive = age_seconds < STALE_AFTER_TICKS * max(1.0, sample_seconds)
        return web.Response(
            status=200 if alive else 503, text=f"snapshot is {age_seconds:.1f} s old\n"
        )

    async def snapshot(request: web.Request) -> web.Response:
        body = msgspec.json.encode(
            {
                "snapshot": readable_snapshot(agent.snapshot),
                "findings": [readable(each) for each in agent.findings],
            }
        )
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.add_routes(
        [web.get("/metrics", metrics), web.get("/healthz", health), web.get("/snapshot", snapshot)]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        host, port = split_address(listen)
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        async with asyncio.timeout(3):
            await runner.cleanup()
