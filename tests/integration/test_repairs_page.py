"""What docs/how-to/repairs.md tells people to write is what kubectl and the agent take."""

import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from agent.config import ENV_PREFIX, AgentSettings
from agent.repairs.assembly import read
from contract.signing import generate, load_signer, load_verifier
from contract.vocabulary import Directive
from tests.controlplane.binaries import program
from tests.controlplane.cluster import ControlPlane
from tests.integration.test_agent_cli import agent

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "repairs.md").read_text()
OVERLAY, AGENT_FILE = (block.partition("```")[0] for block in PAGE.split("```yaml\n")[1:])


def daemon_set(text: str) -> dict[str, Any]:
    (found,) = (each for each in yaml.safe_load_all(text) if each["kind"] == "DaemonSet")
    return dict(found["spec"]["template"]["spec"])


def settings(pod: dict[str, Any], **more: Any) -> AgentSettings:
    (container,) = pod["containers"]
    given = {
        each["name"].removeprefix(ENV_PREFIX).lower(): each["value"]
        for each in container["env"]
        if each["name"].startswith(ENV_PREFIX)
    }
    return msgspec.convert({**given, **more}, type=AgentSettings, strict=False)


def test_the_manifest_alone_allows_nothing() -> None:
    pod = daemon_set((ROOT / "deploy" / "base" / "agent.yaml").read_text())
    found = settings(pod)
    assert (found.directive_public_key_file, found.allow_repairs) == ("", "")
    assert read(found) is None
    (volume,) = (each for each in pod["volumes"] if each["name"] == "directive-key")
    assert volume["configMap"]["optional"] is True


@pytest.mark.cluster
async def test_the_overlay_turns_on_what_it_says(
    tmp_path: Path, control_plane: ControlPlane
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(OVERLAY)
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    pod = daemon_set(await control_plane.kubectl("kustomize", str(tmp_path / "mine")))
    found = settings(pod)
    (container,) = pod["containers"]
    (mount,) = (each for each in container["volumeMounts"] if each["name"] == "directive-key")
    assert Path(found.directive_public_key_file).parent == Path(mount["mountPath"])
    assert (pod["hostPID"], container["securityContext"]["privileged"]) == (True, True)
    _, public = generate(tmp_path / "keys")
    assert public.name == Path(found.directive_public_key_file).name
    allowed = read(settings(pod, directive_public_key_file=str(public)))
    assert allowed is not None
    rules, _ = allowed
    assert rules.repairs == ("reboot-node", "reset-device", "restart-service")
    assert rules.reboot.with_values()[:2] == ("nsenter", "-t")
    assert rules.reboot.with_values()[-2:] == ("systemctl", "reboot")


@pytest.mark.cluster
async def test_its_commands_leave_the_cluster_with_two_keys_that_agents_believe(
    tmp_path: Path, control_plane: ControlPlane
) -> None:
    """All of them, in the page's order, by a shell."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    kubectl = (
        f"{program(control_plane.binaries, 'kubectl')} --kubeconfig={control_plane.kubeconfig}"
    )
    for name, real in (
        ("kubectl", kubectl),
        ("fleetmedic-aggregator", f"{sys.executable} -m aggregator"),
    ):
        (bin_ / name).write_text(f'#!/bin/sh\nexec {real} "$@"\n')
        (bin_ / name).chmod(0o755)
    commands = [
        line.strip()
        for line in PAGE.splitlines()
        if re.match(r"    (fleetmedic-aggregator|kubectl|cat) ", line)
    ]
    assert len(commands) == 6
    await control_plane.kubectl(*("apply", "-f", str(ROOT / "deploy" / "base" / "namespace.yaml")))
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", "\n".join(commands)),
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    said = await control_plane.kubectl(
        *("-n", "fleetmedic", "get", "configmap", "fleetmedic-directive-key", "-o", "json")
    )
    public = tmp_path / "mounted.pub"
    public.write_text(json.loads(said)["data"]["directive.pub"])
    directive = Directive(id="i-1", kind="clear")
    for name in ("keys", "new"):
        signed = load_signer(tmp_path / name / "directive.key").sign(directive)
        assert load_verifier(public).open(signed) == directive
    secret = await control_plane.kubectl(
        *("-n", "fleetmedic", "get", "secret", "fleetmedic-directive-key", "-o", "json")
    )
    assert list(json.loads(secret)["data"]) == ["directive.key"]


async def test_the_file_of_a_host_is_taken_by_the_agent(tmp_path: Path) -> None:
    _, public = generate(tmp_path / "keys")
    file = tmp_path / "agent.yaml"
    file.write_text(AGENT_FILE.replace("/etc/fleetmedic/directive.pub", str(public)))
    found = msgspec.yaml.decode(file.read_bytes(), type=AgentSettings)
    allowed = read(found)
    assert allowed is not None
    assert allowed[0].repairs == ("diagnose", "reboot-node", "reset-device", "restart-service")
    assert allowed[0].unit_for("rdma-link-slow") == "openibd.service"
    file.write_text(AGENT_FILE.replace("state_dir: /var/lib/fleetmedic\n", ""))
    status, _, said = await agent("run", "--config", str(file))
    assert status == 2
    assert "needs state_dir" in said
