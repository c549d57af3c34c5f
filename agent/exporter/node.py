"""The families about the node, its findings and the agent itself."""

from collections.abc import Mapping, Sequence

from agent.snapshot import Snapshot
from agent.stats import AgentStats
from contract.metrics import Labels, Page, counter, gauge, labels
from contract.vocabulary import Finding, Health, SourceState

SNAPSHOT_TIME = gauge(
    "fleetmedic_snapshot_time_seconds", "Unix time at which these values were read."
)
NODE_INFO = gauge("fleetmedic_agent_info", "Identity of the node and its driver; always 1.")
SOURCE_STATE = gauge("fleetmedic_source_state", "1 for the state that each source of truth is in.")
DEVICE_HEALTH = gauge(
    "fleetmedic_device_health",
    "1 for the word that each device is in: ok, degraded, failed, or unknown where nobody can tell.",
)
OVERRIDES_VALID = gauge(
    "fleetmedic_agent_overrides_valid",
    "0 while the overrides file is refused and the last good one stays in force.",
)
FINDING = gauge("fleetmedic_finding", "1 for each finding now raised on this node.")
FINDING_SINCE = gauge(
    "fleetmedic_finding_since_time_seconds", "Unix time at which each finding was first seen."
)
XID_EVENTS = counter(
    "fleetmedic_xid_events_total", "XID events seen per code and GPU since the agent started."
)
DIRECTIVES = counter(
    "fleetmedic_agent_directives_total",
    "Directives whose signature holds, per kind and state: running, failed, refused, done.",
)

STATS_FIELDS = (
    (counter("fleetmedic_agent_reports_sent_total", "Reports sent."), "reports_sent"),
    (counter("fleetmedic_agent_reports_acked_total", "Reports acknowledged."), "reports_acked"),
    (
        counter("fleetmedic_agent_reconnects_total", "Times the stream was opened anew."),
        "reconnects",
    ),
    (
        counter("fleetmedic_agent_events_dropped_total", "Events lost to a full buffer."),
        "events_dropped",
    ),
    (counter("fleetmedic_agent_kmsg_lines_total", "Kernel log lines read."), "kmsg_lines"),
    (
        counter(
            "fleetmedic_agent_kmsg_overruns_total", "Times the kernel log outran us: lines lost."
        ),
        "kmsg_overruns",
    ),
    (
        counter("fleetmedic_agent_kmsg_lost_total", "Kernel log records overwritten unread."),
        "kmsg_lost",
    ),
    (
        counter("fleetmedic_agent_kmsg_malformed_total", "Kernel log lines not understood."),
        "kmsg_malformed",
    ),
    (
        counter("fleetmedic_agent_directives_refused_total", "Directives not carried out."),
        "directives_refused",
    ),
    (
        counter("fleetmedic_agent_sample_seconds_total", "Time spent in reading the sources."),
        "sample_seconds",
    ),
    (counter("fleetmedic_agent_check_seconds_total", "Time spent in the checks."), "check_seconds"),
)


def write_node(
    page: Page,
    snapshot: Snapshot,
    findings: Sequence[Finding],
    stats: AgentStats,
    health: Mapping[str, Health],
) -> None:
    """Who this node is, what is wrong with it, how its sources and its agent do."""
    node = snapshot.node
    who = labels(node=node)
    page.one(SNAPSHOT_TIME, snapshot.taken_seconds, who)
    page.one(
        NODE_INFO,
        1,
        labels(node=node, driver_version=snapshot.driver_version, boot_id=snapshot.boot_id),
    )
    page.family(
        SOURCE_STATE,
        [
            (labels(node=node, source=status.name, state=state.label), int(state is status.state))
            for status in snapshot.sources
            for state in SourceState
        ],
    )
    page.family(
        DEVICE_HEALTH,
        [(labels(node=node, subject=each, health=word.value), 1) for each, word in health.items()],
    )
    if (overrides := snapshot.source("overrides")) is not None:
        page.one(OVERRIDES_VALID, int(overrides.state is SourceState.OK), who)
    page.family(FINDING, [(_finding_labels(node, each), 1) for each in findings])
    page.family(
        FINDING_SINCE,
        [
            (labels(node=node, code=each.code, subject=each.subject), each.since_seconds)
            for each in findings
        ],
    )
    page.family(
        XID_EVENTS,
        [
            (labels(node=node, code=code, subject=subject), count)
            for (code, subject), count in stats.xid_events.items()
        ],
    )
    page.family(
        DIRECTIVES,
        [
            (labels(node=node, kind=kind, state=state), count)
            for (kind, state), count in stats.directives.items()
        ],
    )
    for metric, field in STATS_FIELDS:
        page.one(metric, getattr(stats, field), who)


def _finding_labels(node: str, finding: Finding) -> Labels:
    return labels(
        node=node,
        code=finding.code,
        subject=finding.subject,
        severity=finding.severity.label,
        action=finding.action.label,
    )
