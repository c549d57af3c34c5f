"""An agent's token proves the node that its pod runs on, and nothing else does."""

import pytest

from aggregator.cluster.client import Json
from aggregator.cluster.kubernetes import KubernetesEdge
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.manifests import gpu_pod
from tests.controlplane.sandbox import Sandbox
from tests.integration.kubernetes_edge.rig import SpyApi, read, settings

pytestmark = pytest.mark.cluster


async def test_a_token_proves_the_node_of_the_pod_that_it_is_bound_to(
    cluster: ControlPlane, sandbox: Sandbox, node: str
) -> None:
    account = f"{sandbox.namespace}/agent"
    for name in ("agent", "stranger"):
        await sandbox.create(sandbox.path("serviceaccounts"), {"metadata": {"name": name}})
        await sandbox.create(
            sandbox.path("pods"), gpu_pod(name, gpus=0, node=node, serviceAccountName=name)
        )

    async def token(name: str, audience: str, *, bound: bool = True) -> str:
        path = f"{sandbox.path('serviceaccounts', name)}/token"
        spec: Json = {"audiences": [audience], "expirationSeconds": 600}
        if bound:
            pod = await read(cluster, sandbox.path("pods", name))
            uid = pod["metadata"]["uid"]
            spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}
        status, made = await cluster.request("POST", path, {"spec": spec})
        assert status == 201, made
        value: str = made["status"]["token"]
        return value

    api = SpyApi(cluster.kubeconfig)
    edge = KubernetesEdge(settings(cluster, agent_service_account=account), api=api)
    good = await token("agent", "fleetmedic")
    assert await edge.tokens.review(good) == node
    assert await edge.tokens.review(good) == node
    assert len(api.requests) == 1  # the second time it was remembered
    assert await edge.tokens.review(await token("agent", "fleetmedic", bound=False)) is None
    assert await edge.tokens.review(await token("agent", "somebody-else")) is None
    assert await edge.tokens.review(await token("stranger", "fleetmedic")) is None
    assert await edge.tokens.review("nonsense") is None
    await edge.close()
