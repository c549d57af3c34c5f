"""Two aggregators that act, on one Lease, and one ward whose agents follow whoever leads."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from tests.controlplane.proxy import FaultProxy
from tests.e2e.door import Door, status
from tests.e2e.rig import Rig
from tests.e2e.ward import UNTIL_S, Ward

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.process import Process
    from tests.controlplane.sandbox import Sandbox
    from tests.e2e.rig import Node

LEASE = "/apis/coordination.k8s.io/v1/namespaces/fleetmedic/leases/fleetmedic-aggregator"


class Shift:
    """Each aggregator has its own way to the API server, so that each can be kept from its Lease."""

    def __init__(self, ward: Ward, second: Rig, proxies: list[FaultProxy], service: Door) -> None:
        self.ward, self.service, self.proxies = ward, service, proxies
        self.rigs = [ward.rig, second]
        ward.proxies = proxies
        self._standby: asyncio.Task[Process] | None = None

    async def start(self, **settings: str) -> None:
        """Both of them, until the first leads and the other waits."""
        first, second = self.rigs
        ours, theirs = [await self.ward.options(each, **settings) for each in self.proxies]
        await first.start_aggregator(**ours)
        self._standby = asyncio.create_task(second.start_aggregator(**theirs))
        async with asyncio.timeout(UNTIL_S):
            while await status(second, "/healthz") != 200:
                assert not self._standby.done()
                await asyncio.sleep(0.05)

    async def add_node(self, stem: str) -> Node:
        """A node whose agent goes to whoever leads."""
        return await self.ward.add_node(stem, aggregator=f"127.0.0.1:{self.service.port}")

    async def leader(self) -> Rig:
        """Whoever leads now, once somebody does."""
        async with asyncio.timeout(UNTIL_S):
            while True:
                for rig in self.rigs:
                    if await status(rig, "/readyz") == 200:
                        return rig
                await asyncio.sleep(0.05)

    async def kill_leader(self) -> None:
        """Whoever leads is killed without a chance to say goodbye; returns once the other one leads."""
        leader = await self.leader()
        await leader.kill_aggregator(signal.SIGKILL)
        await self._leads(self._other(leader))

    async def contest(self) -> None:
        """Keep whoever leads from its Lease until the other one has it."""
        leader = await self.leader()
        rule = self.proxies[self.rigs.index(leader)].fail(status=500, path=LEASE)
        await self._leads(self._other(leader))
        rule.times = rule.taken

    def _other(self, rig: Rig) -> Rig:
        return next(each for each in self.rigs if each is not rig)

    async def _leads(self, rig: Rig) -> None:
        async with asyncio.timeout(UNTIL_S):
            while await status(rig, "/readyz") != 200:
                await asyncio.sleep(0.05)

    async def end(self) -> None:
        """Whoever has not led by now never will."""
        if self._standby is not None:
            self._standby.cancel()
            await asyncio.gather(self._standby, return_exceptions=True)


@asynccontextmanager
async def shift_of_two(plane: ControlPlane, sandbox: Sandbox, folder: Path) -> AsyncIterator[Shift]:
    """Neither is started yet."""
    async with AsyncExitStack() as stack:
        rigs = [Rig(sandbox, folder), Rig(sandbox, folder / "second")]
        rigs[1].folder.mkdir()

        async def ready_one() -> int | None:
            for rig in rigs:
                if await status(rig, "/readyz") == 200:
                    return rig.grpc_port
            return None

        service = await stack.enter_async_context(Door(ready_one))
        for rig in reversed(rigs):
            await stack.enter_async_context(rig)
        proxies = [await stack.enter_async_context(FaultProxy(plane)) for _ in rigs]
        two = Shift(Ward(rigs[0], proxies[0], folder), rigs[1], proxies, service)
        stack.push_async_callback(two.end)
        yield two
