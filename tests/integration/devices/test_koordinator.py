"""Koordinator's real Device definition: health where nobody else writes it, and hands off where koordlet does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aggregator.cluster.devices.koordinator_device import DEVICES
from aggregator.policy.devices.signature import SIGNATURE
from tests.controlplane.crds import SHARED, apply_crds
from tests.controlplane.proxy import FaultProxy
from tests.integration.devices.rig import BAD, Desk, person

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

pytestmark = pytest.mark.cluster

DEFINITION = SHARED / "koordinator" / "scheduling.koordinator.sh_devices.yaml"


def gpu(minor: int, uuid: str, bus: str) -> Json:
    return {
        "type": "gpu",
        "id": uuid,
        "minor": minor,
        "health": True,
        "resources": {"koordinator.sh/gpu-core": "100"},
        "topology": {"socketID": 0, "nodeID": 0, "pcieID": "0", "busID": bus},
    }


def device(node: str) -> Json:
    return {
        "apiVersion": "scheduling.koordinator.sh/v1alpha1",
        "kind": "Device",
        "metadata": {"name": node},
        "spec": {"devices": [gpu(0, "GPU-3b", "0000:3b:00.0"), gpu(1, "GPU-86", "0000:86:00.0")]},
    }


@pytest.fixture
async def koordinator(control_plane: ControlPlane, sandbox: Sandbox) -> AsyncIterator[Desk]:
    """A node with a Device that somebody wrote who is not koordlet."""
    if not DEFINITION.is_file():
        pytest.skip(f"no definitions of other projects: {DEFINITION} is not there")
    await apply_crds(control_plane.api, [DEFINITION])
    node = await sandbox.node(kwok=False)
    await sandbox.create(DEVICES, device(node))
    async with FaultProxy(control_plane) as proxy:
        one = Desk(proxy, node, "koordinator", plugin_devices=8)
        yield one
        await one.api.close()


async def read(desk: Desk) -> Json:
    return await desk.api.get(f"{DEVICES}/{desk.node}")


async def health(desk: Desk) -> dict[str, bool]:
    return {each["id"]: each["health"] for each in (await read(desk))["spec"]["devices"]}


async def test_one_device_is_taken_out_and_comes_back_with_everything_else_as_it_was(
    koordinator: Desk,
) -> None:
    before = (await read(koordinator))["spec"]
    await koordinator.looks(2)
    assert await health(koordinator) == {"GPU-3b": False, "GPU-86": True}
    assert koordinator.kept == {BAD}
    koordinator.recover()
    await koordinator.looks(2)
    after = await read(koordinator)
    assert after["spec"] == before
    assert SIGNATURE not in after["metadata"].get("annotations", {})
    assert koordinator.writes() == 2


async def test_a_device_that_koordlet_writes_is_left_alone(
    koordinator: Desk, control_plane: ControlPlane
) -> None:
    path = f"{DEVICES}/{koordinator.node}?fieldManager=koordlet"
    note = {"metadata": {"labels": {"written": "on-the-node"}}}
    await person(control_plane, "PATCH", path, note)
    await koordinator.looks(2)
    assert koordinator.writes() == 0
    assert not koordinator.kept
    assert "koordlet writes" in koordinator.word


async def test_a_device_that_a_person_set_healthy_stays_so(
    koordinator: Desk, control_plane: ControlPlane
) -> None:
    await koordinator.look()
    back = {"spec": device(koordinator.node)["spec"]}
    await person(control_plane, "PATCH", f"{DEVICES}/{koordinator.node}", back)
    await koordinator.looks(2)
    assert await health(koordinator) == {"GPU-3b": True, "GPU-86": True}
    assert not koordinator.kept
    assert "a person set it healthy" in koordinator.word


async def test_a_device_that_koordlet_took_over_is_no_longer_signed_and_costs_nothing_more(
    koordinator: Desk, control_plane: ControlPlane
) -> None:
    await koordinator.looks(2)
    path = f"{DEVICES}/{koordinator.node}"
    everything = {"spec": device(koordinator.node)["spec"]}  # as koordlet writes it: all of it
    await person(control_plane, "PATCH", f"{path}?fieldManager=koordlet", everything)
    before = koordinator.writes()
    await koordinator.looks(2)
    after = await read(koordinator)
    assert SIGNATURE not in after["metadata"].get("annotations", {})
    assert SIGNATURE not in after["metadata"].get("labels", {})
    assert await health(koordinator) == {"GPU-3b": True, "GPU-86": True}, "its word"
    assert koordinator.writes() == before + 1
    koordinator.recover()
    assert await koordinator.look(), "nothing of ours is left to look after"
