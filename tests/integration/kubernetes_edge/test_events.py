"""Events about a node: repeated ones are counted, also by the next leader."""

import pytest

from aggregator.policy.model import RecordEvent
from tests.controlplane.cluster import ControlPlane
from tests.integration.kubernetes_edge.rig import Watched, read, running

pytestmark = pytest.mark.cluster

EVENTS = "/api/v1/namespaces/default/events"


def event_name_of(watched: Watched) -> str:
    (name,) = watched.edge._events._counts
    return name


async def test_a_repeated_event_is_counted_also_by_the_next_leader(
    cluster: ControlPlane, node: str
) -> None:
    event = RecordEvent(
        node=node, type="Warning", event_reason="Quarantined", reason="xid-79 on GPU 3"
    )
    query = f"{EVENTS}?fieldSelector=involvedObject.name={node},reason=Quarantined"
    async with running(cluster) as first:
        await first.apply(event, event, event)
        methods = [method for method, _ in first.api.requests]
        assert methods == ["POST", "PATCH", "PATCH"]
    async with running(cluster) as second:
        await second.apply(event, event)
    (stored,) = (await read(cluster, query))["items"]
    assert stored["count"] == 5
    described = await cluster.kubectl("describe", "node", node)
    assert "Quarantined" in described
    assert "xid-79 on GPU 3" in described
    path = f"{EVENTS}/{stored['metadata']['name']}"
    await cluster.request("DELETE", path)


async def test_an_event_that_expired_is_written_anew(
    cluster: ControlPlane, watched: Watched, node: str
) -> None:
    event = RecordEvent(node=node, type="Normal", event_reason="Released", reason="mended")
    await watched.apply(event)
    path = f"{EVENTS}/{event_name_of(watched)}"
    await cluster.request("DELETE", path)
    await watched.apply(event)
    assert (await read(cluster, path))["count"] == 1
    await cluster.request("DELETE", path)
