"""The real kube-scheduler over a few hundred nodes that nobody plays: written Ready by hand, with a stream each to the aggregator.

Such a node costs one request to make; kwok would write its status, its heartbeats and a Lease besides.
A pod on it stays Pending with a node, which is all that a scheduler looks at.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import msgspec

from bench.fleet import Agents, healthy_report, side_by_side
from tests.controlplane.manifests import gpu_node, gpu_pod, is_ready
from tests.controlplane.process import Process, free_port
from tests.controlplane.sandbox import LABEL
from tests.e2e.rig import Rig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from pathlib import Path

    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

POOL = "fleetmedic.test/pool"
PARALLEL = 16
DEADLINE_S = 60.0
LOOK_S = 0.05
COUNTED_S = 0.5
"""By then what the extender's process counted has come home."""
SHIPPED_TIMEOUT_S = 0.2
PATIENT_TIMEOUT_S = 2.0
"""What the scheduler waits for us at most where the answer counts: a machine that runs many tests is slow."""


class Bindings:
    """Where the pods of one namespace are bound, and when each was first seen there, by one watch."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane = plane
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._changed = asyncio.Condition()
        self.node_of: dict[str, str] = {}
        self.seen_s: dict[str, float] = {}
        """Monotonic time at which a binding was first seen, by pod."""
        self.refused: dict[str, str] = {}
        """Why a pod could not be scheduled, as the scheduler last said."""

    async def run(self) -> None:
        """Follow until cancelled; begun anew where the server ends it, as it does to who reads too slowly."""
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._plane.api.session() as session:
            try:
                while True:
                    async with session.get(f"{self._pods}?watch=1", timeout=timeout) as response:
                        async for line in response.content:
                            async with self._changed:
                                self._take(msgspec.json.decode(line)["object"])
                                self._changed.notify_all()
            finally:
                # A response left half read says goodbye over TLS, which outlives a test's event loop.
                await session.close()

    def _take(self, pod: Json) -> None:
        name = pod["metadata"]["name"]
        if node := pod["spec"].get("nodeName"):
            if name not in self.node_of:
                self.seen_s[name] = time.monotonic()
            self.node_of[name] = node
            return
        for condition in pod.get("status", {}).get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                self.refused[name] = condition.get("message", "")

    async def of(self, pods: Collection[str]) -> dict[str, str]:
        """The node of each of these pods, once all are bound."""
        await self._until(lambda: not (set(pods) - self.node_of.keys()), "bound", pods)
        return {name: self.node_of[name] for name in pods}

    async def refusal(self, pod: str) -> str:
        """Why this pod cannot be scheduled, once the scheduler says so."""
        await self._until(lambda: pod in self.refused, "refused", [pod])
        assert pod not in self.node_of
        return self.refused[pod]

    async def _until(self, predicate: Any, what: str, pods: Collection[str]) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S), self._changed:
                await self._changed.wait_for(predicate)
        except TimeoutError:
            left = sorted(set(pods) - self.node_of.keys())
            why = {name: self.refused.get(name, "nothing said") for name in left[:3]}
            raise AssertionError(f"{len(left)} pods not {what}: {why}") from None


class SchedulerRig:
    """Nodes, their agents, one aggregator, and pods to be placed, in one test's corner of the cluster."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.plane, self.sandbox = rig.plane, rig.sandbox
        self.bindings = Bindings(rig.plane, rig.sandbox.namespace)
        self._port = 0
        """Of the extender in its own process; 0: there is none, and the main port serves it."""

    async def start_aggregator(self, **settings: str) -> Process:
        """Start an aggregator that serves the scheduler, as it is shipped, on a port of its own."""
        self._port = self._port or free_port()
        listen = f"127.0.0.1:{self._port}"
        return await self.rig.start_aggregator(scheduler_listen=listen, **settings)

    async def numbers(self, names: Sequence[str], *, gpus: int) -> dict[str, int]:
        """What the scheduler would be told of these nodes now, for such a pod."""
        asked = {"Pod": gpu_pod("asks", gpus=gpus), "NodeNames": list(names)}
        url = f"http://127.0.0.1:{self._port}/scheduler/prioritize"
        async with aiohttp.ClientSession() as session, session.post(url, json=asked) as response:
            return {each["Host"]: each["Score"] for each in await response.json()}

    async def nodes(self, stem: str, count: int) -> list[str]:
        """New nodes in a pool of this name, usable by the scheduler; without agents yet."""
        labels = {LABEL: self.sandbox.namespace, POOL: stem}
        names = [self.sandbox.name(f"{stem}-{number:03d}") for number in range(count)]
        await self._post("/api/v1/nodes", [gpu_node(n, kwok=False, labels=labels) for n in names])
        query = f"/api/v1/nodes?labelSelector={LABEL}={self.sandbox.namespace},{POOL}={stem}"
        async with asyncio.timeout(DEADLINE_S):
            while True:
                _, listed = await self.plane.request("GET", query)
                if sum(map(is_ready, listed["items"])) == count:
                    return names
                await asyncio.sleep(LOOK_S)

    async def occupy(self, nodes: Sequence[str], *, gpus: int, pods: int = 1) -> None:
        """So many pods on each of these nodes, each with so many GPUs; bound past the scheduler."""
        bodies = [
            gpu_pod(f"holds-{name}-{number}", gpus=gpus, node=name)
            for name in nodes
            for number in range(pods)
        ]
        await self._post(self.sandbox.path("pods"), bodies)

    async def pods(self, stem: str, count: int, **options: Any) -> list[str]:
        """Pods to be placed on this test's nodes; of one pool, when one is named."""
        options = dict(options)
        selector = {LABEL: self.sandbox.namespace}
        if pool := options.pop("pool", None):
            selector[POOL] = pool
        names = [f"{stem}-{number:03d}" if count > 1 else stem for number in range(count)]
        bodies = [gpu_pod(name, nodeSelector=selector, **options) for name in names]
        await self._post(self.sandbox.path("pods"), bodies)
        return names

    async def placed(self, stem: str, count: int, **options: Any) -> list[str]:
        """The nodes that such pods were bound to."""
        return list((await self.bindings.of(await self.pods(stem, count, **options))).values())

    async def one_by_one(self, stem: str, count: int) -> list[float]:
        """One-GPU pods, each made when the one before is bound; the seconds that each waited for a node."""
        waited = []
        for number in range(count):
            made_s = time.monotonic()
            [name] = await self.pods(f"{stem}-{number:03d}", 1, gpus=1)
            await self.bindings.of([name])
            waited.append(self.bindings.seen_s[name] - made_s)
        return waited

    @asynccontextmanager
    async def reporting(self, names: Sequence[str]) -> AsyncIterator[Agents]:
        """An agent's stream for each of these nodes, once the aggregator has heard all of them."""
        agents = Agents(names, await healthy_report())
        async with agents.reporting(self.rig.grpc_port):
            await self.judged(names, {"healthy"})
            yield agents

    async def judged(self, names: Collection[str], verdicts: set[str]) -> None:
        """Wait until the aggregator's own score of each of these nodes has one of these verdicts."""
        said: dict[str, Json] = {}
        """The score of each node, as last asked for."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                for name in names:
                    while said.get(name, {}).get("verdict") not in verdicts:
                        await asyncio.sleep(LOOK_S if name in said else 0)
                        answer = await self.rig.get(f"/api/v1/nodes/{name}")
                        said[name] = answer.get("score") or {}
        except TimeoutError:
            raise AssertionError(f"not judged {verdicts} in time: {said}") from None

    async def prioritized(self) -> float:
        """How many times the scheduler asked for an order so far, by a page rendered after now."""
        series = "fleetmedic_aggregator_rendered_time_seconds"
        await asyncio.sleep(COUNTED_S)
        now = time.time()
        async with asyncio.timeout(DEADLINE_S):
            while await self.rig.metric(series) <= now:
                await asyncio.sleep(LOOK_S)
        return await self.rig.metric(
            'fleetmedic_aggregator_extender_requests_total{verb="prioritize"}'
        )

    def config(self, *, refuse: bool, timeout_s: float = PATIENT_TIMEOUT_S) -> dict[str, Any]:
        """The shipped configuration of the scheduler; ``refuse``: with our word against nodes, too."""
        config = self.rig.scheduler_config()
        # Else 104 of 300 nodes would be offered, and the best place would mostly not be among them.
        config.setdefault("percentageOfNodesToScore", 100)
        for extender in config["extenders"]:
            if self._port:
                extender["urlPrefix"] = f"http://127.0.0.1:{self._port}/scheduler"
            extender["httpTimeout"] = f"{timeout_s:g}s"
            if not refuse:
                extender.pop("filterVerb", None)
        return config

    async def _post(self, path: str, bodies: Sequence[Json]) -> None:
        async with self.plane.api.session() as session:

            async def one(body: Json) -> None:
                async with session.post(path, json=body) as response:
                    assert response.status == 201, await response.text()

            await side_by_side([partial(one, body) for body in bodies], PARALLEL)

    async def __aenter__(self) -> Self:
        self._following = asyncio.create_task(self.bindings.run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._following
        with contextlib.suppress(aiohttp.ClientError):
            query = f"/api/v1/nodes?labelSelector={LABEL}={self.sandbox.namespace}"
            await self.plane.request("DELETE", query, {"gracePeriodSeconds": 0})


@asynccontextmanager
async def scheduler_rig(
    plane: ControlPlane, sandbox: Sandbox, folder: Path
) -> AsyncIterator[SchedulerRig]:
    """A rig whose aggregator is not started yet."""
    async with Rig(sandbox, folder) as rig, SchedulerRig(rig) as scheduling:
        yield scheduling
