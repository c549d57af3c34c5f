"""The cluster edge: the only place that reads or writes Kubernetes, behind one narrow port."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from aggregator.cluster.workloads import Workloads
from aggregator.policy.model import ClusterView, Intent
from aggregator.scores.failed_pods import PodFailure
from aggregator.scores.placed import PlacedPod

NO_PODS: Mapping[str, PlacedPod] = MappingProxyType({})


class PodChange(NamedTuple):
    """What became of one pod since changes were last taken."""

    key: str
    """``namespace/name``."""
    before: PlacedPod | None
    """``None``: it was not there."""
    after: PlacedPod | None
    """``None``: it is gone, or ran to its end."""

    @property
    def new(self) -> bool:
        """Whether this pod, by UID, is seen for the first time."""
        if self.after is None:
            return False
        return self.before is None or self.before.uid != self.after.uid


class EdgeError(Exception):
    """A write was not carried out; the message says what and why. The next tick decides anew."""


class ClusterEdge(Protocol):
    """What the aggregator needs of a cluster."""

    @property
    def mode(self) -> str:
        """``kubernetes``, ``dry-run`` or ``observe``."""

    @property
    def leading(self) -> bool:
        """Whether this process may act now."""

    @property
    def view_age_seconds(self) -> float:
        """How old the picture may be: seconds since the cluster last said anything."""

    @property
    def read_errors(self) -> int:
        """Lists and watches that failed since the start."""

    @property
    def workloads(self) -> Workloads:
        """Pods and what guards them, read live."""

    @property
    def pods(self) -> Mapping[str, PlacedPod]:
        """All pods that have not ended, by ``namespace/name``; changes under the reader's hands. For scores only."""
        return NO_PODS

    @property
    def pods_known(self) -> bool:
        """Whether ``pods`` is all there are; else scores go by reports alone."""
        return False

    @property
    def pods_trouble(self) -> str:
        """Why pods are not known, or not as of now; empty: they are."""
        return "there is no cluster to read pods from"

    def take_pod_changes(self) -> Sequence[PodChange]:
        """What changed in ``pods`` since this was last called. Of use to one caller only: the engine."""
        return ()

    def take_pod_failures(self) -> Sequence[PodFailure]:
        """Pods that failed at once, as seen since this was last called; some are told more than once. Of use to one caller only."""
        return ()

    def permit(self) -> None:
        """Ask right before anything that harms: the lease by the monotonic clock, and the kill switch.

        Raises:
            EdgeError: this process may not act now; the message says why.
        """

    async def run(self, on_change: Callable[[], None]) -> None:
        """Keep the view fresh until cancelled; ``on_change`` is called after each change of it."""

    def view(self) -> ClusterView:
        """The newest consistent picture; cheap, no I/O."""

    def knows(self, node: str) -> bool:
        """Whether a report from this node has a place in the picture."""

    async def apply(self, intent: Intent) -> None:
        """Carry out one intent; the view shows it when this returns.

        Raises:
            EdgeError: it was not carried out.
        """

    async def close(self) -> None:
        """Give up leadership, if held, and let go of connections."""
