"""What the server refuses or cannot answer has a type, and a text that holds no secret."""

import asyncio
from pathlib import Path

import pytest

from aggregator.cluster import EdgeError
from aggregator.cluster.errors import Forbidden, NotFound, Unavailable
from aggregator.policy.model import Condition, SetCondition
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.sandbox import Sandbox
from tests.integration.kubernetes_edge.intents import set_taint
from tests.integration.kubernetes_edge.rig import SpyApi, Watched

pytestmark = pytest.mark.cluster


async def test_a_node_that_is_gone_is_an_edge_error(watched: Watched) -> None:
    for intent in (
        set_taint("no-such-node"),
        SetCondition(
            node="no-such-node", type="GPUHealthy", condition=Condition("True"), reason=""
        ),
    ):
        with pytest.raises(EdgeError, match=r"no-such-node.*404"):
            await watched.edge.apply(intent)


async def test_what_the_server_refuses_has_a_type_and_no_secret(
    cluster: ControlPlane, sandbox: Sandbox
) -> None:
    nobody = SpyApi(cluster.write_kubeconfig("nobody", token="not-a-token"))
    with pytest.raises(Forbidden) as refused:
        await nobody.get("/api/v1/nodes")
    assert "not-a-token" not in str(refused.value)
    await nobody.close()
    admin = SpyApi(cluster.kubeconfig)
    with pytest.raises(NotFound):
        await admin.get("/api/v1/nodes/none")
    await admin.close()


async def test_an_unreachable_server_and_missing_credentials_are_unavailable(
    tmp_path: Path, cluster: ControlPlane
) -> None:
    text = await asyncio.to_thread(cluster.kubeconfig.read_text)
    dead = tmp_path / "dead.kubeconfig"
    dead.write_text(text.replace(cluster.url, "https://127.0.0.1:9"))
    for path in (dead, tmp_path / "missing"):
        api = SpyApi(path)
        with pytest.raises(Unavailable):
            await api.get("/api/v1/nodes")
        await api.close()
