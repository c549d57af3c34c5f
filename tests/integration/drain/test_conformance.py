"""What a drain relies on, of the stand-in and of the real API server alike."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from aggregator.cluster.workloads import EvictionBlocked, ServerBusy, WorkloadError
from aggregator.policy.drain.pods import Pod
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.sandbox import Sandbox
from tests.integration.drain.worlds import InMemory, World, real_world


async def only(world: World) -> Pod:
    (found,) = await world.workloads.pods_on(world.node)
    return found


async def gone(world: World, name: str) -> None:
    async with asyncio.timeout(20):
        while await world.workloads.pod(world.namespace, name) is not None:
            await asyncio.sleep(0.02)


class Conformance:
    async def test_pods_are_found_by_node_by_name_and_by_labels(self, world: World) -> None:
        await world.pod("a", {"app": "x"})
        await world.pod("b", {"app": "y"})
        on_node = await world.workloads.pods_on(world.node)
        assert sorted(each.name for each in on_node) == ["a", "b"]
        assert {each.node for each in on_node} == {world.node}
        (one,) = await world.workloads.pods_of(world.namespace, {"app": "x"})
        assert one == await world.workloads.pod(world.namespace, "a")
        assert (one.phase, one.ready, one.owner, one.devices) == ("Running", True, None, 1)
        assert one.uid
        assert await world.workloads.pods_of(world.namespace, {"app": "z"}) == []

    async def test_what_is_not_there_is_none_and_no_labels_are_refused(self, world: World) -> None:
        assert await world.workloads.pod(world.namespace, "none") is None
        assert await world.workloads.pods_on("no-such-node") == []
        path = f"/apis/batch/v1/namespaces/{world.namespace}/jobs/none"
        assert await world.workloads.get(path) is None
        with pytest.raises(WorkloadError):
            await world.workloads.pods_of(world.namespace, {})

    async def test_a_collection_is_read_with_its_selector(self, world: World) -> None:
        """How the Workload of a job is found; here on what every API server has."""
        await world.pod("a", {"app": "x"})
        collection = f"/api/v1/namespaces/{world.namespace}/pods"
        if isinstance(world, InMemory):
            item = {"metadata": {"name": "a", "labels": {"app": "x"}}}
            world.workloads.objects[collection] = {"items": [item]}
        for value, names in (("x", ["a"]), ("y", [])):
            found = await world.workloads.get(f"{collection}?labelSelector=app%3D{value}")
            assert found is not None
            items = found["items"]
            assert isinstance(items, list)
            assert [each["metadata"]["name"] for each in items] == names

    async def test_an_evicted_pod_ends(self, world: World) -> None:
        await world.pod("a")
        assert await world.workloads.evict(await only(world), reason="test")
        await gone(world, "a")
        assert await world.workloads.pods_on(world.node) == []

    async def test_a_pod_that_is_gone_or_another_one_is_not_evicted(self, world: World) -> None:
        await world.pod("a")
        old = await only(world)
        await world.remove("a")
        await gone(world, "a")
        assert await world.workloads.evict(old, reason="test") is False
        await world.pod("a")
        assert await world.workloads.evict(old, reason="test") is False
        assert (await only(world)).deleting_since_seconds is None

    async def test_a_budget_counts_down_and_then_blocks(self, world: World) -> None:
        for name in ("a", "b"):
            await world.pod(name, {"app": "llm"})
        await world.budget("llm-budget", needs=1, app="llm")
        (budget,) = await world.workloads.disruption_budgets(world.namespace)
        assert (budget.name, budget.match_labels) == ("llm-budget", {"app": "llm"})
        assert (budget.desired_healthy, budget.current_healthy) == (1, 2)
        assert budget.disruptions_allowed == 1
        one, other = await world.workloads.pods_on(world.node)
        assert await world.workloads.evict(one, reason="test")
        with pytest.raises(EvictionBlocked, match="llm-budget"):
            await world.workloads.evict(other, reason="test")
        assert (now := await world.workloads.pod(world.namespace, other.name)) is not None
        assert now.deleting_since_seconds is None

    async def test_two_budgets_over_one_pod_are_an_error_and_no_block(self, world: World) -> None:
        await world.pod("a", {"app": "llm"})
        await world.budget("one", needs=0, app="llm")
        await world.budget("two", needs=0, app="llm")
        with pytest.raises(WorkloadError, match="more than one PodDisruptionBudget") as raised:
            await world.workloads.evict(await only(world), reason="test")
        assert not isinstance(raised.value, ServerBusy)

    async def test_annotations_are_added_to_this_very_pod(self, world: World) -> None:
        await world.pod("a")
        await world.workloads.annotate(await only(world), {"fleetmedic.io/x": "1"})
        await world.workloads.annotate(await only(world), {"fleetmedic.io/y": ""})
        seen = (await only(world)).annotations
        assert (seen["fleetmedic.io/x"], seen["fleetmedic.io/y"]) == ("1", "")
        another = msgspec.structs.replace(await only(world), uid="another")
        with pytest.raises(WorkloadError):
            await world.workloads.annotate(another, {"fleetmedic.io/x": "2"})
        assert (await only(world)).annotations["fleetmedic.io/x"] == "1"

    async def test_a_dry_run_is_judged_and_changes_nothing(self, world: World) -> None:
        await world.pod("a", {"app": "llm"})
        before = await only(world)
        assert world.dry.dry_run
        assert not world.workloads.dry_run
        assert await world.dry.evict(before, reason="test")
        await world.dry.annotate(before, {"fleetmedic.io/x": "1"})
        assert (await only(world)).deleting_since_seconds is None
        assert "fleetmedic.io/x" not in (await only(world)).annotations
        await world.budget("llm-budget", needs=1, app="llm")
        with pytest.raises(EvictionBlocked, match="llm-budget"):
            await world.dry.evict(before, reason="test")


class TestStandIn(Conformance):
    @pytest.fixture
    async def world(self) -> World:
        return InMemory()


@pytest.mark.cluster
class TestRealServer(Conformance):
    @pytest.fixture
    async def world(self, kwok: ControlPlane, sandbox: Sandbox) -> AsyncIterator[World]:
        async with real_world(kwok, sandbox) as one:
            yield one
