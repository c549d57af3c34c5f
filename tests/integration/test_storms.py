"""An API server that refuses, forgets, breaks off and goes away: what was decided is done in the end, and nothing else."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Api
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.kubernetes import KubernetesEdge
from aggregator.cluster.reflector import Timings
from aggregator.policy.model import RemoveTaint, SetTaint, Taint
from contract.vocabulary import TAINT_KEY
from tests.controlplane.api import MERGE
from tests.controlplane.proxy import FaultProxy
from tests.e2e.rig import install
from tests.integration.kubernetes_edge.rig import background, settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aggregator.policy.model import Intent
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

NODES = 12
FOREIGN = {"key": "example.invalid/theirs", "value": "x", "effect": "NoSchedule"}
QUICK = Timings(backoff_seconds=0.05, backoff_max_seconds=0.5)


class Stormy:
    """An edge whose way to the server goes through the proxy, and its nodes."""

    def __init__(self, plane: ControlPlane, proxy: FaultProxy, nodes: list[str]) -> None:
        self.plane, self.proxy, self.nodes = plane, proxy, nodes
        self.edge = KubernetesEdge(
            settings(plane, reflector=QUICK),
            api=Api(Credentials(proxy.kubeconfig)),
        )
        self.failures: Counter[str] = Counter()

    def tainted(self) -> set[str]:
        """By our own picture."""
        nodes = self.edge.view().nodes
        return {name for name in self.nodes if name in nodes and nodes[name].taint is not None}

    async def insist(self, *, tainted: bool) -> None:
        """What the engine does: look, ask for what is missing, look again; as long as it takes."""
        while True:
            view = self.edge.view()
            wrong = [name for name in self.nodes if (name in self.tainted()) is not tainted]
            if view.synced and not wrong:
                return
            if view.synced and self.edge.leading:
                await asyncio.gather(*(self._try(name, tainted=tainted) for name in wrong))
            await asyncio.sleep(0.05)

    async def _try(self, node: str, *, tainted: bool) -> None:
        intent: Intent = RemoveTaint(node=node, reason="well again")
        if tainted:
            intent = SetTaint(node=node, taint=Taint("xid-79", "NoSchedule"), reason="sick")
        try:
            await self.edge.apply(intent)
        except EdgeError as error:
            self.failures[str(error)] += 1

    async def really(self) -> dict[str, list[str]]:
        """The taints of each node as the server has them."""
        _, listed = await self.plane.request("GET", "/api/v1/nodes")
        return {
            each["metadata"]["name"]: sorted(one["key"] for one in each["spec"].get("taints", ()))
            for each in listed["items"]
            if each["metadata"]["name"] in self.nodes
        }


@pytest.fixture
async def stormy(control_plane: ControlPlane, sandbox: Sandbox) -> AsyncIterator[Stormy]:
    await install(control_plane)
    nodes = [await sandbox.node(f"n{number:02d}", kwok=False) for number in range(NODES)]
    for node in nodes:
        body = {"spec": {"taints": [FOREIGN]}}
        await control_plane.request("PATCH", f"/api/v1/nodes/{node}", body, MERGE)
    async with FaultProxy(control_plane) as proxy:
        one = Stormy(control_plane, proxy, nodes)
        async with background(one.edge.run(lambda: None)):
            yield one
        proxy.calm()
        await one.edge.close()


@pytest.mark.parametrize("seed", [1, 2])
async def test_through_a_storm_every_node_gets_and_loses_its_taint_and_keeps_the_others(
    stormy: Stormy, seed: int
) -> None:
    stormy.proxy.storm(Random(seed), share=0.4)
    both = sorted([TAINT_KEY, FOREIGN["key"]])
    for _ in range(5):
        await stormy.insist(tainted=True)
        assert await stormy.really() == dict.fromkeys(stormy.nodes, both)
        await stormy.insist(tainted=False)
        assert await stormy.really() == {name: [FOREIGN["key"]] for name in stormy.nodes}
    seen = {each.fault for each in stormy.proxy.requests}
    assert {"409", "410", "429", "500", "503", "cut before", "cut after"} <= seen


async def test_a_server_that_only_conflicts_is_not_fought_for_ever(stormy: Stormy) -> None:
    await stormy.insist(tainted=True)
    node = stormy.nodes[0]
    path = f"/api/v1/nodes/{node}"
    stormy.proxy.fail(status=409, method="PATCH", path=path)
    before = stormy.proxy.count("PATCH", path)
    with pytest.raises(EdgeError):
        await stormy.edge.apply(RemoveTaint(node=node, reason="well again"))
    assert 1 < stormy.proxy.count("PATCH", path) - before < 10
    assert TAINT_KEY in (await stormy.really())[node]


async def test_an_api_server_killed_in_the_middle_leaves_nothing_half_done(stormy: Stormy) -> None:
    await stormy.insist(tainted=False)
    stormy.proxy.hang(method="PATCH")
    stormy.proxy.delay(0, method="PATCH", times=3)  # the newest rule goes first
    insisting = asyncio.create_task(stormy.insist(tainted=True))
    await stormy.proxy.until(lambda: stormy.proxy.count("PATCH", status=200) >= 3)
    await stormy.plane.kill_apiserver()
    stormy.proxy.calm()
    await stormy.proxy.until(lambda: stormy.proxy.requests[-1].fault == "server away")
    assert not insisting.done()
    await stormy.plane.start_apiserver()
    await insisting
    both = sorted([TAINT_KEY, FOREIGN["key"]])
    assert await stormy.really() == dict.fromkeys(stormy.nodes, both)
