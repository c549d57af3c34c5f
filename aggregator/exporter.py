"""The aggregator's Prometheus page: a pure function from values to text, called once per tick.

Only per-node series, never per-GPU: those are on the agents' own pages. A process that does not lead
shows itself and nothing of the fleet, because its picture is old or empty and would double every
node. ``fleetmedic_aggregator_rendered_time_seconds`` betrays a tick that stands still, with which
the ages on the page stand still as well.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from aggregator.feeds.steps import Steps, at_once
from aggregator.fleet import Fleet, NodeState
from aggregator.journal import Journal
from aggregator.policy.model import ClusterNode, ClusterView, Incident
from aggregator.stats import AggregatorStats
from contract.metrics import Labels, Metric, Page, Row, counter, gauge, histogram, labels
from contract.vocabulary import Phase, Severity

SILENT_SECONDS = 60.0
"""Readings older than this say nothing about now: they are not shown, and never count as healthy."""

SEVERITIES = "0 none, 10 info, 20 degraded, 30 critical, 40 fatal."

RENDERED = gauge("fleetmedic_aggregator_rendered_time_seconds", "Unix time of this page.")
LEADER = gauge("fleetmedic_aggregator_leader", "1 on the one process that decides and acts.")
SYNCED = gauge("fleetmedic_aggregator_view_synced", "1 once the cluster was read as a whole.")
REFUSED = counter("fleetmedic_aggregator_reports_refused_total", "Reports refused, by reason.")
EXTENDER = counter("fleetmedic_aggregator_extender_requests_total", "Scheduler requests, by verb.")
EXTENDER_ANSWERS = counter(
    "fleetmedic_aggregator_extender_answers_total",
    "Scheduler requests answered, by what the answer rests on: pod, node, not-ours, stale, unreadable.",
)
EXTENDER_PASSED = counter(
    "fleetmedic_aggregator_extender_passed_over_total",
    "Pods whose own wish could not be scored, by reason; nodes are then ranked for a typical pod.",
)
EXTENDER_SECONDS = histogram(
    "fleetmedic_aggregator_extender_seconds", "Time from a scheduler's request to the reply."
)
FEEDS = {
    "requests": counter(
        "fleetmedic_aggregator_feed_requests_total", "Questions of schedulers answered, by feed."
    ),
    "writes": counter(
        "fleetmedic_aggregator_feed_writes_total",
        "Writes for schedulers that the API server took, by feed.",
    ),
    "errors": counter(
        "fleetmedic_aggregator_feed_errors_total", "Writes and reads of a feed that failed."
    ),
    "delayed": counter(
        "fleetmedic_aggregator_feed_delayed_total",
        "Writes of a feed that had to wait for its budget, each once.",
    ),
    "suppressed": counter(
        "fleetmedic_aggregator_feed_suppressed_total",
        "Changes that went back by themselves before a feed wrote them.",
    ),
}
DEVICES_QUARANTINED = gauge(
    "fleetmedic_aggregator_devices_quarantined",
    "Single devices that are kept from new pods by themselves.",
)
DECISIONS = counter(
    "fleetmedic_aggregator_decisions_total", "Decisions by kind, and whether they were carried out."
)
DECLINED = counter(
    "fleetmedic_aggregator_declined_total",
    "What findings ask for and was not done: the rung, and why (budget, rate, breaker, approval, cool-down).",
)
STOPPED = gauge(
    "fleetmedic_aggregator_stopped", "1 while a person stopped every write (the kill switch)."
)
LATENCY = histogram(
    "fleetmedic_aggregator_detect_to_decision_seconds",
    "Time from the sighting that made a fault a finding, past its hold time, to its incident.",
)
STATS_FIELDS = (
    (counter("fleetmedic_aggregator_reports_total", "Reports taken."), "reports_total"),
    (
        counter("fleetmedic_aggregator_reports_malformed_total", "Reports that do not decode."),
        "reports_malformed_total",
    ),
    (
        counter(
            "fleetmedic_aggregator_unknown_node_total", "Reports for nodes not in the cluster."
        ),
        "unknown_node_total",
    ),
    (counter("fleetmedic_aggregator_events_total", "Events taken."), "events_total"),
    (
        counter("fleetmedic_aggregator_incidents_opened_total", "Incidents opened."),
        "incidents_opened_total",
    ),
    (
        counter("fleetmedic_aggregator_incidents_closed_total", "Incidents closed."),
        "incidents_closed_total",
    ),
    (gauge("fleetmedic_aggregator_connected_agents", "Agent streams open now."), "connections"),
    (
        counter("fleetmedic_aggregator_connections_total", "Agent streams ever opened."),
        "connections_total",
    ),
    (
        counter(
            "fleetmedic_aggregator_extender_unknown_nodes_total",
            "Nodes the scheduler asked about that we know nothing of.",
        ),
        "extender_unknown_nodes_total",
    ),
    (
        counter(
            "fleetmedic_aggregator_extender_ready_total",
            "Answers to the scheduler that were ready before it asked.",
        ),
        "extender_ready_total",
    ),
    (
        counter("fleetmedic_aggregator_extender_errors_total", "Scheduler requests that failed."),
        "extender_errors_total",
    ),
    (
        counter(
            "fleetmedic_aggregator_extender_restarts_total",
            "Times that the extender's process ended and was started anew.",
        ),
        "extender_restarts_total",
    ),
    (
        counter("fleetmedic_aggregator_edge_errors_total", "Writes to the cluster that failed."),
        "edge_errors_total",
    ),
    (
        counter(
            "fleetmedic_aggregator_edge_read_errors_total",
            "Lists and watches of the cluster that failed.",
        ),
        "edge_read_errors_total",
    ),
    (
        gauge(
            "fleetmedic_aggregator_view_age_seconds",
            "Time since the cluster last said anything; a healthy one does so every minute.",
        ),
        "view_age_seconds",
    ),
)

NODE_INFO = gauge("fleetmedic_node_info", "Identity of each node as it reports; always 1.")
NODE_REPORTED = gauge(
    "fleetmedic_node_reported",
    "1 for a node that reported to this leader, 0 for a GPU node that has not.",
)
NODE_GPUS = gauge("fleetmedic_node_gpus", "GPUs that the node reports.")
NODE_WORST = gauge("fleetmedic_node_worst_severity", f"Worst finding on the node: {SEVERITIES}")
NODE_AGE = gauge("fleetmedic_node_report_age_seconds", "Age of the node's newest report.")
NODE_UTILIZATION = gauge(
    "fleetmedic_node_utilization_ratio",
    "Mean share of time in which the GPUs worked, over the last ten seconds where the driver tells it, 0..1.",
)
NODE_QUARANTINED = gauge(
    "fleetmedic_node_quarantined", "1 while our taint keeps new pods off the node."
)
NODE_QUARANTINED_SINCE = gauge(
    "fleetmedic_node_quarantined_since_time_seconds",
    "Unix time at which the node's open incident was quarantined.",
)
NODE_FAILING_PODS = gauge(
    "fleetmedic_node_failing_pods",
    "Pods that failed at once on a node which is ranked last for it; other nodes have no sample.",
)
FAILING_PODS_DOUBTED = gauge(
    "fleetmedic_aggregator_failing_pods_doubted",
    "Nodes where pods fail at once and which are not ranked last: there are too many, so the workloads are sick.",
)
NODE_INCIDENT = gauge(
    "fleetmedic_node_incident", "1 for the node's open incident in its present phase."
)
GPUS = gauge(
    "fleetmedic_gpus",
    "GPUs of the fleet by the worst finding on each; unknown where the agent is silent.",
)
INCIDENTS = gauge("fleetmedic_incidents", "Incidents by phase.")
ATTEMPTS = gauge(
    "fleetmedic_incident_attempts", "Attempts of all incidents that are kept, by rung and outcome."
)


def render(
    fleet: Fleet, view: ClusterView, journal: Journal, stats: AggregatorStats, now: float
) -> bytes:
    """The whole page for one tick.

    Args:
        fleet: what the agents reported.
        view: what the cluster says.
        journal: what was decided.
        stats: what the aggregator counted about itself; ``leader`` must be kept true to the lease.
        now: Unix time.
    """
    return at_once(rendering(fleet, view, journal, stats, now))


def rendering(
    fleet: Fleet, view: ClusterView, journal: Journal, stats: AggregatorStats, now: float
) -> Steps[bytes]:
    """As ``render``, a family of nodes at a time: for 5,000 nodes 25 ms instead of 200 ms in one piece."""
    page = Page()
    _write_self(page, view, journal, stats, now)
    parts = [page.render()]
    if stats.leader:
        nodes = list(fleet)
        for metric, rows in _families(nodes, fleet, view, now):
            yield
            page = Page()
            page.family(metric, rows)
            parts.append(page.render())
        page = Page()
        eaten = stats.failing_pods().items()
        page.family(
            NODE_FAILING_PODS, [(labels(node=name), n) for name, n in eaten if name in view.nodes]
        )
        _write_incidents(page, list(view.incidents.values()))
        _write_gpu_counts(page, nodes, now)
        parts.append(page.render())
    return b"".join(parts)


def _write_self(
    page: Page, view: ClusterView, journal: Journal, stats: AggregatorStats, now: float
) -> None:
    page.one(RENDERED, now)
    page.one(LEADER, int(stats.leader))
    page.one(SYNCED, int(view.synced))
    for metric, field in STATS_FIELDS:
        page.one(metric, getattr(stats, field))
    page.family(
        REFUSED, [(labels(reason=reason), n) for reason, n in stats.reports_refused.items()]
    )
    page.family(EXTENDER, [(labels(verb=verb), n) for verb, n in stats.extender_requests.items()])
    page.family(
        EXTENDER_ANSWERS, [(labels(basis=each), n) for each, n in stats.extender_answers.items()]
    )
    page.family(
        EXTENDER_PASSED,
        [(labels(reason=each), n) for each, n in stats.extender_passed_over.items()],
    )
    page.histogram(EXTENDER_SECONDS, stats.extender_seconds)
    counted = stats.feeds()
    for what, metric in FEEDS.items():
        page.family(metric, [(labels(feed=feed), n) for feed, n in counted.get(what, {}).items()])
    page.one(DEVICES_QUARANTINED, sum(map(len, (view.device_quarantines or {}).values())))
    page.family(
        DECISIONS,
        [
            (labels(kind=kind, taken="true" if taken else "false"), n)
            for (kind, taken), n in journal.counts.items()
        ],
    )
    page.family(
        DECLINED,
        [(labels(what=what, why=why), n) for (what, why), n in stats.declined.items()],
    )
    page.one(STOPPED, int(bool(view.stopped)))
    page.one(FAILING_PODS_DOUBTED, stats.failing_pods_doubted())
    page.histogram(LATENCY, stats.detect_to_decision)


def _families(
    nodes: Sequence[NodeState], fleet: Fleet, view: ClusterView, now: float
) -> Iterator[tuple[Metric, Iterable[Row]]]:
    """What has a sample per node."""
    named = [(labels(node=node.name), node) for node in nodes]
    yield NODE_INFO, ((_node_identity(node), 1) for node in nodes)
    yield NODE_GPUS, ((who, len(node.report.gpus)) for who, node in named)
    yield NODE_WORST, ((who, int(node.worst or 0)) for who, node in named)
    ages = ((who, max(0.0, now - node.received_seconds)) for who, node in named)
    yield NODE_AGE, ((who, round(age, 3)) for who, age in ages)
    yield (
        NODE_UTILIZATION,
        (
            (who, value)
            for who, node in named
            if (value := node.utilization_ratio) is not None and not _silent(node, now)
        ),
    )
    silent_so_far = [
        node.name
        for node in view.nodes.values()
        if node.gpu_capacity and fleet.get(node.name) is None
    ]
    reported = [
        *((who, 1) for who, _ in named),
        *((labels(node=name), 0) for name in silent_so_far),
    ]
    yield NODE_REPORTED, reported
    yield (
        NODE_QUARANTINED,
        ((labels(node=node.name), int(keeps_pods_off(node))) for node in view.nodes.values()),
    )


def _silent(node: NodeState, now: float) -> bool:
    return now - node.received_seconds > SILENT_SECONDS


def _node_identity(node: NodeState) -> Labels:
    return labels(
        node=node.name,
        model=node.gpu_model,
        driver_version=node.report.driver_version,
        agent_version=node.report.agent_version,
    )


def keeps_pods_off(node: ClusterNode) -> bool:
    """Whether our taint is of a kind that no new pod passes."""
    return node.taint is not None and node.taint.effect != "PreferNoSchedule"


def _write_incidents(page: Page, incidents: Iterable[Incident]) -> None:
    phases = Counter(incident.phase for incident in incidents)
    page.family(INCIDENTS, [(labels(phase=phase), phases[phase]) for phase in Phase])
    tried = Counter((one.rung, one.outcome) for each in incidents for one in each.attempts)
    page.family(
        ATTEMPTS,
        [(labels(rung=rung, outcome=outcome), n) for (rung, outcome), n in tried.items()],
    )
    present = [incident for incident in incidents if incident.open]
    page.family(
        NODE_INCIDENT,
        [(labels(node=each.node, incident=each.name, phase=each.phase), 1) for each in present],
    )
    page.family(
        NODE_QUARANTINED_SINCE,
        [
            (labels(node=each.node, incident=each.name), each.quarantined_seconds)
            for each in present
            if each.quarantined_seconds is not None
        ],
    )


def _write_gpu_counts(page: Page, nodes: Iterable[NodeState], now: float) -> None:
    """A GPU that is gone from the report but still named by a finding is counted with it."""
    counts: Counter[str] = Counter()
    for node in nodes:
        worst: dict[str, str] = {}
        for each in node.findings:  # worst first
            if each.subject.startswith("gpu:"):
                worst.setdefault(each.subject.partition("/mig:")[0], each.severity.label)
        counts.update(worst.values())
        rest = len(node.report.gpus)
        if worst:
            rest -= len(worst.keys() & {f"gpu:{gpu.pci_bus_id}" for gpu in node.report.gpus})
        counts["unknown" if _silent(node, now) else "none"] += rest
    severities = ["none", *(severity.label for severity in Severity), "unknown"]
    page.family(GPUS, [(labels(severity=each), counts[each]) for each in severities])
