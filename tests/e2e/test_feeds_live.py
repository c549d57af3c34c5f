"""Feeds as the aggregator itself wires them: a process under the shipped rights, one setting each, killed at the end."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from tests.e2e.rig import Rig
from tests.score_feed import carried

if TYPE_CHECKING:
    from pathlib import Path

    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

pytestmark = pytest.mark.cluster


async def test_a_running_aggregator_labels_its_nodes_and_its_death_leaves_them(
    kwok: ControlPlane, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with Rig(sandbox, tmp_path) as rig:
        await rig.start_aggregator(score_labels="true")
        node = await rig.add_node("a")
        path = f"/api/v1/nodes/{node.name}"
        seen = carried(await rig.plane.until(path, lambda each: all(carried(each))))
        assert int(seen[0]) == int(seen[1]) // 100
        written = 'fleetmedic_aggregator_feed_writes_total{feed="score-labels"}'
        async with asyncio.timeout(30):
            while await rig.metric(written) < 1:
                pass  # the page is made anew with each tick
        await rig.kill_aggregator(signal.SIGKILL)
        _, after = await rig.plane.request("GET", path)
        assert carried(after) == seen


async def test_switched_off_the_next_aggregator_takes_the_labels_off(
    kwok: ControlPlane, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with Rig(sandbox, tmp_path) as rig:
        await rig.start_aggregator(score_labels="true")
        node = await rig.add_node("a")
        path = f"/api/v1/nodes/{node.name}"
        await rig.plane.until(path, lambda each: all(carried(each)))
        await rig.kill_aggregator(signal.SIGTERM)
        await rig.start_aggregator()
        await rig.plane.until(path, lambda each: carried(each) == ("", ""))


async def test_the_watcher_tells_what_the_agents_measured(
    kwok: ControlPlane, sandbox: Sandbox, tmp_path: Path
) -> None:
    async with Rig(sandbox, tmp_path) as rig:
        await rig.start_aggregator()
        node = await rig.add_node("a")
        await rig.reporting([node])
        told = (await rig.get("/watcher"))["data"]["NodeMetricsMap"]
        kinds = {each["type"] for each in told[node.name]["metrics"]}
        assert {"CPU", "Memory"} <= kinds
