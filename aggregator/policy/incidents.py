"""The life of one node's incident. Pure; one step at a time, from whatever state it is found in.

Phases today: ``suspect`` (watched; other nodes are preferred once it lasts) → ``quarantined`` (no new pods) →
``closed``. Running a step again on its own result changes nothing until time passes or the findings change.
"""

import hashlib
import re
from collections.abc import Iterable

import msgspec

from aggregator.policy.config import PolicyConfig
from aggregator.policy.health import NodeHealth, unseen
from aggregator.policy.model import Incident, SaveIncident, Taint, TaintEffect, TimelineEntry
from contract.vocabulary import Finding, Phase, Severity

MAX_TIMELINE = 50
"""Entries kept of one incident: the first, and the newest."""

MAX_KEPT_FINDINGS = 50
"""Findings kept of one incident, worst first: an object in etcd must stay far below its 1.5 MB."""

STEPPED = (Phase.SUSPECT, Phase.QUARANTINED)
"""The phases that ``step`` knows; every other one is somebody else's, and left alone."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one step makes of an incident."""

    incident: Incident
    taint: Taint | None
    """The taint the node should carry now."""
    why: str
    """Why the incident stands where it stands; a sentence."""
    declined: str = ""
    """Why something was not done that the findings ask for; a sentence."""


def open_incident(health: NodeHealth, now: float) -> Incident:
    """A new incident for a node with trouble of degraded strength or more."""
    findings = health.at_least(Severity.DEGRADED)
    text = f"first seen: {describe(findings)}"
    return Incident(
        name=incident_name(health.name, now),
        node=health.name,
        pool=health.pool,
        phase=Phase.SUSPECT,
        findings=findings[:MAX_KEPT_FINDINGS],
        opened_seconds=now,
        timeline=(TimelineEntry(now, Phase.SUSPECT, text),),
    )


def incident_name(node: str, now: float) -> str:
    """A DNS name of at most 63 characters, unique per node and moment, that sorts by node."""
    digest = hashlib.sha256(f"{node}/{now!r}".encode()).hexdigest()[:10]
    stem = re.sub(r"[^a-z0-9.-]", "-", node.lower())
    return f"{stem[:52].strip('-.') or 'node'}-{digest}"


def duplicate(incident: Incident, now: float) -> SaveIncident:
    """Close an incident that stands beside another open one of the same node."""
    text = "closed: another incident of this node is open"
    closed = msgspec.structs.replace(
        _moved(incident, Phase.CLOSED, text, now),
        closed_seconds=now,
        quarantined_seconds=None,  # that quarantine is the other incident's, and counts once
        next_step="",
    )
    return SaveIncident(incident=closed, reason=text)


def departed(incident: Incident, now: float) -> SaveIncident:
    """Close the incident of a node that is no longer part of the cluster."""
    text = "closed: the node left the cluster"
    closed = msgspec.structs.replace(
        _moved(incident, Phase.CLOSED, text, now), closed_seconds=now, next_step=""
    )
    return SaveIncident(incident=closed, reason=text)


def step(
    incident: Incident,
    health: NodeHealth,
    *,
    taint: Taint | None,
    may_quarantine: bool,
    why_not: str,
    release_after_seconds: float,
    config: PolicyConfig,
    now: float,
) -> Step:
    """Take an open incident one step further.

    Args:
        incident: as found in the cluster.
        health: the node's fresh report (a silent node is never stepped).
        taint: ours, as the node carries it now.
        may_quarantine: whether the pool's budget has room for this node.
        why_not: the reason where it has none, as a sentence.
        release_after_seconds: how long this node must be clear, flap damping included.
        config: the policy's settings.
        now: Unix time.
    """
    trouble = health.at_least(Severity.DEGRADED)
    incident = _with_findings(incident, trouble, now)
    if incident.phase is Phase.QUARANTINED:
        return _quarantined(incident, health, release_after_seconds, config, now)
    if not trouble:
        return _clearing(incident, health, taint, release_after_seconds, config, now)
    return _suspect(incident, health, may_quarantine, why_not, release_after_seconds, config, now)


def wants_quarantine(incident: Incident | None, health: NodeHealth) -> bool:
    """Whether the node asks for room in the budget: hard trouble, and not yet under hard quarantine."""
    hard = bool(health.at_least(Severity.CRITICAL))
    return hard and (incident is None or (incident.phase is Phase.SUSPECT and not incident.hold))


def describe(findings: Iterable[Finding]) -> str:
    """The worst finding in words, and how many more there are."""
    listed = list(findings)
    if not listed:
        return "nothing"
    worst = listed[0]
    more = f" (+{len(listed) - 1} more)" if len(listed) > 1 else ""
    return f"{worst.code} on {worst.subject}: {worst.evidence}{more}"


