"""GPUs that fail while pods come: which and when, the same for every policy. Pure, given the seed."""

import random

import msgspec

from bench.packing.trace import Trace

WARNED_RATIO = 0.5
"""Of the GPUs that fail, as many show signs first that an agent sees and a device plugin does not."""
WARNING_RATIO = 0.05
"""Of all arrivals, how long before the failure the signs show."""


class Event(msgspec.Struct, frozen=True, order=True):
    """What happens before the pod at this place in the order of arrival."""

    at: int
    node: int
    device: int
    failed: bool
    """Else it only shows signs."""


def failures(trace: Trace, percent: float, seed: int, pods: int) -> list[Event]:
    """``percent`` of all GPUs, each at a random time, half of them with a warning; in the order of time."""
    if percent <= 0:
        return []
    dice = random.Random(f"failures {seed}")
    devices = [
        (node, device) for node, room in enumerate(trace.rooms) for device in range(len(room.gpus))
    ]
    events = []
    for node, device in dice.sample(devices, round(len(devices) * percent / 100)):
        at = dice.randrange(pods)
        events.append(Event(at, node, device, failed=True))
        if dice.random() < WARNED_RATIO:
            events.append(
                Event(max(0, at - round(WARNING_RATIO * pods)), node, device, failed=False)
            )
    return sorted(events)
