"""The real kube-scheduler asks the real aggregator where GPU pods belong, over a few hundred nodes.

The scheduler runs with the configuration that is shipped. The aggregator only judges here: in a dry run it taints nothing, so
that its answers to the scheduler are all that keeps pods away from anywhere.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING

import psutil
import pytest

from aggregator.feeds.extender_hosts import FULL_NAMES
from tests.e2e.scheduler_rig import SHIPPED_TIMEOUT_S

if TYPE_CHECKING:
    from tests.e2e.scheduler_rig import SchedulerRig

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

JUDGES_ONLY = {
    "agent_auth": "none",
    "dry_run": "true",
    "budget_percent": "100",
    "budget_count": "1000",
    "log_level": "info",
}
CALLS = 2
"""Filter and prioritize: each may take its timeout."""
SLACK_S = 3.0
"""For a machine that runs many tests at once; a pod that is put off waits for the scheduler's own backoff and more."""


async def test_small_pods_fill_nodes_that_are_in_use_and_leave_whole_nodes_to_large_ones(
    scheduling: SchedulerRig,
) -> None:
    names = await scheduling.nodes("gpu", 300)
    full, begun, empty = names[:20], names[20:30], names[30:]
    await scheduling.occupy(full, gpus=8)  # large pods are usual here: the model has seen them
    await scheduling.occupy(begun, gpus=1, pods=4)
    await scheduling.start_aggregator(**JUDGES_ONLY)
    async with (
        scheduling.reporting(names),
        scheduling.plane.scheduler_with(scheduling.config(refuse=True)),
    ):
        small = await scheduling.placed("small", 40, gpus=1)
        assert Counter(small) == dict.fromkeys(begun, 4), "four GPUs were free on each begun node"
        [opened] = await scheduling.placed("next", 1, gpus=1)
        assert opened in empty
        large = await scheduling.placed("large", 269, gpus=8)
        assert set(large) == set(empty) - {opened}, "every other node was left whole"
        asked = await scheduling.prioritized()
        ready = await scheduling.rig.metric("fleetmedic_aggregator_extender_ready_total")
        assert ready > asked / 2, "by answers that were there before the question"


async def test_a_sick_node_gets_no_pod_and_a_node_without_an_agent_does(
    scheduling: SchedulerRig,
) -> None:
    names = await scheduling.nodes("gpu", 5)
    silent = await scheduling.nodes("silent", 1)
    alone = await scheduling.nodes("alone", 1)
    sick = [names[0], *alone]
    await scheduling.start_aggregator(**JUDGES_ONLY)
    async with (
        scheduling.reporting([*names, *alone]) as agents,
        scheduling.plane.scheduler_with(scheduling.config(refuse=True)),
    ):
        before = await scheduling.prioritized()
        await scheduling.placed("cpu-only", 10, gpus=0)
        assert await scheduling.prioritized() == before, "asked about pods without a GPU"

        agents.break_down(sick)
        await scheduling.judged(sick, {"sick"})
        [refused] = await scheduling.pods("nowhere-else", 1, gpus=1, pool="alone")
        said = await scheduling.bindings.refusal(refused)
        assert "xid-79" in said, "the pod's own condition names the fault"

        placed = await scheduling.placed("whole", 5, gpus=8)
        assert set(placed) == {*names[1:], *silent}
        assert await scheduling.prioritized() > before


async def test_without_the_filter_a_sick_node_is_the_last_to_be_taken(
    scheduling: SchedulerRig,
) -> None:
    """Of so many nodes only differences are told, and that of a sick one is negative."""
    names = await scheduling.nodes("gpu", FULL_NAMES + 10)
    silent = await scheduling.nodes("silent", 2)
    begun, sick = names[1], names[0]
    await scheduling.occupy([begun], gpus=1)
    await scheduling.start_aggregator(**JUDGES_ONLY)
    async with (
        scheduling.reporting(names) as agents,
        scheduling.plane.scheduler_with(scheduling.config(refuse=False)),
    ):
        agents.break_down([sick])
        await scheduling.judged([sick], {"sick"})
        told = await scheduling.numbers(names, gpus=1)
        assert told[sick] < min([0, *(n for name, n in told.items() if name != sick)])
        assert len(told) < len(names)

        seven = await scheduling.placed("one-by-one", 7, gpus=1)
        assert set(seven) == {begun}, "what is begun is filled up"
        rest = await scheduling.placed("whole", len(names) - 2 + len(silent), gpus=8)
        assert set(rest) == {*names[2:], *silent}
        assert await scheduling.placed("last", 1, gpus=8) == [sick]


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hangs"])
async def test_when_the_aggregator_is_gone_scheduling_goes_on_at_once_and_neutral(
    scheduling: SchedulerRig, sign: signal.Signals
) -> None:
    names = await scheduling.nodes("gpu", 60)
    full, begun = names[:20], names[20:30]
    await scheduling.occupy(full, gpus=8)
    await scheduling.occupy(begun, gpus=1)
    process = await scheduling.start_aggregator(**JUDGES_ONLY)
    assert process.pid is not None
    config = scheduling.config(refuse=True, timeout_s=SHIPPED_TIMEOUT_S)
    async with scheduling.reporting(names), scheduling.plane.scheduler_with(config):
        stream = asyncio.create_task(scheduling.one_by_one("during", 20))
        await scheduling.bindings.of([f"during-{7:03d}"])
        whole = [process.pid, *(each.pid for each in psutil.Process(process.pid).children())]
        if sign is signal.SIGSTOP:
            for pid in whole:
                os.kill(pid, sign)
        else:
            await scheduling.rig.kill_aggregator(sign)
        assert max(await stream) < SHIPPED_TIMEOUT_S * CALLS + SLACK_S
        assert (
            len(await scheduling.placed("without", 10, gpus=1)) == 10
        )  # where, is the scheduler's own affair

        if sign is signal.SIGSTOP:
            for pid in whole:
                os.kill(pid, signal.SIGCONT)
        else:
            await scheduling.start_aggregator(**JUDGES_ONLY)
        await scheduling.judged(names, {"healthy"})
        used = set(scheduling.bindings.node_of.values())
        assert set(await scheduling.placed("after", 10, gpus=1)) <= used, "it ranks again"
