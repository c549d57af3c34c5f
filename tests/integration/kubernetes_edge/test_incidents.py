"""Incidents as objects: written by us, held by persons, guarded by the schema."""

import msgspec
import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Json
from aggregator.policy.model import (
    Attempt,
    DrainProgress,
    DrainState,
    ForgetIncident,
    TimelineEntry,
)
from contract.vocabulary import Phase
from tests.controlplane.api import MERGE
from tests.controlplane.cluster import ControlPlane
from tests.integration.kubernetes_edge.intents import T0, incident, save
from tests.integration.kubernetes_edge.rig import INCIDENTS, Watched, read, running

pytestmark = pytest.mark.cluster

WHEN = "2026-11-26T07:00:00Z"
ATTEMPT = {
    "id": "a",
    "rung": "drain",
    "startedTime": WHEN,
    "deadlineTime": WHEN,
    "outcome": "started",
}


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
    assert head.split() == ["NAME", "NODE", "DEVICE", "CODE", "PHASE", "ACTION", "AGE"]
    told = [incident_name, node, "gpu:0000:3b:00.0", "xid-79", "quarantined", "reboot-node"]
    assert line.split()[:6] == told
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
        ("", {"spec": {"approve": ["self-destruct"]}}),
        ("", {"spec": {"approve": ["drain", "drain"]}}),
        ("", {"spec": {"cancel": "please"}}),
        ("", {"spec": {"release": 1}}),
        ("", {"spec": {"note": "x" * 4097}}),
        ("/status", {"status": {"phase": "gone-fishing"}}),
        ("/status", {"status": {"openedTime": "yesterday"}}),
        ("/status", {"status": {"attempts": [{"id": "a", "rung": "drain"}]}}),
        ("/status", {"status": {"attempts": [{**ATTEMPT, "outcome": "maybe"}]}}),
        ("/status", {"status": {"attempts": [ATTEMPT] * 129}}),
        ("/status", {"status": {"drain": {"attempt": "a", "state": "lost"}}}),
        ("/status", {"status": {"notedTimes": {"xid-79": "soon"}}}),
        ("/status", {"status": {"needs": "x" * 1025}}),
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


async def test_all_that_an_incident_holds_is_kept_and_comes_back(
    cluster: ControlPlane, watched: Watched, node: str, incident_name: str
) -> None:
    one = incident(
        incident_name,
        node,
        phase=Phase.DRAINING,
        phase_since_seconds=T0 + 1.5,
        next_step_seconds=T0 + 60,
        noted_seconds={"xid-79": T0, "gpu-lost": T0 + 1},
        attempts=(
            Attempt(
                id="d-1",
                rung="drain",
                subject="gpu:0000:3b:00.0",
                started_seconds=T0 + 2,
                deadline_seconds=T0 + 900,
                boot_id="b-1",
            ),
        ),
        drain=DrainProgress(
            attempt="d-1", state=DrainState.STUCK, pods_total=4, pods_gone=1, text="PDB"
        ),
        soak_since_seconds=T0 + 3,
        muted_until_seconds=T0 + 4,
        needs="look at slot 3",
        told_seconds=T0 + 5,
    )
    await watched.edge.apply(save(one))
    async with running(cluster) as fresh:
        assert fresh.edge.view().incidents[incident_name] == one
    printed = await cluster.kubectl("get", "inc", incident_name)
    assert printed.splitlines()[1].split()[4:6] == ["draining", "drain"]


