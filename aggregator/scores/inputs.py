"""From the fleet's picture and the cluster's to the facts a score depends on. Pure."""

from collections.abc import Iterator, Sequence

from aggregator.fleet import Fleet, NodeState
from aggregator.policy.model import ClusterNode, ClusterView, Incident
from aggregator.scores.model import NodeFacts, Standing
from contract import report_pb2 as pb
from contract.vocabulary import Phase, SourceState, SourceStatus

DEVICE_SOURCES = frozenset({"nvidia", "ascend"})
"""Sources without which nothing is known of the accelerators."""

OUT_OF_SERVICE = frozenset({Phase.QUARANTINED, Phase.DRAINING, Phase.REPAIRING, Phase.VERIFYING})
"""Phases in which a node takes no new pods; so does one that waits for people after quarantine."""


def fleet_facts(fleet: Fleet, view: ClusterView) -> Iterator[NodeFacts]:
    """The facts of every node that reported or that the cluster lists with GPUs."""
    incidents = open_incidents(view)
    for name in known_nodes(fleet, view):
        yield node_facts(name, fleet.get(name), view.nodes.get(name), incidents.get(name))


def known_nodes(fleet: Fleet, view: ClusterView) -> list[str]:
    """Every node we have something to say about, by name; plain CPU nodes without an agent are not."""
    names = {node.name for node in fleet}
    names.update(name for name, node in view.nodes.items() if node.gpu_capacity or node.taint)
    return sorted(names)


def open_incidents(view: ClusterView) -> dict[str, Incident]:
    """The open incident per node; there is at most one."""
    return {each.node: each for each in view.incidents.values() if each.open}


def node_facts(
    name: str, state: NodeState | None, cluster: ClusterNode | None, incident: Incident | None
) -> NodeFacts:
    """The facts of one node, of whatever is known about it."""
    standing, reason = standing_of(cluster, incident)
    if state is None or state.reports_total == 0:
        return NodeFacts(
            name=name,
            standing=standing,
            standing_reason=reason,
            gpu_count=cluster.gpu_capacity if cluster else 0,
        )
    worst = state.findings[0] if state.findings else None
    return NodeFacts(
        name=name,
        standing=standing,
        standing_reason=reason,
        worst=worst.severity if worst else None,
        worst_text=f"{worst.code} on {worst.subject}" if worst else "",
        received_seconds=state.received_seconds,
        blind_reason=blind_reason(state.sources),
        use_ratio=use_ratio(state.report.gpus),
        gpu_count=len(state.report.gpus),
    )


def standing_of(cluster: ClusterNode | None, incident: Incident | None) -> tuple[Standing, str]:
    """How a node stands in the cluster by our doing, and why."""
    if cluster and cluster.taint and cluster.taint.effect != "PreferNoSchedule":
        return "quarantined", cluster.taint.code
    if incident and (
        incident.phase in OUT_OF_SERVICE
        or (incident.phase is Phase.NEEDS_HUMAN and incident.quarantined_seconds is not None)
    ):
        return "quarantined", incident.findings[0].code if incident.findings else incident.name
    if cluster and cluster.taint:
        return "avoid", cluster.taint.code
    return "", ""


def blind_reason(sources: Sequence[SourceStatus]) -> str:
    """Why the accelerators could not be read; empty when nothing says so."""
    for source in sources:
        if source.name in DEVICE_SOURCES and source.state >= SourceState.FAILING:
            return f"{source.name} is {source.state.label}"
    return ""


def use_ratio(gpus: Sequence[pb.Gpu]) -> float | None:
    """The share of GPUs in use: held by a process where that is known, else as busy as measured.

    A GPU that a process holds without computing is in use: the next pod cannot have it.
    """
    shares = [
        float(gpu.process_count > 0) if gpu.HasField("process_count") else gpu.utilization_ratio
        for gpu in gpus
        if gpu.HasField("process_count") or gpu.HasField("utilization_ratio")
    ]
    return sum(shares) / len(shares) if shares else None
