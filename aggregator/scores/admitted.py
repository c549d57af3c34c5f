"""What pods hold of a node's devices since its kubelet took them, and what that says of the node. Pure."""

import math
from collections.abc import Iterable

from aggregator.scores.placed import PlacedPod
from aggregator.scores.requests import Ask, Passed
from aggregator.scores.values import WHOLE, NodeRoom


def room_beside_admitted(room: NodeRoom | None, pods: Iterable[PlacedPod]) -> int:
    """Whole devices that a node has for pods beside those that its kubelet took.

    What it refuses beyond that it rightly refuses. Pods that are only bound are left out: the next one is bound while the
    last one is being refused.

    Args:
        room: of the node; ``None``: it is not known, and has none.
        pods: bound to it.
    """
    if room is None:
        return 0
    well = len(room.gpus) - sum(room.sick)
    return well - devices_held(each.ask for each in pods if each.phase != "pending")


def devices_held(asks: Iterable[Ask]) -> int:
    """Whole devices that pods hold together, as far as that can be told."""
    milli = sum(
        WHOLE * ask.gpu_count if isinstance(ask, Passed) else ask.gpu_milli_total for ask in asks
    )
    return math.ceil(milli / WHOLE)


def speaks_for(pod: PlacedPod, room: NodeRoom | None) -> bool:
    """Whether a pod that runs well on a node says that its devices can be had.

    It has to hold one of them. A kubelet runs what names another vendor's devices, or a resource claim of no device, and gives it
    none. Where a node lists no devices, all that pods hold there is claimed.
    """
    resource = room.resource if room is not None else ""
    if isinstance(pod.ask, Passed):
        return pod.ask.gpu_count > 0 or not resource
    return pod.ask.gpu_count > 0 and (not resource or pod.ask.resource in ("", resource))
