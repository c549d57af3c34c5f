"""The agent's own small HTTP server: rendered metrics, liveness, the newest snapshot.

A simulated fleet has one process for many nodes, and so serves each under ``/nodes/NAME/``, with a list that
Prometheus can discover them by (``http_sd_configs``) under ``/targets``.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web

from agent.runtime import NodeAgent
from contract.metrics import CONTENT_TYPE
from contract.process import split_address

STALE_AFTER_TICKS = 30
"""Ticks without a snapshot after which the process says that it is not alive."""


class Pages:
    """The handlers. They read what the agents hold and never touch hardware."""

    def __init__(
        self, agents: Sequence[NodeAgent], *, sample_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._agents = {agent.node: agent for agent in agents}
        self._only = agents[0] if len(agents) == 1 else None
        self._stale_seconds = STALE_AFTER_TICKS * max(1.0, sample_seconds)
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        """Everything served."""
        return [
            web.get("/healthz", self.health),
            web.get("/targets", self.targets),
            web.get("/metrics", self.metrics),
            web.get("/snapshot", self.snapshot),
            web.get("/nodes/{node}/metrics", self.metrics),
            web.get("/nodes/{node}/snapshot", self.snapshot),
        ]

    async def metrics(self, request: web.Request) -> web.Response:
        """The page rendered at the newest tick."""
        return web.Response(
            body=self._agent(request).metrics, headers={"Content-Type": CONTENT_TYPE}
        )

    async def snapshot(self, request: web.Request) -> web.Response:
        """The newest snapshot and what is wrong with it."""
        content = self._agent(request).readable()
        return web.Response(body=msgspec.json.encode(content), content_type="application/json")

    async def health(self, request: web.Request) -> web.Response:
        """Alive as long as every agent keeps sampling."""
        oldest = min(agent.snapshot.taken_seconds for agent in self._agents.values())
        age_seconds = self._clock() - oldest
        status = 200 if age_seconds < self._stale_seconds else 503
        return web.Response(status=status, text=f"snapshot is {age_seconds:.1f} s old\n")

    async def targets(self, request: web.Request) -> web.Response:
        """Every node's page, in the form of Prometheus' HTTP discovery."""
        groups = [
            {"targets": [request.host], "labels": {"__metrics_path__": f"/nodes/{node}/metrics"}}
            for node in self._agents
        ]
        return web.Response(body=msgspec.json.encode(groups), content_type="application/json")

    def _agent(self, request: web.Request) -> NodeAgent:
        name = request.match_info.get("node")
        agent = self._only if name is None else self._agents.get(name)
        if agent is None:
            raise web.HTTPNotFound(text=f"no node {name or ''!r} here; /targets lists them\n")
        return agent


@asynccontextmanager
async def serving(pages: Pages, listen: str) -> AsyncIterator[int]:
    """Serve until the block is left; yields the port really bound."""
    app = web.Application()
    app.add_routes(pages.routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, *split_address(listen)).start()
        yield runner.addresses[0][1]
    finally:
        async with asyncio.timeout(3):
            await runner.cleanup()
