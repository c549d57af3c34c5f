"""Quotas on the real API server with Kueue's real definitions: what is written, what is left alone, what is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Api
from aggregator.cluster.cluster_queues import KueueQuota
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.pen import Pen
from aggregator.feeds.kueue_quota import ANNOTATION, QuotaSettings, Slot
from aggregator.policy.model import ClusterNode, ClusterView, Taint
from tests.controlplane.api import MERGE
from tests.controlplane.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

pytestmark = pytest.mark.cluster

GPU = "nvidia.com/gpu"
QUEUES = "/apis/kueue.x-k8s.io/v1beta2/clusterqueues"
NOW = 1_000.0


def seen(*, out: int = 0) -> ClusterView:
    nodes = [
        ClusterNode(
            name=f"n{number}",
            gpu_capacity=8,
            pool="H100",
            taint=Taint("xid-79", "NoSchedule") if number < out else None,
        )
        for number in range(8)
    ]
    return ClusterView(synced=True, nodes={each.name: each for each in nodes}, incidents={})


class Leader:
    """One aggregator's keeper of quotas, and what the queue shows."""

    def __init__(self, proxy: FaultProxy, path: str) -> None:
        self.proxy = proxy
        self.path = path
        self.api = Api(Credentials(proxy.kubeconfig))
        self.allowed = True
        self.settings = QuotaSettings(
            pools={Slot(path.rpartition("/")[2], "h100", GPU): "H100"},
            settle_seconds=60,
            pause_seconds=0,
        )
        self.keeper = self.new()

    def new(self, settings: QuotaSettings | None = None, *, dry_run: bool = False) -> KueueQuota:
        pen = Pen(self.api, permit=self.permit, dry_run=dry_run)
        return KueueQuota(self.api, pen, settings or self.settings, permit=self.permit)

    def permit(self) -> None:
        if not self.allowed:
            raise EdgeError("not the leader")

    async def read(self) -> Json:
        return await self.api.get(self.path)

    async def quota(self) -> Any:
        spec = (await self.read())["spec"]
        return spec["resourceGroups"][0]["flavors"][0]["resources"][0]["nominalQuota"]

    def patches(self) -> int:
        return self.proxy.count("PATCH")


def gpu_queue(name: str) -> Json:
    flavor = {"name": "h100", "resources": [{"name": GPU, "nominalQuota": 64}]}
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "ClusterQueue",
        "metadata": {"name": name},
        "spec": {
            "namespaceSelector": {},
            "queueingStrategy": "StrictFIFO",
            "resourceGroups": [{"coveredResources": [GPU], "flavors": [flavor]}],
        },
    }


@pytest.fixture
async def leader(workload_crds: ControlPlane, sandbox: Sandbox) -> AsyncIterator[Leader]:
    created = await sandbox.create(QUEUES, gpu_queue(sandbox.name("team-a")))
    async with FaultProxy(workload_crds) as proxy:
        one = Leader(proxy, f"{QUEUES}/{created['metadata']['name']}")
        yield one
        await one.api.close()


async def test_a_quota_goes_down_with_its_nodes_and_up_again_as_it_was(leader: Leader) -> None:
    before = (await leader.read())["spec"]
    assert not await leader.keeper.step(seen(out=1), NOW)
    lowered = await leader.read()
    assert await leader.quota() == 56
    assert '"original":64' in lowered["metadata"]["annotations"][ANNOTATION]
    assert await leader.keeper.step(seen(out=1), NOW + 100), "nothing more to do"
    for later in (200, 261):
        await leader.keeper.step(seen(), NOW + later)
    restored = await leader.read()
    assert restored["spec"] == before
    assert ANNOTATION not in restored["metadata"].get("annotations", {})
    assert leader.patches() == leader.keeper.writes_total == 2


async def test_another_leader_without_the_entry_puts_the_original_back_and_is_done(
    leader: Leader,
) -> None:
    await leader.keeper.step(seen(out=1), NOW)
    after = leader.new(QuotaSettings())
    assert not await after.step(seen(out=1), NOW)
    assert await leader.quota() == 64
    await after.run(lambda: seen(out=1), lambda: NOW)  # it ends by itself
    assert leader.patches() == 2


async def test_who_does_not_lead_reads_and_writes_nothing(leader: Leader) -> None:
    leader.allowed = False
    assert not await leader.keeper.step(seen(out=1), NOW)
    assert leader.proxy.requests == []


async def test_a_dry_run_is_checked_by_the_server_and_changes_nothing(leader: Leader) -> None:
    dry = leader.new(dry_run=True)
    await dry.step(seen(out=1), NOW)
    assert leader.patches() == dry.writes_total == 1
    assert await leader.quota() == 64


async def test_a_queue_that_changed_meanwhile_is_not_overwritten(
    leader: Leader, workload_crds: ControlPlane
) -> None:
    note = {"metadata": {"annotations": {"note": "mine"}}}
    held = leader.proxy.fail(status=409, method="PATCH", times=1)
    await leader.keeper.step(seen(out=1), NOW)
    assert held.taken == 1
    assert (await workload_crds.request("PATCH", leader.path, note, MERGE))[0] == 200
    assert (leader.keeper.writes_total, leader.keeper.errors_total) == (0, 0)
    await leader.keeper.step(seen(out=1), NOW)
    assert await leader.quota() == 56
    assert (await leader.read())["metadata"]["annotations"]["note"] == "mine"


async def test_one_queue_that_is_refused_does_not_hold_up_the_others(
    leader: Leader, sandbox: Sandbox
) -> None:
    other = await sandbox.create(QUEUES, gpu_queue(sandbox.name("team-b")))
    [first] = leader.settings.pools
    second = first._replace(queue=other["metadata"]["name"])
    pools = {first: "H100", second: "other"}
    # Each fills a pool of its own, so that both change.
    view = seen(out=1)
    sick = ClusterNode(name="x", gpu_capacity=8, pool="other", taint=Taint("xid-79", "NoSchedule"))
    both = ClusterView(synced=True, nodes={**view.nodes, "x": sick}, incidents={})
    keeper = leader.new(QuotaSettings(pools=pools, pause_seconds=0))
    leader.proxy.fail(status=500, method="PATCH", path=leader.path)
    await keeper.step(both, NOW)
    assert (keeper.writes_total, keeper.errors_total) == (1, 1)
    leader.proxy.calm()
    await keeper.step(both, NOW)
    assert keeper.writes_total == 2


async def test_a_server_that_fails_costs_nothing_but_time(leader: Leader) -> None:
    for status in (403, 429, 500):
        leader.proxy.fail(status=status, method="GET", times=1)
        await leader.keeper.step(seen(out=1), NOW)
    assert leader.patches() == 0
    assert leader.keeper.errors_total == 3
    await leader.keeper.step(seen(out=1), NOW)
    assert await leader.quota() == 56


async def test_where_kueue_is_absent_there_is_nothing_to_do_and_nothing_to_tell(
    leader: Leader,
) -> None:
    leader.proxy.fail(status=404, path="/apis/kueue.x-k8s.io")
    assert await leader.keeper.step(seen(out=1), NOW)
    assert leader.keeper.errors_total == 0
    [words] = leader.keeper.words.values()
    assert words.startswith("there is no ClusterQueue")


async def test_without_settings_and_without_rights_it_is_done_at_once(leader: Leader) -> None:
    leader.proxy.fail(status=403)
    keeper = leader.new(QuotaSettings())
    await keeper.run(seen, lambda: NOW)
    assert keeper.errors_total == 0
