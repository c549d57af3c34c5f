"""What is wrong with a node, as far as a pod may be refused it: it is sick, or some of its devices are. Pure."""

import msgspec

from aggregator.scores.values import PodShape


class Ailment(msgspec.Struct, frozen=True):
    """Of one node. Nodes without one are refused to nobody."""

    reason: str = ""
    """Why no new pod belongs there; empty: it is not the whole node that is sick."""
    quarantined: bool = False
    """Whether it is sick by our own taint, not only by its agent's word."""
    devices: int = 0
    sick_devices: int = 0
    free_milli: tuple[int, ...] = ()
    """What is free on each healthy device, in thousandths of it; told only where some are sick."""
    guessed: bool = False
    """Whether which pod holds which device is a guess."""
    silent: bool = False
    """Whether nothing certain is known of it now; then its devices are no reason to refuse it."""


def lacks_healthy_devices(ailment: Ailment, shape: PodShape) -> str:
    """Why a node cannot give a pod devices that are healthy, where that is sure; empty: it can, or it is not sure.

    Only where a device is sick: what else is taken the scheduler counts better than we do.
    """
    if ailment.silent or not shape.gpu_count or not ailment.sick_devices:
        return ""
    healthy = ailment.devices - ailment.sick_devices
    if healthy < shape.gpu_count:
        return f"{healthy} of its {ailment.devices} devices are healthy, the pod needs {shape.gpu_count}"
    free = sum(milli >= max(1, shape.gpu_milli) for milli in ailment.free_milli)
    if not ailment.guessed and free < shape.gpu_count:
        return f"{free} healthy devices have room, the pod needs {shape.gpu_count}; the others are sick or taken"
    return ""