def _suspect(
    incident: Incident,
    health: NodeHealth,
    may_quarantine: bool,
    why_not: str,
    release_after_seconds: float,
    config: PolicyConfig,
    now: float,
) -> Step:
    trouble = health.at_least(Severity.DEGRADED)
    incident = msgspec.structs.replace(incident, clear_since_seconds=None)
    hard = health.at_least(Severity.CRITICAL)
    if hard and may_quarantine:
        moved = _moved(incident, Phase.QUARANTINED, f"quarantined for {describe(hard)}", now)
        quarantined = msgspec.structs.replace(
            moved,
            quarantined_seconds=now,
            next_step=f"released {release_after_seconds:g} s after the findings clear",
        )
        return Step(
            incident=quarantined,
            taint=_taint(hard[0].code, "NoSchedule"),
            why=f"no new pods: {describe(hard)}",
        )
    if hard:
        waiting = msgspec.structs.replace(incident, next_step=f"waits for the budget: {why_not}")
        return Step(
            incident=waiting,
            taint=_taint(hard[0].code, "PreferNoSchedule"),
            why=f"other nodes preferred, no more than that: {why_not}; {describe(hard)}",
            declined=f"quarantine for {describe(hard)}: {why_not}",
        )
    held_for = now - incident.opened_seconds
    if held_for < config.degraded_hold_seconds:
        text = f"other nodes preferred if it lasts {config.degraded_hold_seconds:g} s"
        return Step(
            incident=msgspec.structs.replace(incident, next_step=text),
            taint=None,
            why=f"watched: {describe(trouble)}",
        )
    text = f"other nodes are preferred; closed {release_after_seconds:g} s after the findings clear"
    return Step(
        incident=msgspec.structs.replace(incident, next_step=text),
        taint=_taint(trouble[0].code, "PreferNoSchedule"),
        why=f"other nodes preferred: {describe(trouble)}",
    )


def _quarantined(
    incident: Incident,
    health: NodeHealth,
    release_after_seconds: float,
    config: PolicyConfig,
    now: float,
) -> Step:
    hard = health.at_least(Severity.CRITICAL)
    if hard:
        text = f"released {release_after_seconds:g} s after the findings clear"
        incident = msgspec.structs.replace(incident, clear_since_seconds=None, next_step=text)
        return Step(
            incident=incident,
            taint=_taint(hard[0].code, "NoSchedule"),
            why=f"no new pods: {describe(hard)}",
        )
    code = incident.findings[0].code if incident.findings else "quarantined"
    taint = _taint(code, "NoSchedule")
    return _clearing(incident, health, taint, release_after_seconds, config, now)


def _clearing(
    incident: Incident,
    health: NodeHealth,
    taint: Taint | None,
    release_after_seconds: float,
    config: PolicyConfig,
    now: float,
) -> Step:
    """No trouble of the phase's strength: wait out the release time, then close.

    Only what is seen to be well counts: a source that does not answer stops the wait, and after a
    silence, a hold or our own restart the node must be seen well for the plain release time again.
    """
    if hidden := unseen({each.domain for each in incident.findings}, health.sources):
        text = (
            f"not released while {hidden}: what cannot be seen is not over (if it is, delete this)"
        )
        blind = msgspec.structs.replace(incident, clear_since_seconds=None, next_step=text)
        return Step(incident=blind, taint=taint, why=text)
    since = now if incident.clear_since_seconds is None else min(incident.clear_since_seconds, now)
    seen_well = health.clear_seconds >= config.release_after_seconds
    if now - since >= release_after_seconds and seen_well:
        text = f"released: clear for {now - since:.0f} s"
        closed = _moved(incident, Phase.CLOSED, text, now)
        return Step(
            incident=msgspec.structs.replace(
                closed, clear_since_seconds=since, closed_seconds=now, next_step=""
            ),
            taint=None,
            why=text,
        )
    text = f"clear; released if it stays so for {release_after_seconds:g} s"
    return Step(
        incident=msgspec.structs.replace(incident, clear_since_seconds=since, next_step=text),
        taint=taint,
        why=text,
    )


def _with_findings(incident: Incident, trouble: tuple[Finding, ...], now: float) -> Incident:
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
    return _moved(noted, incident.phase, f"also: {describe(new)}", now)


def _taint(code: str, effect: TaintEffect) -> Taint:
    """Our taint; Kubernetes refuses a value that is no label value, and with it the whole taint."""
    return Taint(re.sub(r"[^A-Za-z0-9_.-]", "-", code)[:63].strip("-_."), effect)


def _moved(incident: Incident, phase: Phase, text: str, now: float) -> Incident:
    timeline = (*incident.timeline, TimelineEntry(now, phase, text))
    if len(timeline) > MAX_TIMELINE:
        timeline = (timeline[0], *timeline[-(MAX_TIMELINE - 1) :])
    return msgspec.structs.replace(incident, phase=phase, timeline=timeline)
