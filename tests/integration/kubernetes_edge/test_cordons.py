"""Our cordon on a node: signed, and never confused with anybody else's."""

import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Json
from aggregator.policy.model import Cordon, Uncordon
from contract.vocabulary import CORDONED_BY
from tests.controlplane.api import MERGE
from tests.controlplane.cluster import ControlPlane
from tests.integration.kubernetes_edge.rig import Watched, read

pytestmark = pytest.mark.cluster


def cordon(node: str, incident: str = "inc-1") -> Cordon:
    return Cordon(node=node, incident=incident, reason="to be drained")


def uncordon(node: str) -> Uncordon:
    return Uncordon(node=node, reason="mended")


async def state(plane: ControlPlane, node: str) -> tuple[bool, str | None]:
    """Whether it is unschedulable, and who signed."""
    obj = await read(plane, f"/api/v1/nodes/{node}")
    annotations: Json = obj["metadata"].get("annotations") or {}
    return bool(obj["spec"].get("unschedulable")), annotations.get(CORDONED_BY)


async def write(plane: ControlPlane, node: str, body: Json) -> None:
    status, answer = await plane.request("PATCH", f"/api/v1/nodes/{node}", body, MERGE)
    assert status == 200, answer


async def test_a_cordon_is_one_signed_request_and_is_taken_back_with_its_signature(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    await watched.until(lambda view: node in view.nodes)
    await watched.edge.apply(cordon(node))
    assert watched.api.accepted("PATCH") == [f"/api/v1/nodes/{node}"]
    assert await state(cluster, node) == (True, "inc-1")
    seen = watched.edge.view().nodes[node]
    assert (seen.unschedulable, seen.cordoned_by) == (True, "inc-1")
    await watched.edge.apply(uncordon(node))
    assert await state(cluster, node) == (False, None)
    seen = watched.edge.view().nodes[node]
    assert (seen.unschedulable, seen.cordoned_by) == (False, "")
    assert len(watched.api.accepted("PATCH")) == 2
    asked = len(watched.api.requests)
    await watched.edge.apply(uncordon(node))
    assert len(watched.api.requests) == asked  # nothing left to do


async def test_a_cordon_of_somebody_else_is_neither_signed_nor_taken_back(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    await cluster.kubectl("cordon", node)
    await watched.until(lambda view: view.nodes[node].unschedulable)
    await watched.edge.apply(cordon(node))
    await watched.edge.apply(uncordon(node))
    assert await state(cluster, node) == (True, None)
    assert watched.api.requests == []


async def test_a_cordon_that_a_person_sets_between_our_read_and_our_write_stays_theirs(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    await watched.until(lambda view: node in view.nodes)
    watched.api.before_patch = lambda: cluster.kubectl("cordon", node)
    await watched.edge.apply(cordon(node))
    await watched.edge.apply(uncordon(node))
    assert await state(cluster, node) == (True, None)


async def test_a_node_that_a_person_uncordons_is_not_cordoned_again_and_only_unsigned(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    await watched.edge.apply(cordon(node))
    await cluster.kubectl("uncordon", node)
    await watched.until(lambda view: not view.nodes[node].unschedulable)
    assert watched.edge.view().nodes[node].cordoned_by == "inc-1"  # what tells the policy
    with pytest.raises(EdgeError, match="a person uncordoned node"):
        await watched.edge.apply(cordon(node))
    await watched.edge.apply(uncordon(node))
    assert await state(cluster, node) == (False, None)
    await watched.edge.apply(cordon(node, "inc-2"))  # new trouble, decided anew
    assert await state(cluster, node) == (True, "inc-2")


async def test_a_person_who_uncordons_right_before_our_second_cordon_wins(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    """A late answer: our picture knows of no cordon, and the server of one that was taken back."""
    await watched.until(lambda view: node in view.nodes)

    async def race() -> None:
        await write(cluster, node, {"metadata": {"annotations": {CORDONED_BY: "inc-1"}}})

    watched.api.before_patch = race
    with pytest.raises(EdgeError, match="a person uncordoned node"):
        await watched.edge.apply(cordon(node))
    assert await state(cluster, node) == (False, "inc-1")
