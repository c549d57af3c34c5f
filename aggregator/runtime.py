"""Wires intake → fleet → policy → cluster, and the web side beside it. Owns every task; stops cleanly."""

import asyncio
import os
import random
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
import msgspec
import structlog
from aiohttp import web

from aggregator.cluster import ClusterEdge
from aggregator.cluster.errors import ApiError
from aggregator.cluster.kubernetes import KubernetesEdge, KubernetesSettings
from aggregator.cluster.lease import LeaseSettings
from aggregator.cluster.observe import ObserveEdge
from aggregator.cluster.readers import Readers, ReaderSettings, Refusal
from aggregator.collector import Collector
from aggregator.config import AggregatorSettings
from aggregator.directives import Directives, DryDirectives
from aggregator.drain.rules_file import load as load_rules
from aggregator.drain.runner import Drains
from aggregator.engine import Engine
from aggregator.feeding import Feeds, score_terms
from aggregator.feeds.extender_process import ExtenderProcess
from aggregator.feeds.kueue_quota import QuotaSettings, parse_slots
from aggregator.fleet import Fleet
from aggregator.intake import Authenticate, Intake, IntakeServer, trust_claim
from aggregator.journal import Decision, Journal
from aggregator.orders import Carriers
from aggregator.policy.devices.values import parse_back_ends
from aggregator.policy.drain.plan_model import plan_shape
from aggregator.policy.drain.rules import DrainRules
from aggregator.policy.pools import pool_of
from aggregator.scores.failures import Notice
from aggregator.stats import AggregatorStats
from aggregator.usage import Usage
from aggregator.web.api import BROADCASTER, create_app
from aggregator.web.deps import WebDeps
from aggregator.web.door import Refuse
from aggregator.webhook import Webhook
from contract import report_pb2 as pb
from contract.process import split_address, version
from contract.signing import load_signer

log = structlog.get_logger("aggregator")

_IN_CLUSTER_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


def make_edge(settings: AggregatorSettings) -> ClusterEdge:
    """The cluster edge that the settings ask for."""
    in_cluster = "KUBERNETES_SERVICE_HOST" in os.environ and _IN_CLUSTER_TOKEN.exists()
    has_cluster = bool(settings.kubeconfig) or in_cluster or settings.cluster == "kubernetes"
    if settings.cluster == "observe" or not has_cluster:
        return ObserveEdge(notifier=_webhook(settings))
    return KubernetesEdge(
        KubernetesSettings(
            kubeconfig=Path(settings.kubeconfig) if settings.kubeconfig else None,
            agent_service_account=settings.agent_service_account,
            dry_run=settings.dry_run,
            watch_pods=settings.watch_pods,
            failing_pods=settings.failing_pods,
            devices=msgspec.structs.replace(
                parse_back_ends(settings.device_quarantine),
                look_seconds=settings.device_look_seconds,
                settle_seconds=settings.device_settle_seconds,
            ),
            quotas=QuotaSettings(
                pools=parse_slots(settings.kueue_quota),
                floor_percent=settings.kueue_floor_percent,
            ),
            lease=LeaseSettings(
                namespace=settings.lease_namespace,
                name=settings.lease_name,
                identity=socket.gethostname(),
                duration_seconds=settings.lease_duration_seconds,
                renew_deadline_seconds=settings.lease_renew_deadline_seconds,
                retry_seconds=settings.lease_retry_seconds,
            ),
        ),
        notifier=_webhook(settings),
    )


def _webhook(settings: AggregatorSettings) -> Webhook | None:
    if not settings.webhook_url:
        return None
    token = settings.webhook_token_file
    return Webhook(settings.webhook_url, token_file=Path(token) if token else None)


