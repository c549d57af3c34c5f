"""The stream to the aggregator: the latest state up, directives down; patient while it is away.

What must not be lost is small: the newest state replaces the one before it, and events wait in a bounded
buffer until a report that carried them is acknowledged. So an outage of any length costs constant memory,
and the first report after it tells everything that still matters.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
import structlog
from google.protobuf.message import DecodeError

from agent.report import encode
from agent.snapshot import Snapshot
from agent.stats import AgentStats
from contract import report_pb2 as pb
from contract.vocabulary import DirectiveOutcome, Event, Finding
from contract.wire import CONNECT_METHOD, MAX_REPORT_BYTES, NODE_METADATA, TOKEN_METADATA

log = structlog.get_logger("uplink")

MAX_EVENTS_PER_REPORT = 200
ACK_DEADLINE_SECONDS = 15.0
"""A stream whose reports go unanswered for this long is torn down and opened anew."""

_CHANNEL_OPTIONS = (
    # A new channel is a new connection, which the Service leads to whoever leads by then.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # No estimate of the bandwidth: it costs a ping and its answer for each acknowledgement.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_send_message_length", MAX_REPORT_BYTES),
)


class UplinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where to report, and how patiently."""

    node: str
    """The node this stream speaks for."""
    target: str
    """host:port"""
    ca_file: str = ""
    token_file: str = ""
    report_seconds: float = 5.0
    event_buffer: int = 1_000
    backoff_first_seconds: float = 0.2
    backoff_most_seconds: float = 5.0
    agent_version: str = ""


class _State(msgspec.Struct, frozen=True):
    """What the next report tells, beside the events."""

    snapshot: Snapshot
    findings: tuple[Finding, ...]
    outcomes: tuple[DirectiveOutcome, ...]
    repairs: tuple[str, ...]


