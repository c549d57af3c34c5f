"""What people decide, and that it holds: opting out, cancelling, overruling us on the node itself, muting. Pure."""

import math
from collections.abc import Iterable

import msgspec

from aggregator.policy.config import PolicyConfig
from aggregator.policy.explain.words import lasting
from aggregator.policy.health import NodeHealth
from aggregator.policy.incidents import closed
from aggregator.policy.model import ClusterNode, Incident
from contract.vocabulary import UNMANAGED_LABEL, Severity


def overruled(incident: Incident | None, node: ClusterNode) -> str:
    """How a person stopped us on this node, as a sentence; empty: nobody did.

    A signature of ours without what it signs tells that somebody took it off: both are only ever written together,
    and a Node object that was created anew has neither.
    """
    if not node.managed:
        return f"its label {UNMANAGED_LABEL}=false opts it out"
    if incident is not None and incident.cancel:
        return "a person cancelled the incident"
    if node.quarantined_by and node.taint is None:
        return "a person took our taint off"
    if node.cordoned_by and not node.unschedulable:
        return "a person uncordoned the node"
    return ""


def overrule(
    incident: Incident, node: ClusterNode, text: str, config: PolicyConfig, now: float
) -> Incident:
    """The incident closed, and its faults left alone on this node for the mute time.

    A label needs no mute: it holds for as long as it is there.
    """
    if not node.managed:
        return closed(incident, f"closed: {text}", now)
    mute = config.mute_seconds
    over = closed(
        incident, f"closed: {text}; the same faults are left alone for {lasting(mute)}", now
    )
    return msgspec.structs.replace(over, muted_until_seconds=now + mute)


def muted_codes(incidents: Iterable[Incident], now: float) -> frozenset[str]:
    """The codes that a person's act keeps us from acting on, of one node's incidents."""
    return frozenset(
        finding.code
        for each in incidents
        if not each.open and each.muted_until_seconds is not None and now < each.muted_until_seconds
        for finding in each.findings
    )


def without(health: NodeHealth, codes: frozenset[str]) -> NodeHealth:
    """The report without the findings of these codes, as if the node had never shown them."""
    left = tuple(each for each in health.findings if each.code not in codes)
    if len(left) == len(health.findings):
        return health
    hidden = any(
        each.code in codes and each.severity >= Severity.CRITICAL for each in health.findings
    )
    clear = math.inf if hidden else health.clear_seconds
    return msgspec.structs.replace(health, findings=left, clear_seconds=clear)


def is_peoples(incident: Incident) -> bool:
    """Whether nothing is decided about this incident: it is held, or its object cannot be read.

    What an unreadable object says about attempts may be lost, so acting on it could repeat what was done.
    """
    return incident.hold or incident.unreadable
