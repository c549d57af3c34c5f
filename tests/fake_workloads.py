"""A strict stand-in for pods, budgets and the Eviction API, in memory and in the loop's own time.

`tests/integration/drain/test_conformance.py` passes against it and against the real API server.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec

from aggregator.cluster.workloads import EvictionBlocked, ServerBusy, WorkloadError
from aggregator.policy.drain.pods import DisruptionBudget, Owner, Pod
from tests.support import START

JOB = Owner("batch/v1", "Job", "job", "job-uid")
WEB = Owner("apps/v1", "ReplicaSet", "web-5d9c", "rs-uid")
_uids = itertools.count()


def pod(name: str = "p", *, node: str = "n1", namespace: str = "team-a", **fields: Any) -> Pod:
    """A running pod of a ReplicaSet, with one accelerator."""
    given = {"uid": f"uid-{next(_uids)}", "owner": WEB, "devices": 1, "grace_seconds": 30.0}
    return Pod(**{"name": name, "node": node, "namespace": namespace, **given, **fields})


class FakeWorkloads:
    """The cluster. ``log`` has every call, with the loop's time."""

    def __init__(self, *pods: Pod, dry_run: bool = False) -> None:
        self.dry_run = dry_run
        self.down = ""
        """Set: nothing can be reached, for this reason."""
        self.failing: dict[str, WorkloadError] = {}
        """Pod path → what evicting it answers."""
        self.objects: dict[str, dict[str, Any]] = {}
        """By API path."""
        self.replacement: Callable[[Pod], Pod | None] = lambda gone: None
        """What its controller makes as soon as a pod is being deleted."""
        self.ready_after_seconds = 20.0
        self.log: list[tuple[float, str, str]] = []
        self.reasons: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._pods: dict[str, Pod] = {}
        self._budgets: list[tuple[DisruptionBudget, int]] = []
        self._members: dict[str, Callable[[Pod], bool]] = {}
        for each in pods:
            self.add(each)

    # What a test does to the cluster.

    def add(self, one: Pod) -> Pod:
        self._pods[one.path] = one
        return one

    def change(self, path: str, **fields: Any) -> Pod:
        self._pods[path] = msgspec.structs.replace(self._pods[path], **fields)
        return self._pods[path]

    def remove(self, path: str) -> None:
        del self._pods[path]

    def end(self, path: str, uid: str) -> None:
        """Its containers are dead: the object goes, if it is still this one."""
        now = self._pods.get(path)
        if now is not None and now.uid == uid:
            del self._pods[path]

    def budget(
        self,
        name: str,
        *,
        needs: int,
        namespace: str = "team-a",
        unhealthy: bool = False,
        **labels: str,
    ) -> None:
        """A PodDisruptionBudget with ``minAvailable``."""
        made = DisruptionBudget(
            namespace=namespace, name=name, match_labels=labels, always_evicts_unhealthy=unhealthy
        )
        self._budgets.append((made, needs))

    def lift_budgets(self) -> None:
        self._budgets.clear()

    def queued(
        self, path: str, owner: str, members: Callable[[Pod], bool], *, labelled: bool = True
    ) -> None:
        """An admitted Kueue Workload of the object with this UID."""
        collection, _, name = path.rpartition("/")
        labels = {"kueue.x-k8s.io/job-uid": owner} if labelled else {}
        item = {"metadata": {"name": name, "labels": labels, "ownerReferences": [{"uid": owner}]}}
        self.objects[path] = item
        self.objects.setdefault(collection, {"items": []})["items"].append(item)
        self._members[path] = members

    def seen(self, verb: str) -> list[str]:
        """Paths of the calls of one kind, in order."""
        return [path for _, each, path in self.log if each == verb]

    def annotation(self, path: str, key: str) -> str | None:
        return self._pods[path].annotations.get(key)

    @property
    def paths(self) -> list[str]:
        return list(self._pods)

    # The port.

    async def pods_on(self, node: str) -> Sequence[Pod]:
        await self._call("list", node)
        return [each for each in self._pods.values() if each.node == node]

    async def pods_of(self, namespace: str, labels: Mapping[str, str]) -> Sequence[Pod]:
        if not labels:
            raise WorkloadError("no labels")
        await self._call("members", namespace)
        return [
            each
            for each in self._pods.values()
            if each.namespace == namespace and labels.items() <= each.labels.items()
        ]

    async def pod(self, namespace: str, name: str) -> Pod | None:
        await self._call("get", f"{namespace}/{name}")
        return self._pods.get(f"{namespace}/{name}")

    async def disruption_budgets(self, namespace: str) -> Sequence[DisruptionBudget]:
        await self._call("budgets", namespace)
        return [
            self._now(each, needs) for each, needs in self._budgets if each.namespace == namespace
        ]

    async def get(self, path: str) -> Mapping[str, object] | None:
        await self._call("object", path)
        plain, _, query = path.partition("?labelSelector=")
        found = self.objects.get(plain)
        if found is None or not query:
            return found
        key, _, value = unquote(query).partition("=")
        items = found.get("items", [])
        return {
            "items": [
                each for each in items if each["metadata"].get("labels", {}).get(key) == value
            ]
        }

    async def evict(self, pod: Pod, *, reason: str) -> bool:
        await self._call("evict", pod.path)
        self.reasons.append(reason)
        if pod.path in self.failing:
            raise self.failing[pod.path]
        now = self._pods.get(pod.path)
        if now is None or now.uid != pod.uid:
            return False
        if not now.finished and now.phase != "Pending" and now.deleting_since_seconds is None:
            self._ask_budgets(now)
        if not self.dry_run:
            self._delete(now)
        return True

    async def annotate(self, pod: Pod, annotations: Mapping[str, str]) -> None:
        await self._call("annotate", pod.path)
        now = self._pods.get(pod.path)
        if now is None or now.uid != pod.uid:
            raise WorkloadError(f"pod {pod.path} is gone")
        if not self.dry_run:
            self.change(pod.path, annotations={**now.annotations, **annotations})

    async def deactivate(self, path: str, *, reason: str) -> None:
        await self._call("deactivate", path)
        if self.dry_run:
            return
        going = [each for each in self._pods.values() if self._members[path](each)]
        for each in going:
            self._delete(each)
        await asyncio.sleep(max((each.grace_seconds for each in going), default=0.0))

    # How it works.

    async def _call(self, verb: str, path: str) -> None:
        self.log.append((asyncio.get_running_loop().time(), verb, path))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0.01)
        finally:
            self.in_flight -= 1
        if self.down:
            raise WorkloadError(self.down)

    def _covering(self, one: Pod) -> list[tuple[DisruptionBudget, int]]:
        return [
            (budget, needs)
            for budget, needs in self._budgets
            if budget.namespace == one.namespace
            and budget.match_labels.items() <= one.labels.items()
        ]

    def _now(self, budget: DisruptionBudget, needs: int) -> DisruptionBudget:
        healthy = sum(
            each.ready and each.deleting_since_seconds is None and not each.finished
            for each in self._pods.values()
            if each.namespace == budget.namespace
            and budget.match_labels.items() <= each.labels.items()
        )
        return msgspec.structs.replace(
            budget,
            current_healthy=healthy,
            desired_healthy=needs,
            disruptions_allowed=max(0, healthy - needs),
        )

    def _ask_budgets(self, one: Pod) -> None:
        covering = self._covering(one)
        if len(covering) > 1:
            raise WorkloadError("500: this pod has more than one PodDisruptionBudget")
        for budget, needs in covering:
            now = self._now(budget, needs)
            if not one.ready and (
                now.always_evicts_unhealthy or now.current_healthy >= now.desired_healthy > 0
            ):
                return
            if now.disruptions_allowed < 1:
                raise EvictionBlocked(f"pod {one.path}: the budget {budget.name} needs {needs}")

    def _delete(self, one: Pod) -> None:
        if one.deleting_since_seconds is not None:
            return
        loop = asyncio.get_running_loop()
        self.change(one.path, deleting_since_seconds=START + loop.time(), ready=False)
        loop.call_later(one.grace_seconds, self.end, one.path, one.uid)
        made = self.replacement(one)
        if made is not None and made.path != one.path:
            self.add(msgspec.structs.replace(made, ready=False))
            loop.call_later(self.ready_after_seconds, self._get_ready, made.path)

    def _get_ready(self, path: str) -> None:
        if path in self._pods:
            self.change(path, ready=True)


def busy(seconds: float) -> ServerBusy:
    """The API server asks for patience, about nobody's budget."""
    return ServerBusy("the API server is busy", retry_after_seconds=seconds)
