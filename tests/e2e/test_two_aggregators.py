"""Two aggregators on the real API server: one acts, the other takes over, and the cluster sees no seam."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import pytest
import yaml

from tests.e2e.rig import Rig
from tests.e2e.test_fault_to_release import (
    comes_back,
    falls_off_the_bus,
    incident_in,
    incident_of,
    quarantined,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.controlplane.cluster import ControlPlane
    from tests.controlplane.sandbox import Sandbox
    from tests.e2e.rig import Node

pytestmark = pytest.mark.cluster


class Door:
    """A TCP port that leads where it is told when somebody comes in, as a Service does: what is open stays open."""

    def __init__(self, leads_to: Callable[[], Awaitable[int | None]]) -> None:
        self._leads_to = leads_to
        self._open = True
        self._server: asyncio.Server | None = None
        self._guests: set[asyncio.Task[Any]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._enter, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._server is not None
        self._server.close()
        await self.shut()

    async def shut(self) -> None:
        """Throw everybody out, and let nobody in until ``open``."""
        self._open = False
        guests = list(self._guests)
        for guest in guests:
            guest.cancel()
        await asyncio.gather(*guests, return_exceptions=True)

    def open(self) -> None:
        """Let people in again."""
        self._open = True

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        guest = asyncio.current_task()
        assert guest is not None
        self._guests.add(guest)
        try:
            port = await self._leads_to() if self._open else None
            if port is not None and self._open:
                await self._through(reader, writer, port)
        except (OSError, asyncio.CancelledError):
            pass  # the other side is gone, or the door was shut
        finally:
            self._guests.discard(guest)
            writer.transport.abort()

    async def _through(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
    ) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", port)
        ways = [
            asyncio.create_task(_copy(reader, outer)),
            asyncio.create_task(_copy(inner, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            outer.transport.abort()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


class Pair:
    """Two aggregators, a Service in front of them, and a way to the API server that can be cut for the first."""

    def __init__(self, first: Rig, second: Rig, service: Door, api: Door) -> None:
        self.first, self.second, self.service, self.api = first, second, service, api

    @property
    def nodes(self) -> list[Node]:
        return self.first.nodes

    async def standby(self) -> asyncio.Task[Any]:
        """Start the second aggregator; the task ends once it leads."""
        task = asyncio.create_task(self.second.start_aggregator())
        async with asyncio.timeout(20):
            while await status(self.second, "/healthz") != 200:
                assert not task.done()
                await asyncio.sleep(0.05)
        return task

    async def followed(self, leader: Rig) -> None:
        """Wait until every agent reports to this aggregator."""
        names = {node.name for node in self.nodes}
        async with asyncio.timeout(30):
            while True:
                listed = (await leader.get("/api/v1/nodes"))["nodes"]
                if names <= {each["name"] for each in listed if each.get("connected")}:
                    return
                await asyncio.sleep(0.05)


async def status(rig: Rig, path: str) -> int:
    """The status of a GET; 0 where nobody answers."""
    with contextlib.suppress(aiohttp.ClientError):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{rig.http_port}{path}") as response,
        ):
            return response.status
    return 0


@pytest.fixture
async def pair(kwok: ControlPlane, sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[Pair]:
    first, second = Rig(sandbox, tmp_path / "1"), Rig(sandbox, tmp_path / "2")

    async def ready_one() -> int | None:
        for rig in (first, second):
            if await status(rig, "/readyz") == 200:
                return rig.grpc_port
        return None

    async def apiserver() -> int:
        return int(kwok.url.rpartition(":")[2])

    async with Door(ready_one) as service, Door(apiserver) as api, second, first:
        (tmp_path / "2").mkdir()
        nodes = await start(first, api, service)
        await first.reporting(nodes)
        yield Pair(first, second, service, api)


async def start(first: Rig, api: Door, service: Door) -> list[Node]:
    """The first aggregator behind its own way to the API server, and two nodes that report to the Service."""
    first.folder.mkdir()
    detour = first.folder / "detour.kubeconfig"
    content = yaml.safe_load((await aggregator_kubeconfig(first)).read_text())
    for cluster in content["clusters"]:
        cluster["cluster"]["server"] = f"https://127.0.0.1:{api.port}"
    detour.write_text(yaml.safe_dump(content))
    await first.start_aggregator(kubeconfig=str(detour))
    agents = f"127.0.0.1:{service.port}"
    return [await first.add_node(stem, aggregator=agents) for stem in ("a", "b")]


async def aggregator_kubeconfig(rig: Rig) -> Path:
    """What a real one is given."""
    account = "/api/v1/namespaces/fleetmedic/serviceaccounts/fleetmedic-aggregator/token"
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600},
    }
    made, answer = await rig.plane.request("POST", account, body)
    assert made == 201, answer
    return rig.plane.write_kubeconfig("cut-off", token=answer["status"]["token"])


async def quarantine_events(rig: Rig, node: Node) -> list[int]:
    """How often each Quarantined event about this node was counted."""
    _, events = await rig.plane.request(
        "GET", f"/api/v1/namespaces/default/events?fieldSelector=involvedObject.name={node.name}"
    )
    return [each["count"] for each in events["items"] if each["reason"] == "Quarantined"]


async def said_once(rig: Rig, node: Node) -> None:
    """Wait until there is the Quarantined event about this node."""
    async with asyncio.timeout(10):
        while await quarantine_events(rig, node) != [1]:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
async def test_the_standby_takes_over_with_the_same_incident_and_nothing_said_twice(
    pair: Pair, sign: signal.Signals
) -> None:
    bad = pair.nodes[0]
    takeover = await pair.standby()
    assert await status(pair.second, "/readyz") == 503, "only the leader is ready"
    await falls_off_the_bus(pair.first, bad)
    await said_once(pair.first, bad)  # after the incident: who dies in between says nothing
    opened = await incident_in(pair.first, bad, "quarantined")

    await pair.first.kill_aggregator(sign)
    await takeover
    await pair.followed(pair.second)
    _, seen = await pair.second.plane.request("GET", f"/api/v1/nodes/{bad.name}")
    assert quarantined(seen), "the node stays out of service"
    same = await incident_of(pair.second, bad)
    assert same is not None
    assert same["metadata"]["uid"] == opened["metadata"]["uid"]
    assert await quarantine_events(pair.second, bad) == [1]

    await comes_back(pair.second, bad)
    closed = await incident_in(pair.second, bad, "closed")
    assert closed["metadata"]["uid"] == opened["metadata"]["uid"]


async def test_a_leader_cut_off_from_the_api_server_lets_its_agents_go_and_may_lead_again(
    pair: Pair,
) -> None:
    bad = pair.nodes[0]
    takeover = await pair.standby()
    await pair.api.shut()
    await takeover
    await pair.followed(pair.second)
    assert await status(pair.first, "/healthz") == 200
    assert await status(pair.first, "/readyz") == 503
    await falls_off_the_bus(pair.second, bad)
    await said_once(pair.second, bad)
    await incident_in(pair.second, bad, "quarantined")

    pair.api.open()
    await pair.second.kill_aggregator(signal.SIGTERM)
    assert pair.first.aggregator is not None
    await pair.first.aggregator.ready(pair.first._is_ready, timeout_s=30)
    await pair.followed(pair.first)
    await comes_back(pair.first, bad)
    await incident_in(pair.first, bad, "closed")
    assert await quarantine_events(pair.first, bad) == [1]


async def test_an_api_server_that_restarts_costs_the_leader_its_place_for_a_moment_only(
    pair: Pair,
) -> None:
    bad = pair.nodes[0]
    plane = pair.first.plane
    assert pair.first.aggregator is not None
    await plane.kill_apiserver()
    async with asyncio.timeout(20):
        while await status(pair.first, "/readyz") != 503:
            await asyncio.sleep(0.05)
    await plane.start_apiserver()
    await pair.first.aggregator.ready(pair.first._is_ready, timeout_s=30)
    await falls_off_the_bus(pair.first, bad)
    await comes_back(pair.first, bad)
    await incident_in(pair.first, bad, "closed")
