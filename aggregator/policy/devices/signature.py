"""What we signed: which device quarantines are ours. Pure.

On the Node: an annotation with JSON, ``{"<back-end>": {"<UUID>": {"device": …, "incident": …}}}``, and a label by which
such Nodes are found after a crash. HAMi's list is written in the same patch. A DeviceTaintRule is another object: the
signature is written before the rule gets an effect and removed before the rule is, so that a signature without its rule
tells that a person deleted it, whenever we crash.
"""

from collections.abc import Mapping

import msgspec

from aggregator.policy.devices.values import BackEnd, Json, Wanted
from contract.vocabulary import ANNOTATION_PREFIX

SIGNATURE = f"{ANNOTATION_PREFIX}/device-cordon"
"""Annotation on a Node, or on Koordinator's Device; a label of the same name finds the object."""

LABEL_VALUE = "fleetmedic"


class Signed(msgspec.Struct, frozen=True, omit_defaults=True):
    """One device that we took out."""

    device: str
    incident: str
    yielded: bool = False
    """A person took our quarantine off: what stands there from then on is theirs."""


Signatures = Mapping[str, Mapping[str, Signed]]
"""By back-end, by UUID."""


def read(annotations: Mapping[str, str]) -> Signatures | None:
    """What is signed; ``None``: the annotation is there and cannot be read, so nothing here is known to be ours."""
    text = annotations.get(SIGNATURE)
    if not text:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, dict[str, Signed]])
    except (msgspec.DecodeError, RecursionError):
        return None


def of(signatures: Signatures, back_end: BackEnd) -> Mapping[str, Signed]:
    """One back-end's, by UUID."""
    return signatures.get(back_end.value, {})


def patch(
    version: str, signatures: Signatures, back_end: BackEnd, kept: Mapping[str, Signed]
) -> Json:
    """A merge patch of an object's metadata so that this back-end's signatures are ``kept``, guarded by ``version``."""
    rest = {name: each for name, each in signatures.items() if name != back_end.value and each}
    whole = {**rest, back_end.value: kept} if kept else rest
    text = msgspec.json.encode(whole, order="sorted").decode() if whole else None
    return {
        "metadata": {
            "resourceVersion": version,
            "annotations": {SIGNATURE: text},
            "labels": {SIGNATURE: LABEL_VALUE if whole else None},
        }
    }


def labelling(version: str) -> Json:
    """A merge patch that puts the label back by which what is signed is found after a crash."""
    return {"metadata": {"resourceVersion": version, "labels": {SIGNATURE: LABEL_VALUE}}}


def signing(known: Mapping[str, Signed], uuid: str, wanted: Wanted) -> dict[str, Signed]:
    """With this device signed for this incident."""
    return {**known, uuid: Signed(wanted.device, wanted.incident)}


def yielding(known: Mapping[str, Signed], uuid: str) -> dict[str, Signed]:
    """With this one left to people, for as long as its incident lasts."""
    return {**known, uuid: msgspec.structs.replace(known[uuid], yielded=True)}


def without(known: Mapping[str, Signed], uuid: str) -> dict[str, Signed]:
    """Without this one."""
    return {key: each for key, each in known.items() if key != uuid}


def has_label(metadata: Json) -> bool:
    """Whether the label is there by which what is signed is found after a crash."""
    return SIGNATURE in (metadata.get("labels") or {})


def is_stale(uuid: str, signed: Signed, wanted: Mapping[str, Wanted]) -> bool:
    """Whether what was signed is not asked for any more: its device is well, or another one stands in its place."""
    asked = wanted.get(signed.device)
    if asked is not None and signed.yielded and signed.incident == asked.incident:
        return (
            False  # a person's word holds for the incident, also while another device stands there
        )
    return asked is None or bool(asked.uuid and asked.uuid.lower() != uuid.lower())
