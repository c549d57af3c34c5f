"""A fault on the real control plane, treated to the end: taint, drain, repair, proof, release, and the story of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.manifests import GPU as GPU_RESOURCE
from tests.controlplane.sandbox import LABEL
from tests.e2e.ward import GPU, attempts, story

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.controlplane.sandbox import Sandbox
    from tests.e2e.ward import Ward

pytestmark = pytest.mark.cluster


@pytest.fixture
async def scheduled(ward: Ward) -> AsyncIterator[Ward]:
    """The ward, with the scheduler as it is shipped."""
    async with ward.plane.scheduler_with(ward.rig.scheduler_config()):
        yield ward


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
    scheduled: Ward, sandbox: Sandbox
) -> None:
    ward, rig = scheduled, scheduled.rig
    await ward.start()
    nodes = list(await asyncio.gather(*(ward.add_node(stem) for stem in ("a", "b"))))
    await rig.reporting(nodes)
    await job(sandbox, "train", gpus=8)
    name = await running_on(sandbox)
    bad = next(each for each in nodes if each.name == name)

    ward.breaks(bad)
    assert await running_on(sandbox, but=bad.name) in {each.name for each in nodes}
    repairing = await ward.incident(bad, "repairing")
    assert [each["outcome"] for each in repairing["status"]["attempts"]] == ["done", "started"]
    told = await ward.explained(bad)
    assert "xid-95" in told
    assert "reset-device" in told
    assert f"fleetmedic hold {bad.name}" in told

    await ward.mend(bad)
    closed = await ward.closed(bad)
    assert attempts(closed) == [
        ("drain-device", "done"),
        ("reset-device", "done"),
        ("diagnose", "done"),
    ]
    assert "burn-in passed on gpu:" in closed["status"]["attempts"][-1]["text"]
    assert ward.resets() == [str(bad.nvml.gpus[GPU].pci_bus_id).lower()[4:]]
    for part in ("first seen", "quarantined for xid-95", "reset-device: done", "probation"):
        assert part in story(closed)
