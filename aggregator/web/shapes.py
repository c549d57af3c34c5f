"""Incidents, findings, decisions and one whole node as the API writes them: words instead of numbers."""

from collections.abc import Mapping
from typing import Any

import msgspec
from google.protobuf.message import Message

from aggregator.fleet import NodeState
from aggregator.journal import Decision
from aggregator.policy.model import (
    Attempt,
    ClusterNode,
    Condition,
    DrainProgress,
    Incident,
    Taint,
)
from aggregator.web.rows import (
    NodeRow,
    gpu_finding,
    gpu_health,
    npu_health,
    port_health,
    port_name,
    worst_by_subject,
)
from contract.vocabulary import Finding, SourceStatus


class FindingShape(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong. Times are Unix times."""

    code: str
    subject: str
    severity: str
    action: str
    domain: str
    evidence: str
    since_seconds: float
    last_seen_seconds: float
    count: int
    clears: str
    """What ends it, in words."""


class SourceShape(msgspec.Struct, frozen=True, kw_only=True):
    """How one source of truth is doing, and since when."""

    name: str
    state: str
    reason: str
    since_seconds: float


class AttemptShape(msgspec.Struct, frozen=True, kw_only=True):
    """One try of one rung of the ladder."""

    id: str
    rung: str
    subject: str
    """The device; empty: the node."""
    outcome: str
    text: str
    started_seconds: float
    deadline_seconds: float
    finished_seconds: float | None


class DrainShape(msgspec.Struct, frozen=True, kw_only=True):
    """How the newest drain goes."""

    state: str
    pods_total: int
    pods_gone: int
    text: str
    """What holds it up."""


class IncidentShape(msgspec.Struct, frozen=True, kw_only=True):
    """One incident with its story."""

    name: str
    node: str
    pool: str
    phase: str
    open: bool
    hold: bool
    severity: str
    """Of the worst finding; empty when there is none left."""
    code: str
    evidence: str
    opened_seconds: float
    quarantined_seconds: float | None
    closed_seconds: float | None
    next_step: str
    next_step_seconds: float | None
    """When, where it has a time."""
    needs: str
    """What a person has to do."""
    approve: list[str]
    """What a person agreed to."""
    note: str
    muted_until_seconds: float | None
    attempts: list[AttemptShape]
    drain: DrainShape | None
    findings: list[FindingShape]
    timeline: list[dict[str, Any]]


class ScoreShape(msgspec.Struct, frozen=True, kw_only=True):
    """What schedulers are told about a node, and why."""

    score: int
    reason: str
    verdict: str


class NodeDetail(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known of one node."""

    row: NodeRow
    findings: list[FindingShape]
    sources: list[SourceShape]
    score: ScoreShape | None
    taint: Taint | None
    conditions: dict[str, Condition]
    device_quarantines: dict[str, str]
    """Device that should get no new pods → how its own quarantine stands, in words."""
    incident: IncidentShape | None
    agent_version: str
    driver_version: str
    boot_id: str
    first_seen_seconds: float | None
    reports_total: int
    utilization_history: list[tuple[float, float]]
    """(Unix time, mean GPU utilization 0..1), oldest first."""
    gpus: list[dict[str, Any]]
    """Readings by the report's own field names; one that is absent was not measured."""
    npus: list[dict[str, Any]]
    rdma_ports: list[dict[str, Any]]
    host: dict[str, Any]


def finding_shape(finding: Finding) -> FindingShape:
    """A finding in words."""
    return FindingShape(
        code=finding.code,
        subject=finding.subject,
        severity=finding.severity.label,
        action=finding.action.label,
        domain=finding.domain.label,
        evidence=finding.evidence,
        since_seconds=finding.since_seconds,
        last_seen_seconds=finding.last_seen_seconds,
        count=finding.count,
        clears=finding.clears,
    )


def source_shape(source: SourceStatus) -> SourceShape:
    """A source in words."""
    return SourceShape(
        name=source.name,
        state=source.state.label,
        reason=source.reason,
        since_seconds=source.since_seconds,
    )


def incident_shape(incident: Incident) -> IncidentShape:
    """An incident in words."""
    worst = incident.findings[0] if incident.findings else None
    return IncidentShape(
        name=incident.name,
        node=incident.node,
        pool=incident.pool,
        phase=incident.phase.value,
        open=incident.open,
        hold=incident.hold,
        severity=worst.severity.label if worst else "",
        code=worst.code if worst else "",
        evidence=worst.evidence if worst else "",
        opened_seconds=incident.opened_seconds,
        quarantined_seconds=incident.quarantined_seconds,
        closed_seconds=incident.closed_seconds,
        next_step=incident.next_step,
        next_step_seconds=incident.next_step_seconds,
        needs=incident.needs,
        approve=list(incident.approve),
        note=incident.note,
        muted_until_seconds=incident.muted_until_seconds,
        attempts=[_attempt(each) for each in incident.attempts],
        drain=_drain(incident.drain) if incident.drain else None,
        findings=[finding_shape(each) for each in incident.findings],
        timeline=[
            {"time_seconds": each.time_seconds, "phase": each.phase.value, "text": each.text}
            for each in incident.timeline
        ],
    )


def _attempt(attempt: Attempt) -> AttemptShape:
    return AttemptShape(
        id=attempt.id,
        rung=attempt.rung,
        subject=attempt.subject,
        outcome=attempt.outcome.value,
        text=attempt.text,
        started_seconds=attempt.started_seconds,
        deadline_seconds=attempt.deadline_seconds,
        finished_seconds=attempt.finished_seconds,
    )


def _drain(drain: DrainProgress) -> DrainShape:
    return DrainShape(
        state=drain.state.value,
        pods_total=drain.pods_total,
        pods_gone=drain.pods_gone,
        text=drain.text,
    )


def node_detail(
    row: NodeRow,
    state: NodeState | None,
    cluster: ClusterNode | None,
    incident: Incident | None,
    score: ScoreShape | None,
    device_words: Mapping[str, str],
) -> NodeDetail:
    """One node, whole."""
    report = state.report if state else None
    return NodeDetail(
        row=row,
        findings=[finding_shape(each) for each in state.findings] if state else [],
        sources=[source_shape(each) for each in state.sources] if state else [],
        score=score,
        taint=cluster.taint if cluster else None,
        conditions=dict(cluster.conditions) if cluster else {},
        device_quarantines=dict(device_words),
        incident=incident_shape(incident) if incident else None,
        agent_version=report.agent_version if report else "",
        driver_version=report.driver_version if report else "",
        boot_id=report.boot_id if report else "",
        first_seen_seconds=state.first_seen_seconds if state else None,
        reports_total=state.reports_total if state else 0,
        utilization_history=list(state.utilization_history) if state else [],
        gpus=_gpus(state) if state else [],
        npus=_npus(state) if state else [],
        rdma_ports=_ports(state) if state else [],
        host=plain(report.host) if report else {},
    )


def plain(message: Message) -> dict[str, Any]:
    """The fields that are set, by name."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if isinstance(value, Message):
            found[field.name] = plain(value)
        elif field.is_repeated:
            found[field.name] = [
                plain(each) if isinstance(each, Message) else each for each in value
            ]
        else:
            found[field.name] = value
    return found


def _gpus(state: NodeState) -> list[dict[str, Any]]:
    worst = worst_by_subject(state.findings)
    return [
        {"index": gpu.index, "health": gpu_health(gpu, gpu_finding(gpu, worst)), **plain(gpu)}
        for gpu in state.report.gpus
    ]


def _npus(state: NodeState) -> list[dict[str, Any]]:
    worst = worst_by_subject(state.findings)
    return [
        {"index": npu.index, "health": npu_health(npu, worst), **plain(npu)}
        for npu in state.report.npus
    ]


def _ports(state: NodeState) -> list[dict[str, Any]]:
    worst = worst_by_subject(state.findings)
    return [
        {"name": port_name(port), "health": port_health(port, worst), **plain(port)}
        for port in state.report.rdma_ports
    ]


def by_urgency(incidents: list[Incident]) -> list[Incident]:
    """Open before closed, worst and newest first."""

    def urgency(each: Incident) -> tuple[bool, int, float]:
        worst = each.findings[0].severity if each.findings and each.open else 0
        newest = each.opened_seconds if each.open else each.closed_seconds or each.opened_seconds
        return (not each.open, -worst, -newest)

    return sorted(incidents, key=urgency)


def newest_first(decisions: list[Decision]) -> list[Decision]:
    """As the page lists them."""
    return decisions[::-1]
