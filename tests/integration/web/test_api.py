"""The JSON API: what it says of the fleet, its nodes, incidents and decisions, and of bad questions."""

import pytest
from aiohttp.test_utils import TestClient, TestServer

from aggregator.policy.model import ClusterNode
from aggregator.web.api import create_app
from contract import report_pb2 as pb
from contract.vocabulary import Phase
from tests.integration.web.client import Client, get
from tests.integration.web.world import GPUS, World, incident


async def test_summary(world: World, client: Client) -> None:
    world.lose_gpu("node-1")
    world.nodes["silent"] = ClusterNode(name="silent", gpu_capacity=GPUS)
    world.incidents["old"] = incident("node-2", Phase.CLOSED)
    found = await get(client, "/api/v1/summary")
    assert found["nodes"] == 4
    assert found["nodes_by_health"] == {"healthy": 2, "fatal": 1, "unknown": 1}
    assert found["gpus"] == 3 * GPUS
    assert found["gpus_faulty"] == 1
    assert found["quarantined"] == 1
    assert found["incidents_open"] == 1
    assert found["reporting"] == 3
    assert found["gpu_utilization_ratio"] == 0.5
    assert (found["mode"], found["writes"], found["leading"]) == ("observe", False, True)


async def test_a_silent_node_turns_stale_not_sick(world: World, client: Client) -> None:
    world.now += 31
    world.report("node-2")
    found = await get(client, "/api/v1/summary")
    assert found["nodes_by_health"] == {"stale": 2, "healthy": 1}
    assert found["reporting"] == 1
    assert found["oldest_report_age_seconds"] == 31


async def test_an_empty_fleet(client: Client) -> None:
    async with TestClient(TestServer(create_app(World().deps()))) as empty:
        found = await get(empty, "/api/v1/summary")
        assert (found["nodes"], found["gpu_utilization_ratio"]) == (0, None)
        assert found["newest_report_age_seconds"] is None
        assert (await get(empty, "/api/v1/nodes"))["nodes"] == []


async def test_nodes_whole_and_by_page(world: World, client: Client) -> None:
    whole = await get(client, "/api/v1/nodes")
    assert [each["name"] for each in whole["nodes"]] == ["node-0", "node-1", "node-2"]
    assert len(whole["nodes"][0]["gpus"]) == GPUS
    page = await get(client, "/api/v1/nodes?limit=1&offset=1")
    assert page["total"] == 3
    assert [each["name"] for each in page["nodes"]] == ["node-1"]
    assert (await get(client, "/api/v1/nodes?limit=0"))["nodes"] == []
    assert (await get(client, "/api/v1/nodes?offset=999"))["nodes"] == []


@pytest.mark.parametrize("query", ["limit=x", "limit=-1", "offset=1.5", "limit=", "limit=٣"])
async def test_a_bad_number_is_named(client: Client, query: str) -> None:
    error = (await get(client, f"/api/v1/nodes?{query}", 400))["error"]
    assert query.partition("=")[0] in error


async def test_one_node_whole(world: World, client: Client) -> None:
    world.lose_gpu("node-1")
    found = await get(client, "/api/v1/nodes/node-1")
    assert found["row"]["health"] == "fatal"
    assert found["row"]["standing"] == "quarantined"
    assert found["findings"][0]["severity"] == "fatal"
    assert found["findings"][0]["action"] == "reboot-node"
    assert found["gpus"][3]["health"] == "fatal"
    assert found["gpus"][0]["health"] == "healthy"
    assert found["gpus"][0]["memory_total_bytes"] == 80 << 30
    assert found["host"] == {"cpu_utilization_ratio": 0.25}
    assert found["sources"][0]["state"] == "ok"
    assert found["taint"] == {"code": "gpu-lost", "effect": "NoSchedule"}
    assert found["conditions"]["GPUHealthy"]["status"] == "False"
    assert found["score"] == {"score": 0, "reason": "quarantined: gpu-lost", "verdict": "sick"}
    assert found["incident"]["phase"] == "quarantined"
    assert found["incident"]["timeline"][0]["text"] == "seen"


async def test_a_gpu_is_as_used_as_its_duty_cycle_says(world: World, client: Client) -> None:
    world.report("node-1", use=0.98, duty=0.48)
    world.report("node-2", use=0.98, duty=0.0)
    world.report("node-3", use=0.0, duty=0.25)
    for name, use, idle in (("node-1", 0.48, None), ("node-2", 0.0, True), ("node-3", 0.25, None)):
        row = (await get(client, f"/api/v1/nodes/{name}"))["row"]
        assert row["utilization_ratio"] == use
        assert {each["utilization_ratio"] for each in row["gpus"]} == {use}
        assert {each.get("held_idle") for each in row["gpus"]} == {idle}


async def test_a_node_that_never_reported_is_shown_as_unknown(world: World, client: Client) -> None:
    world.nodes["silent"] = ClusterNode(name="silent", gpu_capacity=GPUS)
    found = await get(client, "/api/v1/nodes/silent")
    assert found["row"]["health"] == "unknown"
    assert found["gpus"] == []


async def test_the_bare_minimum_of_a_node_is_shown(client: Client, world: World) -> None:
    world.fleet.apply(pb.NodeReport(node="bare"), world.now)
    found = await get(client, "/api/v1/nodes/bare")
    assert found["row"] == {
        "name": "bare",
        "pool": "default",
        "health": "healthy",
        "connected": True,
        "received_seconds": world.now,
    }


async def test_unknown_things_are_told_apart_from_errors(client: Client) -> None:
    assert "'nope'" in (await get(client, "/api/v1/nodes/nope", 404))["error"]
    assert (await get(client, "/api/v1/nothing", 404))["error"]
    assert "open, closed or all" in (await get(client, "/api/v1/incidents?state=x", 400))["error"]
    assert (await client.post("/api/v1/nodes")).status == 405


async def test_incidents_open_first(world: World, client: Client) -> None:
    world.incidents = {
        "inc-a": incident("node-0", Phase.CLOSED),
        "inc-b": incident("node-1"),
    }
    found = (await get(client, "/api/v1/incidents"))["incidents"]
    assert [each["node"] for each in found] == ["node-1", "node-0"]
    only = (await get(client, "/api/v1/incidents?state=closed"))["incidents"]
    assert [each["node"] for each in only] == ["node-0"]


async def test_decisions_newest_first(world: World, client: Client) -> None:
    for number in range(5):
        world.decide(f"number {number}")
    found = (await get(client, "/api/v1/decisions?limit=2"))["decisions"]
    assert [each["text"] for each in found] == ["number 4", "number 3"]
    assert (await get(client, "/api/v1/decisions?limit=0"))["decisions"] == []
