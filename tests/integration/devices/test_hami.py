"""HAMi's list on a real Node: whose entries go and whose stay."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest
import structlog

from aggregator.cluster.nodes import reduce_node
from aggregator.policy.devices.hami import CORDON, REGISTER
from aggregator.policy.devices.signature import SIGNATURE
from aggregator.policy.model import ClusterNode
from tests.controlplane.proxy import FaultProxy
from tests.integration.devices.rig import BAD, Desk, person
from tests.policy_builders import finding, incident

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox

pytestmark = pytest.mark.cluster

REGISTERED = '[{"id":"GPU-3b","count":10,"health":true},{"id":"GPU-86","count":10,"health":true}]'


@pytest.fixture
async def hami(control_plane: ControlPlane, sandbox: Sandbox) -> AsyncIterator[Desk]:
    """A node that HAMi knows, on which a person cordoned another GPU."""
    node = await sandbox.node(
        kwok=False, annotations={REGISTER: REGISTERED, CORDON: "GPU-86 , GPU-theirs"}
    )
    async with FaultProxy(control_plane) as proxy:
        one = Desk(proxy, node, "hami", plugin_devices=8)
        yield one
        await one.api.close()


async def test_ours_is_added_and_removed_and_theirs_is_not_touched(hami: Desk) -> None:
    await hami.looks(2)
    assert hami.kept == {BAD}
    assert (await hami.annotations())[CORDON] == "GPU-86 , GPU-theirs,GPU-3b"
    assert hami.writes() == 1
    hami.recover()
    await hami.looks(2)
    after = await hami.annotations()
    assert after[CORDON] == "GPU-86 , GPU-theirs"
    assert SIGNATURE not in after
    assert hami.writes() == 2
    assert await hami.look(), "nothing of ours is left"


async def test_what_a_person_takes_off_is_not_put_back_unasked(
    hami: Desk, control_plane: ControlPlane
) -> None:
    await hami.look()
    note = {"metadata": {"annotations": {CORDON: "GPU-86"}}}
    await person(control_plane, "PATCH", f"/api/v1/nodes/{hami.node}", note)
    await hami.looks(2)
    assert not hami.kept
    assert "a person took it off" in hami.word
    assert (await hami.annotations())[CORDON] == "GPU-86"


async def test_a_node_that_changed_meanwhile_is_not_overwritten(
    hami: Desk, control_plane: ControlPlane
) -> None:
    held = hami.proxy.fail(status=409, method="PATCH", times=1)
    await hami.look()
    assert held.taken == 1
    assert hami.desk.errors_total == 0
    await hami.looks(2)
    assert hami.kept == {BAD}


async def test_after_a_crash_another_process_without_the_setting_takes_it_back_and_is_done(
    hami: Desk,
) -> None:
    await hami.look()
    after = hami.new("off")
    assert not await after.step(hami.view, hami.hardware_of, hami.now + 1)
    assert (await hami.annotations())[CORDON] == "GPU-86 , GPU-theirs"
    await after.run(lambda: hami.view, hami.hardware_of, lambda: hami.now + 2)  # it ends by itself


async def test_of_a_server_that_does_not_answer_nothing_is_believed_for_long(hami: Desk) -> None:
    await hami.looks(2)
    hami.proxy.fail(status=503)
    for seconds, kept in ((20.0, {BAD}), (20.0, set[str]())):
        hami.now += seconds
        await hami.desk.step(hami.view, hami.hardware_of, hami.now)
        assert hami.kept == kept
    hami.proxy.calm()
    await hami.look()
    assert hami.kept == {BAD}


async def test_what_was_seen_too_long_ago_does_not_count_while_the_server_hangs(hami: Desk) -> None:
    await hami.looks(2)
    hung = hami.proxy.hang(method="GET")
    hami.now += 31.0
    look = asyncio.create_task(hami.desk.step(hami.view, hami.hardware_of, hami.now))
    await hami.proxy.until(lambda: hung.taken)
    assert not hami.kept
    assert "nothing is believed to hold" in hami.word
    hami.proxy.calm()
    await look


async def test_a_look_that_takes_too_long_is_given_up(
    hami: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hami.looks(2)
    monkeypatch.setattr("aggregator.cluster.devices.desk.LIMIT_SECONDS", 0.05)
    hami.proxy.hang(method="GET")
    assert not await hami.look()
    assert hami.desk.errors_total == 1
    hami.proxy.calm()


async def test_a_label_that_a_person_took_off_does_not_make_a_quarantine_last_for_ever(
    hami: Desk, control_plane: ControlPlane
) -> None:
    """It ends in the very moment in which the label is missing."""
    await hami.look()
    path = f"/api/v1/nodes/{hami.node}"
    hami.proxy.fail(status=403, method="PATCH", path=path)
    await person(control_plane, "PATCH", path, {"metadata": {"labels": {SIGNATURE: None}}})
    await hami.look()
    hami.proxy.calm()
    hami.recover()
    await hami.looks(2)
    assert (await hami.annotations())[CORDON] == "GPU-86 , GPU-theirs"
    assert SIGNATURE not in await hami.annotations()


async def test_while_the_server_takes_no_writes_one_is_tried_in_a_look(
    hami: Desk, sandbox: Sandbox
) -> None:
    other = await sandbox.node("b", kwok=False, annotations={REGISTER: REGISTERED})
    here = hami.view
    second = incident(other, findings=(finding(subject=BAD),), quarantined_seconds=1.0)
    view = msgspec.structs.replace(
        here,
        nodes={**here.nodes, other: ClusterNode(name=other)},
        incidents={**here.incidents, second.name: second},
    )
    hami.hardware[other] = hami.hardware[hami.node]
    failing = hami.proxy.fail(status=503, method="PATCH")
    await hami.desk.step(view, hami.hardware_of, hami.now)
    assert failing.taken == 1
    hami.proxy.calm()
    for seconds in (5.0, 10.0):
        await hami.desk.step(view, hami.hardware_of, hami.now + seconds)
    assert hami.desk.in_force == dict.fromkeys([hami.node, other], frozenset({BAD}))


async def test_the_same_trouble_is_told_once_until_a_look_has_none(hami: Desk) -> None:
    def told() -> int:
        return sum("cannot go on" in each["event"] for each in logs)

    with structlog.testing.capture_logs() as logs:
        hami.proxy.fail(status=403, method="PATCH")
        await hami.looks(3)
        assert (hami.desk.errors_total, told()) == (3, 1)
        hami.proxy.calm()
        await hami.looks(2)
        assert hami.kept == {BAD}
        hami.proxy.fail(status=403, method="GET")
        await hami.looks(2)
        assert told() == 2


async def test_a_dry_run_tells_each_thing_once(hami: Desk, control_plane: ControlPlane) -> None:
    note = {"metadata": {"annotations": {CORDON: None}}}
    await person(control_plane, "PATCH", f"/api/v1/nodes/{hami.node}", note)
    assert hami.incident is not None
    both = (finding(subject=BAD), finding(subject="gpu:0000:86:00.0"))
    hami.incident = msgspec.structs.replace(hami.incident, findings=both)
    hami.desk = hami.new("hami", dry_run=True)
    with structlog.testing.capture_logs() as logs:
        await hami.looks(6)
    assert len([each for each in logs if each["event"] == "device quarantine"]) == 2
    assert CORDON not in await hami.annotations()


async def test_a_server_without_devicetaintrules_is_told_where_dra_is_asked_for_and_needed(
    hami: Desk, control_plane: ControlPlane, sandbox: Sandbox
) -> None:
    """The tests' usual server has ResourceSlices and no rules: as Kubernetes 1.36 comes."""
    hami.desk = hami.new("dra,hami")
    await hami.looks(2)
    assert hami.kept == {BAD}, "nothing on this node is handed out by DRA"
    attributes = {"uuid": {"string": "GPU-3b"}}
    spec = {
        "driver": f"{sandbox.namespace}.example.com",
        "nodeName": hami.node,
        "pool": {"name": hami.node, "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "gpu-0", "attributes": attributes}],
    }
    body = {"metadata": {"name": sandbox.name("slice")}, "spec": spec}
    await sandbox.create("/apis/resource.k8s.io/v1/resourceslices", body)
    await hami.look()
    assert not hami.kept
    assert "--runtime-config=resource.k8s.io/v1beta2=true" in hami.word
    hami.proxy.fail(status=403, path=".*/resourceslices")
    await hami.look()
    assert "no right to read ResourceSlices" in hami.word
    assert not hami.kept


async def test_a_label_alone_is_nothing_of_ours(hami: Desk, control_plane: ControlPlane) -> None:
    note = {"metadata": {"labels": {SIGNATURE: "somebody"}}}
    await person(control_plane, "PATCH", f"/api/v1/nodes/{hami.node}", note)
    off = hami.new("off")
    await off.run(lambda: hami.view, hami.hardware_of, lambda: hami.now)  # it ends by itself
    assert hami.writes() == 0


async def test_a_node_that_was_made_anew_keeps_nothing_of_the_old_one(
    hami: Desk, control_plane: ControlPlane
) -> None:
    await hami.looks(2)
    path = f"/api/v1/nodes/{hami.node}"
    before = reduce_node(await hami.api.get(path)).node
    assert hami.desk.in_force_on({hami.node: before}) == {hami.node: frozenset({BAD})}
    await person(control_plane, "DELETE", path)
    fresh = {"metadata": {"name": hami.node, "annotations": {REGISTER: REGISTERED}}}
    after = reduce_node(await person(control_plane, "POST", "/api/v1/nodes", fresh)).node
    assert hami.desk.in_force_on({hami.node: after}) == {}, "its list went with the old object"
    await hami.looks(2)
    assert hami.desk.in_force_on({hami.node: after}) == {hami.node: frozenset({BAD})}
