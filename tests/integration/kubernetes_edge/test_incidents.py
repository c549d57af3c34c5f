"""Incidents as objects: written by us, held by persons, guarded by the schema."""

import msgspec
import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Json
from contract.vocabulary import Phase
from tests.controlplane.api import MERGE
from tests.controlplane.cluster import ControlPlane
from tests.integration.kubernetes_edge.intents import T0, incident, save
from tests.integration.kubernetes_edge.rig import INCIDENTS, Watched, read, running

pytestmark = pytest.mark.cluster


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
