"""A dry run of everything: the whole ladder is told, and nothing in the cluster is another one than before."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.e2e.ward import INCIDENTS, SERVING, UNTIL_S

if TYPE_CHECKING:
    from tests.e2e.rig import Node
    from tests.e2e.ward import Ward

REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


async def versions(ward: Ward) -> dict[str, str]:
    """Path → resourceVersion of what is ours to change: the sandbox's nodes and pods, and all incidents."""
    nodes = f"/api/v1/nodes?labelSelector=fleetmedic.test/sandbox={ward.sandbox.namespace}"
    found = {}
    for collection in (nodes, ward.sandbox.path("pods"), INCIDENTS):
        _, listed = await ward.plane.request("GET", collection)
        for each in listed["items"]:
            name = f"{collection}/{each['metadata']['name']}"
            found[name] = f"{each['metadata']['uid']} {each['metadata']['resourceVersion']}"
    return found


async def test_a_dry_run_tells_the_whole_ladder_and_changes_nothing(ward: Ward) -> None:
    await ward.start(dry_run="true")
    bad = await ward.add_node("a")
    await ward.serving(bad, needs=0)
    await ward.rig.counted("fleetmedic_aggregator_reports_total")
    before = await versions(ward)
    assert len(before) >= 3

    ward.breaks(bad)
    kinds = await decided(ward, bad, "needs-human")
    assert kinds[0] == "set-taint"
    assert {"cordon", "save-incident", "record-event"} <= set(kinds)
    told = await ward.explained(bad)
    for part in (
        "dry-run mode: it decides and writes nothing",
        "drain-device of gpu:0000:61:00.0: done",
        "2 of 2 pods gone",
        "reset-device of gpu:0000:61:00.0: refused, nothing was done",
        "drain: done",
        "repair or replace: xid-95",
    ):
        assert part in told
    plan = await ward.rig.get(f"/api/v1/nodes/{bad.name}/plan")
    verdicts = {each["name"]: each["verdict"] for each in plan["pods"]}
    assert (verdicts["serve-0"], verdicts["serve-1"]) == ("evict", "evict")
    assert ward.evictions().keys() == set(SERVING), "the server was asked what it would say"

    assert await versions(ward) == before
    assert not ward.resets()
    written = [
        each for each in ward.proxy.requests if each.method != "GET" and each.path != REVIEWS
    ]
    assert [each for each in written if "dryRun=All" not in each.query] == []


async def decided(ward: Ward, node: Node, last: str) -> list[str]:
    """The kinds of all decisions about a node since its fault, oldest first, once this phase is among them."""
    async with asyncio.timeout(UNTIL_S):
        while True:
            answer = await ward.rig.get("/api/v1/decisions?limit=1000")
            mine = [each for each in reversed(answer["decisions"]) if each["node"] == node.name]
            if any(each["text"].startswith(last) for each in mine):
                return [each["kind"] for each in mine if each["kind"] != "set-condition"]
            await asyncio.sleep(0.05)
