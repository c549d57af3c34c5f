"""People stop us in the middle of a drain: by uncordoning the node, and by the kill switch. It holds at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from contract.vocabulary import CONTROL_CONFIG_MAP, TAINT_KEY
from tests.e2e.shift import LEASE
from tests.e2e.ward import SERVING, UNTIL_S

if TYPE_CHECKING:
    from tests.controlplane.api import Json
    from tests.controlplane.faults import Seen
    from tests.e2e.rig import Node
    from tests.e2e.ward import Ward

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

WHOLE_NODE = """
bounds: {}
by_action:
  reset-device: [taint, drain, reset-device, replace]
by_code:
  xid-79: [taint]
"""
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
CONTROL = "/api/v1/namespaces/fleetmedic/configmaps"
ENOUGH_RENEWALS = 6


async def half_drained(ward: Ward) -> Node:
    """A node of whose two pods one is gone, and a budget holds the other."""
    await ward.start(ladder_file=ward.file("ladder.yaml", WHOLE_NODE))
    bad = await ward.add_node("a")
    await ward.rig.reporting([bad])
    await ward.serving(bad, needs=1)
    ward.breaks(bad)
    await ward.held_up()
    await ward.incident(bad, lambda now: now.get("drain", {}).get("podsGone") == 1)
    return bad


async def test_whoever_uncordons_the_node_stops_its_drain_and_is_not_overruled(ward: Ward) -> None:
    bad = await half_drained(ward)
    path = f"/api/v1/nodes/{bad.name}"
    _, during = await ward.plane.request("GET", path)
    assert during["spec"]["unschedulable"]
    await ward.plane.kubectl("uncordon", bad.name)
    closed = await ward.closed(bad)
    assert "a person uncordoned the node" in closed["status"]["timeline"][-1]["text"]
    assert closed["status"]["mutedUntilTime"]
    assert closed["status"]["attempts"][-1]["outcome"] == "cancelled"

    # Another fault, for which nothing is moved, shows that the first one is still raised and left alone.
    await ward.loosen("serve")
    ward.breaks(bad, xid=79)
    await ward.plane.until(
        path, lambda seen: TAINT_KEY in {each["key"] for each in seen["spec"].get("taints", ())}
    )
    second = await another(ward, bad, closed)
    assert {each["code"] for each in second["status"]["findings"]} == {"xid-79"}
    assert phase(second) == "quarantined"
    _, after = await ward.plane.request("GET", path)
    assert not after["spec"].get("unschedulable")
    assert len(await ward.pods()) == 1
    assert ward.evictions().total() == 1


async def another(ward: Ward, node: Node, first: Json) -> Json:
    """The node's second incident, once it says something."""
    async with asyncio.timeout(UNTIL_S):
        while True:
            for each in await ward.incidents(node):
                if each["metadata"]["uid"] != first["metadata"]["uid"] and phase(each):
                    return each
            await asyncio.sleep(0.05)


def phase(incident: Json) -> str:
    found: str = incident.get("status", {}).get("phase", "")
    return found


def writes(seen: list[Seen]) -> list[Seen]:
    """What changes the cluster, of these requests; the Lease and the reviews of agents' tokens do not."""
    return [
        each
        for each in seen
        if each.method not in ("GET", "HEAD") and each.path not in (LEASE, REVIEWS)
    ]


async def test_the_kill_switch_stops_every_write_within_a_second_and_its_end_goes_on(
    ward: Ward,
) -> None:
    bad = await half_drained(ward)
    proxy = ward.proxy
    stop: Json = {"metadata": {"name": CONTROL_CONFIG_MAP}, "data": {"stop": "work in row 7"}}
    await ward.sandbox.create(CONTROL, stop)
    await asyncio.sleep(1.0)  # the promise itself, not a wait for something
    since = len(proxy.requests)
    await ward.loosen("serve")
    before = proxy.count("PUT", LEASE, status=200)
    await proxy.until(
        lambda: proxy.count("PUT", LEASE, status=200) >= before + ENOUGH_RENEWALS,
        timeout_s=UNTIL_S,
    )
    assert writes(proxy.requests[since:]) == []
    assert len(await ward.pods()) == 1, "it may go now, but nobody makes it"
    (incident,) = await ward.incidents(bad)
    assert phase(incident) == "draining"
    assert "work in row 7" in await ward.explained(bad)

    answer, _ = await ward.plane.request("DELETE", f"{CONTROL}/{CONTROL_CONFIG_MAP}")
    assert answer == 200
    await ward.gone(*SERVING)
    await ward.mend(bad)
    closed = await ward.closed(bad)
    assert closed["metadata"]["uid"] == incident["metadata"]["uid"]
    assert ward.evictions() == dict.fromkeys(SERVING, 1)
    assert len(ward.resets()) == 1
