"""Reads what a plan is made from: the node's pods, the rest of their gangs, their budgets, Kueue's Workloads."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from aggregator.cluster.workloads import WorkloadError, Workloads
from aggregator.drain import kueue
from aggregator.policy.drain.gangs import Gang, gang_of
from aggregator.policy.drain.plan import of_daemon_set
from aggregator.policy.drain.plan_model import Facts
from aggregator.policy.drain.pods import DisruptionBudget, Pod

Holders = Callable[[str], Mapping[str, tuple[str, ...]] | None]
"""Node → device → ``namespace/name`` of the pods that hold it; empty: the node does not tell.

``None``: its agent was not heard yet, so that nobody knows whether it would. That is waited for.
"""


class Survey:
    """Looks at one node, again and again. Live each time but for what cannot change while its pods are there."""

    def __init__(
        self, workloads: Workloads, *, node: str, subjects: Sequence[str], holders: Holders
    ) -> None:
        self._workloads = workloads
        self._node = node
        self._subjects = tuple(subjects)
        self._holders = holders
        self._told: Mapping[str, tuple[str, ...]] = {}
        """Who held what when the node last told."""
        self._daemon_sets: dict[str, bool] = {}
        """By UID: whether it is there."""
        self._queued: dict[tuple[str, str], str] = {}
        """By gang key and the UID of a pod's owner: the path of the Workload, empty where there is none."""

    async def facts(self) -> Facts:
        """What there is now.

        Raises:
            WorkloadError: something cannot be read; nothing may be concluded.
        """
        pods = tuple(await self._workloads.pods_on(self._node))
        live = [each for each in pods if not each.finished and each.deleting_since_seconds is None]
        gangs = {gang.key: (gang, pod) for pod in live if (gang := gang_of(pod)) is not None}
        return Facts(
            node=self._node,
            pods=pods,
            members={key: await self._members(gang) for key, (gang, _) in gangs.items()},
            queued={
                key: path
                for key, (_, pod) in gangs.items()
                if (path := await self._workload(key, pod))
            },
            budgets=await self._budgets({each.namespace for each in live}),
            orphans=frozenset(await self._orphans(live)),
            subjects=self._subjects,
            holders=self._held(),
        )

    def _held(self) -> Mapping[str, tuple[str, ...]]:
        """A node that told before and is silent now has not got more pods that hold its bad device."""
        if not self._subjects:
            return {}
        told = self._holders(self._node)
        if told is None and not self._told:
            raise WorkloadError(f"the agent of {self._node} has not said yet who holds its devices")
        # Of other devices it may tell while it cannot tell of these: that says nothing about who holds these.
        about = {each: told[each] for each in self._subjects if each in told} if told else {}
        self._told = about or self._told
        return self._told

    async def _members(self, gang: Gang) -> tuple[Pod, ...]:
        if not gang.labels:
            return ()  # an annotation cannot be searched for
        read = await self._workloads.pods_of(gang.namespace, gang.labels)
        return tuple(
            pod
            for pod in read
            if not pod.finished
            and pod.deleting_since_seconds is None
            and (its := gang_of(pod)) is not None
            and its.key == gang.key
        )

    async def _workload(self, key: str, pod: Pod) -> str:
        known = (key, pod.owner.uid if pod.owner else pod.uid)
        if known not in self._queued:
            self._queued[known] = await kueue.workload_of(self._workloads, pod)
        return self._queued[known]

    async def _budgets(self, namespaces: Iterable[str]) -> tuple[DisruptionBudget, ...]:
        found: list[DisruptionBudget] = []
        for namespace in sorted(namespaces):
            found += await self._workloads.disruption_budgets(namespace)
        return tuple(found)

    async def _orphans(self, pods: Sequence[Pod]) -> list[str]:
        """DaemonSets whose pods outlived them."""
        owners = {
            pod.owner.uid: (pod.namespace, pod.owner)
            for pod in pods
            if pod.owner is not None and of_daemon_set(pod)
        }
        for uid, (namespace, owner) in owners.items():
            if uid not in self._daemon_sets:
                self._daemon_sets[uid] = (
                    kueue.can_be(owner)
                    and await self._workloads.get(kueue.path_of(namespace, owner)) is not None
                )
        return [uid for uid in owners if not self._daemon_sets[uid]]
