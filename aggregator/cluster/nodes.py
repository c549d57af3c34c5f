"""Nodes: what we keep of one, and the two things we write to one, its taint and its conditions.

``spec.taints`` is one atomic list: any patch replaces it whole, everybody's taints included. So a
patch carries the resourceVersion that it was computed from, and a 409 means to look again.
``status.conditions`` is a map by type: server-side apply with one field manager per type touches
that type alone (one manager for all would drop those that it does not send).
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote

import msgspec

from aggregator.cluster import times
from aggregator.cluster.client import Api, Json
from aggregator.cluster.errors import ApiError, Conflict
from aggregator.cluster.reflector import Entry, Reflector
from aggregator.policy.model import ClusterNode, Condition, ConditionStatus, Taint, TaintEffect
from aggregator.policy.pools import pool_of
from contract.vocabulary import CONDITIONS, TAINT_KEY

NODES = "/api/v1/nodes"
OUR_CONDITIONS = frozenset(CONDITIONS.values())
STRENGTH: dict[str, int] = {"PreferNoSchedule": 0, "NoSchedule": 1, "NoExecute": 2}
GPU_RESOURCES = re.compile(r"(nvidia|amd)\.com/gpu|huawei\.com/Ascend[0-9A-Za-z]+")
"""Whole devices; shares of them (gpumem, gpucores, Ascend…-memory) are other resources."""
ATTEMPTS = 5
CONFLICT_PAUSE_SECONDS = 0.02


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What we keep of a Node object."""

    node: ClusterNode
    uid: str
    taints: Sequence[Any]
    """``spec.taints`` as it is, everybody's."""
    transitions: Mapping[str, str]
    """``lastTransitionTime`` of our conditions, by type."""


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
    gpus = _gpus(status.get("capacity") or {})
    node = ClusterNode(
        name=metadata["name"],
        labels=labels,
        unschedulable=bool(spec.get("unschedulable")),
        taint=_our_taint(taints),
        conditions={type_: _condition(one) for type_, one in conditions.items()},
        gpu_capacity=gpus,
        pool=pool_of(labels, has_gpus=gpus > 0),
    )
    return NodeRecord(
        node=node,
        uid=metadata.get("uid") or "",
        taints=taints,
        transitions={
            type_: one["lastTransitionTime"]
            for type_, one in conditions.items()
            if one.get("lastTransitionTime")
        },
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


class NodeWriter:
    """Writes to Nodes; the common case is one request.

    Args:
        api: the way to the server.
        nodes: where the current state is read from and the answers are put.
        permit: called right before each write; raises when we may not write any more.
        wall: Unix time.
        random: 0 ≤ x < 1.
    """

    def __init__(
        self,
        api: Api,
        nodes: Reflector[NodeRecord],
        *,
        permit: Callable[[], None],
        wall: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._api = api
        self._nodes = nodes
        self._permit = permit
        self._wall = wall
        self._random = random

    async def set_taint(self, node: str, wanted: Taint | None) -> None:
        """Make our taint on this node ``wanted``, or absent.

        Raises:
            ApiError: it could not be done.
        """
        entry = self._nodes.entries.get(node)
        for attempt in range(ATTEMPTS):
            entry = entry or await self._read(node)
            taints = edit_taints(entry.value.taints, wanted)
            if taints is None:
                return
            guard = {"resourceVersion": entry.version}
            self._permit()
            try:
                written = await self._api.patch(
                    node_path(node), {"metadata": guard, "spec": {"taints": taints}}
                )
            except Conflict:
                entry = None
                if (
                    attempt
                ):  # the first is mostly our own picture being a moment old: look again at once
                    await asyncio.sleep(CONFLICT_PAUSE_SECONDS * 2**attempt * self._random())
            else:
                self._nodes.put(written)
                return
        raise Conflict(f"others kept changing node {node}, {ATTEMPTS} times in a row", status=409)

    async def set_condition(self, node: str, type_: str, wanted: Condition) -> None:
        """State one of our conditions; its transition time moves only when the status flips.

        Raises:
            ApiError: it could not be done.
        """
        if type_ not in OUR_CONDITIONS:
            raise ApiError(f"{type_} is not a condition of ours, so it is not ours to write")
        entry = self._nodes.entries.get(node) or await self._read(node)
        record = entry.value
        known = record.node.conditions.get(type_)
        if known == wanted:
            return
        now = times.whole(self._wall())
        flipped = known is None or known.status != wanted.status
        since = now if flipped else record.transitions.get(type_, now)
        self._permit()
        written = await self._api.apply(
            f"{node_path(node)}/status",
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": node},
                "status": {"conditions": [_condition_object(type_, wanted, since, now)]},
            },
            manager=f"fleetmedic-{type_.lower()}",
        )
        self._nodes.put(written)

    async def _read(self, node: str) -> Entry[NodeRecord]:
        return self._nodes.put(await self._api.get(node_path(node)))


def node_path(node: str) -> str:
    """Where a Node lives."""
    return f"{NODES}/{quote(node, safe='')}"


def _condition_object(type_: str, condition: Condition, since: str, now: str) -> Json:
    return {
        "type": type_,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": since,
        "lastHeartbeatTime": now,
    }
