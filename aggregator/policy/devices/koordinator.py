"""Koordinator: ``health: false`` in the Device object of a node, only where koordlet does not write it. Pure.

DeviceShare gives a device that is not healthy to no new pod and leaves running ones alone. Where koordlet runs it rewrites
the object, so its own way is the one to take: files in its ``xpu-device-infos`` folder (koordlet's
``--xpu-device-infos`` collector), which are the node's side and not ours. ``spec.devices`` is one atomic list: a patch
repeats it whole, guarded by the object's version.
"""

from collections.abc import Mapping

import msgspec

from aggregator.policy.devices import signature
from aggregator.policy.devices.dra_objects import pci_address
from aggregator.policy.devices.signature import Signatures, Signed
from aggregator.policy.devices.values import BackEnd, Json, Looked, NodePicture, Step, Wanted

KOORDLET = "koordlet"


def belongs_to_koordlet(device: Json) -> bool:
    """Whether koordlet wrote any of it, owns it, or is named on it: then it is not ours to write."""
    metadata = device["metadata"]
    writers = [each.get("manager") or "" for each in metadata.get("managedFields") or ()]
    owners = [each.get("name") or "" for each in metadata.get("ownerReferences") or ()]
    named = [*(metadata.get("annotations") or {}), *(metadata.get("labels") or {}).values()]
    return any(KOORDLET in each.lower() for each in (*writers, *owners, *named))


def look(wanted: Mapping[str, Wanted], picture: NodePicture) -> Looked:
    """What is due on one node.

    Args:
        wanted: by device.
        picture: the node, read just now.
    """
    if picture.device_object is None:
        return Looked()
    seen = frozenset(wanted)
    metadata = picture.device_object["metadata"]
    signatures = signature.read(metadata.get("annotations") or {})
    if signatures is None:
        text = f"the Device's annotation {signature.SIGNATURE} cannot be read; remove it"
        return Looked(seen=seen, words=dict.fromkeys(wanted, text))
    if belongs_to_koordlet(picture.device_object):
        text = (
            "koordlet writes the node's Device, so its health is not ours to change: "
            "the node's taint stays"
        )
        steps = _handed_over(picture.name, picture.device_object, signatures)
        return Looked(seen=seen, steps=steps, words=dict.fromkeys(wanted, text))
    return _look(wanted, picture, picture.device_object, signatures)


def _handed_over(node: str, obj: Json, signatures: Signatures) -> tuple[Step, ...]:
    """Our signature is taken off an object that koordlet took over: it judges each device anew, and what is signed is not ours."""
    if not signature.of(signatures, BackEnd.KOORDINATOR):
        return ()
    why = "koordlet writes the node's Device now: each device's health is its word, and no longer signed"
    return (_patch(node, obj, signatures, {}, {}, why),)


def _look(
    wanted: Mapping[str, Wanted], picture: NodePicture, obj: Json, signatures: Signatures
) -> Looked:
    ours = signature.of(signatures, BackEnd.KOORDINATOR)
    listed = [each for each in obj.get("spec", {}).get("devices") or () if each.get("id")]
    health = {each["id"]: bool(each.get("health")) for each in listed}
    steps: list[Step] = []
    for uuid, signed in sorted(ours.items()):
        if signature.is_stale(uuid, signed, wanted):
            kept = signature.without(ours, uuid)
            # Where a person made it healthy already, or it is gone, there is only the signature to remove.
            well = {uuid: True} if health.get(uuid) is False and not signed.yielded else {}
            why = f"{signed.device} is not quarantined any more: healthy again for Koordinator"
            steps.append(_patch(picture.name, obj, signatures, kept, well, why))
    words: dict[str, str] = {}
    in_force: set[str] = set()
    for device, each in sorted(wanted.items()):
        uuid = _id_of(each, listed, ours)
        known = ours.get(uuid)
        mine = None if known is None or known.yielded else known
        if uuid not in health:
            words[device] = "Koordinator's Device of the node does not list it"
        elif not health[uuid]:
            in_force.add(device)
            words[device] = (
                "no new pods by Koordinator" if mine else "not healthy for somebody else"
            )
            if mine and mine.incident != each.incident:
                kept = signature.signing(ours, uuid, each)
                steps.append(
                    _patch(picture.name, obj, signatures, kept, {}, "for another incident")
                )
        elif known and known.incident == each.incident:
            words[device] = "a person set it healthy: not changed unasked"
            if mine:
                kept = signature.yielding(ours, uuid)
                steps.append(_patch(picture.name, obj, signatures, kept, {}, words[device]))
        else:
            kept = signature.signing(ours, uuid, each)
            why = f"{each.code} on {device}: no new pods on {uuid} by Koordinator"
            words[device] = "Koordinator is being told"
            steps.append(_patch(picture.name, obj, signatures, kept, {uuid: False}, why))
    return Looked(frozenset(wanted), frozenset(in_force), tuple(steps), words)


def _id_of(wanted: Wanted, listed: list[Json], ours: Mapping[str, Signed]) -> str:
    """The device's id in the object: by UUID, else by its bus id where the agent does not tell a UUID."""
    for each in listed:
        if wanted.uuid and each["id"].lower() == wanted.uuid.lower():
            return str(each["id"])
    if wanted.uuid:
        return ""
    address = pci_address(wanted.device.partition(":")[2])
    for each in listed:
        bus = (each.get("topology") or {}).get("busID") or ""
        if bus and pci_address(bus) == address:
            return str(each["id"])
    return next((uuid for uuid, one in sorted(ours.items()) if one.device == wanted.device), "")


def _patch(
    node: str,
    obj: Json,
    signatures: Signatures,
    kept: Mapping[str, Signed],
    health: Mapping[str, bool],
    reason: str,
) -> Step:
    metadata = obj["metadata"]
    body = signature.patch(metadata["resourceVersion"], signatures, BackEnd.KOORDINATOR, kept)
    if health:
        devices: list[Json] = msgspec.json.decode(msgspec.json.encode(obj["spec"]["devices"]))
        for each in devices:
            if each.get("id") in health:
                each["health"] = health[each["id"]]
        body["spec"] = {"devices": devices}
    return Step(node, BackEnd.KOORDINATOR, "patch", "device", metadata["name"], body, reason)
