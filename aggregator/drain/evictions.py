"""Takes one pod, or one gang of Kueue's, off a node: looked at again right before, and tried until the deadline."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from aggregator.cluster.workloads import EvictionBlocked, ServerBusy, WorkloadError
from aggregator.drain.desk import Desk
from aggregator.policy.drain.gangs import INFERENCE_SERVICE
from aggregator.policy.drain.plan_model import GangPlan, PodPlan
from aggregator.policy.drain.pods import Pod
from aggregator.policy.drain.refusals import covering, in_words

SETTLE_SECONDS = 3.0
"""After a replica was last seen going, for its replacement to be listed."""

_COMPONENT = "component"
"""KServe's label: ``predictor``, ``transformer`` … each replaced for itself."""


class NotYet(Exception):  # noqa: N818 - it is no error
    """Something of ours says to wait; the message says for what."""


class Report(NamedTuple):
    """Where one removal tells how it goes."""

    accepted: Callable[[str], None]
    """Takes the UID of a pod that the API server agreed to remove, or that is gone."""
    held_up: Callable[[str, str], None]
    """Takes a UID, and in words what holds it up."""


class Remover:
    """Removes pods for one drain.

    Args:
        desk: what all drains share.
        node: the node that is drained.
        deadline: Unix time after which nothing is begun any more; asked anew each time.
        reason: for the API server's audit and for people.
        report: where to tell.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        node: str,
        deadline: Callable[[], float],
        reason: Callable[[], str],
        report: Report,
    ) -> None:
        self._desk = desk
        self._node = node
        self._deadline = deadline
        self._reason = reason
        self._report = report

    async def pod(self, plan: PodPlan) -> None:
        """Evict one pod, patiently. Returns once it is accepted, gone, another one, or too late."""
        uid = plan.pod.uid

        async def once() -> None:
            service = _service(plan.pod)
            if service:
                async with self._desk.lock(service):
                    await self._one_replica(plan, service)
            else:
                await self._evict(plan.pod)
            self._report.accepted(uid)

        await self._patiently(once, [uid], plan.pod)

    async def gang(self, plan: GangPlan, pods: Sequence[Pod]) -> None:
        """Have Kueue take back a gang, once for all nodes that it stands on."""
        desk, key = self._desk, plan.gang.key
        uids = [pod.uid for pod in pods]

        async def once() -> None:
            async with desk.lock(key):
                await self._take_back(plan, pods)
            for uid in uids:
                self._report.accepted(uid)

        await self._patiently(once, uids, None)

    async def _take_back(self, plan: GangPlan, pods: Sequence[Pod]) -> None:
        desk = self._desk
        await desk.bucket.take(len(plan.members))
        async with desk.slots:
            here = [await self._still_here(pod) for pod in pods]
        if not any(here):
            return  # taken back for another node meanwhile
        self._in_time()
        for pod in pods:
            self._report.held_up(pod.uid, f"of {plan.gang.title} being taken back by Kueue")
        # No slot is held: Kueue takes as long as the grace periods of all its pods.
        await desk.workloads.deactivate(plan.workload, reason=self._reason())

    async def _evict(self, pod: Pod) -> None:
        """One try. Another pod of the same name, here or elsewhere, is never touched."""
        await self._desk.bucket.take()
        async with self._desk.slots:
            live = await self._still_here(pod)
            if live is not None:
                self._in_time()
                await self._desk.workloads.evict(live, reason=self._reason())

    async def _still_here(self, pod: Pod) -> Pod | None:
        """The very pod as it is now; ``None``: there is nothing to evict any more."""
        live = await self._desk.workloads.pod(pod.namespace, pod.name)
        if live is None or live.uid != pod.uid or live.node != self._node:
            return None
        return None if live.finished or live.deleting_since_seconds is not None else live

    def _in_time(self) -> None:
        if self._desk.wall() >= self._deadline():
            raise NotYet("the deadline passed")

    async def _one_replica(self, plan: PodPlan, service: str) -> None:
        """Evict a replica of a KServe service if the one before it is gone and, without a budget, replaced."""
        pod = plan.pod
        labels = {
            key: pod.labels[key] for key in (INFERENCE_SERVICE, _COMPONENT) if key in pod.labels
        }
        async with self._desk.slots:
            others = [
                each
                for each in await self._desk.workloads.pods_of(pod.namespace, labels)
                if each.uid != pod.uid and not each.finished
            ]
        going = [each for each in others if each.deleting_since_seconds is not None]
        now = asyncio.get_running_loop().time()
        if going:
            self._desk.settles[service] = now + SETTLE_SECONDS
            raise NotYet(f"{service}: one replica at a time, {going[0].path} is still going")
        if not plan.budgets and now < self._desk.settles.get(service, now):
            raise NotYet(f"{service}: one replica at a time, another just went")
        unready = [each for each in others if not each.ready]
        if unready and pod.ready and not plan.budgets:
            raise NotYet(f"{service}: one replica at a time, {unready[0].path} is not ready yet")
        await self._evict(pod)
        if not self._desk.workloads.dry_run:
            self._desk.settles[service] = now + SETTLE_SECONDS

    async def _patiently(
        self, once: Callable[[], Awaitable[None]], uids: Sequence[str], pod: Pod | None
    ) -> None:
        """Again and again until it is done or the deadline passed; errors of one hold up nobody else."""
        tries = 0
        while self._desk.wall() < self._deadline():
            least = 0.0
            try:
                return await once()
            except EvictionBlocked as blocked:
                why = await self._budget(pod) or str(blocked)
                text = f"blocked by {why}"
            except NotYet as not_yet:
                text, tries = f"waiting: {not_yet}", 0
            except ServerBusy as busy:
                text, least = str(busy), busy.retry_after_seconds
            except WorkloadError as error:
                text = str(error)
            for uid in uids:
                self._report.held_up(uid, text)
            await asyncio.sleep(max(least, self._desk.backoff_seconds(tries)))
            tries += 1
        return None

    async def _budget(self, pod: Pod | None) -> str:
        """The budget that blocks a pod, with its numbers of now; empty where it cannot be told."""
        if pod is None:
            return ""
        try:
            async with self._desk.slots:
                budgets = await self._desk.workloads.disruption_budgets(pod.namespace)
        except WorkloadError:
            return ""
        return "; ".join(in_words(each) for each in covering(pod, budgets))


def _service(pod: Pod) -> str:
    """Whose replica it is: ``InferenceService ns/name``; empty: nobody's."""
    name = pod.labels.get(INFERENCE_SERVICE)
    component = pod.labels.get(_COMPONENT)
    return (
        f"InferenceService {pod.namespace}/{name}{f' {component}' if component else ''}"
        if name
        else ""
    )
