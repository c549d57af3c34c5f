"""A job whose pods only make progress together: decided once, as a whole, wherever its pods stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aggregator.policy.drain.rules import CHECKPOINT_ASKED, CHECKPOINT_TAKEN
from tests.controlplane.api import MERGE
from tests.e2e.ward import attempts

if TYPE_CHECKING:
    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.e2e.rig import Node
    from tests.e2e.ward import Ward

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

PYTORCH_JOBS = "kubeflow.org/v1"
WAIT = """
rules:
  - {labels: {tier: gold}, mode: wait, deadline_seconds: 3600, then: leave}
  - {mode: checkpoint, deadline_seconds: 3600}
"""
"""One of the two pods has the patient rule, and not the one on the bad node."""
CHECKPOINT = "rules: [{labels: {training.kubeflow.org/job-name: '*'}, mode: checkpoint, deadline_seconds: 3600}]"
MASTER, WORKER = "bert-master-0", "bert-worker-0"


async def training(ward: Ward, rules: str) -> Node:
    """A PyTorchJob over two nodes, the master's of which is watched, and about to break."""
    await ward.start(drain_rules_file=ward.file("their-rules.yaml", rules))
    bad = await ward.add_node("a")
    await ward.rig.reporting([bad])
    other = await ward.sandbox.node("b")
    template = {"spec": {"containers": [{"name": "pytorch", "image": "example.invalid/t:1"}]}}
    replicas = {kind: {"replicas": 1, "template": template} for kind in ("Master", "Worker")}
    job = await ward.sandbox.create(
        ward.sandbox.path("pytorchjobs", group=PYTORCH_JOBS),
        {
            "apiVersion": PYTORCH_JOBS,
            "kind": "PyTorchJob",
            "metadata": {"name": "bert"},
            "spec": {"pytorchReplicaSpecs": replicas},
        },
    )
    await member(ward, job, MASTER, bad.name)
    await member(ward, job, WORKER, other, tier="gold")
    return bad


async def member(ward: Ward, job: Json, name: str, node: str, **labels: str) -> None:
    """A pod as the training operator makes it."""
    owner = {
        "apiVersion": PYTORCH_JOBS,
        "kind": "PyTorchJob",
        "name": job["metadata"]["name"],
        "uid": job["metadata"]["uid"],
        "controller": True,
    }
    labels = {"training.kubeflow.org/job-name": job["metadata"]["name"], **labels}
    await ward.pod(name, node, labels=labels, owner=owner)


async def gang(ward: Ward, node: Node) -> Json:
    """The one gang of the node's plan."""
    plan = await ward.rig.get(f"/api/v1/nodes/{node.name}/plan")
    (found,) = plan["gangs"]
    assert found["gang"] == f"PyTorchJob {ward.sandbox.namespace}/bert"
    assert [each["name"] for each in found["elsewhere"]] == [WORKER]
    (pod,) = [each for each in plan["pods"] if each["name"] == MASTER]
    assert (pod["verdict"], pod["gang"]) == (found["verdict"], found["gang"])
    whole: Json = found
    return whole


async def notes(ward: Ward, name: str) -> Json:
    _, pod = await ward.plane.request("GET", ward.sandbox.path("pods", name))
    found: Json = pod["metadata"].get("annotations", {})
    return found


async def test_a_gang_one_of_whose_pods_has_a_patient_rule_is_waited_for_as_a_whole(
    ward: Ward, workload_crds: ControlPlane
) -> None:
    bad = await training(ward, WAIT)
    assert (await gang(ward, bad))["verdict"] == "wait"
    ward.breaks(bad)
    waited = f"PyTorchJob {ward.sandbox.namespace}/bert is waited for"
    held = await ward.incident(bad, lambda now: waited in now.get("drain", {}).get("text", ""))
    assert held["status"]["phase"] == "draining"
    assert waited in await ward.explained(bad)
    assert CHECKPOINT_ASKED not in await notes(ward, MASTER)
    assert not ward.evictions()

    done = {"status": {"phase": "Succeeded"}}
    path = ward.sandbox.path("pods", MASTER)
    assert (await ward.plane.request("PATCH", f"{path}/status", done, MERGE))[0] == 200
    await ward.mend(bad)
    assert attempts(await ward.closed(bad))[0] == ("drain-device", "done")
    assert not ward.evictions(), "it ended by itself"


async def test_a_gang_is_asked_for_a_checkpoint_as_a_whole_and_only_then_evicted(
    ward: Ward, workload_crds: ControlPlane
) -> None:
    bad = await training(ward, CHECKPOINT)
    assert (await gang(ward, bad))["verdict"] == "checkpoint"
    ward.breaks(bad)
    for name in (MASTER, WORKER):
        await ward.plane.until(
            ward.sandbox.path("pods", name),
            lambda pod: pod["metadata"].get("annotations", {}).get(CHECKPOINT_ASKED),
        )
    await answer(ward, MASTER)
    one = "1 of 2 answered the request for a checkpoint"
    await ward.incident(bad, lambda now: one in now.get("drain", {}).get("text", ""))
    assert not ward.evictions()
    await answer(ward, WORKER)

    await ward.gone(MASTER)
    assert ward.evictions() == {MASTER: 1}
    await ward.mend(bad)
    await ward.closed(bad)
    assert await ward.pods() == {WORKER}, (
        "its controller restarts the job; we touch only the bad node"
    )


async def answer(ward: Ward, name: str) -> None:
    """The pod says that it has written a checkpoint."""
    body = {"metadata": {"annotations": {CHECKPOINT_TAKEN: "step 4000"}}}
    assert (await ward.plane.request("PATCH", ward.sandbox.path("pods", name), body, MERGE))[
        0
    ] == 200
