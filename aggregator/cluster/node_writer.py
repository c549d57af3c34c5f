"""Writes to Nodes. What is written is computed in ``nodes.py``; here is how it gets there despite others.

``status.conditions`` is a map by type: server-side apply with one field manager per type touches
that type alone (one manager for all would drop those that it does not send).
"""

import asyncio
from collections.abc import Callable

from aggregator.cluster import times
from aggregator.cluster.client import Api, Json
from aggregator.cluster.errors import ApiError, Conflict
from aggregator.cluster.nodes import (
    OUR_CONDITIONS,
    NodeRecord,
    cordon_patch,
    node_path,
    taint_patch,
    uncordon_patch,
    untaint_patch,
)
from aggregator.cluster.pen import Pen
from aggregator.cluster.reflector import Entry, Reflector
from aggregator.policy.model import Condition, Taint

ATTEMPTS = 5
CONFLICT_PAUSE_SECONDS = 0.02


class NodeWriter:
    """Writes to Nodes; the common case is one request.

    Args:
        api: the way to the server, for reading anew.
        nodes: where the current state is read from and the answers are put.
        pen: writes for us.
        wall: Unix time.
        random: 0 ≤ x < 1.
    """

    def __init__(
        self,
        api: Api,
        nodes: Reflector[NodeRecord],
        *,
        pen: Pen,
        wall: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._api = api
        self._nodes = nodes
        self._pen = pen
        self._wall = wall
        self._random = random

    async def set_taint(self, node: str, wanted: Taint, incident: str) -> None:
        """Make our taint on this node ``wanted``, signed with the incident's name.

        Raises:
            EdgeError: a person took this incident's taint off meanwhile.
            ApiError: it could not be done.
        """
        await self._edit(node, lambda record: taint_patch(record, wanted, incident))

    async def remove_taint(self, node: str) -> None:
        """Take our taint and its signature off, whichever of them is there.

        Raises:
            ApiError: it could not be done.
        """
        await self._edit(node, untaint_patch)

    async def cordon(self, node: str, incident: str) -> None:
        """Make the node unschedulable, signed; one that is so already is left alone.

        Raises:
            EdgeError: a person uncordoned it meanwhile.
            ApiError: it could not be done.
        """
        await self._edit(node, lambda record: cordon_patch(record, incident))

    async def uncordon(self, node: str) -> None:
        """Take our cordon back; where a person did so already, its signature only.

        Raises:
            ApiError: it could not be done.
        """
        await self._edit(node, uncordon_patch)

    async def _edit(self, node: str, edit: Callable[[NodeRecord], Json | None]) -> None:
        """Write what ``edit`` makes of the node as it is; look again as often as others were faster."""
        entry = self._nodes.entries.get(node)
        for attempt in range(ATTEMPTS):
            entry = entry or await self._read(node)
            patch = edit(entry.value)
            if patch is None:
                return
            metadata = {**patch.get("metadata", {}), "resourceVersion": entry.version}
            try:
                written = await self._pen.patch(node_path(node), {**patch, "metadata": metadata})
            except Conflict:
                entry = None
                if (
                    attempt
                ):  # the first is mostly our own picture being a moment old: look again at once
                    await asyncio.sleep(CONFLICT_PAUSE_SECONDS * 2**attempt * self._random())
            else:
                self._keep(written)
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
        written = await self._pen.apply(
            f"{node_path(node)}/status",
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": node},
                "status": {"conditions": [_condition_object(type_, wanted, since, now)]},
            },
            manager=f"fleetmedic-{type_.lower()}",
        )
        self._keep(written)

    def _keep(self, written: Json) -> None:
        """What a dry run answers never came to be."""
        if not self._pen.dry_run:
            self._nodes.put(written)

    async def _read(self, node: str) -> Entry[NodeRecord]:
        return self._nodes.put(await self._api.get(node_path(node)))


def _condition_object(type_: str, condition: Condition, since: str, now: str) -> Json:
    return {
        "type": type_,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": since,
        "lastHeartbeatTime": now,
    }
