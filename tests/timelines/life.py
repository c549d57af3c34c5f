"""One run of the agent over a scenario's machine: it reads, hears, judges and saves as ``agent/runtime.py`` does."""

import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from agent.faults import Timing
from agent.judge import Judge
from agent.overrides import Judgement
from agent.runtime import BETWEEN_SAVES_SECONDS, SAVE_SECONDS
from agent.snapshot import Snapshot
from agent.sources import Reading, SourceAbsentError, SourceError, SourceStuckError
from agent.sources.kmsg import KmsgSource
from agent.sources.pci import PciSource
from agent.sources.rdma import RdmaSource
from agent.state import Restored, encode
from agent.stats import AgentStats
from contract.vocabulary import Event, Finding, SourceState, SourceStatus
from tests.support import START
from tests.timelines.model import Node, Trouble
from tests.timelines.nvml_script import NvmlReader
from tests.timelines.world import World

NODE = "n1"
PATIENT_SECONDS = 60.0
"""Real seconds that a read of the temporary tree may take: a slow test machine is no dead adapter."""


class Life:
    """From one start of the agent to its end."""

    def __init__(
        self, world: World, node: Node, judgement: Judgement, restored: Restored, now: float
    ) -> None:
        self._world = world
        self._now = now
        self._pending: list[Event] = []
        self._statuses: dict[str, SourceStatus] = {}
        self._nvml = NvmlReader(world.nvml, restored.gpus)
        self._rdma = RdmaSource(sysfs_root=str(world.sysfs.root), deadline_seconds=PATIENT_SECONDS)
        self._pci = PciSource(sysfs_root=str(world.sysfs.root), deadline_seconds=PATIENT_SECONDS)
        world.ring.rewind()
        self.stats = AgentStats()
        self._kmsg = KmsgSource(
            str(world.ring.path),
            emit=self._pending.append,
            stats=self.stats,
            clock=lambda: START + self._now,
            boot_seconds=world.boot_seconds,
            resume_after=restored.kmsg_sequence,
        )
        self.judge = Judge(
            catalogue=judgement.catalogue,
            limits=node.limits,
            timing=Timing(started_seconds=START + now),
            book=restored.book,
            memory=restored.memory,
        )
        self.use(judgement)
        self._sources = self._reads()
        self._gpus = restored.gpus
        self._position = restored.kmsg_sequence
        self.snapshot = Snapshot(node=NODE, boot_id=world.boot_id, taken_seconds=START + now)
        self._sampled = False
        self._saved = b""
        self._saved_at = now
        self._unsaved = False
        self._judged: object = None

    def _reads(self) -> dict[str, Callable[[], Awaitable[Reading]]]:
        async def host() -> Reading:
            return Reading(host=self._world.host(self._now))

        async def nvidia() -> Reading:
            return self._nvml.read(self._now)

        async def pods() -> Reading:
            return Reading(pods=self._world.pods)

        reads: dict[str, Callable[[], Awaitable[Reading]]] = {
            "host": host,
            "nvidia": nvidia,
            "rdma": self._rdma.read,
            "kmsg": self._kmsg.read,
            "pods": pods,
            "pci": self._pci.read,
        }
        return reads

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong now."""
        return self.judge.findings

    def use(self, judgement: Judgement) -> None:
        """Judge by this from now on."""
        self.judge.use(judgement.catalogue, judgement.ignored)

    def emit(self, event: Event) -> None:
        """As the NVML listener, or a directive, hands an event over."""
        self._pending.append(event)

    async def listen(self, now: float) -> tuple[Event, ...]:
        """Between two ticks: what can be heard is judged on the readings at hand; returns what is told."""
        self._now = now
        if not self._sampled:
            return ()
        if self._trouble("kmsg") is None:
            with contextlib.suppress(SourceError):  # the next tick tells
                await self._kmsg.read()
        self._keep()
        events = self._take()
        if not events:
            return ()
        self.snapshot = _with_events(self.snapshot, events)
        told = self.judge.hear(events, self.snapshot, START + now)
        self._note_change()
        return told

    async def tick(self, now: float) -> tuple[Event, ...]:
        """Read everything, then judge; returns what is told to others."""
        self._now = now
        self._keep()
        self._world.sysfs.move(now)
        readings = {name: await self._read(name, read) for name, read in self._sources.items()}
        nvidia, host, rdma = readings["nvidia"], readings["host"], readings["rdma"]
        self._gpus = nvidia.gpus or self._gpus
        events = self._take()
        self.snapshot = Snapshot(
            node=NODE,
            boot_id=self._world.boot_id,
            taken_seconds=START + now,
            sources=tuple(self._statuses.values()),
            driver_version=nvidia.driver_version,
            gpus=nvidia.gpus,
            rdma_ports=rdma.rdma_ports,
            host=host.host,
            pci_devices=readings["pci"].pci_devices,
            pods=readings["pods"].pods,
            events=events,
        )
        told = self.judge.hear(events, self.snapshot, START + now) if events else ()
        told += self.judge.look(self.snapshot)
        self._sampled = True
        self._note_change()
        return told

    async def end(self, now: float, *, orderly: bool) -> bytes:
        """The state that the next one starts from."""
        self._now = now
        self._keep()
        state = self._state() if orderly else self._saved
        await self._kmsg.close()
        await self._rdma.close()
        await self._pci.close()
        return state

    def _take(self) -> tuple[Event, ...]:
        events = tuple(self._pending)
        self._pending.clear()
        self._position = self._kmsg.sequence
        return events

    def _keep(self) -> None:
        """Save, if a save is due before what comes now; nothing has changed since the last look."""
        pause = BETWEEN_SAVES_SECONDS if self._unsaved else BETWEEN_SAVES_SECONDS + SAVE_SECONDS
        if self._sampled and self._now - self._saved_at >= pause:
            self._save(self._saved_at + pause)

    def _note_change(self) -> None:
        judged = {(*each.key, each.severity, each.action) for each in self.findings}
        self._unsaved = self._unsaved or judged != self._judged
        self._judged = judged
        first = not self._saved
        if first or (self._unsaved and self._now - self._saved_at >= BETWEEN_SAVES_SECONDS):
            self._save(self._now)

    def _save(self, at: float) -> None:
        self._saved, self._saved_at, self._unsaved = self._state(), at, False

    def _state(self) -> bytes:
        return encode(
            self.judge.book,
            self.judge.memory,
            boot_id=self._world.boot_id,
            kmsg_sequence=self._position,
            gpus=self._gpus,
        )

    def _trouble(self, name: str) -> Trouble | None:
        trouble = self._world.troubles.get(name)
        return None if trouble is None or trouble.word is SourceState.OK else trouble

    async def _read(self, name: str, read: Callable[[], Awaitable[Reading]]) -> Reading:
        trouble = self._trouble(name)
        state, reason, reading = SourceState.OK, "", Reading()
        if trouble is not None:
            state, reason = trouble.word, trouble.reason
        else:
            try:
                reading = await read()
            except SourceAbsentError as error:
                state, reason = SourceState.ABSENT, str(error)
            except SourceStuckError as error:
                state, reason = SourceState.STUCK, str(error)
            except SourceError as error:
                state, reason = SourceState.FAILING, str(error)
        known = self._statuses.get(name)
        since = known.since_seconds if known and known.state is state else START + self._now
        self._statuses[name] = SourceStatus(
            name=name, state=state, reason=reason, since_seconds=since
        )
        return reading


def _with_events(snapshot: Snapshot, events: tuple[Event, ...]) -> Snapshot:
    return msgspec.structs.replace(snapshot, events=events)
