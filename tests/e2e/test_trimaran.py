"""kube-scheduler with Trimaran's own plugins, configured as the page says, places pods by what ``/watcher`` tells it."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer

from aggregator.feeds.watcher import Watcher
from aggregator.usage import Usage
from tests import consumers
from tests.controlplane.manifests import gpu_node, is_ready
from tests.controlplane.sandbox import LABEL
from tests.pages import HOW_TO, yaml_block
from tests.usage_builders import steady

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aggregator.feeds.watcher import Unhealthy
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

HISTORY_SECONDS = 400
"""More than the shortest window that is told."""

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.consumer("trimaran"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def program() -> Path:
    return consumers.need("trimaran")


def profiles(address: str) -> dict[str, Any]:
    """The page's configuration; only the watcher's host is the test's own."""
    config = yaml.safe_load(yaml_block(HOW_TO / "trimaran.md", "TargetLoadPackingArgs"))
    [profile] = config["profiles"]
    [plugin] = profile["pluginConfig"]
    path = plugin["args"]["watcherAddress"].rpartition(":8080")[2]
    plugin["args"]["watcherAddress"] = address + path
    return {"profiles": [profile]}


class Fleet:
    """Nodes with the CPU use that their agents told, and the aggregator's answer about them."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.usage = Usage()
        self.names: list[str] = []
        self.sick: set[str] = set()
        self.leading = True
        self.server: BaseTestServer | None = None

    async def node(self, stem: str, *, cpu: float | None, gpu: float = 0.5) -> str:
        """A node, usable by the scheduler; ``cpu`` ``None``: no agent ever spoke for it."""
        name = self.sandbox.name(stem)
        labels = {LABEL: self.sandbox.namespace}
        await self.sandbox.create("/api/v1/nodes", gpu_node(name, kwok=False, labels=labels))
        await self.sandbox.plane.until(f"/api/v1/nodes/{name}", is_ready)
        self.names.append(name)
        if cpu is not None:
            now = time.time()
            steady(self.usage, name, start=now - HISTORY_SECONDS, end=now, cpu=cpu, gpus=(gpu,))
        return name

    @asynccontextmanager
    async def watched(self, unhealthy: Unhealthy = "keep") -> AsyncIterator[str]:
        """The address of ``/watcher`` without a path."""
        watcher = Watcher(
            self.usage,
            nodes=lambda: self.names,
            sick=lambda: self.sick,
            serving=lambda: self.leading,
            clock=time.time,
            unhealthy=unhealthy,
        )
        app = web.Application()
        app.add_routes(watcher.routes())
        async with TestServer(app) as server:
            self.server = server
            yield f"http://127.0.0.1:{server.port}"

    async def die(self) -> None:
        """Nobody answers any more."""
        assert self.server is not None
        await self.server.close()

    async def place(self, *pods: str) -> list[str]:
        """The node of each of these new pods, one after the other."""
        found = []
        for name in pods:
            await self.sandbox.pod(name, schedulerName="trimaran")
            path = self.sandbox.path("pods", name)
            pod = await self.sandbox.plane.until(path, lambda seen: seen["spec"].get("nodeName"))
            found.append(pod["spec"]["nodeName"])
        return found


@pytest.fixture
def fleet(sandbox: Sandbox) -> Fleet:
    return Fleet(sandbox)


async def test_pods_go_where_the_measured_cpu_is_nearest_to_the_target(
    control_plane: ControlPlane, fleet: Fleet, program: Path
) -> None:
    await fleet.node("idle", cpu=0.1)
    near = await fleet.node("near", cpu=0.5)
    await fleet.node("hot", cpu=0.9)
    async with (
        fleet.watched() as address,
        control_plane.scheduler_with(profiles(address), program=program),
    ):
        assert await fleet.place("a", "b", "c") == [near, near, near]
        await fleet.die()
        assert await fleet.place("after") == [near], "it goes on by the last answer"


async def test_with_the_experimental_prefix_they_go_by_gpus(
    control_plane: ControlPlane, fleet: Fleet, program: Path
) -> None:
    near = await fleet.node("near", cpu=0.9, gpu=0.5)
    await fleet.node("idle", cpu=0.5, gpu=0.1)
    async with fleet.watched() as address:
        config = profiles(address)
        [plugin] = config["profiles"][0]["pluginConfig"]
        plugin["args"]["watcherAddress"] = f"{address}/gpu"
        async with control_plane.scheduler_with(config, program=program):
            assert await fleet.place("a", "b") == [near, near]


async def test_a_sick_node_that_is_left_out_is_last_and_a_silent_one_is_as_the_mean(
    control_plane: ControlPlane, fleet: Fleet, program: Path
) -> None:
    sick = await fleet.node("sick", cpu=0.6)
    hot = await fleet.node("hot", cpu=0.95)
    fleet.sick.add(sick)
    async with (
        fleet.watched("leave-out") as address,
        control_plane.scheduler_with(profiles(address), program=program),
    ):
        assert await fleet.place("a") == [hot]
    await fleet.node("idle", cpu=0.05)
    silent = await fleet.node("silent", cpu=None)
    async with (
        fleet.watched("leave-out") as address,
        control_plane.scheduler_with(profiles(address), program=program),
    ):
        assert await fleet.place("b") == [silent]


@pytest.mark.parametrize("dead", [False, True], ids=["does not lead", "is not there"])
async def test_where_we_tell_nothing_pods_are_placed_all_the_same(
    control_plane: ControlPlane, fleet: Fleet, program: Path, dead: bool
) -> None:
    names = {await fleet.node(f"n{number}", cpu=0.5) for number in range(2)}
    fleet.leading = False
    async with fleet.watched() as address:
        if dead:
            await fleet.die()
        async with control_plane.scheduler_with(profiles(address), program=program):
            assert set(await fleet.place("a", "b")) <= names
