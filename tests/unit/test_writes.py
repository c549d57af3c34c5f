"""Writes that take long: they hold up nobody else, and what is under way counts against the budget."""

import asyncio
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from aggregator.cluster import EdgeError
from aggregator.engine import Engine
from aggregator.fleet import Fleet
from aggregator.journal import Journal
from aggregator.policy.config import PolicyConfig
from aggregator.policy.model import Intent, Notify, SaveIncident, SetTaint, Taint
from aggregator.stats import AggregatorStats
from contract import report_pb2 as pb
from contract.codec import finding_to_wire, source_to_wire
from contract.vocabulary import Finding, Phase
from tests.policy_builders import FATAL, START, ScriptedEdge, finding, incident, sources

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

    async def keep_reporting(self, node: str, *findings: Finding) -> None:
        while True:
            self.report(node, *findings)
            await asyncio.sleep(5.0)

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


class HangingWebhook(ScriptedEdge):
    """Whoever should be told takes ten seconds and then nothing."""

    async def apply(self, intent: Intent) -> None:
        if isinstance(intent, Notify):
            await asyncio.sleep(10.0)
            raise EdgeError("the webhook did not answer")
        await super().apply(intent)

    def waiting_for_people(self, names: list[str]) -> None:
        """These nodes' incidents are handed to people, who were not told yet."""
        for name in names:
            known = incident(name, Phase.NEEDS_HUMAN, quarantined_seconds=START)
            self._incidents[known.name] = known
            self._nodes[name] = msgspec.structs.replace(
                self._nodes[name], taint=HARD, quarantined_by=known.name
            )
        self._view = None


async def test_a_webhook_that_hangs_holds_up_no_taint() -> None:
    edge = HangingWebhook()
    names = [f"h{number:03}" for number in range(100)]
    bench = Bench(edge, PolicyConfig(webhook=True, breaker_nodes=0, budget_percent=100))
    async with bench.running():
        for name in names:
            bench.report(name, FATAL)
        edge.waiting_for_people(names)
        bench.engine.cluster_changed()
        await asyncio.sleep(5.0)
        bench.report("sick", finding("another"))
        await asyncio.sleep(0.001)
        assert bench.taint("sick") is not None


class Uneven(ScriptedEdge):
    """An API server that answers sooner about some nodes than about others."""

    async def apply(self, intent: Intent) -> None:
        await asyncio.sleep(0.02 * (1 + int(intent.node[1:])))
        await super().apply(intent)


async def test_a_breaker_that_half_opens_while_nodes_are_written_to_lets_one_through() -> None:
    """That it half opens is written into every waiting incident at once; the answers come one by one."""
    edge = Uneven()
    policy = PolicyConfig(budget_percent=100, budget_count=100)
    bench = Bench(edge, policy)
    async with bench.running(), asyncio.TaskGroup() as tasks:
        agents = [
            tasks.create_task(bench.keep_reporting(f"h{number:03}", FATAL)) for number in range(20)
        ]
        counts = []
        for _ in range(int(policy.breaker_window_seconds) + 60):
            await asyncio.sleep(1.0)
            taints = [each.taint for each in edge.view().nodes.values()]
            counts.append(taints.count(HARD))
        for agent in agents:
            agent.cancel()
    assert (counts[0], counts[-1]) == (0, 1)


async def test_what_is_declined_is_counted_once_however_often_it_cannot_be_written_down() -> None:
    edge = ScriptedEdge()
    edge.fails = lambda intent: isinstance(intent, SaveIncident)
    bench = Bench(edge, PolicyConfig(budget_count=1))
    async with bench.running():
        for _ in range(12):
            bench.report("one", FATAL)
            bench.report("two", FATAL)
            await asyncio.sleep(5.0)
        assert bench.journal.counts[("declined", False)] == 1
