"""The edge without a cluster: records intents instead of writing them, and shows them in the view.

This is the embedded default. Every node that reports exists; its pool is its GPU model.
"""

import asyncio
from collections.abc import Callable

import msgspec

from aggregator.cluster import EdgeError
from aggregator.policy.model import (
    ClusterNode,
    ClusterView,
    Incident,
    Intent,
    RecordEvent,
    RemoveTaint,
    SaveIncident,
    SetCondition,
    SetTaint,
    kind_of,
)

MAX_CLOSED_INCIDENTS = 500


class ObserveEdge:
    """An in-memory cluster. Reports make nodes; intents change only this picture."""

    mode = "observe"
    leading = True
    view_age_seconds = 0.0
    read_errors = 0

    def __init__(self) -> None:
        self._nodes: dict[str, ClusterNode] = {}
        self._incidents: dict[str, Incident] = {}
        self._view: ClusterView | None = None

    def saw(self, node: str, *, pool: str, gpu_capacity: int) -> None:
        """A report came from this node: it exists, with this hardware."""
        known = self._nodes.get(node)
        if known is None:
            self._nodes[node] = ClusterNode(name=node, pool=pool, gpu_capacity=gpu_capacity)
        elif not gpu_capacity and known.gpu_capacity:
            return  # its GPUs cannot be read now; it is no member of another pool for that
        elif (known.pool, known.gpu_capacity) != (pool, gpu_capacity):
            self._nodes[node] = msgspec.structs.replace(known, pool=pool, gpu_capacity=gpu_capacity)
        else:
            return
        self._view = None

    async def run(self, on_change: Callable[[], None]) -> None:
        """Nothing changes here but by reports and intents."""
        await asyncio.Event().wait()

    def view(self) -> ClusterView:
        """The picture as of now."""
        if self._view is None:
            self._view = ClusterView(
                synced=True, nodes=dict(self._nodes), incidents=dict(self._incidents)
            )
        return self._view

    def knows(self, node: str) -> bool:
        """Every node may report."""
        return True

    async def apply(self, intent: Intent) -> None:
        """Record one intent.

        Raises:
            EdgeError: no report ever came from that node.
        """
        if intent.node not in self._nodes:
            raise EdgeError(f"{kind_of(intent)}: no node {intent.node!r} ever reported")
        self._view = None
        match intent:
            case SetTaint():
                self._change(intent.node, taint=intent.taint)
            case RemoveTaint():
                self._change(intent.node, taint=None)
            case SetCondition():
                conditions = dict(self._nodes[intent.node].conditions)
                conditions[intent.type] = intent.condition
                self._change(intent.node, conditions=conditions)
            case SaveIncident():
                self._incidents[intent.incident.name] = intent.incident
                self._trim()
            case RecordEvent():
                pass  # the journal shows it; there is nobody else to tell

    async def close(self) -> None:
        """Nothing is held."""

    def _change(self, node: str, **changes: object) -> None:
        self._nodes[node] = msgspec.structs.replace(self._nodes[node], **changes)

    def _trim(self) -> None:
        closed = [each for each in self._incidents.values() if not each.open]
        for incident in sorted(closed, key=lambda each: each.closed_seconds or 0.0)[
            : max(0, len(closed) - MAX_CLOSED_INCIDENTS)
        ]:
            del self._incidents[incident.name]
