"""Both ends of the report stream, each to be used with the real other one or with raw bytes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from agent.stats import AgentStats
from agent.uplink import Uplink, UplinkSettings
from aggregator.fleet import Fleet
from aggregator.intake import Intake, IntakeServer, trust_claim
from aggregator.stats import AggregatorStats
from contract import report_pb2 as pb
from contract.wire import CONNECT_METHOD, NODE_METADATA
from tests.support import START, snapshot, until


class Hub:
    """An aggregator's intake and what came in."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.reports: list[pb.NodeReport] = []
        self.left: list[str] = []
        self.on_report: Callable[[pb.NodeReport], Any] = lambda report: None
        self.stats = AggregatorStats()
        self.known: set[str] = {"n1", "n2"}
        self.authenticate = trust_claim
        self.max_reports_per_second = 1000.0
        self.intake = self._intake()
        self.port = 0

    def _intake(self) -> Intake:
        return Intake(
            accept=self._accept,
            gone=self.left.append,
            knows=lambda name: name in self.known,
            authenticate=lambda token, node: self.authenticate(token, node),
            stats=self.stats,
            max_reports_per_second=self.max_reports_per_second,
        )

    def _accept(self, report: pb.NodeReport) -> None:
        self.reports.append(report)
        self.fleet.apply(report, START)
        self.on_report(report)

    @asynccontextmanager
    async def listening(
        self, credentials: grpc.ServerCredentials | None = None
    ) -> AsyncIterator[None]:
        """On a free port at first, on the same one ever after."""
        self.intake = self._intake()
        server = IntakeServer(self.intake, f"127.0.0.1:{self.port}", credentials=credentials)
        async with server:
            self.port = server.port
            yield

    def event_ids(self) -> list[str]:
        return [event.id for report in self.reports for event in report.events]


class Node:
    """One agent's uplink."""

    def __init__(self, hub: Hub, name: str = "n1", **settings: Any) -> None:
        quick = {"report_seconds": 300.0, "backoff_first_seconds": 0.01}
        given = {"node": name, "target": f"127.0.0.1:{hub.port}", **quick, **settings}
        self.name = name
        self.stats = AgentStats()
        self.directives: list[pb.SignedDirective] = []
        self.uplink = Uplink(
            UplinkSettings(**given),
            stats=self.stats,
            random=lambda: 0.5,
            on_directive=self.directives.append,
        )

    def offer(self, *events: Any, urgent: bool = False, findings: Any = (), **state: Any) -> None:
        shot = snapshot(**{"node": self.name, **state})
        self.uplink.offer(shot, tuple(findings), events, urgent=urgent)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.uplink.run())
        try:
            yield
            assert not task.done(), "the uplink ended by itself"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def acked(self, count: int) -> None:
        await until(lambda: self.stats.reports_acked >= count, what=lambda: vars(self.stats))


@asynccontextmanager
async def scripted(answer: Callable[[pb.NodeReport, Any], Any]) -> AsyncIterator[int]:
    """A server that answers each report as ``answer(report, context)`` says; yields its port."""

    async def connect(requests: AsyncIterator[bytes], context: Any) -> None:
        async for message in requests:
            await answer(pb.NodeReport.FromString(message), context)

    service, _, method = CONNECT_METHOD.strip("/").partition("/")
    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(connect)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def ack(report: pb.NodeReport) -> bytes:
    return pb.Downstream(ack=pb.Ack(sequence=report.sequence)).SerializeToString()


@asynccontextmanager
async def raw_stream(hub: Hub, claims: str = "n1") -> AsyncIterator[Any]:
    """A stream of our own making; ``send(bytes)`` returns what comes back."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.port}") as channel:
        call = channel.stream_stream(CONNECT_METHOD)(metadata=((NODE_METADATA, claims),))

        async def send(message: bytes) -> pb.Downstream:
            await call.write(message)
            return pb.Downstream.FromString(await asyncio.wait_for(call.read(), 10))

        yield send
        call.cancel()


def report(node: str = "n1", **fields: Any) -> bytes:
    return pb.NodeReport(**{"node": node, "sequence": 7, **fields}).SerializeToString()
