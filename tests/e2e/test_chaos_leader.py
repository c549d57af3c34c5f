"""Leaders die, and fight for the Lease, in the middle of the work: it is done once, and to the end."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from contract.vocabulary import TAINT_KEY
from tests.e2e.door import status
from tests.e2e.shift import LEASE
from tests.e2e.ward import SERVING, attempts

if TYPE_CHECKING:
    from tests.controlplane.api import Json
    from tests.e2e.rig import Node
    from tests.e2e.shift import Shift

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SEED = 2
ONE_OF_EACH = [("drain-device", "done"), ("reset-device", "done"), ("diagnose", "done")]
THEIRS = "example.invalid/theirs"
THEIRS_TOO = "example.invalid/later"


async def serving(shift: Shift) -> Node:
    """A node with two pods, of which a budget lets go only one."""
    ward = shift.ward
    await shift.start()
    bad = await shift.add_node("a")
    await ward.rig.reporting([bad])
    await ward.serving(bad, needs=1)
    return bad


async def test_a_leader_killed_in_the_middle_of_a_drain_leaves_it_to_the_standby(
    shift: Shift,
) -> None:
    ward, bad = shift.ward, await serving(shift)
    ward.breaks(bad)
    await ward.held_up()
    half = await ward.incident(bad, lambda now: now.get("drain", {}).get("podsGone") == 1)
    await shift.kill_leader()
    assert len(await ward.pods()) == 1

    await ward.loosen("serve")
    await ward.gone(*SERVING)
    await ward.mend(bad)
    closed = await ward.closed(bad)
    assert closed["metadata"]["uid"] == half["metadata"]["uid"]
    assert attempts(closed) == ONE_OF_EACH
    assert ward.evictions() == dict.fromkeys(SERVING, 1)
    assert len(ward.resets()) == 1


async def test_a_leader_killed_in_the_middle_of_a_repair_has_it_run_once(shift: Shift) -> None:
    ward = shift.ward
    await shift.start()
    bad = await shift.add_node("a")
    await ward.rig.reporting([bad])
    ward.breaks(bad)
    await ward.resetting()
    await ward.incident(bad, "repairing")
    await shift.kill_leader()
    _, during = await ward.plane.request("GET", f"/api/v1/nodes/{bad.name}")
    assert TAINT_KEY in keys(during)

    await ward.mend(bad)
    closed = await ward.closed(bad)
    assert attempts(closed) == ONE_OF_EACH
    assert len(ward.resets()) == 1


async def test_two_aggregators_that_fight_through_a_storm_come_to_the_same_end(
    shift: Shift,
) -> None:
    ward, bad = shift.ward, await serving(shift)
    await somebody_taints(shift, bad, THEIRS)
    before = await transitions(shift)
    for number, proxy in enumerate(shift.proxies):
        proxy.storm(Random(SEED + number), share=0.25)

    ward.breaks(bad)
    half = await ward.incident(bad, lambda now: now.get("drain", {}).get("podsGone") == 1)
    await shift.contest()
    await ward.loosen("serve")
    await ward.gone(*SERVING)
    await somebody_taints(shift, bad, THEIRS_TOO)
    await shift.contest()
    await ward.resetting()
    await shift.contest()
    await ward.mend(bad)
    closed = await ward.closed(bad)

    assert closed["metadata"]["uid"] == half["metadata"]["uid"]
    assert attempts(closed) == ONE_OF_EACH
    assert len(ward.resets()) == 1
    assert all(times == 1 for times in ward.evictions().values())
    _, node = await ward.plane.request("GET", f"/api/v1/nodes/{bad.name}")
    assert keys(node) == {THEIRS, THEIRS_TOO}
    seen = {each.fault for proxy in shift.proxies for each in proxy.requests}
    assert {"409", "410", "429", "500", "503", "cut before", "cut after"} <= seen
    assert await transitions(shift) >= before + 3
    assert [await status(each, "/healthz") for each in shift.rigs] == [200, 200]


async def somebody_taints(shift: Shift, node: Node, key: str) -> None:
    await shift.ward.plane.kubectl("taint", "node", node.name, f"{key}=x:NoSchedule")


async def transitions(shift: Shift) -> int:
    """How often the Lease went to another holder, ever."""
    _, lease = await shift.ward.plane.request("GET", LEASE)
    count: int = lease["spec"].get("leaseTransitions", 0)
    return count


def keys(node: Json) -> set[str]:
    return {each["key"] for each in node["spec"].get("taints", ())}
