"""1,000 pods on 10 nodes evicted by the drain runner, against a bare loop of Eviction calls at the same concurrency.

The drains look, plan every pod, look at each again right before it goes, and follow it until it is gone; the floor posts
Evictions and nothing else. Both end when a watch saw the last pod go. Real API server; the pods have no grace, as there is no
kubelet that would end them, and no disruption budget, which would make both wait.
"""

import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import aiohttp
import msgspec

from aggregator.cluster.client import Api
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.kubernetes_workloads import KubernetesWorkloads
from aggregator.cluster.pen import Pen
from aggregator.cluster.requeue import Requeues
from aggregator.drain.desk import MAX_PARALLEL_CALLS
from aggregator.drain.runner import Drains
from aggregator.policy.drain.rules import DrainRule, DrainRules
from aggregator.policy.model import DrainOrder, DrainState
from bench.figures import report
from bench.fleet import AGGREGATOR, Audit, aggregator_token, make_nodes, side_by_side
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.manifests import gpu_pod
from tests.controlplane.sandbox import Sandbox
from tests.e2e.rig import install

NODES = 10
PODS_PER_NODE = 100
PODS = NODES * PODS_PER_NODE
ROUNDS = 3
DEADLINE_SECONDS = 300.0
JSON = {"Content-Type": "application/json"}


class Run(NamedTuple):
    """Until the last pod was seen to be gone."""

    seconds: float
    cpu_seconds: float
    """Of this process, the watch included."""


