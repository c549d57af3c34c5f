"""The life of one node's incident: from the first finding to quarantine, and out of it again. Pure.

``suspect`` (watched; other nodes are preferred once it lasts) → ``quarantined`` (no new pods) → ``draining`` →
``repairing`` → ``verifying`` → ``closed``, or ``needs-human``. Here are the phases in which nothing is under way;
``treatment.py`` has the others. Running a step again on its own result changes nothing until time passes, the findings
change or what is under way goes on.
"""

import hashlib
import re
from collections.abc import Iterable

import msgspec

from aggregator.policy.attempts import end, open_attempt
from aggregator.policy.case import Case, Declined, Step
from aggregator.policy.guards import Refusal
from aggregator.policy.health import NodeHealth, unseen
from aggregator.policy.model import (
    AttemptOutcome,
    Incident,
    SaveIncident,
    Taint,
    TaintEffect,
    TimelineEntry,
)
from contract.vocabulary import Finding, Phase, Severity

MAX_TIMELINE = 50
"""Entries kept of one incident: the first, and the newest."""

MAX_KEPT_FINDINGS = 50
"""Findings kept of one incident, worst first: an object in etcd must stay far below its 1.5 MB."""

MAX_TEXT = 512
"""Characters of a sentence that is saved: fewer than the schema takes, since what it cut would differ for ever."""

MAX_NOTED = 200
"""Codes whose first appearance is kept of one incident."""


def open_incident(health: NodeHealth, now: float) -> Incident:
    """A new incident for a node with trouble of degraded strength or more."""
    findings = health.at_least(Severity.DEGRADED)
    text = f"first seen: {describe(findings)}"
    opened = Incident(
        name=incident_name(health.name, now),
        node=health.name,
        pool=health.pool,
        phase=Phase.SUSPECT,
        findings=findings[:MAX_KEPT_FINDINGS],
        opened_seconds=now,
        timeline=(TimelineEntry(now, Phase.SUSPECT, text[:MAX_TEXT]),),
    )
    return with_codes_noted(opened, health, now)


def incident_name(node: str, now: float) -> str:
    """A DNS name of at most 63 characters, unique per node and moment, that sorts by node."""
    digest = hashlib.sha256(f"{node}/{now!r}".encode()).hexdigest()[:10]
    stem = re.sub(r"[^a-z0-9.-]", "-", node.lower())
    return f"{stem[:52].strip('-.') or 'node'}-{digest}"


def duplicate(incident: Incident, now: float) -> SaveIncident:
    """Close an incident that stands beside another open one of the same node."""
    text = "closed: another incident of this node is open"
    ended = closed(incident, text, now)
    # that quarantine is the other incident's, and counts once
    ended = msgspec.structs.replace(ended, quarantined_seconds=None)
    return SaveIncident(incident=ended, reason=text)


def departed(incident: Incident, now: float) -> SaveIncident:
    """Close the incident of a node that is no longer part of the cluster."""
    text = "closed: the node left the cluster"
    return SaveIncident(incident=closed(incident, text, now), reason=text)


def closed(incident: Incident, text: str, now: float) -> Incident:
    """The incident closed, with whatever was under way given up."""
    if (attempt := open_attempt(incident)) is not None:
        incident = end(incident, attempt, AttemptOutcome.CANCELLED, text, now)
    return msgspec.structs.replace(
        moved(incident, Phase.CLOSED, text, now),
        closed_seconds=now,
        next_step="",
        next_step_seconds=None,
    )


def describe(findings: Iterable[Finding]) -> str:
    """The worst finding in words, and how many more there are."""
    listed = list(findings)
    if not listed:
        return "nothing"
    worst = listed[0]
    more = f" (+{len(listed) - 1} more)" if len(listed) > 1 else ""
    return f"{worst.code} on {worst.subject}: {worst.evidence}{more}"


def name_of(findings: Iterable[Finding]) -> str:
    """As ``describe``, without measured values: what is saved must not change with each reading."""
    listed = list(findings)
    more = f" (+{len(listed) - 1} more)" if len(listed) > 1 else ""
    return f"{listed[0].code} on {listed[0].subject}{more}" if listed else "nothing"


def suspect(incident: Incident, case: Case) -> Step:
    """A node that still takes pods, or is only not preferred."""
    trouble = case.health.at_least(Severity.DEGRADED)
    if not trouble:
        return clearing(incident, case, case.node.taint)
    incident = msgspec.structs.replace(incident, clear_since_seconds=None)
    hard = case.health.at_least(Severity.CRITICAL)
    if hard:
        return _hard(incident, hard, case)
    held_for = case.now - incident.opened_seconds
    if held_for < case.config.degraded_hold_seconds:
        text = f"other nodes preferred if it lasts {case.config.degraded_hold_seconds:g} s"
        until = incident.opened_seconds + case.config.degraded_hold_seconds
        return Step(
            incident=then(incident, text, until), taint=None, why=f"watched: {describe(trouble)}"
        )
    text = f"other nodes are preferred; closed {case.release_after_seconds:g} s after the findings clear"
    return Step(
        incident=then(incident, text),
        taint=taint_for(trouble[0].code, "PreferNoSchedule"),
        why=f"other nodes preferred: {describe(trouble)}",
    )


