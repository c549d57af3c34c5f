"""A node that eats pods, on the real API server: real Jobs, whose pods the test lets fail as a kubelet would."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aggregator.cluster.client import Json
from aggregator.cluster.kubernetes import KubernetesEdge
from aggregator.feeds.node_labels import Carried, LabelMemory, LabelSettings, plan
from aggregator.fleet import Fleet
from aggregator.scores.failures import QUIET_SECONDS
from aggregator.scoring import Scoring
from contract import report_pb2 as pb
from tests.controlplane.api import MERGE
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.manifests import gpu_pod
from tests.controlplane.sandbox import Sandbox
from tests.integration.kubernetes_edge.rig import WAIT_S, running
from tests.pod_failures import REFUSED, not_started, refused, stamp
from tests.score_builders import GPU, wants

pytestmark = pytest.mark.cluster

LOOK_S = 0.05
EVICTED = {
    "phase": "Failed",
    "reason": "Evicted",
    "message": "The node was low on resource: memory.",
}


def job(name: str, node: str, pods: int) -> Json:
    """A Job whose pods go to one node past any scheduler, as if that were its favourite."""
    template = gpu_pod("", node=node, restartPolicy="Never")["spec"]
    spec = {"parallelism": pods, "completions": pods, "template": {"spec": template}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


class Team:
    """A namespace of its own."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox

    async def run(self, name: str, node: str, pods: int) -> list[str]:
        """Start a Job; the names of its pods, once Kubernetes has made them."""
        await self.sandbox.create(
            self.sandbox.path("jobs", group="batch/v1"), job(name, node, pods)
        )
        listing = self.sandbox.path("pods") + f"?labelSelector=batch.kubernetes.io/job-name={name}"
        async with asyncio.timeout(WAIT_S):
            while True:
                _, found = await self.sandbox.plane.request("GET", listing)
                if len(found["items"]) == pods:
                    return [each["metadata"]["name"] for each in found["items"]]
                await asyncio.sleep(LOOK_S)

    async def says(self, pod: str, status: Mapping[str, Any]) -> None:
        """The kubelet's word about a pod."""
        path = self.sandbox.path("pods", pod) + "/status"
        code, answer = await self.sandbox.plane.request("PATCH", path, {"status": status}, MERGE)
        assert code == 200, answer


class Judge:
    """The scores as one aggregator makes them of this cluster, with all agents content."""

    def __init__(self, edge: KubernetesEdge, nodes: list[str]) -> None:
        self.fleet = Fleet()
        self.scoring = Scoring(fleet=self.fleet, edge=edge, silent_after_seconds=30.0)
        self.edge = edge
        self.nodes = nodes

    async def tick(self, now: float) -> None:
        for name in self.nodes:
            gpus = [pb.Gpu(index=n, uuid=f"{name}{n}") for n in range(8)]
            self.fleet.apply(pb.NodeReport(node=name, gpus=gpus), now)
            self.scoring.reported(name, news=True)
        self.scoring.take_pods()
        await self.scoring.tick(self.edge.view(), now)

    async def until(self, node: str, verdict: str) -> str:
        """Wait until a node is judged so; why."""
        async with asyncio.timeout(WAIT_S):
            while True:
                await self.tick(time.time())
                found = self.scoring.book.scores.get(node)
                if self.edge.pods_known and found is not None and found.verdict == verdict:
                    return found.reason
                await asyncio.sleep(LOOK_S)

    def best_first(self) -> list[str]:
        """As the extender and every feed that knows the pod would rank this test's nodes for one GPU."""
        found = self.scoring.book.lookup(wants(1, resource=GPU), self.nodes).tolist()
        return [name for _, name in sorted(zip(found, self.nodes, strict=True), reverse=True)]

    def bands(self) -> dict[str, int | None]:
        """The labels that would be written."""
        planned = plan(
            self.scoring.book.scores,
            dict.fromkeys(self.nodes, Carried()),
            LabelSettings(enabled=True),
            LabelMemory(),
            0.0,
        )
        return {each.node: each.band for each in planned.patches}


@asynccontextmanager
async def judging(plane: ControlPlane, nodes: list[str]) -> AsyncIterator[Judge]:
    async with running(plane) as watched:
        yield Judge(watched.edge, nodes)


@pytest.fixture
async def pair(cluster: ControlPlane, sandbox: Sandbox) -> AsyncIterator[tuple[Team, Team]]:
    """Two tenants."""
    async with Sandbox(cluster) as other:
        yield Team(sandbox), Team(other)


@pytest.fixture
async def nodes(cluster: ControlPlane, sandbox: Sandbox) -> list[str]:
    """The one that eats pods, in use already and so the favourite, and an empty one."""
    return [await sandbox.node(stem, kwok=False) for stem in ("eats", "empty")]


async def holding(team: Team, node: str) -> None:
    """A pod that takes half of a node and runs."""
    await team.sandbox.pod("holder", gpus=4, node=node)
    await team.says("holder", {"phase": "Running", "startTime": stamp(time.time() - 60)})


async def test_three_pods_of_two_jobs_make_it_the_last_one_and_ten_quiet_minutes_the_first(
    cluster: ControlPlane, pair: tuple[Team, Team], nodes: list[str]
) -> None:
    one, other = pair
    eats, empty = nodes
    await holding(one, eats)
    async with judging(cluster, nodes) as judge:
        await judge.until(eats, "healthy")
        assert judge.best_first() == [eats, empty]
        pods = await one.run("train", eats, 2)
        (last,) = await other.run("tune", eats, 1)
        for pod in pods:
            await one.says(pod, not_started(at=time.time()))
        await other.says(last, not_started(at=time.time()))
        why = await judge.until(eats, "degraded")
        assert why.startswith("pods fail here at once: 3 of 2 workloads in 1 min, newest t-")
        assert "StartError exit code 128: nvidia-container-cli: initialization error" in why
        assert judge.best_first() == [empty, eats]
        assert judge.bands()[eats] == 0
        assert judge.bands()[empty] != 0

        async with judging(cluster, nodes) as after_a_restart:
            await after_a_restart.until(eats, "degraded")

        judge.scoring.failures.take_notices()
        await judge.tick(time.time() + QUIET_SECONDS + 10)
        assert judge.scoring.book.scores[eats].verdict == "healthy"
        assert judge.best_first() == [eats, empty]


async def test_what_the_kubelet_refuses_counts_alone_and_what_others_end_never(
    cluster: ControlPlane, pair: tuple[Team, Team], nodes: list[str]
) -> None:
    eats, empty = nodes
    async with judging(cluster, nodes) as judge:
        await judge.until(
            eats, "healthy"
        )  # what was refused before its pods were known does not count
        for team in pair:
            for pod in await team.run("moved", empty, 3):
                await team.says(pod, EVICTED | {"startTime": stamp(time.time())})
        team = pair[0]
        for pod in await team.run("refused", eats, 3):
            await team.says(pod, refused(message=REFUSED, at=time.time()))
        why = await judge.until(eats, "degraded")
        assert why.startswith("the kubelet refuses pods here: 3 of 1 workload in 1 min")
        assert judge.scoring.book.scores[empty].verdict == "healthy"
