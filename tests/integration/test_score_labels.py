"""Scores on Node objects of the real API server: what is written, what is left alone, and that it can be stopped."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import structlog

from contract.vocabulary import SCORE_BAND_LABEL, UNMANAGED_LABEL
from tests.controlplane.api import MERGE
from tests.controlplane.proxy import FaultProxy
from tests.score_feed import AT_ONCE, carried, feeding, healthy, sick, unknown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.controlplane.api import Json
    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox
    from tests.score_feed import Feed, Keys

pytestmark = pytest.mark.cluster


class Corner:
    """Three GPU nodes of one sandbox, a feed that sees them, and the proxy that it writes through."""

    def __init__(self, proxy: FaultProxy, feed: Feed, plane: ControlPlane, names: list[str]):
        self.proxy = proxy
        self.feed = feed
        self.plane = plane
        self.names = names

    async def node(self, name: str) -> Json:
        status, node = await self.plane.request("GET", f"/api/v1/nodes/{name}")
        assert status == 200, node
        return node

    async def keys(self) -> list[Keys]:
        return [carried(await self.node(name)) for name in self.names]

    async def change(self, name: str, metadata: Json) -> None:
        body = {"metadata": metadata}
        assert (await self.plane.request("PATCH", f"/api/v1/nodes/{name}", body, MERGE))[0] == 200

    def patches(self) -> int:
        return self.proxy.count("PATCH", r"/api/v1/nodes/.*")


@pytest.fixture
async def corner(control_plane: ControlPlane, sandbox: Sandbox) -> AsyncIterator[Corner]:
    names = [await sandbox.node(stem, kwok=False) for stem in ("a", "b", "c")]
    async with (
        FaultProxy(control_plane) as proxy,
        feeding(proxy.kubeconfig, sandbox.namespace, **AT_ONCE) as feed,
    ):
        await feed.until(lambda: feed.nodes.entries.keys() == set(names))
        yield Corner(proxy, feed, control_plane, names)


async def test_label_and_annotation_come_in_one_request_and_nothing_else_changes(
    corner: Corner,
) -> None:
    a, b, c = corner.names
    await corner.change(a, {"labels": {"team": "x"}, "annotations": {"note": "mine"}})
    before = await corner.node(a)
    assert not await corner.feed.labels.step({a: healthy(730), b: sick(), c: unknown()})
    assert await corner.keys() == [("7", "725"), ("0", "0"), ("5", "500")]
    assert corner.patches() == corner.feed.labels.writes_total == 3
    after = await corner.node(a)
    assert after["spec"] == before["spec"]
    assert after["metadata"]["labels"] == before["metadata"]["labels"] | {SCORE_BAND_LABEL: "7"}
    assert after["metadata"]["annotations"]["note"] == "mine"
    assert await corner.feed.labels.step({a: healthy(735), b: sick(), c: unknown()})
    assert corner.patches() == 3, "our own writes are known at once"


async def test_a_node_that_others_change_meanwhile_costs_no_second_request(corner: Corner) -> None:
    scores = dict.fromkeys(corner.names, healthy(600))
    for turn in range(3):
        await corner.change(corner.names[0], {"annotations": {"note": f"{turn}"}})
        scores[corner.names[0]] = healthy(600 + 100 * turn)
        await corner.feed.labels.step(scores)
    assert corner.proxy.count("PATCH", status=409) == 0
    assert corner.patches() == 5
    assert (await corner.keys())[0] == ("8", "800")


async def test_a_dry_run_is_judged_by_the_server_writes_nothing_and_comes_to_rest(
    corner: Corner,
) -> None:
    dry = corner.feed.new(dry_run=True, **AT_ONCE)
    scores = dict.fromkeys(corner.names, healthy(600))
    assert not await dry.step(scores)
    assert await dry.step(scores)
    assert await corner.keys() == [("", "")] * 3
    assert corner.patches() == dry.writes_total == 3
    assert all(
        "dryRun=All" in each.query for each in corner.proxy.requests if each.method == "PATCH"
    )


async def test_the_kill_switch_stops_it_between_two_nodes(corner: Corner) -> None:
    labels = corner.feed.new(**AT_ONCE)
    corner.feed.writes_left = 1
    scores = dict.fromkeys(corner.names, healthy(600))
    assert not await labels.step(scores)
    assert sorted(await corner.keys()) == [("", ""), ("", ""), ("6", "600")]
    assert not await labels.step(scores)
    assert corner.patches() == 1


async def test_of_two_aggregators_only_the_leader_writes_and_the_next_one_goes_on_from_there(
    corner: Corner,
) -> None:
    first, second = corner.feed.labels, corner.feed.new(**AT_ONCE)
    scores = dict.fromkeys(corner.names, healthy(900))
    await first.step(scores)
    corner.feed.refusal = "not the leader"
    assert not await first.step(dict.fromkeys(corner.names, sick()))
    assert corner.patches() == 3
    corner.feed.refusal = ""
    # Nobody has reported to it yet: what the nodes carry stays, for the time being.
    await second.step({})
    await second.step(dict.fromkeys(corner.names, unknown()))
    assert await corner.keys() == [("9", "900")] * 3
    corner.feed.now += 121
    await second.step(dict.fromkeys(corner.names, unknown()))
    assert await corner.keys() == [("5", "500")] * 3


async def test_switched_off_it_takes_everything_of_ours_off_and_is_done(corner: Corner) -> None:
    await corner.feed.labels.step(dict.fromkeys(corner.names, healthy(600)))
    await corner.change(corner.names[2], {"labels": {UNMANAGED_LABEL: "false"}})
    await corner.feed.until(
        lambda: not corner.feed.nodes.entries[corner.names[2]].value.node.managed
    )
    off = corner.feed.new(enabled=False, **AT_ONCE)
    async with asyncio.timeout(30):
        await off.run(dict)
    assert await corner.keys() == [("", ""), ("", ""), ("6", "600")], "opted out is left alone"
    assert off.writes_total == 2


async def test_switched_off_from_the_start_it_writes_nothing_at_all(corner: Corner) -> None:
    off = corner.feed.new(enabled=False)
    await off.run(dict)
    assert corner.patches() == 0


async def test_one_node_that_is_refused_does_not_hold_up_the_others(corner: Corner) -> None:
    labels = corner.feed.new(pause_seconds=60)
    bad = corner.names[0]
    corner.proxy.fail(status=403, method="PATCH", path=f"/api/v1/nodes/{bad}")
    scores = dict.fromkeys(corner.names, healthy(600))
    await labels.step(scores)
    assert await corner.keys() == [("", ""), ("6", "600"), ("6", "600")]
    await labels.step(scores)
    assert (labels.writes_total, labels.errors_total) == (2, 1), "it waits out its pause"
    corner.proxy.calm()
    corner.feed.now += 61
    await labels.step(scores)
    assert (await corner.keys())[0] == ("6", "600")


async def test_what_is_refused_on_every_node_is_told_once(corner: Corner) -> None:
    corner.proxy.fail(status=403, method="PATCH")
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await corner.feed.labels.step(dict.fromkeys(corner.names, healthy(600)))
        assert corner.feed.labels.errors_total == 9
        told = [each for each in logs if each["log_level"] == "warning" and "remedy" in each]
        assert len(told) == 1
        corner.feed.now += 601
        await corner.feed.labels.step(dict.fromkeys(corner.names, healthy(600)))
    assert len([each for each in logs if "remedy" in each]) == 2


async def test_a_sick_node_that_the_kill_switch_kept_from_us_is_written_at_once_afterwards(
    corner: Corner,
) -> None:
    labels = corner.feed.new(pause_seconds=60)
    scores = dict.fromkeys(corner.names, healthy(600))
    await labels.step(scores)
    corner.feed.now += 61
    corner.feed.writes_left = 0
    scores[corner.names[0]] = sick()
    assert not await labels.step(scores)
    corner.feed.refusal, corner.feed.writes_left = "", None
    await labels.step(scores)
    assert (await corner.keys())[0] == ("0", "0")


async def test_a_server_in_trouble_is_left_alone_for_as_long_as_it_asks(corner: Corner) -> None:
    scores = dict.fromkeys(corner.names, healthy(600))
    corner.proxy.fail(status=429, method="PATCH", times=1, retry_after_s=7)
    await corner.feed.labels.step(scores)
    await corner.feed.labels.step(scores)
    assert corner.patches() == 1
    corner.feed.now += 8
    await corner.feed.labels.step(scores)
    assert await corner.keys() == [("6", "600")] * 3


async def test_a_node_that_left_meanwhile_is_no_error(corner: Corner) -> None:
    gone = corner.names[0]
    rule = corner.proxy.fail(status=404, method="PATCH", path=f"/api/v1/nodes/{gone}")
    await corner.feed.labels.step(dict.fromkeys(corner.names, healthy(600)))
    assert rule.taken == 1
    assert (corner.feed.labels.writes_total, corner.feed.labels.errors_total) == (2, 0)