def _hard(incident: Incident, hard: tuple[Finding, ...], case: Case) -> Step:
    """Quarantine, as far as the guards let it; a node that already takes no pods needs no room."""
    refusal = None if case.already_hard else case.guards.quarantine(case.health)
    if refusal is None:
        quarantined = msgspec.structs.replace(
            moved(incident, Phase.QUARANTINED, f"quarantined for {describe(hard)}", case.now),
            quarantined_seconds=case.now,
        )
        return Step(
            incident=then(quarantined, released_after(case)),
            taint=taint_for(hard[0].code, "NoSchedule"),
            why=f"no new pods: {describe(hard)}",
        )
    return _only_preferred(incident, hard, refusal)


def _only_preferred(incident: Incident, hard: tuple[Finding, ...], refusal: Refusal) -> Step:
    text = refusal.text
    what = f"waits for the {refusal.why}: {text}"
    return Step(
        incident=then(incident, what),
        taint=taint_for(hard[0].code, "PreferNoSchedule"),
        why=f"other nodes preferred, no more than that: {text}; {describe(hard)}",
        declined=Declined(
            node=incident.node,
            reason=f"quarantine for {describe(hard)}: {text}",
            why=refusal.why,
        ),
    )


def clearing(incident: Incident, case: Case, taint: Taint | None) -> Step:
    """No trouble of the phase's strength: wait out the release time, then close.

    Only what is seen to be well counts: a source that does not answer stops the wait, and after a
    silence, a hold or our own restart the node must be seen well for the plain release time again.
    """
    if hidden := unseen({each.domain for each in incident.findings}, case.health.sources):
        text = (
            f"not released while {hidden}: what cannot be seen is not over (if it is: "
            f"fleetmedic cancel {incident.node})"
        )
        blind = msgspec.structs.replace(then(incident, text), clear_since_seconds=None)
        return Step(incident=blind, taint=taint, why=text)
    since = incident.clear_since_seconds
    since = case.now if since is None else min(since, case.now)
    seen_well = case.health.clear_seconds >= case.config.release_after_seconds
    if case.now - since >= case.release_after_seconds and seen_well:
        text = f"released: clear for {case.now - since:.0f} s"
        over = msgspec.structs.replace(closed(incident, text, case.now), clear_since_seconds=since)
        return Step(incident=over, taint=None, why=text, cordon=False)
    text = f"clear; released if it stays so for {case.release_after_seconds:g} s"
    incident = msgspec.structs.replace(
        then(incident, text, since + case.release_after_seconds), clear_since_seconds=since
    )
    return Step(incident=incident, taint=taint, why=text)


def with_findings(incident: Incident, trouble: tuple[Finding, ...], now: float) -> Incident:
    """Note what came in addition; what cleared stays listed, since the evidence is still wanted."""
    known = {each.key: each.severity for each in incident.findings}
    new = [each for each in trouble if each.severity > known.get(each.key, 0)]
    if not new:
        return incident
    fresh = {each.key: each for each in new}
    kept = [each for each in incident.findings if each.key not in fresh]
    merged = sorted((*new, *kept), key=lambda each: (-each.severity, each.since_seconds, each.key))
    listed = merged[:MAX_KEPT_FINDINGS]
    if {(each.key, each.severity) for each in listed} == set(known.items()):
        return incident
    noted = msgspec.structs.replace(incident, findings=tuple(listed))
    return moved(noted, incident.phase, f"also: {describe(new)}", now)


def with_codes_noted(incident: Incident, health: NodeHealth, now: float) -> Incident:
    """Write down, once, when each hard code first appeared here: the breaker counts by it."""
    codes = {each.code for each in health.at_least(Severity.CRITICAL)}
    new = sorted(codes - incident.noted_seconds.keys())
    if not new or len(incident.noted_seconds) + len(new) > MAX_NOTED:
        return incident
    noted = {**incident.noted_seconds, **dict.fromkeys(new, now)}
    return msgspec.structs.replace(incident, noted_seconds=noted)


def taint_for(code: str, effect: TaintEffect) -> Taint:
    """Our taint; Kubernetes refuses a value that is no label value, and with it the whole taint."""
    return Taint(re.sub(r"[^A-Za-z0-9_.-]", "-", code)[:63].strip("-_."), effect)


def released_after(case: Case) -> str:
    """What ends a quarantine by itself."""
    return f"released {case.release_after_seconds:g} s after the findings clear"


def then(incident: Incident, text: str, at_seconds: float | None = None) -> Incident:
    """The incident with what happens next, and when where that is known."""
    return msgspec.structs.replace(
        incident, next_step=text[:MAX_TEXT], next_step_seconds=at_seconds
    )


def moved(incident: Incident, phase: Phase, text: str, now: float) -> Incident:
    """The incident in this phase, with a line in its timeline."""
    timeline = (*incident.timeline, TimelineEntry(now, phase, text[:MAX_TEXT]))
    if len(timeline) > MAX_TIMELINE:
        timeline = (timeline[0], *timeline[-(MAX_TIMELINE - 1) :])
    since = incident.phase_since_seconds if phase is incident.phase else now
    return msgspec.structs.replace(
        incident, phase=phase, timeline=timeline, phase_since_seconds=since
    )
