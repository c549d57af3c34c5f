"""The Kubernetes edge against a real API server: what it writes, what it leaves alone, what it sees."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Api, Json
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.errors import Conflict, Forbidden, NotFound, Unavailable
from aggregator.cluster.kubernetes import KubernetesEdge, KubernetesSettings
from aggregator.cluster.lease import LeaseSettings
from aggregator.cluster.nodes import reduce_node
from aggregator.cluster.reflector import Reflector, Timings
from aggregator.policy.model import (
    ClusterView,
    Condition,
    Incident,
    Intent,
    RecordEvent,
    RemoveTaint,
    SaveIncident,
    SetCondition,
    SetTaint,
    Taint,
    TimelineEntry,
)
from contract.vocabulary import TAINT_KEY, Action, Domain, Finding, Phase, Severity
from tests.controlplane.api import APPLY, MERGE
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.manifests import gpu_node, gpu_pod
from tests.controlplane.sandbox import Sandbox

pytestmark = pytest.mark.cluster

CRD = Path(__file__).parents[2] / "deploy" / "crd" / "incidents.yaml"
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/incidents.fleetmedic.io"
INCIDENTS = "/apis/fleetmedic.io/v1alpha1/incidents"
EVENTS = "/api/v1/namespaces/default/events"
OURS = {"key": TAINT_KEY, "value": "xid-79", "effect": "NoSchedule"}
GONE_BAD = Taint("xid-79", "NoSchedule")
FOREIGN = {"key": "example.com/foreign", "value": "a", "effect": "NoSchedule"}
T0 = 1_795_449_600.0


class SpyApi(Api):
    """The real way to the server; counts writes, and lets a test do something right before one."""

    def __init__(self, kubeconfig: Path) -> None:
        super().__init__(Credentials(kubeconfig))
        self.requests: list[tuple[str, str]] = []
        self.refusals: list[str] = []
        self.before_patch: Callable[[], Any] | None = None

    async def _send(self, method: str, path: str, *args: Any, **kwargs: Any) -> bytes:
        if "/leases" not in path:
            self.requests.append((method, path))
        try:
            return await super()._send(method, path, *args, **kwargs)
        except Conflict as error:
            self.refusals.append(str(error))
            raise

    async def patch(self, path: str, body: Mapping[str, Any]) -> Json:
        if self.before_patch is not None:
            act, self.before_patch = self.before_patch, None
            await act()
        return await super().patch(path, body)


class Watched:
    """A running edge, and a way to wait until its view is as wanted."""

    def __init__(self, edge: KubernetesEdge, api: SpyApi) -> None:
        self.edge = edge
        self.api = api
        self.changed = asyncio.Event()

    async def until(self, predicate: Callable[[ClusterView], object]) -> ClusterView:
        async with asyncio.timeout(15):
            while not predicate(self.edge.view()):
                self.changed.clear()
                await self.changed.wait()
        return self.edge.view()

    async def apply(self, *intents: Intent) -> None:
        for intent in intents:
            await self.edge.apply(intent)


def settings(plane: ControlPlane, **changes: Any) -> KubernetesSettings:
    lease = LeaseSettings(namespace="default", name=f"t-{uuid.uuid4().hex[:8]}")
    return KubernetesSettings(kubeconfig=plane.kubeconfig, **{"lease": lease, **changes})


@asynccontextmanager
async def running(
    plane: ControlPlane, wall: Callable[[], float] = time.time, **changes: Any
) -> AsyncIterator[Watched]:
    api = SpyApi(plane.kubeconfig)
    edge = KubernetesEdge(settings(plane, **changes), api=api, wall=wall)
    watched = Watched(edge, api)
    task = asyncio.create_task(edge.run(watched.changed.set))
    try:
        await watched.until(lambda view: view.synced and edge.leading)
        api.requests.clear()
        yield watched
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await edge.close()


@pytest.fixture
async def cluster(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with our custom resource installed."""
    query = "?fieldManager=test&force=true"
    status, _ = await control_plane.request("PATCH", CRD_PATH + query, CRD.read_bytes(), APPLY)
    assert status in (200, 201)

    def established(crd: Json) -> bool:
        conditions = crd.get("status", {}).get("conditions") or ()
        return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

    await control_plane.until(CRD_PATH, established)
    async with asyncio.timeout(20):
        while (await control_plane.request("GET", INCIDENTS))[0] == 429:
            await asyncio.sleep(0.05)  # established, its storage still being made
    return control_plane


