"""Pools: nodes that are budgeted together, because one bad driver or release hits them together."""

from collections.abc import Mapping

POOL_LABELS = ("fleetmedic.io/pool", "nvidia.com/gpu.product", "accelerator/huawei-npu")
"""The first of these labels that a Node carries names its pool."""

NO_POOL = "default"
NO_GPUS = "no-gpus"
"""Nodes without accelerators, kept apart: a thousand CPU nodes must not widen the budget of ten GPU nodes."""


def pool_of(labels: Mapping[str, str], gpu_model: str = "", *, has_gpus: bool = True) -> str:
    """The pool of a node: by label, else by its GPU model, else one of two for all the rest."""
    for label in POOL_LABELS:
        if pool := labels.get(label):
            return pool
    return gpu_model or (NO_POOL if has_gpus else NO_GPUS)
