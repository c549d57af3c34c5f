"""The loop that acts: what it writes, in which order, how often, and what it does when writing fails.

Time is virtual: the loop's clock jumps from one timer to the next.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from aggregator.cluster.observe import ObserveEdge
from aggregator.config import AggregatorSettings
from aggregator.engine import Engine
from aggregator.fleet import Fleet
from aggregator.journal import Journal
from aggregator.policy.config import PolicyConfig
from aggregator.policy.model import (
    RecordEvent,
    RemoveTaint,
    SaveIncident,
    SetCondition,
    SetTaint,
    Taint,
    kind_of,
)
from aggregator.runtime import Aggregator
from aggregator.stats import AggregatorStats
from aggregator.writes import MAX_PARALLEL_WRITES
from contract import report_pb2 as pb
from contract.codec import finding_to_wire, source_to_wire
from contract.vocabulary import Finding, Phase
from tests.policy_builders import FATAL, START, ScriptedEdge, finding, sources

pytestmark = pytest.mark.looptime(start=0)


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged."""
    with capture_logs() as logged:
        yield logged


class Bench:
    """An engine on a scripted edge, its clock the loop's."""

    def __init__(
        self,
        *,
        tick_seconds: float = 1.0,
        policy: PolicyConfig | None = None,
        edge: ScriptedEdge | None = None,
    ) -> None:
        self.edge = edge or ScriptedEdge()
        self.fleet = Fleet()
        self.journal = Journal()
        self.stats = AggregatorStats()
        self.published: list[tuple[float, set[str]]] = []
        self.pages: list[bytes] = []
        self.engine = Engine(
            fleet=self.fleet,
            edge=self.edge,
            policy=policy or PolicyConfig(),
            journal=self.journal,
            stats=self.stats,
            clock=lambda: START + self.time,
            tick_seconds=tick_seconds,
            publish=self._publish,
        )

    @property
    def time(self) -> float:
        return asyncio.get_running_loop().time()

    def _publish(self, changed: set[str]) -> None:
        self.published.append((self.time, changed))
        self.pages.append(self.engine.metrics)

    def report(self, node: str, *findings: Finding) -> None:
        self.edge.saw(node, pool="a", gpu_capacity=8)
        wire = pb.NodeReport(
            node=node,
            findings=[finding_to_wire(each) for each in findings],
            sources=[source_to_wire(each) for each in sources()],
        )
        self.engine.take_report(wire)

    async def keep_reporting(self, node: str, *findings: Finding, seconds: float) -> None:
        end = self.time + seconds
        while self.time < end:
            self.report(node, *findings)
            await asyncio.sleep(5.0)

    def taint(self, node: str) -> Taint | None:
        return self.edge.view().nodes[node].taint

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """The engine, past its first tick; a failure of it fails the test."""
        task = asyncio.create_task(self.engine.run())
        await asyncio.sleep(0.5)
        try:
            yield task
            assert not task.done() or task.exception() is None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_news_is_answered_at_once_not_at_the_next_tick() -> None:
    bench = Bench(tick_seconds=60.0)
    async with bench.running():
        await asyncio.sleep(10.0)
        bench.report("n", FATAL)
        heard = bench.time
        await asyncio.sleep(0.001)
        assert bench.taint("n") == Taint("xid-79", "NoSchedule")
        assert {time for time, _ in bench.edge.log} == {heard}
        assert len(bench.published) == 1  # the page waits for its tick


async def test_a_changed_cluster_is_answered_at_once() -> None:
    bench = Bench(tick_seconds=60.0)
    async with bench.running():
        bench.report("n", FATAL)
        await asyncio.sleep(1.0)
        await ObserveEdge.apply(bench.edge, RemoveTaint(node="n", reason="a person"))
        bench.engine.cluster_changed()
        await asyncio.sleep(0.001)
        assert bench.taint("n") is not None


async def test_scores_metrics_and_pages_are_made_once_per_tick_whatever_comes_in() -> None:
    bench = Bench()
    async with bench.running():
        for number in range(970):
            bench.report(f"n{number % 7}", *[finding(f"c{number}")])
            await asyncio.sleep(0.01)
    assert [time for time, _ in bench.published] == pytest.approx(range(11), abs=0.02)
    assert len(set(bench.pages)) == 11
    assert bench.published[5][1] == {f"n{number}" for number in range(7)}
    assert set(bench.engine.scores) == {f"n{number}" for number in range(7)}


async def test_without_news_nothing_is_written_and_the_page_lives_on() -> None:
    bench = Bench()
    async with bench.running():
        bench.report("n")
        await asyncio.sleep(1.0)
        written = len(bench.edge.log)
        await asyncio.sleep(20.0)
        assert len(bench.edge.log) == written
        assert len(bench.published) == 22
        assert not bench.published[-1][1]


