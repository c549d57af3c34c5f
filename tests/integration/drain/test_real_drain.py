"""Whole drains on the real API server: budgets, an outage in the middle, Kueue's Workloads, a dry run."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aggregator.cluster.workloads import Workloads
from aggregator.drain.runner import Drains
from aggregator.policy.drain.rules import CHECKPOINT_ASKED, DrainRule, DrainRules, Mode
from aggregator.policy.model import DrainOrder, DrainProgress, DrainState
from tests.controlplane.api import MERGE
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.sandbox import Sandbox
from tests.integration.drain.worlds import Real, real_world

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

ANY = DrainRules(rules=(DrainRule(unmanaged="evict"),))
_attempts = itertools.count()


class Draining:
    """One process that drains the real cluster."""

    def __init__(self, workloads: Workloads, rules: DrainRules) -> None:
        self._changed = asyncio.Event()
        self.told: list[DrainProgress] = []
        self.drains = Drains(
            workloads=workloads,
            rules=rules,
            evictions_per_second=20.0,
            holders=lambda node: {},
            wall=time.time,
            random=lambda: 0.0,
            on_change=self._on_change,
        )

    def _on_change(self) -> None:
        self.told += self.drains.progress().values()
        self._changed.set()

    def begin(self, node: str, attempt: str = "") -> None:
        self.drains.carry(
            [
                DrainOrder(
                    node=node,
                    attempt=attempt or f"attempt-{next(_attempts)}",
                    incident="i",
                    deadline_seconds=time.time() + 150,
                    reason="a test",
                )
            ]
        )

    async def until(self, node: str, holds: Callable[[DrainProgress], bool]) -> DrainProgress:
        async with asyncio.timeout(90):
            while True:
                self._changed.clear()
                now = self.drains.progress().get(node)
                if now is not None and holds(now):
                    return now
                await self._changed.wait()

    async def done(self, node: str) -> DrainProgress:
        return await self.until(node, lambda now: now.state is DrainState.DONE)


@asynccontextmanager
async def draining(workloads: Workloads, rules: DrainRules = ANY) -> AsyncIterator[Draining]:
    one = Draining(workloads, rules)
    task = asyncio.create_task(one.drains.run())
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
async def world(kwok: ControlPlane, sandbox: Sandbox) -> AsyncIterator[Real]:
    async with real_world(kwok, sandbox) as one:
        yield one


async def names(world: Real) -> list[str]:
    return sorted(each.name for each in await world.workloads.pods_on(world.node))


async def test_all_pods_go_but_those_that_the_plan_leaves(world: Real) -> None:
    for number in range(5):
        await world.pod(f"p{number}")
    async with draining(world.workloads) as one:
        plan = await one.drains.plan(world.node)
        assert {each.verdict for each in plan.pods} == {"evict"}
        one.begin(world.node)
        done = await one.done(world.node)
    assert (done.pods_total, done.pods_gone) == (5, 5)
    assert await names(world) == []


async def test_bare_pods_are_refused_without_a_rule_and_nothing_is_touched(world: Real) -> None:
    await world.pod("bare")
    async with draining(world.workloads, DrainRules()) as one:
        one.begin(world.node)
        stuck = await one.until(world.node, lambda now: now.state is DrainState.STUCK)
    assert "bare has no controller" in stuck.text
    assert await names(world) == ["bare"]


async def test_a_budget_that_blocks_is_told_and_waited_for(world: Real, sandbox: Sandbox) -> None:
    for number in range(2):
        await world.pod(f"llm-{number}", {"app": "llm"})
    await world.budget("llm", needs=1, app="llm")
    async with draining(world.workloads) as one:
        one.begin(world.node)
        told = await one.until(world.node, lambda now: "PDB" in now.text and now.pods_gone == 1)
        assert told.text.startswith(f"1 blocked by PDB {world.namespace}/llm: needs 1 healthy, has")
        assert len(await names(world)) == 1
        path = sandbox.path("poddisruptionbudgets", "llm", group="policy/v1")
        await sandbox.plane.request("DELETE", path)
        await one.done(world.node)
    assert await names(world) == []


async def test_the_api_server_killed_in_the_middle(
    world: Real, sandbox: Sandbox, kwok: ControlPlane
) -> None:
    slow = {"kwok.fleetmedic.io/terminate-after": "3s"}
    for number in range(4):
        await world.pod(f"p{number}", annotations=slow)
    async with draining(world.workloads) as one:
        one.begin(world.node)
        await one.until(world.node, lambda now: "being deleted" in now.text)
        await kwok.kill_apiserver()
        await one.until(world.node, lambda now: "cannot look at the node" in now.text)
        await kwok.start_apiserver()
        assert (await one.done(world.node)).pods_gone == 4
    assert all(each.state is not DrainState.STUCK for each in one.told)


async def test_a_checkpoint_is_asked_for_and_answered_on_the_pod(
    world: Real, sandbox: Sandbox
) -> None:
    await world.pod("job")
    rules = DrainRules(
        rules=(DrainRule(mode=Mode.CHECKPOINT, deadline_seconds=600, unmanaged="evict"),)
    )
    path = sandbox.path("pods", "job")
    async with draining(world.workloads, rules) as one:
        one.begin(world.node, "the-same")
        asked = await sandbox.plane.until(
            path, lambda pod: pod["metadata"].get("annotations", {}).get(CHECKPOINT_ASKED)
        )
        assert await names(world) == ["job"]
    answer = {"metadata": {"annotations": {"fleetmedic.io/checkpointed": "step 4000"}}}
    await sandbox.plane.request("PATCH", path, answer, MERGE)
    async with draining(world.workloads, rules) as another:
        another.begin(world.node, "the-same")
        await another.done(world.node)
    assert asked["metadata"]["uid"]
    assert await names(world) == []


async def test_a_dry_run_moves_nobody(world: Real) -> None:
    await world.pod("a")
    await world.pod("b")
    async with draining(world.dry) as one:
        one.begin(world.node)
        assert (await one.done(world.node)).pods_gone == 2
    assert await names(world) == ["a", "b"]


async def test_the_workload_of_a_queued_job_is_found(
    world: Real, sandbox: Sandbox, workload_crds: ControlPlane
) -> None:
    """Up from the pod to the PyTorchJob in a queue, and from it to its Workload, by real schemas."""
    group = "kubeflow.org/v1"
    template = {"spec": {"containers": [{"name": "pytorch", "image": "example.invalid/t:1"}]}}
    job: dict[str, Any] = await sandbox.create(
        sandbox.path("pytorchjobs", group=group),
        {
            "apiVersion": group,
            "kind": "PyTorchJob",
            "metadata": {"name": "bert", "labels": {"kueue.x-k8s.io/queue-name": "team"}},
            "spec": {"pytorchReplicaSpecs": {"Worker": {"replicas": 1, "template": template}}},
        },
    )
    owner = {
        "apiVersion": group,
        "kind": "PyTorchJob",
        "name": "bert",
        "uid": job["metadata"]["uid"],
        "controller": True,
    }
    queue = "kueue.x-k8s.io/v1beta1"
    await sandbox.create(
        sandbox.path("workloads", group=queue),
        {
            "apiVersion": queue,
            "kind": "Workload",
            "metadata": {
                "name": "pytorchjob-bert",
                "labels": {"kueue.x-k8s.io/job-uid": job["metadata"]["uid"]},
                "ownerReferences": [owner],
            },
            "spec": {"podSets": [{"name": "main", "count": 1, "template": template}]},
        },
    )
    pod = await sandbox.plane.request(
        "POST",
        sandbox.path("pods"),
        {
            "metadata": {
                "name": "bert-worker-0",
                "labels": {"training.kubeflow.org/job-name": "bert"},
                "ownerReferences": [owner],
            },
            "spec": {**template["spec"], "nodeName": world.node},
        },
    )
    assert pod[0] == 201, pod
    async with draining(world.workloads) as one:
        plan = await one.drains.plan(world.node)
    (gang,) = plan.gangs.values()
    assert gang.gang.title == f"PyTorchJob {world.namespace}/bert"
    assert gang.workload.endswith(f"/namespaces/{world.namespace}/workloads/pytorchjob-bert")
