"""Wires sources → checks → exporter + uplink. Owns every task; stops cleanly."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from agent import exporter, news
from agent.catalogue import Catalogue
from agent.catalogue.load import shipped
from agent.checks import Limits
from agent.checks.gpu_resets import Counters
from agent.config import AgentSettings
from agent.faults import Timing
from agent.judge import Judge
from agent.overrides import Judgement
from agent.snapshot import Snapshot, readable_snapshot
from agent.sources import Reading, Source, SourceAbsentError, SourceError, SourceStuckError
from agent.sources.overrides import OverridesSource
from agent.state import Restored, encode
from agent.state_file import StateFile
from agent.stats import AgentStats
from agent.uplink import Uplink
from contract import report_pb2 as pb
from contract.vocabulary import Event, Finding, SourceState, SourceStatus, readable

if TYPE_CHECKING:  # loaded only where there is a key: most agents do not pay for it
    from agent.repairs.desk import Repairs

log = structlog.get_logger("agent")

SAVE_SECONDS = 30.0
"""How often the state is saved while nothing is raised or cleared.

What a crash loses of it is read again from the kernel log."""

BETWEEN_SAVES_SECONDS = 0.5

WAIT_FOR_OVERRIDES_SECONDS = 5.0
"""At the start nothing is judged before the overrides are in force; after this long it is, and that is told."""

BETWEEN_LOOKS_SECONDS = 0.2
"""Between two ticks while that is waited for."""

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
        monotonic: Callable[[], float] | None = None,
        catalogue: Catalogue | None = None,
        restored: Restored | None = None,
        state_file: StateFile | None = None,
    ) -> None:
        self.node = node
        self.stats = stats
        self.sources: Sequence[Source] = ()
        self.uplink: Uplink | None = None
        self.repairs: Repairs | None = None
        self.snapshot = Snapshot(node=node, boot_id=boot_id, taken_seconds=clock())
        self._page = b""
        self.overrides: OverridesSource | None = None
        self.kmsg_position: Callable[[], int | None] = lambda: None
        """The kernel's number of the newest record handed over."""
        restored = restored or Restored()
        self._judge = Judge(
            catalogue=catalogue or shipped(),
            limits=Limits(
                gpu_too_hot_celsius=settings.gpu_too_hot_celsius,
                memory_low_ratio=settings.memory_low_ratio,
                disk_low_ratio=settings.disk_low_ratio,
                expected_gpus=settings.expected_gpus if settings.expected_gpus >= 0 else None,
            ),
            timing=Timing(
                hold_seconds=settings.hold_seconds,
                clear_seconds=settings.clear_seconds,
                started_seconds=clock(),
            ),
            book=restored.book,
            memory=restored.memory,
        )
        self._settings = settings
        self._boot_id = boot_id
        self._clock = clock
        self._monotonic = monotonic
        """Of the time between two ticks, which the wall clock does not tell when it is set anew."""
        self._ticked: float | None = None
        self._judgement: Judgement | None = None
        self._state_file = state_file
        self._saved_seconds = 0.0
        self._position = restored.kmsg_sequence
        """Of the kernel log, up to which everything was judged."""
        self._gpus = restored.gpus
        """Those this node has, also while nobody can read them."""
        self._statuses: dict[str, SourceStatus] = {}
        self._pending: list[Event] = []
        self._wake = asyncio.Event()
        self._sampled = asyncio.Event()
        """Set after the first tick that judged: before it there is no snapshot to judge an event by."""
        self._judging = False
        self._waiting_since: float | None = None
        self._unsaved = asyncio.Event()
        self._ticking = asyncio.Event()
        """Set when the tick under way ends; each has its own."""

    @property
    def judging(self) -> bool:
        """Whether what it reads is judged; not before the overrides are in force, or do not come."""
        return self._judging

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong now, worst first."""
        return self._judge.findings

    def readable(self) -> dict[str, Any]:
        """The newest snapshot and what is wrong with it, for people and JSON."""
        return {
            "snapshot": readable_snapshot(self.snapshot),
            "findings": [readable(each) for each in self.findings],
            "health": {
                subject: health.value
                for subject, health in self._judge.health(self.snapshot).items()
            },
        }

    @property
    def metrics(self) -> bytes:
        """What a scrape gets: the newest tick. Rendered when asked for, once; most ticks nobody asks."""
        self._page = self._page or exporter.render(
            self.snapshot,
            self.findings,
            self.stats,
            health=self._judge.health(self.snapshot),
            dcgm_names=self._settings.dcgm_names,
        )
        return self._page

    def emit(self, event: Event) -> None:
        """Take one event from a source; it is judged as soon as the loop turns."""
        self._pending.append(event)
        self._wake.set()

    def directive(self, signed: pb.SignedDirective) -> None:
        """Take one directive; without a key to check it by, none can be believed."""
        if self.repairs is not None:
            self.repairs.take(signed)
            return
        if not self.stats.directives_refused:
            log.warning("directives are refused", reason="no directive_public_key_file is set")
        self.stats.directives_refused += 1

    def outcomes_changed(self) -> None:
        """What became of a directive must not wait for the rhythm."""
        if self._judging:  # else there is nothing yet that a report could be made of
            self._offer((), urgent=True)

    async def next_snapshot(self) -> Snapshot:
        """The first one whose tick ends from now on."""
        await self._ticking.wait()
        return self.snapshot

    @property
    def gpu_counters(self) -> Counters:
        """What each GPU's counters were when last read."""
        return self._judge.memory.gpu.counters

    async def run(self) -> None:
        """Sample in rhythm and judge events at once, until cancelled; then let the sources go."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._sample(), name=f"sampler-{self.node}")
                tasks.create_task(self._listen(), name=f"listener-{self.node}")
                if self.repairs is not None:
                    tasks.create_task(self.repairs.run(), name=f"repairs-{self.node}")
                if self._state_file is not None:
                    tasks.create_task(self._keep(self._state_file), name=f"keeper-{self.node}")
        finally:
            if self._state_file is not None:
                await self._state_file.save(self._state())
                self._state_file.close()
            await asyncio.gather(*(source.close() for source in self.sources))

    async def _keep(self, file: StateFile) -> None:
        """Save what changed at once, and what drifts (counts, positions) now and then."""
        while True:
            await self._sampled.wait()
            self._unsaved.clear()
            await file.save(self._state())
            await asyncio.sleep(BETWEEN_SAVES_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAVE_SECONDS):
                    await self._unsaved.wait()

    def _state(self) -> bytes:
        return encode(
            self._judge.book,
            self._judge.memory,
            boot_id=self._boot_id,
            node=self.node,
            kmsg_sequence=self._position,
            gpus=self._gpus,
        )

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        next_tick = loop.time()
        while True:
            await self.tick()
            pause = self._settings.sample_seconds
            if self._judging:
                self._sampled.set()
            else:
                pause = min(pause, BETWEEN_LOOKS_SECONDS)
            next_tick = max(next_tick + pause, loop.time())
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
        merged = _merge(readings)
        self._gpus = merged.gpus or self._gpus
        self._judging = self._judging or self._may_judge(sampled)
        events = self._take() if self._judging else ()
        self.snapshot = Snapshot(
            node=self.node,
            boot_id=self._boot_id,
            taken_seconds=self._clock(),
            elapsed_seconds=self._elapsed(),
            sources=tuple(self._statuses.values()),
            **msgspec.structs.asdict(merged),
            events=events,
        )
        if self._judging:
            self._follow_overrides()
            self._decide(events, with_checks=True)
        ticking, self._ticking = self._ticking, asyncio.Event()
        ticking.set()
        self.stats.sample_seconds += sampled - started
        self.stats.check_seconds += asyncio.get_running_loop().time() - sampled

    def _elapsed(self) -> float | None:
        """Seconds since the tick before; ``None`` at the first, or without a clock that tells."""
        if self._monotonic is None:
            return None
        before, self._ticked = self._ticked, self._monotonic()
        return None if before is None else self._ticked - before

    def _may_judge(self, now: float) -> bool:
        """Whether the overrides are in force, or were waited for long enough; ``now`` by the loop's clock."""
        if self.overrides is None:
            return True
        driver = self._statuses.get("nvidia")
        may_come = driver is not None and driver.state is not SourceState.ABSENT
        awaited = self.overrides.awaited(model_may_come=may_come and not self._gpus)
        self._waiting_since = now if self._waiting_since is None else self._waiting_since
        if awaited and now - self._waiting_since < WAIT_FOR_OVERRIDES_SECONDS:
            return False
        if awaited:
            log.warning("judging before all overrides are in force", why=awaited)
        return True

    def _follow_overrides(self) -> None:
        if self.overrides is None:
            return
        judgement = self.overrides.judgement(self._gpus[0].model if self._gpus else "")
        if judgement is not self._judgement:
            self._judgement = judgement
            self._judge.use(judgement.catalogue, judgement.ignored)
            log.info("judging by overrides", entries=len(judgement.entries))

    def drain_events(self) -> None:
        """Judge what came between two ticks on the readings at hand."""
        events = self._take()
        self.snapshot = msgspec.structs.replace(self.snapshot, events=events)
        self._decide(events, with_checks=False)

    def _take(self) -> tuple[Event, ...]:
        """Everything emitted so far, which is everything up to this position of the kernel log."""
        self._wake.clear()
        events, self._pending = tuple(self._pending), []
        self._position = self.kmsg_position()
        return events

    def _decide(self, events: tuple[Event, ...], *, with_checks: bool) -> None:
        before = self.findings
        told: tuple[Event, ...] = ()
        if events:
            told = self._judge.hear(events, self.snapshot, self._clock())
        if with_checks:
            told += self._judge.look(self.snapshot)
        for event in events:
            if event.kind == "xid" and event.code is not None:
                self.stats.xid(event.code, event.subject, event.count)
        changed = news.judgements(before) != news.judgements(self.findings)
        if changed:
            news.tell(before, self.findings)
            self._unsaved.set()
        self._offer(told, urgent=news.is_urgent(before, self.findings))
        if with_checks or changed:
            self._page = b""

    def _offer(self, told: tuple[Event, ...], *, urgent: bool) -> None:
        if self.uplink is None:
            return
        repairs = self.repairs
        self.uplink.offer(
            self.snapshot,
            self.findings,
            told,
            urgent=urgent,
            outcomes=repairs.outcomes if repairs else (),
            repairs=repairs.kinds if repairs else (),
        )

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
                if name == "overrides":  # another mistake, not another value
                    log.warning("source", name=name, state=state.label, reason=reason)
                self._statuses[name] = msgspec.structs.replace(known, reason=reason)
            return
        self._statuses[name] = SourceStatus(
            name=name, state=state, reason=reason, since_seconds=self._clock()
        )
        plain = state in (SourceState.OK, SourceState.ABSENT)
        (log.info if plain else log.warning)("source", name=name, state=state.label, reason=reason)


def _merge(readings: Sequence[Reading]) -> Reading:
    """Every source's part; of what only one can say, the first word."""
    merged: dict[str, Any] = {}
    for name in Reading.__struct_fields__:
        said = [value for each in readings if (value := getattr(each, name))]
        if said:
            merged[name] = (
                tuple(item for value in said for item in value)
                if isinstance(said[0], tuple)
                else said[0]
            )
    return Reading(**merged)
