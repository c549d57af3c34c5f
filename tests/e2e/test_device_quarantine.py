"""One bad GPU costs its node only that GPU: the aggregator itself, an agent over NVML, a real scheduler, shipped rights."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from aggregator.policy.devices.hami import CORDON, REGISTER
from aggregator.policy.devices.signature import SIGNATURE
from contract.vocabulary import TAINT_KEY
from tests.controlplane.dra import RULES, DraNode, gpu
from tests.controlplane.sandbox import Sandbox
from tests.e2e.rig import Rig, grant
from tests.e2e.test_fault_to_release import GPU, comes_back, event_about, falls_off_the_bus
from tests.nvml.standin import h100_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.e2e.rig import Node

pytestmark = pytest.mark.cluster

QUICK = {"device_look_seconds": "0.3", "device_settle_seconds": "0.6"}
GPUS = h100_node(8)
BAD, GOOD = str(GPUS[GPU].uuid), str(GPUS[GPU + 1].uuid)
HELD = "fleetmedic_aggregator_devices_quarantined"


@asynccontextmanager
async def working(
    plane: ControlPlane, sandbox: Sandbox, folder: Path, back_end: str
) -> AsyncIterator[Rig]:
    """An aggregator that takes out single devices by this back-end."""
    async with Rig(sandbox, folder) as rig:
        if back_end == "dra":  # HAMi's list is on the Node, which it may write anyway
            await grant(plane, "device_quarantine")
        await rig.start_aggregator(device_quarantine=back_end, **QUICK)
        yield rig


def effect(node: Json) -> str | None:
    taints = node.get("spec", {}).get("taints", ())
    return next((each["effect"] for each in taints if each["key"] == TAINT_KEY), None)


async def relaxed(rig: Rig, node: Node) -> Json:
    """The node, once only its bad GPU takes no pods."""
    path = f"/api/v1/nodes/{node.name}"
    return await rig.plane.until(path, lambda seen: effect(seen) == "PreferNoSchedule")


async def given_back(rig: Rig, node: Node) -> Json:
    """The node, once nothing of ours is signed on it."""
    return await rig.plane.until(
        f"/api/v1/nodes/{node.name}",
        lambda seen: seen and SIGNATURE not in seen["metadata"].get("annotations", {}),
    )


async def is_told(rig: Rig, node: Node, words: str) -> None:
    """People see it: as an Event, in the explanation with its story, on the page, and as a number."""
    device = f"gpu:{node.bus(GPU)}.0"
    event = await event_about(rig, node, "DeviceQuarantined")
    assert f"{device} is kept from new pods by itself" in event["message"]
    assert words in event["message"]
    text = (await rig.get(f"/api/v1/nodes/{node.name}/explain"))["text"]
    assert "has only its bad devices quarantined" in text
    assert f"Quarantine of {device} by itself:" in text
    assert words in text
    assert f"only {device} is kept from them now" in text
    shown = await rig.get(f"/api/v1/nodes/{node.name}")
    assert words in shown["device_quarantines"][device]
    decided = await rig.get("/api/v1/decisions")
    assert any(event["message"] == each["text"] for each in decided["decisions"])
    await rig.counted(HELD)


async def test_dra_places_pods_on_the_other_gpus_of_a_node_with_a_bad_one(
    dra_plane: ControlPlane, tmp_path: Path
) -> None:
    async with Sandbox(dra_plane) as sandbox, working(dra_plane, sandbox, tmp_path, "dra") as rig:
        driver = DraNode(dra_plane, sandbox, await sandbox.node(gpus=0, kwok=False))
        await driver.make_class()
        await driver.publish(
            [
                gpu(f"gpu-{number}", str(each.uuid), str(each.pci_bus_id).lower()[4:])
                for number, each in enumerate(GPUS)
            ]
        )
        node = await rig.machine_of(driver.node)
        await rig.reporting([node])

        await falls_off_the_bus(rig, node)
        await relaxed(rig, node)
        (rule,) = await driver.rules()
        assert rule["spec"]["taint"]["effect"] == "NoSchedule"
        assert rule["spec"]["deviceSelector"]["device"] == f"gpu-{GPU}"
        await is_told(rig, node, f"taints {driver.driver}/{node.name}/gpu-{GPU}")

        assert await driver.device_of_a_new_pod("well", uuid=GOOD) == f"gpu-{GPU + 1}"
        assert await driver.device_of_a_new_pod("sick", uuid=BAD) is None

        await comes_back(rig, node)
        await rig.plane.until(f"{RULES}/{rule['metadata']['name']}", lambda one: not one)
        await given_back(rig, node)
        await event_about(rig, node, "DeviceReleased")
        await rig.plane.until(
            sandbox.path("pods", "sick"), lambda pod: pod.get("spec", {}).get("nodeName")
        )


async def test_hami_is_told_of_the_bad_gpu_and_the_cordon_of_a_person_stays(
    kwok: ControlPlane, sandbox: Sandbox, tmp_path: Path
) -> None:
    registered = json.dumps([{"id": str(each.uuid), "count": 10} for each in GPUS])
    theirs = {REGISTER: registered, CORDON: str(GPUS[0].uuid)}
    async with working(kwok, sandbox, tmp_path, "hami") as rig:
        node = await rig.machine_of(await sandbox.node(annotations=theirs))
        await rig.reporting([node])

        await falls_off_the_bus(rig, node)
        seen = await relaxed(rig, node)
        assert seen["metadata"]["annotations"][CORDON] == f"{GPUS[0].uuid},{BAD}"
        await is_told(rig, node, "hami: no new pods by HAMi")

        await comes_back(rig, node)
        after = await given_back(rig, node)
        assert after["metadata"]["annotations"][CORDON] == str(GPUS[0].uuid)
        await event_about(rig, node, "DeviceReleased")
