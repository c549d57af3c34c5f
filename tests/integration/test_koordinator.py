"""NodeMetric on the real API server with Koordinator's real definition: what is kept, whose it is, and what our death leaves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from aggregator.cluster import EdgeError, times
from aggregator.cluster.client import Api
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.koordinator import NODE_METRICS, NodeMetrics, NodeMetricSettings
from aggregator.cluster.pen import Pen
from aggregator.policy.model import ClusterNode, ClusterView
from aggregator.usage import Usage
from tests.controlplane.binaries import Unavailable
from tests.controlplane.crds import SHARED, apply_crds
from tests.controlplane.proxy import FaultProxy
from tests.support import START
from tests.usage_builders import steady

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

pytestmark = pytest.mark.cluster

NOW = START + 600
NEUTRAL = {"filterExpiredNodeMetrics": True, "enableScheduleWhenNodeMetricsExpired": True}


def koordinator_lets_pass(arguments: Json, node_metric: Json | None, now: float) -> bool:
    """Koordinator v1.6.0's filter for the age of a NodeMetric, of LoadAwareScheduling."""
    if node_metric is None:
        return True
    updated = node_metric.get("status", {}).get("updateTime")
    expired = updated is None or now - times.to_seconds(updated) >= 180
    if arguments.get("filterExpiredNodeMetrics", True) and expired:
        return bool(arguments.get("enableScheduleWhenNodeMetricsExpired", False))
    return True


class Writer:
    """One aggregator's keeper of NodeMetrics, and what the server shows."""

    def __init__(self, proxy: FaultProxy, sandbox: Sandbox) -> None:
        self.proxy = proxy
        self.sandbox = sandbox
        self.api = Api(Credentials(proxy.kubeconfig))
        self.usage = Usage()
        self.nodes: dict[str, ClusterNode] = {}
        self.allowed = True
        self.settings = NodeMetricSettings(
            enabled=True, config_namespace=sandbox.namespace, config_name="koord-scheduler-config"
        )
        self.keeper = self.new()

    def new(
        self, settings: NodeMetricSettings | None = None, *, dry_run: bool = False
    ) -> NodeMetrics:
        pen = Pen(self.api, permit=self.permit, dry_run=dry_run)
        chosen = settings or self.settings
        return NodeMetrics(self.api, pen, self.usage, chosen, permit=self.permit)

    def permit(self) -> None:
        if not self.allowed:
            raise EdgeError("not the leader")

    @property
    def view(self) -> ClusterView:
        return ClusterView(synced=True, nodes=self.nodes, incidents={})

    async def node(self, stem: str, **readings: Any) -> str:
        name = await self.sandbox.node(stem, kwok=False)
        created = await self.api.get(f"/api/v1/nodes/{name}")
        self.nodes[name] = ClusterNode(name=name, uid=created["metadata"]["uid"], gpu_capacity=8)
        steady(self.usage, name, start=START, end=NOW, **readings)
        return name

    async def configure(self, **arguments: Any) -> None:
        config = {
            "kind": "KubeSchedulerConfiguration",
            "profiles": [{"pluginConfig": [{"name": "LoadAwareScheduling", "args": arguments}]}],
        }
        body = {
            "metadata": {"name": "koord-scheduler-config"},
            "data": {"koord-scheduler-config": yaml.safe_dump(config)},
        }
        path = self.sandbox.path("configmaps")
        await self.sandbox.plane.request("DELETE", f"{path}/koord-scheduler-config")
        await self.sandbox.create(path, body)

    async def read(self, name: str) -> Json | None:
        status, found = await self.sandbox.plane.request("GET", f"{NODE_METRICS}/{name}")
        return found if status == 200 else None

    async def told(self, name: str) -> Json:
        found = await self.read(name)
        assert found
        return found


@pytest.fixture
async def writer(control_plane: ControlPlane, sandbox: Sandbox) -> AsyncIterator[Writer]:
    file = SHARED / "koordinator" / "slo.koordinator.sh_nodemetrics.yaml"
    if not file.is_file():
        raise Unavailable(f"no definition of NodeMetric: {file} is not there")
    await apply_crds(control_plane.api, [file])
    async with FaultProxy(control_plane) as proxy:
        one = Writer(proxy, sandbox)
        await one.configure(**NEUTRAL)
        yield one
        for name in one.nodes:
            await control_plane.request("DELETE", f"{NODE_METRICS}/{name}")
        await one.api.close()


