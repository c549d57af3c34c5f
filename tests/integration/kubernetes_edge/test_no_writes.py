"""When nothing may be written: by one who does not lead, and in a dry run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.events import COMPONENT
from aggregator.cluster.kubernetes import KubernetesEdge
from aggregator.cluster.lease import LeaseSettings
from aggregator.policy.model import (
    Condition,
    Cordon,
    ForgetIncident,
    Incident,
    Intent,
    RecordEvent,
    RemoveTaint,
    SetCondition,
    Taint,
    Uncordon,
)
from contract.vocabulary import Phase
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.sandbox import Sandbox
from tests.integration.kubernetes_edge.intents import GONE_BAD, incident, save, set_taint
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


async def everything(plane: ControlPlane, sandbox: Sandbox, node: str) -> dict[str, str]:
    """By path: the version of all that a dry run could have touched."""
    found: dict[str, str] = {}
    for path in (INCIDENTS, "/api/v1/namespaces/default/events", sandbox.path("pods")):
        listed = await read(plane, path)
        found |= {
            f"{path}/{each['metadata']['name']}": each["metadata"]["resourceVersion"]
            for each in listed["items"]
            if (node in each["metadata"]["name"] or sandbox.namespace in each["metadata"]["name"])
            and each.get("reportingComponent", COMPONENT)
            == COMPONENT  # Kubernetes tells of nodes too
        }
    one = await read(plane, f"/api/v1/nodes/{node}")
    return {**found, node: one["metadata"]["resourceVersion"]}


BAD = Condition("False", "Xid79", "GPU 3 fell off the bus")


def every_write(node: str, one: Incident) -> list[Intent]:
    return [
        set_taint(node, incident=one.name),
        Cordon(node=node, incident=one.name, reason="to be drained"),
        SetCondition(node=node, type="GPUHealthy", condition=BAD, reason="xid-79"),
        RecordEvent(node=node, type="Warning", event_reason="Quarantined", reason="xid-79"),
        save(one),
        save(msgspec.structs.replace(one, next_step="drain")),
    ]


async def test_a_dry_run_writes_nothing_and_shows_what_it_would_have(
    cluster: ControlPlane, sandbox: Sandbox, node: str, incident_name: str
) -> None:
    await sandbox.pod("p", node=node)
    one = incident(incident_name, node)
    async with running(cluster, dry_run=True) as watched:
        await watched.until(lambda view: node in view.nodes)
        before = await everything(cluster, sandbox, node)
        assert watched.edge.mode == "dry-run"
        await watched.apply(*every_write(node, one))
        # The server judged each write but the second save: of what is not there no status can be written.
        writes = [method for method, _ in watched.api.requests if method != "GET"]
        assert writes == ["PATCH"] * 3 + ["POST"] * 2
        view = watched.edge.view()
        seen = view.nodes[node]
        assert (seen.taint, seen.quarantined_by) == (GONE_BAD, incident_name)
        assert (seen.unschedulable, seen.cordoned_by) == (True, incident_name)
        assert seen.conditions == {"GPUHealthy": BAD}
        assert view.incidents[incident_name].next_step == "drain"
        (pod,) = await watched.edge.workloads.pods_on(node)
        assert watched.edge.workloads.dry_run
        assert await watched.edge.workloads.evict(pod, reason="drain")
        await watched.edge.workloads.annotate(pod, {"example.com/checkpoint": "now"})
        await watched.apply(
            RemoveTaint(node=node, reason="mended"), Uncordon(node=node, reason="mended")
        )
        seen = watched.edge.view().nodes[node]
        assert (seen.taint, seen.quarantined_by, seen.cordoned_by) == (None, "", "")
        assert not seen.unschedulable
        assert await everything(cluster, sandbox, node) == before
        lease = watched.edge._elector._path
    assert (await cluster.request("GET", lease))[0] == 404


async def test_a_dry_run_shows_the_real_cluster_and_what_people_say_through(
    cluster: ControlPlane, node: str, incident_name: str
) -> None:
    one = incident(incident_name, node)
    async with running(cluster) as real:
        await real.edge.apply(save(one))
    async with running(cluster, dry_run=True) as watched:
        await watched.edge.apply(save(msgspec.structs.replace(one, phase=Phase.DRAINING)))
        assert [method for method, _ in watched.api.requests if method != "GET"] == ["PUT"]
        await cluster.kubectl("cordon", node)
        patch = '{"spec":{"hold":true,"approve":["drain"],"cancel":true,"release":true,"note":"n"}}'
        await cluster.kubectl("patch", "inc", incident_name, "--type=merge", f"-p={patch}")
        view = await watched.until(
            lambda view: view.incidents[incident_name].hold and view.nodes[node].unschedulable
        )
        assert view.incidents[incident_name] == msgspec.structs.replace(
            one,
            phase=Phase.DRAINING,
            hold=True,
            approve=("drain",),
            cancel=True,
            release=True,
            note="n",
        )
        await watched.edge.apply(Cordon(node=node, incident=incident_name, reason="r"))
        assert watched.edge.view().nodes[node].cordoned_by == ""  # somebody else's
    stored = await read(cluster, f"{INCIDENTS}/{incident_name}")
    assert stored["status"]["phase"] == "suspect"


async def test_in_a_dry_run_the_server_still_refuses_what_it_would_refuse(
    cluster: ControlPlane, node: str, incident_name: str
) -> None:
    async with running(cluster, dry_run=True) as watched:
        await watched.until(lambda view: node in view.nodes)
        with pytest.raises(EdgeError, match=r"set-taint.*422"):
            await watched.edge.apply(set_taint(node, Taint("no such value!", "NoSchedule")))
        assert watched.edge.view().nodes[node].taint is None
        nameless = incident(incident_name, "")
        with pytest.raises(EdgeError, match=r"save-incident.*422"):
            await watched.edge.apply(save(nameless))
        assert incident_name not in watched.edge.view().incidents
        with pytest.raises(EdgeError, match=r"no-such-node.*404"):
            await watched.edge.apply(Cordon(node="no-such-node", incident="i", reason="r"))


async def test_a_dry_run_closes_and_forgets_what_it_imagined(
    cluster: ControlPlane, node: str, incident_name: str
) -> None:
    one = incident(incident_name, node)
    async with running(cluster, dry_run=True) as watched:
        await watched.edge.apply(save(one))
        await watched.edge.apply(save(msgspec.structs.replace(one, phase=Phase.CLOSED)))
        await watched.edge.apply(ForgetIncident(node=node, name=incident_name, reason="old"))
        assert incident_name not in watched.edge.view().incidents
