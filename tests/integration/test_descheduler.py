"""The descheduler itself, with the policy of its page, on a real API server and a real Prometheus: which pods it evicts."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import pytest

from agent.report import encode
from aggregator.exporter import render
from aggregator.fleet import Fleet
from aggregator.journal import Journal
from aggregator.policy.model import ClusterView
from contract import report_pb2 as pb
from tests import consumers
from tests.controlplane.api import MERGE, Json
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.manifests import gpu_pod
from tests.controlplane.process import free_port
from tests.controlplane.sandbox import Sandbox
from tests.integration.test_descheduler_query import arguments, text
from tests.prometheus import sample, server

URL = "http://prometheus.monitoring.svc:9090"
GPU_NODE = {"nvidia.com/gpu.present": "true"}
MAY_MOVE = {"example.com/may-move": "true"}
TAINT = {"key": "fleetmedic.io/quarantine", "value": "xid-79"}
PATH = "/aggregator"
SCRAPE_SECONDS = 30
RUN_SECONDS = 60
"""It needs much less than one; it would go round for ever where it cannot begin."""

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.consumer("descheduler"),
    pytest.mark.timeout(300),
]


class World:
    """Nodes with a load, the pods on them, and a descheduler that runs once."""

    def __init__(
        self,
        sandbox: Sandbox,
        program: Path,
        folder: Path,
        prometheus: str,
        pages: dict[str, bytes],
    ) -> None:
        """Keep what it works with; Prometheus scrapes the one page in ``pages``."""
        self.sandbox = sandbox
        self._program = program
        self._folder = folder
        self._prometheus = prometheus
        self._pages = pages
        self._shares: dict[str, float | None] = {}

    async def node(self, stem: str, share: float | None) -> str:
        """A GPU node, and how busy its GPUs are (None: its agent is silent)."""
        name = await self.sandbox.node(stem, labels=GPU_NODE)
        self._shares[name] = share
        return name

    async def change(self, node: str, patch: Json) -> None:
        """Change a node, as a person or our aggregator would."""
        status, answer = await self.sandbox.plane.request(
            "PATCH", f"/api/v1/nodes/{node}", patch, MERGE
        )
        assert status == 200, answer

    async def serving(self, name: str, node: str, count: int, *, labels: Json = MAY_MOVE) -> None:
        """A ReplicaSet whose pods are all on one node, running."""
        body = {
            "metadata": {"name": name},
            "spec": {
                "replicas": count,
                "selector": {"matchLabels": {"app": name}},
                "template": _template({"app": name, **labels}, node),
            },
        }
        await self.sandbox.create(self.sandbox.path("replicasets", group="apps/v1"), body)
        path = self.sandbox.path("replicasets", name, group="apps/v1")
        await self.sandbox.plane.until(
            path, lambda seen: seen.get("status", {}).get("readyReplicas") == count
        )

    async def training(self, name: str, node: str, count: int) -> None:
        """A Job, whose pods lack the label that lets them be moved."""
        template = _template({}, node)
        template["spec"]["restartPolicy"] = "Never"
        body = {
            "metadata": {"name": name},
            "spec": {"parallelism": count, "completions": count, "template": template},
        }
        await self.sandbox.create(self.sandbox.path("jobs", group="batch/v1"), body)
        path = self.sandbox.path("jobs", name, group="batch/v1")
        await self.sandbox.plane.until(
            path, lambda seen: seen.get("status", {}).get("ready") == count
        )

    async def evicted(self) -> tuple[list[str], str]:
        """Run the descheduler once: the owners of the pods that went, each as owner@node, and its log."""
        self._pages[PATH] = page(self._shares, time.time())
        told = {name for name, share in self._shares.items() if share is not None}
        query = arguments()["metricsUtilization"]["prometheus"]["query"]
        async with asyncio.timeout(SCRAPE_SECONDS):  # polled: Prometheus offers no event
            while told != {
                each["metric"]["instance"]
                for each in await server.until_value(self._prometheus, query)
            }:
                await asyncio.sleep(0.1)
        return await self.evicted_by(self._prometheus)

    async def evicted_by(self, prometheus: str) -> tuple[list[str], str]:
        """The same, with this Prometheus."""
        before = await self._pods()
        log = await self._run(prometheus)
        after = await self._pods()
        gone = [
            pod
            for uid, pod in before.items()
            if uid not in after or "deletionTimestamp" in after[uid]["metadata"]
        ]
        return sorted(map(self._told, gone)), log

    def _told(self, pod: Json) -> str:
        [owner] = pod["metadata"]["ownerReferences"]
        stem = pod["spec"]["nodeName"].removeprefix(f"{self.sandbox.namespace}-")
        return f"{owner['name']}@{stem}"

    async def _pods(self) -> dict[str, Json]:
        status, listed = await self.sandbox.plane.request("GET", self.sandbox.path("pods"))
        assert status == 200
        return {pod["metadata"]["uid"]: pod for pod in listed["items"]}

    async def _run(self, prometheus: str) -> str:
        """One run to its end, with the page's policy; only the address in it is another."""
        plane = self.sandbox.plane
        assert text().count(URL) == 1
        policy = self._folder / "policy.yaml"
        policy.write_text(text().replace(URL, prometheus))
        child = await asyncio.create_subprocess_exec(
            self._program,
            f"--kubeconfig={plane.kubeconfig}",
            f"--policy-config-file={policy}",
            "--descheduling-interval=0s",
            "--secure-port=0",
            "--v=4",
            # Nothing of this machine's: in a pod of a CI it would take itself to be at home there.
            env={"PROMETHEUS_TOKEN": plane.token, "PROMETHEUS_CA": str(plane.ca_file)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(RUN_SECONDS):
                output, _ = await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        log = output.decode()
        assert child.returncode == 0, log
        return log


def page(shares: Mapping[str, float | None], now: float) -> bytes:
    """The aggregator's metrics page for nodes whose GPUs are all as busy as told."""
    fleet = Fleet()
    for node, share in shares.items():
        shot = sample.snapshot(node, now if share is not None else now - 900)
        gpus = tuple(
            msgspec.structs.replace(gpu, duty_cycle_ratio=1.0 if share is None else share)
            for gpu in shot.gpus
        )
        raw = encode(
            msgspec.structs.replace(shot, gpus=gpus),
            (),
            (),
            sequence=1,
            urgent=False,
            events_dropped_total=0,
            agent_version="0.1.0",
        )
        fleet.apply(pb.NodeReport.FromString(raw), shot.taken_seconds)
    return render(
        fleet,
        ClusterView(synced=True, nodes={}, incidents={}),
        Journal(),
        sample.aggregator_stats(),
        now,
    )


def _template(labels: Json, node: str) -> Json:
    pod = gpu_pod("", node=node, labels=labels)
    return {"metadata": {"labels": pod["metadata"]["labels"]}, "spec": pod["spec"]}


@pytest.fixture
async def world(kwok: ControlPlane, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[World]:
    """A world without nodes yet, with a Prometheus of its own."""
    assert sandbox.plane is kwok  # it plays the pods
    program = await asyncio.to_thread(consumers.need, "descheduler")
    pages = {PATH: b""}
    async with (
        server.serving(pages) as address,
        server.prometheus(tmp_path, {f"{address}{PATH}": "10.0.0.1:8080"}) as url,
    ):
        yield World(sandbox, program, tmp_path, url, pages)


async def test_one_pod_leaves_each_of_the_busiest_nodes_two_in_all(world: World) -> None:
    trains = await world.node("trains", 1.0)
    hottest = await world.node("hottest", 0.99)
    hotter = await world.node("hotter", 0.95)
    hot = await world.node("hot", 0.9)
    await world.node("quiet", 0.05)
    await world.training("job-a", trains, 7)
    await world.serving("only-one", trains, 1)  # fewer than minReplicas
    await world.serving("model-a", hottest, 3)
    await world.training("job-b", hottest, 2)
    await world.serving("model-b", hotter, 3)
    await world.serving("model-c", hot, 3)

    evicted, log = await world.evicted()
    assert evicted == ["model-a@hottest", "model-b@hotter"], log
    assert "maximum number of evicted pods per a descheduling cycle reached" in log, log


async def test_none_leaves_a_node_that_is_merely_full(world: World) -> None:
    hot = await world.node("hot", 0.87)
    at_target = await world.node("at-target", 0.85)
    full = await world.node("full", 0.6)
    await world.node("quiet", 0.05)
    await world.serving("model-a", hot, 3)
    await world.serving("model-b", at_target, 3)
    await world.serving("model-c", full, 8)  # every GPU is requested

    evicted, log = await world.evicted()
    assert evicted == ["model-a@hot"], log


async def test_a_node_without_a_sample_stops_the_run_until_it_is_left_out(world: World) -> None:
    hot = await world.node("hot", 0.95)
    await world.node("quiet", 0.05)
    silent = await world.node("silent", None)
    await world.serving("model", hot, 3)

    evicted, log = await world.evicted()
    assert evicted == []
    assert f"unable to find metric entry for {silent}" in log, log

    await world.change(silent, {"metadata": {"labels": dict.fromkeys(GPU_NODE)}})
    evicted, log = await world.evicted()
    assert evicted == ["model@hot"], log


async def test_training_stays_on_an_overloaded_node(world: World) -> None:
    hot = await world.node("hot", 1.0)
    await world.node("quiet", 0.05)
    await world.training("job", hot, 4)
    await world.serving("unlabelled", hot, 2, labels={})

    evicted, log = await world.evicted()
    assert evicted == []
    assert "No removable pods on node" in log, log


@pytest.mark.parametrize("effect", ["NoSchedule", "PreferNoSchedule"])
async def test_a_node_with_our_taint_is_idle_but_no_place_to_go(world: World, effect: str) -> None:
    hot = await world.node("hot", 0.95)
    idle = await world.node("idle", 0.0)
    await world.node("room", 0.5)  # or the pods would fit nowhere, and stay for that
    await world.serving("model", hot, 3)

    await world.change(idle, {"spec": {"taints": [{**TAINT, "effect": effect}]}})
    evicted, log = await world.evicted()
    assert evicted == []
    assert "doesn't tolerate node taint" in log, log

    await world.change(idle, {"spec": {"taints": None}})
    evicted, log = await world.evicted()
    assert evicted == ["model@hot"], log


async def test_where_no_other_node_has_room_all_stay(world: World) -> None:
    hot = await world.node("hot", 0.95)
    quiet = await world.node("quiet", 0.05)
    await world.serving("model", hot, 3)
    await world.serving("idle", quiet, 8, labels={})  # requested, not used

    evicted, log = await world.evicted()
    assert evicted == []
    assert "pod does not fit on any other node" in log, log

    # Room anywhere will do, also where it is not quiet: the page says so.
    await world.node("busy", 0.7)
    evicted, log = await world.evicted()
    assert evicted == ["model@hot"], log


async def test_without_prometheus_all_stay(world: World) -> None:
    hot = await world.node("hot", 0.95)
    await world.node("quiet", 0.05)
    await world.serving("model", hot, 3)

    gone = f"http://127.0.0.1:{free_port()}"
    evicted, log = await world.evicted_by(gone)
    assert evicted == []
    assert "unable to capture prometheus metrics" in log, log
