"""Disruption budgets that block a drain: said everywhere, waited for, never broken; and services that go replica by replica."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
from aiohttp import web

from tests.controlplane.sandbox import LABEL
from tests.e2e.ward import SERVING, attempts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.controlplane.api import Json
    from tests.e2e.rig import Node
    from tests.e2e.ward import Ward

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

IMPATIENT = """
bounds:
  drain: {most_attempts: 1, time_limit_seconds: 4}
by_action:
  reset-device: [taint, drain, reset-device, replace]
"""
REPLICAS = 2


class Tickets:
    """A ticket system: takes what it is told, and keeps it."""

    def __init__(self) -> None:
        self.url = ""
        self.taken: list[Json] = []

    async def take(self, request: web.Request) -> web.Response:
        self.taken.append(msgspec.json.decode(await request.read()))
        return web.Response(status=202)


@asynccontextmanager
async def ticket_system() -> AsyncIterator[Tickets]:
    tickets = Tickets()
    app = web.Application()
    app.router.add_post("/hook", tickets.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    tickets.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield tickets
    finally:
        await runner.cleanup()


async def serving(ward: Ward, *, needs: int, **settings: str) -> Node:
    """A node with two pods under a budget."""
    await ward.start(**settings)
    bad = await ward.add_node("a")
    await ward.rig.reporting([bad])
    await ward.serving(bad, needs=needs)
    return bad


async def test_a_budget_that_blocks_is_said_everywhere_and_waited_for(ward: Ward) -> None:
    bad = await serving(ward, needs=1)
    blocker = f"PDB {ward.sandbox.namespace}/serve: needs 1 healthy, has 1"
    ward.breaks(bad)
    held = await ward.incident(bad, lambda now: blocker in now.get("drain", {}).get("text", ""))
    drain = held["status"]["drain"]
    assert (drain["state"], drain["podsTotal"], drain["podsGone"]) == ("running", 2, 1)
    await ward.incident(bad, lambda now: blocker in now.get("nextStep", ""))
    told = await ward.explained(bad)
    assert blocker in told
    assert "1 of 2" in told
    plan = await ward.rig.get(f"/api/v1/nodes/{bad.name}/plan")
    assert [each["pdb"] for each in plan["pods"] if each["name"].startswith("serve")] == [
        f"{ward.sandbox.namespace}/serve"
    ]

    await ward.loosen("serve")
    await ward.gone(*SERVING)
    await ward.mend(bad)
    assert attempts(await ward.closed(bad))[0] == ("drain-device", "done")


async def test_a_budget_that_never_gives_way_ends_with_a_person_who_is_told_once(
    ward: Ward,
) -> None:
    async with ticket_system() as tickets:
        settings = {
            "ladder_file": ward.file("ladder.yaml", IMPATIENT),
            "webhook_url": tickets.url,
        }
        bad = await serving(ward, needs=2, **settings)
        blocker = f"PDB {ward.sandbox.namespace}/serve: needs 2 healthy, has 2"
        ward.breaks(bad)
        stuck = await ward.incident(bad, lambda now: now.get("toldTime"))
        assert stuck["status"]["phase"] == "needs-human"
        assert attempts(stuck) == [("drain", "failed")]
        assert blocker in stuck["status"]["needs"]
        told = await ward.explained(bad)
        assert blocker in told
        assert "nothing was forced" in told

        await ward.rig.kill_aggregator(signal.SIGTERM)
        await ward.start(**settings)
        await ward.rig.counted("fleetmedic_aggregator_reports_total")
        (ticket,) = tickets.taken
        assert ticket["node"] == bad.name
        assert blocker in ticket["needs"]
        assert await ward.pods() == set(SERVING)
        assert not ward.evictions()
        assert ward.proxy.count("DELETE", r"/api/v1/namespaces/[^/]+/pods.*") == 0
        assert not ward.resets()


async def deployment(ward: Ward, name: str) -> None:
    """As KServe makes one for a model: its pods carry the service's name."""
    labels = {"app": name, "serving.kserve.io/inferenceservice": name, "component": "predictor"}
    container = {"name": "kserve-container", "image": "none"}
    spec = {
        "replicas": REPLICAS,
        "selector": {"matchLabels": {"app": name}},
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "nodeSelector": {LABEL: ward.sandbox.namespace},
                "containers": [{**container, "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
            },
        },
    }
    path = ward.sandbox.path("deployments", group="apps/v1")
    await ward.sandbox.create(path, {"metadata": {"name": name}, "spec": spec})
    await ward.plane.until(
        f"{path}/{name}", lambda seen: seen.get("status", {}).get("readyReplicas") == REPLICAS
    )


async def test_a_service_moves_one_replica_at_a_time_and_never_below_its_budget(
    ward: Ward, scheduler: object
) -> None:
    await ward.start(drain_rules_file="")
    bad = await ward.add_node("a")
    await ward.rig.reporting([bad])
    await deployment(ward, "llm")
    await ward.budget("llm", needs=1)
    old = await ward.pods()
    plan = await ward.rig.get(f"/api/v1/nodes/{bad.name}/plan")
    assert {each["job"] for each in plan["pods"] if each["name"] in old} == {"InferenceService llm"}

    ward.breaks(bad)
    await ward.held_up()
    assert len(ward.evictions()) == 1, "its replacement has no node yet"
    assert len(await ward.pods()) == 1
    good = await ward.sandbox.node("b")
    await ward.gone(*old)
    assert ward.evictions() == dict.fromkeys(old, 1)
    await ward.plane.until(
        ward.sandbox.path("deployments", "llm", group="apps/v1"),
        lambda seen: seen["status"].get("readyReplicas") == REPLICAS,
    )
    _, listed = await ward.plane.request("GET", ward.sandbox.path("pods"))
    assert [each["spec"]["nodeName"] for each in listed["items"]] == [good] * REPLICAS
    await ward.mend(bad)
    await ward.closed(bad)
