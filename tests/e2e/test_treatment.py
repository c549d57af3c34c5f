"""A fault on the real control plane, treated to the end: taint, drain, repair, proof, release, and the story of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from contract.signing import generate
from contract.vocabulary import TAINT_KEY
from tests.controlplane.manifests import GPU as GPU_RESOURCE
from tests.controlplane.sandbox import LABEL
from tests.e2e.rig import Rig
from tests.nvml.standin import Rising
from tests.repairs import script

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox
    from tests.e2e.rig import Node

pytestmark = pytest.mark.cluster

GPU = 3
INCIDENTS = "/apis/fleetmedic.io/v1alpha1/incidents"
ACTING = {
    "act": "taint,drain-device,drain,reset-device,reboot-node,replace",
    "diagnose": "true",
    "soak_seconds": "1",
    "verify_limit_seconds": "30",
    "breaker_nodes": "0",
    "budget_percent": "100",
    "evictions_per_second": "50",
}


class Ward:
    """A rig whose aggregator acts, and whose agents may reset a GPU with a command that waits to be let go."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig = rig
        self.private, self.public = generate(folder / "keys")
        self.asked = folder / "asked"
        self.go = folder / "go"
        self.reset = script(
            folder / "reset",
            "import pathlib, sys, time\n"
            f"with open({str(self.asked)!r}, 'a') as file: file.write(sys.argv[1] + '\\n')\n"
            f"while not pathlib.Path({str(self.go)!r}).exists(): time.sleep(0.02)\n",
        )

    async def start(self, **settings: str) -> None:
        await self.rig.start_aggregator(
            **{**ACTING, "directive_key_file": str(self.private), **settings}
        )

    async def add_node(self, stem: str) -> Node:
        return await self.rig.add_node(
            stem,
            directive_public_key_file=str(self.public),
            state_dir=str(self.rig.folder / f"state-{stem}"),
            allow_repairs="reset-device",
            reset_command=f"{self.reset} {{device}}",
            diagnostic_command="echo burn-in passed on {subject}",
            evidence_limit_seconds="20",
        )

    def resets(self) -> list[str]:
        return self.asked.read_text().splitlines() if self.asked.exists() else []

    async def incident(self, node: Node, phase: str) -> Json:
        """The node's one incident, once it is in this phase."""
        last: Json = {}
        try:
            async with asyncio.timeout(60):
                while True:
                    _, listed = await self.rig.plane.request("GET", INCIDENTS)
                    mine = [each for each in listed["items"] if each["spec"]["node"] == node.name]
                    assert len(mine) <= 1
                    last = mine[0].get("status", {}) if mine else {}
                    if last.get("phase") == phase:
                        found: Json = mine[0]
                        return found
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"never {phase}: {last}") from None

    async def explained(self, node: Node) -> str:
        answer = await self.rig.get(f"/api/v1/nodes/{node.name}/explain")
        text: str = answer["text"]
        return text


@pytest.fixture
async def ward(kwok: ControlPlane, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Ward]:
    async with (
        Rig(sandbox, tmp_path) as rig,
        rig.plane.scheduler_with(rig.scheduler_config()),
    ):
        yield Ward(rig, tmp_path)


async def job(sandbox: Sandbox, name: str, gpus: int) -> None:
    """A Job of one pod: evicted, it comes back somewhere else."""
    pod = {
        "restartPolicy": "Never",
        "nodeSelector": {LABEL: sandbox.namespace},
        "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
        "containers": [
            {
                "name": "main",
                "image": "none",
                "resources": {"limits": {GPU_RESOURCE: str(gpus)}},
            }
        ],
    }
    await sandbox.create(
        sandbox.path("jobs", group="batch/v1"),
        {"metadata": {"name": name}, "spec": {"backoffLimit": 9, "template": {"spec": pod}}},
    )


async def running_on(sandbox: Sandbox, *, but: str = "") -> str:
    """The node on which the sandbox's one pod that is not going runs, once it is none of this name."""
    async with asyncio.timeout(60):
        while True:
            _, listed = await sandbox.plane.request("GET", sandbox.path("pods"))
            nodes = [
                each["spec"].get("nodeName", "")
                for each in listed["items"]
                if each.get("status", {}).get("phase") == "Running"
                and not each["metadata"].get("deletionTimestamp")
            ]
            if len(nodes) == 1 and nodes[0] != but:
                return str(nodes[0])
            await asyncio.sleep(0.05)


async def test_a_bad_gpu_is_drained_reset_proven_and_its_node_given_back(
    ward: Ward, sandbox: Sandbox
) -> None:
    rig = ward.rig
    await ward.start()
    nodes = list(await asyncio.gather(*(ward.add_node(stem) for stem in ("a", "b"))))
    await rig.reporting(nodes)
    await job(sandbox, "train", gpus=8)
    name = await running_on(sandbox)
    bad = next(each for each in nodes if each.name == name)

    bad.kernel_says(f"NVRM: Xid (PCI:{bad.bus(GPU)}): 95, pid=1, Uncontained ECC error")
    assert await running_on(sandbox, but=bad.name) in {each.name for each in nodes}
    repairing = await ward.incident(bad, "repairing")
    assert [each["outcome"] for each in repairing["status"]["attempts"]] == ["done", "started"]
    told = await ward.explained(bad)
    assert "xid-95" in told
    assert "reset-device" in told
    assert f"fleetmedic hold {bad.name}" in told

    async with asyncio.timeout(20):
        while not ward.resets():
            await asyncio.sleep(0.02)
    bad.nvml.update(GPU, energy_millijoules=Rising(50, 100))
    ward.go.touch()

    closed = await ward.incident(bad, "closed")
    attempts = closed["status"]["attempts"]
    assert [(each["rung"], each["outcome"]) for each in attempts] == [
        ("drain-device", "done"),
        ("reset-device", "done"),
        ("diagnose", "done"),
    ]
    assert "burn-in passed on gpu:" in attempts[-1]["text"]
    assert ward.resets() == [str(bad.nvml.gpus[GPU].pci_bus_id).lower()[4:]]
    _, node = await rig.plane.request("GET", f"/api/v1/nodes/{bad.name}")
    assert all(each["key"] != TAINT_KEY for each in node["spec"].get("taints", ()))
    assert not node["spec"].get("unschedulable")
    assert not [key for key in node["metadata"].get("annotations", {}) if "fleetmedic" in key]
    story = " | ".join(each["text"] for each in closed["status"]["timeline"])
    for part in ("first seen", "quarantined for xid-95", "reset-device: done", "probation"):
        assert part in story
