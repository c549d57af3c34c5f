"""docs/how-to/device-quarantine.md as written: its rights are enough, and without them it is said what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from aggregator.cluster.client import Api
from aggregator.cluster.credentials import Credentials
from aggregator.policy.devices.values import BackEnd, parse_back_ends
from tests.e2e.rig import rights_with
from tests.integration.devices.rig import BAD
from tests.integration.devices.test_dra import Dra, dra

if TYPE_CHECKING:
    from tests.controlplane.api import Json

__all__ = ["dra"]
pytestmark = pytest.mark.cluster

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "device-quarantine.md").read_text()
NODES = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch"]}
"""What the aggregator has anyway."""


def blocks() -> list[Any]:
    """The page's YAML."""
    return [yaml.safe_load(each.partition("```")[0]) for each in PAGE.split("```yaml\n")[1:]]


def rights() -> list[Json]:
    return [rule for block in blocks() if isinstance(block, list) for rule in block]


async def as_aggregator(dra: Dra, rules: list[Json]) -> None:
    """From now on the desk is a service account with these rights."""
    rbac, sandbox = "/apis/rbac.authorization.k8s.io/v1", dra.sandbox
    name = sandbox.name("aggregator")
    await sandbox.create(f"{rbac}/clusterroles", {"metadata": {"name": name}, "rules": rules})
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    who = {"kind": "ServiceAccount", "name": "default", "namespace": sandbox.namespace}
    binding = {"metadata": {"name": name}, "roleRef": role, "subjects": [who]}
    await sandbox.create(f"{rbac}/clusterrolebindings", binding)
    path = sandbox.path("serviceaccounts", "default") + "/token"
    status, answer = await dra.plane.request("POST", path, {"spec": {}})
    assert status == 201, answer
    await dra.of.api.close()
    file = dra.of.proxy.write_kubeconfig(name, token=answer["status"]["token"])
    dra.of.api = Api(Credentials(file))
    dra.of.desk = dra.of.new("dra")


def test_its_setting_is_one() -> None:
    (setting,) = (each for each in blocks() if isinstance(each, dict))
    assert parse_back_ends(setting["device_quarantine"]).back_ends == (BackEnd.DRA,)


def test_the_rights_that_it_names_are_those_that_are_shipped_commented_out() -> None:
    shipped = yaml.safe_load_all(rights_with("device_quarantine"))
    rules = next(each["rules"] for each in shipped if each["kind"] == "ClusterRole")
    assert rights()
    assert [each for each in rights() if each not in rules] == []


async def test_the_rights_that_it_names_are_enough(dra: Dra) -> None:
    await as_aggregator(dra, [NODES, *rights()])
    await dra.quarantine()
    assert dra.of.kept == {BAD}
    dra.of.recover()
    await dra.of.looks(3)
    assert not await dra.rules()
    assert dra.of.desk.errors_total == 0


async def test_without_them_the_node_stays_tainted_and_it_is_said_why(dra: Dra) -> None:
    await as_aggregator(dra, [NODES])
    await dra.of.looks(2)
    assert not dra.of.kept
    assert "no right to read" in dra.of.word
    assert dra.of.desk.errors_total > 0
