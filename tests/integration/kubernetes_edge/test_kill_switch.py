"""A ConfigMap stops every write, the Lease goes on, and nobody has to be restarted."""

import asyncio
from typing import Any

import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.control import stop_reason
from aggregator.cluster.errors import Forbidden
from aggregator.cluster.kubernetes import KubernetesEdge
from aggregator.cluster.lease import LeaseSettings
from aggregator.cluster.workloads import WorkloadError
from aggregator.policy.model import (
    Condition,
    Cordon,
    ForgetIncident,
    Intent,
    Notify,
    RecordEvent,
    RemoveTaint,
    SetCondition,
    Uncordon,
)
from contract.vocabulary import CONTROL_CONFIG_MAP
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.sandbox import Sandbox
from tests.integration.kubernetes_edge.intents import incident, save, set_taint
from tests.integration.kubernetes_edge.rig import (
    SpyApi,
    background,
    read,
    running,
    settings,
    until,
)

pytestmark = pytest.mark.cluster


def lease_in(sandbox: Sandbox) -> LeaseSettings:
    return LeaseSettings(
        namespace=sandbox.namespace,
        name="l",
        duration_seconds=6,
        renew_deadline_seconds=5,
        retry_seconds=0.3,
    )


async def stop(plane: ControlPlane, sandbox: Sandbox, why: str) -> None:
    where = f"--namespace={sandbox.namespace}"
    await plane.kubectl(
        "create", "configmap", CONTROL_CONFIG_MAP, where, f"--from-literal=stop={why}"
    )


async def go_on(plane: ControlPlane, sandbox: Sandbox) -> None:
    await plane.kubectl(
        "delete", "configmap", CONTROL_CONFIG_MAP, f"--namespace={sandbox.namespace}"
    )


def every_write(node: str, name: str) -> list[Intent]:
    return [
        set_taint(node, incident=name),
        RemoveTaint(node=node, reason="r"),
        Cordon(node=node, incident=name, reason="r"),
        Uncordon(node=node, reason="r"),
        SetCondition(node=node, type="GPUHealthy", condition=Condition("False"), reason="r"),
        RecordEvent(node=node, type="Warning", event_reason="Quarantined", reason="r"),
        save(incident(name, node)),
        Notify(incident=incident(name, node), reason="r"),
        ForgetIncident(node=node, name=name, reason="r"),
    ]


async def test_a_stop_refuses_every_write_and_ends_with_the_config_map(
    cluster: ControlPlane, sandbox: Sandbox, node: str, incident_name: str
) -> None:
    told: list[Notify] = []

    async def notifier(notify: Notify) -> None:
        told.append(notify)

    pod = await sandbox.pod("p", node=node)
    async with running(cluster, lease=lease_in(sandbox), notifier=notifier) as watched:
        assert watched.edge.view().stopped == ""
        await stop(cluster, sandbox, "power work in row 7")
        await watched.until(lambda view: view.stopped == "power work in row 7")
        for intent in every_write(node, incident_name):
            with pytest.raises(EdgeError, match="stopped by a person: power work in row 7"):
                await watched.edge.apply(intent)
        (found,) = await watched.edge.workloads.pods_on(node)
        assert found.uid == pod["metadata"]["uid"]
        for write in (
            watched.edge.workloads.evict(found, reason="drain"),
            watched.edge.workloads.annotate(found, {"a": "b"}),
        ):
            with pytest.raises(WorkloadError, match="stopped by a person: power work"):
                await write
        with pytest.raises(EdgeError, match="stopped by a person"):
            watched.edge.permit()
        assert told == []
        assert {method for method, _ in watched.api.requests} <= {"GET"}
        await go_on(cluster, sandbox)
        await watched.until(lambda view: not view.stopped)
        watched.edge.permit()
        await watched.edge.apply(set_taint(node, incident=incident_name))


async def test_a_stopped_leader_goes_on_leading(
    cluster: ControlPlane, sandbox: Sandbox, node: str
) -> None:
    async with running(cluster, lease=lease_in(sandbox)) as watched:
        await stop(cluster, sandbox, "wait")
        await watched.until(lambda view: view.stopped)
        path = watched.edge._elector._path
        before = (await read(cluster, path))["spec"]["renewTime"]
        await cluster.until(path, lambda lease: lease["spec"]["renewTime"] > before)
        assert watched.edge.leading


async def test_a_stop_that_is_there_at_the_start_is_seen_before_the_first_decision(
    cluster: ControlPlane, sandbox: Sandbox, node: str
) -> None:
    await stop(cluster, sandbox, "since yesterday")
    async with running(cluster, lease=lease_in(sandbox)) as watched:
        assert watched.edge.view().stopped == "since yesterday"


async def test_other_config_maps_and_an_empty_stop_stop_nothing(
    cluster: ControlPlane, sandbox: Sandbox, node: str
) -> None:
    where = f"--namespace={sandbox.namespace}"
    await cluster.kubectl("create", "configmap", "other", where, "--from-literal=stop=yes")
    await stop(cluster, sandbox, "")
    async with running(cluster, lease=lease_in(sandbox)) as watched:
        assert watched.edge.view().stopped == ""
        await watched.edge.apply(set_taint(node))


class Blind(SpyApi):
    """May do everything but read ConfigMaps."""

    async def _send(self, method: str, path: str, *args: Any, **kwargs: Any) -> bytes:
        if "/configmaps" in path:
            raise Forbidden(f"{method} {path}: 403", status=403)
        return await super()._send(method, path, *args, **kwargs)


async def test_one_that_may_not_read_the_switch_never_acts(
    cluster: ControlPlane, node: str
) -> None:
    """Not knowing whether a person said stop is no leave to go on."""
    api, changed = Blind(cluster.kubeconfig), asyncio.Event()
    edge = KubernetesEdge(settings(cluster), api=api)
    async with background(edge.run(changed.set)):
        await until(changed, lambda: edge.leading and node in edge.view().nodes)
        assert not edge.view().synced
        with pytest.raises(EdgeError, match="ConfigMap default/fleetmedic-control cannot be read"):
            await edge.apply(set_taint(node))
        with pytest.raises(EdgeError, match="cannot be read"):
            edge.permit()
    await edge.close()


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        ({}, ""),
        ({"data": None}, ""),
        ({"data": {"stop": ""}}, ""),
        ({"data": {"halt": "x"}}, ""),
        ({"data": {"stop": "two\nlines"}}, "two lines"),
        ({"data": {"stop": "false"}}, "false"),
        ({"data": {"stop": " "}}, "no reason given"),
        ({"data": {"stop": "x" * 500}}, "x" * 200),
        ({"binaryData": {"stop": "AAA="}}, "no reason given"),
        ({"data": {"stop": 7}}, "7"),
    ],
)
def test_any_text_stops_whatever_it_says(obj: dict[str, object], reason: str) -> None:
    assert stop_reason(obj) == reason
