"""One planner for every back-end: which devices are kept from pods by themselves now, and what is written next. Pure.

Of each node at most one write of each back-end in one look, and the next look sees what became of it. All back-ends that
hand a device out must hold it before it counts: a scheduler that does not know of the quarantine would place a pod on it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from aggregator.policy.devices import dra, dra_objects, hami, koordinator, signature
from aggregator.policy.devices.values import (
    BackEnd,
    DeviceSettings,
    Looked,
    NodePicture,
    Step,
    Wanted,
)
from aggregator.policy.devices.wanted import wanted as wanted_devices
from aggregator.policy.model import ClusterView

STABLE = "v1"
"""From the stable API on the scheduler cannot be without DeviceTaintRules; before, its feature gate may be off, and
nothing in the cluster tells."""


class DeviceMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What has to be carried from one look to the next; losing it costs waiting, or one more try."""

    looks: int = 0
    """How many there were. What holds in the first look of a process held before, and needs no settling."""
    holds_since: Mapping[tuple[str, str], float] = {}
    """(node, device) → Unix time since when its quarantine is seen to hold without a break."""
    refused: Mapping[tuple[str, str], tuple[float, str]] = {}
    """(node, device) → until when it is given up, and why."""


class Planned(NamedTuple):
    """What one look leads to."""

    steps: list[Step]
    """In the order in which they are carried out."""
    in_force: Mapping[str, frozenset[str]]
    """By node: the devices that are kept from new pods by themselves, and were for long enough."""
    words: Mapping[str, Mapping[str, str]]
    """By node and device: how it stands."""
    memory: DeviceMemory


def plan(
    view: ClusterView,
    pictures: Iterable[NodePicture],
    hardware: Mapping[str, Mapping[str, str]],
    settings: DeviceSettings,
    memory: DeviceMemory,
    now: float,
    *,
    dra_version: str = "",
) -> Planned:
    """What to write now.

    Args:
        view: the cluster; nothing is decided while it is not synced or a person stopped everything.
        pictures: of each node that has a wanted device or anything of ours, read just now.
        hardware: node → device → UUID, as its agent last said.
        settings: which back-ends, and how carefully.
        memory: what the last call gave back.
        now: Unix time.
        dra_version: in which the server serves DeviceTaintRules: ``v1``, ``v1beta2`` …
    """
    if not view.synced or view.stopped:
        return Planned([], {}, {}, DeviceMemory(looks=memory.looks))
    asked, left_alone = wanted_devices(view, hardware)
    due: list[Sequence[Step]] = []
    words: dict[str, dict[str, str]] = {}
    holds: dict[tuple[str, str], float] = {}
    in_force: dict[str, frozenset[str]] = {}
    refused = {
        key: each
        for key, each in memory.refused.items()
        if now < each[0] <= now + settings.retry_seconds  # else the clock was set back
    }
    for picture in sorted(pictures, key=lambda each: each.name):
        name = picture.name
        devices = {each.device: each for each in asked.get(name, ()) if settings.back_ends}
        given_up = {device: why for (node, device), (_, why) in refused.items() if node == name}
        looks = _looks(devices, picture, given_up, settings, now)
        words[name] = _words(devices, looks)
        for device, why in looks[BackEnd.DRA].refused.items():
            refused[name, device] = (now + settings.retry_seconds, why)
        before = now if memory.looks else now - settings.settle_seconds
        held = [each for each in devices if _held(each, looks, picture, settings, dra_version)]
        for device in held:
            holds[name, device] = min(now, memory.holds_since.get((name, device), before))
        long = [d for d in held if now - holds[name, d] >= settings.settle_seconds]
        if long:
            in_force[name] = frozenset(long)
        if name not in left_alone:
            due += [turn(each.steps, memory.looks)[:1] for each in looks.values()]
            due.append(unlabelled(picture))
    steps = [step for each in turn(due, memory.looks) for step in each]
    memory = DeviceMemory(looks=memory.looks + 1, holds_since=holds, refused=refused)
    return Planned(steps[: settings.steps_per_look], in_force, words, memory)


