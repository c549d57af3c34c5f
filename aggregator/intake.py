"""The gRPC server that agents connect to: who is calling, decode, hand over, acknowledge.

Bytes are decoded here rather than by gRPC, so that a malformed report is refused and counted while the stream,
and everybody else's, goes on.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from aggregator.stats import AggregatorStats
from contract import report_pb2 as pb
from contract.wire import (
    CONNECT_METHOD,
    MAX_EVENTS,
    MAX_REPORT_BYTES,
    NODE_METADATA,
    TOKEN_METADATA,
)

log = structlog.get_logger("intake")

Authenticate = Callable[[str, str], Awaitable[str]]
"""(bearer token, claimed node) → the node that is proven. Raises ``PermissionError`` with the reason."""

MAX_NODE_NAME = 253
"""RFC 1123 subdomain, as Kubernetes bounds node names."""

MAX_PARTS = 1_000
"""Devices, ports, disks and sources of one node, each; empty ones cost two bytes to send and much to keep."""

SMALL_BYTES = 2 * min(MAX_PARTS, MAX_EVENTS)
"""A message of no more than that cannot have more than ``MAX_PARTS`` of anything: each costs two bytes at least."""

MAX_WORD = 256
"""Characters kept of a finding's code and subject. Fifty findings and a timeline of them have to fit into one
object of etcd (1.5 MB), where one character may take six bytes."""

MAX_STREAMS = 20_000
"""Agents connected at once; more than any cluster has nodes."""

MAX_REPORTS_PER_SECOND = 50.0
"""Per agent; bursts of urgent reports stay far below, a runaway agent is slowed down by its own stream."""

_SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REPORT_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
    # No estimate of the bandwidth: it costs a ping and its answer for each report, a seventh of all CPU.
    ("grpc.http2.bdp_probe", 0),
    # A connection without its stream is closed: gRPC would open the next stream on it, past the Service.
    ("grpc.max_connection_idle_ms", 500),
)


async def trust_claim(token: str, claimed: str) -> str:
    """No authentication: believe the name. For loopback and tests only."""
    return claimed


class Intake:
    """One method, one stream per agent."""

    def __init__(
        self,
        *,
        accept: Callable[[pb.NodeReport], None],
        gone: Callable[[str], None],
        knows: Callable[[str], bool],
        authenticate: Authenticate,
        stats: AggregatorStats,
        leading: Callable[[], bool] = lambda: True,
        max_reports_per_second: float = MAX_REPORTS_PER_SECOND,
    ) -> None:
        self._accept = accept
        self._gone = gone
        self._knows = knows
        self._authenticate = authenticate
        self._stats = stats
        self._leading = leading
        self._pace_seconds = 1 / max_reports_per_second
        self._streams: dict[str, asyncio.Queue[bytes]] = {}
        self._taken = pb.Downstream(ack=pb.Ack())
        """The acknowledgement that nearly every report gets; only its number is another one."""

    def direct(self, node: str, directive: pb.SignedDirective) -> bool:
        """Send a directive to one node's agent; False when it is not connected."""
        queue = self._streams.get(node)
        if queue is None or queue.full():
            return False
        queue.put_nowait(pb.Downstream(directive=directive).SerializeToString())
        return True

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server is given: raw bytes in, raw bytes out."""
        service, _, method = CONNECT_METHOD.strip("/").partition("/")
        connect = grpc.stream_stream_rpc_method_handler(self._connect)
        handler: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(
            service, {method: connect}
        )
        return handler

    async def _connect(self, requests: AsyncIterator[bytes], context: Any) -> None:
        await self._end_unless_leading(context)
        metadata: Mapping[str, str] = dict(context.invocation_metadata() or ())
        claimed = metadata.get(NODE_METADATA, "")
        token = metadata.get(TOKEN_METADATA, "").removeprefix("Bearer ")
        node = await self._identify(token, claimed, context)
        self._stats.connections += 1
        self._stats.connections_total += 1
        directives: asyncio.Queue[bytes] = asyncio.Queue(maxsize=100)
        sender: asyncio.Task[None] | None = None
        writing = asyncio.Lock()  # gRPC takes one write at a time
        try:
            if node:
                self._streams[node] = directives
                sender = asyncio.create_task(
                    _send(directives, context, writing), name=f"directives-{node}"
                )
            loop = asyncio.get_running_loop()
            free_at = loop.time() - 1
            async for message in requests:
                if not self._leading():
                    await self._end_unless_leading(context)
                acknowledgement = self._take(message, node)
                async with writing:
                    await context.write(acknowledgement)
                # A credit of one second's reports; beyond it the stream itself is slowed down.
                now = loop.time()
                free_at = max(free_at + self._pace_seconds, now - 1)
                if free_at > now:
                    await asyncio.sleep(free_at - now)
        finally:
            # No await before the books are right: gRPC may cancel this a second time.
            self._stats.connections -= 1
            if node and self._streams.get(node) is directives:
                del self._streams[node]
                self._gone(node)
            if sender is not None:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)

    async def _end_unless_leading(self, context: Any) -> None:
        """Send the agent away: a Service moves no stream that is open, and the leader needs its reports."""
        if not self._leading():
            self._stats.refuse("not-leading")
            await context.abort(
                grpc.StatusCode.UNAVAILABLE, "not the leader: another aggregator takes the reports"
            )

    async def _identify(self, token: str, claimed: str, context: Any) -> str:
        """The proven node; without one the stream ends here, with the reason."""
        try:
            return await self._authenticate(token, claimed)
        except PermissionError as error:
            self._stats.refuse("unauthenticated")
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            raise

    def _take(self, message: bytes, node: str) -> bytes:
        """One report in, one acknowledgement out; a refusal names its reason."""
        try:
            report = pb.NodeReport.FromString(message)
        except DecodeError:
            self._stats.reports_malformed_total += 1
            return _ack(0, "malformed: not a NodeReport")
        reason = self._why_refuse(report, node, small=len(message) <= SMALL_BYTES)
        if reason:
            return _ack(report.sequence, reason)
        if report.findings:
            _cut_words(report)
        self._stats.reports_total += 1
        self._stats.events_total += len(report.events)
        self._accept(report)
        self._taken.ack.sequence = report.sequence
        return self._taken.SerializeToString()

    def _why_refuse(self, report: pb.NodeReport, node: str, *, small: bool) -> str:
        name = report.node
        events = 0 if small else len(report.events)
        if not name or len(name) > MAX_NODE_NAME or events > MAX_EVENTS:
            self._stats.reports_malformed_total += 1
            return "malformed: no usable node name, or more events than a report may carry"
        if not small and _most_parts(report) > MAX_PARTS:
            self._stats.reports_malformed_total += 1
            return f"malformed: more than {MAX_PARTS} devices, ports, sources or disks"
        if name != node:
            self._stats.refuse("not-your-node")
            return f"this connection speaks for {node or 'no node'!r}, not for {name!r}"
        if not self._knows(name):
            self._stats.unknown_node_total += 1
            return f"the cluster has no node {name!r}"
        return ""


async def _send(directives: asyncio.Queue[bytes], context: Any, writing: asyncio.Lock) -> None:
    while True:
        directive = await directives.get()
        async with writing:
            await context.write(directive)


def _cut_words(report: pb.NodeReport) -> None:
    for finding in report.findings:
        if len(finding.code) > MAX_WORD or len(finding.subject) > MAX_WORD:
            finding.code = finding.code[:MAX_WORD]
            finding.subject = finding.subject[:MAX_WORD]


def _most_parts(report: pb.NodeReport) -> int:
    return max(
        len(report.gpus),
        len(report.npus),
        len(report.rdma_ports),
        len(report.sources),
        len(report.host.disks),
    )


def _ack(sequence: int, refused: str) -> bytes:
    return pb.Downstream(ack=pb.Ack(sequence=sequence, refused=refused)).SerializeToString()


class IntakeServer:
    """The listening socket. An async context manager; leaving it ends all streams within a second."""

    def __init__(
        self, intake: Intake, listen: str, *, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self._server = grpc.aio.server(options=_SERVER_OPTIONS, maximum_concurrent_rpcs=MAX_STREAMS)
        self._server.add_generic_rpc_handlers((intake.handler(),))
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(listen)
            else:
                self.port = self._server.add_secure_port(listen, credentials)
        except RuntimeError as error:
            why = "the address is in use or not ours" + (
                ", or the certificate and key cannot be used" if credentials else ""
            )
            raise OSError(f"cannot listen for agents on {listen}: {why}") from error
        """The port really bound; differs from the one asked for when that was 0."""

    async def __aenter__(self) -> "IntakeServer":
        await self._server.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._server.stop(grace=0.5)
