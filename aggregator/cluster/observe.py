"""The edge without a cluster: records intents instead of writing them, and shows them in the view.

This is the embedded default. Every node that reports exists; its pool is its GPU model.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from aggregator.cluster import NO_PODS, EdgeError, PodChange
from aggregator.cluster.overlay import after
from aggregator.cluster.workloads import WorkloadError
from aggregator.policy.drain.pods import DisruptionBudget, Pod
from aggregator.policy.model import (
    ClusterNode,
    ClusterView,
    Cordon,
    ForgetIncident,
    Incident,
    Intent,
    Notify,
    RecordEvent,
    RemoveTaint,
    SaveIncident,
    SetCondition,
    SetTaint,
    Uncordon,
    kind_of,
)
from aggregator.scores.failed_pods import PodFailure

MAX_CLOSED_INCIDENTS = 500


class ObserveEdge:
    """An in-memory cluster. Reports make nodes; intents change only this picture.

    Args:
        notifier: tells the webhook; ``None``: there is none.
    """

    mode = "observe"
    leading = True
    view_age_seconds = 0.0
    read_errors = 0
    pods = NO_PODS
    pods_known = False
    pods_trouble = "there is no cluster to read pods from"

    def __init__(self, *, notifier: Callable[[Notify], Awaitable[None]] | None = None) -> None:
        self._notifier = notifier
        self.workloads = ObserveWorkloads()
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

    def take_pod_changes(self) -> Sequence[PodChange]:
        """None."""
        return ()

    def take_pod_failures(self) -> Sequence[PodFailure]:
        """None."""
        return ()

    def permit(self) -> None:
        """Nothing here is ever stopped: nothing is ever written."""

    async def apply(self, intent: Intent) -> None:
        """Record one intent; the webhook alone is really told.

        Raises:
            EdgeError: no report ever came from that node, or the webhook did not take it.
        """
        if intent.node not in self._nodes:
            raise EdgeError(f"{kind_of(intent)}: no node {intent.node!r} ever reported")
        self._view = None
        match intent:
            case SetTaint() | RemoveTaint() | Cordon() | Uncordon():
                self._nodes[intent.node] = after(self._nodes[intent.node], intent)
            case SetCondition():
                conditions = dict(self._nodes[intent.node].conditions)
                conditions[intent.type] = intent.condition
                known = self._nodes[intent.node]
                self._nodes[intent.node] = msgspec.structs.replace(known, conditions=conditions)
            case SaveIncident():
                self._incidents[intent.incident.name] = intent.incident
                self._trim()
            case ForgetIncident():
                self._forget(intent.name)
            case Notify():
                await self._notify(intent)
            case RecordEvent():
                pass  # the journal shows it; there is nobody else to tell

    async def close(self) -> None:
        """Nothing is held."""

    def _forget(self, name: str) -> None:
        known = self._incidents.get(name)
        if known is not None and known.open:
            raise EdgeError(f"incident {name} is {known.phase}: only closed ones are forgotten")
        self._incidents.pop(name, None)

    async def _notify(self, intent: Notify) -> None:
        if self._notifier is None:
            raise EdgeError("nobody is told: no webhook_url is set")
        await self._notifier(intent)

    def _trim(self) -> None:
        closed = [each for each in self._incidents.values() if not each.open]
        for incident in sorted(closed, key=lambda each: each.closed_seconds or 0.0)[
            : max(0, len(closed) - MAX_CLOSED_INCIDENTS)
        ]:
            del self._incidents[incident.name]


class ObserveWorkloads:
    """No cluster, so no pods."""

    dry_run = True

    async def pods_on(self, node: str) -> Sequence[Pod]:
        """None."""
        return ()

    async def pods_of(self, namespace: str, labels: Mapping[str, str]) -> Sequence[Pod]:
        """None."""
        return ()

    async def pod(self, namespace: str, name: str) -> Pod | None:
        """None."""
        return None

    async def disruption_budgets(self, namespace: str) -> Sequence[DisruptionBudget]:
        """None."""
        return ()

    async def get(self, path: str) -> Mapping[str, object] | None:
        """None."""
        return None

    async def evict(self, pod: Pod, *, reason: str) -> bool:
        """There is no such pod."""
        return False

    async def annotate(self, pod: Pod, annotations: Mapping[str, str]) -> None:
        """There is no such pod."""
        raise WorkloadError(f"pod {pod.path}: there is no cluster")

    async def deactivate(self, path: str, *, reason: str) -> None:
        """There is no such Workload."""
        raise WorkloadError(f"{path}: there is no cluster")
