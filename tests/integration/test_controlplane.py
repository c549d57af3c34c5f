"""The harness is a real Kubernetes: what no fake would get right by accident, once each."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.api import MERGE, Json
from tests.controlplane.crds import apply_crds
from tests.controlplane.manifests import is_ready, is_running
from tests.controlplane.process import ProcessError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

pytestmark = pytest.mark.cluster

NODE_NAME = "authentication.kubernetes.io/node-name"


def has_taints(wanted: set[tuple[str, str]], node: Json) -> bool:
    return {(one["key"], one["effect"]) for one in node["spec"].get("taints", ())} == wanted


async def test_the_scheduler_places_a_gpu_pod_on_a_kwok_node(
    kwok: ControlPlane, scheduler: ControlPlane, sandbox: Sandbox
) -> None:
    await sandbox.node("small", gpus=1)
    big = await sandbox.node("big", gpus=8)
    await sandbox.pod("trainer", gpus=4)
    pod = await kwok.until(sandbox.path("pods", "trainer"), is_running)
    assert pod["spec"]["nodeName"] == big


async def test_a_pod_that_asks_for_more_gpus_than_any_node_has_stays_pending(
    kwok: ControlPlane, scheduler: ControlPlane, sandbox: Sandbox
) -> None:
    await sandbox.node(gpus=1)
    await sandbox.pod("greedy", gpus=2)

    def unschedulable(pod: Json) -> bool:
        conditions = pod.get("status", {}).get("conditions", [])
        return any(one.get("reason") == "Unschedulable" for one in conditions)

    pod = await kwok.until(sandbox.path("pods", "greedy"), unschedulable)
    assert "Insufficient nvidia.com/gpu" in pod["status"]["conditions"][0]["message"]


async def test_a_sick_kubelet_is_tainted_and_recovers(kwok: ControlPlane, sandbox: Sandbox) -> None:
    await sandbox.node("well")  # were all nodes sick, Kubernetes would blame itself and not evict
    path = f"/api/v1/nodes/{await sandbox.node('sick')}"
    for status, key in (("False", "not-ready"), ("Unknown", "unreachable")):
        sick = {"metadata": {"annotations": {"kwok.fleetmedic.io/ready": status}}}
        assert (await kwok.request("PATCH", path, sick, MERGE))[0] == 200
        taint = f"node.kubernetes.io/{key}"
        await kwok.until(path, partial(has_taints, {(taint, "NoSchedule"), (taint, "NoExecute")}))
    well = {"metadata": {"annotations": {"kwok.fleetmedic.io/ready": None}}}
    assert (await kwok.request("PATCH", path, well, MERGE))[0] == 200
    await kwok.until(path, lambda node: is_ready(node) and has_taints(set(), node))


async def test_a_node_written_ready_by_hand_becomes_usable(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    node = await sandbox.node(kwok=False)
    _, stored = await control_plane.request("GET", f"/api/v1/nodes/{node}")
    assert not stored["spec"].get("taints")


async def test_a_pod_takes_the_time_to_end_that_its_annotation_says(
    kwok: ControlPlane, sandbox: Sandbox
) -> None:
    node = await sandbox.node()
    slow = {"kwok.fleetmedic.io/terminate-after": "1s"}
    await sandbox.pod("slow", node=node, annotations=slow)
    path = sandbox.path("pods", "slow")
    await kwok.until(path, is_running)
    started_s = time.monotonic()
    await kwok.request("DELETE", path)
    await kwok.until(path, lambda pod: not pod)
    assert time.monotonic() - started_s > 0.8


async def test_a_stale_resource_version_conflicts(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    first = await sandbox.create(sandbox.path("configmaps"), {"metadata": {"name": "mine"}})
    path = sandbox.path("configmaps", "mine")
    status, _ = await control_plane.request("PUT", path, {**first, "data": {"a": "1"}})
    assert status == 200
    status, answer = await control_plane.request("PUT", path, {**first, "data": {"a": "2"}})
    assert (status, answer["reason"]) == (409, "Conflict")


async def test_an_eviction_respects_the_budget(kwok: ControlPlane, sandbox: Sandbox) -> None:
    node = await sandbox.node()
    await sandbox.pod("worker", node=node, labels={"job": "gang"})
    await kwok.until(sandbox.path("pods", "worker"), is_running)
    budget = {
        "metadata": {"name": "gang"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"job": "gang"}}},
    }
    await sandbox.create(sandbox.path("poddisruptionbudgets", group="policy/v1"), budget)
    path = sandbox.path("poddisruptionbudgets", "gang", group="policy/v1")
    await kwok.until(path, lambda one: one.get("status", {}).get("currentHealthy") == 1)

    evict = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "worker"}}
    eviction = sandbox.path("pods", "worker") + "/eviction"
    status, answer = await kwok.request("POST", eviction, evict)
    assert status == 429
    assert answer["details"]["causes"][0]["reason"] == "DisruptionBudget"

    await kwok.request("PATCH", path, {"spec": {"minAvailable": 0}}, MERGE)
    await kwok.until(path, lambda one: one["status"]["disruptionsAllowed"] == 1)
    status, _ = await kwok.request("POST", eviction, evict)
    assert status == 201
    await kwok.until(sandbox.path("pods", "worker"), lambda pod: not pod)


async def test_a_pods_token_tells_which_node_it_runs_on(
    kwok: ControlPlane, sandbox: Sandbox
) -> None:
    node = await sandbox.node()
    pod = await sandbox.pod("agent", gpus=0, node=node)
    bound = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "agent",
        "uid": pod["metadata"]["uid"],
    }
    wanted = {"spec": {"audiences": ["fleetmedic"], "boundObjectRef": bound}}
    tokens = sandbox.path("serviceaccounts", "default") + "/token"
    status, issued = await kwok.request("POST", tokens, wanted)
    assert status == 201

    review = {"spec": {"token": issued["status"]["token"], "audiences": ["fleetmedic"]}}
    reviews = "/apis/authentication.k8s.io/v1/tokenreviews"
    _, reviewed = await kwok.request("POST", reviews, review)
    assert reviewed["status"]["authenticated"] is True
    assert reviewed["status"]["user"]["extra"][NODE_NAME] == [node]
    assert reviewed["status"]["audiences"] == ["fleetmedic"]

    _, wrong = await kwok.request("POST", reviews, {"spec": {**review["spec"], "audiences": ["x"]}})
    assert not wrong["status"].get("authenticated")


async def test_rbac_refuses_what_was_not_granted(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    tokens = sandbox.path("serviceaccounts", "default") + "/token"
    _, issued = await control_plane.request("POST", tokens, {"spec": {}})
    somebody = control_plane.api_as(issued["status"]["token"])
    status, answer = await somebody.request("GET", "/api/v1/nodes")
    assert (status, answer["reason"]) == (403, "Forbidden")
    assert (await control_plane.api_as("wrong").request("GET", "/api/v1/nodes"))[0] == 401


async def test_kubectl_and_a_written_kubeconfig(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    who = control_plane.write_kubeconfig("alice", user="alice", groups=["ops"])
    text = await control_plane.kubectl(f"--kubeconfig={who}", "auth", "whoami", "-o", "json")
    assert '"username": "alice"' in text
    assert '"ops"' in text
    await control_plane.kubectl("get", "namespace", sandbox.namespace)


async def test_the_scheduler_can_be_given_another_configuration(
    kwok: ControlPlane, scheduler: ControlPlane, sandbox: Sandbox
) -> None:
    await sandbox.node()
    profiles = [{"schedulerName": "binpack"}]
    async with scheduler.scheduler_with({"profiles": profiles}):
        await sandbox.pod("other", schedulerName="binpack")
        await kwok.until(sandbox.path("pods", "other"), is_running)
    assert scheduler.running("kube-scheduler")
    await sandbox.pod("usual")
    await kwok.until(sandbox.path("pods", "usual"), is_running)


CRD = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: passed-over}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gizmos.test.fleetmedic.io}
spec:
  group: test.fleetmedic.io
  scope: Namespaced
  names: {kind: Gizmo, plural: gizmos}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object}}
"""


