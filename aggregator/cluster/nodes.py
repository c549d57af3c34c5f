"""Nodes: what we keep of one, and what we write to one: its taint, its cordon and its conditions.

``spec.taints`` is one atomic list: any patch replaces it whole, everybody's taints included. So a
patch carries the resourceVersion that it was computed from, and a 409 means to look again.
``spec.unschedulable`` is one bool for everybody. So taint and cordon are signed: the same patch writes an
annotation that names the incident. The signature without the thing says that a person took it back.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote

import msgspec

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Json
from aggregator.policy.model import ClusterNode, Condition, ConditionStatus, Taint, TaintEffect
from aggregator.policy.pools import pool_of
from aggregator.scores.capacity import capacity_of
from contract.vocabulary import (
    CONDITIONS,
    CORDONED_BY,
    QUARANTINED_BY,
    SCORE_ANNOTATION,
    TAINT_KEY,
    UNMANAGED_LABEL,
)

NODES = "/api/v1/nodes"
OUR_CONDITIONS = frozenset(CONDITIONS.values())
STRENGTH: dict[str, int] = {"PreferNoSchedule": 0, "NoSchedule": 1, "NoExecute": 2}
GPU_RESOURCES = re.compile(r"(nvidia|amd)\.com/gpu|huawei\.com/Ascend[0-9A-Za-z]+")
"""Whole devices; shares of them (gpumem, gpucores, Ascend…-memory) are other resources."""


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What we keep of a Node object."""

    node: ClusterNode
    taints: Sequence[Any]
    """``spec.taints`` as it is, everybody's."""
    transitions: Mapping[str, str]
    """``lastTransitionTime`` of our conditions, by type."""
    score_annotation: str = ""
    """What our annotation ``fleetmedic.io/score`` says; empty: it is not there."""


def edit_taints(taints: Sequence[Any] | None, wanted: Taint | None) -> list[Any] | None:
    """The list to write so that our taint is ``wanted`` (``None``: absent), or ``None`` if it is.

    Foreign taints stay as they are, in their order; ours keeps its place.
    """
    present = list(taints or ())
    ours = [index for index, taint in enumerate(present) if _is_ours(taint)]
    if wanted is None:
        return [taint for taint in present if not _is_ours(taint)] if ours else None
    new = {"key": TAINT_KEY, "value": wanted.code, "effect": wanted.effect}
    if not ours:
        return [*present, new]
    first = present[ours[0]]
    if len(ours) == 1 and (first.get("value"), first.get("effect")) == (wanted.code, wanted.effect):
        return None
    if first.get("effect") == wanted.effect:
        new = {**first, **new}  # with its timeAdded: the effect has been there since
    return [
        new if index == ours[0] else taint
        for index, taint in enumerate(present)
        if index == ours[0] or index not in ours
    ]


def taint_patch(record: NodeRecord, wanted: Taint, incident: str) -> Json | None:
    """What has to be merged into the node so that our taint is ``wanted``, signed; ``None``: nothing.

    Raises:
        EdgeError: the signature of this incident is there and the taint is not: a person took it off.
    """
    node = record.node
    if incident and node.quarantined_by == incident and node.taint is None:
        raise EdgeError(
            f"a person took the taint of {incident} off node {node.name}: not put back unasked"
        )
    patch: Json = {}
    if (taints := edit_taints(record.taints, wanted)) is not None:
        patch["spec"] = {"taints": taints}
    if incident and node.quarantined_by != incident:
        patch["metadata"] = {"annotations": {QUARANTINED_BY: incident}}
    return patch or None


def untaint_patch(record: NodeRecord) -> Json | None:
    """What has to be merged into the node so that our taint and its signature are gone."""
    patch: Json = {}
    if (taints := edit_taints(record.taints, None)) is not None:
        patch["spec"] = {"taints": taints}
    if record.node.quarantined_by:
        patch["metadata"] = {"annotations": {QUARANTINED_BY: None}}
    return patch or None


def cordon_patch(record: NodeRecord, incident: str) -> Json | None:
    """What has to be merged into the node so that it is cordoned by us, unless somebody did so already.

    Raises:
        EdgeError: the signature of this incident is there and the cordon is not: a person uncordoned it.
    """
    node = record.node
    if node.unschedulable:
        return None
    if node.cordoned_by == incident:
        raise EdgeError(f"a person uncordoned node {node.name} after {incident}: not done again")
    return {
        "metadata": {"annotations": {CORDONED_BY: incident}},
        "spec": {"unschedulable": True},
    }


def uncordon_patch(record: NodeRecord) -> Json | None:
    """What has to be merged into the node so that no cordon of ours is left; another one stays."""
    node = record.node
    if not node.cordoned_by:
        return None
    patch: Json = {"metadata": {"annotations": {CORDONED_BY: None}}}
    if node.unschedulable:
        patch["spec"] = {"unschedulable": None}
    return patch


def _is_ours(taint: Any) -> bool:
    return isinstance(taint, Mapping) and taint.get("key") == TAINT_KEY


def reduce_node(obj: Json) -> NodeRecord:
    """What we keep of a Node as the API server serves it."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    taints = spec.get("taints") or ()
    conditions = {
        one["type"]: one
        for one in status.get("conditions") or ()
        if one.get("type") in OUR_CONDITIONS
    }
    labels = metadata.get("labels") or {}
    annotations = metadata.get("annotations") or {}
    gpus = _gpus(status.get("capacity") or {})
    node = ClusterNode(
        name=metadata["name"],
        labels=labels,
        unschedulable=bool(spec.get("unschedulable")),
        taint=_our_taint(taints),
        conditions={type_: _condition(one) for type_, one in conditions.items()},
        gpu_capacity=gpus,
        pool=pool_of(labels, has_gpus=gpus > 0),
        uid=metadata.get("uid") or "",
        boot_id=(status.get("nodeInfo") or {}).get("bootID") or "",
        quarantined_by=annotations.get(QUARANTINED_BY) or "",
        cordoned_by=annotations.get(CORDONED_BY) or "",
        managed=labels.get(UNMANAGED_LABEL) != "false",
        capacity=capacity_of(obj),
    )
    return NodeRecord(
        node=node,
        taints=taints,
        transitions={
            type_: one["lastTransitionTime"]
            for type_, one in conditions.items()
            if one.get("lastTransitionTime")
        },
        score_annotation=annotations.get(SCORE_ANNOTATION) or "",
    )


def _our_taint(taints: Sequence[Any]) -> Taint | None:
    """Ours; the strongest, should somebody have added a second one by hand."""
    ours = [one for one in taints if _is_ours(one) and one.get("effect") in STRENGTH]
    if not ours:
        return None
    worst = max(ours, key=lambda one: STRENGTH[one["effect"]])
    return Taint(worst.get("value") or "", cast("TaintEffect", worst["effect"]))


def _condition(one: Json) -> Condition:
    status = one.get("status")
    if status not in ("True", "False"):
        status = "Unknown"
    return Condition(
        cast("ConditionStatus", status), one.get("reason") or "", one.get("message") or ""
    )


def _gpus(capacity: Mapping[str, Any]) -> int:
    """Whole accelerators of any make; the kubelet writes extended resources as plain integers."""
    counts = [count for name, count in capacity.items() if GPU_RESOURCES.fullmatch(name)]
    return sum(int(count) for count in counts if str(count).isdecimal())


def node_path(node: str) -> str:
    """Where a Node lives."""
    return f"{NODES}/{quote(node, safe='')}"
