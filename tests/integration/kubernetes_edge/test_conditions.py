"""Our conditions on a node: their transition time, and those of others beside them."""

from typing import Any

import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Json
from aggregator.policy.model import Condition, SetCondition
from tests.controlplane.cluster import ControlPlane
from tests.integration.kubernetes_edge.intents import T0
from tests.integration.kubernetes_edge.rig import Watched, read, running

pytestmark = pytest.mark.cluster


async def conditions_of(plane: ControlPlane, node: str) -> dict[str, Json]:
    found = (await read(plane, f"/api/v1/nodes/{node}"))["status"]["conditions"]
    return {one["type"]: one for one in found}


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