async def test_the_real_definition_keeps_every_field_that_is_written(writer: Writer) -> None:
    name = await writer.node("a", cpu=0.25, memory=0.5, gpus=(1.0, 0.5))
    pod = await writer.sandbox.pod("job", gpus=2, node=name)
    path = f"{writer.sandbox.path('pods')}/{pod['metadata']['name']}/status"
    running = {"status": {"phase": "Running"}}
    merge = "application/merge-patch+json"
    assert (await writer.sandbox.plane.request("PATCH", path, running, merge))[0] == 200
    assert await writer.keeper.step(writer.view, NOW)
    found = await writer.told(name)
    assert found["spec"]["metricCollectPolicy"]["reportIntervalSeconds"] == 60
    [owner] = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Node", writer.nodes[name].uid)
    status = found["status"]
    assert times.to_seconds(status["updateTime"]) == NOW - 5
    assert status["nodeMetric"]["nodeUsage"]["resources"] == {
        "cpu": "16000m",
        "memory": str(256 << 30),
        "koordinator.sh/gpu-core": "150",
    }
    assert [each["duration"] for each in status["nodeMetric"]["aggregatedNodeUsages"]] == [
        "5m0s",
        "10m0s",
        "15m0s",
    ]
    [told] = status["podsMetric"]
    assert told["podUsage"]["resources"] == {
        "cpu": "0",
        "memory": "0",
        "koordinator.sh/gpu-core": "150",
    }


async def test_the_next_round_replaces_what_the_last_one_said(writer: Writer) -> None:
    name = await writer.node("a", cpu=0.25)
    await writer.keeper.step(writer.view, NOW)
    steady(writer.usage, name, start=NOW, end=NOW + 45, cpu=0.75, gpus=())
    await writer.keeper.step(writer.view, NOW + 45)
    usage = (await writer.told(name))["status"]["nodeMetric"]["nodeUsage"]["resources"]
    assert usage["cpu"] == "48000m"
    assert "koordinator.sh/gpu-core" not in usage


async def test_killed_with_no_standby_every_node_stays_schedulable(writer: Writer) -> None:
    name = await writer.node("a", cpu=1.0)
    await writer.keeper.step(writer.view, NOW)
    found = await writer.told(name)
    # From here on nobody runs any more: what was written stays as it is, for ever.
    for after in (0, 179, 181, 86_400):
        assert koordinator_lets_pass(NEUTRAL, found, NOW + after)
    assert not koordinator_lets_pass({}, found, NOW + 181), "which its defaults would not do"


@pytest.mark.parametrize("arguments", [{}, {"filterExpiredNodeMetrics": False}])
async def test_nothing_is_written_while_our_death_could_close_nodes(
    writer: Writer, arguments: Json
) -> None:
    name = await writer.node("a")
    await writer.configure(**arguments)
    assert not await writer.keeper.step(writer.view, NOW)
    assert await writer.read(name) is None
    assert "enableScheduleWhenNodeMetricsExpired: true" in writer.keeper.refused[""]


async def test_a_configuration_that_becomes_dangerous_takes_ours_away_at_once(
    writer: Writer,
) -> None:
    name = await writer.node("a")
    await writer.keeper.step(writer.view, NOW)
    assert await writer.read(name)
    await writer.configure()
    await writer.keeper.step(writer.view, NOW + 45)
    assert await writer.read(name) is None


async def test_a_configuration_that_cannot_be_read_has_to_be_confirmed_by_a_person(
    writer: Writer,
) -> None:
    name = await writer.node("a")
    writer.proxy.fail(status=403, path=r".*/configmaps/.*")
    assert not await writer.keeper.step(writer.view, NOW)
    assert "confirm" in writer.keeper.refused[""]
    assert await writer.new(NodeMetricSettings(enabled=True, confirmed=True)).step(writer.view, NOW)
    assert await writer.read(name)


async def test_a_node_with_koordlet_is_koordlets(writer: Writer) -> None:
    name = await writer.node("a")
    await writer.sandbox.pod("koordlet-x", gpus=0, node=name, labels={"koord-app": "koordlet"})
    await writer.keeper.step(writer.view, NOW)
    assert await writer.read(name) is None
    assert "koordlet" in writer.keeper.refused[name]


