"""A running edge that counts its requests, and what a test reads and writes behind its back."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aggregator.cluster.client import Api, Json
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.errors import Conflict
from aggregator.cluster.kubernetes import KubernetesEdge, KubernetesSettings
from aggregator.cluster.lease import LeaseSettings
from aggregator.policy.model import ClusterView, Intent, Notify
from tests.controlplane.cluster import ControlPlane

INCIDENTS = "/apis/fleetmedic.io/v1alpha1/incidents"
WAIT_S = 15.0
"""How long a test waits for what a watch brings."""


class SpyApi(Api):
    """The real way to the server; counts writes, and lets a test do something right before one."""

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__(Credentials(kubeconfig))
        self.requests: list[tuple[str, str]] = []
        self.refused: list[tuple[str, str]] = []
        self.refusals: list[str] = []
        self.before_patch: Callable[[], Any] | None = None

    async def _send(self, method: str, path: str, *args: Any, **kwargs: Any) -> bytes:
        if "/leases" not in path:
            self.requests.append((method, path))
        try:
            return await super()._send(method, path, *args, **kwargs)
        except Conflict as error:
            self.refused.append((method, path))
            self.refusals.append(str(error))
            raise

    def accepted(self, method: str) -> list[str]:
        """The paths of the requests that no conflict sent back.

        Kubernetes' own controllers write to a test's node too, whenever they like (the taint of a cordon,
        for one), so how often we were too late is not for a test to say.
        """
        sent = list(self.requests)
        for each in self.refused:
            if each in sent:
                sent.remove(each)
        return [path for did, path in sent if did == method]

    async def patch(self, path: str, body: Mapping[str, Any], *, dry_run: bool = False) -> Json:
        if self.before_patch is not None:
            act, self.before_patch = self.before_patch, None
            await act()
        return await super().patch(path, body, dry_run=dry_run)


async def until(changed: asyncio.Event, holds: Callable[[], object]) -> None:
    """Wait until something holds; ``changed`` is set whenever that may have become so."""
    async with asyncio.timeout(WAIT_S):
        while not holds():
            changed.clear()
            await changed.wait()


@asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run something beside the test, cancelled at the end."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Watched:
    """A running edge, and a way to wait until its view is as wanted."""

    def __init__(self, edge: KubernetesEdge, api: SpyApi) -> None:
        self.edge = edge
        self.api = api
        self.changed = asyncio.Event()

    async def until(self, predicate: Callable[[ClusterView], object]) -> ClusterView:
        await until(self.changed, lambda: predicate(self.edge.view()))
        return self.edge.view()

    async def apply(self, *intents: Intent) -> None:
        for intent in intents:
            await self.edge.apply(intent)


def settings(plane: ControlPlane, **changes: Any) -> KubernetesSettings:
    lease = LeaseSettings(namespace="default", name=f"t-{uuid.uuid4().hex[:8]}")
    return KubernetesSettings(kubeconfig=plane.kubeconfig, **{"lease": lease, **changes})


@asynccontextmanager
async def running(
    plane: ControlPlane,
    wall: Callable[[], float] = time.time,
    notifier: Callable[[Notify], Awaitable[None]] | None = None,
    **changes: Any,
) -> AsyncIterator[Watched]:
    api = SpyApi(plane.kubeconfig)
    edge = KubernetesEdge(settings(plane, **changes), api=api, wall=wall, notifier=notifier)
    watched = Watched(edge, api)
    try:
        async with background(edge.run(watched.changed.set)):
            await watched.until(lambda view: view.synced and edge.leading)
            api.requests.clear()
            yield watched
    finally:
        await edge.close()


async def read(plane: ControlPlane, path: str) -> Json:
    status, obj = await plane.request("GET", path)
    assert status == 200, obj
    return obj
