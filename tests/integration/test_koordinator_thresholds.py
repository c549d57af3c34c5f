"""Usage thresholds on real Node objects: written, taken off, and left alone where they are people's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Api
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.koordinator_thresholds import UsageThresholds
from aggregator.cluster.pen import Pen
from aggregator.feeds.koordinator_thresholds import ANNOTATION, MARK, ThresholdSettings
from aggregator.policy.model import ClusterNode, ClusterView
from aggregator.usage import Usage
from tests.controlplane.api import MERGE
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
ON = ThresholdSettings(enabled=True, most_percent=100)


class Writer:
    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.api = Api(Credentials(sandbox.plane.kubeconfig))
        self.usage = Usage()
        self.nodes: dict[str, ClusterNode] = {}
        self.sick: dict[str, str] = {}
        self.allowed = True
        self.keeper = self.new(ON)

    def new(
        self, settings: ThresholdSettings, *, dry_run: bool = False, api: Api | None = None
    ) -> UsageThresholds:
        pen = Pen(api or self.api, permit=self.permit, dry_run=dry_run)
        return UsageThresholds(
            self.api, pen, self.usage, settings, permit=self.permit, sick=lambda: self.sick
        )

    def permit(self) -> None:
        if not self.allowed:
            raise EdgeError("not the leader")

    @property
    def view(self) -> ClusterView:
        return ClusterView(synced=True, nodes=self.nodes, incidents={})

    async def node(self, stem: str, *, cpu: float, managed: bool = True) -> str:
        name = await self.sandbox.node(stem, kwok=False)
        self.nodes[name] = ClusterNode(name=name, managed=managed)
        steady(self.usage, name, start=START, end=NOW, cpu=cpu)
        return name

    async def metadata(self, name: str) -> Json:
        found: Json = (await self.api.get(f"/api/v1/nodes/{name}"))["metadata"]
        return found

    async def annotate(self, name: str, text: str | None) -> None:
        body = {"metadata": {"annotations": {ANNOTATION: text}}}
        status, _ = await self.sandbox.plane.request("PATCH", f"/api/v1/nodes/{name}", body, MERGE)
        assert status == 200

    async def until_quiet(self, keeper: UsageThresholds, now: float) -> None:
        """Kubernetes writes to nodes when it likes, so a write may have to be repeated."""
        while not await keeper.step(self.view, now):
            pass


@pytest.fixture
async def writer(control_plane: ControlPlane, sandbox: Sandbox) -> AsyncIterator[Writer]:
    one = Writer(sandbox)
    yield one
    await one.api.close()


async def test_a_hot_node_is_tightened_and_set_free_when_it_is_calm(writer: Writer) -> None:
    hot, calm = await writer.node("hot", cpu=0.95), await writer.node("calm", cpu=0.1)
    await writer.until_quiet(writer.keeper, NOW)
    found = await writer.metadata(hot)
    assert json.loads(found["annotations"][ANNOTATION])["usageThresholds"]["cpu"] == 50
    assert found["labels"][MARK]
    assert ANNOTATION not in (await writer.metadata(calm)).get("annotations", {})
    steady(writer.usage, hot, start=NOW, end=NOW + 600, cpu=0.1)
    await writer.until_quiet(writer.keeper, NOW + 600)
    after = await writer.metadata(hot)
    assert ANNOTATION not in after.get("annotations", {})
    assert MARK not in after["labels"]


async def test_another_leader_that_knows_nothing_yet_takes_no_threshold_off(writer: Writer) -> None:
    hot = await writer.node("hot", cpu=0.95)
    await writer.until_quiet(writer.keeper, NOW)
    writer.usage = Usage()
    steady(writer.usage, hot, start=NOW, end=NOW + 60, cpu=0.1)
    later = writer.new(ON)
    await writer.until_quiet(later, NOW + 60)
    assert (await writer.metadata(hot))["labels"][MARK], "one minute says nothing"
    steady(writer.usage, hot, start=NOW + 60, end=NOW + 700, cpu=0.1)
    await writer.until_quiet(later, NOW + 700)
    assert MARK not in (await writer.metadata(hot))["labels"]


async def test_who_leads_again_after_another_did_takes_no_threshold_off_for_ten_minutes(
    writer: Writer,
) -> None:
    """Agents report to the leader alone: what this one remembers has a gap."""
    hot = await writer.node("hot", cpu=0.95)
    await writer.until_quiet(writer.keeper, NOW)
    writer.allowed = False
    assert not await writer.keeper.step(writer.view, NOW + 60)
    writer.allowed = True
    again = NOW + 3_600
    await writer.until_quiet(writer.keeper, again)
    steady(writer.usage, hot, start=again, end=again + 60, cpu=0.1)
    await writer.until_quiet(writer.keeper, again + 60)
    assert (await writer.metadata(hot))["labels"][MARK], "one minute says nothing"
    steady(writer.usage, hot, start=again + 60, end=again + 700, cpu=0.1)
    await writer.until_quiet(writer.keeper, again + 700)
    assert MARK not in (await writer.metadata(hot))["labels"]


async def test_a_sick_node_is_tightened_and_one_that_opted_out_is_not(writer: Writer) -> None:
    sick = await writer.node("sick", cpu=0.1)
    out = await writer.node("out", cpu=0.99, managed=False)
    writer.sick = {sick: "degraded: gpu-hot", out: "degraded"}
    await writer.until_quiet(writer.keeper, NOW)
    assert ANNOTATION in (await writer.metadata(sick))["annotations"]
    assert ANNOTATION not in (await writer.metadata(out)).get("annotations", {})


async def test_peoples_own_thresholds_outlive_us(writer: Writer) -> None:
    hot = await writer.node("hot", cpu=0.95)
    await writer.annotate(hot, '{"usageThresholds":{"cpu":90}}')
    await writer.until_quiet(writer.keeper, NOW)
    await writer.until_quiet(writer.new(ThresholdSettings()), NOW)
    found = await writer.metadata(hot)
    assert found["annotations"][ANNOTATION] == '{"usageThresholds":{"cpu":90}}'
    assert MARK not in found["labels"]


async def test_what_people_take_off_stays_off(writer: Writer) -> None:
    hot = await writer.node("hot", cpu=0.95)
    await writer.until_quiet(writer.keeper, NOW)
    await writer.annotate(hot, None)
    await writer.until_quiet(writer.keeper, NOW)
    assert ANNOTATION not in (await writer.metadata(hot)).get("annotations", {})
    assert "people took" in writer.keeper.words[hot]


async def test_switched_off_it_takes_its_own_off_and_is_done(writer: Writer) -> None:
    hot = await writer.node("hot", cpu=0.95)
    await writer.until_quiet(writer.keeper, NOW)
    off = writer.new(ThresholdSettings())
    await writer.until_quiet(off, NOW)
    assert ANNOTATION not in (await writer.metadata(hot)).get("annotations", {})
    await off.run(lambda: writer.view, lambda: NOW)  # it ends by itself


async def test_a_node_that_refuses_holds_up_no_other_and_is_not_forgotten(
    writer: Writer, control_plane: ControlPlane
) -> None:
    names = [await writer.node(stem, cpu=0.95) for stem in ("a", "b", "c")]
    await writer.until_quiet(writer.keeper, NOW)
    async with FaultProxy(control_plane) as proxy:
        api = Api(Credentials(proxy.kubeconfig))
        off = writer.new(ThresholdSettings(), api=api)
        proxy.fail(status=403, method="PATCH", path=f"/api/v1/nodes/{names[0]}")
        for _ in range(3):
            assert not await off.step(writer.view, NOW), "it is not done"
        assert "refused" in off.words[names[0]]
        for name in names[1:]:
            assert ANNOTATION not in (await writer.metadata(name)).get("annotations", {})
        proxy.calm()
        await writer.until_quiet(off, NOW)
        found = await writer.metadata(names[0])
        await api.close()
    assert ANNOTATION not in found.get("annotations", {})


async def test_a_dry_run_and_one_who_does_not_lead_change_nothing(writer: Writer) -> None:
    hot = await writer.node("hot", cpu=0.95)
    await writer.new(ON, dry_run=True).step(writer.view, NOW)
    writer.allowed = False
    assert not await writer.keeper.step(writer.view, NOW)
    assert ANNOTATION not in (await writer.metadata(hot)).get("annotations", {})