async def test_who_does_not_lead_writes_nothing_and_catches_up_when_it_does() -> None:
    bench = Bench()
    bench.edge.leading = False
    async with bench.running():
        bench.report("n", FATAL)
        await asyncio.sleep(10.0)
        assert not bench.edge.log
        assert not bench.journal.recent()
        assert not bench.stats.leader
        assert len(bench.published) == 11
        bench.edge.leading = True
        bench.engine.cluster_changed()
        await asyncio.sleep(0.001)
        assert bench.taint("n") is not None
        assert bench.stats.leader


async def test_one_nodes_writes_go_in_order_and_nothing_is_told_before_it_is_done() -> None:
    bench = Bench(tick_seconds=60.0)
    bench.edge.seconds = 0.1
    async with bench.running():
        bench.report("n", FATAL)
        await asyncio.sleep(1.0)
        steps = [(at, kind_of(it)) for at, it in bench.edge.log if not isinstance(it, SetCondition)]
        assert [kind for _, kind in steps] == ["set-taint", "save-incident", "record-event"]
        assert [at for at, _ in steps] == pytest.approx([0.5, 0.6, 0.7])


async def test_many_nodes_are_written_side_by_side_but_not_without_bound() -> None:
    bench = Bench(tick_seconds=60.0)
    bench.edge.seconds = 1.0
    async with bench.running():
        for number in range(100):
            bench.report(f"n{number}")
        await asyncio.sleep(20.0)
        assert bench.edge.most_running == MAX_PARALLEL_WRITES
        assert all(len(node.conditions) == 4 for node in bench.edge.view().nodes.values())


@pytest.mark.parametrize(
    ("kind", "tries"),
    [(SetTaint, 3), (SaveIncident, 3), (RecordEvent, 1), (SetCondition, 4 * 3)],
)
async def test_a_failed_write_is_counted_told_and_tried_again(
    kind: type, tries: int, lines: list[MutableMapping[str, Any]]
) -> None:
    bench = Bench()
    bench.edge.fails = lambda intent: isinstance(intent, kind) and bench.time < 3.0
    async with bench.running():
        await bench.keep_reporting("n", FATAL, seconds=10.0)
        refused = [each for each in bench.journal.recent() if not each.taken]
        assert bench.stats.edge_errors_total == len(refused)
        assert {each.text for each in refused} == {"the API server says no"}
        # An event is told once: if that fails, the incident and the journal still say it.
        assert len(refused) == tries
        assert bench.taint("n") is not None
        (incident,) = bench.edge.view().incidents.values()
        assert incident.phase is Phase.QUARANTINED
        assert bench.stats.incidents_opened_total == 1
        assert len(bench.stats.detect_to_decision.raw) == 1
        assert bench.edge.kinds().count("record-event") == 1
        assert bench.edge.view().nodes["n"].conditions["GPUHealthy"].status == "False"
        warned = [each for each in lines if each["log_level"] == "warning"]
        assert [each["why"] for each in warned] == ["the API server says no"] * tries


async def test_quarantined_is_not_said_while_the_taint_cannot_be_set() -> None:
    bench = Bench()
    bench.edge.fails = lambda intent: isinstance(intent, SetTaint)
    async with bench.running():
        await bench.keep_reporting("n", FATAL, seconds=30.0)
        assert set(bench.edge.kinds()) == {"set-taint"}
        assert 25 <= len(bench.edge.kinds()) <= 40  # once per tick, no more
        assert not bench.edge.view().incidents
        assert bench.edge.view().nodes["n"].conditions["GPUHealthy"].status == "False"


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("n"), OSError("broken pipe")])
async def test_any_other_error_ends_the_loop_loudly(error: Exception) -> None:
    bench = Bench()
    bench.edge.fails, bench.edge.error = lambda intent: True, error
    task = asyncio.create_task(bench.engine.run())
    bench.report("n", FATAL)
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(task, 5.0)
    assert caught.group_contains(type(error))


@pytest.mark.looptime(False)
async def test_and_the_process_ends_with_it() -> None:
    edge = ScriptedEdge()
    edge.fails, edge.error = lambda intent: True, RuntimeError("a bug")
    listen = "127.0.0.1:0"
    aggregator = Aggregator(AggregatorSettings(http_listen=listen, grpc_listen=listen), edge)
    task = asyncio.create_task(aggregator.run())
    await asyncio.wait_for(aggregator.started.wait(), 20.0)
    edge.saw("n", pool="a", gpu_capacity=8)
    aggregator.engine.take_report(pb.NodeReport(node="n", findings=[finding_to_wire(FATAL)]))
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(task, 20.0)
    assert caught.group_contains(RuntimeError, match="a bug")


