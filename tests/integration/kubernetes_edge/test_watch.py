"""Lists and watches: the view follows the cluster, whatever ends, is cut or forgotten in between."""

import asyncio
import contextlib
import time
from functools import partial

import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.nodes import reduce_node
from aggregator.cluster.reflector import Reflector, Timings
from aggregator.policy.model import ClusterView
from tests.controlplane.api import MERGE
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.manifests import gpu_node
from tests.controlplane.sandbox import Sandbox
from tests.integration.kubernetes_edge.intents import set_taint
from tests.integration.kubernetes_edge.rig import SpyApi, Watched, background, running, until

pytestmark = pytest.mark.cluster


async def test_the_view_follows_what_others_do(
    cluster: ControlPlane, watched: Watched, sandbox: Sandbox
) -> None:
    name = sandbox.name("late")
    assert not watched.edge.knows(name)
    await sandbox.create("/api/v1/nodes", gpu_node(name, gpus=4, kwok=False))
    view = await watched.until(lambda view: name in view.nodes)
    assert watched.edge.knows(name)
    assert view.nodes[name].gpu_capacity == 4
    assert view is watched.edge.view()  # built once per change
    await cluster.kubectl("cordon", name)
    await watched.until(lambda view: view.nodes[name].unschedulable)
    await cluster.request("DELETE", f"/api/v1/nodes/{name}")
    await watched.until(lambda view: name not in view.nodes)
    assert watched.edge.view_age_seconds < 15


def has_round(node: str, wanted: str, view: ClusterView) -> bool:
    return view.nodes[node].labels.get("fleetmedic.test/round") == wanted


async def test_a_watch_that_the_server_ends_is_taken_up_without_a_gap(
    cluster: ControlPlane, sandbox: Sandbox, node: str
) -> None:
    async with running(cluster, reflector=Timings(watch_seconds=1.0)) as watched:
        for number in range(3):
            wanted = f"v{number}"
            await asyncio.sleep(0.7)  # the server's own clock ends the watch
            body = {"metadata": {"labels": {"fleetmedic.test/round": wanted}}}
            await cluster.request("PATCH", f"/api/v1/nodes/{node}", body, MERGE)
            await watched.until(partial(has_round, node, wanted))
        assert [path for _, path in watched.api.requests if path == "/api/v1/nodes"] == []


async def test_a_long_list_is_read_in_pages(cluster: ControlPlane, sandbox: Sandbox) -> None:
    names = {await sandbox.node(f"n{number}", kwok=False) for number in range(5)}
    api = SpyApi(cluster.kubeconfig)
    found: list[str] = []
    async with contextlib.aclosing(api.pages("/api/v1/nodes", limit=2)) as pages:
        async for page in pages:
            found.extend(item["metadata"]["name"] for item in page["items"])
    await api.close()
    assert names <= set(found)
    assert len(found) == len(set(found))
    assert len(api.requests) >= 3


async def test_a_change_during_an_outage_of_the_server_is_not_missed(
    cluster: ControlPlane, watched: Watched, sandbox: Sandbox, node: str
) -> None:
    await cluster.kill_apiserver()
    with pytest.raises(EdgeError, match=r"set-taint for node .*: PATCH|not the leader"):
        await watched.edge.apply(set_taint(node))
    await cluster.start_apiserver()
    name = sandbox.name("new")
    await sandbox.create("/api/v1/nodes", gpu_node(name, kwok=False))
    await cluster.request("DELETE", f"/api/v1/nodes/{node}")
    await watched.until(lambda view: name in view.nodes and node not in view.nodes)


async def test_a_forgotten_place_in_the_history_leads_to_a_new_list(
    cluster: ControlPlane, sandbox: Sandbox, node: str
) -> None:
    """A version that the server cannot know any more: 1 is always compacted or before its cache."""
    api = SpyApi(cluster.kubeconfig)
    changed = asyncio.Event()
    nodes = Reflector(
        api,
        "/api/v1/nodes",
        reduce_node,
        on_change=changed.set,
        clock=time.monotonic,
        random=lambda: 0.0,
    )
    ghost = gpu_node("ghost")
    nodes.put({**ghost, "metadata": {"name": "ghost", "resourceVersion": "1"}})
    nodes._position = "1"
    nodes._written = None
    async with background(nodes.run()):
        await until(changed, lambda: "ghost" not in nodes.entries and node in nodes.entries)
    await api.close()
    assert ("GET", "/api/v1/nodes") in api.requests
