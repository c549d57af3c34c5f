"""Our taint on a node: one request, and the taints of others stay as they are."""

import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Json
from aggregator.policy.model import RemoveTaint, Taint
from contract.vocabulary import QUARANTINED_BY, TAINT_KEY
from tests.controlplane.api import MERGE
from tests.controlplane.cluster import ControlPlane
from tests.integration.kubernetes_edge.intents import GONE_BAD, OURS, set_taint
from tests.integration.kubernetes_edge.rig import Watched, read

pytestmark = pytest.mark.cluster

FOREIGN = {"key": "example.com/foreign", "value": "a", "effect": "NoSchedule"}


async def taints_of(plane: ControlPlane, node: str) -> list[Json]:
    found: list[Json] = (await read(plane, f"/api/v1/nodes/{node}"))["spec"].get("taints", [])
    return found


async def write_taints(plane: ControlPlane, node: str, taints: list[Json]) -> None:
    body = {"spec": {"taints": taints}}
    status, answer = await plane.request("PATCH", f"/api/v1/nodes/{node}", body, MERGE)
    assert status == 200, answer


async def test_a_taint_costs_one_request_and_is_in_the_view_at_once(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    await watched.until(lambda view: node in view.nodes)
    await watched.edge.apply(set_taint(node))
    assert watched.api.accepted("PATCH") == [f"/api/v1/nodes/{node}"]
    assert watched.edge.view().nodes[node].taint == GONE_BAD
    assert watched.edge.view().nodes[node].gpu_capacity == 8
    assert watched.edge.view().nodes[node].pool == "NVIDIA-H200"
    assert OURS in await taints_of(cluster, node)
    await watched.edge.apply(set_taint(node))
    assert len(watched.api.accepted("PATCH")) == 1  # nothing left to do
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


async def signature_of(plane: ControlPlane, node: str) -> str | None:
    annotations = (await read(plane, f"/api/v1/nodes/{node}"))["metadata"]["annotations"]
    found: str | None = annotations.get(QUARANTINED_BY)
    return found


async def test_a_taint_is_signed_and_unsigned_in_the_same_request(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    await watched.until(lambda view: node in view.nodes)
    await watched.edge.apply(set_taint(node, incident="inc-1"))
    assert watched.api.accepted("PATCH") == [f"/api/v1/nodes/{node}"]
    assert watched.edge.view().nodes[node].quarantined_by == "inc-1"
    assert await signature_of(cluster, node) == "inc-1"
    await watched.edge.apply(set_taint(node, incident="inc-1"))
    assert len(watched.api.accepted("PATCH")) == 1
    await watched.edge.apply(RemoveTaint(node=node, reason="mended"))
    assert len(watched.api.accepted("PATCH")) == 2
    assert watched.edge.view().nodes[node].quarantined_by == ""
    assert await signature_of(cluster, node) is None
    assert OURS not in await taints_of(cluster, node)


async def test_a_taint_that_a_person_takes_off_between_our_read_and_our_write_stays_off(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    await watched.edge.apply(set_taint(node, Taint("ecc", "PreferNoSchedule"), incident="inc-1"))
    watched.api.before_patch = lambda: write_taints(cluster, node, [FOREIGN])
    with pytest.raises(EdgeError, match=r"a person took the taint of inc-1 off node"):
        await watched.edge.apply(set_taint(node, incident="inc-1"))
    assert await taints_of(cluster, node) == [FOREIGN]
    seen = watched.edge.view().nodes[node]
    assert (seen.taint, seen.quarantined_by) == (None, "inc-1")  # what tells the policy
    await watched.edge.apply(RemoveTaint(node=node, reason="a person released it"))
    assert await signature_of(cluster, node) is None
    assert await taints_of(cluster, node) == [FOREIGN]
    await watched.edge.apply(set_taint(node, incident="inc-2"))  # new trouble, decided anew
    assert await signature_of(cluster, node) == "inc-2"


async def test_a_taint_from_before_it_was_signed_is_signed(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    await write_taints(cluster, node, [FOREIGN, OURS])
    await watched.until(lambda view: view.nodes[node].taint == GONE_BAD)
    await watched.edge.apply(set_taint(node, incident="inc-1"))
    assert await signature_of(cluster, node) == "inc-1"
    assert await taints_of(cluster, node) == [FOREIGN, OURS]
