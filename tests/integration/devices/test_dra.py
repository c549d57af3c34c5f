"""DeviceTaintRules on real API server, controller manager and scheduler: what pods get, what people keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from aggregator.policy.devices.dra_objects import EFFECT
from aggregator.policy.devices.signature import SIGNATURE
from tests.controlplane.dra import RULES, DraNode, gpu
from tests.controlplane.proxy import FaultProxy
from tests.controlplane.sandbox import Sandbox
from tests.integration.devices.rig import BAD, Desk, person

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.controlplane.cluster import ControlPlane

pytestmark = pytest.mark.cluster

DEVICES = [gpu("gpu-0", "GPU-3b", "0000:3b:00.0"), gpu("gpu-1", "GPU-86", "0000:86:00.0")]


class Dra(DraNode):
    """A node whose two GPUs are handed out by dynamic resource allocation, and its desk."""

    def __init__(self, plane: ControlPlane, sandbox: Sandbox, proxy: FaultProxy, node: str) -> None:
        super().__init__(plane, sandbox, node)
        self.of = Desk(proxy, node, "dra")

    async def told(self) -> None:
        """Wait until the controller manager said what our rule would hit."""
        (rule,) = await self.rules()
        path = f"{RULES}/{rule['metadata']['name']}"
        await self.plane.until(path, lambda one: one.get("status", {}).get("conditions"))

    async def quarantine(self) -> None:
        """All steps: make it, be told, sign it, raise it, see it."""
        await self.of.look()
        await self.told()
        await self.of.looks(3)


@pytest.fixture
async def dra(dra_plane: ControlPlane) -> AsyncIterator[Dra]:
    async with Sandbox(dra_plane) as sandbox, FaultProxy(dra_plane) as proxy:
        node = await sandbox.node(gpus=0, kwok=False)
        one = Dra(dra_plane, sandbox, proxy, node)
        await one.make_class()
        await one.publish(DEVICES)
        yield one
        one.of.recover()
        one.of.allowed = True
        await one.of.looks(4)
        await one.of.api.close()


async def test_a_pod_gets_the_other_gpu_and_after_the_recovery_this_one(dra: Dra) -> None:
    await dra.quarantine()
    assert dra.of.kept == {BAD}
    assert await dra.device_of_a_new_pod("first") == "gpu-1"
    assert await dra.device_of_a_new_pod("second") is None
    dra.of.recover()
    await dra.of.looks(3)
    assert not await dra.rules()
    assert SIGNATURE not in await dra.of.annotations()
    await dra.plane.until(
        dra.sandbox.path("pods", "second"), lambda pod: pod.get("spec", {}).get("nodeName")
    )


async def test_a_rule_has_no_effect_before_the_server_told_what_it_would_hit(dra: Dra) -> None:
    await dra.of.look()
    (rule,) = await dra.rules()
    assert rule["spec"]["taint"]["effect"] == "None"
    assert rule["spec"]["deviceSelector"] == {
        "driver": dra.driver,
        "pool": dra.node,
        "device": "gpu-0",
    }
    await dra.told()
    await dra.of.look()
    assert "1 published device selected" in dra.of.word
    (rule,) = await dra.rules()
    assert rule["spec"]["taint"]["effect"] == "None"
    assert SIGNATURE in await dra.of.annotations()
    assert not dra.of.kept
    await dra.of.look()
    (rule,) = await dra.rules()
    assert (
        rule["spec"]["taint"]["effect"] == rule["metadata"]["annotations"][EFFECT] == "NoSchedule"
    )


async def test_what_a_person_deletes_is_not_put_back_until_the_next_incident(dra: Dra) -> None:
    await dra.quarantine()
    (rule,) = await dra.rules()
    await person(dra.plane, "DELETE", f"{RULES}/{rule['metadata']['name']}")
    await dra.of.looks(2)
    assert not await dra.rules()
    assert not dra.of.kept
    assert "a person deleted" in dra.of.word
    dra.of.recover()
    await dra.of.looks(2)
    assert SIGNATURE not in await dra.of.annotations()


async def test_other_hardware_under_the_same_name_is_let_go(dra: Dra) -> None:
    """The GPUs changed places: names are given anew, the sick one is gpu-1 now."""
    await dra.quarantine()
    swapped = [
        gpu("gpu-0", "GPU-86", "0000:86:00.0"),
        gpu("gpu-1", "GPU-3b", "0000:3b:00.0"),
    ]
    await dra.publish(swapped, generation=2)
    await dra.of.looks(2)  # signature, then rule
    assert not dra.of.kept
    assert not await dra.rules()
    await dra.quarantine()
    assert dra.of.kept == {BAD}
    assert await dra.device_of_a_new_pod("first") == "gpu-0"


async def test_a_rule_that_names_no_node_makes_us_blind_for_no_other(dra: Dra) -> None:
    await dra.quarantine()
    (ours,) = await dra.rules()
    notes = {**ours["metadata"]["annotations"], "fleetmedic.io/node": "a b,spec.driver==x"}
    metadata = {
        "name": dra.sandbox.name("odd"),
        "annotations": notes,
        "labels": ours["metadata"]["labels"],
    }
    odd = {**ours, "metadata": metadata, "status": None}
    await dra.sandbox.create(RULES, odd)
    await dra.of.looks(2)
    assert dra.of.kept == {BAD}
    assert dra.of.desk.errors_total == 0
    assert len(await dra.rules()) == 1, "nobody wants it, so it is taken back"


async def test_another_leader_goes_on_from_any_step(dra: Dra) -> None:
    for _ in range(4):
        dra.of.desk = dra.of.new("dra")
        await dra.of.look()
        await dra.told()
    assert dra.of.kept == {BAD}
    assert len(await dra.rules()) == 1
    dra.of.recover()
    for _ in range(3):
        dra.of.desk = dra.of.new("off")
        await dra.of.look()
    assert not await dra.rules()
    assert SIGNATURE not in await dra.of.annotations()


async def test_a_dry_run_is_judged_by_the_server_and_leaves_nothing(dra: Dra) -> None:
    dra.of.desk = dra.of.new("dra", dry_run=True)
    await dra.of.looks(2)
    assert dra.of.writes() == sum(dra.of.desk.writes_total.values()) == 2
    assert not await dra.rules()
    assert not dra.of.kept


async def test_in_auto_a_beta_api_does_not_relax_the_node(dra: Dra) -> None:
    """Whether the scheduler's own feature gate is on cannot be seen from outside."""
    dra.of.desk = dra.of.new("auto")
    await dra.quarantine()
    (rule,) = await dra.rules()
    assert rule["spec"]["taint"]["effect"] == "NoSchedule"
    assert not dra.of.kept


async def test_who_does_not_lead_reads_and_writes_nothing(dra: Dra) -> None:
    dra.of.allowed = False
    before = len(dra.of.proxy.requests)
    assert not await dra.of.look()
    assert len(dra.of.proxy.requests) == before
    assert dra.of.desk.in_force is None


async def test_a_rule_that_somebody_made_theirs_is_told_and_not_fought_over(dra: Dra) -> None:
    await dra.of.look()
    (rule,) = await dra.rules()
    path = f"{RULES}/{rule['metadata']['name']}"
    stripped = {"metadata": {"annotations": dict.fromkeys(rule["metadata"]["annotations"])}}
    await person(dra.plane, "PATCH", path, stripped)
    before = dra.of.proxy.count("POST")
    await dra.of.looks(2)
    assert rule["metadata"]["name"] in dra.of.word
    assert "delete it" in dra.of.word
    assert dra.of.desk.errors_total == 1
    await dra.of.looks(3)
    assert dra.of.proxy.count("POST") == before + 1, "it waits ten minutes, not five seconds"
    assert not dra.of.kept
    await person(dra.plane, "DELETE", path)
    dra.of.now += 600.0
    await dra.quarantine()
    assert dra.of.kept == {BAD}
