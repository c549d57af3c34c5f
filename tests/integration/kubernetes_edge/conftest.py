"""The control plane with our custom resource, a node and an incident's name on it, and an edge."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aggregator.cluster.client import Json
from tests.controlplane.api import APPLY
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.sandbox import Sandbox
from tests.integration.kubernetes_edge.rig import INCIDENTS, Watched, running

CRD = Path(__file__).parents[3] / "deploy" / "crd" / "incidents.yaml"
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/incidents.fleetmedic.io"

TTL = "node.alpha.kubernetes.io/ttl"
"""Annotation that the controller manager adds to each new node, now or a moment later."""


@pytest.fixture
async def cluster(control_plane: ControlPlane) -> ControlPlane:
    """The control plane with our custom resource installed."""
    query = "?fieldManager=test&force=true"
    status, _ = await control_plane.request("PATCH", CRD_PATH + query, CRD.read_bytes(), APPLY)
    assert status in (200, 201)

    def established(crd: Json) -> bool:
        conditions = crd.get("status", {}).get("conditions") or ()
        return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

    await control_plane.until(CRD_PATH, established)
    async with asyncio.timeout(20):
        while (await control_plane.request("GET", INCIDENTS))[0] == 429:
            await asyncio.sleep(0.05)  # established, its storage still being made
    return control_plane


@pytest.fixture
async def node(cluster: ControlPlane, sandbox: Sandbox) -> str:
    """A Ready node of this test's own, to which Kubernetes' own controllers have written what they write."""
    name = await sandbox.node(kwok=False)
    await cluster.until(
        f"/api/v1/nodes/{name}", lambda seen: TTL in seen["metadata"].get("annotations", {})
    )
    return name


@pytest.fixture
async def incident_name(cluster: ControlPlane, sandbox: Sandbox) -> AsyncIterator[str]:
    name = sandbox.name("incident")
    yield name
    await cluster.request("DELETE", f"{INCIDENTS}/{name}")


@pytest.fixture
async def watched(cluster: ControlPlane, node: str) -> AsyncIterator[Watched]:
    async with running(cluster) as one:
        yield one
