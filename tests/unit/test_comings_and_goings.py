"""Nodes that leave the cluster, and leaders that lead again: what was known before must not decide now."""

import asyncio
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from aggregator.engine import Engine
from aggregator.fleet import Fleet
from aggregator.journal import Journal
from aggregator.policy.config import PolicyConfig
from aggregator.stats import AggregatorStats
from contract import report_pb2 as pb
from contract.codec import source_to_wire
from contract.vocabulary import Phase
from tests.policy_builders import FATAL, START, ScriptedEdge, incident, one_node, sources


@pytest.fixture(autouse=True)
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged."""
    with capture_logs() as logged:
        yield logged


def test_the_incident_of_a_node_that_left_the_cluster_is_closed_and_nothing_else_is_written() -> (
    None
):
    world = one_node(FATAL)
    world.round()
    (name,) = world.nodes
    left = world.only_incident(name)
    del world.nodes[name]
    decision = world.round(1.0)
    (written,) = decision.intents
    assert written.reason == "closed: the node left the cluster"
    assert world.incidents[left.name].phase is Phase.CLOSED
    assert world.round(1.0).intents == ()


def test_a_person_who_holds_the_incident_of_a_departed_node_keeps_it() -> None:
    world = one_node()
    kept = incident("gone", hold=True)
    world.incidents[kept.name] = kept
    assert world.round().intents == ()


@pytest.mark.looptime(start=0)
async def test_a_leader_that_leads_again_waits_for_its_agents_instead_of_calling_them_silent() -> (
    None
):
    edge, fleet, loop = ScriptedEdge(), Fleet(), asyncio.get_running_loop()
    engine = Engine(
        fleet=fleet,
        edge=edge,
        policy=PolicyConfig(silent_after_seconds=30.0),
        journal=Journal(),
        stats=AggregatorStats(),
        clock=lambda: START + loop.time(),
        tick_seconds=1.0,
        publish=lambda changed: None,
    )
    task = asyncio.create_task(engine.run())
    try:
        edge.saw("n", pool="a", gpu_capacity=8)
        engine.take_report(
            pb.NodeReport(node="n", sources=[source_to_wire(each) for each in sources()])
        )
        await asyncio.sleep(2)
        edge.leading = False
        engine.node_left("n")  # a deposed leader lets its agents go
        await asyncio.sleep(300)
        edge.leading = True
        await asyncio.sleep(20)
        stated = edge.view().nodes["n"].conditions
        assert {each.status for each in stated.values()} == {"True"}
        await asyncio.sleep(20)
        stated = edge.view().nodes["n"].conditions
        assert {each.status for each in stated.values()} == {"Unknown"}, "it never came back"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
