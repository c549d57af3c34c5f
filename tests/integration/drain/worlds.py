"""One cluster in memory, one real: the same few things done to both."""

import itertools
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

from aggregator.cluster.client import Api
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.kubernetes_workloads import KubernetesWorkloads
from aggregator.cluster.pen import Pen
from aggregator.cluster.requeue import Requeues
from aggregator.cluster.workloads import Workloads
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.sandbox import Sandbox
from tests.fake_workloads import FakeWorkloads, pod

NODE = "n1"
_numbers = itertools.count()


class World(Protocol):
    """What a test does to a cluster."""

    namespace: str
    node: str

    @property
    def workloads(self) -> Workloads:
        """The port."""

    @property
    def dry(self) -> Workloads:
        """The same cluster, to which nothing is done."""

    async def pod(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """A running and Ready pod without a controller on the node, that ends soon after its deletion."""

    async def remove(self, name: str) -> None:
        """Gone at once."""

    async def budget(self, name: str, *, needs: int, app: str) -> None:
        """A PodDisruptionBudget, counted already."""


class InMemory:
    """The stand-in."""

    namespace = "team-a"
    node = NODE

    def __init__(self) -> None:
        self.workloads = FakeWorkloads()
        self.dry = FakeWorkloads(dry_run=True)  # on the same pods and budgets
        self.dry._pods = self.workloads._pods
        self.dry._budgets = self.workloads._budgets

    async def pod(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        self.workloads.add(pod(name, labels=labels or {}, owner=None, grace_seconds=0.05))

    async def remove(self, name: str) -> None:
        self.workloads.remove(f"team-a/{name}")

    async def budget(self, name: str, *, needs: int, app: str) -> None:
        self.workloads.budget(name, needs=needs, app=app)


class Real:
    """kube-apiserver, the controller that counts for budgets, and kwok for the kubelet."""

    def __init__(self, sandbox: Sandbox, node: str, live: Workloads, dry: Workloads) -> None:
        self._sandbox = sandbox
        self.namespace = sandbox.namespace
        self.node = node
        self.workloads: Workloads = live
        self.dry: Workloads = dry

    async def pod(self, name: str, labels: Mapping[str, str] | None = None, **options: Any) -> None:
        await self._sandbox.pod(name, node=self.node, labels=labels, **options)
        await self._sandbox.plane.until(
            self._sandbox.path("pods", name),
            lambda one: one.get("status", {}).get("phase") == "Running",
        )

    async def remove(self, name: str) -> None:
        await self._sandbox.plane.request(
            "DELETE", self._sandbox.path("pods", name), {"gracePeriodSeconds": 0}
        )

    async def budget(self, name: str, *, needs: int, app: str) -> None:
        path = self._sandbox.path("poddisruptionbudgets", group="policy/v1")
        spec = {"minAvailable": needs, "selector": {"matchLabels": {"app": app}}}
        await self._sandbox.create(path, {"metadata": {"name": name}, "spec": spec})
        await self._sandbox.plane.until(
            f"{path}/{name}",
            lambda one: (
                (status := one.get("status") or {}).get("observedGeneration") == 1
                and status.get("expectedPods", 0) == status.get("currentHealthy")
            ),
        )


@asynccontextmanager
async def real_workloads(
    plane: ControlPlane, *, dry_run: bool = False
) -> AsyncIterator[KubernetesWorkloads]:
    """The port on the real API server."""
    api = Api(Credentials(plane.kubeconfig))
    pen = Pen(api, permit=lambda: None, dry_run=dry_run)
    try:
        yield KubernetesWorkloads(api, pen, Requeues(api, pen, clock=time.monotonic))
    finally:
        await api.close()


@asynccontextmanager
async def real_world(kwok: ControlPlane, sandbox: Sandbox) -> AsyncIterator[Real]:
    """A node of this test's own."""
    node = await sandbox.node(f"drained-{next(_numbers)}")
    async with real_workloads(kwok) as live, real_workloads(kwok, dry_run=True) as dry:
        yield Real(sandbox, node, live, dry)
