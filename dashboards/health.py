"""What is wrong now, and whether this page can be trusted."""

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as model

from dashboards.panels import (
    GREEN,
    HALF,
    ORANGE,
    QUARTER,
    RED,
    SILENT_SECONDS,
    THIRD,
    YELLOW,
    N,
    Section,
    lines,
    number,
    rows,
)

UNHEALTHY = 30
"""From severity ``critical`` on."""

LATENCY = "fleetmedic_aggregator_detect_to_decision_seconds_bucket"


def now() -> Section:
    """The figures of this moment."""
    return "Now", [
        number("Nodes", f"count(fleetmedic_node_gpus{N})", "Nodes that report."),
        number("GPUs", f"sum(fleetmedic_node_gpus{N})", "GPUs that those nodes report."),
        number(
            "Unhealthy nodes",
            f"count(fleetmedic_node_worst_severity{N} >= {UNHEALTHY}) or vector(0)",
            "Nodes with a critical or fatal finding.",
            steps=((1, ORANGE), (3, RED)),
        ),
        number(
            "Quarantined",
            f"sum(fleetmedic_node_quarantined{N})",
            "Nodes on which our taint keeps new pods off.",
            steps=((1, YELLOW),),
        ),
        number(
            "Need a person",
            'sum(fleetmedic_incidents{phase="needs-human"})',
            "Incidents that nothing automatic will close. Not filtered by node.",
            steps=((1, ORANGE),),
        ),
        number(
            "Silent agents",
            f"count(fleetmedic_node_report_age_seconds{N} > {SILENT_SECONDS}"
            f" or fleetmedic_node_reported{N} == 0) or vector(0)",
            "Nodes of unknown health: no report for a minute, or none ever.",
            steps=((1, ORANGE),),
        ),
        number(
            "Mean utilization",
            f"avg(fleetmedic_node_utilization_ratio{N})",
            "Share of time in which a kernel ran (over ten seconds where the driver tells it), over all nodes that report.",
            unit="percentunit",
        ),
        number(
            "Held but idle",
            # Drivers and agents that tell no duty cycle have the utilization of the moments at which they were asked.
            f"count(fleetmedic_gpu_processes{N} > 0"
            f" and (avg_over_time(fleetmedic_gpu_duty_cycle_ratio{N}[10m])"
            f" or avg_over_time(fleetmedic_gpu_utilization_ratio{N}[10m])) < 0.05) or vector(0)",
            "GPUs that a process holds and that did next to nothing in ten minutes.",
            steps=((1, YELLOW),),
        ),
    ]


def wrong() -> Section:
    """Findings and incidents."""
    return "What is wrong", [
        rows(
            "Findings",
            "Everything that is raised now. The action is what would mend it; see the runbooks.",
            f"(time() - fleetmedic_finding_since_time_seconds{N})"
            " * on (node, code, subject) group_left (severity, action)"
            f" max by (node, code, subject, severity, action) (fleetmedic_finding{N})",
            value="age",
            unit="s",
        ),
        rows(
            "Open incidents",
            "One per node; the phase says where it stands.",
            f"max by (node, incident, phase) (fleetmedic_node_incident{N})",
            value="open",
            span=HALF,
        ),
        lines(
            "Open incidents by phase",
            "Over all nodes.",
            ('sum by (phase) (fleetmedic_incidents{phase!="closed"})', "{{phase}}"),
            span=QUARTER,
            stacked=True,
        ),
        lines(
            "GPUs by their worst finding",
            "Over all nodes. Unknown: the agent is silent.",
            ("sum by (severity) (fleetmedic_gpus)", "{{severity}}"),
            span=QUARTER,
            stacked=True,
        ),
    ]


def treatment() -> Section:
    """What is done about it, and what is not."""
    return "What is done about it", [
        lines(
            "Attempts",
            "Of all incidents that are kept, by rung and outcome. Unknown is never repeated.",
            ("sum by (rung, outcome) (fleetmedic_incident_attempts)", "{{rung}} {{outcome}}"),
            span=THIRD,
            stacked=True,
        ),
        lines(
            "Declined",
            "Per hour: what findings asked for and was not done, and why.",
            (
                "sum by (what, why) (increase(fleetmedic_aggregator_declined_total[1h]))",
                "{{what}}: {{why}}",
            ),
            span=THIRD,
        ),
        lines(
            "Directives",
            "Per hour: what agents were told to do, and how it went.",
            (
                f"sum by (kind, state) (increase(fleetmedic_agent_directives_total{N}[1h]))",
                "{{kind}} {{state}}",
            ),
            span=THIRD,
        ),
    ]


def _own_figures() -> list[Builder[model.Panel]]:
    return [
        number(
            "Leaders",
            "sum(fleetmedic_aggregator_leader)",
            "Exactly one aggregator decides and acts.",
            base=RED,
            steps=((1, GREEN), (2, RED)),
        ),
        number(
            "Aggregator's page",
            "time() - max(fleetmedic_aggregator_rendered_time_seconds)",
            "Age of the newest page; it grows when the aggregator stands still.",
            unit="s",
            steps=((SILENT_SECONDS, RED),),
        ),
        number(
            "Refused reports",
            "sum(increase(fleetmedic_aggregator_reports_refused_total[1h])) or vector(0)",
            "In the last hour: agents that could not prove who they are, or that asked a standby."
            " The label reason says which.",
            steps=((1, ORANGE),),
        ),
        number(
            "Cluster errors",
            "sum(increase(fleetmedic_aggregator_edge_errors_total[1h]))"
            " + sum(increase(fleetmedic_aggregator_edge_read_errors_total[1h])) or vector(0)",
            "In the last hour: lists, watches and writes of the Kubernetes API that failed.",
            steps=((1, ORANGE),),
        ),
    ]


def trust() -> Section:
    """Whether what stands above is fresh, and Fleetmedic itself well."""
    return "Can this page be trusted", [
        *_own_figures(),
        rows(
            "Sources that do not answer",
            "What such a source would say is unknown, not healthy.",
            'max by (node, source, state) (fleetmedic_source_state{node=~"$node",'
            ' state=~"failing|stuck"}) == 1',
            value="now",
            span=HALF,
        ),
        lines(
            "Age of reports",
            "The ten oldest.",
            (f"topk(10, fleetmedic_node_report_age_seconds{N})", "{{node}}"),
            unit="s",
            span=THIRD,
        ),
        lines(
            "Decisions",
            "Per minute; those declined are told by reason further up.",
            (
                "60 * sum by (kind) (rate(fleetmedic_aggregator_decisions_total[$__rate_interval]))",
                "{{kind}}",
            ),
            span=THIRD,
        ),
        lines(
            "From fault to decision",
            "From the sighting that made a fault a finding, past its hold time, to its incident.",
            (
                f"histogram_quantile(0.5, sum by (le) (rate({LATENCY}[1h])))",
                "half",
            ),
            (
                f"histogram_quantile(0.95, sum by (le) (rate({LATENCY}[1h])))",
                "95 of 100",
            ),
            unit="s",
            span=THIRD,
        ),
    ]
