"""The main job on the real control plane: a GPU falls off the bus, its node is quarantined, and released."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from contract.vocabulary import TAINT_KEY
from tests.e2e.rig import Rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox
    from tests.e2e.rig import Node

pytestmark = pytest.mark.cluster

GPU = 3
INCIDENTS = "/apis/fleetmedic.io/v1alpha1/incidents"


@pytest.fixture
async def rig(kwok: ControlPlane, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Rig]:
    async with Rig(sandbox, tmp_path) as started:
        await started.start_aggregator()
        nodes = await asyncio.gather(*(started.add_node(stem) for stem in ("a", "b", "c")))
        await started.reporting(list(nodes))
        yield started


def quarantined(node: Json) -> bool:
    return any(
        taint["key"] == TAINT_KEY and taint["effect"] == "NoSchedule" and taint["value"] == "xid-79"
        for taint in node.get("spec", {}).get("taints", ())
    )


def untainted(node: Json) -> bool:
    return all(taint["key"] != TAINT_KEY for taint in node["spec"].get("taints", ()))


def condition(node: Json, type_: str) -> Json:
    listed = node.get("status", {}).get("conditions", ())
    return next((each for each in listed if each["type"] == type_), {})


async def falls_off_the_bus(rig: Rig, node: Node) -> Json:
    """One GPU stops answering and the kernel says why; returns the node once it is quarantined."""
    node.kernel_says(
        f"NVRM: Xid (PCI:{node.bus(GPU)}): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."
    )
    node.nvml.lose(GPU)
    return await rig.plane.until(
        f"/api/v1/nodes/{node.name}",
        lambda seen: quarantined(seen) and condition(seen, "GPUHealthy").get("status") == "False",
    )


async def comes_back(rig: Rig, node: Node) -> Json:
    """The GPU answers again; returns the node once it is released."""
    node.nvml.restore(GPU)
    return await rig.plane.until(
        f"/api/v1/nodes/{node.name}",
        lambda seen: untainted(seen) and condition(seen, "GPUHealthy").get("status") == "True",
    )


async def incident_of(rig: Rig, node: Node) -> Json | None:
    """The incident about this node; there is never a second one."""
    _, listed = await rig.plane.request("GET", INCIDENTS)
    found: list[Json] = [each for each in listed["items"] if each["spec"]["node"] == node.name]
    assert len(found) <= 1
    return found[0] if found else None


async def incident_in(rig: Rig, node: Node, phase: str) -> Json:
    """The node's one incident, once it is in this phase; the taint is written before it."""
    async with asyncio.timeout(20):
        while True:
            found = await incident_of(rig, node)
            if found and found.get("status", {}).get("phase") == phase:
                return found
            await asyncio.sleep(0.05)


async def event_about(rig: Rig, node: Node, reason: str) -> Json:
    """The Event on this node with this reason; it is written last."""
    path = f"/api/v1/namespaces/default/events?fieldSelector=involvedObject.name={node.name}"
    async with asyncio.timeout(20):
        while True:
            _, events = await rig.plane.request("GET", path)
            found: list[Json] = [each for each in events["items"] if each["reason"] == reason]
            if found:
                return found[0]
            await asyncio.sleep(0.05)


async def test_a_gpu_that_falls_off_the_bus_costs_its_node_the_next_pods_until_it_is_back(
    rig: Rig,
) -> None:
    bad, *good = rig.nodes
    node = await falls_off_the_bus(rig, bad)
    assert condition(node, "GPUHealthy")["reason"] == "Xid79"
    incident = await incident_in(rig, bad, "quarantined")
    codes = {each["code"] for each in incident["status"]["findings"]}
    assert "xid-79" in codes
    await event_about(rig, bad, "Quarantined")

    async with rig.plane.scheduler_with(rig.scheduler_config()):
        for number in range(4):
            await rig.sandbox.pod(f"job-{number}", gpus=4)
        for number in range(4):
            pod = await rig.plane.until(
                rig.sandbox.path("pods", f"job-{number}"),
                lambda seen: seen.get("status", {}).get("phase") == "Running",
            )
            assert pod["spec"]["nodeName"] in {each.name for each in good}
    await rig.counted('fleetmedic_aggregator_extender_requests_total{verb="prioritize"}')

    released = await comes_back(rig, bad)
    assert condition(released, "GPUHealthy")["reason"] == "AllChecksPass"
    closed = await incident_in(rig, bad, "closed")
    assert [each["phase"] for each in closed["status"]["timeline"]][-1] == "closed"
    await event_about(rig, bad, "Released")
    for node_ok in good:
        _, seen = await rig.plane.request("GET", f"/api/v1/nodes/{node_ok.name}")
        assert untainted(seen)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
async def test_an_aggregator_that_dies_between_fault_and_recovery_changes_nothing_about_the_end(
    rig: Rig, sign: signal.Signals
) -> None:
    bad = rig.nodes[0]
    await falls_off_the_bus(rig, bad)
    opened = await incident_in(rig, bad, "quarantined")
    await rig.kill_aggregator(sign)

    bad.nvml.restore(GPU)
    _, orphan = await rig.plane.request("GET", f"/api/v1/nodes/{bad.name}")
    assert quarantined(orphan), "nobody acts while there is no aggregator"
    await rig.start_aggregator()

    await comes_back(rig, bad)
    closed = await incident_in(rig, bad, "closed")
    assert closed["metadata"]["uid"] == opened["metadata"]["uid"]


async def test_an_agent_may_not_speak_for_another_node(rig: Rig) -> None:
    thief, victim = rig.nodes[0], rig.nodes[1]
    assert thief.agent is not None
    await thief.agent.stop()
    thief.nvml.lose(GPU)
    await rig.start_agent(thief, node=victim.name)
    await rig.counted('fleetmedic_aggregator_reports_refused_total{reason="not-your-node"}')
    _, seen = await rig.plane.request("GET", f"/api/v1/nodes/{victim.name}")
    assert untainted(seen)
