"""Owns every feed of scores and use but the extender: wires each to its settings, serves or runs it, and stops it.

Each feed has its own rule for stale data and for our death; they stand in its file and in its how-to page.
"""

import asyncio
import time
from collections.abc import Mapping, Set
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from aggregator.cluster import ClusterEdge
from aggregator.cluster.koordinator import NodeMetrics, NodeMetricSettings
from aggregator.cluster.koordinator_thresholds import UsageThresholds
from aggregator.cluster.kubernetes import KubernetesEdge
from aggregator.cluster.score_labels import ScoreLabels
from aggregator.feed_settings import FeedSettings
from aggregator.feeds.koordinator_thresholds import ThresholdSettings
from aggregator.feeds.node_labels import LabelSettings
from aggregator.feeds.serving_tls import RenewedTls
from aggregator.feeds.volcano import CustomMetrics
from aggregator.feeds.watcher import Watcher
from aggregator.scores.terms import ScoreTerms
from aggregator.stats import FeedCounts
from aggregator.usage import Usage
from contract.process import split_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from aggregator.scores.model import NodeScore

LABEL_BURST_SECONDS = 2.0
"""Of the rate at which labels may be written, how much may come at once; at least as many as by default."""


class Feeds:
    """One per process. One owner: the event loop.

    Args:
        settings: which feeds, and how.
        edge: the cluster; without a real one nothing is written.
        usage: what was measured of each node.
        scores: by node, of the newest tick.
    """

    def __init__(
        self,
        settings: FeedSettings,
        edge: ClusterEdge,
        usage: Usage,
        scores: "Callable[[], Mapping[str, NodeScore]]",
    ) -> None:
        self._settings = settings
        self._edge = edge
        self._usage = usage
        self._scores = scores
        self._closing = False
        self._metrics: CustomMetrics | None = None
        self.watcher = Watcher(
            usage,
            nodes=lambda: edge.view().nodes,
            sick=self._sick,
            serving=self._serving,
            clock=time.time,
            unhealthy=settings.watcher_unhealthy,
        )
        self.labels: ScoreLabels | None = None
        self.node_metrics: NodeMetrics | None = None
        self.thresholds: UsageThresholds | None = None
        if isinstance(edge, KubernetesEdge):
            self.labels = ScoreLabels(
                edge.nodes,
                edge.pen,
                label_settings(settings),
                permit=edge.permit,
                clock=time.monotonic,
            )
            self.node_metrics = NodeMetrics(
                edge.api, edge.pen, usage, node_metric_settings(settings), permit=edge.permit
            )
            self.thresholds = UsageThresholds(
                edge.api,
                edge.pen,
                usage,
                threshold_settings(settings),
                permit=edge.permit,
                sick=self._troubled,
            )

    def routes(self) -> list[web.RouteDef]:
        """What the main port serves of them."""
        return self.watcher.routes()

    async def run(self) -> None:
        """Serve and write until cancelled. Feeds that are off take back what they left behind, and end."""
        async with AsyncExitStack() as stack:
            tls: RenewedTls | None = None
            if self._settings.custom_metrics_listen:
                files = (
                    self._settings.custom_metrics_cert_file,
                    self._settings.custom_metrics_key_file,
                    self._settings.custom_metrics_client_ca_file,
                )
                tls = RenewedTls(*files)
                stack.push_async_callback((await self._serve_custom_metrics(tls)).cleanup)
            async with asyncio.TaskGroup() as tasks:
                if tls is not None:
                    tasks.create_task(tls.run(), name="certificate")
                if self.labels is not None:
                    tasks.create_task(self.labels.run(self._scores), name="score labels")
                for each in (self.node_metrics, self.thresholds):
                    if each is not None:
                        tasks.create_task(
                            each.run(self._edge.view, time.time), name=type(each).__name__
                        )
                await asyncio.Event().wait()

    def counts(self) -> FeedCounts:
        """What each feed counted since the start."""
        counts: dict[str, dict[str, int]] = {
            "requests": {"watcher": self.watcher.requests_total},
            "writes": {},
            "errors": {},
            "delayed": {},
            "suppressed": {},
        }
        if self._metrics is not None:
            counts["requests"]["custom-metrics"] = self._metrics.requests_total
        if self.labels is not None:
            counts["delayed"]["score-labels"] = self.labels.delayed_total
            counts["suppressed"]["score-labels"] = self.labels.suppressed_total
        writers = {
            "score-labels": self.labels,
            "node-metrics": self.node_metrics,
            "usage-thresholds": self.thresholds,
        }
        for name, each in writers.items():
            if each is not None:
                counts["writes"][name] = each.writes_total
                counts["errors"][name] = each.errors_total
        if isinstance(self._edge, KubernetesEdge):
            desk = self._edge.devices
            counts["errors"]["devices"] = desk.errors_total
            counts["writes"].update({f"devices-{name}": n for name, n in desk.writes_total.items()})
        return counts

    def close(self) -> None:
        """From now on we know nothing: whoever asks gets the neutral answer while we go."""
        self._closing = True

    async def _serve_custom_metrics(self, tls: RenewedTls) -> web.AppRunner:
        app = web.Application()
        self._metrics = CustomMetrics(self._usage, serving=self._serving, clock=time.time)
        app.add_routes(self._metrics.routes())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        address = split_address(self._settings.custom_metrics_listen)
        await web.TCPSite(runner, *address, ssl_context=tls.context).start()
        return runner

    def _serving(self) -> bool:
        return self._edge.leading and not self._closing

    def _sick(self) -> Set[str]:
        return {name for name, score in self._scores().items() if score.verdict == "sick"}

    def _troubled(self) -> dict[str, str]:
        bad = ("sick", "degraded")
        return {name: one.reason for name, one in self._scores().items() if one.verdict in bad}