class Uplink:
    """One agent's connection. Created and used on one event loop."""

    def __init__(
        self,
        settings: UplinkSettings,
        *,
        stats: AgentStats,
        random: Callable[[], float],
        on_directive: Callable[[pb.SignedDirective], None],
    ) -> None:
        self._settings = settings
        self._stats = stats
        self._random = random
        self._on_directive = on_directive
        self._state: _State | None = None
        self._events: deque[Event] = deque()
        self._events_taken = 0
        """How many events ever left the front of the buffer; with it an event has a stable position."""
        self._sent_up_to: dict[int, int] = {}
        """Sequence → position after the last event that report carried."""
        self._sequence = 0
        self._session_number = 0
        self._urgent = False
        self._wake = asyncio.Event()
        self._oldest_unanswered: float | None = None
        self._refused = ""
        self.connected = False

    def offer(
        self,
        snapshot: Snapshot,
        findings: tuple[Finding, ...],
        events: Iterable[Event],
        *,
        urgent: bool,
        outcomes: tuple[DirectiveOutcome, ...] = (),
        repairs: tuple[str, ...] = (),
    ) -> None:
        """Take the newest state and new events. Never blocks; ``urgent`` sends it at once.

        Args:
            snapshot: the newest one.
            findings: all that are raised, worst first.
            events: those that are new.
            urgent: whether it must not wait for the rhythm.
            outcomes: of every directive that this agent remembers.
            repairs: kinds of directive that it carries out.
        """
        if self._state is None:
            self._wake.set()  # the first state is news
        self._state = _State(snapshot, findings, outcomes, repairs)
        for event in events:
            if len(self._events) >= self._settings.event_buffer:
                self._events.popleft()
                self._events_taken += 1
                self._stats.events_dropped += 1
            self._events.append(event)
        if urgent:
            self._urgent = True
            self._wake.set()

    async def run(self) -> None:
        """Keep a stream open until cancelled."""
        attempt = 0
        while True:
            acked_before = self._stats.reports_acked
            try:
                await self._session()
                reason = "the aggregator ended the stream"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except (TimeoutError, OSError, ValueError) as error:
                reason = str(error)
            attempt = 0 if self._stats.reports_acked > acked_before else attempt + 1
            delay = backoff_seconds(self._settings, attempt, self._random())
            log.warning(
                "aggregator away",
                target=self._settings.target,
                reason=reason,
                retry_seconds=round(delay, 2),
            )
            self._stats.reconnects += 1
            await asyncio.sleep(delay)

    async def _session(self) -> None:
        """One stream, from opening it to its end."""
        async with self._channel() as channel:
            method = channel.stream_stream(CONNECT_METHOD)
            call = method(self._reports(), metadata=self._metadata())
            reader = asyncio.create_task(self._read(call), name="uplink-reader")
            watchdog = asyncio.create_task(self._watch_acks(), name="uplink-watchdog")
            try:
                await asyncio.wait({reader, watchdog}, return_when=asyncio.FIRST_COMPLETED)
                if watchdog.done():
                    raise TimeoutError(f"no acknowledgement for {ACK_DEADLINE_SECONDS:g} s")
                if reader.cancelled():  # gRPC's answer to an error in our own report generator
                    raise ValueError("no report could be sent")
                reader.result()
            finally:
                self.connected = False
                self._session_number += 1
                self._wake.set()  # gRPC leaves the generator of a call that the other side ended
                call.cancel()
                reader.cancel()
                watchdog.cancel()
                await asyncio.gather(reader, watchdog, return_exceptions=True)

    async def _read(self, call: Any) -> None:
        async for message in call:
            self._received(message)

    def _channel(self) -> grpc.aio.Channel:
        target = self._settings.target
        if not self._settings.ca_file:
            return grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(Path(self._settings.ca_file).read_bytes())
        return grpc.aio.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        pairs = [(NODE_METADATA, self._settings.node)]
        if self._settings.token_file:
            # Read at every connection: projected tokens are renewed in place.
            token = Path(self._settings.token_file).read_text().strip()
            pairs.append((TOKEN_METADATA, f"Bearer {token}"))
        return tuple(pairs)

    async def _reports(self) -> AsyncIterator[bytes]:
        """What goes up: the whole state at once, then in rhythm, and whenever it is urgent."""
        self._sent_up_to.clear()
        self._oldest_unanswered = None
        loop = asyncio.get_running_loop()
        session = self._session_number
        while session == self._session_number:
            urgent, self._urgent = self._urgent, False
            self._wake.clear()
            if self._state is not None:
                report = self._next_report(urgent=urgent)
                if self._oldest_unanswered is None:  # before the answer can be here
                    self._oldest_unanswered = loop.time()
                yield report
                self._stats.reports_sent += 1
            if self._urgent:
                continue
            try:
                await asyncio.wait_for(self._wake.wait(), self._settings.report_seconds)
            except TimeoutError:
                continue

    def _next_report(self, *, urgent: bool) -> bytes:
        assert self._state is not None  # noqa: S101 - the caller looked
        state, findings = self._state, self._state.findings
        self._sequence += 1
        events = list(self._events)[:MAX_EVENTS_PER_REPORT]
        while True:
            try:
                report = encode(
                    state.snapshot,
                    findings,
                    events,
                    sequence=self._sequence,
                    urgent=urgent,
                    events_dropped_total=self._stats.events_dropped,
                    agent_version=self._settings.agent_version,
                    outcomes=state.outcomes,
                    repairs=state.repairs,
                )
            except ValueError as error:
                log.error("report cannot be encoded", reason=str(error))  # noqa: TRY400
                raise
            if len(report) <= MAX_REPORT_BYTES or not (findings or events):
                break
            # Rather the worst of it than a stream that breaks for ever: findings come worst first.
            if len(findings) > len(events):
                findings = findings[: len(findings) // 2]
            else:
                events = events[: len(events) // 2]
        self._sent_up_to[self._sequence] = self._events_taken + len(events)
        return report

    def _received(self, message: Any) -> None:
        try:
            down = pb.Downstream.FromString(message)
        except DecodeError:
            log.warning("malformed message from the aggregator", bytes=len(message))
            return
        kind = down.WhichOneof("body")
        if kind == "ack":
            self._acknowledged(down.ack)
        elif kind == "directive":
            self._on_directive(down.directive)

    def _acknowledged(self, ack: pb.Ack) -> None:
        if not self.connected:
            self.connected = True
            log.info("aggregator connected", target=self._settings.target)
        self._oldest_unanswered = None
        position = self._sent_up_to.pop(ack.sequence, 0)
        if ack.refused != self._refused:
            self._refused = ack.refused
            if ack.refused:
                log.warning("report refused", sequence=ack.sequence, reason=ack.refused)
        if ack.refused:
            return  # nobody has its events yet
        self._stats.reports_acked += 1
        while self._events and self._events_taken < position:
            self._events.popleft()
            self._events_taken += 1
        if len(self._events) > 0 and position:
            self._wake.set()  # more waits than one report may carry

    async def _watch_acks(self) -> None:
        """Return when a report has gone unanswered for too long."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(ACK_DEADLINE_SECONDS / 5)
            oldest = self._oldest_unanswered
            if oldest is not None and loop.time() - oldest > ACK_DEADLINE_SECONDS:
                return


def backoff_seconds(settings: UplinkSettings, attempt: int, random: float) -> float:
    """How long to wait before try number ``attempt`` (from 0); full jitter over the upper half.

    Args:
        settings: first and longest wait.
        attempt: tries that failed in a row.
        random: a number in [0, 1).
    """
    longest = min(
        settings.backoff_most_seconds, settings.backoff_first_seconds * 2.0 ** min(attempt, 16)
    )
    return longest * (0.5 + random / 2)