async def test_a_node_that_falls_silent_is_unknown_and_keeps_its_taint() -> None:
    bench = Bench()
    async with bench.running():
        bench.report("n", FATAL)
        await asyncio.sleep(29.0)
        assert bench.edge.view().nodes["n"].conditions["GPUHealthy"].status == "False"
        await asyncio.sleep(3.0)
        statuses = {each.status for each in bench.edge.view().nodes["n"].conditions.values()}
        assert statuses == {"Unknown"}
        await asyncio.sleep(600.0)
        assert bench.taint("n") is not None
        assert "remove-taint" not in bench.edge.kinds()


async def test_the_silence_of_a_node_is_not_time_in_which_it_was_well() -> None:
    bench = Bench()
    async with bench.running():
        bench.report("n", FATAL)
        await asyncio.sleep(5.0)
        bench.report("n")  # clear, one report long; then nothing for long
        await asyncio.sleep(600.0)
        await bench.keep_reporting("n", seconds=50.0)
        assert bench.taint("n") is not None
        await bench.keep_reporting("n", seconds=20.0)
        assert bench.taint("n") is None


async def test_what_an_earlier_process_said_of_a_node_never_heard_of_becomes_unknown() -> None:
    """Its agent died while no aggregator looked: ``True`` must not stand there for ever."""
    bench = Bench()
    async with bench.running():
        bench.report("n")
        bench.report("also-here")
        await asyncio.sleep(1.0)
    successor = Bench(edge=bench.edge)
    async with successor.running():
        began = successor.time
        while successor.time < began + 28.0:
            successor.report("also-here")
            await asyncio.sleep(5.0)
        assert bench.edge.view().nodes["n"].conditions["GPUHealthy"].status == "True"
        await successor.keep_reporting("also-here", seconds=5.0)
        conditions = bench.edge.view().nodes["n"].conditions
        assert {each.status for each in conditions.values()} == {"Unknown"}
        here = bench.edge.view().nodes["also-here"].conditions
        assert {each.status for each in here.values()} == {"True"}


async def test_a_node_that_left_the_cluster_is_forgotten() -> None:
    bench = Bench()
    async with bench.running():
        bench.report("n")
        bench.report("stays")
        await asyncio.sleep(1.0)
        bench.edge.departed.add("n")
        await asyncio.sleep(2.0)
        assert [node.name for node in bench.fleet] == ["stays"]
        assert any("n" in changed for _, changed in bench.published[-3:])


async def test_what_the_budget_declines_is_journaled_once() -> None:
    bench = Bench()
    async with bench.running():
        for _ in range(5):
            for number in range(3):
                bench.report(f"n{number}", FATAL)
            await asyncio.sleep(5.0)
        declined = [each for each in bench.journal.recent() if each.kind == "declined"]
        assert sorted(each.node for each in declined) == ["n1", "n2"]
        assert not any(each.taken for each in declined)


FLOATS = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf, -1.0, 1e308])
REPORTS = st.builds(
    pb.NodeReport,
    node=st.just("n"),
    urgent=st.booleans(),
    taken_time_seconds=FLOATS,
    findings=st.lists(
        st.builds(
            pb.Finding,
            code=st.text(max_size=5),
            subject=st.text(max_size=5),
            severity=st.integers(-1, 60),
            action=st.integers(-1, 60),
            domain=st.integers(-1, 60),
            since_time_seconds=FLOATS,
            last_seen_time_seconds=FLOATS,
            count=st.integers(0, 2**64 - 1),
        ),
        max_size=4,
    ),
    sources=st.lists(
        st.builds(
            pb.SourceStatus,
            name=st.sampled_from(["nvidia", "host", "", "x"]),
            state=st.integers(-1, 60),
            since_time_seconds=FLOATS,
        ),
        max_size=4,
    ),
    gpus=st.lists(
        st.builds(
            pb.Gpu,
            utilization_ratio=FLOATS,
            duty_cycle_ratio=st.none() | FLOATS,
            power_watts=FLOATS,
            temperature_celsius=FLOATS,
            memory_used_bytes=st.integers(0, 2**64 - 1),
            process_count=st.none() | st.integers(0, 2**32 - 1),
        ),
        max_size=3,
    ),
)


@pytest.mark.looptime(False)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(reports=st.lists(REPORTS, min_size=1, max_size=3))
def test_no_report_that_parses_ends_the_loop(reports: list[pb.NodeReport]) -> None:
    """One node's agent must not be able to stop the care of all others."""

    async def scenario() -> None:
        bench = Bench(tick_seconds=0.001)
        task = asyncio.create_task(bench.engine.run())
        for report in reports:
            bench.edge.saw("n", pool="a", gpu_capacity=len(report.gpus))
            bench.engine.take_report(report)
            await asyncio.sleep(0.002)
        bench.report("healthy", FATAL)
        async with asyncio.timeout(20):
            while not (bench.engine.metrics and (bench.taint("healthy") or bench.taint("n"))):
                assert not task.done(), task.exception()
                await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(scenario())