async def test_an_object_whose_status_somebody_else_writes_is_left_alone(writer: Writer) -> None:
    name = await writer.node("a")
    identity = {"apiVersion": "slo.koordinator.sh/v1alpha1", "kind": "NodeMetric"}
    theirs = await writer.sandbox.create(
        NODE_METRICS, {**identity, "metadata": {"name": name}, "spec": {}}
    )
    path = f"{NODE_METRICS}/{name}/status?fieldManager=koordlet"
    body = {**theirs, "status": {"updateTime": "2026-01-01T00:00:00Z"}}
    assert (await writer.sandbox.plane.request("PUT", path, body))[0] == 200
    await writer.keeper.step(writer.view, NOW)
    assert (await writer.told(name))["status"] == body["status"]
    assert "koordlet writes its status" in writer.keeper.refused[name]


async def test_the_empty_object_of_koordinators_manager_is_filled_and_never_deleted(
    writer: Writer,
) -> None:
    name = await writer.node("a")
    identity = {"apiVersion": "slo.koordinator.sh/v1alpha1", "kind": "NodeMetric"}
    spec = {"metricCollectPolicy": {"reportIntervalSeconds": 30}}
    body = {**identity, "metadata": {"name": name}, "spec": spec}
    await writer.sandbox.create(f"{NODE_METRICS}", body)
    await writer.keeper.step(writer.view, NOW)
    filled = await writer.told(name)
    assert filled["status"]["nodeMetric"]
    assert filled["spec"] == spec
    await writer.new(NodeMetricSettings()).step(writer.view, NOW)
    assert await writer.read(name)


@pytest.mark.parametrize("how", ["dangerous", "switched off"])
async def test_what_we_say_in_the_object_of_koordinators_manager_does_not_outlive_us(
    writer: Writer, how: str
) -> None:
    """With filterExpiredNodeMetrics: false it would be believed for ever."""
    name = await writer.node("a", cpu=1.0)
    identity = {"apiVersion": "slo.koordinator.sh/v1alpha1", "kind": "NodeMetric"}
    await writer.sandbox.create(NODE_METRICS, {**identity, "metadata": {"name": name}, "spec": {}})
    await writer.keeper.step(writer.view, NOW)
    assert (await writer.told(name))["status"]["nodeMetric"]
    if how == "dangerous":
        await writer.configure(filterExpiredNodeMetrics=False)
        await writer.keeper.step(writer.view, NOW + 45)
    else:
        assert await writer.new(NodeMetricSettings()).step(writer.view, NOW + 45)
    assert not (await writer.told(name)).get("status")
    writer.proxy.requests.clear()
    await writer.new(NodeMetricSettings()).step(writer.view, NOW + 90)
    assert writer.proxy.count("PATCH") == 0, "once is enough"


async def test_somebody_elses_object_that_carries_our_label_is_not_deleted(writer: Writer) -> None:
    """Whatever is copied onto it from an object of ours: the signature names another node."""
    ours, theirs = await writer.node("a"), await writer.node("b")
    identity = {"apiVersion": "slo.koordinator.sh/v1alpha1", "kind": "NodeMetric"}
    await writer.keeper.step(writer.view, NOW)
    copied = {
        key: (await writer.told(ours))["metadata"][key]
        for key in ("labels", "annotations", "ownerReferences")
    }
    await writer.sandbox.plane.request("DELETE", f"{NODE_METRICS}/{theirs}")
    body = {**identity, "metadata": {"name": theirs, **copied}, "spec": {}}
    await writer.sandbox.create(NODE_METRICS, body)
    await writer.new(NodeMetricSettings()).step(writer.view, NOW + 45)
    assert await writer.read(theirs)
    assert await writer.read(ours) is None


async def test_one_that_cannot_be_taken_away_holds_up_no_other_and_is_not_forgotten(
    writer: Writer,
) -> None:
    first, second = await writer.node("a"), await writer.node("b")
    await writer.keeper.step(writer.view, NOW)
    off = writer.new(NodeMetricSettings())
    writer.proxy.fail(status=403, method="DELETE", path=f"{NODE_METRICS}/{first}")
    assert not await off.step(writer.view, NOW)
    assert await writer.read(second) is None
    assert "cannot be taken away" in off.refused[first]
    writer.proxy.calm()
    assert await off.step(writer.view, NOW)
    assert await writer.read(first) is None


