"""The stock kube-scheduler with the shipped label profile: it follows the labels, and needs nobody of ours to go on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.controlplane.manifests import gpu_node
from tests.controlplane.sandbox import LABEL
from tests.score_feed import AT_ONCE, feeding, healthy, sick, unknown

if TYPE_CHECKING:
    from aggregator.scores.model import NodeScore
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox
    from tests.score_feed import Feed

pytestmark = pytest.mark.cluster

SHIPPED = Path(__file__).parents[2] / "deploy" / "scheduler" / "label-profile.yaml"
FLEET = 300


def profile() -> dict[str, Any]:
    """The shipped file; only the way to the server is the test's own."""
    config: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    config.pop("clientConnection")
    return config


async def fleet(sandbox: Sandbox, count: int) -> list[str]:
    """Nodes of eight GPUs each, kept ready by hand."""
    names = [sandbox.name(f"n{number:03}") for number in range(count)]
    labels = {LABEL: sandbox.namespace}
    bodies = [gpu_node(name, kwok=False, labels=labels) for name in names]
    for start in range(0, count, 20):
        created = bodies[start : start + 20]
        await asyncio.gather(*(sandbox.create("/api/v1/nodes", each) for each in created))
    return names


def ready(feed: Feed, count: int) -> bool:
    """Whether every node is there and the node controller took its first taint off."""
    records = [each.value for each in feed.nodes.entries.values()]
    return len(records) == count and not any(each.taints for each in records)


async def places(sandbox: Sandbox, prefix: str, gpus: list[int]) -> list[str]:
    """The node of each of these pods, one after the other."""
    for number, each in enumerate(gpus):
        await sandbox.pod(f"{prefix}-{number}", gpus=each, schedulerName="fleetmedic-gpu")
    found = []
    for number in range(len(gpus)):
        path = sandbox.path("pods", f"{prefix}-{number}")
        pod = await sandbox.plane.until(path, lambda seen: seen.get("spec", {}).get("nodeName"))
        found.append(pod["spec"]["nodeName"])
    return found


async def test_pods_take_the_best_band_that_fits_and_go_on_doing_so_when_the_feed_is_dead(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    async with feeding(control_plane.kubeconfig, sandbox.namespace, **AT_ONCE) as feed:
        names = await fleet(sandbox, FLEET)
        best, good, fair = names[250:252], names[20:22], names[120:122]
        scores: dict[str, NodeScore] = dict.fromkeys(names, healthy(310))
        scores |= dict.fromkeys(best, healthy(1000)) | dict.fromkeys(good, healthy(930))
        scores |= dict.fromkeys(fair, healthy(820)) | dict.fromkeys(names[:5], sick())
        scores |= dict.fromkeys(names[5:10], unknown())
        await feed.until(lambda: ready(feed, FLEET))
        running = asyncio.create_task(feed.labels.run(lambda: scores))
        await feed.until(lambda: all(all(keys) for keys in feed.keys().values()))
        assert feed.keys()[best[0]] == ("10", "1000")
        async with control_plane.scheduler_with(profile()):
            whole = await places(sandbox, "whole", [8, 8, 8])
            assert set(whole[:2]) == set(best)
            assert whole[2] in good
            shared = await places(sandbox, "shared", [4, 2, 2])
            assert set(shared) == set(good) - {whole[2]}, "packed onto one node of the best band"

            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            written = feed.labels.writes_total
            after = await places(sandbox, "after", [8, 8, 8])
            assert set(after[:2]) == set(fair)
            assert after[2] in names[5:10], "one of which nothing is known is the middle"
            assert feed.labels.writes_total == written == FLEET


async def test_a_sick_node_is_the_last_choice_and_still_one_and_a_node_without_label_is_the_middle(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    async with feeding(control_plane.kubeconfig, sandbox.namespace, **AT_ONCE) as feed:
        bad, poor, bare, good = await fleet(sandbox, 4)
        await feed.until(lambda: ready(feed, 4))
        people = {"metadata": {"labels": {"fleetmedic.io/managed": "false"}}}
        await feed.api.patch(f"/api/v1/nodes/{bare}", people)
        await feed.until(lambda: not feed.nodes.entries[bare].value.node.managed)
        await feed.labels.step({bad: sick(), poor: healthy(410), good: healthy(620)})
        assert feed.keys()[bare] == ("", "")
        async with control_plane.scheduler_with(profile()):
            assert await places(sandbox, "job", [8, 8, 8, 8]) == [good, bare, poor, bad]


async def test_where_all_are_below_the_middle_pods_do_not_run_to_the_node_whose_agent_is_dead(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    async with feeding(control_plane.kubeconfig, sandbox.namespace, **AT_ONCE) as feed:
        silent, busy, idle = await fleet(sandbox, 3)
        await feed.until(lambda: ready(feed, 3))
        await sandbox.pod("there", gpus=4, node=busy)
        scores = {silent: unknown(), busy: healthy(380), idle: healthy(270)}
        await feed.labels.step(scores)
        assert feed.keys()[silent] == ("3", "300")
        async with control_plane.scheduler_with(profile()):
            assert await places(sandbox, "job", [2, 2]) == [busy, busy]
            assert await places(sandbox, "next", [8]) == [silent], "as good as the best, not worse"


async def test_without_any_label_the_profile_packs_and_schedules_as_ever(
    control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    async with feeding(control_plane.kubeconfig, sandbox.namespace) as feed:
        await fleet(sandbox, 3)
        await feed.until(lambda: ready(feed, 3))
        async with control_plane.scheduler_with(profile()):
            first, *others = await places(sandbox, "job", [4, 2, 2, 8, 8])
            assert others[:2] == [first, first]
            assert len({first, *others[2:]}) == 3