@pytest.mark.parametrize("letter", ["x", "\N{FIRE}", "\x01"])
async def test_what_is_too_long_for_the_schema_is_shortened_and_never_refused(
    cluster: ControlPlane, watched: Watched, node: str, incident_name: str, letter: str
) -> None:
    long = letter * 5000
    base = incident(incident_name, node)
    attempt = Attempt(id=long, rung=long, started_seconds=T0, deadline_seconds=-1.0, text=long)
    (finding,) = base.findings
    big = msgspec.structs.replace(
        base,
        pool=long,
        next_step=long,
        needs=long,
        findings=(msgspec.structs.replace(finding, evidence=long, subject=long, count=2**70),)
        * 150,
        attempts=(attempt,) * 300,
        timeline=(TimelineEntry(T0, Phase.SUSPECT, long),) * 300,
        noted_seconds={f"{long}{number}": T0 for number in range(5)}
        | {f"code-{number}": T0 + number for number in range(400)},
        drain=DrainProgress(attempt=long, state=DrainState.RUNNING, pods_total=2**40, text=long),
        closed_seconds=float("inf"),
    )
    await watched.edge.apply(save(big))
    seen = watched.edge.view().incidents[incident_name]
    assert (len(seen.attempts), len(seen.findings), len(seen.noted_seconds)) == (128, 64, 256)
    watched.api.requests.clear()
    await watched.edge.apply(save(big))
    assert watched.api.requests == []  # it stands there already, as far as it fits


async def test_what_people_said_is_seen_word_by_word(
    cluster: ControlPlane, watched: Watched, node: str, incident_name: str
) -> None:
    await watched.edge.apply(save(incident(incident_name, node)))
    patch = '{"spec":{"approve":["drain","reboot-node"],"cancel":true,"release":true,"note":"n"}}'
    await cluster.kubectl("patch", "inc", incident_name, "--type=merge", f"-p={patch}")
    view = await watched.until(lambda view: view.incidents[incident_name].cancel)
    seen = view.incidents[incident_name]
    assert (seen.approve, seen.release, seen.note) == (("drain", "reboot-node"), True, "n")


async def test_a_lost_answer_never_overwrites_what_another_leader_wrote(
    cluster: ControlPlane, watched: Watched, node: str, incident_name: str
) -> None:
    """Our cache does not know the object yet; its attempts must not be reset by a first save of ours."""
    attempt = Attempt(id="a", rung="drain", started_seconds=T0, deadline_seconds=T0 + 1)
    one = incident(incident_name, node, attempts=(attempt,))
    await watched.edge.apply(save(one))
    del watched.edge._incidents._entries[incident_name]
    with pytest.raises(EdgeError, match=r"save-incident.*409"):
        await watched.edge.apply(save(incident(incident_name, node)))
    assert watched.edge.view().incidents[incident_name] == one
    stored = await read(cluster, f"{INCIDENTS}/{incident_name}")
    assert [each["id"] for each in stored["status"]["attempts"]] == ["a"]


async def test_only_a_closed_incident_that_nobody_touched_is_forgotten(
    cluster: ControlPlane, watched: Watched, node: str, incident_name: str
) -> None:
    path = f"{INCIDENTS}/{incident_name}"
    forget = ForgetIncident(node=node, name=incident_name, reason="a week old")
    await watched.edge.apply(save(incident(incident_name, node)))
    with pytest.raises(EdgeError, match="only closed ones"):
        await watched.edge.apply(forget)
    closed = incident(incident_name, node, phase=Phase.CLOSED, closed_seconds=T0 + 9)
    await watched.edge.apply(save(closed))
    _, noted = await cluster.request("PATCH", path, {"spec": {"note": "keep this one"}}, MERGE)
    entry = watched.edge._incidents.entries[incident_name]
    stale = entry._replace(version=str(int(noted["metadata"]["resourceVersion"]) - 1))
    watched.edge._incidents._entries[incident_name] = stale  # its watch is late
    with pytest.raises(EdgeError, match=r"forget-incident.*409"):
        await watched.edge.apply(forget)
    assert watched.edge.view().incidents[incident_name].note == "keep this one"
    await watched.edge.apply(forget)
    assert incident_name not in watched.edge.view().incidents
    assert (await cluster.request("GET", path))[0] == 404
    await watched.edge.apply(forget)  # gone already: done
