"""The edge to a real cluster: reflectors for reading, writers for writing, a Lease to be alone."""

import asyncio
import random as random_module
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import structlog

from aggregator.cluster import NO_PODS, ClusterEdge, EdgeError, PodChange
from aggregator.cluster.client import Api
from aggregator.cluster.cluster_queues import KueueQuota
from aggregator.cluster.control import Control
from aggregator.cluster.credentials import Credentials
from aggregator.cluster.devices.desk import DeviceDesk
from aggregator.cluster.errors import ApiError
from aggregator.cluster.events import EventRecorder
from aggregator.cluster.incidents import INCIDENTS, IncidentWriter, from_object
from aggregator.cluster.kubernetes_workloads import KubernetesWorkloads
from aggregator.cluster.lease import Elector, LeaseSettings
from aggregator.cluster.node_writer import NodeWriter
from aggregator.cluster.nodes import NODES, NodeRecord, reduce_node
from aggregator.cluster.overlay import Overlay
from aggregator.cluster.pen import Pen
from aggregator.cluster.pod_informer import FailingPods, PodInformer
from aggregator.cluster.reflector import Reflector, Timings
from aggregator.cluster.requeue import Requeues
from aggregator.cluster.tokens import AUDIENCE, TokenReviewer
from aggregator.feeds.kueue_quota import QuotaSettings
from aggregator.policy.devices.values import DeviceSettings
from aggregator.policy.model import (
    ClusterView,
    Cordon,
    ForgetIncident,
    Intent,
    Notify,
    RecordEvent,
    RemoveTaint,
    SaveIncident,
    SetCondition,
    SetTaint,
    Uncordon,
    kind_of,
)
from aggregator.scores.failed_pods import PodFailure
from aggregator.scores.placed import PlacedPod

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
    """Let the server judge every write and keep none, and show the view as if all had been kept."""
    reflector: Timings = msgspec.field(default_factory=Timings)
    quotas: QuotaSettings = msgspec.field(default_factory=QuotaSettings)
    """Which of Kueue's quotas follow the healthy nodes; by default none."""
    devices: DeviceSettings = msgspec.field(default_factory=DeviceSettings)
    """Which back-ends take single devices out; by default none."""
    watch_pods: bool = True
    """Whether to follow all pods, for scores; without, they go by reports alone."""
    failing_pods: FailingPods = "by-tenant"
    """Whether to watch for pods that fail at once, where pods are followed, and whose failures count for one."""


