"""The edge to a real cluster: reflectors for reading, writers for writing, a Lease to be alone."""

import asyncio
import random as random_module
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import msgspec
import structlog

from aggregator.cluster import ClusterEdge, EdgeError
from aggregator.cluster.client import Api
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.errors import ApiError
from aggregator.cluster.events import EventRecorder
from aggregator.cluster.incidents import INCIDENTS, IncidentWriter, from_object
from aggregator.cluster.lease import Elector, LeaseSettings
from aggregator.cluster.nodes import NODES, NodeWriter, reduce_node
from aggregator.cluster.overlay import Overlay
from aggregator.cluster.reflector import Reflector, Timings
from aggregator.cluster.tokens import AUDIENCE, TokenReviewer
from aggregator.policy.model import (
    ClusterView,
    Intent,
    RecordEvent,
    RemoveTaint,
    SaveIncident,
    SetCondition,
    SetTaint,
    kind_of,
)

log = structlog.get_logger()


class KubernetesSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which cluster, and how to behave in it."""

    kubeconfig: Path | None = None
    """A file, or ``None`` for the service account of the pod that we run in."""
    lease: LeaseSettings = msgspec.field(default_factory=LeaseSettings)
    agent_service_account: str = "fleetmedic/fleetmedic-agent"
    """``namespace/name`` that an agent's token has to be of."""
    audience: str = AUDIENCE
    """That an agent's token has to be meant for."""
    dry_run: bool = False
    """Read the real cluster, write nothing, and show the view as if it had been written."""
    reflector: Timings = msgspec.field(default_factory=Timings)


class KubernetesEdge(ClusterEdge):
    """Reads and writes a real cluster. One owner: the event loop.

    Args:
        settings: which cluster and how.
        clock: monotonic seconds.
        wall: Unix time.
        random: 0 ≤ x < 1, for jitter.
        api: the way to the server, where a test puts something in between.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
        api: Api | None = None,
    ) -> None:
        self._api = api or Api(Credentials(settings.kubeconfig))
        self._listener: Callable[[], None] = _nobody
        self._snapshot: ClusterView | None = None
        self._overlay = Overlay() if settings.dry_run else None
        self._nodes = Reflector(
            self._api,
            NODES,
            reduce_node,
            on_change=self._changed,
            clock=clock,
            random=random,
            timings=settings.reflector,
        )
        self._incidents = Reflector(
            self._api,
            INCIDENTS,
            from_object,
            on_change=self._changed,
            clock=clock,
            random=random,
            timings=settings.reflector,
        )
        self._elector = Elector(
            self._api,
            settings.lease,
            on_change=self._leadership_changed,
            clock=clock,
            wall=wall,
            random=random,
        )
        self._node_writer = NodeWriter(
            self._api, self._nodes, permit=self._permit, wall=wall, random=random
        )
        self._incident_writer = IncidentWriter(self._api, self._incidents, permit=self._permit)
        self._events = EventRecorder(self._api, wall=wall, permit=self._permit)
        self.tokens = TokenReviewer(
            self._api, settings.agent_service_account, clock=clock, audience=settings.audience
        )
        """Tells which node an agent's token proves."""

    @property
    def mode(self) -> str:
        """``kubernetes`` or ``dry-run``."""
        return "kubernetes" if self._overlay is None else "dry-run"

    @property
    def leading(self) -> bool:
        """Whether this process may act now; a dry run acts on nothing and so always may."""
        return self._overlay is not None or self._elector.leading

    @property
    def view_age_seconds(self) -> float:
        """Of the collection that the server has been silent about for longer; bookmarks count."""
        return max(self._nodes.last_event_age, self._incidents.last_event_age)

    @property
    def read_errors(self) -> int:
        """Lists and watches that failed since the start."""
        return self._nodes.errors_total + self._incidents.errors_total

    async def run(self, on_change: Callable[[], None]) -> None:
        """Keep the view fresh until cancelled; ``on_change`` also tells of leading and not."""
        self._listener = on_change
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._api.keep_fresh(), name="credentials")
                tasks.create_task(self._nodes.run(), name="nodes")
                tasks.create_task(self._incidents.run(), name="incidents")
                if self._overlay is None:
                    tasks.create_task(self._elector.run(), name="lease")
        finally:
            self._listener = _nobody

    def view(self) -> ClusterView:
        """The newest picture; built once per change, however often it is asked for."""
        if self._snapshot is None:
            nodes = {name: entry.value.node for name, entry in self._nodes.entries.items()}
            incidents = {name: entry.value for name, entry in self._incidents.entries.items()}
            if self._overlay is not None:
                nodes = self._overlay.nodes(nodes)
                incidents = self._overlay.incidents(incidents)
            self._snapshot = ClusterView(
                synced=self._nodes.synced and self._incidents.synced,
                nodes=MappingProxyType(nodes),
                incidents=MappingProxyType(incidents),
            )
        return self._snapshot

    def knows(self, node: str) -> bool:
        """Whether there is such a Node object."""
        return node in self._nodes.entries

    async def apply(self, intent: Intent) -> None:
        """Carry out one intent, or record it in a dry run; the view shows it when this returns.

        Raises:
            EdgeError: it was not carried out.
        """
        self._permit()
        if self._overlay is not None:
            self._overlay.record(intent)
            self._changed()
            return
        try:
            await self._write(intent)
        except ApiError as error:
            raise EdgeError(f"{kind_of(intent)} for node {intent.node}: {error}") from error

    async def close(self) -> None:
        """Give up leadership, if held, and let go of connections."""
        try:
            if self._overlay is None:
                await self._elector.release()
        except ApiError as error:
            log.warning("the lease is left to expire", error=str(error))
        finally:
            await self._api.close()

    async def _write(self, intent: Intent) -> None:
        match intent:
            case SetTaint():
                await self._node_writer.set_taint(intent.node, intent.taint)
            case RemoveTaint():
                await self._node_writer.set_taint(intent.node, None)
            case SetCondition():
                await self._node_writer.set_condition(intent.node, intent.type, intent.condition)
            case RecordEvent():
                await self._events.record(intent, self._uid(intent.node))
            case SaveIncident():
                await self._incident_writer.save(intent.incident)

    def _uid(self, node: str) -> str:
        entry = self._nodes.entries.get(node)
        return entry.value.uid if entry is not None else ""

    def _permit(self) -> None:
        if not self.leading:
            raise EdgeError("not the leader: another aggregator decides, or none does yet")

    def _leadership_changed(self) -> None:
        """A new leader first reads anew: its picture may be older than what the last one wrote."""
        if self._elector.leading:
            self._nodes.refresh()
            self._incidents.refresh()
        self._changed()

    def _changed(self) -> None:
        self._snapshot = None
        self._listener()


def _nobody() -> None:
    """Nobody listens."""
