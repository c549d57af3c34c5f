"""Score labels through the real edge: its Lease and its kill switch decide who writes, and the view shows what was written."""

import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from aggregator.cluster.kubernetes import KubernetesEdge
from aggregator.cluster.lease import LeaseSettings
from aggregator.cluster.score_labels import ScoreLabels
from aggregator.feeds.node_labels import LabelSettings
from contract.vocabulary import CONTROL_CONFIG_MAP, SCORE_BAND_LABEL
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.sandbox import Sandbox
from tests.integration.kubernetes_edge.rig import (
    SpyApi,
    Watched,
    background,
    read,
    running,
    settings,
)
from tests.score_feed import carried, healthy, sick

pytestmark = pytest.mark.cluster

AT_ONCE = LabelSettings(enabled=True, pause_seconds=0, settle_seconds=0)


def feed(edge: KubernetesEdge) -> ScoreLabels:
    return ScoreLabels(edge.nodes, edge.pen, AT_ONCE, permit=edge.permit, clock=time.monotonic)


@contextlib.asynccontextmanager
async def standby(plane: ControlPlane, lease: LeaseSettings) -> AsyncIterator[Watched]:
    """A second aggregator that sees everything and does not lead."""
    api = SpyApi(plane.kubeconfig)
    edge = KubernetesEdge(settings(plane, lease=lease), api=api)
    watched = Watched(edge, api)
    try:
        async with background(edge.run(watched.changed.set)):
            await watched.until(lambda view: view.synced)
            yield watched
    finally:
        await edge.close()


async def test_only_the_leader_labels_and_the_next_one_goes_on_from_what_is_there(
    cluster: ControlPlane, sandbox: Sandbox, node: str
) -> None:
    path = f"/api/v1/nodes/{node}"
    lease = LeaseSettings(
        namespace=sandbox.namespace,
        name="l",
        duration_seconds=6,
        renew_deadline_seconds=5,
        retry_seconds=0.2,
    )
    async with contextlib.AsyncExitStack() as life:
        first = await life.enter_async_context(running(cluster, lease=lease))
        labels = feed(first.edge)
        await labels.step({node: healthy(910)})
        assert carried(await read(cluster, path)) == ("9", "900")
        assert first.edge.view().nodes[node].labels[SCORE_BAND_LABEL] == "9"
        async with standby(cluster, lease) as second:
            other = feed(second.edge)
            assert not await other.step({node: sick()})
            assert carried(await read(cluster, path)) == ("9", "900")
            await life.aclose()  # the leader goes
            await second.until(lambda view: second.edge.leading and view.synced)
            await other.step({})
            assert other.writes_total == 0, "nobody has reported to it yet"
            await other.step({node: sick()})
            assert carried(await read(cluster, path)) == ("0", "0")


async def test_the_kill_switch_stops_labels_and_they_go_on_when_it_is_gone(
    cluster: ControlPlane, sandbox: Sandbox, node: str
) -> None:
    path, where = f"/api/v1/nodes/{node}", f"--namespace={sandbox.namespace}"
    lease = LeaseSettings(namespace=sandbox.namespace, name="l")
    async with running(cluster, lease=lease) as watched:
        labels = feed(watched.edge)
        await cluster.kubectl(
            "create", "configmap", CONTROL_CONFIG_MAP, where, "--from-literal=stop=a look first"
        )
        await watched.until(lambda view: view.stopped)
        assert not await labels.step({node: healthy(910)})
        assert carried(await read(cluster, path)) == ("", "")
        await cluster.kubectl("delete", "configmap", CONTROL_CONFIG_MAP, where)
        await watched.until(lambda view: not view.stopped)
        await labels.step({node: healthy(910)})
        assert carried(await read(cluster, path)) == ("9", "900")