class KubernetesEdge(ClusterEdge):
    """Reads and writes a real cluster. One owner: the event loop.

    Args:
        settings: which cluster and how.
        clock: monotonic seconds.
        wall: Unix time.
        random: 0 ≤ x < 1, for jitter.
        api: the way to the server, where a test puts something in between.
        notifier: tells the webhook, or raises ``EdgeError``; ``None``: there is none.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        random: Callable[[], float] = random_module.random,
        api: Api | None = None,
        notifier: Callable[[Notify], Awaitable[None]] | None = None,
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
        self._control = Control(
            self._api,
            settings.lease.namespace,
            on_change=self._changed,
            clock=clock,
            random=random,
            timings=settings.reflector,
        )
        self._pods = (
            PodInformer(
                self._api,
                clock=clock,
                random=random,
                timings=settings.reflector,
                failures=settings.failing_pods,
                wall=wall,
            )
            if settings.watch_pods
            else None
        )
        self._elector = Elector(
            self._api,
            settings.lease,
            on_change=self._leadership_changed,
            clock=clock,
            wall=wall,
            random=random,
        )
        self._notifier = notifier
        self._pen = pen = Pen(self._api, permit=self.permit, dry_run=settings.dry_run)
        self._node_writer = NodeWriter(self._api, self._nodes, pen=pen, wall=wall, random=random)
        self._incident_writer = IncidentWriter(self._api, self._incidents, pen=pen)
        self._events = EventRecorder(self._api, pen=pen, wall=wall)
        self._requeues = Requeues(self._api, pen, clock=clock)
        self._workloads = KubernetesWorkloads(self._api, pen, self._requeues)
        self._quota = KueueQuota(self._api, pen, settings.quotas, permit=self.permit)
        self.devices = DeviceDesk(
            self._api, pen, settings.devices, permit=self.permit, on_change=self._changed
        )
        """Who takes single devices out of scheduling, where that is on."""
        self.hardware: Callable[[str], Mapping[str, str]] = lambda _: {}
        """Node → device (``gpu:0000:3b:00.0``) → UUID, as its agent reports; set by who has the reports."""
        self._wall = wall
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
    def api(self) -> Api:
        """The way to the server, for what reads more of it; whatever writes asks ``permit`` first."""
        return self._api

    @property
    def pen(self) -> Pen:
        """The hand that writes, for what writes more; it asks ``permit`` by itself."""
        return self._pen

    @property
    def nodes(self) -> Reflector[NodeRecord]:
        """The Node objects as followed, for what writes to them: give back what the server answers (``put``)."""
        return self._nodes

    @property
    def pods(self) -> Mapping[str, PlacedPod]:
        """All pods that have not ended, by ``namespace/name``; changes under the reader's hands."""
        return self._pods.pods if self._pods is not None else NO_PODS

    @property
    def pods_known(self) -> bool:
        """Whether pods can be followed, and were listed."""
        return self._pods is not None and self._pods.known

    @property
    def pods_trouble(self) -> str:
        """Why pods are not known, or not as of now; empty: they are."""
        return self._pods.trouble if self._pods is not None else "following pods is switched off"

    def take_pod_changes(self) -> Sequence[PodChange]:
        """What changed in ``pods`` since this was last called; for one caller."""
        return self._pods.take_changes() if self._pods is not None else ()

    def take_pod_failures(self) -> Sequence[PodFailure]:
        """Pods that failed at once, as seen since this was last called; for one caller."""
        return self._pods.take_failures() if self._pods is not None else ()

    @property
    def workloads(self) -> KubernetesWorkloads:
        """Pods and what guards them, read live."""
        return self._workloads

    @property
    def view_age_seconds(self) -> float:
        """Of the collection that the server has been silent about for longer; bookmarks count."""
        return max(each.last_event_age for each in self._reflectors)

    @property
    def read_errors(self) -> int:
        """Lists and watches that failed since the start."""
        return sum(each.errors_total for each in self._reflectors)

    @property
    def _reflectors(self) -> tuple[Reflector[Any], ...]:
        return (self._nodes, self._incidents, self._control.reflector)

    async def run(self, on_change: Callable[[], None]) -> None:
        """Keep the view fresh until cancelled; ``on_change`` also tells of leading and not."""
        self._listener = on_change
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._api.keep_fresh(), name="credentials")
                tasks.create_task(self._nodes.run(), name="nodes")
                tasks.create_task(self._incidents.run(), name="incidents")
                tasks.create_task(self._control.reflector.run(), name="control")
                tasks.create_task(self._requeues.run(), name="requeues")
                tasks.create_task(self._quota.run(self.view, self._wall), name="quotas")
                tasks.create_task(
                    self.devices.run(self.view, self.hardware, self._wall), name="devices"
                )
                if self._pods is not None:
                    tasks.create_task(self._pods.run(), name="pods")
                if self._overlay is None:
                    tasks.create_task(self._elector.run(), name="lease")
        finally:
            self._listener = _nobody

    def view(self) -> ClusterView:
        """The newest picture; built once per change, however often it is asked for."""
        synced = self._nodes.synced and self._incidents.synced and self._control.known
        if self._snapshot is None or self._snapshot.synced != synced:
            nodes = {name: entry.value.node for name, entry in self._nodes.entries.items()}
            incidents = {name: entry.value for name, entry in self._incidents.entries.items()}
            if self._overlay is not None:
                nodes = self._overlay.nodes(nodes)
                incidents = self._overlay.incidents(incidents)
            self._snapshot = ClusterView(
                synced=synced,
                nodes=MappingProxyType(nodes),
                incidents=MappingProxyType(incidents),
                stopped=self._control.stopped,
                device_quarantines=self.devices.in_force_on(nodes),
                device_words=self.devices.words,
            )
        return self._snapshot

    def knows(self, node: str) -> bool:
        """Whether there is such a Node object."""
        return node in self._nodes.entries

    def permit(self) -> None:
        """Refuse unless this process leads, by the monotonic clock, and no person stopped it.

        Raises:
            EdgeError: why not.
        """
        if not self.leading:
            raise EdgeError("not the leader: another aggregator decides, or none does yet")
        if why := self._control.forbids:
            raise EdgeError(why)

    async def apply(self, intent: Intent) -> None:
        """Carry out one intent, in a dry run as far as the server's judgement; the view then shows it.

        Raises:
            EdgeError: it was not carried out.
        """
        self.permit()
        try:
            await self._write(intent)
        except ApiError as error:
            raise EdgeError(f"{kind_of(intent)} for node {intent.node}: {error}") from error
        if self._overlay is not None:
            self._overlay.record(intent)
            self._changed()

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
                await self._node_writer.set_taint(intent.node, intent.taint, intent.incident)
            case RemoveTaint():
                await self._node_writer.remove_taint(intent.node)
            case Cordon():
                await self._node_writer.cordon(intent.node, intent.incident)
            case Uncordon():
                await self._node_writer.uncordon(intent.node)
            case SetCondition():
                await self._node_writer.set_condition(intent.node, intent.type, intent.condition)
            case RecordEvent():
                await self._events.record(intent, self._uid(intent.node))
            case SaveIncident():
                if not self._imagined(intent.incident.name):
                    await self._incident_writer.save(intent.incident)
            case ForgetIncident():
                await self._incident_writer.forget(intent.name)
            case Notify():
                await self._notify(intent)

    def _imagined(self, incident: str) -> bool:
        """Whether it is there only as far as a dry run goes, so that there is nothing to write to."""
        there = incident in self._incidents.entries
        return self._overlay is not None and self._overlay.saved(incident) and not there

    async def _notify(self, intent: Notify) -> None:
        if self._overlay is not None:
            return  # a ticket is no write that a server could try
        if self._notifier is None:
            raise EdgeError("nobody is told: no webhook_url is set")
        await self._notifier(intent)

    def _uid(self, node: str) -> str:
        entry = self._nodes.entries.get(node)
        return entry.value.node.uid if entry is not None else ""

    def _leadership_changed(self) -> None:
        """A new leader first reads anew: its picture may be older than what the last one wrote."""
        if self._elector.leading:
            for each in self._reflectors:
                each.refresh()
            if self._pods is not None and self._pods.trouble:
                self._pods.refresh()  # else its watch is alive, and fifty thousand pods are seconds of work
            self._requeues.look()
        self._changed()

    def _changed(self) -> None:
        self._snapshot = None
        self._listener()


def _nobody() -> None:
    """Nobody listens."""
