"""The event stream: the whole picture first, then each change once, until either side ends it."""

import asyncio

import pytest
from aiohttp.test_utils import TestClient, TestServer

from aggregator.policy.model import ClusterNode, Taint
from aggregator.scores.model import NodeScore
from aggregator.web.api import BROADCASTER, create_app
from aggregator.web.broadcast import Broadcaster
from tests.integration.web.client import Client, Events
from tests.integration.web.world import World, incident


def broadcaster(client: Client) -> Broadcaster:
    assert client.app is not None
    return client.app[BROADCASTER]


async def test_a_stream_begins_with_the_whole_picture(world: World, client: Client) -> None:
    world.lose_gpu("node-1")
    world.decide("because")
    async with client.get("/api/v1/events") as reply:
        assert reply.content_type == "text/event-stream"
        events = Events(reply)
        hello = await events.until("hello")
        assert hello["summary"]["nodes"] == 3
        assert [each["node"] for each in hello["incidents"]] == ["node-1"]
        assert [each["text"] for each in hello["decisions"]] == ["because"]
        nodes = await events.until("node")
        assert [each["name"] for each in nodes["nodes"]] == ["node-0", "node-1", "node-2"]
        await events.until("synced")


async def test_changes_are_sent_once_and_coalesced(world: World, client: Client) -> None:
    async with client.get("/api/v1/events") as reply:
        events = Events(reply)
        await events.until("synced")
        broadcaster(client).publish({"node-0"})
        await events.until("node")  # the first round also compares with nothing
        world.report("node-2", use=0.9)
        broadcaster(client).publish({"node-2"})
        world.report("node-2", use=0.95)
        broadcaster(client).publish({"node-2"})
        summary = await events.until("summary")
        assert summary["gpu_utilization_ratio"] == pytest.approx((0.5 + 0.5 + 0.95) / 3, abs=1e-3)
        nodes = await events.until("node")
        assert [each["name"] for each in nodes["nodes"]] == ["node-2"]
        assert nodes["nodes"][0]["gpus"][0]["utilization_ratio"] == 0.95


async def test_what_changed_without_a_report_is_found(world: World, client: Client) -> None:
    async with client.get("/api/v1/events") as reply:
        events = Events(reply)
        await events.until("synced")
        broadcaster(client).publish(set())
        await events.until("node")
        world.nodes["node-0"] = ClusterNode(name="node-0", taint=Taint("gpu-hot", "NoSchedule"))
        world.incidents["inc-node-1"] = incident("node-1")
        world.decide("no budget", taken=False)
        world.fleet.forget("node-2")
        del world.nodes["node-2"]
        world.score()
        broadcaster(client).publish(set())
        assert (await events.until("incident"))["incidents"][0]["node"] == "node-1"
        assert (await events.until("decision"))["decisions"][0]["taken"] is False
        nodes = await events.until("node")
        assert {each["name"]: each["standing"] for each in nodes["nodes"]} == {
            "node-0": "quarantined",
            "node-1": "quarantined",
        }
        assert nodes["gone"] == ["node-2"]
        world.incidents.clear()
        broadcaster(client).publish(set())
        assert (await events.until("incident"))["gone"] == ["inc-node-1"]


async def test_silence_is_filled_with_comments(world: World) -> None:
    app = create_app(world.deps(heartbeat_seconds=0.01))
    async with TestClient(TestServer(app)) as client, client.get("/api/v1/events") as reply:
        events = Events(reply)
        await events.until("synced")
        assert await events.next() == ("", "still here")


async def test_streams_end_cleanly_on_shutdown(world: World) -> None:
    server = TestServer(create_app(world.deps()))
    async with TestClient(server) as client:
        reply = await client.get("/api/v1/events")
        events = Events(reply)
        await events.until("synced")
        async with asyncio.timeout(5):
            closing = asyncio.create_task(server.close())
            assert await events.next() == ("end", None)
            await closing


async def test_a_page_that_reads_too_slowly_is_cut_off(world: World, client: Client) -> None:
    cut = asyncio.Event()
    sender = broadcaster(client)
    slow = sender.subscribe(cut.set)
    quick = sender.subscribe(lambda: pytest.fail("the quick one was cut off"))

    async def read() -> None:
        while await quick.get():
            pass

    reading = asyncio.create_task(read())
    async with asyncio.timeout(10):
        while not cut.is_set():
            sender.publish({"node-0"})
            await asyncio.sleep(0)
    assert slow.dropped
    assert (sender.subscribers, sender.dropped_total) == (1, 1)
    sender.close()
    await reading


async def test_a_slow_socket_does_not_hold_memory_or_shutdown(world: World) -> None:
    app = create_app(world.deps(max_queued_events=8))
    async with TestClient(TestServer(app)) as client:
        reply = await client.get("/api/v1/events")
        await Events(reply).until("synced")
        sender = app[BROADCASTER]
        async with asyncio.timeout(60):
            while sender.subscribers:  # nobody reads: the socket fills, then the queue
                world.report("node-0")
                world.decide("x" * 100_000)
                sender.publish({"node-0"})
                await asyncio.sleep(0)
        assert sender.dropped_total == 1
        reply.close()


async def test_one_bad_round_does_not_end_the_stream(world: World) -> None:
    broken = False

    def scores() -> dict[str, NodeScore]:
        if broken:
            raise RuntimeError("no table")
        return dict(world.scores)

    app = create_app(world.deps(scores=scores))
    async with TestClient(TestServer(app)) as client, client.get("/api/v1/events") as reply:
        events = Events(reply)
        await events.until("synced")
        broken = True
        app[BROADCASTER].publish({"node-0"})
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        broken = False
        app[BROADCASTER].publish({"node-1"})
        nodes = await events.until("node")
        assert "node-1" in {each["name"] for each in nodes["nodes"]}