@pytest.fixture
async def node(cluster: ControlPlane, sandbox: Sandbox) -> str:
    """A Ready node of this test's own."""
    return await sandbox.node(kwok=False)


@pytest.fixture
async def watched(cluster: ControlPlane, node: str) -> AsyncIterator[Watched]:
    async with running(cluster) as one:
        yield one


async def read(plane: ControlPlane, path: str) -> Json:
    status, obj = await plane.request("GET", path)
    assert status == 200, obj
    return obj


async def taints_of(plane: ControlPlane, node: str) -> list[Json]:
    found: list[Json] = (await read(plane, f"/api/v1/nodes/{node}"))["spec"].get("taints", [])
    return found


async def write_taints(plane: ControlPlane, node: str, taints: list[Json]) -> None:
    body = {"spec": {"taints": taints}}
    status, answer = await plane.request("PATCH", f"/api/v1/nodes/{node}", body, MERGE)
    assert status == 200, answer


async def conditions_of(plane: ControlPlane, node: str) -> dict[str, Json]:
    found = (await read(plane, f"/api/v1/nodes/{node}"))["status"]["conditions"]
    return {one["type"]: one for one in found}


def set_taint(node: str, taint: Taint = GONE_BAD) -> SetTaint:
    return SetTaint(node=node, taint=taint, reason="GPU 3 fell off the bus")


def incident(name: str, node: str, **changes: Any) -> Incident:
    finding = Finding(
        code="xid-79",
        subject="gpu:0000:3b:00.0",
        severity=Severity.FATAL,
        action=Action.REBOOT_NODE,
        domain=Domain.GPU,
        evidence="NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.",
        since_seconds=T0 + 0.1234567,
        last_seen_seconds=T0 + 1.5,
        count=2,
    )
    base = Incident(
        name=name,
        node=node,
        pool="h200",
        phase=Phase.SUSPECT,
        findings=(finding,),
        opened_seconds=T0 + 0.987654321,
        next_step="quarantine at once",
        timeline=(TimelineEntry(T0, Phase.SUSPECT, "first seen"),),
    )
    return msgspec.structs.replace(base, **changes)


def save(one: Incident) -> SaveIncident:
    return SaveIncident(incident=one, reason="opened")


# --- taints -------------------------------------------------------------------------------------


