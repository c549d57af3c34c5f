"""The real definitions of other projects are served: what a drain reads of them is checked by their own schemas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

pytestmark = pytest.mark.cluster

POD = {"spec": {"containers": [{"name": "main", "image": "example.invalid/job:1"}]}}
PODS = {"template": POD, "replicas": 2}

KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "PyTorchJob": ("kubeflow.org/v1", "pytorchjobs", {"pytorchReplicaSpecs": {"Worker": PODS}}),
    "TFJob": ("kubeflow.org/v1", "tfjobs", {"tfReplicaSpecs": {"Worker": PODS}}),
    "MPIJob": ("kubeflow.org/v1alpha1", "mpijobs", {"replicas": 2, "template": POD}),
    "TrainJob": ("trainer.kubeflow.org/v1alpha1", "trainjobs", {"runtimeRef": {"name": "torch"}}),
    "PodGroup": ("scheduling.volcano.sh/v1beta1", "podgroups", {"minMember": 2}),
    "Workload": (
        "kueue.x-k8s.io/v1beta1",
        "workloads",
        {"podSets": [{"name": "main", "count": 2, "template": POD}]},
    ),
    "LocalQueue": ("kueue.x-k8s.io/v1beta1", "localqueues", {"clusterQueue": "tenants"}),
    "InferenceService": ("serving.kserve.io/v1beta1", "inferenceservices", {}),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_drain_meets_the_real_resource(
    workload_crds: ControlPlane, sandbox: Sandbox, kind: str
) -> None:
    group, plural, spec = KINDS[kind]
    body = {"apiVersion": group, "kind": kind, "metadata": {"name": "job"}, "spec": spec}
    created = await sandbox.create(sandbox.path(plural, group=group), body)
    assert created["spec"].keys() >= spec.keys(), "nothing of it was pruned by its schema"


async def test_an_object_that_its_schema_forbids_is_refused(
    workload_crds: ControlPlane, sandbox: Sandbox
) -> None:
    path = sandbox.path("workloads", group="kueue.x-k8s.io/v1beta1")
    body = {
        "apiVersion": "kueue.x-k8s.io/v1beta1",
        "kind": "Workload",
        "metadata": {"name": "job"},
        "spec": {"podSets": [{"name": "main", "count": -2, "template": POD}]},
    }
    status, answer = await workload_crds.request("POST", path, body)
    assert (status, answer["reason"]) == (422, "Invalid")
