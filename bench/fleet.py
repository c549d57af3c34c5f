"""What the figures about whole fleets share: Node objects, agents as bare streams, one watch, what the server was asked."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import grpc
import grpc.aio
import msgspec

from agent.assembly import simulated_agent
from agent.config import AgentSettings
from agent.report import encode
from agent.sources.replay import Scenario
from contract import report_pb2 as pb
from contract.codec import finding_to_wire
from contract.vocabulary import Action, Domain, Finding, Severity
from contract.wire import CONNECT_METHOD, NODE_METADATA
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.manifests import gpu_node

AGGREGATOR = "system:serviceaccount:fleetmedic:fleetmedic-aggregator"
REPORT_SECONDS = 5.0
STREAMS_PER_CONNECTION = 50
REOPEN_SECONDS = 0.5
DEADLINE_SECONDS = 120.0

UNBOUNDED = {
    "agent_auth": "none",
    "budget_percent": "100",
    "budget_count": "10000",
    "quarantines_per_minute": "0",
    "breaker_nodes": "0",
    "log_level": "info",
}
"""Settings under which every faulty node may be tainted: what is measured is the way there."""


class Audit:
    """Every request that the API server answered, by who asked; counted by the server itself."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "audit.log"
        self._policy = folder / "audit-policy.json"
        rule = {"level": "Metadata", "omitStages": ["RequestReceived", "ResponseStarted"]}
        policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": [rule]}
        self._policy.write_bytes(msgspec.json.encode(policy))

    @property
    def apiserver_args(self) -> list[str]:
        """Flags that make the API server keep this log."""
        return [f"--audit-policy-file={self._policy}", f"--audit-log-path={self._log}"]

    def calls(self, user: str = AGGREGATOR) -> Counter[str]:
        """Requests so far, as ``patch nodes/status``."""
        counted: Counter[str] = Counter()
        for line in self._log.read_bytes().splitlines():
            event = msgspec.json.decode(line)
            what = event.get("objectRef") or {}
            if event["user"].get("username") == user and what:
                parts = (what.get("resource", ""), what.get("subresource", ""))
                counted[f"{event['verb']} {'/'.join(filter(None, parts))}"] += 1
        return counted


class _Named(msgspec.Struct, gc=False):
    name: str


class _Taint(msgspec.Struct, gc=False):
    key: str


class _Condition(msgspec.Struct, gc=False):
    type: str
    status: str


class _Spec(msgspec.Struct, gc=False):
    taints: list[_Taint] = []


class _Status(msgspec.Struct, gc=False):
    conditions: list[_Condition] | None = None


class _Node(msgspec.Struct, gc=False):
    metadata: _Named
    spec: _Spec
    status: _Status


class _Change(msgspec.Struct, gc=False):
    object: _Node


class _Wish(NamedTuple):
    """Somebody waits until these nodes all have, or all lack, a taint or ``Type=Status``."""

    left: set[str]
    key: str
    present: bool
    granted: asyncio.Event


