"""What a drain reads and evicts: this very pod, under its budget, by who still leads."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from aggregator.cluster.client import Json
from aggregator.cluster.lease import LeaseSettings
from aggregator.cluster.workloads import EvictionBlocked, ServerBusy, WorkloadError
from aggregator.policy.drain.pods import Owner, Pod
from tests.controlplane.api import MERGE
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.sandbox import Sandbox
from tests.integration.kubernetes_edge.rig import Watched, read, running, until

pytestmark = pytest.mark.cluster

READY = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}


async def running_pod(sandbox: Sandbox, node: str, name: str = "p", **options: Any) -> Json:
    made = await sandbox.pod(name, node=node, **options)
    path = sandbox.path("pods", f"{name}/status")
    status, answer = await sandbox.plane.request("PATCH", path, {"status": READY}, MERGE)
    assert status == 200, answer
    return made


async def budget(sandbox: Sandbox, name: str, pods: int) -> None:
    """A PodDisruptionBudget that needs all of these pods, once its controller has counted them."""
    path = sandbox.path("poddisruptionbudgets", group="policy/v1")
    spec = {"minAvailable": pods, "selector": {"matchLabels": {"app": "llm"}}}
    await sandbox.create(path, {"metadata": {"name": name}, "spec": spec})
    await sandbox.plane.until(
        f"{path}/{name}",
        lambda one: (one.get("status") or {}).get("currentHealthy") == pods,
    )


async def only_pod(watched: Watched, node: str) -> Pod:
    (found,) = await watched.edge.workloads.pods_on(node)
    return found


def is_going(pod: Json) -> bool:
    return not pod or "deletionTimestamp" in pod["metadata"]


async def deleting(plane: ControlPlane, path: str) -> bool:
    return "deletionTimestamp" in (await read(plane, path))["metadata"]


async def test_a_pod_is_read_as_it_is(
    cluster: ControlPlane, watched: Watched, sandbox: Sandbox, node: str
) -> None:
    made = await running_pod(
        sandbox, node, gpus=2, labels={"app": "llm"}, volumes=[{"name": "v", "emptyDir": {}}]
    )
    await sandbox.pod("elsewhere")
    pod = await only_pod(watched, node)
    assert pod.uid == made["metadata"]["uid"]
    assert (pod.namespace, pod.name, pod.node) == (sandbox.namespace, "p", node)
    assert (pod.phase, pod.ready, pod.devices, pod.empty_dir) == ("Running", True, 2, True)
    assert (pod.owner, pod.mirror, pod.deleting_since_seconds) == (None, False, None)
    assert pod.grace_seconds == 30
    workloads = watched.edge.workloads
    assert await workloads.pod(sandbox.namespace, "p") == pod
    assert await workloads.pod(sandbox.namespace, "none") is None
    assert [each.name for each in await workloads.pods_of(sandbox.namespace, {"app": "llm"})] == [
        "p"
    ]
    assert await workloads.pods_of(sandbox.namespace, {"app": "other"}) == []
    with pytest.raises(WorkloadError, match="no labels"):
        await workloads.pods_of(sandbox.namespace, {})


async def test_any_object_is_read_and_what_is_not_there_is_none(
    watched: Watched, sandbox: Sandbox
) -> None:
    workloads = watched.edge.workloads
    found = await workloads.get(f"/api/v1/namespaces/{sandbox.namespace}")
    assert found is not None
    assert found["kind"] == "Namespace"
    assert await workloads.get(sandbox.path("jobs", "none", group="batch/v1")) is None
    assert await workloads.get("/apis/no.such.group/v1/namespaces/a/things/b") is None
    with pytest.raises(WorkloadError, match="is not the path of an object"):
        await workloads.get("/healthz")


async def test_an_eviction_gives_the_pod_its_own_grace(
    cluster: ControlPlane, watched: Watched, sandbox: Sandbox, node: str
) -> None:
    await running_pod(sandbox, node, terminationGracePeriodSeconds=77)
    pod = await only_pod(watched, node)
    assert await watched.edge.workloads.evict(pod, reason="drain")
    after = await only_pod(watched, node)
    assert after.deleting_since_seconds is not None
    assert after.grace_seconds == 77


async def test_a_pod_made_anew_under_the_same_name_is_never_evicted(
    cluster: ControlPlane, watched: Watched, sandbox: Sandbox, node: str
) -> None:
    path = sandbox.path("pods", "p")
    await running_pod(sandbox, node)
    old = await only_pod(watched, node)
    await cluster.request("DELETE", path, {"gracePeriodSeconds": 0})
    assert await watched.edge.workloads.evict(old, reason="drain") is False  # gone
    await running_pod(sandbox, node)
    assert await watched.edge.workloads.evict(old, reason="drain") is False
    assert not await deleting(cluster, path)
    with pytest.raises(WorkloadError, match="is gone"):
        await watched.edge.workloads.annotate(old, {"a": "b"})
    assert "a" not in (await read(cluster, path))["metadata"].get("annotations", {})


async def test_a_budget_that_blocks_is_named_with_its_numbers(
    cluster: ControlPlane, watched: Watched, sandbox: Sandbox, node: str
) -> None:
    await running_pod(sandbox, node, labels={"app": "llm"})
    await budget(sandbox, "llm-budget", 1)
    pod = await only_pod(watched, node)
    (seen,) = await watched.edge.workloads.disruption_budgets(sandbox.namespace)
    assert (seen.name, seen.match_labels) == ("llm-budget", {"app": "llm"})
    assert (seen.disruptions_allowed, seen.current_healthy, seen.desired_healthy) == (0, 1, 1)
    with pytest.raises(EvictionBlocked, match=rf"{pod.path}: .*llm-budget needs 1 .* has 1"):
        await watched.edge.workloads.evict(pod, reason="drain")
    assert not await deleting(cluster, sandbox.path("pods", "p"))


async def test_two_budgets_on_one_pod_are_an_error_that_says_so(
    watched: Watched, sandbox: Sandbox, node: str
) -> None:
    await running_pod(sandbox, node, labels={"app": "llm"})
    await budget(sandbox, "one", 1)
    await budget(sandbox, "two", 1)
    pod = await only_pod(watched, node)
    with pytest.raises(WorkloadError, match="more than one PodDisruptionBudget") as raised:
        await watched.edge.workloads.evict(pod, reason="drain")
    assert not isinstance(raised.value, ServerBusy)


async def test_a_pod_of_a_namespace_that_ends_counts_as_going(
    cluster: ControlPlane, watched: Watched, sandbox: Sandbox, node: str
) -> None:
    await running_pod(sandbox, node, terminationGracePeriodSeconds=600)
    pod = await only_pod(watched, node)
    where = f"/api/v1/namespaces/{sandbox.namespace}"
    await cluster.request("DELETE", where, {})
    await cluster.until(where, lambda one: one["status"]["phase"] == "Terminating")
    await watched.edge.workloads.evict(pod, reason="drain")  # whatever it says, it is no error
    assert await cluster.until(sandbox.path("pods", "p"), is_going)


async def test_a_checkpoint_is_asked_for_beside_the_annotations_that_are_there(
    cluster: ControlPlane, watched: Watched, sandbox: Sandbox, node: str
) -> None:
    await running_pod(sandbox, node, annotations={"theirs": "1"})
    pod = await only_pod(watched, node)
    path = sandbox.path("pods", "p")

    async def touch() -> None:
        await cluster.request("PATCH", path, {"metadata": {"labels": {"touched": "yes"}}}, MERGE)

    watched.api.before_patch = touch  # as the kubelet does all the time
    await watched.edge.workloads.annotate(pod, {"fleetmedic.io/checkpoint": "d-1"})
    stored = (await read(cluster, path))["metadata"]["annotations"]
    assert stored == {"theirs": "1", "fleetmedic.io/checkpoint": "d-1"}


@pytest.fixture
async def deposed(cluster: ControlPlane, node: str) -> AsyncIterator[Watched]:
    """A leader whose Lease somebody else took."""
    lease = LeaseSettings(
        name=f"l-{node}", duration_seconds=6, renew_deadline_seconds=5, retry_seconds=0.2
    )
    async with running(cluster, lease=lease) as watched:
        path = watched.edge._elector._path
        taken = {"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 300}}
        await cluster.request("PATCH", path, taken, MERGE)
        await until(watched.changed, lambda: not watched.edge.leading)
        yield watched


async def test_a_deposed_leader_evicts_and_annotates_nothing(
    cluster: ControlPlane, deposed: Watched, sandbox: Sandbox, node: str
) -> None:
    await running_pod(sandbox, node)
    before = await read(cluster, sandbox.path("pods", "p"))
    pod = await only_pod(deposed, node)  # reading is free
    for write in (
        deposed.edge.workloads.evict(pod, reason="drain"),
        deposed.edge.workloads.annotate(pod, {"a": "b"}),
    ):
        with pytest.raises(WorkloadError, match="not the leader"):
            await write
    assert await read(cluster, sandbox.path("pods", "p")) == before


async def test_the_controller_of_a_pod_is_its_owner(
    watched: Watched, sandbox: Sandbox, node: str
) -> None:
    job = {
        "metadata": {"name": "train"},
        "spec": {
            "suspend": True,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "c", "image": "example.invalid/a"}],
                }
            },
        },
    }
    made = await sandbox.create(sandbox.path("jobs", group="batch/v1"), job)
    uid = made["metadata"]["uid"]
    body = {"apiVersion": "batch/v1", "kind": "Job", "name": "train", "uid": uid}
    pod: Json = {
        "metadata": {"name": "train-0", "ownerReferences": [{**body, "controller": False}]},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "example.invalid/a"}]},
    }
    await sandbox.create(sandbox.path("pods"), pod)
    assert (await only_pod(watched, node)).owner is None
    owned = [{**body, "controller": True}]
    path = sandbox.path("pods", "train-0")
    await sandbox.plane.request("PATCH", path, {"metadata": {"ownerReferences": owned}}, MERGE)
    assert (await only_pod(watched, node)).owner == Owner("batch/v1", "Job", "train", uid)
