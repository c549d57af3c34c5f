"""Wires sources → checks → exporter + uplink. Owns every task; stops cleanly."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog

from agent import exporter
from agent.catalogue import Catalogue, shipped
from agent.checks import Limits, Memory, forget
from agent.checks import all as all_checks
from agent.config import AgentSettings
from agent.faults import Book, Timing, advance, clear, findings, record_events
from agent.snapshot import Snapshot, readable_snapshot
from agent.sources import Reading, Source, SourceAbsentError, SourceError, SourceStuckError
from agent.stats import AgentStats
from agent.uplink import Uplink
from contract.vocabulary import (
    Directive,
    Event,
    Finding,
    Severity,
    SourceState,
    SourceStatus,
    readable,
)

log = structlog.get_logger("agent")

SOURCE_DEADLINE_SECONDS = 3.0
"""Each source has a deadline of its own below this; this one guards the tick against a source's bug."""


class NodeAgent:
    """The agent of one node: reads, checks, keeps the newest rendered metrics, offers reports.

    ``tick`` and ``drain_events`` are the only places where state changes; both run on the event loop.
    """

    def __init__(
        self,
        *,
        node: str,
        boot_id: str,
        settings: AgentSettings,
        stats: AgentStats,
        clock: Callable[[], float],
        catalogue: Catalogue | None = None,
    ) -> None:
        self.node = node
        self.stats = stats
        self.sources: Sequence[Source] = ()
        self.uplink: Uplink | None = None
        self.snapshot = Snapshot(node=node, boot_id=boot_id, taken_seconds=clock())
        self.findings: tuple[Finding, ...] = ()
        self.metrics = b""
        """What a scrape gets; rendered once per tick."""
        self._settings = settings
        self._boot_id = boot_id
        self._clock = clock
        self._catalogue = catalogue or shipped()
        self._limits = Limits(
            gpu_too_hot_celsius=settings.gpu_too_hot_celsius,
            memory_low_ratio=settings.memory_low_ratio,
            disk_low_ratio=settings.disk_low_ratio,
            expected_gpus=settings.expected_gpus if settings.expected_gpus >= 0 else None,
        )
        self._timing = Timing(
            hold_seconds=settings.hold_seconds,
            clear_seconds=settings.clear_seconds,
            started_seconds=clock(),
        )
        self._memory = Memory()
        self._book: Book = {}
        self._statuses: dict[str, SourceStatus] = {}
        self._pending: list[Event] = []
        self._wake = asyncio.Event()
        self._sampled = asyncio.Event()
        """Set after the first tick: before it there is no snapshot to judge an event by."""

    def readable(self) -> dict[str, Any]:
        """The newest snapshot and what is wrong with it, for people and JSON."""
        return {
            "snapshot": readable_snapshot(self.snapshot),
            "findings": [readable(each) for each in self.findings],
        }

    def emit(self, event: Event) -> None:
        """Take one event from a source; it is judged as soon as the loop turns."""
        self._pending.append(event)
        self._wake.set()

    def directive(self, directive: Directive) -> None:
        """Carry out one directive; only ``clear`` is on the list today, everything else is refused."""
        expired = directive.expires_seconds and directive.expires_seconds < self._clock()
        if directive.kind != "clear" or expired:
            self.stats.directives_refused += 1
            log.warning(
                "directive refused", id=directive.id, kind=directive.kind, expired=bool(expired)
            )
            return
        self._book = clear(self._book, subject=directive.subject, code=directive.code)
        self._memory = forget(self._memory, directive.subject)
        self._wake.set()
        log.info("finding cleared by directive", subject=directive.subject, code=directive.code)

    async def run(self) -> None:
        """Sample in rhythm and judge events at once, until cancelled; then let the sources go."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._sample(), name=f"sampler-{self.node}")
                tasks.create_task(self._listen(), name=f"listener-{self.node}")
        finally:
            await asyncio.gather(*(source.close() for source in self.sources))

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        next_tick = loop.time()
        while True:
            await self.tick()
            self._sampled.set()
            next_tick = max(next_tick + self._settings.sample_seconds, loop.time())
            await asyncio.sleep(next_tick - loop.time())

    async def _listen(self) -> None:
        """Judge what a source pushes without waiting for a tick: a driver that hangs holds ticks up."""
        await self._sampled.wait()
        while True:
            await self._wake.wait()
            self.drain_events()

    async def tick(self) -> None:
        """Read every source side by side, check, export, offer a report."""
        started = asyncio.get_running_loop().time()
        readings = await asyncio.gather(*(self._read(source) for source in self.sources))
        sampled = asyncio.get_running_loop().time()
        events, self._pending = tuple(self._pending), []
        self._wake.clear()
        merged = _merge(readings)
        self.snapshot = Snapshot(
            node=self.node,
            boot_id=self._boot_id,
            taken_seconds=self._clock(),
            sources=tuple(self._statuses.values()),
            driver_version=merged.driver_version,
            gpus=merged.gpus,
            rdma_ports=merged.rdma_ports,
            host=merged.host,
            events=events,
        )
        self._judge(events, with_checks=True)
        self.stats.sample_seconds += sampled - started
        self.stats.check_seconds += asyncio.get_running_loop().time() - sampled

    def drain_events(self) -> None:
        """Judge what came between two ticks on the readings at hand."""
        self._wake.clear()
        events, self._pending = tuple(self._pending), []
        self.snapshot = msgspec.structs.replace(self.snapshot, events=events)
        self._judge(events, with_checks=False)

    def _judge(self, events: tuple[Event, ...], *, with_checks: bool) -> None:
        book = self._book
        if events:
            book = record_events(book, events, self._catalogue, self._timing)
        if with_checks:
            checked = all_checks.run(self.snapshot, self._memory, self._catalogue, self._limits)
            self._memory = checked.memory
            book = advance(book, self.snapshot, checked.observations, self._timing)
        for event in events:
            if event.kind == "clear":
                self._memory = forget(self._memory, event.subject)
            if event.kind == "xid" and event.code is not None:
                self.stats.xid(event.code, event.subject)
        self._book = book
        before, self.findings = self.findings, findings(book)
        self._tell(before)
        if self.uplink is not None:
            self.uplink.offer(
                self.snapshot, self.findings, events, urgent=_is_urgent(before, self.findings)
            )
        self.metrics = exporter.render(
            self.snapshot, self.findings, self.stats, dcgm_names=self._settings.dcgm_names
        )

    def _tell(self, before: tuple[Finding, ...]) -> None:
        old = {each.key: each for each in before}
        new = {each.key: each for each in self.findings}
        for key, finding in new.items():
            if key not in old:
                log.warning(
                    "finding raised",
                    code=finding.code,
                    subject=finding.subject,
                    severity=finding.severity.label,
                    evidence=finding.evidence,
                )
        for key, finding in old.items():
            if key not in new:
                log.info("finding cleared", code=finding.code, subject=finding.subject)

    async def _read(self, source: Source) -> Reading:
        state, reason, reading = SourceState.OK, "", Reading()
        try:
            async with asyncio.timeout(SOURCE_DEADLINE_SECONDS):
                reading = await source.read()
        except SourceAbsentError as error:
            state, reason = SourceState.ABSENT, str(error)
        except (SourceStuckError, TimeoutError) as error:
            state, reason = SourceState.STUCK, str(error) or "no answer in time"
        except SourceError as error:
            state, reason = SourceState.FAILING, str(error)
        except Exception as error:
            state, reason = SourceState.FAILING, f"{type(error).__name__}: {error}"
            log.exception("source failed unexpectedly", source=source.name)
        self._note(source.name, state, reason)
        return reading

    def _note(self, name: str, state: SourceState, reason: str) -> None:
        known = self._statuses.get(name)
        if known is not None and known.state is state:
            if known.reason != reason:
                self._statuses[name] = msgspec.structs.replace(known, reason=reason)
            return
        self._statuses[name] = SourceStatus(
            name=name, state=state, reason=reason, since_seconds=self._clock()
        )
        plain = state in (SourceState.OK, SourceState.ABSENT)
        (log.info if plain else log.warning)("source", name=name, state=state.label, reason=reason)


def _merge(readings: Sequence[Reading]) -> Reading:
    return Reading(
        driver_version=next((each.driver_version for each in readings if each.driver_version), ""),
        gpus=tuple(gpu for each in readings for gpu in each.gpus),
        rdma_ports=tuple(port for each in readings for port in each.rdma_ports),
        host=next((each.host for each in readings if each.host is not None), None),
    )


def _is_urgent(before: tuple[Finding, ...], after: tuple[Finding, ...]) -> bool:
    """Something that others act on is new, or is gone; only what is shown to people can wait."""

    def weighty(found: tuple[Finding, ...]) -> set[tuple[str, str]]:
        return {each.key for each in found if each.severity >= Severity.DEGRADED}

    return weighty(before) != weighty(after)
