"""The API server dies in the middle of a drain: what follows is what would have followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.ward import SERVING, attempts

if TYPE_CHECKING:
    from tests.e2e.ward import Ward

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


async def test_an_api_server_killed_in_the_middle_of_a_drain_costs_nobody_but_those_who_had_to_go(
    ward: Ward,
) -> None:
    await ward.start()
    bad = await ward.add_node("a")
    await ward.rig.reporting([bad])
    elsewhere = await ward.sandbox.node("b")
    await ward.pod("clerk", bad.name, gpus=0)
    await ward.pod("neighbour", elsewhere)
    await ward.serving(bad, needs=1)

    ward.breaks(bad)
    await ward.held_up()
    half = await ward.incident(bad, lambda now: now.get("drain", {}).get("podsGone") == 1)
    assert half["status"]["phase"] == "draining"
    await ward.plane.kill_apiserver()
    await ward.proxy.until(lambda: ward.proxy.requests[-1].fault == "server away")
    await ward.plane.start_apiserver()
    assert ward.rig.aggregator is not None
    await ward.rig.aggregator.ready(ward.rig._is_ready, timeout_s=60)
    assert len(await ward.pods() & set(SERVING)) == 1, "the budget still holds"

    await ward.loosen("serve")
    await ward.gone(*SERVING)
    await ward.mend(bad)
    closed = await ward.closed(bad)
    assert closed["metadata"]["uid"] == half["metadata"]["uid"]
    assert attempts(closed) == [
        ("drain-device", "done"),
        ("reset-device", "done"),
        ("diagnose", "done"),
    ]
    assert ward.evictions() == dict.fromkeys(SERVING, 1)
    assert len(ward.resets()) == 1
    assert await ward.pods() == {"clerk", "neighbour"}
