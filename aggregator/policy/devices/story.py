"""What an incident's timeline tells of relaxing: when the node's hard taint went and came back, and why. Pure."""

from collections.abc import Collection

import msgspec

from aggregator.policy.case import Step
from aggregator.policy.devices.wanted import device_named, hard_devices
from aggregator.policy.incidents import MAX_TEXT, moved
from aggregator.policy.model import ClusterNode, Incident, Taint
from contract.vocabulary import Phase, Severity

HARD, SOFT = "NoSchedule", "PreferNoSchedule"


def with_relaxing_told(
    known: Incident | None,
    step: Step,
    node: ClusterNode,
    kept: Collection[str] | None,
    now: float,
) -> Step:
    """The step with a line in its timeline, where the taint is relaxed or comes back within a quarantine.

    Args:
        known: the incident before the step.
        step: what it makes of it.
        node: as it is now.
        kept: its devices that are kept from new pods by themselves; ``None``: nobody looked yet.
        now: Unix time.
    """
    incident = step.incident
    change = (_effect(node.taint), _effect(step.taint))
    if incident.phase is not Phase.QUARANTINED:
        return step
    if change == (HARD, SOFT):
        text = _relaxed(incident)
    elif change == (SOFT, HARD) and known is not None and known.phase is Phase.QUARANTINED:
        text = f"no new pods on the whole node again: {_why_back(incident, kept or ())}"
    else:
        return step
    if incident.timeline and incident.timeline[-1].text == text[:MAX_TEXT]:
        return step  # the taint could not be written, and is tried again
    told = moved(incident, incident.phase, text, now)
    return msgspec.structs.replace(step, incident=told)


def _relaxed(incident: Incident) -> str:
    devices = sorted(hard_devices(incident.findings))
    names, are = ", ".join(devices), "is" if len(devices) == 1 else "are"
    return f"the node takes new pods again, other nodes preferred: only {names} {are} kept from them now"


def _why_back(incident: Incident, kept: Collection[str]) -> str:
    for each in incident.findings:
        if each.severity >= Severity.CRITICAL and not device_named(each.subject):
            return f"{each.code} on {each.subject} is not about one device"
    loose = sorted(hard_devices(incident.findings).keys() - set(kept))
    if loose:
        return f"{loose[0]} is not seen to be kept from them by itself"
    return "what comes next needs the whole node"


def _effect(taint: Taint | None) -> str:
    return taint.effect if taint else ""
