"""Writes that take long: they hold up nobody else, and what is under way counts against the budget."""

import asyncio
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from aggregator.engine import Engine
from aggregator.fleet import Fleet
from aggregator.journal import Journal
from aggregator.policy.config import PolicyConfig
from aggregator.policy.model import Intent, SetTaint, Taint
from aggregator.stats import AggregatorStats
from contract import report_pb2 as pb
from contract.codec import finding_to_wire, source_to_wire
from contract.vocabulary import Finding
from tests.policy_builders import FATAL, START, ScriptedEdge, sources

pytestmark = pytest.mark.looptime(start=0)

HARD = Taint("xid-79", "NoSchedule")
SOFT = Taint("xid-79", "PreferNoSchedule")


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged."""
    with capture_logs() as logged:
        yield logged


class SlowFor(ScriptedEdge):
    """An API server that answers about one node only after ten seconds."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self.slow = node

    async def apply(self, intent: Intent) -> None:
        if intent.node == self.slow:
            await asyncio.sleep(10.0)
        await super().apply(intent)


class Bench:
    def __init__(self, edge: ScriptedEdge, policy: PolicyConfig) -> None:
        self.edge = edge
        self.journal = Journal()
        loop = asyncio.get_running_loop()
        self.engine = Engine(
            fleet=Fleet(),
            edge=edge,
            policy=policy,
            journal=self.journal,
            stats=AggregatorStats(),
            clock=lambda: START + loop.time(),
            tick_seconds=1.0,
            publish=lambda changed: None,
        )

    def report(self, node: str, *findings: Finding) -> None:
        self.edge.saw(node, pool="a", gpu_capacity=8)
        self.engine.take_report(
            pb.NodeReport(
                node=node,
                findings=[finding_to_wire(each) for each in findings],
                sources=[source_to_wire(each) for each in sources()],
            )
        )

    def taint(self, node: str) -> Taint | None:
        return self.edge.view().nodes[node].taint

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.engine.run())
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_fault_is_answered_at_once_while_another_nodes_write_hangs() -> None:
    bench = Bench(SlowFor("slow"), PolicyConfig(budget_percent=100.0))
    async with bench.running():
        bench.report("slow", FATAL)
        await asyncio.sleep(0.1)
        bench.report("quick", FATAL)
        await asyncio.sleep(0.001)
        assert bench.taint("quick") == HARD
        assert bench.taint("slow") is None
        await asyncio.sleep(11.0)
        assert bench.taint("slow") == HARD


async def test_a_taint_that_is_still_being_written_counts_against_the_budget() -> None:
    bench = Bench(SlowFor("slow"), PolicyConfig(budget_count=1, budget_percent=100.0))
    async with bench.running():
        bench.report("slow", FATAL)
        await asyncio.sleep(0.1)
        bench.report("quick", FATAL)
        await asyncio.sleep(5.0)
        assert bench.taint("quick") == SOFT, "the one place is taken"
        await asyncio.sleep(10.0)
        assert (bench.taint("slow"), bench.taint("quick")) == (HARD, SOFT)


async def test_nothing_is_decided_twice_about_a_node_whose_writes_are_under_way() -> None:
    bench = Bench(SlowFor("slow"), PolicyConfig())
    async with bench.running():
        for _ in range(9):
            bench.report("slow", FATAL)
            await asyncio.sleep(1.0)
        await asyncio.sleep(60.0)
        taints = [each for _, each in bench.edge.log if isinstance(each, SetTaint)]
        assert len(taints) == 1
        assert bench.journal.counts[("save-incident", True)] == 1
