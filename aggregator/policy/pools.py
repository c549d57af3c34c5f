"""Pools: nodes that are budgeted together, because one bad driver or release hits them together."""

from collections.abc import Mapping

POOL_LABELS = ("fleetmedic.io/pool", "nvidia.com/gpu.product", "accelerator/huawei-npu")
"""The first of these labels that a Node carries names its pool."""

NO_POOL = "default"


def pool_of(labels: Mapping[str, str], gpu_model: str = "") -> str:
    """The pool of a node: by label, else by its GPU model, else the one pool of all the rest."""
    for label in POOL_LABELS:
        if pool := labels.get(label):
            return pool
    return gpu_model or NO_POOL
