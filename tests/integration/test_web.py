"""The aggregator's HTTP side over a real socket: the JSON API, probes, headers and the event stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer

from aggregator.fleet import Fleet
from aggregator.journal import Decision, Journal
from aggregator.policy.model import (
    ClusterNode,
    ClusterView,
    Condition,
    Incident,
    Taint,
    TimelineEntry,
)
from aggregator.scores.inputs import fleet_facts
from aggregator.scores.model import NodeScore, score_table
from aggregator.stats import AggregatorStats
from aggregator.web.api import BROADCASTER, create_app
from aggregator.web.broadcast import Broadcaster
from aggregator.web.deps import WebDeps
from contract import report_pb2 as pb
from contract.codec import finding_to_wire
from contract.vocabulary import Action, Domain, Finding, Phase, Severity

NOW = 1_760_000_000.0
GPUS = 8

Client = TestClient[web.Request, web.Application]


class World:
    """A small fleet and cluster that a test changes at will."""

    def __init__(self) -> None:
        self.now = NOW
        self.fleet = Fleet()
        self.journal = Journal()
        self.stats = AggregatorStats()
        self.nodes: dict[str, ClusterNode] = {}
        self.incidents: dict[str, Incident] = {}
        self.scores: dict[str, NodeScore] = {}
        self.synced = True
        self.leading = True
        self.mode = "observe"

    def view(self) -> ClusterView:
        return ClusterView(
            synced=self.synced, nodes=dict(self.nodes), incidents=dict(self.incidents)
        )

    def deps(self, **changed: Any) -> WebDeps:
        known: dict[str, Any] = {
            "fleet": self.fleet,
            "view": self.view,
            "mode": lambda: self.mode,
            "leading": lambda: self.leading,
            "journal": self.journal,
            "stats": self.stats,
            "scores": lambda: dict(self.scores),
            "metrics": lambda: b"fleetmedic_up 1\n",
            "clock": lambda: self.now,
            "version": "1.2.3",
        }
        return WebDeps(**(known | changed))

    def report(self, name: str, *findings: Finding, use: float = 0.5, score: bool = True) -> None:
        """A report of eight GPUs and one RDMA port arrives."""
        report = pb.NodeReport(node=name, agent_version="0.1.0", driver_version="550.1")
        for index in range(GPUS):
            report.gpus.append(
                pb.Gpu(
                    uuid=f"GPU-{index}",
                    pci_bus_id=f"0000:{index}b:00.0",
                    index=index,
                    model="H100",
                    utilization_ratio=use,
                    temperature_celsius=50.0,
                    memory_used_bytes=40 << 30,
                    memory_total_bytes=80 << 30,
                    process_count=1,
                )
            )
        report.rdma_ports.append(pb.RdmaPort(device="mlx5_0", port=1, state="ACTIVE"))
        report.sources.append(pb.SourceStatus(name="nvidia", state=pb.SOURCE_STATE_OK))
        report.host.cpu_utilization_ratio = 0.25
        report.findings.extend(finding_to_wire(each) for each in findings)
        self.fleet.apply(report, self.now)
        self.nodes.setdefault(name, ClusterNode(name=name, gpu_capacity=GPUS))
        if score:
            self.score()

    def score(self) -> None:
        self.scores = score_table(fleet_facts(self.fleet, self.view()), self.now)

    def lose_gpu(self, name: str) -> None:
        """GPU 3 is lost, the node is quarantined, an incident is open."""
        lost = finding()
        self.nodes[name] = ClusterNode(
            name=name,
            gpu_capacity=GPUS,
            taint=Taint("gpu-lost", "NoSchedule"),
            conditions={"GPUHealthy": Condition("False", "GpuLost")},
        )
        self.incidents[f"inc-{name}"] = incident(name)
        self.report(name, lost)

    def decide(self, text: str, *, taken: bool = True) -> None:
        kind = "set-taint" if taken else "declined"
        self.journal.add(
            Decision(time_seconds=self.now, node="node-1", kind=kind, text=text, taken=taken)
        )


def finding(severity: Severity = Severity.FATAL) -> Finding:
    return Finding(
        code="gpu-lost",
        subject="gpu:0000:3b:00.0",
        severity=severity,
        action=Action.REBOOT_NODE,
        domain=Domain.GPU,
        evidence="<b>fell off</b> the bus",
        since_seconds=NOW - 60,
        last_seen_seconds=NOW,
    )


def incident(node: str, phase: Phase = Phase.QUARANTINED) -> Incident:
    return Incident(
        name=f"inc-{node}",
        node=node,
        pool="H100",
        phase=phase,
        findings=(finding(),),
        opened_seconds=NOW - 60,
        quarantined_seconds=NOW - 59,
        closed_seconds=NOW if phase is Phase.CLOSED else None,
        next_step="drain",
        timeline=(TimelineEntry(NOW - 60, Phase.SUSPECT, "seen"),),
    )


@pytest.fixture
def world() -> World:
    made = World()
    for number in range(3):
        made.report(f"node-{number}")
    return made


@pytest.fixture
async def client(world: World) -> AsyncIterator[Client]:
    async with TestClient(TestServer(create_app(world.deps()))) as client:
        yield client


def broadcaster(client: Client) -> Broadcaster:
    assert client.app is not None
    return client.app[BROADCASTER]


async def get(client: Client, path: str, status: int = 200) -> Any:
    reply = await client.get(path)
    assert reply.status == status, await reply.text()
    return await reply.json()


class Events:
    """Reads server-sent events one by one."""

    def __init__(self, reply: ClientResponse) -> None:
        self._lines = reply.content

    async def next(self) -> tuple[str, Any]:
        """The next event's name and data; a comment's name is empty; at the end it is ``end``."""
        name, data = "", None
        while line := (await self._lines.readline()).decode():
            if line == "\n" and (name or data):
                return name, data
            key, _, value = line.rstrip("\n").partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                data = json.loads(value)
            elif key == "":
                data = data if line == "\n" else value
        return "end", None

    async def until(self, wanted: str) -> Any:
        """Skip to the next event of a name."""
        async with asyncio.timeout(10):
            while True:
                name, data = await self.next()
                if name == wanted:
                    return data
                assert name != "end", f"the stream ended before {wanted!r}"


async def test_summary(world: World, client: Client) -> None:
    world.lose_gpu("node-1")
    world.nodes["silent"] = ClusterNode(name="silent", gpu_capacity=GPUS)
    world.incidents["old"] = incident("node-2", Phase.CLOSED)
    found = await get(client, "/api/v1/summary")
    assert found["nodes"] == 4
    assert found["nodes_by_health"] == {"healthy": 2, "fatal": 1, "unknown": 1}
    assert found["gpus"] == 3 * GPUS
    assert found["gpus_faulty"] == 1
    assert found["quarantined"] == 1
    assert found["incidents_open"] == 1
    assert found["reporting"] == 3
    assert found["gpu_utilization_ratio"] == 0.5
    assert (found["mode"], found["writes"], found["leading"]) == ("observe", False, True)


async def test_a_silent_node_turns_stale_not_sick(world: World, client: Client) -> None:
    world.now += 31
    world.report("node-2")
    found = await get(client, "/api/v1/summary")
    assert found["nodes_by_health"] == {"stale": 2, "healthy": 1}
    assert found["reporting"] == 1
    assert found["oldest_report_age_seconds"] == 31


async def test_an_empty_fleet(client: Client) -> None:
    async with TestClient(TestServer(create_app(World().deps()))) as empty:
        found = await get(empty, "/api/v1/summary")
        assert (found["nodes"], found["gpu_utilization_ratio"]) == (0, None)
        assert found["newest_report_age_seconds"] is None
        assert (await get(empty, "/api/v1/nodes"))["nodes"] == []


async def test_nodes_whole_and_by_page(world: World, client: Client) -> None:
    whole = await get(client, "/api/v1/nodes")
    assert [each["name"] for each in whole["nodes"]] == ["node-0", "node-1", "node-2"]
    assert len(whole["nodes"][0]["gpus"]) == GPUS
    page = await get(client, "/api/v1/nodes?limit=1&offset=1")
    assert page["total"] == 3
    assert [each["name"] for each in page["nodes"]] == ["node-1"]
    assert (await get(client, "/api/v1/nodes?limit=0"))["nodes"] == []
    assert (await get(client, "/api/v1/nodes?offset=999"))["nodes"] == []


@pytest.mark.parametrize("query", ["limit=x", "limit=-1", "offset=1.5", "limit=", "limit=٣"])
async def test_a_bad_number_is_named(client: Client, query: str) -> None:
    error = (await get(client, f"/api/v1/nodes?{query}", 400))["error"]
    assert query.partition("=")[0] in error


async def test_one_node_whole(world: World, client: Client) -> None:
    world.lose_gpu("node-1")
    found = await get(client, "/api/v1/nodes/node-1")
    assert found["row"]["health"] == "fatal"
    assert found["row"]["standing"] == "quarantined"
    assert found["findings"][0]["severity"] == "fatal"
    assert found["findings"][0]["action"] == "reboot-node"
    assert found["gpus"][3]["health"] == "fatal"
    assert found["gpus"][0]["health"] == "healthy"
    assert found["gpus"][0]["memory_total_bytes"] == 80 << 30
    assert found["host"] == {"cpu_utilization_ratio": 0.25}
    assert found["sources"][0]["state"] == "ok"
    assert found["taint"] == {"code": "gpu-lost", "effect": "NoSchedule"}
    assert found["conditions"]["GPUHealthy"]["status"] == "False"
    assert found["score"] == {"score": 0, "reason": "quarantined: gpu-lost", "verdict": "sick"}
    assert found["incident"]["phase"] == "quarantined"
    assert found["incident"]["timeline"][0]["text"] == "seen"


async def test_a_node_that_never_reported_is_shown_as_unknown(world: World, client: Client) -> None:
    world.nodes["silent"] = ClusterNode(name="silent", gpu_capacity=GPUS)
    found = await get(client, "/api/v1/nodes/silent")
    assert found["row"]["health"] == "unknown"
    assert found["gpus"] == []


async def test_unknown_things_are_told_apart_from_errors(client: Client) -> None:
    assert "'nope'" in (await get(client, "/api/v1/nodes/nope", 404))["error"]
    assert (await get(client, "/api/v1/nothing", 404))["error"]
    assert "open, closed or all" in (await get(client, "/api/v1/incidents?state=x", 400))["error"]
    assert (await client.post("/api/v1/nodes")).status == 405


async def test_incidents_open_first(world: World, client: Client) -> None:
    world.incidents = {
        "inc-a": incident("node-0", Phase.CLOSED),
        "inc-b": incident("node-1"),
    }
    found = (await get(client, "/api/v1/incidents"))["incidents"]
    assert [each["node"] for each in found] == ["node-1", "node-0"]
    only = (await get(client, "/api/v1/incidents?state=closed"))["incidents"]
    assert [each["node"] for each in only] == ["node-0"]


async def test_decisions_newest_first(world: World, client: Client) -> None:
    for number in range(5):
        world.decide(f"number {number}")
    found = (await get(client, "/api/v1/decisions?limit=2"))["decisions"]
    assert [each["text"] for each in found] == ["number 4", "number 3"]
    assert (await get(client, "/api/v1/decisions?limit=0"))["decisions"] == []


async def test_probes_and_metrics(world: World, client: Client) -> None:
    assert (await client.get("/healthz")).status == 200
    assert (await client.get("/readyz")).status == 200
    world.leading = world.synced = False
    refused = await client.get("/readyz")
    assert refused.status == 503
    assert len((await refused.text()).splitlines()) == 2
    assert (await client.get("/healthz")).status == 200
    metrics = await client.get("/metrics")
    assert await metrics.read() == b"fleetmedic_up 1\n"
    assert metrics.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    "path", ["/", "/static/app.js", "/api/v1/summary", "/api/v1/nope", "/metrics", "/static/nope"]
)
async def test_every_answer_carries_the_security_headers(client: Client, path: str) -> None:
    reply = await client.get(path)
    assert "default-src 'self'" in reply.headers["Content-Security-Policy"]
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in reply.headers


async def test_static_files_stay_in_their_folder(client: Client) -> None:
    for path in ("/static/../api.py", "/static/%2e%2e/api.py", "/static/"):
        assert (await client.get(path)).status in {403, 404}


async def test_the_extender_is_part_of_it(world: World, client: Client) -> None:
    pod = {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}}
    reply = await client.post(
        "/scheduler/prioritize", json={"Pod": pod, "NodeNames": ["node-0", "other"]}
    )
    assert await reply.json() == [{"Host": "node-0", "Score": 10}, {"Host": "other", "Score": 5}]


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


async def test_the_bare_minimum_of_a_node_is_shown(client: Client, world: World) -> None:
    world.fleet.apply(pb.NodeReport(node="bare"), world.now)
    found = await get(client, "/api/v1/nodes/bare")
    assert found["row"] == {
        "name": "bare",
        "pool": "default",
        "health": "healthy",
        "connected": True,
        "received_seconds": world.now,
    }
