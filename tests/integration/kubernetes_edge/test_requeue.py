"""A Kueue Workload goes back to its queue, whatever happens between the two writes. The test plays Kueue."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import pytest

from aggregator.cluster.client import Json
from aggregator.cluster.errors import Unavailable
from aggregator.cluster.pen import Pen
from aggregator.cluster.requeue import LABEL, REASON, Requeues
from aggregator.cluster.workloads import WorkloadError
from tests.controlplane.api import MERGE
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.sandbox import Sandbox
from tests.integration.kubernetes_edge.rig import SpyApi, Watched, background, read, running

pytestmark = pytest.mark.cluster

WHEN = "2026-11-26T07:00:00Z"
POD = {"spec": {"containers": [{"name": "main", "image": "example.invalid/job:1"}]}}


def condition(type_: str, status: bool) -> Json:
    return {
        "type": type_,
        "status": str(status),
        "reason": "Test",
        "message": "",
        "lastTransitionTime": WHEN,
    }


async def kueue_says(plane: ControlPlane, path: str, **conditions: bool) -> None:
    status = {"conditions": [condition(*each) for each in conditions.items()]}
    code, answer = await plane.request("PATCH", f"{path}/status", {"status": status}, MERGE)
    assert code == 200, answer


@pytest.fixture
async def workload(workload_crds: ControlPlane, sandbox: Sandbox) -> str:
    """The path of a Workload whose job runs."""
    collection = sandbox.path("workloads", group="kueue.x-k8s.io/v1beta2")
    spec = {"podSets": [{"name": "main", "count": 1, "template": POD}]}
    body = {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": "Workload", "spec": spec}
    await sandbox.create(collection, {**body, "metadata": {"name": "job"}})
    await kueue_says(workload_crds, f"{collection}/job", Admitted=True)
    return f"{collection}/job"


async def reserve(plane: ControlPlane, path: str) -> None:
    """With its quota; the schema wants to know how it was admitted."""
    admission = {
        "clusterQueue": "tenants",
        "podSetAssignments": [{"name": "main", "count": 1}],
    }
    status = {"admission": admission, "conditions": [condition("QuotaReserved", True)]}
    code, answer = await plane.request("PATCH", f"{path}/status", {"status": status}, MERGE)
    assert code == 200, answer


def inactive(one: Json) -> bool:
    return bool(one) and one["spec"].get("active") is False


def at_rest(one: Json) -> bool:
    """Active, and nothing of ours is left on it."""
    metadata = one["metadata"]
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    return one["spec"].get("active") is True and not {LABEL, REASON} & marks.keys()


async def test_it_is_deactivated_until_kueue_took_its_quota_and_then_active_again(
    cluster: ControlPlane, watched: Watched, workload: str
) -> None:
    await reserve(cluster, workload)
    task = asyncio.create_task(watched.edge.workloads.deactivate(workload, reason="node n drains"))
    seen = await cluster.until(workload, inactive)
    assert seen["metadata"]["labels"][LABEL] == "true"
    assert seen["metadata"]["annotations"][REASON] == "node n drains"
    assert not task.done()
    await kueue_says(cluster, workload, Evicted=True, QuotaReserved=False)
    await asyncio.wait_for(task, 30)
    assert at_rest(await read(cluster, workload))


async def test_one_that_holds_no_quota_or_is_gone_is_left_alone(
    cluster: ControlPlane, watched: Watched, workload: str
) -> None:
    before = await read(cluster, workload)
    await watched.edge.workloads.deactivate(workload, reason="r")
    await watched.edge.workloads.deactivate(f"{workload}-gone", reason="r")
    assert await read(cluster, workload) == before


async def test_one_that_a_person_put_to_rest_stays_at_rest(
    cluster: ControlPlane, watched: Watched, workload: str
) -> None:
    await reserve(cluster, workload)
    await cluster.request("PATCH", workload, {"spec": {"active": False}}, MERGE)
    await watched.edge.workloads.deactivate(workload, reason="r")
    assert (await read(cluster, workload))["spec"]["active"] is False


async def test_a_drain_that_is_stopped_meanwhile_does_not_leave_the_job_at_rest(
    cluster: ControlPlane, watched: Watched, workload: str
) -> None:
    await reserve(cluster, workload)
    async with background(watched.edge.workloads.deactivate(workload, reason="r")):
        await cluster.until(workload, inactive)
    await kueue_says(cluster, workload, Evicted=True, QuotaReserved=False)
    assert at_rest(await cluster.until(workload, at_rest))


class Late(SpyApi):
    """The answer to a change of a Workload never comes, though it was made."""

    async def patch(self, path: str, body: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        made = await super().patch(path, body, dry_run=dry_run)
        if "/workloads/" in path and body["spec"]["active"] is False:
            await asyncio.Event().wait()
        return made


async def test_one_that_is_cancelled_before_the_answer_came_is_not_forgotten(
    cluster: ControlPlane, workload: str
) -> None:
    await reserve(cluster, workload)
    api = Late(cluster.kubeconfig)
    requeues = Requeues(api, Pen(api, permit=lambda: None), clock=time.monotonic)
    async with background(requeues.run()):
        async with background(requeues.evict(workload, reason="r")):
            await cluster.until(workload, inactive)
        await kueue_says(cluster, workload, Evicted=True, QuotaReserved=False)
        assert at_rest(await cluster.until(workload, at_rest))
    await api.close()


async def test_two_drains_that_ask_for_the_same_gang_are_one(
    cluster: ControlPlane, watched: Watched, workload: str
) -> None:
    await reserve(cluster, workload)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(watched.edge.workloads.deactivate(workload, reason="r"))
        await cluster.until(workload, inactive)
        await kueue_says(cluster, workload, Evicted=True, QuotaReserved=False)
    assert at_rest(await read(cluster, workload))
    written = [path for method, path in watched.api.requests if method == "PATCH"]
    assert written == [workload, workload]


async def test_the_next_leader_finishes_what_a_dead_one_left_undone(
    cluster: ControlPlane, workload: str
) -> None:
    await reserve(cluster, workload)
    async with (
        running(cluster) as first,
        background(first.edge.workloads.deactivate(workload, reason="r")),
    ):
        await cluster.until(workload, inactive)
    async with running(cluster):
        await kueue_says(cluster, workload, Evicted=True, QuotaReserved=False)
        assert at_rest(await cluster.until(workload, at_rest))


async def test_where_kueue_does_nothing_it_is_active_as_before_and_said_so(
    cluster: ControlPlane, workload: str
) -> None:
    await reserve(cluster, workload)
    api = SpyApi(cluster.kubeconfig)
    pen = Pen(api, permit=lambda: None)
    requeues = Requeues(api, pen, clock=time.monotonic, patience_seconds=0.0)
    async with background(requeues.run()):
        with pytest.raises(Unavailable, match=r"Kueue did not evict .* active again"):
            await requeues.evict(workload, reason="r")
    await api.close()
    assert at_rest(await read(cluster, workload))


async def test_a_dry_run_only_tries(cluster: ControlPlane, workload: str) -> None:
    await reserve(cluster, workload)
    before = await read(cluster, workload)
    async with running(cluster, dry_run=True) as watched:
        await watched.edge.workloads.deactivate(workload, reason="r")
        assert [method for method, path in watched.api.requests if path == workload] == [
            "GET",
            "PATCH",
        ]
    assert await read(cluster, workload) == before


async def test_one_who_does_not_lead_deactivates_nothing(
    cluster: ControlPlane, watched: Watched, workload: str
) -> None:
    await reserve(cluster, workload)
    before = await read(cluster, workload)
    await watched.edge._elector.release()
    with pytest.raises(WorkloadError, match="not the leader"):
        await watched.edge.workloads.deactivate(workload, reason="r")
    assert await read(cluster, workload) == before
