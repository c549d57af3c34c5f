"""HAMi: UUIDs in a comma-separated annotation of the Node, beside those that people put there. Pure.

HAMi's scheduler reads the list at each placement and leaves running pods alone (Project-HAMi/HAMi pull request 2298,
2026-08-21). An older HAMi does not know the annotation and ignores it silently: nothing on a Node tells which HAMi it is.
"""

from collections.abc import Mapping

import msgspec

from aggregator.policy.devices import signature
from aggregator.policy.devices.signature import Signatures, Signed
from aggregator.policy.devices.values import BackEnd, Looked, NodePicture, Step, Wanted

CORDON = "hami.io/device-cordon"
REGISTER = "hami.io/node-nvidia-register"


def registered(text: str) -> tuple[str, ...]:
    """UUIDs of the GPUs in HAMi's register: JSON, or the older ``uuid,count,…:uuid,count,…``.

    What cannot be read has none; it is another's text, nested as deep as they like.
    """
    text = text.strip()
    if not text.startswith("["):
        entries = [each.split(",") for each in text.split(":") if each.strip()]
        return tuple(each[0].strip() for each in entries if len(each) > 1 and each[0].strip())
    try:
        listed = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return ()
    found = [each.get("id") for each in listed if isinstance(each, dict)]
    return tuple(each for each in found if isinstance(each, str) and each)


def cordoned(text: str) -> list[str]:
    """UUIDs in the list, as HAMi reads it: trimmed, empty ones passed over."""
    return [each for part in text.split(",") if (each := part.strip())]


def added(text: str, uuid: str) -> str:
    """The list with one more UUID; what is there stays as it is written."""
    if uuid in cordoned(text):
        return text
    return f"{text},{uuid}" if text.strip() else uuid


def removed(text: str, uuid: str) -> str | None:
    """The list without this UUID, everything else as it is written; ``None``: nothing is left."""
    kept = [part for part in text.split(",") if part.strip() != uuid]
    return ",".join(kept) if any(part.strip() for part in kept) else None


def look(wanted: Mapping[str, Wanted], picture: NodePicture) -> Looked:
    """What is due on one node.

    Args:
        wanted: by device.
        picture: the node, read just now.
    """
    uuids = {each.lower(): each for each in registered(picture.annotations.get(REGISTER) or "")}
    signatures = signature.read(picture.annotations)
    if signatures is None:
        text = f"the Node's annotation {signature.SIGNATURE} cannot be read; remove it"
        return Looked(
            seen=frozenset(wanted) if uuids else frozenset(), words=dict.fromkeys(wanted, text)
        )
    ours = signature.of(signatures, BackEnd.HAMI)
    there = cordoned(picture.annotations.get(CORDON) or "")
    steps: list[Step] = [
        _take_off(picture, signatures, ours, uuid)
        for uuid, signed in sorted(ours.items())
        if signature.is_stale(uuid, signed, wanted)
    ]
    words: dict[str, str] = {}
    in_force: set[str] = set()
    for device, each in sorted(wanted.items()):
        if not uuids:
            continue
        uuid = uuids.get(each.uuid.lower(), "") or _signed_for(each, ours)
        signed = ours.get(uuid)
        if not uuid:
            what = each.uuid or "a device whose UUID its agent does not tell"
            words[device] = f"HAMi's register of the node does not list {what}"
        elif uuid in there:
            in_force.add(device)
            mine = None if signed is None or signed.yielded else signed
            words[device] = "no new pods by HAMi" if mine else "a person cordoned it in HAMi"
            if mine and mine.incident != each.incident:
                steps.append(_put_on(picture, signatures, ours, uuid, each))
        elif signed and signed.incident == each.incident:
            words[device] = f"a person took it off {CORDON}: not put back unasked"
            if not signed.yielded:
                kept = signature.yielding(ours, uuid)
                steps.append(_sign(picture, signatures, kept, words[device]))
        else:
            words[device] = "HAMi is being told"
            steps.append(_put_on(picture, signatures, ours, uuid, each))
    seen = frozenset(wanted) if uuids else frozenset()
    return Looked(seen, frozenset(in_force), tuple(steps), words)


def _signed_for(wanted: Wanted, ours: Mapping[str, Signed]) -> str:
    """The UUID that we took out for this device.

    A GPU that fell off the bus leaves the register, and its agent may not say any more what it was.
    """
    found = [uuid for uuid, each in sorted(ours.items()) if each.device == wanted.device]
    return next((each for each in found if wanted.uuid in ("", each)), "")


def _put_on(
    picture: NodePicture,
    signatures: Signatures,
    ours: Mapping[str, Signed],
    uuid: str,
    wanted: Wanted,
) -> Step:
    reason = f"{wanted.code} on {wanted.device}: no new pods on {uuid} by HAMi"
    step = _sign(picture, signatures, signature.signing(ours, uuid, wanted), reason)
    text = picture.annotations.get(CORDON) or ""
    step.body["metadata"]["annotations"][CORDON] = added(text, uuid)
    return step


def _take_off(
    picture: NodePicture, signatures: Signatures, ours: Mapping[str, Signed], uuid: str
) -> Step:
    reason = f"{ours[uuid].device} is not quarantined any more: pods again on {uuid} by HAMi"
    step = _sign(picture, signatures, signature.without(ours, uuid), reason)
    text = picture.annotations.get(CORDON) or ""
    if uuid in cordoned(text) and not ours[uuid].yielded:
        step.body["metadata"]["annotations"][CORDON] = removed(text, uuid)
    return step


def _sign(
    picture: NodePicture, signatures: Signatures, kept: Mapping[str, Signed], reason: str
) -> Step:
    body = signature.patch(picture.version, signatures, BackEnd.HAMI, kept)
    return Step(picture.name, BackEnd.HAMI, "patch", "node", picture.name, body, reason)
