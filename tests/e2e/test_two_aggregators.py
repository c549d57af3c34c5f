"""Two aggregators on the real API server: one acts, the other takes over, and the cluster sees no seam."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.e2e.door import Door, status
from tests.e2e.rig import Rig
from tests.e2e.test_fault_to_release import (
    comes_back,
    falls_off_the_bus,
    incident_in,
    incident_of,
    quarantined,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox
    from tests.e2e.rig import Node

pytestmark = pytest.mark.cluster


class Pair:
    """Two aggregators, a Service in front of them, and a way to the API server that can be cut for the first."""

    def __init__(self, first: Rig, second: Rig, service: Door, api: Door) -> None:
        self.first, self.second, self.service, self.api = first, second, service, api

    @property
    def nodes(self) -> list[Node]:
        return self.first.nodes

    async def standby(self) -> asyncio.Task[Any]:
        """Start the second aggregator; the task ends once it leads."""
        task = asyncio.create_task(self.second.start_aggregator())
        async with asyncio.timeout(20):
            while await status(self.second, "/healthz") != 200:
                assert not task.done()
                await asyncio.sleep(0.05)
        return task

    async def followed(self, leader: Rig) -> None:
        """Wait until every agent reports to this aggregator."""
        names = {node.name for node in self.nodes}
        async with asyncio.timeout(30):
            while True:
                listed = (await leader.get("/api/v1/nodes"))["nodes"]
                if names <= {each["name"] for each in listed if each.get("connected")}:
                    return
                await asyncio.sleep(0.05)


@pytest.fixture
async def pair(kwok: ControlPlane, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Pair]:
    first, second = Rig(sandbox, tmp_path / "1"), Rig(sandbox, tmp_path / "2")

    async def ready_one() -> int | None:
        for rig in (first, second):
            if await status(rig, "/readyz") == 200:
                return rig.grpc_port
        return None

    async def apiserver() -> int:
        return int(kwok.url.rpartition(":")[2])

    async with Door(ready_one) as service, Door(apiserver) as api, second, first:
        (tmp_path / "2").mkdir()
        nodes = await start(first, api, service)
        await first.reporting(nodes)
        yield Pair(first, second, service, api)


async def start(first: Rig, api: Door, service: Door) -> list[Node]:
    """The first aggregator behind its own way to the API server, and two nodes that report to the Service."""
    first.folder.mkdir()
    detour = first.folder / "detour.kubeconfig"
    usual = first.plane.write_kubeconfig("cut-off", token=await first.aggregator_token())
    content = yaml.safe_load(usual.read_text())
    for cluster in content["clusters"]:
        cluster["cluster"]["server"] = f"https://127.0.0.1:{api.port}"
    detour.write_text(yaml.safe_dump(content))
    await first.start_aggregator(kubeconfig=str(detour))
    agents = f"127.0.0.1:{service.port}"
    return [await first.add_node(stem, aggregator=agents) for stem in ("a", "b")]


async def quarantine_events(rig: Rig, node: Node) -> list[int]:
    """How often each Quarantined event about this node was counted."""
    _, events = await rig.plane.request(
        "GET", f"/api/v1/namespaces/default/events?fieldSelector=involvedObject.name={node.name}"
    )
    return [each["count"] for each in events["items"] if each["reason"] == "Quarantined"]


async def said_once(rig: Rig, node: Node) -> None:
    """Wait until there is the Quarantined event about this node."""
    async with asyncio.timeout(10):
        while await quarantine_events(rig, node) != [1]:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
async def test_the_standby_takes_over_with_the_same_incident_and_nothing_said_twice(
    pair: Pair, sign: signal.Signals
) -> None:
    bad = pair.nodes[0]
    takeover = await pair.standby()
    assert await status(pair.second, "/readyz") == 503, "only the leader is ready"
    await falls_off_the_bus(pair.first, bad)
    await said_once(pair.first, bad)  # after the incident: who dies in between says nothing
    opened = await incident_in(pair.first, bad, "quarantined")

    await pair.first.kill_aggregator(sign)
    await takeover
    await pair.followed(pair.second)
    _, seen = await pair.second.plane.request("GET", f"/api/v1/nodes/{bad.name}")
    assert quarantined(seen), "the node stays out of service"
    same = await incident_of(pair.second, bad)
    assert same is not None
    assert same["metadata"]["uid"] == opened["metadata"]["uid"]
    assert await quarantine_events(pair.second, bad) == [1]

    await comes_back(pair.second, bad)
    closed = await incident_in(pair.second, bad, "closed")
    assert closed["metadata"]["uid"] == opened["metadata"]["uid"]


async def test_a_leader_cut_off_from_the_api_server_lets_its_agents_go_and_may_lead_again(
    pair: Pair,
) -> None:
    bad = pair.nodes[0]
    takeover = await pair.standby()
    await pair.api.shut()
    await takeover
    await pair.followed(pair.second)
    assert await status(pair.first, "/healthz") == 200
    assert await status(pair.first, "/readyz") == 503
    await falls_off_the_bus(pair.second, bad)
    await said_once(pair.second, bad)
    await incident_in(pair.second, bad, "quarantined")

    pair.api.open()
    await pair.second.kill_aggregator(signal.SIGTERM)
    assert pair.first.aggregator is not None
    await pair.first.aggregator.ready(pair.first._is_ready, timeout_s=30)
    await pair.followed(pair.first)
    await comes_back(pair.first, bad)
    await incident_in(pair.first, bad, "closed")
    assert await quarantine_events(pair.first, bad) == [1]


async def test_an_api_server_that_restarts_costs_the_leader_its_place_for_a_moment_only(
    pair: Pair,
) -> None:
    bad = pair.nodes[0]
    plane = pair.first.plane
    assert pair.first.aggregator is not None
    await plane.kill_apiserver()
    async with asyncio.timeout(20):
        while await status(pair.first, "/readyz") != 503:
            await asyncio.sleep(0.05)
    await plane.start_apiserver()
    await pair.first.aggregator.ready(pair.first._is_ready, timeout_s=30)
    await falls_off_the_bus(pair.first, bad)
    await comes_back(pair.first, bad)
    await incident_in(pair.first, bad, "closed")