class Gone:
    """A watch of a namespace's pods that counts those that go."""

    def __init__(self) -> None:
        self._left = 0
        self._all_gone = asyncio.Event()

    @asynccontextmanager
    async def watching(self, session: aiohttp.ClientSession, pods: str) -> AsyncIterator[None]:
        """Count what is there, and follow what goes, until left."""
        async with session.get(pods) as response:
            listed = msgspec.json.decode(await response.read())
        self._left = len(listed["items"])
        version = listed["metadata"]["resourceVersion"]
        task = asyncio.create_task(self._follow(session, pods, version))
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def last(self) -> float:
        """When the last one was seen to be gone, by the monotonic clock."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self._all_gone.wait()
        return time.perf_counter()

    async def _follow(self, session: aiohttp.ClientSession, pods: str, version: str) -> None:
        query = {"watch": "1", "resourceVersion": version}
        timeout = aiohttp.ClientTimeout(total=None)
        async with session.get(pods, params=query, timeout=timeout) as response:
            async for line in response.content:
                self._left -= line.startswith(b'{"type":"DELETED"')
                if not self._left:
                    self._all_gone.set()
        raise AssertionError("the watch ended: this machine is too busy to read it")


async def main() -> dict[str, bool]:
    """Measure, print, and say which aims were met."""
    with tempfile.TemporaryDirectory() as name:
        audit = Audit(Path(name))
        async with ControlPlane(apiserver_args=audit.apiserver_args) as plane:
            await install(plane)
            nodes = [f"node-{number:02d}" for number in range(NODES)]
            await make_nodes(plane, nodes)
            token = await aggregator_token(plane)
            kubeconfig = plane.write_kubeconfig("drains", token=token)
            ours, floor = [], []
            for turn in range(ROUNDS):
                async with _crowd(plane, nodes) as (session, pods):
                    floor.append(await _bare_loop(session, pods))
                async with _crowd(plane, nodes) as (session, pods):
                    ours.append(await _drains(session, pods, nodes, kubeconfig, turn))
                print(f"  evictions: round {turn + 1} of {ROUNDS}", file=sys.stderr, flush=True)
            return _tell(ours, floor, audit)


@asynccontextmanager
async def _crowd(
    plane: ControlPlane, nodes: Sequence[str]
) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """1,000 pods that run, in a namespace of their own; a session, and where they live."""

    async def one(name: str, node: str) -> None:
        body = gpu_pod(name, gpus=0, node=node, terminationGracePeriodSeconds=0)
        async with session.post(pods, data=msgspec.json.encode(body), headers=JSON) as response:
            assert response.status == 201, await response.text()
        status = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        merge = {"Content-Type": "application/merge-patch+json"}
        async with session.patch(
            f"{pods}/{name}/status", data=msgspec.json.encode({"status": status}), headers=merge
        ) as response:
            assert response.status == 200, await response.text()

    async with Sandbox(plane) as sandbox, plane.api.session() as session:
        pods = sandbox.path("pods")
        works = [
            partial(one, f"{node}-{number:03d}", node)
            for node in nodes
            for number in range(PODS_PER_NODE)
        ]
        await side_by_side(works, 16)
        yield session, pods


async def _bare_loop(session: aiohttp.ClientSession, pods: str) -> Run:
    async def one(name: str) -> None:
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
        body = msgspec.json.encode(eviction)
        async with session.post(f"{pods}/{name}/eviction", data=body, headers=JSON) as response:
            assert response.status == 201, await response.text()
            await response.read()

    async with session.get(pods) as response:
        listed = msgspec.json.decode(await response.read())["items"]
    works = [partial(one, each["metadata"]["name"]) for each in listed]
    gone = Gone()
    async with gone.watching(session, pods):
        cpu, started = time.process_time(), time.perf_counter()
        await side_by_side(works, MAX_PARALLEL_CALLS)
        return Run(await gone.last() - started, time.process_time() - cpu)


async def _drains(
    session: aiohttp.ClientSession, pods: str, nodes: Sequence[str], kubeconfig: Path, turn: int
) -> Run:
    api = Api(Credentials(kubeconfig))
    pen = Pen(api, permit=lambda: None)
    done = asyncio.Event()
    drains = Drains(
        workloads=KubernetesWorkloads(api, pen, Requeues(api, pen, clock=time.monotonic)),
        rules=DrainRules(rules=(DrainRule(unmanaged="evict"),)),
        evictions_per_second=1_000_000.0,
        holders=lambda node: {},
        wall=time.time,
        random=random.Random(turn).random,
        on_change=lambda: done.set() if _all_done(drains) else None,
    )
    orders = [
        DrainOrder(
            node=node,
            attempt=f"{node}-{turn}",
            incident=f"incident-{node}",
            deadline_seconds=time.time() + DEADLINE_SECONDS,
            reason="a figure is taken",
        )
        for node in nodes
    ]
    running = asyncio.create_task(drains.run())
    gone = Gone()
    try:
        async with gone.watching(session, pods):
            cpu, started = time.process_time(), time.perf_counter()
            drains.carry(orders)
            run = Run(await gone.last() - started, time.process_time() - cpu)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await done.wait()
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await api.close()
    return run


def _all_done(drains: Drains) -> bool:
    progress = drains.progress().values()
    return len(progress) == NODES and all(each.state is DrainState.DONE for each in progress)


def _tell(ours: Sequence[Run], floor: Sequence[Run], audit: Audit) -> dict[str, bool]:
    ratios = [mine.seconds / bare.seconds for mine, bare in zip(ours, floor, strict=True)]
    seconds, bare = median(each.seconds for each in ours), median(each.seconds for each in floor)
    calls = audit.calls(AGGREGATOR)
    per_pod = {call: count / PODS / ROUNDS for call, count in calls.most_common()}
    cpu = median(each.cpu_seconds for each in ours)
    floor_cpu = median(each.cpu_seconds for each in floor)
    return report(
        "evictions",
        text=f"{PODS} pods of {NODES} nodes gone after {seconds:.1f} s by drains, {bare:.1f} s by bare Evictions; "
        f"{sum(per_pod.values()):.1f} API calls and {cpu / PODS * 1e3:.1f} ms of CPU per pod, "
        f"floor 1 and {floor_cpu / PODS * 1e3:.1f} ms",
        ratio=median(ratios),
        aims={"under 3x the floor": median(ratios) < 3},
        pods_per_second=round(PODS / seconds),
        floor_pods_per_second=round(PODS / bare),
        seconds=[round(each.seconds, 2) for each in ours],
        floor_seconds=[round(each.seconds, 2) for each in floor],
        cpu_seconds=[round(each.cpu_seconds, 2) for each in ours],
        floor_cpu_seconds=[round(each.cpu_seconds, 2) for each in floor],
        calls_per_pod={call: round(count, 3) for call, count in per_pod.items()},
    )


if __name__ == "__main__":
    asyncio.run(main())
