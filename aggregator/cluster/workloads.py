"""What a drain needs of the cluster: pods, their gangs, their disruption budgets, and the Eviction API. The port."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from aggregator.policy.drain.pods import DisruptionBudget, Pod


class EvictionBlocked(Exception):  # noqa: N818 - it is no error: the API server asks for patience
    """429: a disruption budget does not allow it now. The message names the budget and its numbers."""


class WorkloadError(Exception):
    """The API server refused, or cannot be reached; the message says what and why."""


class ServerBusy(WorkloadError):  # noqa: N818 - named after what the server says
    """429 that is about the API server and not about a budget: try again after ``retry_after_seconds``."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Workloads(Protocol):
    """Live reads and evictions; nothing here is cached. Each write asks first whether this process may still act."""

    @property
    def dry_run(self) -> bool:
        """Whether writes are only tried by the API server: an eviction that succeeds leaves its pod where it is."""

    async def pods_on(self, node: str) -> Sequence[Pod]:
        """Every pod bound to a node, paged."""

    async def pods_of(self, namespace: str, labels: Mapping[str, str]) -> Sequence[Pod]:
        """The pods with these labels: the rest of a gang."""

    async def pod(self, namespace: str, name: str) -> Pod | None:
        """One pod as it is now; ``None``: there is none."""

    async def disruption_budgets(self, namespace: str) -> Sequence[DisruptionBudget]:
        """Those of a namespace."""

    async def get(self, path: str) -> Mapping[str, object] | None:
        """Any object by its API path (an owner of an owner, a Workload); ``None``: none, or that API is not there."""

    async def evict(self, pod: Pod, *, reason: str) -> bool:
        """Evict this very pod (by UID); False where it is gone already.

        Raises:
            EvictionBlocked: a budget does not allow it now.
            WorkloadError: anything else.
        """

    async def annotate(self, pod: Pod, annotations: Mapping[str, str]) -> None:
        """Add annotations to this very pod: how a checkpoint is asked for."""

    async def deactivate(self, path: str, *, reason: str) -> None:
        """Evict a Kueue Workload through Kueue, so that it is queued anew with its quota."""
