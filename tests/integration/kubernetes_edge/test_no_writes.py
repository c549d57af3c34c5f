"""When nothing may be written: by one who does not lead, and in a dry run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.kubernetes import KubernetesEdge
from aggregator.cluster.lease import LeaseSettings
from aggregator.policy.model import Condition, Intent, RecordEvent, RemoveTaint, SetCondition
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.sandbox import Sandbox
from tests.integration.kubernetes_edge.intents import GONE_BAD, OURS, incident, save, set_taint
from tests.integration.kubernetes_edge.rig import (
    INCIDENTS,
    WAIT_S,
    Watched,
    background,
    read,
    running,
    settings,
)

pytestmark = pytest.mark.cluster


@asynccontextmanager
async def other_edge(plane: ControlPlane, lease: LeaseSettings) -> AsyncIterator[KubernetesEdge]:
    edge = KubernetesEdge(settings(plane, lease=lease))
    synced = asyncio.Event()
    try:
        async with background(edge.run(lambda: synced.set() if edge.view().synced else None)):
            await asyncio.wait_for(synced.wait(), WAIT_S)
            yield edge
    finally:
        await edge.close()


async def test_nothing_is_written_by_one_who_does_not_lead(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    lease = watched.edge._elector._settings
    async with other_edge(cluster, lease) as other:
        before = (await read(cluster, f"/api/v1/nodes/{node}"))["metadata"]["resourceVersion"]
        with pytest.raises(EdgeError, match="not the leader"):
            await other.apply(set_taint(node))
        after = (await read(cluster, f"/api/v1/nodes/{node}"))["metadata"]["resourceVersion"]
        assert before == after


async def test_a_dry_run_writes_nothing_and_shows_what_it_would_have(
    cluster: ControlPlane, sandbox: Sandbox, node: str, incident_name: str
) -> None:
    path = f"/api/v1/nodes/{node}"
    before = await read(cluster, path)
    bad = Condition("False", "Xid79", "GPU 3 fell off the bus")
    intents: list[Intent] = [
        set_taint(node),
        SetCondition(node=node, type="GPUHealthy", condition=bad, reason="xid-79"),
        RecordEvent(node=node, type="Warning", event_reason="Quarantined", reason="xid-79"),
        save(incident(incident_name, node)),
    ]
    async with running(cluster, dry_run=True) as watched:
        assert watched.edge.mode == "dry-run"
        await watched.apply(*intents)
        view = watched.edge.view()
        assert view.nodes[node].taint == GONE_BAD
        assert view.nodes[node].conditions == {"GPUHealthy": bad}
        assert view.incidents[incident_name] == incident(incident_name, node)
        assert watched.api.requests == []
        # The real cluster still shows through.
        await cluster.kubectl("cordon", node)
        view = await watched.until(lambda view: view.nodes[node].unschedulable)
        assert view.nodes[node].taint == GONE_BAD
        await watched.edge.apply(RemoveTaint(node=node, reason="mended"))
        assert watched.edge.view().nodes[node].taint is None
        lease = watched.edge._elector._path
    after = await read(cluster, path)
    assert OURS not in after["spec"].get("taints", ())
    assert after["status"] == before["status"]
    assert (await cluster.request("GET", f"{INCIDENTS}/{incident_name}"))[0] == 404
    assert (await cluster.request("GET", lease))[0] == 404
