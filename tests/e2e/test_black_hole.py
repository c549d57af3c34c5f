"""A node whose agent sees nothing wrong and whose kubelet refuses every pod: the real scheduler stops sending pods there."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.api import MERGE
from tests.e2e.scheduler_rig import DEADLINE_S, LOOK_S
from tests.pod_failures import refused

if TYPE_CHECKING:
    from tests.e2e.scheduler_rig import SchedulerRig

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


async def refuse(scheduling: SchedulerRig, pod: str) -> None:
    """As the kubelet does it: the pod has failed, and its room is free again."""
    path = scheduling.sandbox.path("pods", pod) + "/status"
    body = {"status": refused(at=time.time())}
    status, answer = await scheduling.plane.request("PATCH", path, body, MERGE)
    assert status == 200, answer


async def test_a_node_that_eats_pods_gets_three_and_the_next_ones_go_elsewhere(
    scheduling: SchedulerRig,
) -> None:
    names = await scheduling.nodes("gpu", 4)
    eats, *others = names
    await scheduling.occupy([eats], gpus=4)
    await scheduling.start_aggregator(agent_auth="none", dry_run="true")
    async with (
        scheduling.reporting(names),
        scheduling.plane.scheduler_with(scheduling.config(refuse=True)),
    ):
        for number in range(3):
            pod = f"eaten-{number}"
            assert await scheduling.placed(pod, 1, gpus=1) == [eats], "it is the favourite"
            await refuse(scheduling, pod)
        await scheduling.judged([eats], {"degraded"})

        series = f'fleetmedic_node_failing_pods{{node="{eats}"}}'
        async with asyncio.timeout(DEADLINE_S):
            while await scheduling.rig.metric(series) != 3:
                await asyncio.sleep(LOOK_S)
        said = (await scheduling.rig.get(f"/api/v1/nodes/{eats}/explain"))["text"]
        assert "the kubelet refuses pods here: 3 of 3 workloads in 1 min" in said

        saved = await scheduling.placed("saved", 24, gpus=1)
        assert set(saved) <= set(others)
        [last] = await scheduling.placed("last", 1, gpus=4)
        assert last == eats, "a preference only: where nothing else has room it is taken"
