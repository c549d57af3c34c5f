"""The API's answers to why a node stands as it does, and what a drain of it would do now."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
from aiohttp.test_utils import TestClient, TestServer

from aggregator.cluster.workloads import WorkloadError
from aggregator.policy.model import ClusterNode
from aggregator.web.api import create_app
from aggregator.web.explained import MAX_PLANS, MAX_SUBJECTS
from contract.vocabulary import Phase
from tests.integration.web.client import Client, get
from tests.integration.web.world import NOW, World, incident

WHY = "/api/v1/nodes/node-1/explain"
PLAN = "/api/v1/nodes/node-1/plan"


class Planner:
    """Plans as the drain makes them; a test can hold it up or make it fail."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Sequence[str]]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.error: Exception | None = None

    async def __call__(self, node: str, subjects: Sequence[str]) -> Mapping[str, object]:
        self.asked.append((node, tuple(subjects)))
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return {"executable": True, "pods": [], "gangs": [], "seconds_at_most": 0.0}


async def test_a_node_under_drain_is_explained_whole(world: World, client: Client) -> None:
    world.mode = "kubernetes"
    world.drain("node-1")
    found = await get(client, WHY)
    assert (found["incident"], found["phase"]) == ("inc-node-1", "draining")
    assert found["time_seconds"] == NOW
    assert found["summary"].startswith("node-1 is quarantined and cordoned by Fleetmedic: gpu-lost")
    assert found["next"][0] == {
        "text": "2 of 7 pods are left; reboot-node once they are gone",
        "time_seconds": NOW + 3_480,
    }
    assert {"fleetmedic hold node-1 --note WHY", "fleetmedic cancel node-1 --note WHY"} <= {
        each["command"] for each in found["stop"]
    }
    text = found["text"]
    questions = [
        "What state is it in, and by whom:",
        "On what evidence:",
        "What was done:",
        "What happens next:",
        "How to stop it:",
    ]
    places = [text.index(each) for each in questions]
    assert places == sorted(places)
    assert "5 of 7 pods gone: 2 blocked by PDB serving/llm" in text


async def test_the_kill_switch_and_the_closed_incident_are_told(
    world: World, client: Client
) -> None:
    world.mode = "kubernetes"
    world.stopped = "power work"
    muted = msgspec.structs.replace(
        incident("node-1", Phase.CLOSED), muted_until_seconds=NOW + 3_600
    )
    world.incidents = {"old": muted, "other": incident("node-2")}
    text = (await get(client, WHY))["text"]
    assert "Everything is stopped by the kill switch: 'power work'." in text
    assert "these are shown here and not acted on: gpu-lost" in text
    assert "inc-node-2" not in text


async def test_a_silent_node_is_explained_and_an_unknown_one_is_not(
    world: World, client: Client
) -> None:
    world.nodes["silent"] = ClusterNode(name="silent", gpu_capacity=8)
    found = await get(client, "/api/v1/nodes/silent/explain")
    assert found["state"][-1]["text"].startswith("No agent of this node ever reported")
    assert "'nope'" in (await get(client, "/api/v1/nodes/nope/explain", 404))["error"]
    assert "'nope'" in (await get(client, "/api/v1/nodes/nope/plan", 404))["error"]
    assert (await client.post(WHY)).status == 405


async def test_incidents_tell_attempts_drain_and_what_people_said(
    world: World, client: Client
) -> None:
    known = world.drain("node-1")
    world.incidents["inc-node-1"] = msgspec.structs.replace(
        known, approve=("reboot-node",), note="ticket 4711", needs="look at PDB serving/llm"
    )
    (found,) = (await get(client, "/api/v1/incidents"))["incidents"]
    assert [(each["rung"], each["outcome"]) for each in found["attempts"]] == [
        ("reset-device", "failed"),
        ("drain", "started"),
    ]
    assert found["attempts"][0]["finished_seconds"] == NOW - 582
    assert found["drain"]["pods_gone"] == 5
    assert found["next_step_seconds"] == NOW + 3_480
    assert (found["approve"], found["note"]) == (["reboot-node"], "ticket 4711")
    assert (found["needs"], found["muted_until_seconds"]) == ("look at PDB serving/llm", None)


async def test_a_plan_is_passed_on_with_what_was_asked(world: World) -> None:
    planner = Planner()
    async with TestClient(TestServer(create_app(world.deps(plan=planner)))) as client:
        found = await get(client, f"{PLAN}?subject=gpu:1&subject=gpu:2")
        assert (found["node"], found["subjects"]) == ("node-1", ["gpu:1", "gpu:2"])
        assert found["executable"] is True
        await get(client, PLAN)
        assert planner.asked == [("node-1", ("gpu:1", "gpu:2")), ("node-1", ())]
        many = "&".join(["subject=x"] * (MAX_SUBJECTS + 1))
        assert "at most" in (await get(client, f"{PLAN}?{many}", 400))["error"]
        assert "at most" in (await get(client, f"{PLAN}?subject={'x' * 300}", 400))["error"]


async def test_no_plan_says_why(world: World, client: Client) -> None:
    assert "observe mode" in (await get(client, PLAN, 503))["error"]
    planner = Planner()
    async with TestClient(TestServer(create_app(world.deps(plan=planner)))) as other:
        world.leading = False
        assert "not the leader" in (await get(other, PLAN, 503))["error"]
        world.leading = True
        planner.error = WorkloadError("GET /api/v1/pods: 500 etcd is away")
        assert "etcd is away" in (await get(other, PLAN, 502))["error"]
        planner.error = None
        await get(other, PLAN)


async def test_only_a_few_plans_are_made_at_once(world: World) -> None:
    planner = Planner()
    planner.go_on.clear()
    async with TestClient(TestServer(create_app(world.deps(plan=planner)))) as client:
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(get(client, PLAN)) for _ in range(MAX_PLANS)]
            async with asyncio.timeout(10):
                while len(planner.asked) < MAX_PLANS:
                    await asyncio.sleep(0)
            assert "ask again" in (await get(client, PLAN, 429))["error"]
            planner.go_on.set()
        assert all(each.result()["executable"] for each in asked)
        await get(client, PLAN)
