"""Drains on the stand-in cluster, in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aggregator.drain.runner import Drains
from aggregator.policy.drain.rules import DrainRules
from aggregator.policy.model import DrainOrder, DrainProgress, DrainState
from tests.fake_workloads import FakeWorkloads
from tests.support import START

HOUR = 3_600.0


def order(node: str = "n1", *, within: float = HOUR, **fields: Any) -> DrainOrder:
    """A drain that starts with the test."""
    given = {
        "attempt": f"drain-{node}",
        "incident": f"incident-{node}",
        "deadline_seconds": START + within,
        "reason": "xid-79 on gpu:0",
    }
    return DrainOrder(**{"node": node, **given, **fields})


class Rig:
    """One process that drains."""

    def __init__(
        self,
        workloads: FakeWorkloads,
        *,
        rules: DrainRules | None = None,
        evictions_per_second: float = 5.0,
        holders: Callable[[str], Mapping[str, tuple[str, ...]] | None] = lambda node: {},
    ) -> None:
        self.workloads = workloads
        self.told: list[DrainProgress] = []
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.drains = Drains(
            workloads=workloads,
            rules=rules or DrainRules(),
            evictions_per_second=evictions_per_second,
            holders=holders,
            wall=lambda: START + loop.time(),
            random=lambda: 0.5,
            on_change=self._on_change,
        )

    def _on_change(self) -> None:
        self.told += self.drains.progress().values()
        self._changed.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Rig"]:
        task = asyncio.create_task(self.drains.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait([task])

    def progress(self, node: str = "n1") -> DrainProgress:
        return self.drains.progress()[node]

    async def until(
        self, holds: Callable[[DrainProgress], bool], *, node: str = "n1", within: float = 2 * HOUR
    ) -> DrainProgress:
        """The first progress of which something holds; in virtual time."""
        async with asyncio.timeout(within):
            while True:
                self._changed.clear()
                now = self.drains.progress().get(node)
                if now is not None and holds(now):
                    return now
                await self._changed.wait()

    async def ended(self, node: str = "n1") -> DrainProgress:
        """Done, or stuck."""
        return await self.until(lambda now: now.state is not DrainState.RUNNING, node=node)

    async def carried(self, *orders: DrainOrder) -> DrainProgress:
        """The end of the first of these."""
        self.drains.carry(orders)
        return await self.ended(orders[0].node)
