"""docs/how-to/read-access.md as its first reader follows it, and the component that closes the port."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGE = ROOT / "docs" / "how-to" / "read-access.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def written(overlay: Path) -> str:
    """The page's overlay, as if it lay beside the deploy folder; its folder."""
    [text] = [each for each in blocks("yaml") if "components:" in each]
    overlay.mkdir()
    there = os.path.relpath(DEPLOY, overlay)
    (overlay / "kustomization.yaml").write_text(text.replace("../deploy", there))
    return str(overlay)


async def rendered(plane: ControlPlane, folder: str) -> list[Json]:
    return list(yaml.safe_load_all(await plane.kubectl("kustomize", folder)))


async def test_the_component_closes_the_port_and_changes_nothing_else(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    as_shipped = await rendered(control_plane, str(DEPLOY))
    closed = await rendered(control_plane, written(tmp_path / "mine"))
    [(shipped, policy)] = [(a, b) for a, b in zip(as_shipped, closed, strict=True) if a != b]
    assert policy["kind"] == "NetworkPolicy"
    assert policy["spec"]["egress"] == shipped["spec"]["egress"]
    assert policy["spec"]["podSelector"] == shipped["spec"]["podSelector"]
    by_port = {
        port["port"]: rule.get("from", "anybody")
        for rule in policy["spec"]["ingress"]
        for port in rule["ports"]
    }
    assert by_port[8081] == "anybody", "the scheduler has no address that a selector could name"
    assert by_port[50051] == shipped["spec"]["ingress"][0]["from"], "agents, as before"
    prometheus, named = (each["namespaceSelector"]["matchLabels"] for each in by_port[8080])
    assert list(prometheus.values()) == ["monitoring"]
    [command] = [each for each in blocks("sh") if "kubectl label namespace" in each]
    assert command.split()[-1] == "=".join(*named.items())
    there = {**policy, "metadata": {"name": "closed", "namespace": "default"}}
    said = await control_plane.kubectl(
        "apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(there)
    )
    assert "created" in said