def carries(picture: NodePicture) -> bool:
    """Whether anything of ours is on this node; a label alone, which anybody may put there, is nothing."""
    if picture.rules or signature.read(picture.annotations) != {}:
        return True
    obj = picture.device_object
    return obj is not None and signature.read(obj["metadata"].get("annotations") or {}) != {}


def unlabelled(picture: NodePicture) -> list[Step]:
    """Where a signature has lost its label: without it nobody would find after a crash what has to be taken back."""
    why = f"the label {signature.SIGNATURE} is how what is signed is found again; it lifts nothing"
    steps = []
    signed = signature.read(picture.annotations)
    if signed and not picture.labelled:
        name, body = picture.name, signature.labelling(picture.version)
        whose = next((each for each in BackEnd if each in signed), BackEnd.HAMI)
        steps.append(Step(name, whose, "patch", "node", name, body, why))
    obj = picture.device_object
    if obj is None or koordinator.belongs_to_koordlet(obj):
        return steps
    metadata = obj["metadata"]
    if signature.read(metadata.get("annotations") or {}) and not signature.has_label(metadata):
        name, body = metadata["name"], signature.labelling(metadata["resourceVersion"])
        steps.append(Step(picture.name, BackEnd.KOORDINATOR, "patch", "device", name, body, why))
    return steps


def taken(memory: DeviceMemory, step: Step, now: float, settings: DeviceSettings) -> DeviceMemory:
    """The memory after a rule could not be made, since one of its name is there that is not ours to see.

    Somebody took our label or our annotations off it, and so made it theirs: it is neither adopted nor fought over. The node's
    taint stays, and after ``retry_seconds`` it is tried again.
    """
    device = step.body["metadata"]["annotations"][dra_objects.DEVICE]
    why = (
        f"a DeviceTaintRule {step.name} is there without our label or annotations, so it is somebody else's: "
        "delete it, and it is made anew"
    )
    refused = {**memory.refused, (step.node, device): (now + settings.retry_seconds, why)}
    return msgspec.structs.replace(memory, refused=refused)


T = TypeVar("T")


def turn(steps: Sequence[T], looks: int) -> Sequence[T]:
    """The same, beginning elsewhere in each look: a write that always fails must not hold up the others."""
    at = looks % len(steps) if steps else 0
    return [*steps[at:], *steps[:at]]


def _looks(
    devices: Mapping[str, Wanted],
    picture: NodePicture,
    given_up: Mapping[str, str],
    settings: DeviceSettings,
    now: float,
) -> dict[BackEnd, Looked]:
    """Each back-end's look; one that is not used any more takes back what is left of it."""

    def used(each: BackEnd) -> Mapping[str, Wanted]:
        return devices if each in settings.back_ends else {}

    return {
        BackEnd.DRA: dra.look(used(BackEnd.DRA), picture, given_up, settings, now),
        BackEnd.HAMI: hami.look(used(BackEnd.HAMI), picture),
        BackEnd.KOORDINATOR: koordinator.look(used(BackEnd.KOORDINATOR), picture),
    }


def _words(devices: Mapping[str, Wanted], looks: Mapping[BackEnd, Looked]) -> dict[str, str]:
    said = {
        device: [
            f"{name}: {each.words[device]}" for name, each in looks.items() if device in each.words
        ]
        for device in devices
    }
    nobody = "no back-end hands it out: the node's taint stays"
    return {device: "; ".join(each) or nobody for device, each in said.items()}


def _held(
    device: str,
    looks: Mapping[BackEnd, Looked],
    picture: NodePicture,
    settings: DeviceSettings,
    dra_version: str,
) -> bool:
    """Whether no pod can come to this device any more, whichever way pods come to it here."""
    ways = [name for name, each in looks.items() if device in each.seen]
    if not ways or any(device not in looks[name].in_force for name in ways):
        return False
    if picture.plugin_devices and ways == [BackEnd.DRA]:
        return False  # a device plugin offers them too, and knows nothing of DRA's taints
    return all(
        name in settings.vouched or (name is BackEnd.DRA and dra_version == STABLE) for name in ways
    )