async def test_an_object_that_koordlet_took_over_is_not_taken_away(writer: Writer) -> None:
    name = await writer.node("a")
    await writer.keeper.step(writer.view, NOW)
    ours = await writer.told(name)
    path = f"{NODE_METRICS}/{name}/status?fieldManager=koordlet"
    body = {**ours, "status": {"updateTime": "2026-01-01T00:00:00Z"}}
    assert (await writer.sandbox.plane.request("PUT", path, body))[0] == 200
    await writer.keeper.step(writer.view, NOW + 45)
    assert "koordlet writes" in writer.keeper.refused[name]
    await writer.new(NodeMetricSettings()).step(writer.view, NOW + 45)
    assert (await writer.told(name))["status"] == body["status"]


async def test_switched_off_it_takes_its_own_away_and_is_done(writer: Writer) -> None:
    name = await writer.node("a")
    await writer.keeper.step(writer.view, NOW)
    off = writer.new(NodeMetricSettings())
    await off.run(lambda: writer.view, lambda: NOW)
    assert await writer.read(name) is None


async def test_a_silent_node_is_not_written_so_that_its_age_tells(writer: Writer) -> None:
    name = await writer.node("a")
    await writer.keeper.step(writer.view, NOW)
    before = await writer.told(name)
    await writer.keeper.step(writer.view, NOW + 120)
    assert await writer.told(name) == before


async def test_who_does_not_lead_reads_and_writes_nothing(writer: Writer) -> None:
    await writer.node("a")
    writer.proxy.requests.clear()
    writer.allowed = False
    assert not await writer.keeper.step(writer.view, NOW)
    assert writer.proxy.requests == []


async def test_who_takes_over_goes_on_within_seconds(writer: Writer) -> None:
    """A round is 45 s, and what the last leader wrote expires after 180."""
    name = await writer.node("a")
    writer.allowed = False
    running = asyncio.create_task(writer.keeper.run(lambda: writer.view, lambda: NOW))
    try:
        await asyncio.sleep(0)  # it looked, and may not
        writer.allowed = True
        async with asyncio.timeout(20.0):
            while not await writer.read(name):
                await asyncio.sleep(0.1)
    finally:
        running.cancel()


async def test_a_dry_run_is_judged_by_the_server_and_keeps_nothing(writer: Writer) -> None:
    name = await writer.node("a")
    dry = writer.new(dry_run=True)
    assert await dry.step(writer.view, NOW)
    assert (dry.writes_total, await writer.read(name)) == (1, None)
    await writer.keeper.step(writer.view, NOW)
    before = await writer.told(name)
    steady(writer.usage, name, start=NOW, end=NOW + 45)
    await dry.step(writer.view, NOW + 45)
    assert await writer.told(name) == before


async def test_one_node_that_is_refused_does_not_hold_up_the_others(writer: Writer) -> None:
    first, second = await writer.node("a"), await writer.node("b")
    writer.proxy.fail(status=500, path=f"{NODE_METRICS}/{first}/status")
    await writer.keeper.step(writer.view, NOW)
    assert (await writer.told(second))["status"]["nodeMetric"]
    assert set(writer.keeper.refused) == {first}
    writer.proxy.calm()
    await writer.keeper.step(writer.view, NOW)
    assert (await writer.told(first))["status"]["nodeMetric"]
    assert not writer.keeper.refused


@pytest.mark.parametrize(("status", "tries"), [(429, 1), (503, 3)])
async def test_a_server_in_trouble_ends_the_round(writer: Writer, status: int, tries: int) -> None:
    for number in range(5):
        await writer.node(f"n{number}")
    failing = writer.proxy.fail(status=status, path=f"{NODE_METRICS}/.*/status")
    assert not await writer.keeper.step(writer.view, NOW)
    assert failing.taken == tries
    writer.proxy.calm()
    assert await writer.keeper.step(writer.view, NOW)
    assert not writer.keeper.refused


async def test_where_koordinator_is_absent_there_is_nothing_to_do(writer: Writer) -> None:
    await writer.node("a")
    writer.proxy.fail(status=404, path=NODE_METRICS)
    await writer.keeper.step(writer.view, NOW)
    assert "not installed" in writer.keeper.refused[""]
    off = writer.new(NodeMetricSettings())
    await off.run(lambda: writer.view, lambda: NOW)
    assert off.errors_total == 0
