"""Pods, their budgets and the Eviction API of a real cluster. Nothing is cached: a drain acts on what is there now."""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import NoReturn
from urllib.parse import quote

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Api, Json, Query
from aggregator.cluster.errors import (
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    TooManyRequests,
)
from aggregator.cluster.pen import Pen
from aggregator.cluster.pod_objects import to_budget, to_pod
from aggregator.cluster.requeue import Requeues
from aggregator.cluster.workloads import EvictionBlocked, ServerBusy, WorkloadError
from aggregator.policy.drain.pods import DisruptionBudget, Pod

BUDGET_CAUSE = "DisruptionBudget"
TERMINATING_CAUSE = "NamespaceTerminating"
ATTEMPTS = 3


class KubernetesWorkloads:
    """The port ``Workloads`` on a real cluster.

    Args:
        api: the way to the server, for reading.
        pen: writes for us; asks before each request whether we still may.
        requeues: evicts Kueue Workloads.
    """

    def __init__(self, api: Api, pen: Pen, requeues: Requeues) -> None:
        self._api = api
        self._pen = pen
        self._requeues = requeues

    @property
    def dry_run(self) -> bool:
        """Whether the server only judges evictions."""
        return self._pen.dry_run

    async def pods_on(self, node: str) -> Sequence[Pod]:
        """Every pod bound to a node, paged."""
        items = await self._all("/api/v1/pods", {"fieldSelector": f"spec.nodeName={node}"})
        return [to_pod(one) for one in items]

    async def pods_of(self, namespace: str, labels: Mapping[str, str]) -> Sequence[Pod]:
        """The pods with these labels.

        Raises:
            WorkloadError: there are no labels, which would mean every pod of the namespace.
        """
        if not labels:
            raise WorkloadError(f"no labels name the pods wanted of namespace {namespace}")
        selector = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        items = await self._all(_pods(namespace), {"labelSelector": selector})
        return [to_pod(one) for one in items]

    async def pod(self, namespace: str, name: str) -> Pod | None:
        """One pod as it is now."""
        try:
            return to_pod(await self._api.get(pod_path(namespace, name)))
        except NotFound:
            return None
        except ApiError as error:
            _refused(error)

    async def disruption_budgets(self, namespace: str) -> Sequence[DisruptionBudget]:
        """Those of a namespace that protect anybody."""
        path = f"/apis/policy/v1/namespaces/{quote(namespace, safe='')}/poddisruptionbudgets"
        budgets = (to_budget(one) for one in await self._all(path, {}))
        return [one for one in budgets if one is not None]

    async def get(self, path: str) -> Mapping[str, object] | None:
        """Any object or collection by its API path, with its query if it has one."""
        if not path.startswith(("/api/", "/apis/")) or "/../" in path:
            raise WorkloadError(f"{path[:200]!r} is not the path of an object")
        try:
            return await self._api.get(path)
        except NotFound:
            return None
        except ApiError as error:
            if error.status == 405:
                return None
            _refused(error)

    async def evict(self, pod: Pod, *, reason: str) -> bool:
        """Evict this very pod; a pod of the same name made since is never touched.

        Raises:
            EvictionBlocked: a budget does not allow it now.
            ServerBusy: the API server asks for patience, whatever the budgets say.
            WorkloadError: anything else; also that we may not act any more.
        """
        if not pod.uid:
            raise WorkloadError(
                f"pod {pod.path} has no UID, so that nobody knows which one is meant"
            )
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        }
        path = f"{pod_path(pod.namespace, pod.name)}/eviction"
        try:
            await self._pen.create(path, body)
        except NotFound:
            return False
        except TooManyRequests as error:
            why = error.cause(BUDGET_CAUSE)
            if why is None:
                _refused(error)
            raise EvictionBlocked(f"pod {pod.path}: {why or 'a disruption budget'}") from error
        except Conflict as error:
            now = await self.pod(pod.namespace, pod.name)
            if now is None or now.uid != pod.uid:
                return False
            _refused(error)
        except Forbidden as error:
            if error.cause(TERMINATING_CAUSE) is not None:
                return False  # it goes with its namespace
            _refused(error)
        except (ApiError, EdgeError) as error:
            _refused(error)
        return True

    async def annotate(self, pod: Pod, annotations: Mapping[str, str]) -> None:
        """Add annotations to this very pod.

        Raises:
            WorkloadError: it is gone, or it could not be done.
        """
        path = pod_path(pod.namespace, pod.name)
        for _ in range(ATTEMPTS):
            now = await self.pod(pod.namespace, pod.name)
            if now is None or now.uid != pod.uid:
                raise WorkloadError(f"pod {pod.path} is gone")
            guard = {"uid": pod.uid, "resourceVersion": now.version}
            try:
                await self._pen.patch(
                    path, {"metadata": {**guard, "annotations": dict(annotations)}}
                )
            except Conflict:
                continue  # its status changed meanwhile, as that of a live pod does
            except (ApiError, EdgeError) as error:
                _refused(error)
            else:
                return
        raise WorkloadError(f"others kept changing pod {pod.path}, {ATTEMPTS} times in a row")

    async def deactivate(self, path: str, *, reason: str) -> None:
        """Evict a Kueue Workload through Kueue; returns once it waits in its queue again.

        Raises:
            WorkloadError: Kueue did not evict it in time, or we may not act any more.
        """
        try:
            await self._requeues.evict(path, reason=reason)
        except (ApiError, EdgeError) as error:
            _refused(error)

    async def _all(self, path: str, query: Query) -> list[Json]:
        """A whole collection; a second time where the server forgot between two pages where we were."""
        for attempt in (1, 2):
            found: list[Json] = []
            try:
                async with aclosing(self._api.pages(path, query=query)) as pages:
                    async for page in pages:
                        found += [one for one in page.get("items") or () if isinstance(one, dict)]
            except Gone as error:
                if attempt == 2:
                    _refused(error)
            except ApiError as error:
                _refused(error)
            else:
                return found
        raise AssertionError  # the second attempt returned or raised


def pod_path(namespace: str, name: str) -> str:
    """Where a Pod lives."""
    return f"{_pods(namespace)}/{quote(name, safe='')}"


def _pods(namespace: str) -> str:
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/pods"


def _refused(error: ApiError | EdgeError) -> NoReturn:
    """The same in the words of the port."""
    if isinstance(error, TooManyRequests):
        busy = ServerBusy(str(error), retry_after_seconds=error.retry_after_seconds)
        raise busy from error
    raise WorkloadError(str(error)) from error