async def test_a_taint_costs_one_request_and_is_in_the_view_at_once(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    await watched.until(lambda view: node in view.nodes)
    await watched.edge.apply(set_taint(node))
    assert watched.api.requests == [("PATCH", f"/api/v1/nodes/{node}")]
    assert watched.edge.view().nodes[node].taint == GONE_BAD
    assert watched.edge.view().nodes[node].gpu_capacity == 8
    assert watched.edge.view().nodes[node].pool == "NVIDIA-H200"
    assert OURS in await taints_of(cluster, node)
    await watched.edge.apply(set_taint(node))
    assert len(watched.api.requests) == 1  # nothing left to do
    await watched.edge.apply(RemoveTaint(node=node, reason="mended"))
    assert watched.edge.view().nodes[node].taint is None
    assert OURS not in await taints_of(cluster, node)


async def test_a_taint_that_others_add_between_our_read_and_our_write_survives(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    watched.api.before_patch = lambda: write_taints(cluster, node, [FOREIGN])
    await watched.edge.apply(set_taint(node))
    assert len(watched.api.refusals) == 1
    assert "409" in watched.api.refusals[0]
    assert await taints_of(cluster, node) == [FOREIGN, OURS]


async def test_foreign_taints_keep_their_order_and_their_time(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    timed = {"key": "example.com/t", "effect": "NoExecute", "timeAdded": "2026-01-02T03:04:05Z"}
    before = [timed, OURS, FOREIGN]
    await write_taints(cluster, node, before)
    await watched.until(lambda view: view.nodes[node].taint == GONE_BAD)
    await watched.edge.apply(set_taint(node, Taint("ecc", "PreferNoSchedule")))
    changed = {"key": TAINT_KEY, "value": "ecc", "effect": "PreferNoSchedule"}
    assert await taints_of(cluster, node) == [timed, changed, FOREIGN]
    await watched.edge.apply(RemoveTaint(node=node, reason="mended"))
    assert await taints_of(cluster, node) == [timed, FOREIGN]


async def test_others_who_never_stop_changing_a_node_end_in_a_sentence(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    number = 0

    async def meddle() -> None:
        nonlocal number
        number += 1
        await write_taints(cluster, node, [{**FOREIGN, "value": str(number)}])
        watched.api.before_patch = meddle

    watched.api.before_patch = meddle
    with pytest.raises(EdgeError, match="others kept changing node"):
        await watched.edge.apply(set_taint(node))
    assert await taints_of(cluster, node) == [{**FOREIGN, "value": str(number)}]


async def test_a_node_that_is_gone_is_an_edge_error(watched: Watched) -> None:
    for intent in (
        set_taint("no-such-node"),
        SetCondition(
            node="no-such-node", type="GPUHealthy", condition=Condition("True"), reason=""
        ),
    ):
        with pytest.raises(EdgeError, match=r"no-such-node.*404"):
            await watched.edge.apply(intent)


# --- conditions ---------------------------------------------------------------------------------


async def test_the_transition_time_moves_only_when_the_status_flips(
    cluster: ControlPlane, node: str
) -> None:
    now = T0

    def state(status: Any, reason: str) -> SetCondition:
        condition = Condition(status, reason, f"because {reason}")
        return SetCondition(node=node, type="GPUHealthy", condition=condition, reason="checked")

    async with running(cluster, wall=lambda: now) as watched:
        seen = []
        for status, reason in (("True", "A"), ("True", "B"), ("False", "C"), ("False", "D")):
            now += 60
            await watched.edge.apply(state(status, reason))
            one = (await conditions_of(cluster, node))["GPUHealthy"]
            assert (one["status"], one["reason"]) == (status, reason)
            assert watched.edge.view().nodes[node].conditions["GPUHealthy"].reason == reason
            seen.append(one["lastTransitionTime"])
        assert seen[0] == seen[1]
        assert seen[2] == seen[3]
        assert seen[1] < seen[2]
        assert [method for method, _ in watched.api.requests] == ["PATCH"] * 4


async def test_conditions_do_not_drop_each_other_nor_those_of_others(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    ready = (await conditions_of(cluster, node))["Ready"]
    for type_ in ("GPUHealthy", "RDMAHealthy", "GPUHealthy"):
        status: Any = "False" if type_ == "GPUHealthy" else "True"
        condition = Condition(status, "Checked", str(len(watched.api.requests)))
        await watched.edge.apply(
            SetCondition(node=node, type=type_, condition=condition, reason="checked")
        )
    found = await conditions_of(cluster, node)
    assert found["Ready"] == ready
    assert found["GPUHealthy"]["status"] == "False"
    assert found["RDMAHealthy"]["status"] == "True"


async def test_a_condition_of_others_is_not_written(watched: Watched, node: str) -> None:
    condition = Condition("False", "No", "no")
    with pytest.raises(EdgeError, match="Ready is not a condition of ours"):
        await watched.edge.apply(
            SetCondition(node=node, type="Ready", condition=condition, reason="never")
        )
    assert watched.api.requests == []


# --- events -------------------------------------------------------------------------------------


async def test_a_repeated_event_is_counted_also_by_the_next_leader(
    cluster: ControlPlane, node: str
) -> None:
    event = RecordEvent(
        node=node, type="Warning", event_reason="Quarantined", reason="xid-79 on GPU 3"
    )
    query = f"{EVENTS}?fieldSelector=involvedObject.name={node},reason=Quarantined"
    async with running(cluster) as first:
        await first.apply(event, event, event)
        methods = [method for method, _ in first.api.requests]
        assert methods == ["POST", "PATCH", "PATCH"]
    async with running(cluster) as second:
        await second.apply(event, event)
    (stored,) = (await read(cluster, query))["items"]
    assert stored["count"] == 5
    described = await cluster.kubectl("describe", "node", node)
    assert "Quarantined" in described
    assert "xid-79 on GPU 3" in described
    path = f"{EVENTS}/{stored['metadata']['name']}"
    await cluster.request("DELETE", path)


async def test_an_event_that_expired_is_written_anew(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    event = RecordEvent(node=node, type="Normal", event_reason="Released", reason="mended")
    await watched.apply(event)
    path = f"{EVENTS}/{event_name_of(watched)}"
    await cluster.request("DELETE", path)
    await watched.apply(event)
    assert (await read(cluster, path))["count"] == 1
    await cluster.request("DELETE", path)


def event_name_of(watched: Watched) -> str:
    (name,) = watched.edge._events._counts
    return name


# --- incidents ----------------------------------------------------------------------------------


@pytest.fixture
async def incident_name(cluster: ControlPlane, sandbox: Sandbox) -> AsyncIterator[str]:
    name = sandbox.name("incident")
    yield name
    await cluster.request("DELETE", f"{INCIDENTS}/{name}")


async def test_an_incident_is_created_updated_and_printed(
    cluster: ControlPlane, watched: Watched, node: str, incident_name: str
) -> None:
    one = incident(incident_name, node)
    await watched.edge.apply(save(one))
    assert [method for method, _ in watched.api.requests] == ["POST", "PUT"]
    assert watched.edge.view().incidents[incident_name] == one
    later = msgspec.structs.replace(
        one, phase=Phase.QUARANTINED, quarantined_seconds=T0 + 2.25, next_step="drain"
    )
    await watched.edge.apply(save(later))
    assert [method for method, _ in watched.api.requests] == ["POST", "PUT", "PUT"]
    assert watched.edge.view().incidents[incident_name] == later
    async with running(cluster) as fresh:  # from the server alone
        assert fresh.edge.view().incidents[incident_name] == later
    printed = await cluster.kubectl("get", "inc", incident_name)
    head, line = printed.splitlines()
    assert head.split() == ["NAME", "NODE", "CODE", "PHASE", "ACTION", "AGE"]
    assert line.split()[:5] == [incident_name, node, "xid-79", "quarantined", "reboot-node"]
    selected = await cluster.kubectl("get", "inc", f"--field-selector=spec.node={node}", "-oname")
    assert selected.strip() == f"incident.fleetmedic.io/{incident_name}"


async def test_a_hold_set_by_a_person_is_seen_and_survives_our_next_save(
    cluster: ControlPlane, watched: Watched, node: str, incident_name: str
) -> None:
    one = incident(incident_name, node)
    await watched.edge.apply(save(one))
    patch = '{"spec":{"hold":true,"note":"spare part on its way"}}'
    await cluster.kubectl("patch", "inc", incident_name, "--type=merge", f"-p={patch}")
    view = await watched.until(lambda view: view.incidents[incident_name].hold)
    seen = view.incidents[incident_name]
    await watched.edge.apply(save(msgspec.structs.replace(seen, next_step="held by a person")))
    stored = await read(cluster, f"{INCIDENTS}/{incident_name}")
    assert stored["spec"] == {"node": node, "hold": True, "note": "spare part on its way"}
    assert stored["status"]["nextStep"] == "held by a person"


async def test_a_hold_set_right_before_our_write_stops_it_and_shows(
    cluster: ControlPlane, watched: Watched, node: str, incident_name: str
) -> None:
    one = incident(incident_name, node)
    await watched.edge.apply(save(one))
    # The watch is held up, so that our cache does not know of the hold yet.
    path = f"{INCIDENTS}/{incident_name}"
    _, held = await cluster.request("PATCH", path, {"spec": {"hold": True}}, MERGE)
    entry = watched.edge._incidents.entries[incident_name]
    stale = entry._replace(version=str(int(held["metadata"]["resourceVersion"]) - 1))
    watched.edge._incidents._entries[incident_name] = stale
    with pytest.raises(EdgeError, match=r"save-incident.*409"):
        await watched.edge.apply(save(msgspec.structs.replace(one, phase=Phase.DRAINING)))
    assert watched.edge.view().incidents[incident_name].hold
    assert (await read(cluster, path))["status"]["phase"] == "suspect"


async def test_an_incident_made_by_a_person_without_status_is_a_beginning(
    cluster: ControlPlane, watched: Watched, node: str, incident_name: str
) -> None:
    text = (
        f"apiVersion: fleetmedic.io/v1alpha1\nkind: Incident\n"
        f"metadata: {{name: {incident_name}}}\nspec: {{node: {node}, hold: true}}\n"
    )
    await cluster.kubectl("create", "-f", "-", stdin=text)
    view = await watched.until(lambda view: incident_name in view.incidents)
    seen = view.incidents[incident_name]
    assert (seen.phase, seen.node, seen.hold) == (Phase.SUSPECT, node, True)
    assert seen.opened_seconds > 0


@pytest.mark.parametrize(
    ("subresource", "patch"),
    [
        ("", {"spec": {"node": "another"}}),
        ("", {"spec": {"hold": "yes"}}),
        ("/status", {"status": {"phase": "gone-fishing"}}),
        ("/status", {"status": {"openedTime": "yesterday"}}),
    ],
)
async def test_the_schema_refuses_what_makes_no_sense(
    cluster: ControlPlane,
    watched: Watched,
    node: str,
    incident_name: str,
    subresource: str,
    patch: Json,
) -> None:
    await watched.edge.apply(save(incident(incident_name, node)))
    path = f"{INCIDENTS}/{incident_name}{subresource}"
    status, _ = await cluster.request("PATCH", path, patch, MERGE)
    assert status == 422


# --- watching, leading, dry run -----------------------------------------------------------------


async def test_the_view_follows_what_others_do(
    cluster: ControlPlane, watched: Watched, sandbox: Sandbox
) -> None:
    name = sandbox.name("late")
    assert not watched.edge.knows(name)
    await sandbox.create("/api/v1/nodes", gpu_node(name, gpus=4, kwok=False))
    view = await watched.until(lambda view: name in view.nodes)
    assert watched.edge.knows(name)
    assert view.nodes[name].gpu_capacity == 4
    assert view is watched.edge.view()  # built once per change
    await cluster.kubectl("cordon", name)
    await watched.until(lambda view: view.nodes[name].unschedulable)
    await cluster.request("DELETE", f"/api/v1/nodes/{name}")
    await watched.until(lambda view: name not in view.nodes)
    assert watched.edge.last_event_age_seconds < 15


def has_round(node: str, wanted: str, view: ClusterView) -> bool:
    return view.nodes[node].labels.get("fleetmedic.test/round") == wanted


async def test_a_watch_that_the_server_ends_is_taken_up_without_a_gap(
    cluster: ControlPlane, sandbox: Sandbox, node: str
) -> None:
    async with running(cluster, reflector=Timings(watch_seconds=1.0)) as watched:
        for number in range(3):
            wanted = f"v{number}"
            await asyncio.sleep(0.7)  # the server's own clock ends the watch
            body = {"metadata": {"labels": {"fleetmedic.test/round": wanted}}}
            await cluster.request("PATCH", f"/api/v1/nodes/{node}", body, MERGE)
            await watched.until(partial(has_round, node, wanted))
        assert [path for _, path in watched.api.requests if path == "/api/v1/nodes"] == []


async def test_a_long_list_is_read_in_pages(cluster: ControlPlane, sandbox: Sandbox) -> None:
    names = {await sandbox.node(f"n{number}", kwok=False) for number in range(5)}
    api = SpyApi(cluster.kubeconfig)
    found: list[str] = []
    async with contextlib.aclosing(api.pages("/api/v1/nodes", limit=2)) as pages:
        async for page in pages:
            found.extend(item["metadata"]["name"] for item in page["items"])
    await api.close()
    assert names <= set(found)
    assert len(found) == len(set(found))
    assert len(api.requests) >= 3


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


@asynccontextmanager
async def other_edge(plane: ControlPlane, lease: LeaseSettings) -> AsyncIterator[KubernetesEdge]:
    edge = KubernetesEdge(settings(plane, lease=lease))
    synced = asyncio.Event()
    task = asyncio.create_task(edge.run(lambda: synced.set() if edge.view().synced else None))
    try:
        await asyncio.wait_for(synced.wait(), 15)
        yield edge
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await edge.close()


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


async def test_a_change_during_an_outage_of_the_server_is_not_missed(
    cluster: ControlPlane, watched: Watched, sandbox: Sandbox, node: str
) -> None:
    await cluster.kill_apiserver()
    with pytest.raises(EdgeError, match=r"set-taint for node .*: PATCH|not the leader"):
        await watched.edge.apply(set_taint(node))
    await cluster.start_apiserver()
    name = sandbox.name("new")
    await sandbox.create("/api/v1/nodes", gpu_node(name, kwok=False))
    await cluster.request("DELETE", f"/api/v1/nodes/{node}")
    await watched.until(lambda view: name in view.nodes and node not in view.nodes)


async def test_a_forgotten_place_in_the_history_leads_to_a_new_list(
    cluster: ControlPlane, sandbox: Sandbox, node: str
) -> None:
    """A version that the server cannot know any more: 1 is always compacted or before its cache."""
    api = SpyApi(cluster.kubeconfig)
    changed = asyncio.Event()
    nodes = Reflector(
        api,
        "/api/v1/nodes",
        reduce_node,
        on_change=changed.set,
        clock=time.monotonic,
        random=lambda: 0.0,
    )
    ghost = gpu_node("ghost")
    nodes.put({**ghost, "metadata": {"name": "ghost", "resourceVersion": "1"}})
    nodes._position = "1"
    nodes._written = None
    task = asyncio.create_task(nodes.run())
    async with asyncio.timeout(15):
        while "ghost" in nodes.entries or node not in nodes.entries:
            changed.clear()
            await changed.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await api.close()
    assert ("GET", "/api/v1/nodes") in api.requests


# --- errors and tokens --------------------------------------------------------------------------


async def test_what_the_server_refuses_has_a_type_and_no_secret(
    cluster: ControlPlane, sandbox: Sandbox
) -> None:
    nobody = SpyApi(cluster.write_kubeconfig("nobody", token="not-a-token"))
    with pytest.raises(Forbidden) as refused:
        await nobody.get("/api/v1/nodes")
    assert "not-a-token" not in str(refused.value)
    await nobody.close()
    admin = SpyApi(cluster.kubeconfig)
    with pytest.raises(NotFound):
        await admin.get("/api/v1/nodes/none")
    await admin.close()


async def test_an_unreachable_server_and_missing_credentials_are_unavailable(
    tmp_path: Path, cluster: ControlPlane
) -> None:
    text = await asyncio.to_thread(cluster.kubeconfig.read_text)
    dead = tmp_path / "dead.kubeconfig"
    dead.write_text(text.replace(cluster.url, "https://127.0.0.1:9"))
    for path in (dead, tmp_path / "missing"):
        api = SpyApi(path)
        with pytest.raises(Unavailable):
            await api.get("/api/v1/nodes")
        await api.close()


async def test_a_token_proves_the_node_of_the_pod_that_it_is_bound_to(
    cluster: ControlPlane, sandbox: Sandbox, node: str
) -> None:
    account = f"{sandbox.namespace}/agent"
    for name in ("agent", "stranger"):
        await sandbox.create(sandbox.path("serviceaccounts"), {"metadata": {"name": name}})
        await sandbox.create(
            sandbox.path("pods"), gpu_pod(name, gpus=0, node=node, serviceAccountName=name)
        )

    async def token(name: str, audience: str, *, bound: bool = True) -> str:
        path = f"{sandbox.path('serviceaccounts', name)}/token"
        spec: Json = {"audiences": [audience], "expirationSeconds": 600}
        if bound:
            pod = await read(cluster, sandbox.path("pods", name))
            uid = pod["metadata"]["uid"]
            spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}
        status, made = await cluster.request("POST", path, {"spec": spec})
        assert status == 201, made
        value: str = made["status"]["token"]
        return value

    api = SpyApi(cluster.kubeconfig)
    edge = KubernetesEdge(settings(cluster, agent_service_account=account), api=api)
    good = await token("agent", "fleetmedic")
    assert await edge.tokens.review(good) == node
    assert await edge.tokens.review(good) == node
    assert len(api.requests) == 1  # the second time it was remembered
    assert await edge.tokens.review(await token("agent", "fleetmedic", bound=False)) is None
    assert await edge.tokens.review(await token("agent", "somebody-else")) is None
    assert await edge.tokens.review(await token("stranger", "fleetmedic")) is None
    assert await edge.tokens.review("nonsense") is None
    await edge.close()