def score_terms(settings: FeedSettings) -> ScoreTerms:
    """The weights of the score's terms: the defaults, and ``term=weight`` with commas over them.

    Raises:
        ValueError: naming the word and what is allowed.
    """
    allowed = [each.name for each in msgspec.structs.fields(ScoreTerms)]
    allowed.remove("max_overload_risk")  # a setting of its own, in percent
    weights: dict[str, float] = {"max_overload_risk": settings.overload_risk_percent / 100}
    for word in (each.strip() for each in settings.score_terms.split(",") if each.strip()):
        name, _, number = (part.strip() for part in word.partition("="))
        if name not in allowed:
            raise ValueError(f"{word!r} is not term=weight with a term of: {', '.join(allowed)}")
        try:
            weights[name] = float(number)
        except ValueError:
            raise ValueError(
                f"{word!r}: {number!r} is not a number; 0 switches the term off"
            ) from None
    try:
        return msgspec.convert(weights, ScoreTerms)
    except msgspec.ValidationError as error:
        raise ValueError(f"{settings.score_terms!r}: {error}") from error


def label_settings(settings: FeedSettings) -> LabelSettings:
    """Whether nodes carry their score, and how often that may change."""
    pace = settings.score_label_writes_per_second
    burst = max(LabelSettings().burst, round(LABEL_BURST_SECONDS * pace))
    return LabelSettings(enabled=settings.score_labels, writes_per_second=pace, burst=burst)


def threshold_settings(settings: FeedSettings) -> ThresholdSettings:
    """When Koordinator's thresholds are tightened, and to what.

    Raises:
        ValueError: naming the values that contradict each other.
    """
    return ThresholdSettings(
        enabled=settings.koordinator_thresholds,
        hot_percent=settings.koordinator_hot_percent,
        calm_percent=settings.koordinator_calm_percent,
        cpu_percent=settings.koordinator_cpu_percent,
        memory_percent=settings.koordinator_memory_percent,
        aggregation=settings.koordinator_aggregation,
    )


def node_metric_settings(settings: FeedSettings) -> NodeMetricSettings:
    """Whether NodeMetric objects are written, and who vouches for their expiry."""
    namespace, _, name = settings.koordinator_scheduler_config.partition("/")
    return NodeMetricSettings(
        enabled=settings.koordinator_node_metric,
        config_namespace=namespace,
        config_name=name,
        confirmed=settings.koordinator_expiry_confirmed,
    )
