"""Which pod holds which device, as the kubelet says."""

from collections.abc import Iterable

import msgspec

REPLICA_MARK = "::"
"""What NVIDIA's device plugin puts between a GPU's UUID and the number of a time-sliced share of it."""


class PodDevices(msgspec.Struct, frozen=True, kw_only=True):
    """The devices of one resource that one pod holds."""

    namespace: str
    pod: str
    resource: str
    """``nvidia.com/gpu``, ``huawei.com/Ascend910``, ``rdma/hca`` …; of a dynamic resource its driver,
    ``gpu.nvidia.com``."""
    device_ids: tuple[str, ...]
    """As the device plugin names them: GPU or MIG UUIDs, for NVIDIA. Of a dynamic resource ``pool/device``: there
    the kubelet tells no UUID."""


def holders(pods: Iterable[PodDevices], device_ids: Iterable[str]) -> tuple[str, ...]:
    """The pods that hold one of these devices, ``namespace/pod``, sorted; each once.

    Args:
        pods: as the kubelet says.
        device_ids: what the device plugins call the device: a GPU's UUID, and those of its MIG instances.
    """
    wanted = frozenset(device_ids)
    return tuple(
        sorted(
            {
                f"{each.namespace}/{each.pod}"
                for each in pods
                for held in each.device_ids
                if held.partition(REPLICA_MARK)[0] in wanted
            }
        )
    )