class NodeWatch:
    """One watch of all nodes, as any controller has; notes when each taint and condition came."""

    def __init__(self) -> None:
        self._keys: dict[str, frozenset[str]] = {}
        self._seen: dict[tuple[str, str], float] = {}
        self._wishes: list[_Wish] = []
        self._newest = time.perf_counter()

    async def run(self, plane: ControlPlane) -> None:
        """Follow until cancelled; begun anew where the server ends it, as it does to who reads too slowly."""
        decode = msgspec.json.Decoder(_Change).decode
        timeout = aiohttp.ClientTimeout(total=None)
        async with plane.api.session() as session:
            while True:
                async with session.get("/api/v1/nodes?watch=1", timeout=timeout) as response:
                    async for line in response.content:
                        self._take(decode(line).object)

    def _take(self, node: _Node) -> None:
        name, now = node.metadata.name, time.perf_counter()
        keys = frozenset(
            [each.key for each in node.spec.taints]
            + [f"{each.type}={each.status}" for each in node.status.conditions or ()]
        )
        before = self._keys.get(name, frozenset())
        if keys == before:
            return
        self._newest = now
        self._keys[name] = keys
        for key in keys - before:
            self._seen[name, key] = now
        for wish in self._wishes:
            if name in wish.left and (wish.key in keys) is wish.present:
                wish.left.discard(name)
                if not wish.left:
                    wish.granted.set()

    async def until(self, nodes: Collection[str], key: str, *, present: bool = True) -> list[float]:
        """When each of these nodes was first seen to have a taint or ``Type=Status``, or (0) that none has it."""
        left = {each for each in nodes if (key in self._keys.get(each, frozenset())) is not present}
        wish = _Wish(left, key, present, asyncio.Event())
        self._wishes.append(wish)
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                if left:
                    await wish.granted.wait()
        except TimeoutError:
            some = ", ".join(sorted(left)[:3])
            raise AssertionError(
                f"{len(left)} nodes not as wanted ({key}, {present}): {some} …"
            ) from None
        finally:
            self._wishes.remove(wish)
        return [self._seen[each, key] if present else 0.0 for each in nodes]

    async def known(self, count: int) -> None:
        """Wait until so many nodes were seen."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self._keys) < count:
                await asyncio.sleep(0.05)

    async def quiet(self, seconds: float) -> None:
        """Wait until no node has changed for this long."""
        while (left := self._newest + seconds - time.perf_counter()) > 0:
            await asyncio.sleep(left)


class Agents:
    """One stream per node to an aggregator, in the rhythm of real agents; what they say of themselves is set here."""

    def __init__(self, names: Sequence[str], template: pb.NodeReport) -> None:
        self._reports = {name: pb.NodeReport() for name in names}
        for name, report in self._reports.items():
            report.CopyFrom(template)
            report.node = name
        self._news = {name: asyncio.Event() for name in names}
        self.acked = 0

    def break_down(self, names: Collection[str]) -> None:
        """A GPU of each of these nodes falls off the bus, now; it is reported at once."""
        finding = finding_to_wire(gpu_lost())
        for name in names:
            self._reports[name].findings.append(finding)
            self._news[name].set()

    @asynccontextmanager
    async def reporting(self, port: int) -> AsyncIterator[None]:
        """Every agent's stream to this port, until left."""
        async with contextlib.AsyncExitStack() as stack:
            channels = [
                await stack.enter_async_context(
                    grpc.aio.insecure_channel(
                        f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),)
                    )
                )
                for _ in range(-(-len(self._reports) // STREAMS_PER_CONNECTION))
            ]
            tasks = [
                asyncio.create_task(
                    self._stream(channels[number % len(channels)], name, number), name=name
                )
                for number, name in enumerate(self._reports)
            ]
            try:
                yield
                for task in tasks:
                    if task.done():
                        task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _stream(self, channel: grpc.aio.Channel, name: str, number: int) -> None:
        """One node's agent. It comes back when its connection is lost, as a real one does."""
        wait = REPORT_SECONDS * (1 + number / len(self._reports))  # not all in the same instant
        while True:
            call = channel.stream_stream(CONNECT_METHOD)(metadata=((NODE_METADATA, name),))
            try:
                await self._report(call, name, wait)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await asyncio.sleep(REOPEN_SECONDS)
            finally:
                call.cancel()

    async def _report(self, call: Any, name: str, wait: float) -> None:
        """Report and be acknowledged, until the stream is lost."""
        report, news = self._reports[name], self._news[name]
        while True:
            news.clear()
            report.sequence += 1
            report.taken_time_seconds = time.time()
            await call.write(report.SerializeToString())
            answer = await call.read()
            if answer is grpc.aio.EOF:
                raise asyncio.InvalidStateError
            down = pb.Downstream.FromString(answer)
            assert not down.ack.refused, down.ack.refused
            self.acked += 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), wait)
            wait = REPORT_SECONDS


def gpu_lost() -> Finding:
    """A GPU fell off the bus, now."""
    now = time.time()
    return Finding(
        code="xid-79",
        subject="gpu:0000:3b:00.0",
        severity=Severity.FATAL,
        action=Action.REBOOT_NODE,
        domain=Domain.GPU,
        evidence="GPU has fallen off the bus",
        since_seconds=now,
        last_seen_seconds=now,
    )


async def healthy_report() -> pb.NodeReport:
    """What an agent of a healthy node with 8 GPUs and 8 ports says."""
    scenario = Scenario(rows=("a",), nodes_per_row=1)
    agent = simulated_agent(AgentSettings(), scenario, "sim-a-01", start=time.time())
    await agent.tick()
    return pb.NodeReport.FromString(
        encode(
            agent.snapshot,
            (),
            (),
            sequence=0,
            urgent=False,
            events_dropped_total=0,
            agent_version="bench",
        )
    )


async def make_nodes(plane: ControlPlane, names: Sequence[str], *, parallel: int = 16) -> None:
    """Node objects with 8 GPUs each, Ready by hand."""

    async def one(session: aiohttp.ClientSession, name: str) -> None:
        body = msgspec.json.encode(gpu_node(name, kwok=False))
        headers = {"Content-Type": "application/json"}
        async with session.post("/api/v1/nodes", data=body, headers=headers) as response:
            assert response.status == 201, await response.text()

    async with plane.api.session() as session:
        await side_by_side([partial(one, session, name) for name in names], parallel)


async def aggregator_token(plane: ControlPlane) -> str:
    """A token with the rights of deploy/, which have to be installed."""
    account = "/api/v1/namespaces/fleetmedic/serviceaccounts/fleetmedic-aggregator/token"
    made, answer = await plane.request("POST", account, {"spec": {"expirationSeconds": 3600}})
    assert made == 201, answer
    token: str = answer["status"]["token"]
    return token


async def side_by_side(works: Sequence[Callable[[], Any]], parallel: int) -> None:
    """Do all of it, so many at a time."""
    slots = asyncio.Semaphore(parallel)

    async def one(work: Callable[[], Any]) -> None:
        async with slots:
            await work()

    async with asyncio.TaskGroup() as tasks:
        for work in works:
            tasks.create_task(one(work))


@asynccontextmanager
async def following(plane: ControlPlane) -> AsyncIterator[NodeWatch]:
    """A watch of all nodes that runs until left."""
    watch = NodeWatch()
    task = asyncio.create_task(watch.run(plane))
    try:
        yield watch
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
