"""The few objects that nearly every test needs, as the plain dicts that the API takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.controlplane.api import Json

GPU = "nvidia.com/gpu"
KWOK_NODE = {"kwok.x-k8s.io/node": "fake"}


def gpu_node(
    name: str,
    *,
    gpus: int = 8,
    resource: str = GPU,
    kwok: bool = True,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Json:
    """A node with GPUs: played by kwok, or (kwok=False) written Ready by hand, once."""
    capacity = {"cpu": "64", "memory": "512Gi", "pods": "110", resource: str(gpus)}
    status: Json = {"capacity": capacity, "allocatable": capacity}
    if not kwok:
        status["conditions"] = [
            {"type": "Ready", "status": "True", "reason": "ByHand", "message": "a test says so"}
        ]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "nvidia.com/gpu.product": "NVIDIA-H200",
                **(labels or {}),
            },
            "annotations": {**(KWOK_NODE if kwok else {}), **(annotations or {})},
        },
        "status": status,
    }


def gpu_pod(
    name: str,
    *,
    gpus: int = 1,
    resource: str = GPU,
    node: str | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    **spec: Any,
) -> Json:
    """A pod that asks for GPUs; `node` binds it there past the scheduler; `spec` adds fields."""
    wanted = {resource: str(gpus)} if gpus else {}
    pod_spec: Json = {
        "containers": [
            {"name": "main", "image": "example.invalid/job:1", "resources": {"limits": wanted}}
        ],
        **spec,
    }
    if node is not None:
        pod_spec["nodeName"] = node
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": dict(labels or {}),
            "annotations": dict(annotations or {}),
        },
        "spec": pod_spec,
    }


def extender_args(pod: Any, names: Sequence[str]) -> bytes:
    """What kube-scheduler asks an extender with ``nodeCacheCapable``, byte by byte as Go's encoder writes it."""
    return msgspec.json.encode({"Pod": pod, "Nodes": None, "NodeNames": names})


def is_ready(node: Json) -> bool:
    """Ready, and no longer tainted as not ready: the scheduler would use it."""
    conditions = node.get("status", {}).get("conditions") or ()
    taints = node.get("spec", {}).get("taints") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions) and all(
        taint["key"] != "node.kubernetes.io/not-ready" for taint in taints
    )


def is_running(pod: Json) -> bool:
    """Whether this pod's phase is Running."""
    return bool(pod.get("status", {}).get("phase") == "Running")
