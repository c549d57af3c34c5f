"""Carries out drain orders: starts what is asked for, stops what is not any more, and says how they go."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from aggregator.cluster.workloads import Workloads
from aggregator.drain.desk import Desk
from aggregator.drain.node_drain import NodeDrain
from aggregator.drain.survey import Holders, Survey
from aggregator.policy.drain.plan import drain_plan
from aggregator.policy.drain.plan_model import DrainPlan
from aggregator.policy.drain.rules import DrainRules
from aggregator.policy.model import DrainOrder, DrainProgress


class Drains:
    """All drains of this process. One owner: the event loop.

    Args:
        workloads: live reads and evictions.
        rules: what users say.
        evictions_per_second: most evictions, over all nodes.
        holders: node → device → ``namespace/name`` of who holds it; empty: the node does not tell;
            ``None``: its agent was not heard yet.
        wall: Unix time.
        random: 0 ≤ x < 1, for jitter.
        on_change: called when some drain's progress is another one; must not block.
    """

    def __init__(
        self,
        *,
        workloads: Workloads,
        rules: DrainRules,
        evictions_per_second: float,
        holders: Holders,
        wall: Callable[[], float],
        random: Callable[[], float],
        on_change: Callable[[], None],
    ) -> None:
        self._desk = Desk(
            workloads=workloads,
            rules=rules,
            evictions_per_second=evictions_per_second,
            wall=wall,
            random=random,
        )
        self._rate = evictions_per_second
        self._holders = holders
        self._on_change = on_change
        self._drains: dict[str, NodeDrain] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    def carry(self, orders: Sequence[DrainOrder]) -> None:
        """These drains should be going on, and no others. Never blocks; one per node."""
        wanted = {order.node: order for order in orders}
        for node, drain in list(self._drains.items()):
            order = wanted.get(node)
            if order is not None and _same(order, drain.order):
                drain.order = order
                continue
            del self._drains[node]
            if node in self._tasks:
                self._tasks[node].cancel()
        for node, order in wanted.items():
            if node not in self._drains:
                self._drains[node] = self._begin(order)
        self._desk.goes_on(frozenset(order.attempt for order in wanted.values()))
        self._wake.set()

    def progress(self) -> Mapping[str, DrainProgress]:
        """By node, of those that looked at least once."""
        return {
            node: drain.progress
            for node, drain in self._drains.items()
            if drain.progress is not None
        }

    async def plan(self, node: str, subjects: Sequence[str] = ()) -> DrainPlan:
        """What a drain would do now. Only reads.

        Args:
            node: its name.
            subjects: only pods that hold one of these devices; empty: all.

        Raises:
            WorkloadError: something cannot be read.
        """
        facts = await self._survey(node, subjects).facts()
        return drain_plan(
            facts, self._desk.rules, now=self._desk.wall(), evictions_per_second=self._rate
        )

    async def run(self) -> None:
        """Own all tasks until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._reconcile(tasks)

    def _reconcile(self, tasks: asyncio.TaskGroup) -> None:
        """Start what has no task; where the one before is still ending, it is waited for."""
        for node, task in list(self._tasks.items()):
            if task.done() and node not in self._drains:
                del self._tasks[node]
        for node, drain in self._drains.items():
            if not drain.started and (node not in self._tasks or self._tasks[node].done()):
                drain.started = True
                task = tasks.create_task(drain.run(), name=f"drain-{node}")
                task.add_done_callback(lambda _: self._wake.set())
                self._tasks[node] = task

    def _begin(self, order: DrainOrder) -> NodeDrain:
        return NodeDrain(
            order,
            desk=self._desk,
            survey=self._survey(order.node, order.subjects),
            evictions_per_second=self._rate,
            on_change=self._on_change,
        )

    def _survey(self, node: str, subjects: Sequence[str]) -> Survey:
        return Survey(self._desk.workloads, node=node, subjects=subjects, holders=self._holders)


def _same(one: DrainOrder, other: DrainOrder) -> bool:
    """Whether it is the same drain, though perhaps with another deadline."""
    return one.attempt == other.attempt and one.subjects == other.subjects
