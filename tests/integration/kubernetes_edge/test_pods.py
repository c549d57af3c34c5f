"""Pods for the scores: followed as they come, move and end, through relists, and gladly done without."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from aggregator.cluster import PodChange
from aggregator.cluster.client import Api
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.kubernetes import KubernetesEdge
from aggregator.cluster.observe import ObserveEdge
from aggregator.cluster.pod_informer import PodInformer
from aggregator.cluster.reflector import Timings
from aggregator.scores.placed import PlacedPod
from aggregator.scores.values import PodShape
from tests.controlplane.api import MERGE
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.proxy import FaultProxy
from tests.controlplane.sandbox import Sandbox
from tests.integration.kubernetes_edge.rig import SpyApi, Watched, background, settings, until

pytestmark = pytest.mark.cluster

QUICK = Timings(backoff_seconds=0.02)
GPU = "nvidia.com/gpu"


class Followed:
    """A running informer, and what it told of one namespace."""

    def __init__(self, informer: PodInformer, changed: asyncio.Event, namespace: str) -> None:
        self.informer = informer
        self.changed = changed
        self.namespace = namespace
        self.told: list[PodChange] = []

    @property
    def pods(self) -> dict[str, PlacedPod]:
        every = self.informer.pods.values()
        return {each.name: each for each in every if each.namespace == self.namespace}

    async def until(self, holds: Callable[[], object]) -> None:
        await until(self.changed, holds)

    def take(self) -> list[tuple[str, bool]]:
        """Names and whether they are new, of what changed since."""
        mine = f"{self.namespace}/"
        changes = [each for each in self.informer.take_changes() if each.key.startswith(mine)]
        return [(each.key.removeprefix(mine), each.new) for each in changes]


@asynccontextmanager
async def following(
    kubeconfig: ControlPlane | FaultProxy, sandbox: Sandbox
) -> AsyncIterator[Followed]:
    api = Api(Credentials(kubeconfig.kubeconfig))
    changed = asyncio.Event()
    informer = PodInformer(
        api,
        clock=time.monotonic,
        random=lambda: 0.0,
        timings=QUICK,
        on_change=changed.set,
    )
    try:
        async with background(informer.run()):
            yield Followed(informer, changed, sandbox.namespace)
    finally:
        await api.close()


async def finish(plane: ControlPlane, sandbox: Sandbox, pod: str) -> None:
    path = sandbox.path("pods", pod) + "/status"
    status, answer = await plane.request("PATCH", path, {"status": {"phase": "Succeeded"}}, MERGE)
    assert status == 200, answer


async def test_a_pod_appears_is_bound_and_ends(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    node = await sandbox.node(kwok=False)
    async with following(control_plane, sandbox) as seen:
        await seen.until(lambda: seen.informer.known)
        await sandbox.pod("llm", gpus=2, schedulerName="nobody")
        await seen.until(lambda: "llm" in seen.pods)
        waiting = seen.pods["llm"]
        assert waiting.ask == PodShape(gpu_count=2, gpu_milli=1000, resource=GPU)
        assert (waiting.node, waiting.phase) == ("", "pending")
        assert abs(waiting.created_seconds - time.time()) < 60
        assert seen.take() == [("llm", True)]

        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {"metadata": {"name": "llm"}, "target": target}
        binding = sandbox.path("pods", "llm") + "/binding"
        assert (await control_plane.request("POST", binding, body))[0] == 201
        await seen.until(lambda: seen.pods["llm"].node == node)
        assert seen.take() == [("llm", False)]

        await finish(control_plane, sandbox, "llm")
        await seen.until(lambda: "llm" not in seen.pods)
        assert seen.take() == [("llm", False)]
        assert seen.take() == []


async def test_what_came_and_went_between_two_looks_is_not_told(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    async with following(control_plane, sandbox) as seen:
        await seen.until(lambda: seen.informer.known)
        await sandbox.pod("short", schedulerName="nobody")
        await seen.until(lambda: "short" in seen.pods)
        await control_plane.request(
            "DELETE", sandbox.path("pods", "short"), {"gracePeriodSeconds": 0}
        )
        await seen.until(lambda: "short" not in seen.pods)
        assert seen.take() == []


async def test_the_same_names_in_two_namespaces_are_two_pods(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    async with Sandbox(control_plane) as other, following(control_plane, sandbox) as seen:
        await sandbox.pod("same", gpus=1, schedulerName="nobody")
        await other.pod("same", gpus=2, schedulerName="nobody")
        keys = {f"{each.namespace}/same" for each in (sandbox, other)}
        await seen.until(lambda: keys <= set(seen.informer.pods))
        assert {seen.informer.pods[key].ask.gpu_count for key in keys} == {1, 2}


async def test_after_a_new_list_only_what_changed_is_told(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    """As for a new leader, and when the server has forgotten our place: what was missed comes, each pod is new once."""
    pods = r"/api/v1/pods"
    async with FaultProxy(control_plane) as proxy, following(proxy, sandbox) as seen:
        for name in ("stays", "goes"):
            await sandbox.pod(name, schedulerName="nobody")
        await seen.until(lambda: {"stays", "goes"} <= set(seen.pods))
        assert sorted(seen.take()) == [("goes", True), ("stays", True)]
        await proxy.until(lambda: proxy.open_watches(pods))

        proxy.fail(status=503, path=pods)
        proxy.expire_watches(pods)
        await proxy.until(lambda: proxy.count("GET", pods, status=503))
        assert seen.informer.known, "what is known stays known for a while"
        await control_plane.request(
            "DELETE", sandbox.path("pods", "goes"), {"gracePeriodSeconds": 0}
        )
        await sandbox.pod("comes", schedulerName="nobody")
        proxy.calm()
        await seen.until(lambda: set(seen.pods) == {"stays", "comes"})
        assert sorted(seen.take()) == [("comes", True), ("goes", False)]

        lists = proxy.count("GET", pods, status=200)
        seen.informer.refresh()
        assert seen.informer.known
        await proxy.until(lambda: proxy.count("GET", pods, status=200) > lists)
        assert seen.take() == []


RULES = [
    {"apiGroups": [""], "resources": ["nodes", "configmaps"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": ["fleetmedic.io"], "resources": ["incidents"], "verbs": ["get", "list", "watch"]},
]


@pytest.fixture
async def without_pods(cluster: ControlPlane, sandbox: Sandbox) -> AsyncIterator[Watched]:
    """An edge that may read all it needs, but no pods; a dry run, so that it needs no Lease."""
    name = sandbox.name("no-pods")
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    await sandbox.create(f"{rbac}/clusterroles", {"metadata": {"name": name}, "rules": RULES})
    group = "rbac.authorization.k8s.io"
    role = {"apiGroup": group, "kind": "ClusterRole", "name": name}
    subject = {"apiGroup": group, "kind": "User", "name": name}
    body = {"metadata": {"name": name}, "roleRef": role, "subjects": [subject]}
    await sandbox.create(f"{rbac}/clusterrolebindings", body)
    api = SpyApi(cluster.write_kubeconfig(name, user=name))
    edge = KubernetesEdge(settings(cluster, dry_run=True, reflector=QUICK), api=api)
    watched = Watched(edge, api)
    try:
        async with background(edge.run(watched.changed.set)):
            yield watched
    finally:
        await edge.close()


async def test_without_the_right_to_watch_pods_all_else_goes_on(without_pods: Watched) -> None:
    edge = without_pods.edge
    await without_pods.until(lambda view: view.synced)
    async with asyncio.timeout(15):
        while "forbidden" not in edge.pods_trouble:
            await asyncio.sleep(
                0.01
            )  # nobody is told that pods cannot be read: nothing waits for them
    assert not edge.pods_known
    assert (dict(edge.pods), list(edge.take_pod_changes())) == ({}, [])
    assert edge.view().synced
    assert edge.read_errors == 0, "it is no error of what decisions need"


async def test_the_edge_shows_pods_and_no_change_of_one_makes_a_new_view(
    cluster: ControlPlane, watched: Watched, sandbox: Sandbox
) -> None:
    edge = watched.edge
    async with asyncio.timeout(15):
        while not edge.pods_known:
            await asyncio.sleep(0.01)  # that a pod changed wakes nobody
        await sandbox.pod("quiet", schedulerName="nobody")
        while f"{sandbox.namespace}/quiet" not in edge.pods:
            await asyncio.sleep(0.01)
    assert edge.pods_trouble == ""
    assert f"{sandbox.namespace}/quiet" in {each.key for each in edge.take_pod_changes()}
    assert edge.nodes.entries
    assert edge.pen.dry_run is False


def test_without_a_cluster_there_are_no_pods() -> None:
    edge = ObserveEdge()
    assert (dict(edge.pods), edge.pods_known, edge.take_pod_changes()) == ({}, False, ())
    assert "no cluster" in edge.pods_trouble


def test_they_need_not_be_followed_at_all(control_plane: ControlPlane) -> None:
    edge = KubernetesEdge(settings(control_plane, watch_pods=False))
    assert not edge.pods_known
    assert edge.pods_trouble == "following pods is switched off"
    assert edge.take_pod_changes() == ()