class Aggregator:
    """The whole aggregator in one object; ``run`` is its life.

    Args:
        settings: all of them.
        edge: the cluster, or what stands for it.
        alone: whether the process is the aggregator's own, so that its priority may be lowered behind the extender's.
    """

    def __init__(
        self, settings: AggregatorSettings, edge: ClusterEdge, *, alone: bool = False
    ) -> None:
        self.settings = settings
        self._alone = alone
        self.edge = edge
        self.fleet = Fleet()
        self.journal = Journal()
        self.stats = AggregatorStats()
        self.usage = Usage()
        self.http_port = 0
        """The ports really bound, once ``started`` is set."""
        self.grpc_port = 0
        self.started = asyncio.Event()

    async def run(self) -> None:
        """Serve and decide until cancelled."""
        app_box: list[web.Application] = []
        intake = Intake(
            accept=self._accept,
            gone=lambda node: self.engine.node_left(node),
            knows=self.edge.knows,
            authenticate=authenticator(self.settings, self.edge),
            stats=self.stats,
            leading=lambda: self.edge.leading,
        )
        self.drains = self._make_drains()
        self.engine = engine = Engine(
            fleet=self.fleet,
            edge=self.edge,
            policy=self.settings.policy(),
            journal=self.journal,
            stats=self.stats,
            clock=time.time,
            tick_seconds=self.settings.tick_seconds,
            publish=lambda changed: app_box[0][BROADCASTER].publish(changed),
            carriers=Carriers(self.drains, self._make_directives(intake)),
            usage=self.usage,
            score_terms=score_terms(self.settings),
        )
        self.feeds = Feeds(self.settings, self.edge, self.usage, lambda: engine.scores)
        self.stats.feeds = self.feeds.counts
        failures = engine.scoring.failures
        self.stats.failing_pods = lambda: {name: one.pods for name, one in failures.judged.items()}
        self.stats.failing_pods_doubted = lambda: failures.doubted
        engine.scoring.tell = self._note_failing_pods
        if isinstance(self.edge, KubernetesEdge):
            self.edge.hardware = self._hardware
        app_box.append(create_app(self._web_deps(), feeds=self.feeds.routes()))
        runner = web.AppRunner(app_box[0], access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        server = IntakeServer(intake, self.settings.grpc_listen, credentials=_tls(self.settings))
        try:
            await web.TCPSite(runner, *split_address(self.settings.http_listen)).start()
            extender = await self._extender()
            async with server, asyncio.TaskGroup() as tasks:
                tasks.create_task(self.edge.run(engine.cluster_changed), name="edge")
                tasks.create_task(engine.run(), name="engine")
                tasks.create_task(self.drains.run(), name="drains")
                tasks.create_task(self.feeds.run(), name="feeds")
                tasks.create_task(Collector(lambda: len(self.fleet)).run(), name="collector")
                if extender is not None:
                    tasks.create_task(extender.run(), name="extender")
                self.http_port = runner.addresses[0][1]
                self.grpc_port = server.port
                self._announce()
                self.started.set()
        finally:
            self.feeds.close()
            await runner.cleanup()
            await self.edge.close()

    def _note_failing_pods(self, notice: Notice, now: float) -> None:
        log.warning("pods fail at once", node=notice.node, what=notice.text)
        if self.edge.leading:
            self.journal.add(
                Decision(
                    time_seconds=now,
                    node=notice.node,
                    kind="failing-pods",
                    text=notice.text,
                    taken=True,
                )
            )

    def _make_drains(self) -> Drains:
        rules = self.settings.drain_rules_file
        return Drains(
            workloads=self.edge.workloads,
            rules=load_rules(Path(rules)) if rules else DrainRules(),
            evictions_per_second=self.settings.evictions_per_second,
            holders=self._holders,
            wall=time.time,
            random=random.random,
            on_change=lambda: self.engine.cluster_changed(),
        )

    def _make_directives(self, intake: Intake) -> Directives | DryDirectives:
        if self.edge.mode != "kubernetes":
            return DryDirectives(time.time)
        key = self.settings.directive_key_file
        return Directives(
            signer=load_signer(key) if key else None,
            send=intake.direct,
            permit=self.edge.permit,
            knows=self._agent_knows,
            wall=time.time,
        )

    def _agent_knows(self, node: str, directive: str) -> bool:
        state = self.fleet.get(node)
        return state is not None and any(each.id == directive for each in state.outcomes)

    def _holders(self, node: str) -> Mapping[str, tuple[str, ...]] | None:
        state = self.fleet.get(node)
        return state.holders if state is not None else None

    async def _extender(self) -> ExtenderProcess | None:
        """The extender on a port of its own, bound; ``None``: it has none."""
        if not self.settings.scheduler_listen:
            return None
        extender = ExtenderProcess(
            self.engine.scoring.book,
            self.stats,
            self.settings.scheduler_listen,
            leading=lambda: self.edge.leading,
            scale=self.settings.extender_scale,
            stale_after_seconds=self.settings.silent_after_seconds,
            behind=self._alone,
        )
        await extender.bind()
        return extender

    def _hardware(self, node: str) -> Mapping[str, str]:
        state = self.fleet.get(node)
        gpus = state.report.gpus if state is not None else ()
        return {f"gpu:{each.pci_bus_id}": each.uuid for each in gpus if each.pci_bus_id}

    async def _plan(self, node: str, devices: Sequence[str]) -> Mapping[str, object]:
        return plan_shape(await self.drains.plan(node, devices))

    def _accept(self, report: pb.NodeReport) -> None:
        if isinstance(self.edge, ObserveEdge):
            model = report.gpus[0].model if report.gpus else ""
            self.edge.saw(report.node, pool=pool_of({}, model), gpu_capacity=len(report.gpus))
        self.engine.take_report(report)

    def _web_deps(self) -> WebDeps:
        return WebDeps(
            fleet=self.fleet,
            view=self.edge.view,
            mode=lambda: self.edge.mode,
            leading=lambda: self.edge.leading,
            journal=self.journal,
            stats=self.stats,
            scores=lambda: self.engine.scores,
            book=self.engine.scoring.book,
            rooms=self.engine.scoring.rooms,
            pods_trouble=lambda: self.edge.pods_trouble,
            extender_scale=self.settings.extender_scale,
            metrics=lambda: self.engine.metrics,
            clock=time.time,
            version=version(),
            stale_after_seconds=self.settings.silent_after_seconds,
            policy=self.settings.policy(),
            namespace=self.settings.lease_namespace,
            refusal=self._refusal(),
            plan=self._plan if isinstance(self.edge, KubernetesEdge) else None,
        )

    def _refusal(self) -> Refuse | None:
        if self.settings.reader_auth != "kubernetes":
            return None
        if not isinstance(self.edge, KubernetesEdge):
            return _nobody_may
        readers = ReaderSettings(namespace=self.settings.lease_namespace)
        return Readers(self.edge.api, readers, clock=time.monotonic).refusal

    def _announce(self) -> None:
        log.info(
            "aggregator started",
            page=f"http://localhost:{self.http_port}",
            reports=f"localhost:{self.grpc_port}",
            mode=self.edge.mode,
        )
        if self.edge.mode != "kubernetes":
            log.warning(
                "nothing is written to any cluster: decisions are only recorded",
                mode=self.edge.mode,
            )


def authenticator(settings: AggregatorSettings, edge: ClusterEdge) -> Authenticate:
    """How agents prove their node."""
    if not isinstance(edge, KubernetesEdge) or settings.agent_auth == "none":
        host = split_address(settings.grpc_listen)[0]
        if host not in ("127.0.0.1", "localhost", "::1"):
            log.warning("agents are not authenticated, and the port is open to others", listen=host)
        return trust_claim

    async def review(token: str, claimed: str) -> str:
        if not token:
            raise PermissionError(
                "no token; the agent needs token_file: a projected token with audience fleetmedic"
            )
        try:
            node = await edge.tokens.review(token)
        except ApiError as error:
            raise PermissionError(f"the token could not be reviewed: {error}") from error
        if node is None:
            raise PermissionError(
                f"the token proves no node: it must be of {settings.agent_service_account}, "
                "for the audience fleetmedic, and bound to the agent's pod"
            )
        return node

    return review


async def _nobody_may(token: str) -> Refusal:
    return Refusal(503, "reader_auth is kubernetes, and there is no cluster to ask who may read")


def _tls(settings: AggregatorSettings) -> grpc.ServerCredentials | None:
    if not settings.tls_cert_file:
        return None
    key = Path(settings.tls_key_file).read_bytes()
    return grpc.ssl_server_credentials([(key, Path(settings.tls_cert_file).read_bytes())])