async def test_a_definition_is_served_once_applied(
    control_plane: ControlPlane, sandbox: Sandbox, tmp_path: Path
) -> None:
    file = tmp_path / "gizmos.yaml"
    file.write_text(CRD)
    assert await apply_crds(control_plane.api, [file]) == ["gizmos.test.fleetmedic.io"]
    gizmo = {
        "apiVersion": "test.fleetmedic.io/v1",
        "kind": "Gizmo",
        "metadata": {"name": "one"},
    }
    await sandbox.create(sandbox.path("gizmos", group="test.fleetmedic.io/v1"), gizmo)


async def test_a_killed_api_server_comes_back_with_its_data(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    kept = await sandbox.create(sandbox.path("configmaps"), {"metadata": {"name": "kept"}})
    path = sandbox.path("configmaps", "kept")
    waiting = asyncio.create_task(
        control_plane.until(path, lambda one: one.get("data", {}).get("after") == "restart")
    )
    await control_plane.kill_apiserver()
    assert not await control_plane.api.healthy()
    await control_plane.start_apiserver()
    status, found = await control_plane.request("GET", path)
    assert (status, found["metadata"]["uid"]) == (200, kept["metadata"]["uid"])
    await control_plane.request("PATCH", path, {"data": {"after": "restart"}}, MERGE)
    assert (await waiting)["metadata"]["uid"] == kept["metadata"]["uid"]


async def test_a_component_that_dies_shows_the_end_of_its_log(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    nonsense = tmp_path / "stages.yaml"
    nonsense.write_text("kind: Nonsense\n")
    with pytest.raises(ProcessError, match=r"kwok died \(exit status 1\)[\s\S]*Nonsense"):
        await control_plane.start_kwok(stages=nonsense)
    assert not control_plane.running("kwok")
